//! Where the testbed keeps files: unpacked packages for all runs, and a directory for each run.
//!
//! # Contract
//! - Concurrent runs do not disturb each other: [`Cache::lock`] is held while shared files change.
//! - A run's directory goes when the run ends. If that was by SIGKILL, the next run removes it: it tells a dead run by
//!   the lock on the directory's `lock` file, which the kernel dropped.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The cache directory.
pub(crate) struct Cache {
    path: PathBuf,
}

/// A run's own directory, removed on drop.
pub(crate) struct RunDirectory {
    directory: TempDir,
    _lock: File,
}

impl Cache {
    /// Opens `path`, or `testbed` in the cargo target directory that this program was built into.
    pub(crate) fn open(path: Option<&Path>) -> Result<Cache> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => default_path()?,
        };
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Cache { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until no other run changes shared files; held until dropped.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.path.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    /// Makes a directory for this run, and removes those of runs that were killed.
    pub(crate) fn run_directory(&self) -> Result<RunDirectory> {
        let _shared = self.lock()?;
        let runs = self.path.join("runs");
        fs::create_dir_all(&runs).with_context(|| format!("cannot make {}", runs.display()))?;
        for entry in fs::read_dir(&runs).with_context(|| format!("cannot read {}", runs.display()))? {
            let path = entry?.path();
            let alive = File::open(path.join("lock")).is_ok_and(|lock| lock.try_lock().is_err());
            if !alive && !path.join("keep").exists() {
                fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        let directory = tempfile::Builder::new().prefix("run-").tempdir_in(&runs)?;
        let lock = File::create(directory.path().join("lock"))?;
        lock.try_lock().context("cannot lock the run's own directory")?;
        Ok(RunDirectory { directory, _lock: lock })
    }
}

impl RunDirectory {
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Does not remove the directory; returns where it is.
    pub(crate) fn keep(self) -> Result<PathBuf> {
        File::create(self.path().join("keep")).context("cannot mark the run's directory as kept")?;
        Ok(self.directory.keep())
    }
}

/// `target/testbed`. Cargo tags its target directory and the one for each target in it: the outermost is wanted.
fn default_path() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program's own path")?;
    match program.ancestors().filter(|directory| directory.join("CACHEDIR.TAG").exists()).last() {
        Some(target) => Ok(target.join("testbed")),
        None => bail!("{} is not in a cargo target directory: say --cache DIR", program.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_directories_of_the_dead_go_and_of_the_living_stay() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(place.path())).unwrap();
        let living = cache.run_directory().unwrap();
        let dead = place.path().join("runs/run-dead");
        fs::create_dir(&dead).unwrap();
        File::create(dead.join("lock")).unwrap();
        let kept = cache.run_directory().unwrap().keep().unwrap();
        let next = cache.run_directory().unwrap();
        assert!(living.path().exists());
        assert!(next.path().exists());
        assert!(kept.exists());
        assert!(!dead.exists());
    }
}
