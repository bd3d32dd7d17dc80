//! Stores with a name in a pool, which several make at once, and what is left of one that is deleted.

#![allow(clippy::unwrap_used, reason = "tests")]

use kv::{By, Options, Store};
use libtwz::names::Namespace;
use libtwz::prelude::*;
use libtwz::sys::hosted::{PoolStore, shut_down, use_store};
use libtwz::sys::{Platform, Seam};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Barrier};

const THREADS: usize = 6;

/// What is there after the next start: what is volatile goes with it.
fn objects_in(path: &Path) -> BTreeSet<ObjectId> {
    drop(PoolStore::open(path).unwrap());
    let pool = pool::Pool::open(path, &pool::OpenOptions::default()).unwrap();
    pool.object_ids().into_iter().filter(|id| pool.contains(*id)).collect()
}

/// One test: the pool belongs to the process.
#[test]
fn one_of_several_makes_it_and_it_goes_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    use_store(Arc::new(PoolStore::create(&path, 256 << 20).unwrap())).unwrap();
    let names = Namespace::root().unwrap();
    let options = Options { data_bytes: 128 << 10, index_segments: 2, ..Options::default() };
    let gate = Barrier::new(THREADS);
    let made: Vec<_> = std::thread::scope(|scope| {
        let make = || {
            gate.wait();
            Store::open_or_create(&Namespace::root().unwrap(), "/store", &options).map(|store| store.id())
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(make)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let id = names.lookup("/store").unwrap();
    assert!(made.iter().all(|made| *made == Ok(id)), "all get the one that has the name: {made:?}");

    // It grows past one object of each sort.
    let store = Store::open_or_create(&names, "/store", &options).unwrap();
    store.add_secondary(By::Number, Rights::empty()).unwrap();
    for key in 0..6_000_u64 {
        store.put(&key.to_le_bytes(), &[1; 40]).unwrap();
    }
    let stats = store.stats().unwrap();
    assert!(stats.data_objects > 1 && stats.slots > 2 * 1_300, "{stats:?}");
    store.close().unwrap();
    // SAFETY: nothing above is used below.
    unsafe { shut_down() };
    let all = objects_in(&path);
    // The namespace, the index and one more of it at least, the secondary index, the data.
    assert!(all.len() as u64 >= 4 + stats.data_objects, "{} objects", all.len());

    use_store(Arc::new(PoolStore::open(&path).unwrap())).unwrap();
    let store = Store::open(id).unwrap();
    assert_eq!(store.stats().unwrap().keys, 6_000, "what was made volatile stays with the store");
    store.close().unwrap();
    Platform::delete(id).unwrap();
    // SAFETY: nothing above is used below.
    unsafe { shut_down() };

    use_store(Arc::new(PoolStore::open(&path).unwrap())).unwrap();
    let names = Namespace::root().unwrap();
    // The name is as good as free.
    let next = Store::open_or_create(&names, "/store", &options).unwrap();
    assert_ne!(next.id(), id);
    next.put(b"key", b"value").unwrap();
    next.close().unwrap();
    // SAFETY: nothing above is used below.
    unsafe { shut_down() };

    let left = objects_in(&path);
    assert_eq!(left.len(), 3, "the namespace, the index and the data of the next store: {left:?}");
    let report = pool::fsck_path(&path, false, &mut |_, _| {}).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
}
