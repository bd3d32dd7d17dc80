//! An ordered map of entries: layers of ordered maps, each of which tells keys apart by 15 bytes more.
//!
//! ```text
//! "the first key of it"  ─┐ slice "the first key o", goes on          ┌─ "f it", 4 bytes ──▶ entry
//! "the first key out"    ─┴──────────────────────────▶ layer, depth 15 ┴─ "ut", 2 bytes ────▶ entry
//! "another key"          ─── slice "another key", 11 bytes ──────────────────────────────────▶ entry
//! ```
//! A layer is a [`super::super::BTreeMap`] from slices to entries or layers. A slice whose keys go on leads to an entry while there is one such
//! key, then to a layer; one that becomes empty is given back. So a look-up compares words, and reads one entry at last; each 15 bytes
//! that two keys begin with alike cost a layer (40 bytes and a leaf of 528).

mod layer;
mod range;

pub use self::range::BTreeMapRange;

use self::layer::{BYTES, Layer, Slice, Target};
use self::range::Entries;
use super::entry::Entry;
use super::{Key, Release, Types, Value, in_place, key_of, shown};
use crate::cell::PCell;
use crate::collections::{damaged, debug, home_of};
use crate::error::Result;
use crate::invariant::Invariant;
use crate::tx::Tx;
use crate::window::Window;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Bound, RangeBounds};

/// A map in order of the keys' bytes that owns keys and values: of texts as std's, of numbers by size.
#[derive(Invariant)]
#[repr(C)]
#[invariant(version = 1)]
pub struct BTreeMap<K: Key, V: Invariant> {
    count: PCell<u64>,
    root: Layer,
    types: Types<K, V>,
}

impl<K: Key, V: Invariant> Default for BTreeMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Key, V: Invariant> BTreeMap<K, V> {
    /// An empty map.
    #[must_use]
    pub const fn new() -> Self {
        Self { count: PCell::new(0), root: Layer::root(), types: Types(PhantomData) }
    }

    owned_map_methods!(DoubleEndedIterator);

    /// The entries whose keys are in `range` with their values in place, as `get_ref`, in order, from both ends; ends after the first error.
    pub fn range_ref<'k>(
        &self,
        range: impl RangeBounds<&'k K::Borrowed>,
    ) -> impl DoubleEndedIterator<Item = Result<(K::Owned, &V)>>
    where
        K::Borrowed: 'k,
    {
        self.entries_in(range).map(in_place::<K, V>)
    }

    fn find(&self, key: &[u8]) -> Result<Option<Entry<'_, V>>> {
        let Some(entry) = self.descend(key, |_, _| {})?.1 else { return Ok(None) };
        Ok(entry.has_key(key)?.then_some(entry))
    }

    /// The last layer that tells `key` from others, and the entry there: that of `key`, or of one that begins alike. Calls `step` for each layer
    /// passed and what leads on from there.
    fn descend<'a>(
        &'a self,
        key: &[u8],
        mut step: impl FnMut(&'a Layer, Slice),
    ) -> Result<(&'a Layer, Option<Entry<'a, V>>)> {
        let mut layer = &self.root;
        for depth in (0..=key.len()).step_by(BYTES) {
            let slice = Slice::of(key, depth);
            match layer.get::<V>(slice)? {
                None => return Ok((layer, None)),
                Some(Target::Entry(entry)) => return Ok((layer, Some(entry))),
                Some(Target::Layer(below)) => {
                    step(layer, slice);
                    layer = below;
                }
            }
        }
        Err(damaged(layer, "layers as deep as a key is long"))
    }

    /// Adds a key that is not there.
    fn add(&self, tx: &Tx, key: &[u8], value: impl FnOnce(Window) -> Result<V>) -> Result<Entry<'_, V>> {
        let (mut layer, other) = self.descend(key, |_, _| {})?;
        if let Some(other) = other {
            let theirs = other.key()?;
            loop {
                layer = layer.deepen(tx, Slice::of(key, layer.depth()), &other, &theirs)?;
                if layer.get::<V>(Slice::of(key, layer.depth()))?.is_none() {
                    break; // the two differ here
                }
            }
        }
        let entry = Entry::make(tx, home_of(layer)?, key, value)?;
        layer.put(tx, Slice::of(key, layer.depth()), &entry)?;
        tx.put(&self.count, self.len().wrapping_add(1))?;
        Ok(entry)
    }

    /// Takes a key out of its layer, and gives back those that are empty then; its entry is left to the caller.
    fn unlink(&self, tx: &Tx, key: &[u8]) -> Result<Option<Entry<'_, V>>> {
        let mut way = Vec::new();
        let (mut layer, entry) = self.descend(key, |layer, slice| way.push((layer, slice)))?;
        let Some(entry) = entry else { return Ok(None) };
        if !entry.has_key(key)? {
            return Ok(None);
        }
        layer.slots.do_remove(tx, &Slice::of(key, layer.depth()))?;
        while let Some((above, slice)) = way.pop() {
            tx.apply()?; // what is left of it
            if !layer.slots.is_empty() {
                break;
            }
            layer.slots.do_clear(tx)?;
            above.slots.do_remove(tx, &slice)?;
            // SAFETY: allocated by `deepen`; the slot that led to it went in the same transaction.
            unsafe { tx.free(layer) }?;
            layer = above;
        }
        Ok(Some(entry))
    }

    /// Gives back all layers but the first, and what they are made of.
    fn clear_index(&self, tx: &Tx) -> Result<()> {
        let mut layers = alloc::vec![&self.root];
        let mut seen = BTreeSet::new();
        while let Some(layer) = layers.pop() {
            for slot in &layer.slots {
                let (slice, slot) = slot?;
                if let Target::Layer(below) = layer.target::<V>(slice, slot)? {
                    if !seen.insert(core::ptr::from_ref(below).addr()) {
                        return Err(damaged(below, "a layer to which there is one way"));
                    }
                    layers.push(below);
                }
            }
            layer.slots.do_clear(tx)?;
            if !core::ptr::eq(layer, &raw const self.root) {
                // SAFETY: allocated by `deepen`, given back once, and what led to it goes in the same transaction.
                unsafe { tx.free(layer) }?;
            }
        }
        Ok(())
    }

    fn entries(&self) -> Entries<'_, V> {
        Entries::of(self, Bound::Unbounded, Bound::Unbounded)
    }

    fn entries_in<'k>(&self, range: impl RangeBounds<&'k K::Borrowed>) -> Entries<'_, V>
    where
        K::Borrowed: 'k,
    {
        Entries::of(self, bytes_of::<K>(range.start_bound()), bytes_of::<K>(range.end_bound()))
    }
}

/// A bound as bytes.
fn bytes_of<K: Key>(bound: Bound<&&K::Borrowed>) -> Bound<Vec<u8>> {
    bound.map(|key| K::bytes(key).as_ref().to_vec())
}

impl<K: Key, V: Release> BTreeMap<K, V> {
    owned_map_changes!();
}

impl<K: Key, V: Release + Default> BTreeMap<K, V> {
    owned_map_defaults!();
}

impl<K: Key, V: Value> BTreeMap<K, V> {
    owned_map_copies!(BTreeMapRange<'_, K, V>, DoubleEndedIterator);

    /// Copies of the entries whose keys are in `range`, in order, from both ends; ends after the first error. A range that ends before it
    /// begins is empty.
    pub fn range<'k>(&self, range: impl RangeBounds<&'k K::Borrowed>) -> BTreeMapRange<'_, K, V>
    where
        K::Borrowed: 'k,
    {
        BTreeMapRange::over(self.entries_in(range))
    }

    /// The entry with the smallest key.
    ///
    /// # Errors
    /// As `get`.
    pub fn first_key_value(&self) -> Result<Option<(K::Owned, V::Taken)>> {
        self.iter().next().transpose()
    }

    /// The entry with the largest key.
    ///
    /// # Errors
    /// As `get`.
    pub fn last_key_value(&self) -> Result<Option<(K::Owned, V::Taken)>> {
        self.iter().next_back().transpose()
    }

    changes! {
        /// Takes the entry with the smallest key out.
        pop_first / pop_first_in => do_pop_first() -> Option<(K::Owned, V::Taken)>;
        /// Takes the entry with the largest key out.
        pop_last / pop_last_in => do_pop_last() -> Option<(K::Owned, V::Taken)>;
        /// Moves the entries from `key` on to `into`; nothing if that is the same.
        split_off / split_off_in => do_split_off(key: &K::Borrowed, into: &Self) -> ();
    }

    fn do_pop_first(&self, tx: &Tx) -> Result<Option<(K::Owned, V::Taken)>> {
        self.pop(tx, self.entries().next().transpose()?)
    }

    fn do_pop_last(&self, tx: &Tx) -> Result<Option<(K::Owned, V::Taken)>> {
        self.pop(tx, self.entries().next_back().transpose()?)
    }

    fn pop(&self, tx: &Tx, entry: Option<Entry<'_, V>>) -> Result<Option<(K::Owned, V::Taken)>> {
        let Some(entry) = entry else { return Ok(None) };
        let taken = (key_of::<K, V>(&entry)?, V::read(entry.value)?);
        self.take_out(tx, &entry.key()?)?;
        Ok(Some(taken))
    }

    fn do_split_off(&self, tx: &Tx, key: &K::Borrowed, into: &Self) -> Result<()> {
        if core::ptr::eq(self, into) {
            return Ok(());
        }
        for entry in crate::collections::collect(self.entries_in(key..))? {
            let key = entry.key()?;
            into.store(tx, &key, V::lend(&V::read(entry.value)?))?;
            tx.apply()?;
            self.take_out(tx, &key)?;
            tx.apply()?;
        }
        Ok(())
    }
}

impl<K: Key<Owned: fmt::Debug>, V: Invariant + fmt::Debug> fmt::Debug for BTreeMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug::map(f, self.entries().map(shown::<K, V>))
    }
}

impl<K: Key, V: Release> Release for BTreeMap<K, V> {
    fn release(&self, tx: &Tx) -> Result<()> {
        self.clear_in(tx)
    }
}
