//! The newest elements, a fixed number of them.
//!
//! The names are those of std's `VecDeque`. `push_front`, `pop_back` and what changes the middle are not there: a ring forgets its oldest
//! elements, one by one.

use super::segments::{self, Place, SEGMENTS, locate};
use super::{damaged, debug, has};
use crate::cell::PCell;
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::ptr::{self, InvPtr};
use crate::tx::Tx;
use core::fmt;

/// A queue of at most `N` elements. Its places come when they are first needed, and are used again and again; they may be in several
/// objects.
#[derive(Invariant)]
#[repr(C)]
#[invariant(version = 1)]
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

    /// Number of elements. Of counters that cannot be, the largest number that can; whatever reads or changes elements says that they are damaged.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.tail.get().wrapping_sub(self.head.get()).min(N as u64)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of the oldest element, counted from the first ever, and how many there are.
    fn span(&self) -> Result<(u64, u64)> {
        let (head, tail) = (self.head.get(), self.tail.get());
        let len = tail.wrapping_sub(head);
        if len <= N as u64 { Ok((head, len)) } else { Err(damaged(self, "at most N elements")) }
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
    pub fn get(&self, index: u64) -> Result<Option<T>> {
        let (head, len) = self.span()?;
        if index < len { self.element(head.wrapping_add(index)).map(Some) } else { Ok(None) }
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
        match self.span()?.1 {
            0 => Ok(None),
            len => self.get(len - 1),
        }
    }

    /// Whether an element equals `value`.
    ///
    /// # Errors
    /// As [`Ring::get`].
    pub fn contains(&self, value: &T) -> Result<bool>
    where
        T: PartialEq,
    {
        has(self, value)
    }

    changes! {
        /// Appends an element; when the ring is full the oldest goes, and is returned.
        push_back / push_back_in => do_push(value: T) -> Option<T>;
        /// Takes the oldest element.
        pop_front / pop_front_in => do_pop() -> Option<T>;
        /// Appends all that `values` gives; the oldest go, as far as they must.
        extend / extend_in => do_extend(values: impl IntoIterator<Item = T>) -> ();
        /// Takes everything out and gives all memory back.
        clear / clear_in => do_clear() -> ();
    }

    fn do_push(&self, tx: &Tx, value: T) -> Result<Option<T>> {
        let (head, len) = self.span()?;
        let lost = if len == N as u64 { Some(self.element(head)?) } else { None };
        if lost.is_some() {
            tx.put(&self.head, head.wrapping_add(1))?;
        }
        let tail = head.wrapping_add(len);
        self.put_at(tx, tail, value)?;
        tx.put(&self.tail, tail.wrapping_add(1))?;
        Ok(lost)
    }

    fn put_at(&self, tx: &Tx, number: u64, value: T) -> Result<()> {
        let place = self.place(number)?;
        let address = match segments::address(&self.segments, place)? {
            Some(address) => address,
            // Places fill from the first on, so a segment begins with its first one – unless damage moved the counters.
            None if place.index == 0 => {
                let address = segments::add(tx, &self.segments, place)?;
                tx.apply()?; // more elements may come
                address
            }
            None => return Err(damaged(self, "a segment for each place before the newest")),
        };
        tx.put_value(address, &value)
    }

    fn do_extend(&self, tx: &Tx, values: impl IntoIterator<Item = T>) -> Result<()> {
        let (mut head, mut len) = self.span()?;
        for value in values {
            self.put_at(tx, head.wrapping_add(len), value)?;
            if len < N as u64 { len += 1 } else { head = head.wrapping_add(1) }
        }
        tx.put(&self.head, head)?;
        tx.put(&self.tail, head.wrapping_add(len))
    }

    fn do_pop(&self, tx: &Tx) -> Result<Option<T>> {
        let (head, len) = self.span()?;
        if len == 0 {
            return Ok(None);
        }
        let oldest = self.element(head)?;
        tx.put(&self.head, head.wrapping_add(1))?;
        Ok(Some(oldest))
    }

    fn do_clear(&self, tx: &Tx) -> Result<()> {
        tx.put(&self.head, 0)?;
        tx.put(&self.tail, 0)?;
        segments::free_all(tx, &self.segments)
    }

    /// The elements, oldest first, from both ends; ends after the first error.
    pub fn iter(&self) -> RingIter<'_, T, N> {
        match self.span() {
            Ok((head, len)) => RingIter { of: self, next: head, left: len, error: None },
            Err(error) => RingIter { of: self, next: 0, left: 0, error: Some(error) },
        }
    }
}

/// The elements of a [`Ring`], from both ends; ends after the first error.
#[derive(Clone, Debug)]
pub struct RingIter<'a, T: Invariant + Copy, const N: usize> {
    of: &'a Ring<T, N>,
    next: u64,
    left: u64,
    error: Option<Error>,
}

impl<T: Invariant + Copy, const N: usize> RingIter<'_, T, N> {
    fn item(&mut self, number: u64) -> Option<Result<T>> {
        let item = self.of.element(number);
        if item.is_err() {
            self.left = 0;
        }
        Some(item)
    }
}

impl<T: Invariant + Copy, const N: usize> Iterator for RingIter<'_, T, N> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        self.left = self.left.checked_sub(1)?;
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.item(number)
    }
}

impl<T: Invariant + Copy, const N: usize> DoubleEndedIterator for RingIter<'_, T, N> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        self.left = self.left.checked_sub(1)?;
        self.item(self.next.wrapping_add(self.left))
    }
}

impl<T: Invariant + Copy + fmt::Debug, const N: usize> fmt::Debug for Ring<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug::list(f, self)
    }
}

impl<'a, T: Invariant + Copy, const N: usize> IntoIterator for &'a Ring<T, N> {
    type Item = Result<T>;
    type IntoIter = RingIter<'a, T, N>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
