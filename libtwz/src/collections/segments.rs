//! Memory of sequences that grow without moving: segments, each twice as long as the one before, each in whatever object had room.

use super::{damaged, home_of, put_all};
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::translate;
use crate::tx::Tx;
use twz_abi::PersistentPtr;

/// Segments: each twice as long as the one before, until they reach [`SEGMENT_MAX`] bytes.
pub(super) const SEGMENTS: usize = 64;
/// Elements in segment 0.
const FIRST: u64 = 8;
/// Largest segment in bytes; four fit an object.
const SEGMENT_MAX: u64 = 128 << 20;

/// Where an element is: segment, place in it, and length of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: usize,
    pub(super) index: u64,
    pub(super) segment_len: u64,
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

/// Where element `index` of `size` bytes is; `None` for one that no sequence has.
pub(super) fn locate(index: u64, size: usize) -> Option<Place> {
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

/// Address of an element; `None` when its segment was never allocated.
#[inline]
pub(super) fn address<T: Invariant>(segments: &[InvPtr<T>; SEGMENTS], place: Place) -> Result<Option<usize>> {
    run_address(segments, place, 1)
}

/// Address of `count` elements in one segment.
#[inline]
fn run_address<T: Invariant>(
    segments: &[InvPtr<T>; SEGMENTS],
    place: Place,
    count: usize,
) -> Result<Option<usize>> {
    let pointer = &segments[place.segment];
    if pointer.is_null() {
        return Ok(None);
    }
    let holder = home_of(pointer)?;
    let index = u32::try_from(place.index * size_of::<T>() as u64).unwrap_or(u32::MAX);
    let offset = pointer.raw().offset().saturating_add(index);
    let bytes = count.saturating_mul(size_of::<T>());
    translate::lea_range(holder, PersistentPtr::new(pointer.raw().index(), offset), bytes).map(Some)
}

/// Allocates the segment of `place` near its pointer, and returns its address, which is that of the segment's first element.
pub(super) fn add<T: Invariant>(tx: &Tx, segments: &[InvPtr<T>; SEGMENTS], place: Place) -> Result<usize> {
    let pointer = &segments[place.segment];
    let home = home_of(pointer)?;
    let bytes = usize::try_from(place.segment_len).unwrap_or(usize::MAX).saturating_mul(size_of::<T>());
    let segment = tx.alloc_unfilled(home, bytes, align_of::<T>())?;
    let stored = translate::persistent(home, segment)?;
    tx.put_value(core::ptr::from_ref(pointer).addr(), &stored.0)?;
    Ok(segment)
}

/// Puts `values` at the places from `from` on, of which those before are all there; allocates segments as they are needed.
pub(super) fn write<T: Invariant>(
    tx: &Tx,
    segments: &[InvPtr<T>; SEGMENTS],
    from: u64,
    values: &[T],
) -> Result<()> {
    let (mut index, mut rest) = (from, values);
    while !rest.is_empty() {
        let place = locate(index, size_of::<T>()).ok_or(Error::TooLarge { bytes: index })?;
        let run = usize::try_from(place.segment_len - place.index).unwrap_or(usize::MAX).min(rest.len());
        let (now, later) = rest.split_at(run);
        put_all(tx, make(tx, segments, place, run)?, now)?;
        (index, rest) = (index.saturating_add(run as u64), later);
    }
    Ok(())
}

/// Address of `count` elements in one segment, which is allocated if `place` is its first and it is not there.
fn make<T: Invariant>(
    tx: &Tx,
    segments: &[InvPtr<T>; SEGMENTS],
    place: Place,
    count: usize,
) -> Result<usize> {
    match run_address(segments, place, count)? {
        Some(address) => Ok(address),
        None if place.index == 0 => add(tx, segments, place),
        None => Err(damaged(&segments[place.segment], "a segment for each element")),
    }
}

/// Allocates what is missing of the segments of the places `from..to`.
pub(super) fn allocate<T: Invariant>(
    tx: &Tx,
    segments: &[InvPtr<T>; SEGMENTS],
    from: u64,
    to: u64,
) -> Result<()> {
    let mut index = from;
    while index < to {
        let place = locate(index, size_of::<T>()).ok_or(Error::TooLarge { bytes: index })?;
        make(tx, segments, place, 1)?;
        index = index.saturating_add(place.segment_len - place.index);
    }
    Ok(())
}

/// Gives all segments back.
pub(super) fn free_all<T: Invariant>(tx: &Tx, segments: &[InvPtr<T>; SEGMENTS]) -> Result<()> {
    for (number, pointer) in segments.iter().enumerate() {
        if pointer.is_null() {
            continue;
        }
        let (doublings, longest) = shape(size_of::<T>());
        let len = if number <= doublings as usize { FIRST << number } else { longest };
        let address = translate::lea(home_of(pointer)?, pointer.raw())?;
        let bytes = usize::try_from(len).unwrap_or(usize::MAX) * size_of::<T>();
        // SAFETY: allocated by `add` with this size; the pointer goes away in the same transaction.
        unsafe { tx.free_raw(address, bytes, align_of::<T>()) }?;
        tx.put_value(core::ptr::from_ref(pointer).addr(), &0_u64)?;
    }
    Ok(())
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
