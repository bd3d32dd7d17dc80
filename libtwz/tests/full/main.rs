//! A full pool: transactions that do not fit fail whole, and nothing is a fault.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

extern crate alloc;

mod workload;

use libtwz::collections::Vec as PVec;
use libtwz::prelude::*;
use libtwz::sys::hosted::{PoolStore, shut_down, use_store};
use libtwz::sys::{Platform, Seam};
use std::path::Path;
use std::sync::Arc;

/// One test: the store belongs to the process.
#[test]
fn a_full_pool_is_an_error_wherever_it_is_met() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    use_store(Arc::new(PoolStore::create(&path, 24 << 20).unwrap())).unwrap();
    let counts = workload::run(88_172_645_463_325_252, 10).unwrap();
    println!("{counts:?}");
    assert!(counts.done > 100, "{counts:?}");
    assert!(counts.went_on > 1, "{counts:?}");
    // All kinds but puts into what is there.
    assert!(counts.refused[..workload::KINDS - 1].iter().all(|&refused| refused > 0), "{counts:?}");
    contents_with_holes(&path);
    sparse_blocks(&path);
    // SAFETY: nothing above is used below.
    unsafe { shut_down() };
    let report = pool::fsck_path(&path, false, &mut |_, _| {}).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
}

/// An object that was brought here without its pages of zeroes, or lost some: the first transaction after a boot sees to them, or fails.
fn contents_with_holes(path: &Path) {
    #[derive(Invariant)]
    #[repr(C)]
    struct Root {
        count: PCell<u64>,
        vec: PVec<u64>,
    }
    let o = ObjectBuilder::new().build(Root { count: PCell::new(1), vec: PVec::new() }).unwrap();
    o.vec.extend((0..100_000).map(|_| 0)).unwrap();
    libtwz::tx::checkpoint(o.window()).unwrap();
    let in_the_middle = core::ptr::from_ref(&*o).addr() + (400 << 10) - o.window().base();
    let hole = u64::try_from(in_the_middle).unwrap() & !4095;
    let before = o.stat().unwrap().allocated;
    // SAFETY: zeroes stand there, as before.
    unsafe { Platform::trim(o.id(), hole..hole + (64 << 10)) }.unwrap();
    assert_eq!(o.stat().unwrap().allocated, before - (64 << 10));
    let id = o.id();
    // SAFETY: nothing above is used below.
    unsafe { shut_down() };
    use_store(Arc::new(PoolStore::open(path).unwrap())).unwrap();
    let mut filler = workload::Filler::default();
    let o = Object::<Root>::open(id).unwrap();
    filler.fill();
    let change = || {
        o.tx(|tx| {
            tx.put(&o.count, 2)?;
            (0..o.vec.len()).step_by(512).try_for_each(|i| o.vec.set_in(tx, i, 5).map(drop))
        })
    };
    assert!(matches!(change(), Err(Error::OutOfSpace(_))));
    assert_eq!((o.count.get(), o.vec.get(0)), (1, Ok(Some(0))), "it can be read, and is as it was");
    filler.give(u64::MAX);
    change().unwrap();
    assert_eq!((o.count.get(), o.vec.get(512)), (2, Ok(Some(5))));
    assert!(o.stat().unwrap().allocated >= before);
    // SAFETY: nothing of it is used after this.
    unsafe { o.delete() }.unwrap();
}

/// A block that is larger than the pool takes no page before it is stored to, in no boot; what comes beside it does.
fn sparse_blocks(path: &Path) {
    #[derive(Invariant)]
    #[repr(C)]
    struct Root {
        block: PCell<u64>,
        vec: PVec<u64>,
    }
    const BYTES: usize = 200 << 20;
    let o = ObjectBuilder::new().build(Root { block: PCell::new(0), vec: PVec::new() }).unwrap();
    let before = o.stat().unwrap().allocated;
    let mut filler = workload::Filler::default();
    // One that is not to be after all: what comes in its place gets its pages.
    let aborted: Result<()> = o.tx(|tx| {
        tx.alloc_sparse(o.window(), BYTES, 64)?;
        Err(Error::Aborted)
    });
    assert_eq!(aborted, Err(Error::Aborted));
    filler.fill();
    assert!(matches!(o.tx(|tx| tx.alloc([7_u64; 1024]).map(drop)), Err(Error::OutOfSpace(_))));
    filler.give(u64::MAX);
    let block = o
        .tx(|tx| {
            let block = tx.alloc_sparse(o.window(), BYTES, 64)?;
            tx.put(&o.block, (block - o.window().base()) as u64)?;
            Ok(block)
        })
        .unwrap();
    assert!(o.stat().unwrap().allocated <= before + (64 << 10), "{:?}", o.stat());
    o.window().store(block + (100 << 20) - o.window().base(), 7);
    o.vec.extend(0..10_000).unwrap();
    let id = o.id();
    // SAFETY: nothing above is used below.
    unsafe { shut_down() };
    use_store(Arc::new(PoolStore::open(path).unwrap())).unwrap();
    let o = Object::<Root>::open(id).unwrap();
    o.vec.extend(0..10_000).unwrap();
    assert!(o.stat().unwrap().allocated < before + (4 << 20), "{:?}", o.stat());
    let block = usize::try_from(o.block.get()).unwrap();
    assert_eq!((o.window().load(block + (100 << 20)), o.vec.len()), (7, 20_000));
    let mut filler = workload::Filler::default();
    filler.fill();
    assert!(matches!(o.vec.extend(0..500_000), Err(Error::OutOfSpace(_))));
    assert_eq!(o.vec.len(), 20_000);
    filler.give(u64::MAX);
    // SAFETY: nothing of it is used after this.
    unsafe { o.delete() }.unwrap();
}
