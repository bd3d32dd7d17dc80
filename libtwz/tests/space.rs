//! Out of space: a transaction that does not fit changes nothing, whatever it had done before.

#![allow(clippy::unwrap_used, reason = "tests")]

mod delegate;

use delegate::delegated;
use libtwz::collections::{BTreeMap, HashMap, Vec as PVec};
use libtwz::prelude::*;
use libtwz::sys::hosted::{MemoryStore, Store, use_store};
use libtwz::sys::{CreateSpec, Durability, Platform, Seam};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Objects that the store still makes.
static LEFT: AtomicU64 = AtomicU64::new(1000);

/// A store that makes [`LEFT`] objects and no more.
struct Limited(MemoryStore);

/// One store for all tests of the process, which take turns.
fn start() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    static DONE: OnceLock<()> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    DONE.get_or_init(|| {
        use_store(Arc::new(Limited(MemoryStore::with_durability(Durability::Power).unwrap()))).unwrap();
    });
    turn
}

/// Objects that there are.
static THERE: AtomicU64 = AtomicU64::new(0);

impl Store for Limited {
    delegated!(0: copy, tie, keep, trim, stat, piece, root, durability, boot_generation);
    fn create(&self, spec: &CreateSpec) -> Result<ObjectId> {
        let took = LEFT.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        took.map_err(|_| Error::OutOfSpace(ObjectId::NULL))?;
        let made = self.0.create(spec)?;
        THERE.fetch_add(1, Ordering::AcqRel);
        Ok(made)
    }
    fn delete(&self, id: ObjectId) -> Result<()> {
        self.0.delete(id)?;
        THERE.fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }
}

#[derive(Invariant)]
#[repr(C)]
struct Root {
    cells: [PCell<u64>; 8],
    vec: PVec<u64>,
    hash: HashMap<u64, u64>,
    tree: BTreeMap<u64, u64>,
}

/// What can be seen of a root: cells, vector, both maps, bytes in use.
type Seen = (Vec<u64>, Vec<u64>, Vec<(u64, u64)>, Vec<(u64, u64)>, usize);

fn seen(o: &Object<Root>) -> Seen {
    let census = o.census().unwrap();
    let mut hash: Vec<_> = o.hash.iter().collect::<Result<_>>().unwrap();
    hash.sort_unstable();
    (
        o.cells.iter().map(PCell::get).collect(),
        o.vec.iter().collect::<Result<_>>().unwrap(),
        hash,
        o.tree.iter().collect::<Result<_>>().unwrap(),
        census.bytes - census.free_bytes,
    )
}

#[test]
fn a_transaction_that_does_not_fit_changes_nothing() {
    let _turn = start();
    let cells = [const { PCell::new(0) }; 8];
    let root = Root { cells, vec: PVec::new(), hash: HashMap::new(), tree: BTreeMap::new() };
    // One object of 8 KiB, one that is chained to it, and no third.
    let o = ObjectBuilder::new().data_bytes(8192).build(root).unwrap();
    let chained_ones = LEFT.swap(1, Ordering::AcqRel);
    let mut refused = 0;
    for round in 0..200_u64 {
        let before = seen(&o);
        let result = o.tx(|tx| {
            tx.set(&o.cells[0], round + 1)?;
            tx.put(&o.cells[1], round + 1)?;
            for i in 0..20 {
                let key = round * 20 + i;
                o.tree.insert_in(tx, key, round)?;
                o.hash.insert_in(tx, key, round)?;
                o.vec.push_in(tx, key)?;
            }
            tx.set(&o.cells[2], round + 1)
        });
        match result {
            Ok(()) => assert_eq!(o.cells[2].get(), round + 1),
            Err(error) => {
                assert!(matches!(error, Error::OutOfSpace(_)), "{error}");
                assert_eq!(seen(&o), before, "round {round}: nothing of it stays");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "it must have become full: {refused}");
    LEFT.store(chained_ones, Ordering::Release);
    // What is there can still be changed, and opened again.
    o.tx(|tx| tx.set(&o.cells[7], 9)).unwrap();
    assert_eq!(Object::<Root>::open(o.id()).unwrap().cells[7].get(), 9);
    // A failure inside that the program goes on from fails the whole.
    let result = o.tx(|tx| {
        tx.set(&o.cells[6], 1)?;
        let _ = tx.alloc([0_u8; 9000]); // larger than any object here
        Ok(())
    });
    assert!(result.is_err(), "an operation failed, so the transaction does");
    assert_eq!(o.cells[6].get(), 0);
}

#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
const META: usize = twz_abi::object::META_OFFSET as usize;

fn word(o: libtwz::Window, at: usize) -> usize {
    usize::try_from(o.load(at)).unwrap()
}

#[test]
fn a_log_that_cannot_grow_fails_the_transaction() {
    let _turn = start();
    LEFT.store(1000, Ordering::Release);
    // Two lines of log, and an arena that says that blocks fill the object up to where the log's next chunk would be.
    let o = ObjectBuilder::new().log_bytes(128).build([const { PCell::new(0_u64) }; 64]).unwrap();
    let arena = word(o.window(), META + 32);
    o.window().store(arena + 8, twz_abi::object::DATA_END - 4096);
    let values = || o.iter().map(PCell::get).collect::<Vec<_>>();
    let add =
        |words: usize| o.tx(|tx| o.iter().take(words).try_for_each(|cell| tx.set(cell, cell.get() + 1)));
    LEFT.store(0, Ordering::Release);
    for round in 1..20 {
        add(1).unwrap();
        assert_eq!(values()[0], round, "what fits two lines goes on, as often as it likes");
        let before = values();
        assert!(matches!(add(64), Err(Error::OutOfSpace(_))), "what does not is refused");
        assert_eq!(values(), before, "and leaves nothing");
    }
    // Until there is space for another object, in which the log goes on.
    LEFT.store(1000, Ordering::Release);
    let before = THERE.load(Ordering::Acquire);
    let large = |value: u64| {
        o.tx(|tx| {
            for _ in 0..50_000 {
                o.iter().rev().try_for_each(|cell| tx.record(cell))?; // more than 50 MiB: side by side they would be half of that
            }
            o.iter().try_for_each(|cell| tx.set_recorded(cell, value))
        })
    };
    large(3).unwrap();
    assert_eq!(values(), [3; 64]);
    let log = word(o.window(), META + 24);
    let piece = ObjectId { lo: o.window().load(log + 48), hi: o.window().load(log + 56) };
    assert_eq!(THERE.load(Ordering::Acquire), before + 1);
    let bytes = |id: ObjectId| Platform::stat(id).unwrap().allocated;
    assert!(bytes(piece) < 1 << 20, "what it took is given back: {}", bytes(piece));
    add(64).unwrap();
    assert_eq!(values(), [4; 64], "it is used again");
    assert_eq!(THERE.load(Ordering::Acquire), before + 1);
    // A copy has a log of its own.
    let copy = o.copy(Rights::empty()).unwrap();
    assert_eq!(copy.window().load(log + 48), 0);
    // SAFETY: nothing of it is used after this.
    unsafe { o.delete() }.unwrap();
    assert_eq!(THERE.load(Ordering::Acquire), before - 1);
    assert_eq!(Platform::stat(piece).map(drop), Err(Error::NoSuchObject(piece)));
    assert_eq!(copy.iter().map(PCell::get).collect::<Vec<_>>(), [4; 64]);
}

#[test]
fn what_a_large_transaction_took_is_given_back() {
    let _turn = start();
    LEFT.store(1000, Ordering::Release);
    let o = ObjectBuilder::new().build([const { PCell::new(0_u64) }; 64]).unwrap();
    let log = word(o.window(), META + 24);
    let floor = || word(o.window(), log + 16);
    let end = usize::try_from(twz_abi::object::DATA_END).unwrap();
    // Backwards: records side by side would be one, and the log half as long.
    let record = |tx: &Tx, times: usize| {
        (0..times).try_for_each(|_| o.iter().rev().try_for_each(|cell| tx.record(cell)))
    };
    o.tx(|tx| record(tx, 100)).unwrap();
    let kept = floor();
    assert!(kept < end, "a log grows");
    for undone in [false, true] {
        // Pages that the blocks have ahead, where the log comes down to: when it gives these back, they are there no more.
        o.window().half(log + 88).store(u32::try_from(end - (2 << 20)).unwrap(), Ordering::Relaxed);
        let result = o.tx(|tx| {
            record(tx, 30_000)?; // 31 MB
            tx.settle()?;
            assert!(floor() < end - (16 << 20), "while it is needed: {:#x}", floor());
            if undone { Err(Error::Aborted) } else { Ok(()) }
        });
        assert_eq!(result.is_err(), undone);
        assert!(floor() >= end - (1 << 20), "and shrinks: {:#x}", floor());
        let mark = o.window().half(log + 88).load(Ordering::Relaxed) as usize;
        assert!(0 < mark && mark < end - (16 << 20), "what is known to be there is there: {mark:#x}");
        let allocated = o.stat().unwrap().allocated;
        assert!(allocated < 8 << 20, "its storage is given back: {allocated}");
    }
    o.tx(|tx| record(tx, 100).and(tx.set(&o[0], 9))).unwrap();
    assert_eq!(o[0].get(), 9);
}

#[test]
fn no_object_is_left_behind() {
    let _turn = start();
    LEFT.store(1000, Ordering::Release);
    let there = || THERE.load(Ordering::Acquire);
    let before = there();
    let o = ObjectBuilder::new().data_bytes(8192).build(PVec::<u64>::new()).unwrap();
    let fill = |tx: &Tx| -> Result<()> {
        (0..100).try_for_each(|_| tx.alloc([0_u64; 64]).map(drop)) // six objects' worth
    };
    // An abort.
    assert_eq!(o.tx(|tx| fill(tx).and(Err::<(), _>(Error::Aborted))), Err(Error::Aborted));
    assert_eq!((there(), o.overflow()), (before + 1, Ok(ObjectId::NULL)));
    // A part that fails alone.
    o.tx(|tx| {
        assert_eq!(tx.nested(|tx| fill(tx).and(Err::<(), _>(Error::Aborted))), Err(Error::Aborted));
        Ok(())
    })
    .unwrap();
    assert_eq!((there(), o.overflow()), (before + 1, Ok(ObjectId::NULL)));
    // No space for the last of them.
    LEFT.store(3, Ordering::Release);
    assert!(matches!(o.tx(fill), Err(Error::OutOfSpace(_))));
    assert_eq!(there(), before + 1);
    LEFT.store(1000, Ordering::Release);
    // A commit keeps them, and they go with their first.
    o.tx(fill).unwrap();
    let next = o.overflow().unwrap();
    assert!(there() > before + 3 && !next.is_null());
    // SAFETY: nothing of it is used after this.
    unsafe { o.delete() }.unwrap();
    assert_eq!(there(), before);
    assert!(matches!(Object::<PVec<u64>>::open(next), Err(Error::NoSuchObject(_))));
}

#[test]
fn an_object_that_another_only_claims_is_not_deleted_with_it() {
    let _turn = start();
    LEFT.store(1000, Ordering::Release);
    let [a, b] = [(); 2].map(|()| ObjectBuilder::new().data_bytes(8192).build(PVec::<u64>::new()).unwrap());
    for o in [a, b] {
        o.tx(|tx| (0..30).try_for_each(|_| tx.alloc([0_u64; 64]).map(drop))).unwrap();
    }
    // What `a` goes on in is now said to be what `b` goes on in.
    let link = word(a.window(), META + 32) + 32;
    let theirs = b.overflow().unwrap();
    a.window().store(link, theirs.lo);
    a.window().store(link + 8, theirs.hi);
    // SAFETY: nothing of it is used after this.
    unsafe { a.delete() }.unwrap();
    assert!(libtwz::view::map(theirs, Rights::READ).is_ok());
    b.tx(|tx| (0..30).try_for_each(|_| tx.alloc([0_u64; 64]).map(drop))).unwrap();
}

#[test]
fn what_does_not_fit_has_the_rights_and_the_key_of_the_full_object() {
    let _turn = start();
    LEFT.store(1000, Ordering::Release);
    let key = ObjectId::from_u128(77); // only its name counts here
    let builder = ObjectBuilder::new().data_bytes(4096).default_rights(Rights::READ).key(key);
    let a = builder.build(PVec::<u64>::new()).unwrap();
    while a.overflow().unwrap().is_null() {
        a.tx(|tx| tx.alloc([0_u64; 64]).map(drop)).unwrap();
    }
    let [full, more] = [a.id(), a.overflow().unwrap()].map(|id| Platform::stat(id).unwrap());
    assert_eq!((full.default_rights, full.key), (Rights::READ, key));
    assert_eq!((more.default_rights, more.key), (full.default_rights, full.key));
}

#[test]
fn a_chain_that_leads_to_a_stranger_or_round_in_a_circle_is_damage() {
    let _turn = start();
    LEFT.store(1000, Ordering::Release);
    let [a, b] = [(); 2].map(|()| ObjectBuilder::new().data_bytes(8192).build(PVec::<u64>::new()).unwrap());
    let link = word(a.window(), META + 32) + 32;
    for target in [b.id(), a.id()] {
        a.window().store(link, target.lo);
        a.window().store(link + 8, target.hi);
        let result = a.tx(|tx| (0..30).try_for_each(|_| tx.alloc([0_u64; 64]).map(drop)));
        assert!(matches!(result, Err(Error::Damaged { object, .. }) if object == a.id()), "{result:?}");
        assert_eq!(b.census().unwrap().bytes, 0, "nothing is taken from a stranger");
    }
}
