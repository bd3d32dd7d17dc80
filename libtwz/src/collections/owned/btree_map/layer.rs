//! A layer: what the next bytes of keys lead to, all of which begin with the same bytes.

use super::super::entry::Entry;
use crate::cell::PCell;
use crate::collections::{self, damaged, home_of};
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr;
use crate::tx::Tx;
use twz_abi::PersistentPtr;

/// Bytes of a key that a layer tells apart.
pub(super) const BYTES: usize = 15;
/// In place of a length: more bytes follow.
const MORE: u8 = 16;

/// The next [`BYTES`] bytes of a key, as far as there are so many, then zeros, and how many there are: in order as the keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Invariant)]
#[repr(C)]
pub(super) struct Slice {
    high: u64,
    low: u64,
}

impl Slice {
    /// That of `key` after `depth` bytes.
    pub(super) fn of(key: &[u8], depth: usize) -> Self {
        let rest = key.get(depth..).unwrap_or_default();
        let mut bytes = [0; 16];
        let count = rest.len().min(BYTES);
        bytes[..count].copy_from_slice(&rest[..count]);
        #[allow(clippy::cast_possible_truncation, reason = "at most 15")]
        {
            bytes[BYTES] = if rest.len() > BYTES { MORE } else { count as u8 };
        }
        let word = |at: usize| bytes[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        Self { high: word(0), low: word(8) }
    }

    /// Whether keys with it may go on.
    fn has_more(self) -> bool {
        self.low.to_le_bytes()[0] == MORE
    }
}

/// Where a slice leads, as a pointer of the object that the layer stands in.
#[derive(Clone, Copy, Debug, Invariant)]
#[repr(C)]
pub(super) struct Slot {
    to: PersistentPtr,
    kind: u64,
}

const ENTRY: u64 = 0;
const LAYER: u64 = 1;

/// What a slot leads to.
#[derive(Debug)]
pub(super) enum Target<'a, V: Invariant> {
    Entry(Entry<'a, V>),
    Layer(&'a Layer),
}

/// A layer.
#[derive(Debug, Invariant)]
#[repr(C)]
pub(super) struct Layer {
    /// How many bytes of the keys come before.
    depth: PCell<u64>,
    pub(super) slots: collections::BTreeMap<Slice, Slot>,
}

impl Layer {
    /// The first one.
    pub(super) const fn root() -> Self {
        Self { depth: PCell::new(0), slots: collections::BTreeMap::new() }
    }

    /// How many bytes of the keys come before; of the first one whatever it says.
    pub(super) fn depth(&self) -> usize {
        usize::try_from(self.depth.get()).unwrap_or(usize::MAX)
    }

    /// What stands in a slot of it. A layer lies deeper than the one that leads to it, so there is no cycle.
    pub(super) fn target<V: Invariant>(&self, slice: Slice, slot: Slot) -> Result<Target<'_, V>> {
        let home = home_of(self)?;
        if slot.kind == ENTRY {
            return Entry::at(home, slot.to).map(Target::Entry);
        }
        let below: &Self = ptr::at(home, slot.to)?;
        if slot.kind != LAYER || !slice.has_more() || below.depth() != self.depth().saturating_add(BYTES) {
            return Err(damaged(below, "a layer of the next bytes"));
        }
        Ok(Target::Layer(below))
    }

    /// What a slice leads to.
    pub(super) fn get<V: Invariant>(&self, slice: Slice) -> Result<Option<Target<'_, V>>> {
        self.slots.get(&slice)?.map(|slot| self.target(slice, slot)).transpose()
    }

    /// Makes a slice lead to an entry.
    pub(super) fn put<V: Invariant>(&self, tx: &Tx, slice: Slice, entry: &Entry<'_, V>) -> Result<()> {
        let slot = Slot { to: entry.pointer_in(home_of(self)?)?, kind: ENTRY };
        self.slots.put_entry_in(tx, slice, slot).map(drop)
    }

    /// Puts a new layer with what the next bytes lead to between a slice and its entry, whose key is `key`.
    pub(super) fn deepen<V: Invariant>(
        &self,
        tx: &Tx,
        slice: Slice,
        entry: &Entry<'_, V>,
        key: &[u8],
    ) -> Result<&Self> {
        let (home, depth) = (home_of(self)?, self.depth().saturating_add(BYTES));
        if !slice.has_more() || slice != Slice::of(key, self.depth()) {
            return Err(entry.bad("a key with the bytes that lead to it"));
        }
        let new = Self { depth: PCell::new(depth as u64), slots: collections::BTreeMap::new() };
        let new = tx.alloc_put(home, new)?;
        tx.apply()?;
        new.put(tx, Slice::of(key, depth), entry)?;
        let to = crate::translate::persistent(home, core::ptr::from_ref(new).addr())?;
        self.slots.put_entry_in(tx, slice, Slot { to, kind: LAYER })?;
        tx.apply()?;
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_in_order_as_keys() {
        let mut keys: alloc::vec::Vec<alloc::vec::Vec<u8>> = alloc::vec![];
        for length in [0, 1, 7, 8, 9, 14, 15, 16, 17] {
            for last in [0, 1, 15, 16, 17, 255] {
                let mut key = alloc::vec![1; length];
                if let Some(byte) = key.last_mut() {
                    *byte = last;
                }
                keys.push(key);
            }
        }
        keys.sort();
        for pair in keys.windows(2) {
            let (a, b) = (Slice::of(&pair[0], 0), Slice::of(&pair[1], 0));
            assert!(a <= b, "{pair:?}");
            // Two keys with one slice are the same, or both go on.
            assert!(a != b || pair[0] == pair[1] || a.has_more() && pair[0][..BYTES] == pair[1][..BYTES]);
        }
    }
}
