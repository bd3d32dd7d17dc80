//! `unixkv`: the same store as `kv`, with files, paths and `mmap`, for the comparison (paper §4.1, Figure 6).
//!
//! The table is `kv`'s: the same segments, buckets, tags and growth (`kv::table`), the same records, the same locks, prefetches and fences. So what is
//! compared is how data is reached: by files, a table of this process and offsets here, by objects and persistent pointers there.
//!
//! ```text
//! folder/index     a file: header, directory, segments
//! folder/data.N    files with the records, appended
//! slot             data file (12) | hash bits (20) | offset / 16
//! ```
//! # What differs from `kv`, and why
//! - A pointer in the index means nothing to the processor: each use turns (file number, offset) into an address, through a table of this
//!   process that says where each file is mapped and how long it is. `kv` follows a persistent pointer, and needs no length, since each object has a
//!   slot to itself. Both count as one *conversion*.
//! - Files must be found, opened, sized and mapped by hand ([`Mapping`]); rights are those of whole files for whole users.
//! - Places of records that were replaced or deleted are not used again. So a value that was found stays where it is, and a look-up need not note the
//!   version that tells `kv`'s readers when it left: one load of a line that is in the cache.
//!
//! # Contract
//! - Any number of threads of one process. Keys and values of any size up to what a data file has room for, at most 1 GiB.
//! - What [`UnixKv::put`] and [`UnixKv::delete`] did survives a power failure once they returned: a record is flushed and fenced before the index leads
//!   to it. The index is written without flushes, and is built anew from the data files if the power failed.
//! - A damaged file yields an error or a record less, never an access outside the mappings.
//! - Lock order: segment, growth of the index; stripe, growth of the files, chunks.

mod data;
mod files;
mod index;
mod mapping;
mod record;
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
    /// A store has at most 4,095 data files, and an index of 1 GiB.
    #[error("the store has as many files, or keys, as it can have")]
    Full,
    /// The index leads nowhere.
    #[error("the index is damaged: remove it, and it is built anew")]
    Damaged,
    /// A lock in it cannot be taken.
    #[error("a lock of the index is damaged: {0}")]
    Lock(libtwz::Error),
}
