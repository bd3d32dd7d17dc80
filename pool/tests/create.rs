//! Making a pool: nothing under its name until it is one.
#![allow(clippy::unwrap_used, reason = "tests")]

use pool::{CreateOptions, Error, OpenOptions, Pool};

const SIZE: u64 = 16 << 20;

#[test]
fn what_a_killed_creation_left_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let (path, left) = (folder.path().join("p"), folder.path().join(".p.new"));
    std::fs::write(&left, b"half a pool").unwrap();
    drop(Pool::create(&path, SIZE, &CreateOptions::default()).unwrap());
    assert!(!left.exists());
    Pool::open(&path, &OpenOptions::default()).unwrap();
}

/// Killed between the end of its making and its naming.
#[test]
fn a_whole_pool_without_its_name_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let (path, left) = (folder.path().join("p"), folder.path().join(".p.new"));
    drop(Pool::create(&left, SIZE, &CreateOptions::default()).unwrap());
    drop(Pool::create(&path, SIZE, &CreateOptions::default()).unwrap());
    assert!(!left.exists());
    Pool::open(&path, &OpenOptions::default()).unwrap();
}

/// Somebody is making it, and names it while we wait.
#[test]
fn a_pool_that_was_named_meanwhile_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (path, left) = (folder.path().join("p"), folder.path().join(".p.new"));
    let first = Pool::create(&left, SIZE, &CreateOptions::default()).unwrap();
    let uuid = first.uuid();
    let second = std::thread::scope(|scope| {
        let second = scope.spawn(|| Pool::create(&path, SIZE, &CreateOptions::default()));
        std::thread::sleep(std::time::Duration::from_millis(100));
        std::fs::rename(&left, &path).unwrap();
        drop(first);
        second.join().unwrap()
    });
    assert!(matches!(second, Err(Error::AlreadyAPool { .. })), "{second:?}");
    assert!(!left.exists());
    assert_eq!(Pool::open(&path, &OpenOptions::default()).unwrap().uuid(), uuid);
}

#[test]
fn a_creation_that_fails_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    let failed = Pool::create(&path, 4096, &CreateOptions::default());
    assert!(matches!(failed, Err(Error::TooSmall { .. })), "{failed:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_exists_keeps_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    drop(Pool::create(&path, SIZE, &CreateOptions::default()).unwrap());
    let again = Pool::create(&path, SIZE, &CreateOptions::default());
    assert!(matches!(again, Err(Error::AlreadyAPool { .. })), "{again:?}");
    Pool::open(&path, &OpenOptions::default()).unwrap();
}
