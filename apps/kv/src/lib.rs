//! `kv`: a multi-threaded hash table of keys and values of any size, in persistent objects (paper §4.1, twzkv).
//!
//! ```
//! let store = kv::Store::create(&kv::Options::default())?;
//! store.put(b"colour", b"blue")?;
//! let value = store.get(b"colour")?.expect("was put");
//! assert_eq!(value.to_vec()?, b"blue");
//! # Ok::<(), kv::Error>(())
//! ```
//!
//! # What it shows
//! - **Index and data are in separate objects.** The index holds pointers; each data object holds keys and values. Index pointers are
//!   persistent pointers through the index object's FOT, so that one index leads into any number of data objects.
//! - **Rights are not kv's affair.** There is not one line here that checks them. The caller chooses the [`Region`] that a value goes to,
//!   each region's objects have rights of their own, and the machine refuses a reader that has none (paper §3.2).
//! - **Direct pointers.** [`Store::get`] returns where the value stands, not a copy of it.
//!
//! # Contract
//! - **K1 durable**: what [`Store::put`] and [`Store::delete`] did survives a power failure once they returned, and is there whole or
//!   not at all. An insert costs one line, flushed or stored around the cache, and one fence; replacing and deleting two and one.
//! - **K2 the data objects are the truth**: a record counts if its checksum is right and it is the newest of its key. The index is a
//!   means to find records: it is written without flushes, made durable by [`Store::close`], and rebuilt from the data objects after a
//!   power failure (`store/recover.rs`).
//! - **K3 one thread per segment changes the index** (a lock in each), any number read it without locks. A reader that copies a value
//!   while others replace it gets one of the values that the key had, never a mixture ([`Value::to_vec`]).
//! - **K4 rights only where something is written**: a writer needs them on the index, on the secondary indexes, on the objects that it puts into, and
//!   on those whose records it replaces or deletes. What it has not got is an error of the mapping, with nothing changed and no lock held.
//! - Damage yields an [`Error`] or a record less, never a panic or an access outside the objects.
//! - Lock order: segment, beginning in an object, stripe, data object, secondary index, store. Making an object takes long; only those wait who need it.
//!
//! | file | what |
//! |---|---|
//! | `layout` | records and slots, bit by bit |
//! | `data` | a data object: where records go |
//! | `index` | extendible hashing (Fagin et al., TODS 1979) in segments of 16 KiB |
//! | `life` | whether an object was left in order |
//! | `store` | all together; regions; recovery |
//! | `secondary` | ordered indexes over values, in objects with rights of their own |
#![forbid(unsafe_code)]
#![no_std]

extern crate alloc;

mod data;
mod error;
mod index;
mod layout;
mod life;
mod secondary;
mod segment;
mod store;
mod value;

/// What the table is made of, for `unixkv`, which has the same one in files.
#[doc(hidden)]
pub mod table {
    pub use crate::data::{CLASSES, SOME, STRIPES, class_of, own_stripe, round_units};
    pub use crate::layout::{
        FIRST_OFFSET, HEADER, Slot, Tags, UNIT, check, first_bytes, hash, store_parts, tag,
    };
    pub use crate::segment::{BUCKETS_AT, Bucket, SEGMENT, SEGMENT_SLOTS, Segment, buckets_of, home_of};
}

pub use error::{Error, Result};
pub use secondary::{By, Secondary};
pub use store::{Options, Region, Scanned, Stats, Store};
pub use value::Value;
