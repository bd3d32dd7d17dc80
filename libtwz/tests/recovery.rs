//! Recovery that cannot be finished, that others wait for, that readers wait for, and whose objects are deleted.
//!
//! A machine's next boot is `simulate::reboot`: objects keep what was stored, locks do not. What a power failure may leave of unflushed stores is
//! the subject of `tests/crash`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod delegate;

use core::mem::offset_of;
use delegate::delegated;
use libtwz::prelude::*;
use libtwz::simulate::{self, Event};
use libtwz::sys::hosted::{MemoryStore, Store, use_store};
use libtwz::sys::{CreateSpec, Durability, Stat};
use libtwz::{Window, view};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use twz_abi::object::{META_OFFSET, ObjectMeta};

#[derive(Invariant)]
#[repr(C)]
struct Cells {
    cells: [PCell<u64>; 64],
    halves: [PCell<u32>; 2],
}

/// Bytes from an object's page 1 on that hold its root, log and allocator.
const USED: usize = 64 << 10;
#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
const META: usize = META_OFFSET as usize;

fn cells() -> Object<Cells> {
    let root = Cells { cells: [const { PCell::new(1) }; 64], halves: [const { PCell::new(1) }; 2] };
    ObjectBuilder::new().uncoloured().build(root).unwrap()
}

/// A store some of whose objects cannot be had.
struct Gate {
    memory: MemoryStore,
    refused: RwLock<HashMap<ObjectId, Error>>,
    /// No object can be made.
    full: AtomicBool,
    /// Objects to which there are only some rights.
    granted: RwLock<HashMap<ObjectId, Rights>>,
}

impl Gate {
    fn pass(&self, id: ObjectId) -> Result<()> {
        self.refused.read().unwrap().get(&id).map_or(Ok(()), |error| Err(*error))
    }
}

impl Store for Gate {
    delegated!(memory: copy, tie, keep, trim, piece, root, durability, boot_generation);
    fn create(&self, spec: &CreateSpec) -> Result<ObjectId> {
        if self.full.load(Ordering::Acquire) {
            return Err(Error::OutOfSpace(ObjectId::NULL));
        }
        self.memory.create(spec)
    }
    fn delete(&self, id: ObjectId) -> Result<()> {
        self.pass(id).and_then(|()| self.memory.delete(id))
    }
    fn stat(&self, id: ObjectId) -> Result<Stat> {
        let stat = self.pass(id).and_then(|()| self.memory.stat(id))?;
        let granted = self.granted.read().unwrap().get(&id).copied();
        Ok(Stat { granted: granted.unwrap_or(stat.granted), ..stat })
    }
}

type Contents = Vec<Vec<u64>>;

thread_local! {
    /// Objects whose contents are kept at each fence of this thread, and what was kept.
    static KEPT: RefCell<Option<(Vec<Window>, Vec<Contents>)>> = const { RefCell::new(None) };
    /// What this thread does at its next fence.
    static AT_FENCE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// One test at a time: a reboot is everybody's.
fn begin() -> (MutexGuard<'static, ()>, Arc<Gate>) {
    static ONE: Mutex<()> = Mutex::new(());
    static GATE: OnceLock<Arc<Gate>> = OnceLock::new();
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let gate = GATE.get_or_init(|| {
        let memory = MemoryStore::with_durability(Durability::Power).unwrap();
        let (refused, granted) = (RwLock::default(), RwLock::default());
        let gate = Arc::new(Gate { memory, refused, granted, full: AtomicBool::new(false) });
        use_store(Arc::clone(&gate) as Arc<dyn Store>).unwrap();
        assert!(simulate::record_with(|event, _| {
            if event == Event::Fence {
                KEPT.with_borrow_mut(|kept| {
                    if let Some((objects, kept)) = kept {
                        kept.push(contents(objects));
                    }
                });
                if let Some(action) = AT_FENCE.with_borrow_mut(Option::take) {
                    action();
                }
            }
        }));
        gate
    });
    gate.refused.write().unwrap().clear();
    gate.granted.write().unwrap().clear();
    (guard, Arc::clone(gate))
}

fn contents(objects: &[Window]) -> Contents {
    let words = |o: &Window| (4096..4096 + USED).step_by(8).map(|at| o.load(at)).collect();
    objects.iter().map(words).collect()
}

fn put_contents(objects: &[Window], contents: &Contents) {
    for (o, words) in objects.iter().zip(contents) {
        words.iter().enumerate().for_each(|(i, word)| o.store(4096 + i * 8, *word));
    }
}

impl Gate {
    /// The object cannot be had from here on: every way to it says `error`.
    fn refuse(&self, o: &Object<Cells>, error: Error) {
        self.refused.write().unwrap().insert(o.id(), error);
        // SAFETY: the tests use no reference to a refused object.
        unsafe { view::unmap(o.id()) };
    }

    /// From here on there are these rights to the object.
    fn grant(&self, o: &Object<Cells>, rights: Rights) {
        self.granted.write().unwrap().insert(o.id(), rights);
        // SAFETY: the tests use no reference to it.
        unsafe { view::unmap(o.id()) };
    }

    fn admit(&self, o: &Object<Cells>) {
        self.refused.write().unwrap().remove(&o.id());
    }
}

/// A transaction of `home` that is cut off after it changed cell 0 of all to 900.
fn cut_off(home: &Object<Cells>, others: &[&Object<Cells>]) {
    let tx = home.begin().unwrap();
    tx.set(&home.cells[0], 900).unwrap();
    for other in others {
        tx.set(&other.cells[0], 900).unwrap();
    }
    std::mem::forget(tx);
    simulate::reboot();
}

fn open(o: &Object<Cells>) -> Result<Object<Cells>> {
    Object::open(o.id())
}

#[test]
fn what_could_not_be_recovered_is_not_taken_for_recovered() {
    let (_one, gate) = begin();
    let (home, other) = (cells(), cells());
    cut_off(&home, &[&other]);
    let refused = Error::NotPermitted(home.id());
    gate.refuse(&home, refused);
    assert_eq!(open(&other).map(drop), Err(refused));
    assert_eq!(open(&other).map(drop), Err(refused), "a second time");
    assert_eq!(other.tx(|tx| tx.set(&other.cells[1], 5)), Err(refused), "nor by a transaction");
    let third = cells();
    let joined = third.tx(|tx| tx.set(&third.cells[0], 5).and_then(|()| tx.set(&other.cells[1], 5)));
    assert_eq!(joined, Err(refused), "nor as a part of one");
    gate.admit(&home);
    assert_eq!(open(&other).unwrap().cells[0].get(), 1, "put back");
    assert_eq!(open(&home).unwrap().cells[0].get(), 1);
    other.tx(|tx| tx.set(&other.cells[1], 6)).unwrap();
}

#[test]
fn a_participant_that_cannot_be_had_is_not_left_behind() {
    let (_one, gate) = begin();
    let (home, first, second) = (cells(), cells(), cells());
    cut_off(&home, &[&first, &second]);
    for refused in [Error::NotPermitted(first.id()), Error::OutOfSlots] {
        gate.refuse(&first, refused);
        assert_eq!(open(&home).map(drop), Err(refused));
        assert_eq!(open(&second).map(drop), Err(refused), "its coordinator is not recovered");
        assert_eq!(open(&home).map(drop), Err(refused));
        simulate::reboot();
    }
    gate.admit(&first);
    assert_eq!(open(&home).unwrap().cells[0].get(), 1);
    for other in [&first, &second] {
        assert_eq!(open(other).unwrap().cells[0].get(), 1, "put back");
    }
}

#[test]
fn a_participant_that_is_gone_is_not_missed() {
    let (_one, gate) = begin();
    let (home, first, second) = (cells(), cells(), cells());
    cut_off(&home, &[&first, &second]);
    gate.refuse(&first, Error::NoSuchObject(first.id()));
    assert_eq!(open(&home).unwrap().cells[0].get(), 1);
    assert_eq!(open(&second).unwrap().cells[0].get(), 1);
}

/// A pair, and what a power failure at each fence of the first one's transaction over both can leave of it.
fn change_both(reused: bool) -> ([Object<Cells>; 2], Vec<Contents>) {
    let (home, other) = (cells(), cells());
    if reused {
        // A block that is used again makes the commit end with a checkpoint.
        let block = home.tx(|tx| tx.alloc([1_u64; 6])).unwrap();
        // SAFETY: nobody uses it any more.
        home.tx(|tx| unsafe { tx.free(block) }).unwrap();
    }
    KEPT.set(Some((vec![home.window(), other.window()], Vec::new())));
    home.tx(|tx| {
        tx.set(&home.cells[0], 2)?;
        tx.set(&other.cells[0], 2)?;
        tx.put(&other.cells[1], 2)?;
        if reused { tx.alloc([2_u64; 6]).map(drop) } else { Ok(()) }
    })
    .unwrap();
    ([home, other], KEPT.take().unwrap().1)
}

fn fail_power_at(pair: &[Object<Cells>; 2], contents: &Contents) {
    put_contents(&pair.map(|o| o.window()), contents);
    simulate::reboot();
}

#[test]
fn a_home_that_is_deleted_after_its_recovery_takes_nothing_back() {
    let (_one, gate) = begin();
    for reused in [false, true] {
        let (pair, kept) = change_both(reused);
        let [home, other] = &pair;
        let mut values = Vec::new();
        for contents in kept {
            fail_power_at(&pair, &contents);
            let value = open(home).unwrap().cells[0].get();
            gate.refuse(home, Error::NoSuchObject(home.id()));
            let o = open(other).unwrap();
            assert_eq!([0, 1].map(|i| o.cells[i].get()), [value; 2], "after {values:?}");
            gate.admit(home);
            open(home).unwrap();
            values.push(value);
        }
        assert!(values.starts_with(&[1, 1]) && values.ends_with(&[2, 2]), "{values:?}");
    }
}

#[test]
fn deleting_an_unrecovered_home_takes_nothing_back() {
    let (_one, _gate) = begin();
    let (pair, kept) = change_both(false);
    let value_after = |contents: &Contents| {
        fail_power_at(&pair, contents);
        open(&pair[0]).unwrap().cells[0].get()
    };
    let expected: Vec<u64> = kept.iter().map(value_after).collect();
    assert!(expected.contains(&1) && expected.contains(&2));
    for (failure, value) in expected.iter().enumerate() {
        let (pair, kept) = change_both(false);
        fail_power_at(&pair, &kept[failure]);
        // By a handle of before: whoever opens it recovers it.
        // SAFETY: no reference into it is used after this.
        unsafe { pair[0].delete() }.unwrap();
        let other = open(&pair[1]).unwrap();
        assert_eq!([0, 1].map(|i| other.cells[i].get()), [*value; 2], "fence {failure}");
    }
}

#[test]
fn who_may_not_write_a_participant_has_the_home_that_was_committed() {
    let (_one, gate) = begin();
    let (pair, kept) = change_both(false);
    let [home, other] = &pair;
    let mut committed = 0;
    for contents in kept {
        fail_power_at(&pair, &contents);
        let refused = Error::NotPermitted(other.id());
        gate.refuse(other, refused);
        let opened = open(home).map(|o| o.cells[0].get());
        gate.admit(other);
        match opened {
            Ok(value) => committed += usize::from(value == 2),
            Err(error) => assert_eq!(error, refused, "what was cut off waits"),
        }
        let values = [open(home).unwrap(), open(other).unwrap()].map(|o| o.cells[0].get());
        assert!(values == [1; 2] || values == [2; 2], "{values:?}");
        assert!(opened.is_err() || opened == Ok(values[0]));
    }
    assert!(committed > 1);
}

/// Every opener finds what recovery makes of the object, also while another thread is at it.
#[test]
fn a_second_opener_waits_for_the_recovery() {
    let (_one, _gate) = begin();
    let (home, other) = (cells(), cells());
    for who in [home, other] {
        cut_off(&home, &[&other]);
        let (told, tell) = channel();
        let (opened, is_open) = channel();
        std::thread::scope(|scope| {
            let first = scope.spawn(move || {
                // In the middle of the recovery, another thread opens the object.
                AT_FENCE.set(Some(Box::new(move || {
                    told.send(()).unwrap();
                    // It must not get through: the time only says how long a wrong one has for it.
                    let early = is_open.recv_timeout(Duration::from_millis(100));
                    assert_eq!(early, Err(RecvTimeoutError::Timeout), "opened before it was recovered");
                })));
                open(&who).unwrap();
                assert!(AT_FENCE.take().is_none(), "recovery has a fence");
            });
            tell.recv().unwrap();
            let value = open(&who).unwrap().cells[0].get();
            let _ = opened.send(value); // nobody listens when it is late enough
            assert_eq!(value, 1);
            first.join().unwrap();
        });
    }
}

/// One that holds the object after its recovery is not waited for.
#[test]
fn an_opener_does_not_wait_for_a_transaction() {
    let (_one, _gate) = begin();
    let (home, other) = (cells(), cells());
    cut_off(&home, &[&other]);
    let tx = home.begin().unwrap(); // recovers, and goes on
    tx.set(&home.cells[1], 7).unwrap();
    std::thread::scope(|scope| {
        // Its coordinator is recovered, if at work.
        scope.spawn(|| assert_eq!(open(&other).unwrap().cells[0].get(), 1)).join().unwrap();
        scope.spawn(|| assert_eq!(open(&home).unwrap().cells[0].get(), 1)).join().unwrap();
    });
    assert_eq!(open(&home).unwrap().cells[1].get(), 7, "nor for itself");
    tx.commit().unwrap();
}

const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);

/// Who may only read gets what was committed, or an error; and what is right as it stands needs nobody.
#[test]
fn who_may_only_read_sees_nothing_that_was_cut_off() {
    let (_one, gate) = begin();
    let read = |o: &Object<Cells>| {
        let values =
            Object::<Cells>::open_with(o.id(), Rights::READ).map(|o| [0, 1].map(|i| o.cells[i].get()));
        let by_id = o.global().resolve(Rights::READ).map(|o| [0, 1].map(|i| o.cells[i].get()));
        assert_eq!(values, by_id);
        values
    };
    // What becomes of it, and whether it is what recovery would make of it.
    type Failure = fn(&Object<Cells>);
    let failures: [(Failure, Option<[u64; 2]>); 8] = [
        (|_| (), Some([1, 1])),
        (|o| o.tx(|tx| tx.put(&o.cells[0], 2)).unwrap(), Some([2, 1])),
        (
            |o| {
                o.tx(|tx| tx.put(&o.cells[0], 2)).unwrap();
                o.tx(|tx| tx.set(&o.cells[1], 3).and_then(|()| tx.put(&o.cells[0], 3))).unwrap();
                o.tx(|tx| tx.set(&o.cells[1], 4).and(Err::<(), _>(Error::Aborted))).unwrap_err();
            },
            Some([3, 3]),
        ),
        (|o| o.tx(|tx| tx.put(&o.cells[1], 2).and_then(|()| tx.put(&o.halves[1], 7))).unwrap(), Some([1, 2])),
        (
            |o| {
                o.tx(|tx| tx.put(&o.cells[1], 2).and_then(|()| tx.put(&o.halves[1], 7))).unwrap();
                o.halves[1].set_without_log(1);
            },
            None,
        ),
        // The line was not written back: the new value stands in the log only.
        (
            |o| {
                o.tx(|tx| tx.put(&o.cells[0], 2)).unwrap();
                o.cells[0].set_without_log(1);
            },
            None,
        ),
        // What was undone had been written back before.
        (
            |o| {
                o.tx(|tx| tx.set(&o.cells[0], 4).and(Err::<(), _>(Error::Aborted))).unwrap_err();
                o.cells[0].set_without_log(4);
            },
            None,
        ),
        // It did not end.
        (
            |o| {
                let tx = o.begin().unwrap();
                tx.set(&o.cells[0], 4).unwrap();
                std::mem::forget(tx);
            },
            None,
        ),
    ];
    for (number, (fail, stands)) in failures.into_iter().enumerate() {
        let [may_not, may] = [0, 1].map(|_| {
            let o = cells();
            fail(&o);
            o
        });
        simulate::reboot();
        gate.grant(&may_not, Rights::READ);
        let expected = stands.ok_or(Error::Unrecovered(may_not.id()));
        assert_eq!(read(&may_not), expected, "case {number}");
        assert_eq!(read(&may_not), expected, "case {number}, again");
        assert_eq!(open(&may_not).map(drop), Err(Error::NotPermitted(may_not.id())), "case {number}");
        // Who could write it need not ask for that.
        let recovered = read(&may).unwrap();
        assert_eq!(
            recovered,
            open(&may)
                .unwrap()
                .cells
                .first_chunk()
                .map(|cells: &[_; 2]| cells.each_ref().map(PCell::get))
                .unwrap()
        );
        assert_eq!(may.halves[1].get() == 7, recovered == [1, 2], "case {number}");
        // Somebody who may has opened it, and changed it since.
        gate.grant(&may_not, READ_WRITE);
        open(&may_not).unwrap();
        gate.grant(&may_not, Rights::READ);
        assert_eq!(read(&may_not), Ok(recovered), "case {number}");
    }
}

/// A pointer is followed to what was committed, whoever opened it before: nobody.
#[test]
fn what_a_pointer_leads_to_is_recovered() {
    let (_one, gate) = begin();
    for way in 0..3 {
        let holder = ObjectBuilder::new().build(InvPtr::<Cells>::null()).unwrap();
        let (o, other) = (cells(), cells());
        holder.tx(|tx| tx.point(&*holder, Some(o.base()))).unwrap();
        if way == 1 {
            libtwz::fot::change(holder.window(), 1, libtwz::fot::Target::Id(o.id()), Rights::READ).unwrap();
        }
        // Of two objects, and the power fails before the new values are written back.
        o.tx(|tx| tx.put(&o.cells[0], 2).and_then(|()| tx.set(&other.cells[0], 2))).unwrap();
        o.cells[0].set_without_log(1);
        simulate::reboot();
        let follow = || match way {
            2 => o.global().resolve(READ_WRITE).map(|o| o.cells[0].get()),
            _ => holder.resolve().map(|o| o.cells[0].get()),
        };
        if way == 0 {
            // A recovery that fails is tried again.
            let refused = Error::NotPermitted(o.id());
            gate.refuse(&o, refused);
            assert_eq!(follow(), Err(refused));
            gate.admit(&o);
        }
        assert_eq!(follow(), Ok(2), "way {way}");
        o.tx(|tx| tx.set(&o.cells[0], 3)).unwrap();
        assert_eq!(follow(), Ok(3), "way {way}");
        if way < 2 {
            // The context may not write it, whatever the entry asks for.
            o.tx(|tx| tx.put(&o.cells[0], 4)).unwrap();
            simulate::reboot();
            gate.grant(&o, Rights::READ);
            assert_eq!(follow(), Ok(4), "it stands as it should");
            simulate::reboot();
            gate.grant(&o, READ_WRITE);
            open(&o).unwrap().tx(|tx| tx.put(&o.cells[0], 5)).unwrap();
            o.cells[0].set_without_log(4);
            simulate::reboot();
            gate.grant(&o, Rights::READ);
            assert_eq!(follow(), Err(Error::Unrecovered(o.id())));
        }
    }
}

#[test]
fn damaged_pieces_of_a_log_are_survived() {
    let (_one, _gate) = begin();
    let meta = usize::try_from(twz_abi::object::META_OFFSET).unwrap();
    let canary = cells();
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut refused, mut changed) = (0, 0);
    for _ in 0..150 {
        let root = [const { PCell::new(1_u64) }; 200];
        let o = ObjectBuilder::new().log_bytes(256).log_most(1).build(root).unwrap();
        let unfinished = o.begin().unwrap();
        // Backwards: records side by side would be one, and the log half as long.
        o.iter().rev().for_each(|cell| unfinished.record(cell).unwrap());
        o.iter().for_each(|cell| unfinished.set_recorded(cell, 2).unwrap());
        std::mem::forget(unfinished);
        // The object, and those that its log goes on in.
        let word = |window: Window, at: usize| usize::try_from(window.load(at)).unwrap();
        let mut windows = vec![o.window()];
        let mut link = word(o.window(), meta + 24) + 48;
        while windows.last().unwrap().load(link) != 0 {
            let last = *windows.last().unwrap();
            let id = ObjectId { lo: last.load(link), hi: last.load(link + 8) };
            windows.push(view::map(id, Rights::READ | Rights::WRITE).unwrap());
            link = word(*windows.last().unwrap(), meta + 40) + 16;
        }
        assert!(windows.len() > 3, "the log stands in several objects");
        for _ in 0..=random() % 4 {
            let pick = |number: u64, below: usize| usize::try_from(number).unwrap() % below;
            let window = windows[pick(random() >> 8, windows.len())];
            let piece = word(window, meta + 40) & !7;
            let at = match random() % 4 {
                0 => meta + pick(random() >> 8, 8) * 8,
                1 if window != windows[0] => piece + pick(random() >> 8, 6) * 8,
                1 => word(window, meta + 24) + [8, 16, 24, 32, 40, 48, 56][pick(random() >> 8, 7)],
                _ => (2 << 20) + pick(random() >> 8, 136) * 8,
            };
            let value = match random() % 5 {
                0 => 0,
                1 => u64::MAX,
                2 => windows[pick(random() >> 8, windows.len())].load(at),
                3 => view::id_at(windows[pick(random() >> 8, windows.len())].base()).lo,
                _ => window.load(at) ^ 1 << (random() % 64),
            };
            if (4096..1 << 30).contains(&at) {
                window.store(at, value);
            }
        }
        simulate::reboot();
        // Whatever it says, it ends, and no other object is changed.
        match Object::<[PCell<u64>; 200]>::open(o.id()) {
            Err(_) => refused += 1,
            Ok(o) => {
                changed += usize::from(o.iter().any(|cell| cell.get() != 1));
                let _ = o.tx(|tx| o.iter().try_for_each(|cell| tx.record(cell)).and(tx.set(&o[0], 5)));
            }
        }
        assert!(canary.cells.iter().all(|cell| cell.get() == 1));
        assert!(Object::<Cells>::open(canary.id()).is_ok());
    }
    assert!(refused > 5 && changed > 5, "damage that nobody notices is no damage: {refused}, {changed}");
}

#[test]
fn a_commit_that_did_not_fit_stays_undone_in_the_next_boot() {
    let (_one, gate) = begin();
    let cells = [const { PCell::new(1_u64) }; 600];
    let o = ObjectBuilder::new().uncoloured().log_bytes(4096).log_most(1).build(cells).unwrap();
    gate.full.store(true, Ordering::Release);
    let by_puts = |value: u64| o.tx(|tx| o.iter().try_for_each(|cell| tx.put(cell, value)));
    let by_notes = |bytes: usize| o.tx(|tx| tx.wrote(o[0].as_ptr().addr(), bytes));
    for refused in [by_puts(900), by_notes(4800), by_puts(900)] {
        assert!(matches!(refused, Err(Error::OutOfSpace(_))), "{refused:?}");
        o.tx(|tx| tx.put(&o[599], o[599].get() + 1)).unwrap(); // its commit must not be theirs
    }
    gate.full.store(false, Ordering::Release);
    for _ in 0..2 {
        simulate::reboot();
        let o = Object::<[PCell<u64>; 600]>::open(o.id()).unwrap();
        assert_eq!(o.iter().position(|cell| cell.get() != 1), Some(599));
        assert_eq!(o[599].get(), 4);
    }
}

/// Numbers of words whose entries take from one line of the log to many, up to and over the borders of what is stored in which way.
const LENGTHS: [usize; 10] = [1, 3, 7, 11, 63, 71, 75, 128, 256, 600];

#[test]
fn batches_of_all_lengths_are_read_back() {
    let (_one, _gate) = begin();
    for length in LENGTHS {
        let o = ObjectBuilder::new().build([const { PCell::new(1_u64) }; 2 * 600]).unwrap();
        let mine = || o.iter().step_by(2).take(length);
        o.tx(|tx| mine().zip(2..).try_for_each(|(cell, value)| tx.put(cell, value))).unwrap();
        // As if none of these lines had come to memory.
        mine().for_each(|cell| cell.set_without_log(0));
        simulate::reboot();
        let again = Object::<[PCell<u64>; 2 * 600]>::open(o.id()).unwrap();
        assert!(mine().map(PCell::get).eq((2..).take(length)), "{length} puts");
        assert_eq!(again.id(), o.id());

        let tx = o.begin().unwrap();
        mine().for_each(|cell| tx.record(cell).unwrap());
        tx.settle().unwrap();
        mine().for_each(|cell| cell.set_without_log(0));
        std::mem::forget(tx);
        simulate::reboot();
        Object::<[PCell<u64>; 2 * 600]>::open(o.id()).unwrap();
        assert!(mine().map(PCell::get).eq((2..).take(length)), "{length} records");
    }
}

/// Two power failures in the same long transaction: of the first one's log only the end came to memory, of the second one's only the beginning.
#[test]
fn the_end_of_a_torn_log_does_not_complete_another() {
    const CELLS: usize = 1100;
    const BATCH: usize = (16 + 2048 * 8_usize).next_multiple_of(64);
    let (_one, _gate) = begin();
    let builder = ObjectBuilder::new().uncoloured().log_bytes(64 << 10);
    let o = builder.build([const { PCell::new(1_u64) }; 2 * CELLS]).unwrap();
    let mine = || o.iter().step_by(2);
    // Memory when the log of a transaction is whole, and nothing else of it is done.
    let logged = |value: u64| {
        KEPT.set(Some((vec![o.window()], Vec::new())));
        o.tx(|tx| mine().try_for_each(|cell| tx.put(cell, value))).unwrap();
        KEPT.take().unwrap().1.swap_remove(0)
    };
    let fail_power = |contents: Vec<u64>| {
        put_contents(&[o.window()], &vec![contents]);
        simulate::reboot();
        Object::<[PCell<u64>; 2 * CELLS]>::open(o.id()).unwrap();
        mine().map(PCell::get).collect::<BTreeSet<_>>()
    };
    let log = usize::try_from(o.window().load(META + offset_of!(ObjectMeta, log_offset))).unwrap();
    let second = (log - 4096 + 4352 + BATCH) / 8;
    let mut first = logged(2).swap_remove(0);
    let end = first[second..].to_vec();
    assert_eq!(end[1] >> 32, 1, "the second batch begins there (tx/log/mod.rs)");
    first[second - 100] ^= 1;
    assert_eq!(fail_power(first), BTreeSet::from([1]), "torn");
    let mut again = logged(3).swap_remove(0);
    again[second..].copy_from_slice(&end);
    assert_eq!(fail_power(again), BTreeSet::from([1]));
}
