//! First users of a pool that meet: one root, one object and one directory of each name, which are there after a restart with their names.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::names::{Entry, Namespace};
use libtwz::prelude::*;
use libtwz::sys::hosted::{PoolStore, shut_down, use_store};
use libtwz::sys::{Platform, Seam};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const THREADS: u64 = 8;
const ROUNDS: u64 = 8;

/// One test: the store belongs to the process.
#[test]
fn who_is_first_is_first_for_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    use_store(Arc::new(PoolStore::create(&path, 64 << 20).unwrap())).unwrap();
    let gate = std::sync::Barrier::new(usize::try_from(THREADS).unwrap());
    let made = AtomicU64::new(0);
    let all_get = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (gate, made) = (&gate, &made);
                scope.spawn(move || {
                    gate.wait();
                    let names = Namespace::root().unwrap();
                    names.bind(&format!("/by {thread}"), names.id()).unwrap();
                    let mut got = vec![names.id()];
                    for round in 0..ROUNDS {
                        gate.wait();
                        let directory = format!("/{round}");
                        match names.make_dir(&directory, Rights::READ) {
                            Ok(_) => {
                                made.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => assert_eq!(error, Error::NameExists),
                        }
                        let path = format!("{directory}/it");
                        let it =
                            names.open_or_build(&path, ObjectBuilder::new(), || PCell::new(thread)).unwrap();
                        got.push(it.id());
                        assert_eq!(names.lookup(&path), Ok(it.id()));
                    }
                    got
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(all_get.iter().all(|got| *got == all_get[0]), "all threads get the same");
    assert_eq!(made.into_inner(), ROUNDS, "each directory is made once");
    let names = Namespace::root().unwrap();
    assert_eq!(names.list("/").unwrap().len() as u64, THREADS + ROUNDS, "no name is lost");
    // What is volatile on purpose stays so, with a name or not.
    let scratch =
        names.open_or_build("/scratch", ObjectBuilder::new().volatile(), || PCell::new(1_u64)).unwrap().id();
    assert_eq!(Platform::set_root(scratch), Err(Error::NameExists));
    // SAFETY: nothing above is used below.
    unsafe { shut_down() };

    let mut found: Vec<_> = all_get[0].clone();
    use_store(Arc::new(PoolStore::open(&path).unwrap())).unwrap();
    let names = Namespace::root().unwrap();
    assert_eq!(names.id(), all_get[0][0]);
    assert_eq!(Object::<PCell<u64>>::open(scratch).map(drop), Err(Error::NoSuchObject(scratch)));
    for round in 0..ROUNDS {
        let Entry::Directory(id) = names.entry(&format!("/{round}")).unwrap() else { panic!("a directory") };
        found.push(id);
        let it = names.lookup(&format!("/{round}/it")).unwrap();
        assert_eq!(it, all_get[0][usize::try_from(round).unwrap() + 1]);
        assert!(Object::<PCell<u64>>::open(it).unwrap().get() < THREADS);
    }
    // What was named can be deleted, as what was never volatile.
    let last = names.lookup("/0/it").unwrap();
    // SAFETY: nothing of it is used after this.
    unsafe { Object::<PCell<u64>>::open(last).unwrap().delete() }.unwrap();
    assert_eq!(Platform::stat(last).map(drop), Err(Error::NoSuchObject(last)));
    // SAFETY: nothing above is used below.
    unsafe { shut_down() };

    // Nothing else was left behind.
    let pool = pool::Pool::open(&path, &pool::OpenOptions::default()).unwrap();
    let mut there = pool.object_ids();
    there.retain(|&id| pool.contains(id));
    found.retain(|&id| id != last);
    there.sort_unstable();
    found.sort_unstable();
    assert_eq!(there, found);
    drop(pool);
    let report = pool::fsck_path(&path, false, &mut |_, _| {}).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
}
