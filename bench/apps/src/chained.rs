//! The raw chained hash: buckets of pointers to nodes from the allocator, the least that a hash table can do. Not persistent.

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Keys that [`Chained::get_many`] has under way at a time: as many as kv's.
const AT_ONCE: usize = 16;

struct Node {
    next: *const Node,
    key: u32,
    value: u32,
}

/// A table with as many buckets as keys, rounded up to a power of two.
pub(crate) struct Chained {
    heads: Vec<*const Node>,
}

fn hash(key: u32) -> u64 {
    xxh3_64_with_seed(&key.to_le_bytes(), 0) // the same that kv and unixkv use
}

impl Chained {
    pub(crate) fn new(count: u64) -> Self {
        let buckets = usize::try_from(count.next_power_of_two()).unwrap_or(1);
        Self { heads: vec![std::ptr::null(); buckets] }
    }

    #[allow(clippy::cast_possible_truncation, reason = "masked")]
    fn bucket(&self, key: u32) -> usize {
        hash(key) as usize & (self.heads.len() - 1)
    }

    pub(crate) fn insert(&mut self, key: u32, value: u32) {
        let bucket = self.bucket(key);
        let node = Box::new(Node { next: self.heads[bucket], key, value });
        self.heads[bucket] = Box::into_raw(node);
    }

    #[inline]
    pub(crate) fn get(&self, key: u32) -> Option<u32> {
        Self::find(self.heads[self.bucket(key)], key)
    }

    /// Looks up many keys: fetches the heads of 16, then their first nodes, then looks. What kv's `get_many` does, with a bucket and a record.
    pub(crate) fn get_many(&self, keys: impl Iterator<Item = u32>, mut each: impl FnMut(u32, Option<u32>)) {
        let mut keys = keys.fuse();
        let (mut group, mut heads) = ([(0, 0); AT_ONCE], [std::ptr::null(); AT_ONCE]);
        loop {
            let mut count = 0;
            for (place, key) in group.iter_mut().zip(keys.by_ref()) {
                *place = (key, self.bucket(key));
                fetch(&raw const self.heads[place.1]);
                count += 1;
            }
            if count == 0 {
                return;
            }
            for ((_, bucket), head) in group[..count].iter().zip(&mut heads) {
                *head = self.heads[*bucket];
                fetch(*head);
            }
            for ((key, _), head) in group[..count].iter().zip(&heads) {
                each(*key, Self::find(*head, *key));
            }
        }
    }

    #[inline]
    fn find(head: *const Node, key: u32) -> Option<u32> {
        let mut at = head;
        while !at.is_null() {
            // SAFETY: the chains hold nodes that `insert` made; they live until the table is dropped.
            let node = unsafe { &*at };
            if node.key == key {
                return Some(node.value);
            }
            at = node.next;
        }
        None
    }
}

/// Asks for the line at an address, which may be null.
#[inline]
fn fetch<T>(at: *const T) {
    // SAFETY: a prefetch accesses nothing, so any address will do; the instruction exists on every x86-64 CPU.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

impl Drop for Chained {
    fn drop(&mut self) {
        for head in &self.heads {
            let mut at = *head;
            while !at.is_null() {
                // SAFETY: made by `Box::into_raw`, in one chain, and nobody follows it any more.
                at = unsafe { Box::from_raw(at.cast_mut()) }.next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put() {
        let mut table = Chained::new(100);
        (0..1000).for_each(|i| table.insert(i, i + 1));
        assert!((0..1000).all(|i| table.get(i) == Some(i + 1)) && table.get(1000).is_none());
        let mut found = 0;
        table.get_many(0..1003, |key, value| {
            assert_eq!((key, value), (found, (key < 1000).then_some(key + 1)));
            found += 1;
        });
        assert_eq!(found, 1003);
    }
}
