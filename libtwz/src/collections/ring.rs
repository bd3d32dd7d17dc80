//! The newest elements, a fixed number of them.

use super::segments::{self, Place, SEGMENTS, locate};
use super::{alone, damaged, inside};
use crate::cell::PCell;
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::ptr::{self, InvPtr};
use crate::tx::Tx;

/// A queue of at most `N` elements. Its places come when they are first needed, and are used again and again; they may be in several
/// objects.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct Ring<T: Invariant + Copy, const N: usize> {
    /// Elements ever taken off.
    head: PCell<u64>,
    /// Elements ever put in.
    tail: PCell<u64>,
    segments: [InvPtr<T>; SEGMENTS],
}

impl<T: Invariant + Copy, const N: usize> Default for Ring<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Invariant + Copy, const N: usize> Ring<T, N> {
    /// An empty ring.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(N > 0, "a ring has at least one place") };
        Self { head: PCell::new(0), tail: PCell::new(0), segments: [const { InvPtr::null() }; SEGMENTS] }
    }

    /// Number of elements.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn len(&self) -> Result<usize> {
        let len = self.tail.get().wrapping_sub(self.head.get());
        usize::try_from(len).ok().filter(|len| *len <= N).ok_or_else(|| damaged(self, "at most N elements"))
    }

    /// Whether there are none.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Where element `number`, counted from the first ever, has its place.
    fn place(&self, number: u64) -> Result<Place> {
        let at = number % N as u64;
        locate(at, size_of::<T>()).ok_or(Error::TooLarge { bytes: at })
    }

    /// Element `number`, which was put in and not taken off.
    fn element(&self, number: u64) -> Result<T> {
        let address = segments::address(&self.segments, self.place(number)?)?;
        let address = address.ok_or_else(|| damaged(self, "a segment for each element"))?;
        Ok(ptr::at_address::<PCell<T>>(address)?.get())
    }

    /// Element `index` from the oldest on; `None` past the newest.
    ///
    /// # Errors
    /// [`Error::BadPointer`], [`Error::Damaged`].
    pub fn get(&self, index: usize) -> Result<Option<T>> {
        if index >= self.len()? {
            return Ok(None);
        }
        self.element(self.head.get().wrapping_add(index as u64)).map(Some)
    }

    /// The oldest element.
    ///
    /// # Errors
    /// As [`Ring::get`].
    pub fn front(&self) -> Result<Option<T>> {
        self.get(0)
    }

    /// The newest element.
    ///
    /// # Errors
    /// As [`Ring::get`].
    pub fn back(&self) -> Result<Option<T>> {
        match self.len()? {
            0 => Ok(None),
            len => self.get(len - 1),
        }
    }

    /// Appends an element, durably; when the ring is full the oldest goes, and is returned.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`], [`Error::TooLarge`] for a ring that is longer than sequences can be, [`Error::Damaged`], [`Error::Busy`].
    pub fn push_back(&self, value: T) -> Result<Option<T>> {
        alone(self, |tx| self.do_push(tx, value))
    }

    /// Appends as a part of `tx`.
    ///
    /// # Errors
    /// As [`Ring::push_back`].
    pub fn push_back_in(&self, tx: &Tx, value: T) -> Result<Option<T>> {
        inside(tx, |tx| self.do_push(tx, value))
    }

    fn do_push(&self, tx: &Tx, value: T) -> Result<Option<T>> {
        let (head, tail) = (self.head.get(), self.tail.get());
        let lost = if self.len()? == N { Some(self.element(head)?) } else { None };
        if lost.is_some() {
            tx.put(&self.head, head.wrapping_add(1))?;
        }
        let place = self.place(tail)?;
        let address = match segments::address(&self.segments, place)? {
            Some(address) => address,
            // Places fill from the first on, so a segment begins with its first one – unless damage moved the counters.
            None if place.index == 0 => segments::add(tx, &self.segments, place)?,
            None => return Err(damaged(self, "a segment for each place before the newest")),
        };
        tx.put_value(address, &value)?;
        tx.put(&self.tail, tail.wrapping_add(1))?;
        Ok(lost)
    }

    /// Takes the oldest element, durably.
    ///
    /// # Errors
    /// As [`Ring::push_back`].
    pub fn pop_front(&self) -> Result<Option<T>> {
        alone(self, |tx| self.do_pop(tx))
    }

    /// Takes the oldest element as a part of `tx`.
    ///
    /// # Errors
    /// As [`Ring::pop_front`].
    pub fn pop_front_in(&self, tx: &Tx) -> Result<Option<T>> {
        inside(tx, |tx| self.do_pop(tx))
    }

    fn do_pop(&self, tx: &Tx) -> Result<Option<T>> {
        if self.is_empty()? {
            return Ok(None);
        }
        let head = self.head.get();
        let oldest = self.element(head)?;
        tx.put(&self.head, head.wrapping_add(1))?;
        Ok(Some(oldest))
    }

    /// Takes everything out and gives all memory back, durably, all or nothing.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Damaged`].
    pub fn clear(&self) -> Result<()> {
        alone(self, |tx| {
            tx.put(&self.head, 0)?;
            tx.put(&self.tail, 0)?;
            segments::free_all(tx, &self.segments)
        })
    }

    /// The elements, oldest first; ends after the first error.
    ///
    /// # Errors
    /// [`Error::Damaged`] for counters that say more than there can be.
    pub fn iter(&self) -> Result<impl Iterator<Item = Result<T>>> {
        let (head, len) = (self.head.get(), self.len()? as u64);
        let mut next = 0;
        Ok(core::iter::from_fn(move || {
            if next >= len {
                return None;
            }
            let item = self.element(head.wrapping_add(next));
            next = if item.is_ok() { next + 1 } else { len };
            Some(item)
        }))
    }
}
