//! The raw chained hash: buckets of pointers to nodes from the allocator, the least that a hash table can do. Not persistent.

use xxhash_rust::xxh3::xxh3_64_with_seed;

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
        let mut at = self.heads[self.bucket(key)];
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
    }
}
