//! Changes of a vector that move several elements: what moves is read into this program's memory, and put.

use super::Vec;
use crate::collections::segments;
use crate::collections::{bounds_of, reserve};
use crate::error::Result;
use crate::invariant::Invariant;
use crate::tx::Tx;
use core::ops::RangeBounds;

/// In this program's memory.
type Copied<T> = alloc::vec::Vec<T>;

impl<T: Invariant + Copy> Vec<T> {
    changes! {
        /// Appends all that `values` gives.
        extend / extend_in => do_extend(values: impl IntoIterator<Item = T>) -> ();
        /// Appends a slice.
        extend_from_slice / extend_from_slice_in => do_extend_from_slice(values: &[T]) -> ();
        /// Moves all elements of `other` to the end of this one; nothing if that is the same.
        append / append_in => do_append(other: &Self) -> ();
        /// Puts `value` before element `index`, or at the end; `false` when `index` is past that.
        insert / insert_in => do_insert(index: u64, value: T) -> bool;
        /// Takes element `index` out and moves those behind it; `None` past the end.
        remove / remove_in => do_remove(index: u64) -> Option<T>;
        /// Keeps the elements for which `keep` is true, in order.
        retain / retain_in => do_retain(keep: impl FnMut(&T) -> bool) -> ();
        /// Takes the elements in `range` out and returns them.
        drain / drain_in => do_drain(range: impl RangeBounds<u64>) -> alloc::vec::Vec<T>;
        /// Makes it `len` elements long; new ones are `value`.
        resize / resize_in => do_resize(len: u64, value: T) -> ();
    }

    /// A copy of all elements in this program's memory.
    ///
    /// # Errors
    /// As [`Vec::get`].
    pub fn to_vec(&self) -> Result<alloc::vec::Vec<T>> {
        self.read(0, self.len())
    }

    pub(super) fn read(&self, from: u64, to: u64) -> Result<Copied<T>> {
        let mut elements = Copied::new();
        reserve(&mut elements, to.saturating_sub(from))?;
        for index in from..to {
            elements.extend(self.get(index)?);
        }
        Ok(elements)
    }

    pub(super) fn do_extend_from_slice(&self, tx: &Tx, values: &[T]) -> Result<()> {
        self.overwrite(tx, self.len(), values)
    }

    /// What stands from `from` on becomes `values`, and the end.
    fn overwrite(&self, tx: &Tx, from: u64, values: &[T]) -> Result<()> {
        segments::write(tx, &self.segments, from, values)?;
        tx.put(&self.len, from + values.len() as u64)
    }

    fn do_extend(&self, tx: &Tx, values: impl IntoIterator<Item = T>) -> Result<()> {
        let mut all = Copied::new();
        for value in values {
            crate::collections::push(&mut all, value)?;
        }
        self.do_extend_from_slice(tx, &all)
    }

    fn do_append(&self, tx: &Tx, other: &Self) -> Result<()> {
        if core::ptr::eq(self, other) {
            return Ok(());
        }
        self.do_extend_from_slice(tx, &other.to_vec()?)?;
        tx.put(&other.len, 0)
    }

    fn do_insert(&self, tx: &Tx, index: u64, value: T) -> Result<bool> {
        let len = self.len();
        if index > len {
            return Ok(false);
        }
        let mut tail = Copied::new();
        reserve(&mut tail, (len - index).saturating_add(1))?;
        tail.push(value);
        tail.extend(self.read(index, len)?);
        self.overwrite(tx, index, &tail)?;
        Ok(true)
    }

    fn do_remove(&self, tx: &Tx, index: u64) -> Result<Option<T>> {
        let removed = self.get(index)?;
        if removed.is_some() {
            self.overwrite(tx, index, &self.read(index + 1, self.len())?)?;
        }
        Ok(removed)
    }

    fn do_retain(&self, tx: &Tx, mut keep: impl FnMut(&T) -> bool) -> Result<()> {
        let mut elements = self.to_vec()?;
        // What stands before the first one that goes is not written again.
        let Some(first) = elements.iter().position(|element| !keep(element)) else { return Ok(()) };
        let mut behind = elements.split_off(first + 1);
        behind.retain(keep);
        self.overwrite(tx, first as u64, &behind)
    }

    fn do_drain(&self, tx: &Tx, range: impl RangeBounds<u64>) -> Result<Copied<T>> {
        let (start, end) = bounds_of(&range, self.len());
        let removed = self.read(start, end)?;
        if !removed.is_empty() {
            self.overwrite(tx, start, &self.read(end, self.len())?)?;
        }
        Ok(removed)
    }

    fn do_resize(&self, tx: &Tx, len: u64, value: T) -> Result<()> {
        let more = len.saturating_sub(self.len());
        if more == 0 {
            return self.do_truncate(tx, len);
        }
        let mut values = Copied::new();
        reserve(&mut values, more)?;
        values.extend((0..more).map(|_| value));
        self.do_extend_from_slice(tx, &values)
    }
}
