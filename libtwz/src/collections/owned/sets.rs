//! Sets that own their elements: maps without values.

use super::{BTreeMap, BTreeMapRange, HashMap, HashMapIter as MapIter, Key, Release};
use crate::collections::sets::{ordered_set_methods, set_iterator, set_methods};
use crate::error::Result;
use crate::invariant::Invariant;
use crate::tx::Tx;
use core::borrow::Borrow;
use core::ops::RangeBounds;

/// A set of texts, or of other [`Key`]s; elements are equal when their bytes are.
#[derive(Invariant)]
#[repr(transparent)]
pub struct HashSet<K: Key> {
    map: HashMap<K, ()>,
}

/// A set of texts, or of other [`Key`]s, in order of their bytes.
#[derive(Invariant)]
#[repr(transparent)]
pub struct BTreeSet<K: Key> {
    map: BTreeMap<K, ()>,
}

/// Copies of the elements of a [`HashSet`], in no order; ends after the first error.
#[derive(Debug)]
pub struct HashSetIter<'a, K: Key>(MapIter<'a, K, ()>);

/// Copies of the elements of a [`BTreeSet`] in a range, in order, from both ends; ends after the first error.
#[derive(Debug)]
pub struct BTreeSetRange<'a, K: Key>(BTreeMapRange<'a, K, ()>);

set_iterator!([K: Key] HashSetIter<K>: K::Owned, HashSet);
set_iterator!([K: Key] BTreeSetRange<K>: K::Owned, BTreeSet);

impl<K: Key> DoubleEndedIterator for BTreeSetRange<'_, K> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(|entry| Ok(entry?.0))
    }
}

impl<K: Key> Default for HashSet<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Key> Default for BTreeSet<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// What is put in is given as what may be borrowed as an element.
macro_rules! extend {
    () => {
        changes! {
            /// Puts all in that `elements` gives.
            extend / extend_in => do_extend[B: Borrow<K::Borrowed>](elements: impl IntoIterator<Item = B>) -> ();
        }

        fn do_extend<B: Borrow<K::Borrowed>>(&self, tx: &Tx, elements: impl IntoIterator<Item = B>) -> Result<()> {
            self.map.extend_in(tx, elements.into_iter().map(|element| (element, ())))
        }
    };
}

impl<K: Key<Owned: Borrow<K::Borrowed>>> HashSet<K> {
    set_methods!(&K::Borrowed, &K::Borrowed, K::Owned, |element| element.borrow(), Iterator);
    extend!();

    changes! {
        /// Takes everything out, as [`HashSet::clear`], and returns it.
        drain / drain_in => do_drain() -> alloc::vec::Vec<K::Owned>;
    }

    fn do_drain(&self, tx: &Tx) -> Result<alloc::vec::Vec<K::Owned>> {
        Ok(self.map.drain_in(tx)?.into_iter().map(|(element, ())| element).collect())
    }
}

impl<K: Key> HashSet<K> {
    /// An empty set, with a seed of its own so that nobody can choose elements that collide.
    #[must_use]
    pub fn new() -> Self {
        Self { map: HashMap::new() }
    }

    /// Copies of the elements, in no order; ends after the first error.
    pub fn iter(&self) -> HashSetIter<'_, K> {
        HashSetIter(self.map.iter())
    }
}

impl<K: Key<Owned: Borrow<K::Borrowed>>> BTreeSet<K> {
    set_methods!(&K::Borrowed, &K::Borrowed, K::Owned, |element| element.borrow(), DoubleEndedIterator);
    ordered_set_methods!(&K::Borrowed, K::Owned);
    extend!();
}

impl<K: Key> BTreeSet<K> {
    /// An empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { map: BTreeMap::new() }
    }

    /// Copies of the elements in order, from both ends; ends after the first error.
    pub fn iter(&self) -> BTreeSetRange<'_, K> {
        BTreeSetRange(self.map.iter())
    }

    /// Copies of the elements in `range`, in order, from both ends; ends after the first error. A range that ends before it begins is empty.
    pub fn range<'k>(&self, range: impl RangeBounds<&'k K::Borrowed>) -> BTreeSetRange<'_, K>
    where
        K::Borrowed: 'k,
    {
        BTreeSetRange(self.map.range(range))
    }
}

impl<K: Key> Release for HashSet<K> {
    fn release(&self, tx: &Tx) -> Result<()> {
        self.map.clear_in(tx)
    }
}

impl<K: Key> Release for BTreeSet<K> {
    fn release(&self, tx: &Tx) -> Result<()> {
        self.map.clear_in(tx)
    }
}
