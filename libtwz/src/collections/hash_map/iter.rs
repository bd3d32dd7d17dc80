//! Walking the map.

use super::bucket::{Bucket, ENTRIES, is_used};
use super::{CHAIN_MAX, HashMap};
use crate::collections::damaged;
use crate::error::Result;
use crate::invariant::Invariant;

impl<K: Invariant + Copy, V: Invariant + Copy> HashMap<K, V> {
    /// All entries, in no order; ends after the first error.
    pub fn iter(&self) -> impl Iterator<Item = Result<(K, V)>> {
        let mut number = 0;
        let mut at: Option<&Bucket<K, V>> = None;
        let mut entry = 0;
        let mut steps = 0_u64;
        let mut broken = false;
        core::iter::from_fn(move || {
            loop {
                if broken {
                    return None;
                }
                let Some(bucket) = at else {
                    if number >= self.buckets.get() {
                        return None;
                    }
                    match self.bucket(number) {
                        Ok(bucket) => at = Some(bucket),
                        Err(error) => {
                            broken = true;
                            return Some(Err(error));
                        }
                    }
                    (number, entry, steps) = (number + 1, 0, 0);
                    continue;
                };
                if entry < ENTRIES {
                    entry += 1;
                    if is_used(bucket.used.get(), entry - 1) {
                        return Some(Ok((
                            bucket.entries[entry - 1].key.get(),
                            bucket.entries[entry - 1].value.get(),
                        )));
                    }
                    continue;
                }
                steps += 1;
                entry = 0;
                let next = bucket.overflow.get();
                match next {
                    Ok(next) if steps < CHAIN_MAX as u64 => at = next,
                    Ok(_) => {
                        broken = true;
                        return Some(Err(damaged(bucket, "a chain of buckets without a cycle")));
                    }
                    Err(error) => {
                        broken = true;
                        return Some(Err(error));
                    }
                }
            }
        })
    }
}
