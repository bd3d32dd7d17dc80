//! Collections that stand in objects, with the method names of std's.
//!
//! # Contract
//! - A collection is a plain [`Invariant`](crate::Invariant) struct: put it into an object's root or a block, empty
//!   (`HashMap::new()`); its parts are allocated from the object that it stands in, and from objects chained to that when it is
//!   full.
//! - Each change exists twice: `insert(…)` is a transaction of its own, durable when it returns, for one fence; `insert_in(tx, …)`
//!   is a part of `tx`, and visible to what follows in it.
//! - One writer at a time per object, by the transaction's lock. Readers take no lock: while a writer works they may see any
//!   mixture of old and new, also what else became of a block that was given back, or an error that says damage; never an access astray. Hold a
//!   [`crate::sync::RwLock`] where that matters.
//! - Names and results are std's. Where std's methods panic (an index past the end), these say `None` or `false`; and since others may change
//!   what stands in an object, there are no slices, no `iter_mut`, no `[index]` and no references to what is copied. Elements are changed one by one
//!   (`set`, `entry(key).and_modify(…).or_insert(…)`) or in passing: `retain` of a map and `retain_mut` of a vector keep what their closure makes of
//!   each. A collection has its place in an object, so it is not cloned nor collected into: `extend` fills it. `{:?}` shows what is in it.
//! - Damage (a count too large, a pointer astray, a cycle) is an error, never a panic or an endless loop.
//!
//! | | for | memory |
//! |---|---|---|
//! | [`Vec`] | sequences | segments that never move |
//! | [`String`] | text | one block |
//! | [`HashMap`] | look-up | buckets of 7, linear hashing: one bucket is split at a time |
//! | [`BTreeMap`] | order and ranges | leaves of 16, unsorted inside |
//! | [`HashSet`], [`BTreeSet`] | the same without values | those of the maps |
//! | [`RbTree`] | order, pointer-heavy: the paper's example | a node with parent pointer per entry |
//! | [`List`] | both ends, stable places | a node per element |
//! | [`owned::HashMap`], [`owned::BTreeMap`], and sets | keys and values that own memory: texts, vectors, structs | a block per entry, and an index of these |
//! | [`Ring`] | a fixed number of newest elements | segments, as a vector's, that come when they are first needed |

/// Declares changes twice: as a transaction of their own, and as a part of one. Their types of their own stand in brackets.
macro_rules! changes {
    ($($(#[$doc:meta])* $name:ident / $name_in:ident => $change:ident$([$($generic:tt)*])?($($argument:ident: $type:ty),*) -> $result:ty;)*) => {$(
        $(#[$doc])*
        /// Durable, all or nothing.
        ///
        /// # Errors
        /// [`crate::Error::OutOfSpace`], [`crate::Error::Damaged`], [`crate::Error::BadPointer`], [`crate::Error::Busy`].
        pub fn $name$(<$($generic)*>)?(&self, $($argument: $type),*) -> $crate::Result<$result> {
            $crate::collections::alone(self, |tx| self.$change(tx, $($argument),*))
        }

        #[doc = concat!("[`Self::", stringify!($name), "`] as a part of `tx`.")]
        ///
        /// # Errors
        #[doc = concat!("As [`Self::", stringify!($name), "`].")]
        pub fn $name_in$(<$($generic)*>)?(&self, tx: &$crate::Tx, $($argument: $type),*) -> $crate::Result<$result> {
            $crate::collections::inside(tx, |tx| self.$change(tx, $($argument),*))
        }
    )*};
}

#[macro_use]
mod maps;

mod btree;
mod debug;
mod entry;
mod hash_map;
mod list;
pub mod owned;
mod rb_tree;
mod ring;
mod segments;
mod sets;
mod string;
mod vec;

pub use btree::{BTreeMap, BTreeMapRange};
pub use entry::Entry;
pub use hash_map::{HashMap, HashMapIter};
pub use list::{List, ListIter, ListPlace};
pub use rb_tree::{RbTree, RbTreeRange};
pub use ring::{Ring, RingIter};
pub use sets::{BTreeSet, BTreeSetRange, HashSet, HashSetIter};
pub use string::String;
pub use vec::{Vec, VecIter};

use self::hash_map::same;
use crate::error::{Error, Result, damaged};
use crate::persist::LINE;
use crate::tx::{Tx, bytes_of};
use crate::window::Window;
use core::ops::{Bound, RangeBounds};
use core::slice::from_ref;

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

/// Puts values in a row; there may be none of them.
fn put_all<T: crate::Invariant>(tx: &Tx, address: usize, values: &[T]) -> Result<()> {
    if size_of_val(values) == 0 { Ok(()) } else { tx.put_slice(address, values) }
}

/// Puts a value and, right behind it, another: in one piece if they are small.
fn put_both<A: crate::Invariant, B: crate::Invariant>(
    tx: &Tx,
    address: usize,
    first: &A,
    second: &B,
) -> Result<()> {
    let (first, second) = (bytes_of(from_ref(first)), bytes_of(from_ref(second)));
    let mut piece = [0; 64];
    match piece.get_mut(..first.len() + second.len()) {
        Some(piece) => {
            piece[..first.len()].copy_from_slice(first);
            piece[first.len()..].copy_from_slice(second);
            put_all(tx, address, piece)
        }
        None => {
            put_all(tx, address, first)?;
            put_all(tx, address + first.len(), second)
        }
    }
}

/// Makes room for `more` elements in this program's memory: how many there are may come from a damaged object.
fn reserve<T>(list: &mut alloc::vec::Vec<T>, more: u64) -> Result<()> {
    let count = usize::try_from(more).unwrap_or(usize::MAX);
    let too_large = Error::TooLarge { bytes: more.saturating_mul(size_of::<T>() as u64) };
    list.try_reserve(count).map_err(|_| too_large)
}

/// Appends an element in this program's memory.
fn push<T>(list: &mut alloc::vec::Vec<T>, element: T) -> Result<()> {
    reserve(list, 1)?;
    list.push(element);
    Ok(())
}

/// All elements of an iterator, in this program's memory, or its first error.
fn collect<T>(from: impl Iterator<Item = Result<T>>) -> Result<alloc::vec::Vec<T>> {
    let mut list = alloc::vec::Vec::new();
    for element in from {
        push(&mut list, element?)?;
    }
    Ok(list)
}

/// First and one past the last index of a range of `len` elements; what is past the end is left out.
fn bounds_of(range: &impl RangeBounds<u64>, len: u64) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => len,
    };
    (start.min(end.min(len)), end.min(len))
}

/// Whether an element equals `value`.
fn has<T: PartialEq>(elements: impl IntoIterator<Item = Result<T>>, value: &T) -> Result<bool> {
    for element in elements {
        if element? == *value {
            return Ok(true);
        }
    }
    Ok(false)
}
