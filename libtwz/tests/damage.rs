//! Damaged objects: an error that says where, or nonsense values – never a panic, a hang, or a store to another object.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::collections::owned;
use libtwz::collections::{BTreeMap, HashMap, List, RbTree, Ring, String as PString, Vec as PVec};
use libtwz::io::{EventSet, LogRing, Queue, Stream};
use libtwz::names::{Namespace, clear_by_name};
use libtwz::prelude::*;
use libtwz::sync::{Channel, Mutex};
use libtwz::sys::Durability;
use libtwz::sys::hosted::{MemoryStore, use_store};
use libtwz::{Window, fot};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use twz_abi::object::META_OFFSET;

#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
const META: usize = META_OFFSET as usize;
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);

#[derive(Invariant)]
#[repr(C)]
struct Everything {
    vec: PVec<u64>,
    text: PString,
    hash: HashMap<u64, u64>,
    tree: BTreeMap<u64, [u64; 2]>,
    rb: RbTree<u64, u64>,
    own_hash: owned::HashMap<PString, PString>,
    own_tree: owned::BTreeMap<PString, PVec<u64>>,
    list: List<u64>,
    ring: Ring<u64, 4>,
    pointer: InvPtr<PCell<u64>>,
    cell: PCell<u64>,
}

fn everything() -> Object<Everything> {
    ObjectBuilder::new()
        .uncoloured()
        .build(Everything {
            vec: PVec::new(),
            text: PString::new(),
            hash: HashMap::new(),
            tree: BTreeMap::new(),
            rb: RbTree::new(),
            own_hash: owned::HashMap::new(),
            own_tree: owned::BTreeMap::new(),
            list: List::new(),
            ring: Ring::new(),
            pointer: InvPtr::null(),
            cell: PCell::new(7),
        })
        .unwrap()
}

/// Everything that can be done with one; what it says does not matter. Returns how many operations failed.
fn use_all(o: &Object<Everything>, step: u64) -> usize {
    let mut failed = 0;
    let mut note = |ok: bool| failed += usize::from(!ok);
    for key in [step, step * 7919 % 101, 5] {
        note(o.vec.push(key).is_ok());
        note(o.vec.get(key % 20).is_ok());
        note(o.vec.set(key % 20, 1).is_ok());
        note(o.text.push_str("more").is_ok());
        note(o.text.get().is_ok());
        note(o.hash.insert(key, step).is_ok());
        note(o.hash.get(&key).is_ok());
        note(o.hash.remove(&(key + 1)).is_ok());
        note(o.tree.insert(key, [step; 2]).is_ok());
        note(o.tree.get(&key).is_ok());
        note(o.tree.remove(&(key + 1)).is_ok());
        note(o.rb.insert(key, step).is_ok());
        note(o.rb.get(&key).is_ok());
        note(o.rb.remove(&(key + 1)).is_ok());
        let text = format!("{}{key}", "a long beginning".repeat(usize::try_from(key % 4).unwrap()));
        note(o.own_hash.insert(&text, &text).is_ok());
        note(o.own_hash.get(&text).is_ok());
        note(o.own_hash.remove_key(&text[1..]).is_ok());
        note(o.own_tree.insert(&text, &[key]).is_ok());
        note(o.own_tree.get(&text).is_ok());
        note(o.own_tree.remove(&format!("{text}1")).is_ok());
        note(o.list.push_back(key).is_ok());
        note(o.list.push_front(key).is_ok());
        note(o.list.pop_front().is_ok());
        note(o.ring.push_back(key).is_ok());
        note(o.ring.pop_front().is_ok());
        note(o.pointer.get().is_ok_and(|target| target.is_none_or(|cell| cell.get() == 0x5afe)));
        note(o.tx(|tx| tx.set(&o.cell, key)).is_ok());
        note(o.tx(|tx| tx.alloc([key; 5]).map(drop)).is_ok());
    }
    // Each must end by itself.
    note(o.vec.iter().take(1 << 20).all(|item| item.is_ok()));
    note(o.hash.iter().all(|item| item.is_ok()));
    note(o.tree.iter().all(|item| item.is_ok()));
    note(o.tree.range(3..40).all(|item| item.is_ok()));
    note(o.rb.iter().all(|item| item.is_ok()));
    note(o.rb.check().is_ok());
    note(o.own_hash.iter().all(|item| item.is_ok()));
    note(o.own_tree.iter().all(|item| item.is_ok()));
    note(o.own_tree.range("a long".."b").rev().all(|item| item.is_ok()));
    note(step < 14 || o.own_tree.clear().is_ok());
    note(step < 14 || o.own_hash.clear().is_ok());
    note(o.list.iter().all(|item| item.is_ok()));
    note(o.ring.iter().all(|item| item.is_ok()));
    note(o.census().is_ok());
    note(o.tx(|tx| tx.nested(|tx| tx.put(&o.cell, 3).and(Err::<(), _>(Error::Aborted))).or(Ok(()))).is_ok());
    note(o.overflow().is_ok());
    failed
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn below(state: &mut u64, limit: usize) -> usize {
    usize::try_from(random(state) % limit as u64).unwrap()
}

/// Changes one word of the object: metadata, table, log, allocator, or data. Not the lock's line: a word that says "held" is what a
/// program that holds it looks like, and is waited for.
fn damage(o: Window, state: &mut u64) {
    let log = usize::try_from(o.load(META + 24)).unwrap_or(0);
    let arena = usize::try_from(o.load(META + 32)).unwrap_or(0);
    let at = match random(state) % 8 {
        0 => META + below(state, 8) * 8,
        1 => META - 8 - below(state, 32) * 8,
        2 => log.wrapping_add([0, 8, 16, 24, 32, 40][below(state, 6)]),
        3 => log.wrapping_add(72 + below(state, 70) * 8),
        4 => arena.wrapping_add(below(state, 100) * 8),
        5 => arena.wrapping_add(832 + below(state, 1200) * 8),
        _ => 4096 + below(state, size_of::<Everything>() / 8 + 8) * 8,
    };
    if !(4096..1 << 30).contains(&at) || at.wrapping_sub(log.wrapping_add(64)) < 8 {
        return;
    }
    let elsewhere = 4096 + below(state, 2500) * 8;
    let value = match random(state) % 7 {
        0 => 0,
        1 => u64::MAX,
        2 => random(state),
        3 => o.load(at) ^ 1 << below(state, 64),
        4 => o.load(elsewhere),
        5 => elsewhere as u64,
        _ => o.load(at).wrapping_add(8),
    };
    o.store(at, value);
}

/// One store for all tests of the process.
fn start() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        use_store(Arc::new(MemoryStore::with_durability(Durability::Power).unwrap())).unwrap();
    });
}

/// Ends the process when a case takes too long: a hang must not look like a slow test.
fn watch(case: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let now = case.load(Ordering::Relaxed);
            if now == u64::MAX {
                return;
            }
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > Duration::from_secs(60) {
                eprintln!("damage case {now} does not end");
                std::process::abort();
            }
        }
    });
}

#[test]
fn random_damage_is_survived_by_everything() {
    start();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("TWZ_DAMAGE_FIRST").unwrap_or(1);
    let cases = number("TWZ_DAMAGE_CASES").unwrap_or(1500);
    let case = Arc::new(AtomicU64::new(0));
    watch(Arc::clone(&case));
    let canary =
        || ObjectBuilder::new().uncoloured().build([const { PCell::new(0x5afe_u64) }; 4096]).unwrap();
    let (left, right) = (canary(), canary());
    let intact = |o: &Object<[PCell<u64>; 4096]>| {
        o.iter().all(|cell| cell.get() == 0x5afe) && Object::<[PCell<u64>; 4096]>::open(o.id()).is_ok()
    };
    let (mut noticed, mut operations_failed, mut panicked) = (0_u64, 0, Vec::new());
    for number in first..first + cases {
        case.store(number, Ordering::Relaxed);
        let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let o = everything();
        o.tx(|tx| tx.point(&o.pointer, Some(&left[0]))).unwrap();
        for step in 0..12 {
            assert_eq!(use_all(&o, step), 0, "an object that is not damaged works");
        }
        for _ in 0..=below(&mut state, 6) {
            damage(o.window(), &mut state);
        }
        let tried = std::panic::catch_unwind(|| {
            let opened = Object::<Everything>::open(o.id());
            let mut failed = usize::from(opened.is_err());
            for step in 12..15 {
                failed += use_all(&o, step); // a handle from before sees the same damage
            }
            // FOT, by pointer and by index.
            failed += usize::from(fot::insert(o.window(), right.id(), READ_WRITE).is_err());
            failed + (0..4).filter(|index| fot::read(o.window(), *index).is_err()).count()
        });
        // The hook has said where; all of them are wanted.
        let Ok(failed) = tried else {
            panicked.push(number);
            continue;
        };
        noticed += u64::from(failed > 0);
        operations_failed += failed;
        assert!(intact(&left) && intact(&right), "case {number} reached another object");
        // SAFETY: nothing of it is used after this.
        let _ = unsafe { o.delete() };
    }
    case.store(u64::MAX, Ordering::Relaxed);
    assert!(panicked.is_empty(), "cases that panicked: {panicked:?}");
    println!(
        "damage: {cases} cases, {noticed} noticed, {operations_failed} operations refused, none reached further"
    );
    assert!(noticed > cases / 8, "damage that nobody notices is no damage");
}

#[test]
fn random_damage_of_directories_is_survived() {
    start();
    let names = Namespace::create(Rights::READ).unwrap();
    for i in 0..20 {
        names.bind(&format!("/name{i}"), ObjectId::from_u128(i + 1)).unwrap();
    }
    names.link("/link", "/name3").unwrap();
    let o = Object::<libtwz::names::Directory>::open(names.id()).unwrap();
    let mut state = 88_172_645_463_325_252;
    for i in 0..400 {
        damage(o.window(), &mut state);
        let name = format!("/name{}", i % 24);
        let _ = names.lookup(&name);
        let _ = names.list("/");
        let _ = names.lookup("/link");
        let _ = names.unbind(&name);
        let _ = names.bind(&name, ObjectId::from_u128(9));
    }
}

#[test]
fn errors_say_object_offset_and_what_was_expected() {
    start();
    let is_damaged = |error: Error, o: &Object<Everything>, what: &str| match error {
        Error::Damaged { object, offset, expected } => {
            assert!(object == o.id() && offset >= 4096 && !expected.is_empty(), "{what}: {error}");
        }
        Error::BadPointer { object, expected, .. } => {
            assert!(object == o.id() && !expected.is_empty(), "{what}: {error}");
        }
        other => panic!("{what}: {other}"),
    };
    // An FOT index out of range, and an offset past the end.
    let o = everything();
    for (index, offset) in [(200, 0x1000), (77_000_000, 0x1000), (0, u32::MAX), (0, 8), (0, 4099)] {
        o.pointer.set_raw(libtwz::PersistentPtr::new(index, offset));
        is_damaged(o.pointer.get().unwrap_err(), &o, "pointer");
    }
    // A cycle in a list.
    o.list.extend(0..4).unwrap();
    let next_of = |o: &Object<Everything>| {
        let root = o.base() as *const Everything as usize - o.window().base();
        let list = root + std::mem::offset_of!(Everything, list);
        (list..list + size_of::<List<u64>>())
            .step_by(8)
            .map(|at| (at, o.window().load(at)))
            .collect::<Vec<_>>()
    };
    // Its first node leads to itself.
    let head = next_of(&o).into_iter().find(|(_, word)| (4096..1 << 30).contains(word)).unwrap().1;
    let node = usize::try_from(head).unwrap();
    for at in (node..node + 32).step_by(8) {
        if (4096..1 << 30).contains(&o.window().load(at)) {
            o.window().store(at, head);
        }
    }
    let error = o.list.iter().take(1 << 22).find_map(Result::err).expect("a cycle ends in an error");
    is_damaged(error, &o, "list");
    // A bad log.
    let o = everything();
    o.tx(|tx| tx.set(&o.cell, 1)).unwrap(); // the first one of a boot finds the log's tail by itself
    let log = usize::try_from(o.window().load(META + 24)).unwrap();
    for (at, value) in [(0, 1), (16, 0), (24, u64::MAX), (72, 5)] {
        let before = o.window().load(log + at);
        o.window().store(log + at, value);
        is_damaged(o.tx(|tx| tx.set(&o.cell, 1)).unwrap_err(), &o, "log");
        o.window().store(log + at, before);
    }
    o.tx(|tx| tx.set(&o.cell, 1)).unwrap();
    // A wrong type fingerprint, and no object at all.
    o.window().store(META + 16, 1234);
    assert!(matches!(Object::<Everything>::open(o.id()), Err(Error::WrongType { found: 1234, .. })));
    o.window().store(META, 0);
    is_damaged(Object::<Everything>::open(o.id()).unwrap_err(), &o, "magic number");
}

/// What is said to be an address can be read, or is none.
#[test]
fn damaged_entries_of_the_table_are_noticed_before_the_address() {
    start();
    let target = ObjectBuilder::new().build(PCell::new(11_u64)).unwrap();
    let o = everything();
    o.tx(|tx| tx.point(&o.pointer, Some(target.base()))).unwrap();
    let entry = META - 32 * usize::try_from(o.pointer.raw().index()).unwrap();
    let before = [0, 8, 16].map(|at| o.window().load(entry + at));
    let put = |words: [u64; 3]| {
        for (i, word) in words.into_iter().enumerate() {
            o.window().store(entry + i * 8, word);
        }
        fot::change(o.window(), 1, fot::Target::Id(target.id()), READ_WRITE).unwrap(); // what was cached goes
        for (i, word) in words.into_iter().enumerate() {
            o.window().store(entry + i * 8, word);
        }
    };
    // Rights that do not read: none, write, execute, and bits that are none.
    for rights in [0, 2, 4, 6, 0xffff_fff8] {
        put([before[0], before[1], before[2] & 0xffff_ffff | rights << 32]);
        assert!(
            matches!(o.pointer.get(), Err(Error::BadPointer { object, .. }) if object == o.id()),
            "{rights}"
        );
    }
    // More rights than there are do no harm.
    put([before[0], before[1], before[2] | 0xffff_fff8 << 32]);
    assert_eq!(o.pointer.get().map(|cell| cell.map(PCell::get)), Ok(Some(11)));
    // Names in page 0, in the table, outside the object, not aligned, and too long for the data.
    let named = before[2] | 2;
    let end = twz_abi::object::DATA_END;
    for at in [0, 8, 4088, end, end - 8, (1 << 30) - 8, 1 << 30, u64::MAX, 4097] {
        put([at, 0, named]);
        o.window().store(usize::try_from(end).unwrap() - 8, 9);
        assert!(matches!(o.pointer.get(), Err(Error::BadPointer { .. })), "{at:#x}");
        assert!(matches!(clear_by_name(&o.pointer), Err(Error::Damaged { .. })), "{at:#x}");
        assert_eq!(o.window().load(entry), at, "nothing has changed");
    }
}

#[derive(Invariant)]
#[repr(C)]
struct Ways {
    channel: Channel<u64, 8>,
    stream: Stream<64>,
    log: LogRing<256>,
    queue: Queue<u64, 8>,
    events: EventSet,
    mutex: Mutex<PCell<u64>>,
}

fn ways() -> Object<Ways> {
    ObjectBuilder::new()
        .uncoloured()
        .build(Ways {
            channel: Channel::new(0),
            stream: Stream::new(),
            log: LogRing::new(),
            queue: Queue::new(0),
            events: EventSet::new(),
            mutex: Mutex::new(PCell::new(0)),
        })
        .unwrap()
}

/// Where a part of the root stands, in bytes.
fn offset_in(o: &Object<Ways>, part: usize) -> usize {
    std::ptr::from_ref(o.base()).addr() - o.window().base() + part
}

/// What never waits for another: a damaged counter may well say "nothing there yet".
fn use_ways(o: &Object<Ways>, step: u64) -> usize {
    let expected = |error: Error| matches!(error, Error::WouldBlock | Error::Closed | Error::TimedOut);
    let mut failed = 0;
    let mut note = |error: Option<Error>| failed += usize::from(error.is_some_and(|error| !expected(error)));
    note(o.channel.try_send(step).err());
    note(o.channel.waiting().err());
    note(o.channel.try_receive().err());
    if step >= 20 {
        note(o.stream.close().err()); // nothing of it waits then
    }
    note(o.stream.write(b"x").err());
    note(o.stream.read(&mut [0; 3]).err());
    note(o.log.append(3, "a record of some length").err());
    note(o.log.records().err());
    note(o.queue.submit(step).err());
    note(o.queue.try_take().err());
    o.events.signal(3);
    o.events.take(8);
    note(o.events.wait(1, Some(Duration::ZERO)).err());
    failed
}

#[test]
fn damaged_ways_between_programs_are_survived() {
    start();
    let case = Arc::new(AtomicU64::new(0));
    watch(Arc::clone(&case));
    let mut state = 0x1234_5678_9abc_def1;
    // The words that say who holds a lock, or that somebody waits, are left alone: a lock that is held is waited for.
    let [channel, log] = [std::mem::offset_of!(Ways, channel), std::mem::offset_of!(Ways, log)];
    let stream = std::mem::offset_of!(Ways, stream);
    let (mut refused, cases) = (0, 3000);
    for number in 1..=cases {
        case.store(number, Ordering::Relaxed);
        let o = ways();
        for step in 0..20 {
            assert_eq!(use_ways(&o, step), 0, "ways that are not damaged work");
        }
        for _ in 0..=below(&mut state, 3) {
            let at = below(&mut state, size_of::<Ways>() / 8) * 8;
            let first_word = |part: usize| at == part;
            if first_word(channel) || first_word(log) || first_word(stream) {
                continue;
            }
            let value = match random(&mut state) % 5 {
                0 => 0,
                1 => u64::MAX - below(&mut state, 64) as u64,
                2 => random(&mut state),
                3 => o.window().load(offset_in(&o, at)) ^ 1 << below(&mut state, 64),
                _ => o.window().load(offset_in(&o, at)).wrapping_add(8),
            };
            o.window().store(offset_in(&o, at), value);
        }
        for step in 20..24 {
            refused += usize::from(use_ways(&o, step) > 0);
        }
        // SAFETY: nothing of it is used after this.
        unsafe { o.delete() }.unwrap();
    }
    case.store(u64::MAX, Ordering::Relaxed);
    println!("damage: {cases} objects with channels, logs and queues, {refused} rounds refused");
    assert!(refused > 100, "damage that nobody notices is no damage");
}

#[test]
fn damaged_counters_are_errors_that_say_where() {
    start();
    let o = ways();
    let inside = |error: Error, part: usize, bytes: usize| match error {
        Error::Damaged { object, offset, .. } => {
            let start = offset_in(&o, part);
            assert_eq!(object, o.id());
            assert!((start..start + bytes).contains(&(offset as usize)), "{error}");
        }
        other => panic!("{other}"),
    };
    let [stream, channel, log, queue] = [
        std::mem::offset_of!(Ways, stream),
        std::mem::offset_of!(Ways, channel),
        std::mem::offset_of!(Ways, log),
        std::mem::offset_of!(Ways, queue),
    ];
    o.stream.write_all(b"some").unwrap();
    o.channel.try_send(1).unwrap();
    o.log.append(1, "some").unwrap();
    let set = |part: usize, word: usize, value: u64| o.window().store(offset_in(&o, part) + word * 8, value);
    // After the lock's word: written, read; sent, received; start, end.
    let word =
        (1..4).find(|word| o.window().load(offset_in(&o, stream) + word * 8) == 4).expect("bytes written");
    set(stream, word, 1000);
    inside(o.stream.write(b"x").unwrap_err(), stream, size_of::<Stream<64>>());
    inside(o.stream.read(&mut [0; 4]).unwrap_err(), stream, size_of::<Stream<64>>());
    // The counters themselves may wrap.
    set(stream, word, u64::MAX - 1);
    set(stream, word + 1, u64::MAX - 1);
    assert_eq!((o.stream.write(b"wrap"), o.stream.read(&mut [0; 4])), (Ok(4), Ok(4)));
    let word =
        (1..4).find(|word| o.window().load(offset_in(&o, channel) + word * 8) == 1).expect("messages sent");
    set(channel, word, 1000);
    inside(o.channel.waiting().unwrap_err(), channel, size_of::<Channel<u64, 8>>());
    let word =
        (1..4).find(|word| o.window().load(offset_in(&o, log) + word * 8) == 24).expect("the log's end");
    for (start, end) in [(0, u64::MAX), (u64::MAX, 24), (u64::MAX - 8, u64::MAX), (24, 0), (0, 8)] {
        set(log, word - 1, start);
        set(log, word, end);
        inside(
            o.log.append(1, &"text ".repeat(20)).and(o.log.records()).unwrap_err(),
            log,
            size_of::<LogRing<256>>(),
        );
    }
    // The place that the next entry goes to has been published already.
    o.window().store(offset_in(&o, queue) + 5 * 8, 5);
    inside(o.queue.submit(1).unwrap_err(), queue, size_of::<Queue<u64, 8>>());
    // Nobody waits for an entry that cannot come. In another thread: a wrong one waits for ever.
    let o: &'static Object<Ways> = Box::leak(Box::new(ways()));
    let is_damaged =
        |error| assert!(matches!(error, Error::Damaged { object, .. } if object == o.id()), "{error}");
    assert_eq!(o.queue.take_for(Duration::ZERO), Err(Error::TimedOut));
    for (word, value) in [(5, 2), (5, 7), (5, u64::MAX), (2, 8), (2, u64::MAX), (2, 1 << 40)] {
        let at = offset_in(o, queue) + word * 8;
        let before = o.window().load(at);
        o.window().store(at, value);
        let (told, tell) = std::sync::mpsc::channel();
        std::thread::spawn(move || told.send(o.queue.take()));
        let taken = tell.recv_timeout(Duration::from_secs(60)).expect("it waits");
        is_damaged(taken.unwrap_err());
        is_damaged(o.queue.take_for(Duration::from_secs(60)).unwrap_err());
        o.window().store(at, before);
    }
    // A sequence that is not the tail's: neither free nor full.
    o.window().store(offset_in(o, queue) + 5 * 8, u64::MAX - 2);
    is_damaged(o.queue.submit(1).unwrap_err());
}

/// What is written is written, whatever the bell says that is to tell of it.
#[test]
fn a_damaged_bell_is_no_error_of_the_stream() {
    start();
    let o = ways();
    o.stream.bell().set_raw(libtwz::PersistentPtr::new(77_000, 0x1000));
    assert_eq!(o.stream.write(b"four"), Ok(4));
    assert_eq!(o.stream.close(), Ok(()));
    assert_eq!(o.stream.read(&mut [0; 9]), Ok(4));
}

#[test]
fn a_leaf_that_leads_to_itself_ends_a_range() {
    start();
    let o = everything();
    for key in [1, 2, 3] {
        o.tree.insert(key, [key; 2]).unwrap();
    }
    let tree = std::ptr::from_ref(&o.tree).addr() - o.window().base();
    let leaf = usize::try_from(o.window().load(tree + 16)).unwrap();
    o.window().store(leaf + 8, leaf as u64);
    let watched = Arc::new(AtomicU64::new(1));
    watch(Arc::clone(&watched));
    // All of its keys lie before the range, and after it comes itself.
    let found: Vec<_> = o.tree.range(10..).collect();
    assert!(matches!(found[..], [Err(Error::Damaged { .. })]), "{found:?}");
    let found: Vec<_> = o.tree.range(2..).collect();
    assert!(matches!(found[..], [Ok((2, _)), Ok((3, _)), Err(Error::Damaged { .. })]), "{found:?}");
    watched.store(u64::MAX, Ordering::Relaxed);
}

#[test]
fn damaged_entries_of_owned_maps_are_errors_that_say_where() {
    start();
    let o = everything();
    let long = |end: &str| format!("{}{end}", "a long beginning".repeat(2));
    for end in ["1", "2"] {
        o.own_hash.insert(end, end).unwrap();
        o.own_tree.insert(&long(end), &[1]).unwrap();
    }
    let window = o.window();
    let offset = |address: usize| address - window.base();
    let says = |error: Error, at: usize| {
        assert!(
            matches!(error, Error::Damaged { offset, .. } if offset as usize == at),
            "{error} at {at:#x}"
        );
    };
    // In front of the value: the next entry, and the length of the key, which is behind the value.
    let value = offset(std::ptr::from_ref(o.own_hash.get_ref("1").unwrap().unwrap()).addr());
    let with = |at: usize, value: u64, check: &dyn Fn()| {
        let before = window.load(at);
        window.store(at, value);
        check();
        window.store(at, before);
    };
    with(value - 8, u64::MAX - 20, &|| {
        says(o.own_hash.get("1").unwrap_err(), value - 8);
        says(o.own_hash.clear().unwrap_err(), value - 8);
    });
    with(value + 16, u64::MAX, &|| {
        assert_eq!(o.own_hash.get("1"), Ok(None), "another key");
        says(o.own_hash.keys().find_map(Result::err).unwrap(), value - 16);
    });
    with(value - 16, value as u64 - 16, &|| {
        says(o.own_hash.keys().find_map(Result::err).unwrap(), value - 16);
        says(o.own_hash.clear().unwrap_err(), value - 16);
        assert!(o.own_hash.insert("3", "3").is_ok());
    });
    // A layer that is not of the next bytes, as one that leads back.
    let is_layer = |at: &usize| {
        let word = |i: usize| window.load(at + i * 8);
        (word(0), word(1), word(2), word(4)) == (15, 1, 0, 0) && word(3) > 4096 && word(3) < 1 << 30
    };
    let arena = usize::try_from(window.load(META + 32)).unwrap(); // the log may hold the same words
    let depth = (arena..arena + (64 << 10)).step_by(8).find(is_layer);
    let depth = depth.expect("the layer behind the first 15 bytes, with one slot");
    with(depth, 0, &|| {
        says(o.own_tree.get(&long("1")).unwrap_err(), depth);
        says(o.own_tree.insert(&long("3"), &[]).unwrap_err(), depth);
        says(o.own_tree.iter().find_map(Result::err).unwrap(), depth);
        says(o.own_tree.clear().unwrap_err(), depth);
    });
    o.own_tree.clear().unwrap();
    assert_eq!(o.own_tree.get(&long("1")), Ok(None));
}

#[test]
fn a_cycle_of_records_is_told_by_a_list_of_names() {
    start();
    let names = Namespace::create(Rights::READ).unwrap();
    names.bind("/name", ObjectId::from_u128(5)).unwrap();
    let o = Object::<libtwz::names::Directory>::open(names.id()).unwrap();
    // The record is where the object's ID stands after `next` and `kind`.
    let record = (4096..4 << 20).step_by(8).find(|at| {
        let word = |i: usize| o.window().load(at + i * 8);
        word(0) == 0 && word(1) == 1 && word(2) == 5 && word(3) == 0
    });
    let record = record.expect("the record");
    o.window().store(record, record as u64);
    assert!(matches!(names.list("/"), Err(Error::Damaged { offset, .. }) if offset as usize == record));
    assert!(matches!(names.lookup("/other"), Err(Error::NoSuchName)));
}

#[test]
fn cycles_end_whatever_the_lengths_say() {
    start();
    let watched = Arc::new(AtomicU64::new(1));
    watch(Arc::clone(&watched));
    let o = everything();
    let word = |at: usize| usize::try_from(o.window().load(at)).unwrap();
    let offset_of = |part: usize| part - o.window().base();
    for i in 0..50 {
        o.list.push_back(i).unwrap();
        o.rb.insert(i, i).unwrap();
        o.tree.insert(i, [i; 2]).unwrap();
    }
    // The last node of the list leads to one in the middle; the length says that there are many more.
    let list = offset_of(std::ptr::from_ref(&o.list).addr());
    let middle = (0..20).fold(word(list), |node, _| word(node));
    o.window().store(word(list + 8), middle as u64);
    o.window().store(list + 16, u64::MAX);
    assert!(matches!(o.list.iter().find_map(Result::err), Some(Error::Damaged { .. })));
    assert!(matches!(o.list.clear(), Err(Error::Damaged { .. })));
    // The smallest node's right child is the root.
    let rb = offset_of(std::ptr::from_ref(&o.rb).addr());
    let mut smallest = word(rb);
    while word(smallest + 8) != 0 {
        smallest = word(smallest + 8);
    }
    o.window().store(smallest + 16, word(rb) as u64);
    o.window().store(rb + 8, u64::MAX);
    assert!(matches!(o.rb.iter().find_map(Result::err), Some(Error::Damaged { .. })));
    assert!(matches!(o.rb.clear(), Err(Error::Damaged { .. })));
    // Two children that are one.
    let tree = offset_of(std::ptr::from_ref(&o.tree).addr());
    let children = word(tree + 24) + 16 + 16 * 8;
    o.window().store(children, word(children + 8) as u64);
    assert!(matches!(o.tree.clear(), Err(Error::Damaged { .. })));
    watched.store(u64::MAX, Ordering::Relaxed);
}
