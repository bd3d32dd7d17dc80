//! A growing sequence whose elements never move.

use super::segments::{self, Place, SEGMENTS, locate};
use super::{alone, damaged, inside};
use crate::cell::PCell;
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::ptr::{self, InvPtr};
use crate::tx::Tx;

/// A sequence of `T`. Elements keep their addresses while the vector grows; segments may be in several objects.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct Vec<T: Invariant + Copy> {
    len: PCell<u64>,
    segments: [InvPtr<T>; SEGMENTS],
}

impl<T: Invariant + Copy> Default for Vec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Invariant + Copy> Vec<T> {
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

    /// Element `index`, `None` past the end.
    ///
    /// # Errors
    /// [`Error::BadPointer`], [`Error::Damaged`].
    pub fn get(&self, index: u64) -> Result<Option<T>> {
        if index >= self.len() {
            return Ok(None);
        }
        let place = locate(index, size_of::<T>()).ok_or_else(|| damaged(self, "a length that fits"))?;
        let address = self.address(place)?.ok_or_else(|| damaged(self, "a segment for each element"))?;
        Ok(Some(ptr::at_address::<PCell<T>>(address)?.get()))
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

    /// Address of an element; `None` when its segment was never allocated.
    #[inline]
    fn address(&self, place: Place) -> Result<Option<usize>> {
        segments::address(&self.segments, place)
    }

    /// Appends an element, durably.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`], [`Error::Busy`].
    pub fn push(&self, value: T) -> Result<()> {
        alone(self, |tx| self.do_push(tx, value))
    }

    /// Appends an element as a part of `tx`.
    ///
    /// # Errors
    /// As [`Vec::push`].
    pub fn push_in(&self, tx: &Tx, value: T) -> Result<()> {
        inside(tx, |tx| self.do_push(tx, value))
    }

    fn do_push(&self, tx: &Tx, value: T) -> Result<()> {
        let len = self.len();
        let place = locate(len, size_of::<T>()).ok_or(Error::TooLarge { bytes: len })?;
        let address = match self.address(place)? {
            Some(address) => address,
            None => segments::add(tx, &self.segments, place)?,
        };
        tx.put_value(address, &value)?;
        tx.put(&self.len, len + 1)
    }

    /// Takes the last element off, durably. Segments stay for later.
    ///
    /// # Errors
    /// As [`Vec::get`]; [`Error::Busy`].
    pub fn pop(&self) -> Result<Option<T>> {
        alone(self, |tx| self.do_pop(tx))
    }

    /// Takes the last element off as a part of `tx`.
    ///
    /// # Errors
    /// As [`Vec::pop`].
    pub fn pop_in(&self, tx: &Tx) -> Result<Option<T>> {
        inside(tx, |tx| self.do_pop(tx))
    }

    fn do_pop(&self, tx: &Tx) -> Result<Option<T>> {
        let last = self.last()?;
        if last.is_some() {
            tx.put(&self.len, self.len() - 1)?;
        }
        Ok(last)
    }

    /// Changes element `index`, durably; returns what it was, `None` past the end.
    ///
    /// # Errors
    /// As [`Vec::get`]; [`Error::Busy`].
    pub fn set(&self, index: u64, value: T) -> Result<Option<T>> {
        alone(self, |tx| self.do_set(tx, index, value))
    }

    /// Changes element `index` as a part of `tx`.
    ///
    /// # Errors
    /// As [`Vec::set`].
    pub fn set_in(&self, tx: &Tx, index: u64, value: T) -> Result<Option<T>> {
        inside(tx, |tx| self.do_set(tx, index, value))
    }

    fn do_set(&self, tx: &Tx, index: u64, value: T) -> Result<Option<T>> {
        let before = self.get(index)?;
        let place = locate(index, size_of::<T>());
        if let (Some(_), Some(place)) = (before, place)
            && let Some(address) = self.address(place)?
        {
            tx.put_value(address, &value)?;
        }
        Ok(before)
    }

    /// Puts the last element in place of element `index` and returns that, durably.
    ///
    /// # Errors
    /// As [`Vec::set`].
    pub fn swap_remove(&self, index: u64) -> Result<Option<T>> {
        alone(self, |tx| {
            let Some(last) = self.last()? else { return Ok(None) };
            let removed = self.do_set(tx, index, last)?;
            if removed.is_some() {
                tx.put(&self.len, self.len() - 1)?;
            }
            Ok(removed)
        })
    }

    /// Gives all memory back, durably.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Damaged`].
    pub fn clear(&self) -> Result<()> {
        alone(self, |tx| {
            tx.put(&self.len, 0)?;
            segments::free_all(tx, &self.segments)
        })
    }

    /// The elements in order; ends after the first error.
    pub fn iter(&self) -> impl Iterator<Item = Result<T>> {
        let mut next = 0;
        core::iter::from_fn(move || {
            let item = self.get(next).transpose();
            next = if matches!(item, Some(Err(_))) { u64::MAX } else { next.saturating_add(1) };
            item
        })
    }
}
