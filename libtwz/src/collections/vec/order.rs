//! Changes of a vector that may concern all of its elements: done in this program's memory, and what is another one then is put.

use super::Vec;
use crate::collections::{same, segments};
use crate::error::Result;
use crate::invariant::Invariant;
use crate::tx::Tx;
use core::cmp::Ordering;

/// In this program's memory.
type Copied<T> = alloc::vec::Vec<T>;

impl<T: Invariant + Copy> Vec<T> {
    changes! {
        /// Sorts by `compare`; equal elements stay in their order.
        sort_by / sort_by_in => do_sort_by(compare: impl FnMut(&T, &T) -> Ordering) -> ();
        /// Sorts by what `key` makes of the elements; equal ones stay in their order.
        sort_by_key / sort_by_key_in => do_sort_by_key[K: Ord](key: impl FnMut(&T) -> K) -> ();
        /// Turns the order round.
        reverse / reverse_in => do_reverse() -> ();
        /// Takes out each element for which `key` makes the same as of the one before.
        dedup_by_key / dedup_by_key_in => do_dedup_by_key[K: PartialEq](key: impl FnMut(&mut T) -> K) -> ();
        /// Keeps the elements for which `keep` is true, as it leaves them, in order. What `iter_mut` is for, too.
        retain_mut / retain_mut_in => do_retain_mut(keep: impl FnMut(&mut T) -> bool) -> ();
        /// Gives all elements this value.
        fill / fill_in => do_fill(value: T) -> ();
        /// Moves the elements from `at` on to the end of `into`; `false` when `at` is past the end, or that is the same.
        split_off / split_off_in => do_split_off(at: u64, into: &Self) -> bool;
    }

    fn do_sort_by(&self, tx: &Tx, compare: impl FnMut(&T, &T) -> Ordering) -> Result<()> {
        self.rework(tx, |all| all.sort_by(compare))
    }

    fn do_sort_by_key<K: Ord>(&self, tx: &Tx, key: impl FnMut(&T) -> K) -> Result<()> {
        self.rework(tx, |all| all.sort_by_key(key))
    }

    fn do_reverse(&self, tx: &Tx) -> Result<()> {
        self.rework(tx, |all| all.reverse())
    }

    fn do_dedup_by_key<K: PartialEq>(&self, tx: &Tx, key: impl FnMut(&mut T) -> K) -> Result<()> {
        self.rework(tx, |all| all.dedup_by_key(key))
    }

    fn do_retain_mut(&self, tx: &Tx, keep: impl FnMut(&mut T) -> bool) -> Result<()> {
        self.rework(tx, |all| all.retain_mut(keep))
    }

    fn do_fill(&self, tx: &Tx, value: T) -> Result<()> {
        self.rework(tx, |all| all.fill(value))
    }

    fn do_split_off(&self, tx: &Tx, at: u64, into: &Self) -> Result<bool> {
        if at > self.len() || core::ptr::eq(self, into) {
            return Ok(false);
        }
        into.do_extend_from_slice(tx, &self.read(at, self.len())?)?;
        tx.put(&self.len, at)?;
        Ok(true)
    }

    /// Has `change` make other elements of all, no more than there are.
    fn rework(&self, tx: &Tx, change: impl FnOnce(&mut Copied<T>)) -> Result<()> {
        let before = self.to_vec()?;
        let mut after = before.clone();
        change(&mut after);
        let is_same = |at: usize| same(&before[at], &after[at]);
        let mut at = 0;
        while at < after.len() {
            let same = (at..after.len()).take_while(|at| is_same(*at)).count();
            let from = at + same;
            let other = (from..after.len()).take_while(|at| !is_same(*at)).count();
            at = from + other;
            segments::write(tx, &self.segments, from as u64, &after[from..at])?;
        }
        if after.len() < before.len() { tx.put(&self.len, after.len() as u64) } else { Ok(()) }
    }
}

impl<T: Invariant + Copy + Ord> Vec<T> {
    changes! {
        /// Sorts; equal elements stay in their order.
        sort / sort_in => do_sort() -> ();
    }

    fn do_sort(&self, tx: &Tx) -> Result<()> {
        self.do_sort_by(tx, T::cmp)
    }
}

impl<T: Invariant + Copy + PartialEq> Vec<T> {
    changes! {
        /// Takes out each element that equals the one before.
        dedup / dedup_in => do_dedup() -> ();
    }

    fn do_dedup(&self, tx: &Tx) -> Result<()> {
        self.rework(tx, |all| all.dedup())
    }
}
