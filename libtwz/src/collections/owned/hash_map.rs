//! A hash map of entries: an index by the keys' hashes leads to the first entry of each, and that to those with the same hash.
//!
//! The index is a [`super::super::HashMap`] from hashes to pointers. Pointers mean something in the object of the map, wherever their bucket is.

use super::entry::{Entry, Head};
use super::{Key, Release, Types, Value, key_of, shown};
use crate::cell::PCell;
use crate::collections::{self, damaged, debug, home_of};
use crate::error::Result;
use crate::invariant::Invariant;
use crate::tx::Tx;
use crate::window::Window;
use core::fmt;
use core::marker::PhantomData;
use twz_abi::PersistentPtr;

/// Entries with one hash before they are taken for a cycle.
const CHAIN_MAX: usize = 10_000;

/// A map from `K` to `V` that owns both; keys are equal when their bytes are.
#[derive(Invariant)]
#[repr(C)]
#[invariant(version = 1)]
pub struct HashMap<K: Key, V: Invariant> {
    count: PCell<u64>,
    seed: PCell<u64>,
    index: collections::HashMap<u64, PersistentPtr>,
    types: Types<K, V>,
}

impl<K: Key, V: Invariant> Default for HashMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Key, V: Invariant> HashMap<K, V> {
    /// An empty map, with a seed of its own so that nobody can choose keys that collide.
    #[must_use]
    pub fn new() -> Self {
        use crate::sys::{Platform, Seam};
        let mut seed = [0; 8];
        Platform::random(&mut seed);
        Self {
            count: PCell::new(0),
            seed: PCell::new(u64::from_le_bytes(seed)),
            index: collections::HashMap::new(),
            types: Types(PhantomData),
        }
    }

    owned_map_methods!(Iterator);

    fn hash(&self, key: &[u8]) -> u64 {
        let mut hash = self.seed.get() ^ key.len() as u64;
        for piece in key.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            let word = hash ^ u64::from_le_bytes(word) ^ 0x9e37_79b9_7f4a_7c15;
            let product = u128::from(word).wrapping_mul(0xd6e8_feb8_6659_fd93_2545_f491_4f6c_dd1d);
            #[allow(clippy::cast_possible_truncation, reason = "both halves are folded in")]
            {
                hash = (product >> 64) as u64 ^ product as u64;
            }
        }
        hash
    }

    /// Calls `with` for the entries with a hash, and the one before each, until it says that it has what it wants.
    fn walk<'a, R>(
        &'a self,
        hash: u64,
        mut with: impl FnMut(Option<&'a Head>, Entry<'a, V>) -> Result<Option<R>>,
    ) -> Result<Option<R>> {
        let Some(first) = self.index.get(&hash)? else { return Ok(None) };
        let mut entry: Entry<'_, V> = Entry::at(home_of(self)?, first)?;
        let mut before = None;
        for _ in 0..CHAIN_MAX {
            let head = entry.head;
            if let Some(found) = with(before, entry)? {
                return Ok(Some(found));
            }
            match head.next.get()? {
                Some(next) => entry = Entry::of(next)?,
                None => return Ok(None),
            }
            before = Some(head);
        }
        Err(damaged(self, "a chain of entries without a cycle"))
    }

    fn find(&self, key: &[u8]) -> Result<Option<Entry<'_, V>>> {
        self.walk(self.hash(key), |_, entry| Ok(entry.has_key(key)?.then_some(entry)))
    }

    /// Adds a key that is not there.
    fn add(&self, tx: &Tx, key: &[u8], value: impl FnOnce(Window) -> Result<V>) -> Result<Entry<'_, V>> {
        let (home, hash) = (home_of(self)?, self.hash(key));
        let entry = Entry::make(tx, home, key, value)?;
        if let Some(first) = self.index.get(&hash)? {
            let first: Entry<'_, V> = Entry::at(home, first)?;
            tx.put_ptr(&entry.head.next, Some(first.head))?;
        }
        self.index.put_entry_in(tx, hash, entry.pointer_in(home)?)?;
        tx.put(&self.count, self.len().wrapping_add(1))?;
        Ok(entry)
    }

    /// Takes a key out of the index; its entry is left to the caller.
    fn unlink(&self, tx: &Tx, key: &[u8]) -> Result<Option<Entry<'_, V>>> {
        let hash = self.hash(key);
        let found = self.walk(hash, |before, entry| Ok(entry.has_key(key)?.then_some((before, entry))))?;
        let Some((before, entry)) = found else { return Ok(None) };
        match (before, entry.head.next.get()?) {
            (Some(before), next) => tx.put_ptr(&before.next, next)?,
            (None, Some(next)) => {
                let next: Entry<'_, V> = Entry::of(next)?;
                self.index.put_entry_in(tx, hash, next.pointer_in(home_of(self)?)?).map(drop)?;
            }
            (None, None) => self.index.do_remove(tx, &hash).map(drop)?,
        }
        Ok(Some(entry))
    }

    fn clear_index(&self, tx: &Tx) -> Result<()> {
        self.index.do_clear(tx)
    }

    fn entries(&self) -> Entries<'_, V> {
        let (home, index) = (home_of(self), self.index.iter());
        Entries { home, index, next: None, passed: 0, broken: false, values: PhantomData }
    }
}

impl<K: Key, V: Release> HashMap<K, V> {
    owned_map_changes!();
}

impl<K: Key, V: Release + Default> HashMap<K, V> {
    owned_map_defaults!();
}

impl<K: Key, V: Value> HashMap<K, V> {
    owned_map_copies!(HashMapIter<'_, K, V>, Iterator);
}

impl<K: Key<Owned: fmt::Debug>, V: Invariant + fmt::Debug> fmt::Debug for HashMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug::map(f, self.entries().map(shown::<K, V>))
    }
}

impl<K: Key, V: Release> Release for HashMap<K, V> {
    fn release(&self, tx: &Tx) -> Result<()> {
        self.clear_in(tx)
    }
}

/// The entries in no order.
#[derive(Debug)]
struct Entries<'a, V: Invariant> {
    home: Result<Window>,
    index: collections::HashMapIter<'a, u64, PersistentPtr>,
    next: Option<&'a Head>,
    /// Entries with this hash that were passed.
    passed: usize,
    broken: bool,
    values: PhantomData<fn() -> V>,
}

impl<'a, V: Invariant> Entries<'a, V> {
    fn take(&mut self) -> Result<Option<Entry<'a, V>>> {
        let entry: Entry<'a, V> = match self.next {
            Some(head) => {
                self.passed += 1;
                if self.passed == CHAIN_MAX {
                    return Err(damaged(head, "a chain of entries without a cycle"));
                }
                Entry::of(head)?
            }
            None => {
                let Some(first) = self.index.next() else { return Ok(None) };
                self.passed = 0;
                Entry::at(self.home?, first?.1)?
            }
        };
        self.next = entry.head.next.get()?;
        Ok(Some(entry))
    }
}

impl<'a, V: Invariant> Iterator for Entries<'a, V> {
    type Item = Result<Entry<'a, V>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.broken {
            return None;
        }
        let entry = self.take();
        self.broken = !matches!(entry, Ok(Some(_)));
        entry.transpose()
    }
}

/// Copies of the entries of a [`HashMap`], in no order; ends after the first error.
#[derive(Debug)]
pub struct HashMapIter<'a, K: Key, V: Value> {
    entries: Entries<'a, V>,
    keys: PhantomData<fn() -> K>,
}

impl<'a, K: Key, V: Value> HashMapIter<'a, K, V> {
    fn over(entries: Entries<'a, V>) -> Self {
        Self { entries, keys: PhantomData }
    }
}

impl<K: Key, V: Value> Iterator for HashMapIter<'_, K, V> {
    type Item = Result<(K::Owned, V::Taken)>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.entries.next()?;
        Some(entry.and_then(|entry| Ok((key_of::<K, V>(&entry)?, V::read(entry.value)?))))
    }
}

impl<'a, K: Key, V: Value> IntoIterator for &'a HashMap<K, V> {
    type Item = Result<(K::Owned, V::Taken)>;
    type IntoIter = HashMapIter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
