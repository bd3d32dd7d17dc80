//! `unixkv`: the same store as `kv`, with files, paths and `mmap`, for the comparison (paper §4.1, Figure 6).
//!
//! ```text
//! folder/index     a file: header, then buckets of one line, 8 slots each
//! folder/data.N    files with the records, appended
//! slot             hash bits (26) | data file (12) | offset / 16 (26), as in kv
//! ```
//! # What differs from `kv`, and why
//! - A pointer in the index means nothing to the processor: each use turns (file number, offset) into an address, through a table of this
//!   process that says where each file is mapped. `kv` follows a persistent pointer. Both count as one *conversion*.
//! - Files must be found, opened, sized and mapped by hand ([`Mapping`]); rights are those of whole files for whole users.
//! - Durability is the same: a record is flushed and fenced before the index leads to it; the index is written without flushes, and is built
//!   anew from the data files if the power failed.
//!
//! # Contract
//! - One writer or many readers at a time (`&mut self` for changes), in one process. Keys and values of any size up to 1 GiB.
//! - A damaged file yields an error or a record less, never an access outside the mappings.

mod mapping;
mod store;

pub use mapping::Mapping;
pub use store::{Stats, UnixKv};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be made, opened or mapped.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The header of a file is not one of ours.
    #[error("{0} is no file of a unixkv store")]
    NotOurs(std::path::PathBuf),
    /// A record that fits no file.
    #[error("a record of {0} bytes is too large")]
    TooLarge(usize),
    /// A store has at most 4,095 data files.
    #[error("the store has as many files as it can have")]
    Full,
}
