//! The maps of `std` beside libtwz's: gone with the process, and so what nothing persistent can be expected to beat. Keys, values and their
//! order are those of `ours.rs`.

use crate::stopwatch::Stopwatch;
use anyhow::{Result, bail, ensure};
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;

/// Keys that are looked up.
const KEYS: u64 = 50_000;

/// Both maps, to insert into and to look up in: what is looked up does not grow.
pub(crate) struct Std {
    random: u64,
    growing: Maps,
    fixed: Maps,
}

#[derive(Default)]
struct Maps {
    hash: HashMap<u64, [u64; 2]>,
    tree: BTreeMap<u64, [u64; 2]>,
}

impl Default for Std {
    fn default() -> Self {
        Self { random: 0x2545_F491_4F6C_DD1D, growing: Maps::default(), fixed: Maps::default() }
    }
}

fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

impl Std {
    /// Nanoseconds on the CPU of each of `count` operations.
    ///
    /// # Errors
    /// An operation that it does not know.
    pub(crate) fn measure(&mut self, what: &str, count: u64) -> Result<f64> {
        let begun;
        match what {
            "hash_insert" | "tree_insert" => {
                let is_hash = what == "hash_insert";
                begun = Stopwatch::start();
                for _ in 0..count {
                    let key = next_random(&mut self.random) | 1;
                    if is_hash {
                        self.growing.hash.insert(key, [key; 2]);
                    } else {
                        self.growing.tree.insert(key, [key; 2]);
                    }
                }
            }
            "hash_get" | "tree_get" => {
                let Maps { hash, tree } = &mut self.fixed;
                if hash.is_empty() {
                    hash.extend((0..KEYS).map(|key| (key * 2, [key * 2; 2])));
                    tree.extend((0..KEYS).map(|key| (key * 2, [key * 2; 2])));
                }
                let (is_hash, mut state, mut found) = (what == "hash_get", 88_172_645_463_325_252, 0);
                begun = Stopwatch::start();
                for _ in 0..count {
                    let key = next_random(&mut state) % KEYS * 2;
                    found +=
                        u64::from(if is_hash { hash.contains_key(&key) } else { tree.contains_key(&key) });
                }
                ensure!(black_box(found) == count, "every key is there");
            }
            _ => bail!("std has no {what}"),
        }
        Ok(begun.elapsed().each(count).cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_done() {
        let mut std = Std::default();
        for what in ["hash_insert", "tree_insert", "hash_get", "tree_get"] {
            assert!(std.measure(what, 1000).unwrap() > 0.0, "{what}");
        }
        assert_eq!((std.growing.hash.len(), std.growing.tree.len()), (1000, 1000));
        assert!(std.measure("nothing", 1).is_err());
    }
}
