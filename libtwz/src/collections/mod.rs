//! Collections that stand in objects, with the method names of std's.
//!
//! # Contract
//! - A collection is a plain [`Invariant`](crate::Invariant) struct: put it into an object's root or a block, empty
//!   (`HashMap::new()`); its parts are allocated from the object that it stands in, and from objects chained to that when it is
//!   full.
//! - Each change exists twice: `insert(…)` is a transaction of its own, durable when it returns, for one fence; `insert_in(tx, …)`
//!   is a part of `tx`, and visible to what follows in it.
//! - One writer at a time per object, by the transaction's lock. Readers take no lock: while a writer works they may see any
//!   mixture of old and new, never an access astray; hold a [`crate::sync::RwLock`] where that matters.
//! - Damage (a count too large, a pointer astray, a cycle) is an error, never a panic or an endless loop.
//!
//! | | for | memory |
//! |---|---|---|
//! | [`Vec`] | sequences | segments that never move |
//! | [`String`] | text | one block |
//! | [`HashMap`] | look-up | buckets of 7, linear hashing: one bucket is split at a time |
//! | [`BTreeMap`] | order and ranges | leaves of 16, unsorted inside |
//! | [`RbTree`] | order, pointer-heavy: the paper's example | a node with parent pointer per entry |
//! | [`List`] | both ends, stable places | a node per element |
//! | [`Ring`] | a fixed number of newest elements | segments, as a vector's, that come when they are first needed |

mod btree;
mod hash_map;
mod list;
mod rb_tree;
mod ring;
mod segments;
mod string;
mod vec;

pub use btree::BTreeMap;
pub use hash_map::HashMap;
pub use list::List;
pub use rb_tree::RbTree;
pub use ring::Ring;
pub use string::String;
pub use vec::Vec;

use crate::error::{Result, damaged};
use crate::persist::LINE;
use crate::tx::Tx;
use crate::window::Window;

/// The window of the object that a collection stands in.
#[inline]
fn home_of<T>(collection: &T) -> Result<Window> {
    Window::around(core::ptr::from_ref(collection).addr())
}

/// Runs one change of `collection` as a transaction of its own.
#[inline]
fn alone<T, R>(collection: &T, change: impl FnOnce(&Tx) -> Result<R>) -> Result<R> {
    Tx::run(home_of(collection)?, change)
}

/// Runs one change of a collection inside a transaction; what follows sees it.
#[inline]
fn inside<R>(tx: &Tx, change: impl FnOnce(&Tx) -> Result<R>) -> Result<R> {
    tx.apply()?;
    let result = change(tx)?;
    tx.apply()?;
    Ok(result)
}

/// Says that `node` is about to be changed, so that the processor fetches its lines meanwhile; those of large ones not all.
#[inline]
fn expect_store<T>(node: &T) {
    let start = core::ptr::from_ref(node).addr();
    let end = start + size_of::<T>().min(8 * LINE);
    for line in (start & !(LINE - 1)..end).step_by(LINE) {
        crate::persist::expect_store(line);
    }
}
