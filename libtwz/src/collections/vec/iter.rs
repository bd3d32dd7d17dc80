//! Walking a vector, and finding in it.

use super::Vec;
use crate::collections::debug::{self, InCell};
use crate::collections::has;
use crate::error::Result;
use crate::invariant::Invariant;
use core::cmp::Ordering;
use core::fmt;

/// The elements of a [`Vec`], from both ends; ends after the first error.
#[derive(Clone, Debug)]
pub struct VecIter<'a, T: Invariant> {
    of: &'a Vec<T>,
    next: u64,
    end: u64,
}

impl<T: Invariant + Copy> VecIter<'_, T> {
    fn item(&mut self, index: u64) -> Option<Result<T>> {
        let item = self.of.get(index).transpose();
        if !matches!(item, Some(Ok(_))) {
            self.end = self.next;
        }
        item
    }
}

impl<T: Invariant + Copy> Iterator for VecIter<'_, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        self.next += 1;
        self.item(self.next - 1)
    }
}

impl<T: Invariant + Copy> DoubleEndedIterator for VecIter<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        self.end -= 1;
        self.item(self.end)
    }
}

impl<'a, T: Invariant + Copy> IntoIterator for &'a Vec<T> {
    type Item = Result<T>;
    type IntoIter = VecIter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Invariant + fmt::Debug> fmt::Debug for Vec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug::list(f, self.cells().map(|cell| cell.map(InCell)))
    }
}

impl<T: Invariant + Copy> Vec<T> {
    /// The elements in order, from both ends; ends after the first error.
    pub fn iter(&self) -> VecIter<'_, T> {
        VecIter { of: self, next: 0, end: self.len() }
    }

    /// Whether an element equals `value`.
    ///
    /// # Errors
    /// As [`Vec::get`].
    pub fn contains(&self, value: &T) -> Result<bool>
    where
        T: PartialEq,
    {
        has(self, value)
    }

    /// Where `value` is in a vector in order, or else where it belongs.
    ///
    /// # Errors
    /// As [`Vec::get`].
    pub fn binary_search(&self, value: &T) -> Result<core::result::Result<u64, u64>>
    where
        T: Ord,
    {
        self.binary_search_by(|element| element.cmp(value))
    }

    /// Where the element is whose `key` is `wanted`, in a vector in the order of its keys, or else where it belongs.
    ///
    /// # Errors
    /// As [`Vec::get`].
    pub fn binary_search_by_key<K: Ord>(
        &self,
        wanted: &K,
        mut key: impl FnMut(&T) -> K,
    ) -> Result<core::result::Result<u64, u64>> {
        self.binary_search_by(|element| key(element).cmp(wanted))
    }

    /// How many elements stand before the first for which `is_before` is false, in a vector where those for which it is true come first.
    ///
    /// # Errors
    /// As [`Vec::get`].
    pub fn partition_point(&self, mut is_before: impl FnMut(&T) -> bool) -> Result<u64> {
        let compare = |element: &T| if is_before(element) { Ordering::Less } else { Ordering::Greater };
        Ok(self.binary_search_by(compare)?.unwrap_or_else(|at| at))
    }

    /// Where the element is that `compare` says is equal, in a vector in its order, or else where it belongs.
    ///
    /// # Errors
    /// As [`Vec::get`].
    pub fn binary_search_by(
        &self,
        mut compare: impl FnMut(&T) -> Ordering,
    ) -> Result<core::result::Result<u64, u64>> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(element) = self.get(middle)? else { break };
            match compare(&element) {
                Ordering::Equal => return Ok(Ok(middle)),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Ok(Err(low))
    }
}
