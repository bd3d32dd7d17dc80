//! A growing sequence whose elements never move.

use super::{alone, damaged, home_of, inside};
use crate::cell::PCell;
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::ptr::{self, InvPtr};
use crate::translate;
use crate::tx::Tx;
use twz_abi::PersistentPtr;

/// Segments: each twice as long as the one before, until they reach [`SEGMENT_MAX`] bytes.
const SEGMENTS: usize = 64;
/// Elements in segment 0.
const FIRST: u64 = 8;
/// Largest segment in bytes; four fit an object.
const SEGMENT_MAX: u64 = 128 << 20;

/// A sequence of `T`. Elements keep their addresses while the vector grows; segments may be in several objects.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct Vec<T: Invariant + Copy> {
    len: PCell<u64>,
    segments: [InvPtr<T>; SEGMENTS],
}

/// Where an element is: segment, place in it, and length of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    segment: usize,
    index: u64,
    segment_len: u64,
}

/// Number of doubling segments for elements of `size` bytes, and the length of the others.
const fn shape(size: usize) -> (u32, u64) {
    let size = if size == 0 { 1 } else { size as u64 };
    let mut doublings = 0;
    let mut len = FIRST;
    while len * 2 * size <= SEGMENT_MAX && doublings < 40 {
        len *= 2;
        doublings += 1;
    }
    (doublings, len)
}

fn locate(index: u64, size: usize) -> Option<Place> {
    let (doublings, longest) = shape(size);
    let level = (index / FIRST + 1).ilog2();
    if level <= doublings {
        let before = FIRST * ((1 << level) - 1);
        return Some(Place { segment: level as usize, index: index - before, segment_len: FIRST << level });
    }
    let rest = index - FIRST * ((1 << (doublings + 1)) - 1);
    let segment = doublings as usize + 1 + usize::try_from(rest / longest).ok()?;
    (segment < SEGMENTS).then_some(Place { segment, index: rest % longest, segment_len: longest })
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
    fn address(&self, place: Place) -> Result<Option<usize>> {
        let pointer = &self.segments[place.segment];
        if pointer.is_null() {
            return Ok(None);
        }
        let holder = home_of(pointer)?;
        let index = u32::try_from(place.index * size_of::<T>() as u64).unwrap_or(u32::MAX);
        let offset = pointer.raw().offset().saturating_add(index);
        translate::lea_range(holder, PersistentPtr::new(pointer.raw().index(), offset), size_of::<T>())
            .map(Some)
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
            None => self.add_segment(tx, place)?,
        };
        tx.put_value(address, &value)?;
        tx.put(&self.len, len + 1)
    }

    fn add_segment(&self, tx: &Tx, place: Place) -> Result<usize> {
        let bytes = usize::try_from(place.segment_len).unwrap_or(usize::MAX) * size_of::<T>();
        let segment = tx.alloc_unfilled(home_of(self)?, bytes, align_of::<T>())?;
        let pointer = &self.segments[place.segment];
        let stored = translate::persistent(home_of(pointer)?, segment)?;
        tx.put_value(core::ptr::from_ref(pointer).addr(), &stored.0)?;
        Ok(segment)
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
            for (number, pointer) in self.segments.iter().enumerate() {
                if pointer.is_null() {
                    continue;
                }
                let (doublings, longest) = shape(size_of::<T>());
                let len = if number <= doublings as usize { FIRST << number } else { longest };
                let address = translate::lea(home_of(pointer)?, pointer.raw())?;
                let bytes = usize::try_from(len).unwrap_or(usize::MAX) * size_of::<T>();
                // SAFETY: allocated by `add_segment` with this size; the pointer goes away in the same transaction.
                unsafe { tx.free_raw(address, bytes, align_of::<T>()) }?;
                tx.put_value(core::ptr::from_ref(pointer).addr(), &0_u64)?;
            }
            Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_has_its_own_place() {
        for size in [1, 8, 24, 1 << 20] {
            let mut expected = Place { segment: 0, index: 0, segment_len: FIRST };
            for index in 0..100_000 {
                if expected.index == expected.segment_len {
                    let next = locate(index, size);
                    let Some(next) = next else { break };
                    assert_eq!((next.segment, next.index), (expected.segment + 1, 0), "{index}");
                    expected = next;
                }
                assert_eq!(locate(index, size), Some(expected), "{index}");
                expected.index += 1;
            }
        }
        assert_eq!(locate(u64::MAX - 8, 8), None);
    }
}
