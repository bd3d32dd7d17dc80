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
//! - Files must be found, opened, sized and mapped by hand ([`Mapping`]), all of them when the store is opened: a process has to know what it may do with a
//!   file before it maps it. So what is granted later takes another opening, and what is taken away stays reachable ("late binding", paper §3.2 and
//!   §4.1, is what this cannot have). Each put has to ask whether the files may be written, of which it changes something; `kv` lets the
//!   machine refuse.
//! - One process at a time: locks of the data files, free places and versions are in its memory, and not in the files.
//! - No secondary indexes.
//! - Records are flushed line by line, as libpmem does with few bytes (libpmem(7), `PMEM_MOVNT_THRESHOLD`). How `kv`'s become durable soonest libtwz
//!   knows of the processor (`libtwz::persist::Outgoing`); docs/performance.md says what that makes.
//!
//! Nothing else here is slower than it must be: what is done by an insert or a look-up is what `kv`'s promises take with files, written as for its own use.
//!
//! # Contract
//! - Any number of threads of one process. Keys and values of any size up to what a data file has room for, at most 1 GiB.
//! - What [`UnixKv::put`] and [`UnixKv::delete`] did survives a power failure once they returned: a record is flushed and fenced before the index leads
//!   to it. The index is written without flushes, and is built anew from the data files if the power failed.
//! - Places of records that were replaced or deleted are used again. Who reads a value in place while others write asks [`Value::is_current`] afterwards.
//! - The caller chooses the file that a value goes to. What the file's permissions deny is [`Error::NotPermitted`], with nothing changed.
//! - A damaged file yields an error or a record less, never an access outside the mappings.
//! - Lock order: segment, growth of the index, stripe, chunks; growth of the files by itself.

mod data;
mod files;
mod index;
mod mapping;
mod record;
mod store;
mod value;

pub use mapping::Mapping;
pub use store::{Stats, UnixKv};
pub use value::Value;

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
    /// This process may not read the data file of this number, or may not write what was to be changed in it.
    #[error("data file {0} is not permitted")]
    NotPermitted(usize),
    /// The index leads nowhere.
    #[error("the index is damaged: remove it, and it is built anew")]
    Damaged,
    /// A lock in it cannot be taken.
    #[error("a lock of the index is damaged: {0}")]
    Lock(libtwz::Error),
}
