//! Files beside objects: what a UNIX program makes to hold something under a name.

use crate::timed;
use anyhow::Result;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Nanoseconds to create and close an empty file, and to unlink it, of `count` with names as long as IDs.
pub(crate) fn create_and_unlink(folder: &Path, count: u64) -> Result<[f64; 2]> {
    let paths: Vec<PathBuf> = (0..count).map(|number| folder.join(format!("file-{number:032x}"))).collect();
    let create = timed(count, || paths.iter().try_for_each(|path| File::create(path).map(drop)))?;
    let unlink = timed(count, || paths.iter().try_for_each(fs::remove_file))?;
    Ok([create, unlink])
}
