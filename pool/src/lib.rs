//! The pool: a crash-consistent store of objects on persistent memory.
//!
//! # Contract
//! - Each operation becomes visible by one 8-byte persistent store, its *commit point*; after a power failure it has
//!   happened wholly or not at all. When it returned, it is durable.
//! - What is free is not recorded but derived from what is in use, so a crash leaks nothing. Opening costs grow with
//!   the objects in the pool, not with its size.
//! - An object's pages are not used again while an [`ObjectRef`] to it lives, nor before
//!   [`ObjectRef::release_replaced`] after a copy-on-write moved them.
//! - Bytes in the pool are claims. Damage is an error that says where; it is never a panic, and never another
//!   object's data. A failed operation changed nothing.
//! - All methods take `&self` and may be called by several threads at once.
//!
//! # Locks, in order
//! 1. an object's own (two objects: the lower record first), held while its map changes and while a [`ShareHook`] runs;
//! 2. the pool's state: directory, allocator.
//!
//! A caller's own lock that a [`ShareHook`] takes must not be held while it calls the pool.
//!
//! # What the medium must do
//! As [`pmem`] says. Bytes at rest do not change by themselves; if they do, checks find it and `fsck` repairs what can be.
#![deny(unsafe_code)]

mod compose;
mod core;
mod error;
mod format;
mod fsck;
mod graph;
mod grow;
#[cfg(feature = "sim")]
pub mod hostile;
mod load;
mod map;
#[allow(unsafe_code, reason = "maps files")]
mod medium;
mod meta;
mod names;
mod object;
mod objects;
mod references;
mod space;
mod ties;
mod transfer;
mod writer;

pub use crate::core::{Pool, Usage};
pub use compose::CopyRange;
pub use error::{Error, Result};
pub use format::records::MAX_NAME;
pub use fsck::{FsckReport, Problem, fsck, fsck_path};
pub use graph::Graph;
pub use grow::grow;
pub use medium::{Backing, CreateOptions, Durability, Mapped, Medium, OpenOptions};
pub use object::{Access, Extent, ObjectRef, ShareHook};
pub use object_id::object_id;
pub use objects::{ObjectSpec, ObjectStat};
pub use references::{Reference, Target};
pub use transfer::TransferError;
