//! What is not there in a pool: it reads as zeroes, takes no room for that, and is shown by all mappings when it is written.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::prelude::*;
use libtwz::sys::hosted::{PoolStore, use_store};
use libtwz::sys::{CreateSpec, Platform, Seam};
use libtwz::view;
use std::sync::Arc;

const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
const MIB: usize = 1 << 20;

#[test]
fn reading_takes_no_room() {
    let directory = tempfile::tempdir().unwrap();
    use_store(Arc::new(PoolStore::create(&directory.path().join("pool"), 64 << 20).unwrap())).unwrap();
    let o = ObjectBuilder::new().build([const { PCell::new(3_u64) }; 4]).unwrap();
    let (window, reader) = (o.window(), view::map(o.id(), Rights::READ).unwrap());
    let allocated = || o.stat().unwrap().allocated;
    let before = allocated();
    // Both mappings, far beyond what a pool of this size could hold.
    let read = |from: usize, to: usize| {
        for at in (from..to).step_by(4096) {
            assert_eq!((window.load(at), reader.load(at + 8)), (0, 0), "{at:#x}");
        }
    };
    read(64 * MIB, 200 * MIB);
    assert_eq!(allocated(), before, "reading takes room");
    // What showed zeroes shows what is written, in every mapping, and its neighbours are as they were.
    for at in [64 * MIB, 100 * MIB + 4096, 199 * MIB] {
        window.store(at, 5);
        assert_eq!((window.load(at), reader.load(at)), (5, 5), "{at:#x}");
        assert_eq!((window.load(at + 128 * 1024), reader.load(at + 128 * 1024)), (0, 0));
    }
    assert!(allocated() > before);

    // A copy shares pages until it is written, whoever has read them before.
    let copy = o.copy(Rights::empty()).unwrap();
    let (copied, copy_reader) = (copy.window(), view::map(copy.id(), Rights::READ).unwrap());
    for at in [64 * MIB, 100 * MIB + 4096] {
        assert_eq!((copied.load(at), copy_reader.load(at), window.load(at)), (5, 5, 5));
        copied.store(at, 6);
        assert_eq!((copied.load(at), copy_reader.load(at)), (6, 6));
        assert_eq!((window.load(at), reader.load(at)), (5, 5), "the original's");
        window.store(at, 7);
        assert_eq!((copied.load(at), copy_reader.load(at)), (6, 6), "the copy's");
        assert_eq!((window.load(at), reader.load(at)), (7, 7));
    }

    // A full pool can be read.
    let mut bytes = 32 << 20;
    while bytes >= 4096 {
        let spec =
            CreateSpec { default_rights: Rights::empty(), key: ObjectId::NULL, volatile: false, bytes };
        match Platform::create(&spec) {
            Ok(_) => {}
            Err(Error::OutOfSpace(_)) => bytes /= 2,
            Err(other) => panic!("{other}"),
        }
    }
    read(300 * MIB, 301 * MIB);
    let window = view::map(copy.id(), READ_WRITE).unwrap();
    assert_eq!(window.load(500 * MIB), 0);
}
