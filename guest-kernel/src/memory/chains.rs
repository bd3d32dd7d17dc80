//! Finding records of a slab by what they are: a hash leads to a list through the records.
//!
//! # Contract
//! - A record is in the list of one hash, from [`Chains::link`] to [`Chains::unlink`]; whoever links computes the hash again to find or unlink.
//! - A list begins with what was linked last.

use super::slab::Slab;

/// A record that can be in a list.
pub(crate) trait Chained {
    /// The next record in its list.
    fn next(&self) -> Option<u32>;

    /// Sets it.
    fn set_next(&mut self, next: Option<u32>);
}

/// Makes a type with a field `next` one.
macro_rules! chained {
    ($record:ty) => {
        impl crate::memory::chains::Chained for $record {
            fn next(&self) -> Option<u32> {
                self.next
            }

            fn set_next(&mut self, next: Option<u32>) {
                self.next = next;
            }
        }
    };
}
pub(crate) use chained;

/// `COUNT` lists, a power of two.
pub(crate) struct Chains<const COUNT: usize>([Option<u32>; COUNT]);

impl<const COUNT: usize> Chains<COUNT> {
    /// Empty ones.
    pub(crate) const EMPTY: Self = Self([None; COUNT]);

    #[allow(clippy::cast_possible_truncation, reason = "only the low bits select a list")]
    const fn list(hash: u64) -> usize {
        const { assert!(COUNT.is_power_of_two()) };
        hash as usize % COUNT
    }

    /// The first record in the list of `hash`.
    pub(crate) fn first(&self, hash: u64) -> Option<u32> {
        self.0[Self::list(hash)]
    }

    /// The first record in the list of `hash` for which `is_it` holds.
    pub(crate) fn find<T: Chained>(
        &self,
        records: &Slab<T>,
        hash: u64,
        is_it: impl Fn(&T) -> bool,
    ) -> Option<u32> {
        let mut next = self.first(hash);
        while let Some(index) = next {
            let record = &records[index];
            if is_it(record) {
                return Some(index);
            }
            next = record.next();
        }
        None
    }

    /// Puts a record, which is in no list, at the head of that of `hash`.
    pub(crate) fn link<T: Chained>(&mut self, records: &mut Slab<T>, hash: u64, index: u32) {
        let first = self.0[Self::list(hash)].replace(index);
        records[index].set_next(first);
    }

    /// Takes a record out of the list of `hash`.
    pub(crate) fn unlink<T: Chained>(&mut self, records: &mut Slab<T>, hash: u64, index: u32) {
        let after = records[index].next();
        let first = &mut self.0[Self::list(hash)];
        if *first == Some(index) {
            *first = after;
            return;
        }
        let mut next = *first;
        while let Some(before) = next {
            next = records[before].next();
            if next == Some(index) {
                records[before].set_next(after);
                return;
            }
        }
    }
}
