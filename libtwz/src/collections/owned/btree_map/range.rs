//! Walking the map in order, from both ends.

use super::BTreeMap;
use super::layer::{Layer, Slice, Slot, Target};
use crate::collections::maps::{is_before, is_from};
use crate::collections::owned::entry::Entry;
use crate::collections::owned::{Key, Value, key_of};
use crate::collections::{self, damaged};
use crate::error::Result;
use crate::invariant::Invariant;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::Bound;

const FRONT: usize = 0;
const BACK: usize = 1;

/// The entries of a range. What was given out shortens it, so each end ends at the other, and damage that makes keys come again shows.
#[derive(Debug)]
pub(super) struct Entries<'a, V: Invariant> {
    root: &'a Layer,
    /// Where the range begins and ends.
    bounds: [Bound<Vec<u8>>; 2],
    /// Each end's way: layers that are not done, the deepest last.
    ways: [Option<Vec<Level<'a>>>; 2],
    finished: bool,
    values: PhantomData<fn() -> V>,
}

/// A layer on an end's way.
#[derive(Debug)]
struct Level<'a> {
    layer: &'a Layer,
    slots: collections::BTreeMapRange<'a, Slice, Slot>,
    /// All that leads here is the beginning of the range's bound: so there may be keys outside the range.
    is_edge: bool,
    /// Nothing was found in it yet.
    is_empty: bool,
}

impl<'a, V: Invariant> Entries<'a, V> {
    pub(super) fn of<K: Key>(map: &'a BTreeMap<K, V>, start: Bound<Vec<u8>>, end: Bound<Vec<u8>>) -> Self {
        let bounds = [start, end];
        Self { root: &map.root, bounds, ways: [None, None], finished: false, values: PhantomData }
    }

    /// The slice of an end's bound in a layer; `None` when there is no bound.
    fn bound_in(&self, side: usize, layer: &Layer) -> Option<Slice> {
        match &self.bounds[side] {
            Bound::Included(key) | Bound::Excluded(key) => Some(Slice::of(key, layer.depth())),
            Bound::Unbounded => None,
        }
    }

    /// A layer at its beginning for an end.
    fn level(&self, side: usize, layer: &'a Layer, is_edge: bool) -> Level<'a> {
        let bound = if is_edge { self.bound_in(side, layer) } else { None };
        let slots = match bound {
            Some(slice) if side == FRONT => layer.slots.range(slice..),
            Some(slice) => layer.slots.range(..=slice),
            None => layer.slots.iter(),
        };
        Level { layer, slots, is_edge: bound.is_some(), is_empty: true }
    }

    fn take(&mut self, side: usize) -> Result<Option<Entry<'a, V>>> {
        let mut way = match self.ways[side].take() {
            Some(way) => way,
            None => alloc::vec![self.level(side, self.root, true)],
        };
        while let Some(level) = way.last_mut() {
            let next = if side == FRONT { level.slots.next() } else { level.slots.next_back() };
            let Some((slice, slot)) = next.transpose()? else {
                if level.is_empty && !level.is_edge && !core::ptr::eq(level.layer, self.root) {
                    return Err(damaged(level.layer, "a layer with entries"));
                }
                way.pop();
                continue;
            };
            level.is_empty = false;
            match level.layer.target::<V>(slice, slot)? {
                Target::Layer(below) => {
                    let is_edge = level.is_edge && self.bound_in(side, level.layer) == Some(slice);
                    way.push(self.level(side, below, is_edge));
                }
                Target::Entry(entry) => {
                    let key = entry.key()?;
                    let [start, end] = &self.bounds;
                    let (from, before) = (is_from(start, &key), is_before(end, &key));
                    let (advanced, inside) = if side == FRONT { (from, before) } else { (before, from) };
                    if !inside {
                        return Ok(None);
                    }
                    if !advanced {
                        if level.is_edge {
                            continue;
                        }
                        return Err(entry.bad("keys in order"));
                    }
                    self.bounds[side] = Bound::Excluded(key);
                    self.ways[side] = Some(way);
                    return Ok(Some(entry));
                }
            }
        }
        Ok(None)
    }

    fn give(&mut self, side: usize) -> Option<Result<Entry<'a, V>>> {
        if self.finished {
            return None;
        }
        let entry = self.take(side);
        self.finished = !matches!(entry, Ok(Some(_)));
        entry.transpose()
    }
}

impl<'a, V: Invariant> Iterator for Entries<'a, V> {
    type Item = Result<Entry<'a, V>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.give(FRONT)
    }
}

impl<V: Invariant> DoubleEndedIterator for Entries<'_, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.give(BACK)
    }
}

/// Copies of the entries of a [`BTreeMap`] in a range, in order, from both ends; ends after the first error.
#[derive(Debug)]
pub struct BTreeMapRange<'a, K: Key, V: Value> {
    entries: Entries<'a, V>,
    keys: PhantomData<fn() -> K>,
}

impl<'a, K: Key, V: Value> BTreeMapRange<'a, K, V> {
    pub(super) fn over(entries: Entries<'a, V>) -> Self {
        Self { entries, keys: PhantomData }
    }
}

fn copies<K: Key, V: Value>(entry: Result<Entry<'_, V>>) -> Result<(K::Owned, V::Taken)> {
    let entry = entry?;
    Ok((key_of::<K, V>(&entry)?, V::read(entry.value)?))
}

impl<K: Key, V: Value> Iterator for BTreeMapRange<'_, K, V> {
    type Item = Result<(K::Owned, V::Taken)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entries.next().map(copies::<K, V>)
    }
}

impl<K: Key, V: Value> DoubleEndedIterator for BTreeMapRange<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.entries.next_back().map(copies::<K, V>)
    }
}

impl<'a, K: Key, V: Value> IntoIterator for &'a BTreeMap<K, V> {
    type Item = Result<(K::Owned, V::Taken)>;
    type IntoIter = BTreeMapRange<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
