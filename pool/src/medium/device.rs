//! The size and alignment of a device-DAX node, from sysfs.

use crate::error::{Error, Result};
use rustix::fs::{major, minor};
use std::path::{Path, PathBuf};

/// (size, alignment) in bytes of the character device `device`.
pub(super) fn geometry(path: &Path, device: u64) -> Result<(u64, u64)> {
    let node = PathBuf::from(format!("/sys/dev/char/{}:{}", major(device), minor(device)));
    let name = std::fs::read_link(&node).ok().and_then(|target| target.file_name().map(ToOwned::to_owned));
    let bus = name.map(|name| Path::new("/sys/bus/dax/devices").join(name));
    let folders: Vec<PathBuf> =
        [Some(node.clone()), Some(node.join("device")), bus].into_iter().flatten().collect();
    let attribute = |attribute: &str| {
        folders.iter().find_map(|folder| parse(&std::fs::read_to_string(folder.join(attribute)).ok()?))
    };
    let missing = || Error::Io {
        action: "find the DAX size and alignment of",
        path: path.to_owned(),
        source: std::io::ErrorKind::Unsupported.into(),
    };
    Ok((attribute("size").ok_or_else(missing)?, attribute("align").ok_or_else(missing)?))
}

/// A decimal or 0x-number.
fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
