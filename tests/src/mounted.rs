//! Filesystems made for a test: small ones, and ones on disks that fail. They need the right to mount.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A filesystem that is mounted as long as this lives.
#[derive(Debug)]
pub struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    /// A filesystem in memory of this size; `None`, with the reason on standard error, if this host does not let us.
    ///
    /// # Panics
    /// If there is no temporary folder.
    #[must_use]
    pub fn memory(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made =
            run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "twz-test", text(folder.path())]);
        mounted(folder, made)
    }

    /// A filesystem of 64 MiB on a disk whose blocks are stored here when they are written. Drop it before this.
    #[must_use]
    pub fn disk(&self) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = self.folder().join("disk");
        let made = std::fs::File::create(&file)
            .and_then(|file| file.set_len(64 << 20))
            .map_err(|error| error.to_string())
            .and_then(|()| run("mkfs.ext4", &["-q", "-O", "^has_journal", "-E", "nodiscard", text(&file)]))
            .and_then(|()| run("mount", &["-o", "loop", text(&file), text(folder.path())]));
        mounted(folder, made)
    }

    /// Gives a filesystem in memory another size.
    ///
    /// # Panics
    /// If that cannot be.
    pub fn enlarge(&self, size: &str) {
        run("mount", &["-o", &format!("remount,size={size}"), text(self.folder.path())]).expect("remounted");
    }

    /// Where it is mounted.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, should somebody still look into it; `mount -o loop` frees its device then, too.
        detach(self.folder.path());
    }
}

/// Unmounts what is there, now or when nobody uses it any more. If there is nothing, or we may not, it stays as it is.
pub(crate) fn detach(folder: &Path) {
    let _ = run("umount", &["-l", text(folder)]);
}

/// Says that this test is skipped, past the test harness's capture, as other skips are.
pub(crate) fn skipped(reason: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // If standard error is closed nobody wants to know.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
}

fn mounted(folder: tempfile::TempDir, made: Result<(), String>) -> Option<Mounted> {
    match made {
        Ok(()) => Some(Mounted { folder }),
        Err(reason) => {
            skipped(&format!("no filesystem of its own: {reason}"));
            None
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have names of text")
}
