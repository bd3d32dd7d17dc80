//! Objects in a pool file: they are there again after a restart, with what was unfinished put back.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::collections::{HashMap, Vec as PVec};
use libtwz::names::Namespace;
use libtwz::prelude::*;
use libtwz::sys::hosted::{PoolStore, shut_down, use_store};
use libtwz::sys::{Platform, Seam};
use std::sync::Arc;

#[derive(Invariant)]
#[repr(C)]
struct Root {
    count: PCell<u64>,
    map: HashMap<u64, u64>,
    lock: libtwz::sync::Mutex<PCell<u64>>,
}

/// One test: the store belongs to the process.
#[test]
fn everything_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    use_store(Arc::new(PoolStore::create(&path, 64 << 20).unwrap())).unwrap();

    // First life: named objects, a copy, a lock that is held and a transaction that is open when the power fails.
    let root =
        Root { count: PCell::new(0), map: HashMap::new(), lock: libtwz::sync::Mutex::new(PCell::new(0)) };
    let object = ObjectBuilder::new().build(root).unwrap();
    let names = Namespace::root().unwrap();
    names.bind("/kept", object.id()).unwrap();
    for i in 0..2000 {
        object.map.insert(i, i * i).unwrap();
    }
    object.tx(|tx| tx.set(&object.count, 5)).unwrap();
    let copy = object.copy(Rights::empty()).unwrap();
    object.tx(|tx| tx.set(&object.count, 6)).unwrap();
    copy.tx(|tx| tx.set(&copy.count, 7)).unwrap();
    copy.map.insert(3, 0).unwrap();
    names.bind("/copy", copy.id()).unwrap();
    assert_eq!((object.count.get(), object.map.get(&3).unwrap()), (6, Some(9)), "the copy is its own");
    std::mem::forget(object.lock.lock().unwrap());
    let open = object.begin().unwrap();
    open.set(&object.count, 1000).unwrap();
    std::mem::forget(open);
    let deleted = ObjectBuilder::new().build(PCell::new(1_u64)).unwrap();
    let deleted_id = deleted.id();
    // SAFETY: no reference into it is used after this.
    unsafe { deleted.delete() }.unwrap();
    assert_eq!(Object::<PCell<u64>>::open(deleted_id).map(drop), Err(Error::NoSuchObject(deleted_id)));

    // What did not fit is in objects that were volatile when they were made; what is volatile goes.
    let full = ObjectBuilder::new().data_bytes(8192).build(PVec::<u64>::new()).unwrap();
    (0..1500).for_each(|i| full.push(i).unwrap());
    let (full_id, next) = (full.id(), full.overflow().unwrap());
    assert!(!next.is_null());
    names.bind("/full", full_id).unwrap();
    let scratch = ObjectBuilder::new().volatile().build(PCell::new(1_u64)).unwrap().id();
    assert!(Object::<PCell<u64>>::open(scratch).is_ok());
    let gone = ObjectBuilder::new().volatile().build(PCell::new(1_u64)).unwrap();
    let gone_id = gone.id();
    // SAFETY: no reference into it is used after this.
    unsafe { gone.delete() }.unwrap();
    assert_eq!(Object::<PCell<u64>>::open(gone_id).map(drop), Err(Error::NoSuchObject(gone_id)));

    // Room at once, or no object.
    let roomy = ObjectBuilder::new().reserve(4 << 20).build(PCell::new(1_u64)).unwrap();
    assert!(Platform::stat(roomy.id()).unwrap().allocated >= 4 << 20);
    let refused = ObjectBuilder::new().reserve(1 << 30).build(PCell::new(1_u64)).map(drop);
    assert!(matches!(refused, Err(Error::OutOfSpace(_))), "{refused:?}");

    // SAFETY: nothing above is used below.
    unsafe { shut_down() };

    // Second life.
    use_store(Arc::new(PoolStore::open(&path).unwrap())).unwrap();
    let names = Namespace::root().unwrap();
    let object = Object::<Root>::open(names.lookup("/kept").unwrap()).unwrap();
    assert_eq!(object.count.get(), 6, "the open transaction is undone");
    assert_eq!(object.map.len(), 2000);
    assert!((0..2000).all(|i| object.map.get(&i) == Ok(Some(i * i))));
    object.lock.try_lock().unwrap().set_without_log(1);
    let copy = Object::<Root>::open(names.lookup("/copy").unwrap()).unwrap();
    assert_eq!((copy.count.get(), copy.map.get(&3).unwrap()), (7, Some(0)));
    object.map.insert(1, 1).unwrap();
    assert_eq!(Object::<PCell<u64>>::open(scratch).map(drop), Err(Error::NoSuchObject(scratch)));
    let full = Object::<PVec<u64>>::open(full_id).unwrap();
    assert!(full.iter().map(Result::unwrap).eq(0..1500));
    assert_eq!(full.overflow(), Ok(next));
    // Storage that is given back, and a range that is no whole number of pages.
    let before = full.stat().unwrap().allocated;
    // SAFETY: nobody uses the range, in which nothing stands.
    unsafe { Platform::trim(full_id, (1 << 20) + 8..1 << 21) }.unwrap();
    assert_eq!(full.stat().unwrap().allocated, before);
    let window = full.window();
    (0..256).for_each(|page| window.store((16 << 20) + page * 4096, 7));
    assert!(full.stat().unwrap().allocated >= before + (1 << 20));
    // SAFETY: as above.
    unsafe { Platform::trim(full_id, 16 << 20..17 << 20) }.unwrap();
    assert!(full.stat().unwrap().allocated < before + (1 << 20));
    assert_eq!(window.load(16 << 20), 0);
    // SAFETY: no reference into it is used after this.
    unsafe { full.delete() }.unwrap();
    assert_eq!(Object::<PVec<u64>>::open(next).map(drop), Err(Error::NoSuchObject(next)));
    // SAFETY: nothing above is used below.
    unsafe { shut_down() };
}
