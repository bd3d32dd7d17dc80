//! What can go wrong.

use core::fmt;
use libtwz::prelude::ObjectId;

/// The crate's result.
pub type Result<T> = core::result::Result<T, Error>;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// What libtwz said, with object and offset.
    Object(libtwz::Error),
    /// A key and value that together fit no data object.
    TooLarge {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes that one data object of this store takes.
        limit: u64,
    },
    /// A store cannot have more objects, segments or regions.
    Full,
    /// There is no region of this number.
    NoRegion(u32),
    /// The power failed while the store was open: somebody who may write has to open it first.
    NeedsRecovery,
    /// The power failed while the store was open, and putting it in order needs an object that the security context does not permit.
    CannotRecover(ObjectId),
    /// Index or data say where they are, and that cannot be.
    Damaged,
    /// The store was opened for reading.
    ReadOnly,
    /// This program has no memory for a copy of so many bytes.
    NoMemory {
        /// Bytes of the copy.
        bytes: u64,
    },
    /// The value was replaced or deleted while it was read.
    Changed,
}

impl From<libtwz::Error> for Error {
    fn from(error: libtwz::Error) -> Self {
        Self::Object(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(error) => error.fmt(f),
            Self::TooLarge { bytes, limit } => {
                write!(f, "{bytes} bytes do not fit: a data object of this store takes {limit}")
            }
            Self::Full => f.write_str("the store is full: it cannot have more objects"),
            Self::NoRegion(number) => write!(f, "the store has no region {number}"),
            Self::NeedsRecovery => {
                f.write_str("the power failed while the store was open: open it for writing once")
            }
            Self::CannotRecover(id) => write!(
                f,
                "the power failed while the store was open, and recovering it needs object {id}, which this security context does not permit: open it for writing once in one that has all of the store's objects"
            ),
            Self::Damaged => {
                f.write_str("the store is damaged: index or data cannot be where they are said to be")
            }
            Self::ReadOnly => f.write_str("the store was opened for reading"),
            Self::NoMemory { bytes } => write!(f, "no memory for a copy of {bytes} bytes"),
            Self::Changed => f.write_str("the value changed while it was read: look it up again"),
        }
    }
}

impl core::error::Error for Error {}
