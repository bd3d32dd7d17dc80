//! Sets: maps without values.
//!
//! `union` and what returns references are not there: `extend` makes the one, and elements are copied out.

/// Methods of a set that stands on a map: `$lent` is what an element is looked up by, `$given` what it is inserted as, `$own` its copy.
macro_rules! set_methods {
    ($lent:ty, $given:ty, $own:ty, |$element:ident| $as_key:expr, $iterator:ident) => {
        /// Number of elements.
        #[must_use]
        pub fn len(&self) -> u64 {
            self.map.len()
        }

        /// Whether there are none.
        #[must_use]
        pub fn is_empty(&self) -> bool {
            self.map.is_empty()
        }

        /// Whether `element` is in it.
        ///
        /// # Errors
        /// [`crate::Error::BadPointer`], [`crate::Error::Damaged`].
        pub fn contains(&self, element: $lent) -> $crate::Result<bool> {
            self.map.contains_key(element)
        }

        changes! {
            /// Puts an element in; whether it was not there.
            insert / insert_in => do_insert(element: $given) -> bool;
            /// Takes an element out; whether it was there.
            remove / remove_in => do_remove(element: $lent) -> bool;
            /// Keeps the elements for which `keep` is true.
            retain / retain_in => do_retain(keep: impl FnMut(&$own) -> bool) -> ();
            /// Moves all elements of `other` here; nothing if that is the same.
            append / append_in => do_append(other: &Self) -> ();
            /// Takes everything out and gives all memory back.
            clear / clear_in => do_clear() -> ();
        }

        fn do_insert(&self, tx: &$crate::Tx, element: $given) -> $crate::Result<bool> {
            Ok(self.map.insert_in(tx, element, ())?.is_none())
        }

        fn do_remove(&self, tx: &$crate::Tx, element: $lent) -> $crate::Result<bool> {
            Ok(self.map.remove_in(tx, element)?.is_some())
        }

        fn do_retain(&self, tx: &$crate::Tx, mut keep: impl FnMut(&$own) -> bool) -> $crate::Result<()> {
            self.map.retain_in(tx, |element, ()| keep(element))
        }

        fn do_append(&self, tx: &$crate::Tx, other: &Self) -> $crate::Result<()> {
            self.map.append_in(tx, &other.map)
        }

        fn do_clear(&self, tx: &$crate::Tx) -> $crate::Result<()> {
            self.map.clear_in(tx)
        }

        /// The elements that `other` has, too; ends after the first error.
        pub fn intersection<'a>(
            &'a self,
            other: &'a Self,
        ) -> impl $iterator<Item = $crate::Result<$own>> + 'a {
            self.that(other, true)
        }

        /// The elements that `other` does not have; ends after the first error.
        pub fn difference<'a>(&'a self, other: &'a Self) -> impl $iterator<Item = $crate::Result<$own>> + 'a {
            self.that(other, false)
        }

        fn that<'a>(
            &'a self,
            other: &'a Self,
            has: bool,
        ) -> impl $iterator<Item = $crate::Result<$own>> + 'a {
            self.iter().filter_map(move |element| {
                let is_wanted =
                    element.and_then(|$element| Ok((other.contains($as_key)? == has).then_some($element)));
                is_wanted.transpose()
            })
        }

        /// Whether `other` has all elements.
        ///
        /// # Errors
        /// As `contains`.
        pub fn is_subset(&self, other: &Self) -> $crate::Result<bool> {
            Ok(self.difference(other).next().transpose()?.is_none())
        }

        /// Whether it has all elements of `other`.
        ///
        /// # Errors
        /// As `contains`.
        pub fn is_superset(&self, other: &Self) -> $crate::Result<bool> {
            other.is_subset(self)
        }

        /// Whether no element is in both.
        ///
        /// # Errors
        /// As `contains`.
        pub fn is_disjoint(&self, other: &Self) -> $crate::Result<bool> {
            Ok(self.intersection(other).next().transpose()?.is_none())
        }
    };
}

/// Those of a set in order.
macro_rules! ordered_set_methods {
    ($lent:ty, $own:ty) => {
        /// The smallest element.
        ///
        /// # Errors
        /// As `contains`.
        pub fn first(&self) -> $crate::Result<Option<$own>> {
            self.iter().next().transpose()
        }

        /// The largest element.
        ///
        /// # Errors
        /// As `contains`.
        pub fn last(&self) -> $crate::Result<Option<$own>> {
            self.iter().next_back().transpose()
        }

        changes! {
            /// Takes the smallest element out.
            pop_first / pop_first_in => do_pop_first() -> Option<$own>;
            /// Takes the largest element out.
            pop_last / pop_last_in => do_pop_last() -> Option<$own>;
            /// Moves the elements from `element` on to `into`; nothing if that is the same.
            split_off / split_off_in => do_split_off(element: $lent, into: &Self) -> ();
        }

        fn do_pop_first(&self, tx: &$crate::Tx) -> $crate::Result<Option<$own>> {
            Ok(self.map.pop_first_in(tx)?.map(|(element, ())| element))
        }

        fn do_pop_last(&self, tx: &$crate::Tx) -> $crate::Result<Option<$own>> {
            Ok(self.map.pop_last_in(tx)?.map(|(element, ())| element))
        }

        fn do_split_off(&self, tx: &$crate::Tx, element: $lent, into: &Self) -> $crate::Result<()> {
            self.map.split_off_in(tx, element, &into.map)
        }
    };
}

/// Its iterator, which stands on the map's.
macro_rules! set_iterator {
    ([$($bounds:tt)*] $name:ident<$($parameter:ident),*>: $own:ty, $set:ident) => {
        impl<$($bounds)*> Iterator for $name<'_, $($parameter),*> {
            type Item = $crate::Result<$own>;

            fn next(&mut self) -> Option<Self::Item> {
                self.0.next().map(|entry| Ok(entry?.0))
            }
        }

        impl<'a, $($bounds)*> IntoIterator for &'a $set<$($parameter),*> {
            type Item = $crate::Result<$own>;
            type IntoIter = $name<'a, $($parameter),*>;

            fn into_iter(self) -> Self::IntoIter {
                self.iter()
            }
        }

        impl<$($bounds)*> core::fmt::Debug for $set<$($parameter),*>
        where
            $own: core::fmt::Debug,
        {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                $crate::collections::debug::set(f, self)
            }
        }
    };
}

pub(super) use {ordered_set_methods, set_iterator, set_methods};

use super::{BTreeMap, BTreeMapRange, HashMap, HashMapIter as MapIter};
use crate::error::Result;
use crate::invariant::Invariant;
use crate::tx::Tx;
use core::ops::RangeBounds;

/// A set; elements are equal when their bytes are. As [`super::HashMap`].
#[derive(Default, Invariant)]
#[repr(transparent)]
pub struct HashSet<T: Invariant + Copy> {
    map: HashMap<T, ()>,
}

/// A set in order. As [`super::BTreeMap`].
#[derive(Default, Invariant)]
#[repr(transparent)]
pub struct BTreeSet<T: Invariant + Copy + Ord> {
    map: BTreeMap<T, ()>,
}

/// The elements of a [`HashSet`], in no order; ends after the first error.
#[derive(Debug)]
pub struct HashSetIter<'a, T: Invariant + Copy>(MapIter<'a, T, ()>);

/// The elements of a [`BTreeSet`] in a range, in order, from both ends; ends after the first error.
#[derive(Debug)]
pub struct BTreeSetRange<'a, T: Invariant + Copy + Ord>(BTreeMapRange<'a, T, ()>);

set_iterator!([T: Invariant + Copy] HashSetIter<T>: T, HashSet);
set_iterator!([T: Invariant + Copy + Ord] BTreeSetRange<T>: T, BTreeSet);

impl<T: Invariant + Copy + Ord> DoubleEndedIterator for BTreeSetRange<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(|entry| Ok(entry?.0))
    }
}

impl<T: Invariant + Copy> HashSet<T> {
    /// An empty set, with a seed of its own so that nobody can choose elements that collide.
    #[must_use]
    pub fn new() -> Self {
        Self { map: HashMap::new() }
    }

    /// The elements, in no order; ends after the first error.
    pub fn iter(&self) -> HashSetIter<'_, T> {
        HashSetIter(self.map.iter())
    }

    set_methods!(&T, T, T, |element| &element, Iterator);

    changes! {
        /// Puts all in that `elements` gives.
        extend / extend_in => do_extend(elements: impl IntoIterator<Item = T>) -> ();
        /// Takes everything out, as [`HashSet::clear`], and returns it.
        drain / drain_in => do_drain() -> alloc::vec::Vec<T>;
    }

    fn do_extend(&self, tx: &Tx, elements: impl IntoIterator<Item = T>) -> Result<()> {
        self.map.extend_in(tx, elements.into_iter().map(|element| (element, ())))
    }

    fn do_drain(&self, tx: &Tx) -> Result<alloc::vec::Vec<T>> {
        Ok(self.map.drain_in(tx)?.into_iter().map(|(element, ())| element).collect())
    }
}

impl<T: Invariant + Copy + Ord> BTreeSet<T> {
    /// An empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { map: BTreeMap::new() }
    }

    /// The elements in order, from both ends; ends after the first error.
    pub fn iter(&self) -> BTreeSetRange<'_, T> {
        BTreeSetRange(self.map.iter())
    }

    /// The elements in `range`, in order, from both ends; ends after the first error. A range that ends before it begins is empty.
    pub fn range(&self, range: impl RangeBounds<T>) -> BTreeSetRange<'_, T> {
        BTreeSetRange(self.map.range(range))
    }

    set_methods!(&T, T, T, |element| &element, DoubleEndedIterator);
    ordered_set_methods!(&T, T);

    changes! {
        /// Puts all in that `elements` gives.
        extend / extend_in => do_extend(elements: impl IntoIterator<Item = T>) -> ();
    }

    fn do_extend(&self, tx: &Tx, elements: impl IntoIterator<Item = T>) -> Result<()> {
        self.map.extend_in(tx, elements.into_iter().map(|element| (element, ())))
    }
}
