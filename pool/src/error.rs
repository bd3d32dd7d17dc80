//! What can go wrong with a pool, and what to do about it.

use std::path::PathBuf;
use twz_abi::ObjectId;

/// Result of a pool operation.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Why a pool operation failed. A failed operation changed nothing, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another process, or this one, has the pool open.
    #[error("{} is in use by another process: stop it, or use its own console", path.display())]
    Locked {
        /// The pool.
        path: PathBuf,
    },
    /// The file or device holds something else.
    #[error("not a pool: no superblock found; `twzvmm pool create` makes one")]
    NotAPool,
    /// `create` found a pool.
    #[error("{} already holds a pool: use another path, or force", path.display())]
    AlreadyAPool {
        /// Where.
        path: PathBuf,
    },
    /// The pool was made by another version.
    #[error("pool format version {found}, but this program knows only {known}")]
    Version {
        /// In the superblock.
        found: u32,
        /// Known here.
        known: u32,
    },
    /// The file is shorter than the pool in it.
    #[error("pool truncated: {expected} bytes expected, {found} found; restore the file's length")]
    Truncated {
        /// Bytes by the superblock.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// Too small to be a pool.
    #[error("{size} bytes is too small for a pool: at least {least} are needed")]
    TooSmall {
        /// Bytes given.
        size: u64,
        /// Bytes needed.
        least: u64,
    },
    /// Too large to be a pool.
    #[error("{size} bytes is too large for a pool: at most {most}")]
    TooLarge {
        /// Bytes given.
        size: u64,
        /// Bytes possible.
        most: u64,
    },
    /// Mappings of the medium must be aligned to more than the pool's granule.
    #[error(
        "the medium maps in steps of {align} bytes but the pool's granule is {granule}: make the pool anew there"
    )]
    Alignment {
        /// What the medium wants, in bytes.
        align: u64,
        /// What the pool has, in bytes.
        granule: u64,
    },
    /// Metadata is not what it should be.
    #[error("pool damaged at byte {at:#x}: {what}; try `twzvmm pool fsck --repair`")]
    Damaged {
        /// Byte offset in the pool.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// No room.
    #[error("pool full: no room for {bytes} bytes more; delete objects, or `twzvmm pool grow`")]
    Full {
        /// What was needed.
        bytes: u64,
    },
    /// The filesystem under the pool is full.
    #[error("the disk under {} is full: no room for {bytes} bytes more there", path.display())]
    DiskFull {
        /// The pool.
        path: PathBuf,
        /// What was needed.
        bytes: u64,
    },
    /// A write to the disk failed some time ago; what happened since may not be durable.
    #[error("a write to the disk under the pool failed: what was stored since may be lost")]
    NotDurable,
    /// A page of the medium cannot be had.
    #[error(
        "{} cannot be read at byte {at:#x}: mend the medium or copy the pool to another; `twzvmm pool fsck` tells what is left",
        path.display()
    )]
    Unreadable {
        /// The pool.
        path: PathBuf,
        /// The page's first byte in it.
        at: u64,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// An object of this ID exists.
    #[error("object {0} exists already")]
    Exists(ObjectId),
    /// No object of this ID exists, or it was deleted.
    #[error("no object {0} in this pool")]
    NoSuchObject(ObjectId),
    /// The directory's nonce, key and rights do not hash to the ID.
    #[error("object {0} is not what its ID says: nonce, key object or default rights were changed")]
    WrongId(ObjectId),
    /// Outside an object, or not aligned as it must be.
    #[error("{len} bytes at offset {offset:#x}: outside an object, or not aligned to {align}")]
    BadRange {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Needed alignment in bytes.
        align: u64,
    },
    /// Names have 1 to 255 bytes.
    #[error("a name has 1 to 255 bytes, not {0}")]
    BadName(usize),
    /// No such name.
    #[error("no name {0:?} in this pool")]
    NoSuchName(Box<str>),
    /// There is this name already.
    #[error("the name {0:?} is taken")]
    NameTaken(Box<str>),
    /// The hook that should stop writers before pages are shared could not.
    #[error("object {0} could not be write-protected for a copy: {1}")]
    NotShared(ObjectId, Box<str>),
}

impl Error {
    pub(crate) const fn damaged(at: u64, what: &'static str) -> Self {
        Self::Damaged { at, what }
    }
}
