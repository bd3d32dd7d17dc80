//! Collections that several threads change at a time. Not run inside the machine as the others are: with ring 0 interpreted, threads that wait for
//! each other take minutes.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::collections::{BTreeMap, HashMap};
use libtwz::prelude::*;

#[derive(Invariant)]
#[repr(C)]
struct Crowded {
    hash: HashMap<u64, u64>,
    tree: BTreeMap<u64, u64>,
}

/// What an insert found before it had the lock is not what it finds then.
#[test]
fn threads_insert_side_by_side() {
    const THREADS: u64 = 4;
    const KEYS: u64 = 1000;
    for _ in 0..20 {
        let o = ObjectBuilder::new().build(Crowded { hash: HashMap::new(), tree: BTreeMap::new() }).unwrap();
        let all_are_there = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let all_are_there = &all_are_there;
                scope.spawn(move || {
                    all_are_there.wait();
                    for key in (0..KEYS).map(|i| i * THREADS + thread) {
                        assert_eq!(o.hash.insert(key, key + 1).unwrap(), None);
                        assert_eq!(o.tree.insert(key, key + 2).unwrap(), None);
                    }
                });
            }
        });
        assert_eq!((o.hash.len(), o.tree.len()), (THREADS * KEYS, THREADS * KEYS));
        for key in 0..THREADS * KEYS {
            assert_eq!(o.hash.get(&key).unwrap(), Some(key + 1));
            assert_eq!(o.tree.get(&key).unwrap(), Some(key + 2));
        }
    }
}
