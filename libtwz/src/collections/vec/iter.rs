//! Walking a vector, and finding in it.

use super::Vec;
use crate::collections::has;
use crate::error::Result;
use crate::invariant::Invariant;
use core::cmp::Ordering;

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
