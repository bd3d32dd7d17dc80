//! The file behind the machine's NVDIMM.
//!
//! # Contract
//! - A file that exists is used as it is and never formatted, so a wrong name destroys nothing.
//! - A new one is formatted by the guest under a `.partial` name and gets its own when that is done: a file with
//!   the right name always holds a `/dev/dax0.0`.
//! - One machine at a time uses a file.
//!
//! The file is the usable size plus [`LABEL_BYTES`] at its end, where the NVDIMM keeps its namespaces.

use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

/// Size of the label area at the end of the file.
pub(crate) const LABEL_BYTES: u64 = 2 << 20;
/// Smallest usable size: below it the kernel finds no room for a namespace and its own data.
const SMALLEST_BYTES: u64 = 16 << 20;
/// Sizes are multiples of this, the larger of the two alignments.
const UNIT_BYTES: u64 = 2 << 20;

/// An opened and locked NVDIMM file.
pub(crate) struct Nvdimm {
    /// Where it is now.
    pub(crate) path: PathBuf,
    /// Its whole length, label area included.
    pub(crate) file_bytes: u64,
    /// The name it gets once formatted, if it is new.
    named_later: Option<PathBuf>,
    _lock: File,
}

impl Nvdimm {
    /// Opens `path` or makes it with a usable size of `new_bytes`.
    pub(crate) fn open(path: &Path, new_bytes: u64) -> Result<Nvdimm> {
        let is_new = !path.exists();
        if is_new && (new_bytes < SMALLEST_BYTES || !new_bytes.is_multiple_of(UNIT_BYTES)) {
            bail!("--pmem-size {new_bytes} is not a multiple of 2M, 16M at least");
        }
        let work_path = if is_new { partial_name(path)? } else { path.to_owned() };
        let shown = work_path.display();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(is_new)
            .open(&work_path)
            .with_context(|| format!("cannot open {shown} as an NVDIMM"))?;
        if file.try_lock().is_err() {
            bail!("{shown} is in use by another machine: wait for it or name another file");
        }
        if is_new {
            // To nothing first: what a run that was killed left in it must not look like a namespace.
            file.set_len(0)
                .and_then(|()| file.set_len(new_bytes + LABEL_BYTES))
                .with_context(|| format!("cannot size {shown}"))?;
        }
        let file_bytes = file.metadata().with_context(|| format!("cannot open {shown}"))?.len();
        if file_bytes < SMALLEST_BYTES + LABEL_BYTES || !file_bytes.is_multiple_of(UNIT_BYTES) {
            bail!("{shown} ({file_bytes} bytes) is not an NVDIMM of a testbed: name one, or a new file");
        }
        let path = work_path.canonicalize().with_context(|| format!("cannot open {}", path.display()))?;
        let named_later = is_new.then(|| path.with_file_name(without_partial(&path)));
        Ok(Nvdimm { path, file_bytes, named_later, _lock: file })
    }

    /// True if it has no namespace yet.
    pub(crate) fn is_new(&self) -> bool {
        self.named_later.is_some()
    }

    /// The guest has formatted it: gives it its name.
    pub(crate) fn formatted(&mut self) -> Result<()> {
        if let Some(name) = self.named_later.take() {
            fs::rename(&self.path, &name).with_context(|| format!("cannot make {}", name.display()))?;
            self.path = name;
        }
        Ok(())
    }
}

impl Drop for Nvdimm {
    /// Removes a file that never got its name.
    fn drop(&mut self) {
        if self.is_new() {
            // Already gone or not removable: either way the next run starts it from nothing.
            let _ = fs::remove_file(&self.path);
        }
    }
}

const PARTIAL: &str = ".partial";

fn partial_name(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} does not name a file", path.display()))?;
    Ok(path.with_file_name(format!("{name}{PARTIAL}")))
}

fn without_partial(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.trim_end_matches(PARTIAL).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_gets_its_name_when_formatted() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("nv.img");
        drop(Nvdimm::open(&path, 32 << 20).unwrap());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "an unformatted file stays behind");
        let mut nvdimm = Nvdimm::open(&path, 32 << 20).unwrap();
        assert!(nvdimm.is_new() && !path.exists());
        nvdimm.formatted().unwrap();
        drop(nvdimm);
        assert_eq!(path.metadata().unwrap().len(), 34 << 20);
        assert!(!Nvdimm::open(&path, 0).unwrap().is_new());
    }

    #[test]
    fn one_machine_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("nv.img");
        let mut first = Nvdimm::open(&path, 32 << 20).unwrap();
        assert!(Nvdimm::open(&path, 32 << 20).is_err());
        first.formatted().unwrap();
        assert!(Nvdimm::open(&path, 32 << 20).is_err());
    }

    #[test]
    fn files_of_others_are_refused_and_unchanged() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("letter.txt");
        fs::write(&path, "dear").unwrap();
        assert!(Nvdimm::open(&path, 32 << 20).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"dear");
        assert!(Nvdimm::open(&place.path().join("a"), 33 << 20).is_err());
        assert!(Nvdimm::open(&place.path().join("none/a"), 32 << 20).is_err());
    }
}
