//! A growing sequence whose elements never move.
//!
//! Elements that are `Copy` are copied in and out. Others – pointers, texts, other collections – begin as their default
//! ([`Vec::push_default`]), are used in place ([`Vec::get_ref`]), and stay where they are; what they own is to be released before they are
//! taken off. Where std's methods panic about an index, these say `false` or `None`. Slices and `splice` are not there: elements lie in several
//! places. `split_off` is told where to: a collection has a place of its own. Sorting is stable; there is no `sort_unstable`.

mod iter;
mod moves;
mod order;

pub use iter::VecIter;

use super::damaged;
use super::segments::{self, Place, SEGMENTS, locate};
use crate::cell::PCell;
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::ptr::{self, InvPtr};
use crate::tx::Tx;

/// A sequence of `T`. Elements keep their addresses while the vector grows; segments may be in several objects.
#[derive(Invariant)]
#[repr(C)]
#[invariant(version = 1)]
pub struct Vec<T: Invariant> {
    len: PCell<u64>,
    segments: [InvPtr<T>; SEGMENTS],
}

impl<T: Invariant> Default for Vec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Invariant> Vec<T> {
    /// An empty vector.
    #[must_use]
    pub const fn new() -> Self {
        Self { len: PCell::new(0), segments: [const { InvPtr::null() }; SEGMENTS] }
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len.get()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Address of an element; `None` when its segment was never allocated.
    #[inline]
    fn address(&self, place: Place) -> Result<Option<usize>> {
        segments::address(&self.segments, place)
    }

    /// The cell of element `index`, `None` past the end.
    #[inline]
    fn cell(&self, index: u64) -> Result<Option<&PCell<T>>> {
        if index >= self.len() {
            return Ok(None);
        }
        let place = locate(index, size_of::<T>()).ok_or_else(|| damaged(self, "a length that fits"))?;
        let address = self.address(place)?.ok_or_else(|| damaged(self, "a segment for each element"))?;
        ptr::at_address(address).map(Some)
    }

    /// Element `index` in place, `None` past the end. For types that may change under a reference ([`Invariant::CELLS`]); others do not
    /// compile.
    ///
    /// # Errors
    /// [`Error::BadPointer`], [`Error::Damaged`].
    pub fn get_ref(&self, index: u64) -> Result<Option<&T>> {
        Ok(self.cell(index)?.map(PCell::as_ref))
    }

    /// The elements in place, in order; ends after the first error.
    pub fn iter_ref(&self) -> impl Iterator<Item = Result<&T>> {
        self.cells().map(|cell| cell.map(PCell::as_ref))
    }

    /// The cells of the elements, in order; ends after the first error.
    pub(super) fn cells(&self) -> impl Iterator<Item = Result<&PCell<T>>> {
        let mut next = 0;
        core::iter::from_fn(move || {
            let item = self.cell(next).transpose();
            next = if matches!(item, Some(Err(_))) { u64::MAX } else { next.saturating_add(1) };
            item
        })
    }

    changes! {
        /// Shortens to `len` elements, if there are more. Segments stay for later; what the elements own is not given back.
        truncate / truncate_in => do_truncate(len: u64) -> ();
        /// Gives all memory back; what the elements own is not.
        clear / clear_in => do_clear() -> ();
        /// Makes the memory for `additional` more elements.
        reserve / reserve_in => do_reserve(additional: u64) -> ();
    }

    fn do_truncate(&self, tx: &Tx, len: u64) -> Result<()> {
        if len < self.len() { tx.put(&self.len, len) } else { Ok(()) }
    }

    fn do_clear(&self, tx: &Tx) -> Result<()> {
        tx.put(&self.len, 0)?;
        segments::free_all(tx, &self.segments)
    }

    fn do_reserve(&self, tx: &Tx, additional: u64) -> Result<()> {
        let len = self.len();
        segments::allocate(tx, &self.segments, len, len.saturating_add(additional))
    }
}

impl<T: Invariant + Default> Vec<T> {
    changes! {
        /// Appends a default element; returns it in place ([`Vec::get_ref`]).
        push_default / push_default_in => do_push_default() -> &T;
    }

    fn do_push_default(&self, tx: &Tx) -> Result<&T> {
        let len = self.len();
        segments::write(tx, &self.segments, len, &[T::default()])?;
        tx.put(&self.len, len + 1)?;
        tx.apply()?;
        self.get_ref(len)?.ok_or_else(|| damaged(self, "the element just made"))
    }
}

impl<T: Invariant + Copy> Vec<T> {
    /// Element `index`, `None` past the end.
    ///
    /// # Errors
    /// [`Error::BadPointer`], [`Error::Damaged`].
    pub fn get(&self, index: u64) -> Result<Option<T>> {
        Ok(self.cell(index)?.map(PCell::get))
    }

    /// The first element.
    ///
    /// # Errors
    /// As [`Vec::get`].
    pub fn first(&self) -> Result<Option<T>> {
        self.get(0)
    }

    /// The last element.
    ///
    /// # Errors
    /// As [`Vec::get`].
    pub fn last(&self) -> Result<Option<T>> {
        match self.len() {
            0 => Ok(None),
            len => self.get(len - 1),
        }
    }

    changes! {
        /// Appends an element.
        push / push_in => do_push(value: T) -> ();
        /// Takes the last element off. Segments stay for later.
        pop / pop_in => do_pop() -> Option<T>;
        /// Changes element `index`; returns what it was, `None` past the end.
        set / set_in => do_set(index: u64, value: T) -> Option<T>;
        /// Puts the last element in place of element `index` and returns that, `None` past the end.
        swap_remove / swap_remove_in => do_swap_remove(index: u64) -> Option<T>;
        /// Exchanges two elements; `false` when one is past the end.
        swap / swap_in => do_swap(a: u64, b: u64) -> bool;
    }

    fn do_push(&self, tx: &Tx, value: T) -> Result<()> {
        let len = self.len();
        let place = locate(len, size_of::<T>()).ok_or(Error::TooLarge { bytes: len })?;
        let address = match self.address(place)? {
            Some(address) => address,
            None if place.index == 0 => segments::add(tx, &self.segments, place)?,
            None => return Err(damaged(self, "a segment for each element")),
        };
        tx.put_value(address, &value)?;
        tx.put(&self.len, len + 1)
    }

    fn do_pop(&self, tx: &Tx) -> Result<Option<T>> {
        let last = self.last()?;
        if last.is_some() {
            tx.put(&self.len, self.len() - 1)?;
        }
        Ok(last)
    }

    fn do_set(&self, tx: &Tx, index: u64, value: T) -> Result<Option<T>> {
        let Some(cell) = self.cell(index)? else { return Ok(None) };
        let before = cell.get();
        tx.put(cell, value)?;
        Ok(Some(before))
    }

    fn do_swap_remove(&self, tx: &Tx, index: u64) -> Result<Option<T>> {
        let Some(last) = self.last()? else { return Ok(None) };
        let removed = self.do_set(tx, index, last)?;
        if removed.is_some() {
            tx.put(&self.len, self.len() - 1)?;
        }
        Ok(removed)
    }

    fn do_swap(&self, tx: &Tx, a: u64, b: u64) -> Result<bool> {
        let (Some(a), Some(b)) = (self.cell(a)?, self.cell(b)?) else { return Ok(false) };
        let (before_a, before_b) = (a.get(), b.get());
        tx.put(a, before_b)?;
        tx.put(b, before_a)?;
        Ok(true)
    }
}
