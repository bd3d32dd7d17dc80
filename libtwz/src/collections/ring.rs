//! The newest elements, a fixed number of them, in place.

use super::{alone, damaged, inside};
use crate::cell::PCell;
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::tx::Tx;

/// A queue of at most `N` elements that stand in it.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct Ring<T: Invariant + Copy, const N: usize> {
    /// Elements ever taken off.
    head: PCell<u64>,
    /// Elements ever put in.
    tail: PCell<u64>,
    places: [PCell<T>; N],
}

impl<T: Invariant + Copy, const N: usize> Ring<T, N> {
    /// An empty ring; `blank` fills its places.
    #[must_use]
    pub fn new(blank: T) -> Self {
        Self { head: PCell::new(0), tail: PCell::new(0), places: core::array::from_fn(|_| PCell::new(blank)) }
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

    fn place(&self, number: u64) -> Result<&PCell<T>> {
        let index = usize::try_from(number % (N.max(1) as u64)).unwrap_or(0);
        self.places.get(index).ok_or(Error::TooLarge { bytes: 0 })
    }

    /// Appends an element, durably; when the ring is full the oldest goes, and is returned.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Busy`].
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
        let place = self.place(self.tail.get())?;
        let lost = if self.len()? == N { Some(place.get()) } else { None };
        if lost.is_some() {
            tx.put(&self.head, self.head.get().wrapping_add(1))?;
        }
        tx.put(place, value)?;
        tx.put(&self.tail, self.tail.get().wrapping_add(1))?;
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
        tx.put(&self.head, head.wrapping_add(1))?;
        Ok(Some(self.place(head)?.get()))
    }

    /// The elements, oldest first.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn iter(&self) -> Result<impl Iterator<Item = T>> {
        let (head, len) = (self.head.get(), self.len()? as u64);
        Ok((0..len).filter_map(move |i| Some(self.place(head.wrapping_add(i)).ok()?.get())))
    }
}
