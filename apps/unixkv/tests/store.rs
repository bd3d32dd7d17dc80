//! The store beside std's `HashMap`, opened again in every way.

#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use std::collections::HashMap;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use unixkv::{Error, UnixKv};

const SMALL: usize = 64 << 10;

fn contents(store: &UnixKv) -> HashMap<Vec<u8>, Vec<u8>> {
    let mut all = HashMap::new();
    store.scan(|value| assert!(all.insert(value.key().unwrap(), value.to_vec().unwrap()).is_none()));
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
            let value = store.read(&key).unwrap();
            prop_assert_eq!(value.as_ref(), model.get(&key));
        }
        prop_assert_eq!(contents(&store), model);
    }
}

#[test]
fn grows_and_keeps_to_the_file_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = UnixKv::open(folder.path(), 1 << 20, false).unwrap();
    store.add_file(3).unwrap();
    for number in 0..60_000_u32 {
        store.put_in((number % 4) as usize, &number.to_le_bytes(), &(number * 3).to_le_bytes()).unwrap();
    }
    assert_eq!((store.stats().keys, store.stats().files), (60_000, 4));
    drop(store);
    let store = UnixKv::open(folder.path(), 1 << 20, false).unwrap();
    for number in 0..60_000_u32 {
        assert_eq!(store.read(&number.to_le_bytes()).unwrap(), Some((number * 3).to_le_bytes().to_vec()));
    }
    assert_eq!(store.read(b"none").unwrap(), None);
}

#[test]
fn what_is_too_large_or_not_ours_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = UnixKv::open(folder.path(), SMALL, true).unwrap();
    assert!(matches!(store.put(b"k", &vec![0; SMALL]), Err(Error::TooLarge(_))));
    drop(store);
    std::fs::write(folder.path().join("data.0"), vec![7; SMALL]).unwrap();
    assert!(matches!(UnixKv::open(folder.path(), SMALL, true), Err(Error::NotOurs(_))));
}

#[test]
fn threads_put_and_find() {
    const EACH: u32 = 20_000;
    const THREADS: u32 = 4;
    let folder = tempfile::tempdir().unwrap();
    let store = UnixKv::open(folder.path(), 1 << 20, true).unwrap();
    store.put(b"shared", &[0; 64]).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                for number in (0..EACH).map(|number| number * THREADS + thread) {
                    assert!(!store.put(&number.to_le_bytes(), &(number ^ 1).to_le_bytes()).unwrap());
                    let value = store.read(&number.to_le_bytes()).unwrap();
                    assert_eq!(value, Some((number ^ 1).to_le_bytes().to_vec()), "{number} was just put");
                    store.put(b"shared", &[number.to_le_bytes()[0]; 64]).unwrap();
                    let shared = store.read(b"shared").unwrap().unwrap();
                    assert!(shared.iter().all(|byte| *byte == shared[0]), "torn");
                }
            });
        }
    });
    assert_eq!(store.stats().keys, (EACH * THREADS + 1) as usize);
    std::mem::forget(store); // as after a power failure
    let store = UnixKv::open(folder.path(), 1 << 20, true).unwrap();
    assert_eq!(store.stats().keys, (EACH * THREADS + 1) as usize);
}

#[test]
fn a_damaged_store_is_no_danger() {
    let folder = tempfile::tempdir().unwrap();
    let fill = |store: &UnixKv| {
        (0..5000_u32).try_for_each(|number| store.put(&number.to_le_bytes(), &[7; 40]).map(drop))
    };
    fill(&UnixKv::open(folder.path(), SMALL, true).unwrap()).unwrap();
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let [data, index] = ["data.0", "index"].map(|name| folder.path().join(name));
    // Of the index: its first page, the directory in use, and the segments, which are all in the first of these bytes but for zeros.
    let places = |of_index: bool| {
        if of_index {
            [0..64, 4096..4160, (8 << 20) + 4096..(8 << 20) + 70_000]
        } else {
            [0..256, 4096..8192, 4096..69_000]
        }
    };
    let mut found = 0;
    for _ in 0..60 {
        for (path, of_index) in [(&data, false), (&index, true)] {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            for _ in 0..random(40) {
                let place = places(of_index)[random(3)].clone();
                let at = place.start.max(8) + random(place.end - place.start.max(8));
                file.write_all_at(&[u8::try_from(random(256)).unwrap()], at as u64).unwrap();
            }
        }
        // Whatever is found, nothing panics, and what is found is all there.
        let Ok(store) = UnixKv::open(folder.path(), SMALL, true) else { continue };
        for number in 0..5000_u32 {
            found +=
                usize::from(matches!(store.get(&number.to_le_bytes()), Ok(Some(value)) if value.len() == 40));
        }
        store.scan(|value| assert!(value.key().unwrap().len() + value.to_vec().unwrap().len() <= 1 << 20));
        let _ = (fill(&store), store.delete(&7_u32.to_le_bytes()));
    }
    assert!(found > 1000, "{found}: damage here and there does not take everything along");
}

#[test]
fn places_are_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = UnixKv::open(folder.path(), SMALL, true).unwrap();
    for round in 0..20_u8 {
        // What is alive takes a third of a file; replaced and deleted, it would soon fill more.
        for number in 0..500_u32 {
            store.put(&number.to_le_bytes(), &[round; 16]).unwrap();
        }
        for number in (0..500_u32).step_by(3) {
            assert!(store.delete(&number.to_le_bytes()).unwrap());
        }
        match round % 4 {
            2 => store = reopened(store, folder.path()), // the free places have to be found
            3 => store = cut_off(store, folder.path()),
            _ => {}
        }
    }
    assert_eq!(store.stats().files, 1);
    for number in 0..500_u32 {
        let value = store.read(&number.to_le_bytes()).unwrap();
        assert_eq!(value, (number % 3 != 0).then(|| vec![19; 16]), "{number}");
    }
}

fn reopened(store: UnixKv, folder: &Path) -> UnixKv {
    drop(store);
    UnixKv::open(folder, SMALL, true).unwrap()
}

/// As after a power failure: the mark of the close is not there.
fn cut_off(store: UnixKv, folder: &Path) -> UnixKv {
    std::mem::forget(store);
    UnixKv::open(folder, SMALL, true).unwrap()
}

#[test]
fn a_value_says_when_its_place_may_hold_another() {
    let folder = tempfile::tempdir().unwrap();
    let store = UnixKv::open(folder.path(), SMALL, true).unwrap();
    store.put(b"key", b"value").unwrap();
    let value = store.get(b"key").unwrap().unwrap();
    assert!(value.is_current() && value.word(0) == u64::from_le_bytes(*b"value\0\0\0") && value.word(1) == 0);
    store.put(b"key", b"other").unwrap();
    assert!(!value.is_current() && value.to_vec().is_none());
    let value = store.get(b"key").unwrap().unwrap();
    store.delete(b"key").unwrap();
    assert!(!value.is_current() && value.key().is_none());
}

/// Runs `what` in a thread that has the rights of nobody in particular, were this the superuser, and on files that are closed to their owner, too.
fn without_privileges(what: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            const NOBODY: libc::c_long = 65_534;
            // SAFETY: changes the user of this thread alone, which ends after `what`; refused to whoever is not the superuser.
            unsafe { libc::syscall(libc::SYS_setresuid, -1_i64, NOBODY, -1_i64) };
            what();
        });
    });
}

#[test]
fn what_permissions_deny_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = UnixKv::open(folder.path(), SMALL, true).unwrap();
    store.add_file(2).unwrap();
    for number in 0..3_u8 {
        store.put_in(number.into(), &[number], &[number; 8]).unwrap();
    }
    drop(store);
    let permit = |name: &str, mode| {
        std::fs::set_permissions(folder.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    permit("", 0o777);
    for (name, mode) in [("index", 0o666), ("data.0", 0o666), ("data.1", 0o444), ("data.2", 0o000)] {
        permit(name, mode);
    }
    without_privileges(|| {
        let store = UnixKv::open(folder.path(), SMALL, true).unwrap();
        assert_eq!(store.stats(), unixkv::Stats { files: 3, keys: 3, ..store.stats() });
        assert_eq!(contents(&store).len(), 2);
        assert_eq!(store.read(&[0]).unwrap(), Some(vec![0; 8]));
        assert_eq!(store.read(&[1]).unwrap(), Some(vec![1; 8]));
        assert!(matches!(store.read(&[2]), Err(Error::NotPermitted(2))));
        for number in 1..3_u8 {
            let refused = |done: Result<bool, Error>| {
                assert!(matches!(done, Err(Error::NotPermitted(file)) if file == usize::from(number)));
            };
            refused(store.put_in(number.into(), b"new", b"value"));
            refused(store.put_in(0, &[number], b"value"));
            refused(store.delete(&[number]));
        }
        assert_eq!(store.read(&[1]).unwrap(), Some(vec![1; 8]));
        assert!(store.put_in(0, &[0], b"value").unwrap());
        // Others are passed over when a file is full.
        for number in 0..4000_u32 {
            store.put_in(0, &number.to_le_bytes(), b"many").unwrap();
        }
        assert!(store.stats().files > 3);
    });
}
