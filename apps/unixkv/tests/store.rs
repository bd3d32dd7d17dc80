//! The store beside std's `HashMap`, opened again in every way.

#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use std::collections::HashMap;
use unixkv::{Error, UnixKv};

const SMALL: usize = 64 << 10;

fn contents(store: &UnixKv) -> HashMap<Vec<u8>, Vec<u8>> {
    let mut all = HashMap::new();
    store.scan(|key, value| assert!(all.insert(key.to_vec(), value.to_vec()).is_none()));
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn behaves_as_a_hash_map(steps in prop::collection::vec((any::<u8>(), 0..3000_usize, 0..10_u8), 1..100)) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = UnixKv::open(folder.path(), SMALL, true).unwrap();
        let mut model = HashMap::new();
        for (number, size, what) in steps {
            let key = vec![number; usize::from(number) % 20];
            match what {
                0..6 => {
                    store.put(&key, &vec![number; size]).unwrap();
                    model.insert(key.clone(), vec![number; size]);
                }
                6..8 => prop_assert_eq!(store.delete(&key).unwrap(), model.remove(&key).is_some()),
                8 => {
                    drop(store);
                    store = UnixKv::open(folder.path(), SMALL, true).unwrap();
                }
                _ => {
                    // As after a power failure: the mark of the close is not there, and the index is whatever it is.
                    std::mem::forget(store);
                    store = UnixKv::open(folder.path(), SMALL, true).unwrap();
                }
            }
            prop_assert_eq!(store.get(&key), model.get(&key).map(Vec::as_slice));
        }
        prop_assert_eq!(contents(&store), model);
    }
}

#[test]
fn grows_and_keeps_to_the_file_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = UnixKv::open(folder.path(), 1 << 20, false).unwrap();
    store.add_file(3).unwrap();
    for number in 0..60_000_u32 {
        store.put_in((number % 4) as usize, &number.to_le_bytes(), &(number * 3).to_le_bytes()).unwrap();
    }
    assert_eq!((store.stats().keys, store.stats().files), (60_000, 4));
    drop(store);
    let store = UnixKv::open(folder.path(), 1 << 20, false).unwrap();
    for number in 0..60_000_u32 {
        assert_eq!(store.get(&number.to_le_bytes()), Some(&(number * 3).to_le_bytes()[..]));
    }
    assert_eq!(store.get(b"none"), None);
}

#[test]
fn what_is_too_large_or_not_ours_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = UnixKv::open(folder.path(), SMALL, true).unwrap();
    assert!(matches!(store.put(b"k", &vec![0; SMALL]), Err(Error::TooLarge(_))));
    drop(store);
    std::fs::write(folder.path().join("data.0"), vec![7; SMALL]).unwrap();
    assert!(matches!(UnixKv::open(folder.path(), SMALL, true), Err(Error::NotOurs(_))));
}
