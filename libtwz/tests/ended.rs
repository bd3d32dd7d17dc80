//! Threads that end in the middle of a change, at each store, flush and fence in turn, as a program does that is killed: whoever comes next, in the
//! same boot, finds all of the change or nothing, and goes on. Then the power fails, and the same is there.
//!
//! What unflushed stores come to when the power fails is the subject of `tests/crash`: here all that was stored is there.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod delegate;

use core::mem::offset_of;
use delegate::delegated;
use libtwz::collections::{BTreeMap, HashMap, List, RbTree, String as PString};
use libtwz::io::{LogRing, Stream};
use libtwz::names::Namespace;
use libtwz::prelude::*;
use libtwz::simulate;
use libtwz::sync::Channel;
use libtwz::sys::hosted::{MemoryStore, Store, use_store};
use libtwz::sys::{CreateSpec, Durability, Stat};
use libtwz::{fot, view};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use twz_abi::object::ObjectMeta;

/// Objects that a power failure leaves: all but those that are volatile and tied to none.
struct Volatile {
    memory: MemoryStore,
    untied: Mutex<HashSet<ObjectId>>,
}

impl Store for Volatile {
    delegated!(memory: copy, trim, piece, root, durability, boot_generation);
    fn create(&self, spec: &CreateSpec) -> Result<ObjectId> {
        let id = self.memory.create(spec)?;
        if spec.volatile {
            self.untied.lock().unwrap().insert(id);
        }
        Ok(id)
    }
    fn delete(&self, id: ObjectId) -> Result<()> {
        self.untied.lock().unwrap().remove(&id);
        self.memory.delete(id)
    }
    fn tie(&self, object: ObjectId, keeper: ObjectId) -> Result<()> {
        self.untied.lock().unwrap().remove(&object);
        self.memory.tie(object, keeper)
    }
    fn keep(&self, id: ObjectId) -> Result<()> {
        self.untied.lock().unwrap().remove(&id);
        self.memory.keep(id)
    }
    fn stat(&self, id: ObjectId) -> Result<Stat> {
        self.memory.stat(id)
    }
}

impl Volatile {
    fn fail_power(&self) {
        for id in std::mem::take(&mut *self.untied.lock().unwrap()) {
            self.memory.delete(id).unwrap();
            // SAFETY: the tests use no reference into objects that libtwz makes.
            unsafe { view::unmap(id) };
        }
        simulate::reboot();
    }
}

/// One test at a time: a reboot is everybody's.
fn begin() -> (MutexGuard<'static, ()>, Arc<Volatile>) {
    static ONE: Mutex<()> = Mutex::new(());
    static STORE: OnceLock<Arc<Volatile>> = OnceLock::new();
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let store = STORE.get_or_init(|| {
        let memory = MemoryStore::with_durability(Durability::Power).unwrap();
        let store = Arc::new(Volatile { memory, untied: Mutex::default() });
        use_store(Arc::clone(&store) as Arc<dyn Store>).unwrap();
        store
    });
    (guard, Arc::clone(store))
}

/// Has `change` of what `make` makes end at each of its events. `look` opens what it looks at; `go_on` changes it once more, which `look`
/// must see.
fn ends_anywhere<S: Copy, V: PartialEq + std::fmt::Debug>(
    make: impl Fn() -> S,
    change: fn(S),
    look: impl Fn(S) -> V,
    go_on: impl Fn(S),
) {
    let (_one, store) = begin();
    let undisturbed = make();
    let before = look(undisturbed);
    go_on(undisturbed);
    let before_and_on = look(undisturbed);
    let undisturbed = make();
    change(undisturbed);
    let after = look(undisturbed);
    go_on(undisturbed);
    let after_and_on = look(undisturbed);
    assert!(before != after && after != after_and_on && before != before_and_on);
    let mut undone = 0;
    for event in 1.. {
        let state = make();
        let is_done = simulate::as_one_that_ends(event, || change(state)).is_some();
        // Sometimes it is seen first by who changes it. Not always: that waits until it looks whether the holder of the lock has ended.
        let found = if event % 4 == 0 { None } else { Some(look(state)) };
        go_on(state);
        let on = look(state);
        let is_undone = on == before_and_on;
        assert!(is_undone || on == after_and_on, "at event {event}: {on:?}");
        if let Some(found) = found {
            assert_eq!(&found, if is_undone { &before } else { &after }, "at event {event}");
        }
        store.fail_power();
        assert_eq!(look(state), on, "after a power failure, at event {event}");
        undone += u32::from(is_undone);
        if is_done {
            assert!(!is_undone);
            println!("ended at {event} events, {undone} times undone");
            return;
        }
    }
}

#[derive(Invariant)]
#[repr(C)]
struct Cells {
    cells: [PCell<u64>; 300],
    block: InvPtr<[u64; 6]>,
}

type Three = [Object<Cells>; 3];

fn cells(builder: ObjectBuilder<Cells>) -> Object<Cells> {
    builder.build(Cells { cells: [const { PCell::new(1) }; 300], block: InvPtr::null() }).unwrap()
}

/// What is in the cells, how much of the arenas is used, and what the blocks hold.
fn contents(objects: &[Object<Cells>]) -> Vec<(Vec<u64>, usize, Option<[u64; 6]>)> {
    let open = |o: &Object<Cells>| {
        let o = Object::<Cells>::open(o.id()).unwrap();
        let cells = o.cells.iter().map(PCell::get).collect();
        (cells, o.census().unwrap().bytes, o.block.get().unwrap().copied())
    };
    objects.iter().map(open).collect()
}

fn replace_block(tx: &Tx, o: Object<Cells>, value: u64) -> Result<()> {
    let old = o.block.get()?;
    tx.point(&o.block, Some(tx.alloc_in(o.window(), [value; 6])?))?;
    // SAFETY: nothing leads to it any more.
    old.map_or(Ok(()), |old| unsafe { tx.free(old) })
}

/// Changes of all kinds in one object, after others that are committed and in the log.
#[test]
fn in_a_transaction_of_one_object() {
    ends_anywhere(
        || {
            let o = cells(ObjectBuilder::new());
            o.tx(|tx| replace_block(tx, o, 1)).unwrap();
            o.tx(|tx| replace_block(tx, o, 2)).unwrap(); // from here on there is a free one
            for value in 2..5 {
                o.tx(|tx| tx.put(&o.cells[0], value).and_then(|()| tx.set(&o.cells[1], value))).unwrap();
            }
            let _ = o.tx(|tx| tx.set(&o.cells[2], 9).and(Err::<(), _>(Error::Aborted)));
            o
        },
        |o| {
            o.tx(|tx| {
                tx.put(&o.cells[0], 10)?;
                tx.set(&o.cells[1], 10)?;
                tx.record(&o.cells[8])?;
                tx.record(&o.cells[9])?;
                tx.set_recorded(&o.cells[8], 10)?;
                let failing = |tx: &Tx| tx.set(&o.cells[1], 11).and(Err::<(), _>(Error::Aborted));
                assert_eq!(tx.nested(failing), Err(Error::Aborted));
                replace_block(tx, o, 10)
            })
            .unwrap();
        },
        |o| contents(&[o]),
        |o| o.tx(|tx| tx.set(&o.cells[16], 5)).unwrap(),
    );
}

/// A commit of puts alone, which is one batch.
#[test]
fn in_a_transaction_of_puts() {
    ends_anywhere(
        || cells(ObjectBuilder::new()),
        |o| o.tx(|tx| (0..20).try_for_each(|i| tx.put(&o.cells[i * 3], 10))).unwrap(),
        |o| contents(&[o]),
        |o| o.tx(|tx| tx.put(&o.cells[1], 5)).unwrap(),
    );
}

#[test]
fn in_a_transaction_of_several_objects() {
    for first in 0..3 {
        ends_anywhere(
            || {
                let all = [(); 3].map(|()| cells(ObjectBuilder::new()));
                for (i, o) in all.iter().enumerate() {
                    o.tx(|tx| tx.put(&o.cells[0], i as u64 + 2)).unwrap();
                    o.tx(|tx| replace_block(tx, *o, 1)).unwrap();
                }
                all
            },
            |[home, second, third]: Three| {
                home.tx(|tx| {
                    tx.set(&home.cells[0], 10)?;
                    tx.set(&second.cells[0], 10)?;
                    tx.put(&second.cells[1], 10)?;
                    tx.put(&third.cells[1], 10)?;
                    replace_block(tx, third, 10)?;
                    replace_block(tx, home, 10)
                })
                .unwrap();
            },
            |all| contents(&all),
            // Each of them is the first by turns that somebody changes.
            move |all| {
                for i in 0..3 {
                    let o = all[(i + first) % 3];
                    o.tx(|tx| tx.set(&o.cells[16], 5)).unwrap();
                }
                let (a, b) = (all[first], all[(first + 1) % 3]);
                a.tx(|tx| tx.set(&a.cells[17], 6).and_then(|()| tx.set(&b.cells[17], 6))).unwrap();
            },
        );
    }
}

/// The log takes further chunks of the object, and a checkpoint comes between transactions.
#[test]
fn while_the_log_grows() {
    ends_anywhere(
        || cells(ObjectBuilder::new().log_bytes(256)),
        |o| {
            let change = |tx: &Tx| {
                o.cells[..40].iter().rev().try_for_each(|cell| tx.record(cell))?;
                o.cells[..40].iter().try_for_each(|cell| tx.set_recorded(cell, 10))
            };
            o.tx(change).unwrap();
        },
        |o| contents(&[o]),
        |o| (0..12).for_each(|i| o.tx(|tx| tx.set(&o.cells[50 + i * 8], 5)).unwrap()),
    );
}

/// The log goes on in other objects, which whoever comes next uses, too.
#[test]
fn while_the_log_goes_on_elsewhere() {
    fn change(o: Object<Cells>, range: std::ops::Range<usize>, value: u64) {
        o.tx(|tx| {
            o.cells[range.clone()].iter().rev().try_for_each(|cell| tx.record(cell))?;
            o.cells[range].iter().try_for_each(|cell| tx.set_recorded(cell, value))
        })
        .unwrap();
    }
    ends_anywhere(
        || cells(ObjectBuilder::new().log_bytes(256).log_most(1)),
        |o| change(o, 0..90, 10),
        |o| contents(&[o]),
        |o| change(o, 100..300, 5),
    );
}

/// What does not fit goes to an object that is made for it, and whoever comes next needs that, too.
#[test]
fn while_an_object_is_outgrown() {
    fn change(o: Object<Cells>, cell: usize, value: u64) {
        o.tx(|tx| tx.put(&o.cells[cell], value).and_then(|()| replace_block(tx, o, value))).unwrap();
    }
    ends_anywhere(
        || {
            let o = cells(ObjectBuilder::new().data_bytes(64)); // for one block
            change(o, 0, 2);
            o
        },
        |o| change(o, 1, 10),
        |o| contents(&[o]),
        |o| change(o, 2, 5),
    );
}

#[derive(Invariant)]
#[repr(C)]
struct Sets {
    hash: HashMap<u64, u64>,
    tree: BTreeMap<u64, u64>,
    rb: RbTree<u64, u64>,
    list: List<u64>,
    text: PString,
}

fn sets(count: u64) -> Object<Sets> {
    let root = Sets {
        hash: HashMap::new(),
        tree: BTreeMap::new(),
        rb: RbTree::new(),
        list: List::new(),
        text: PString::new(),
    };
    let o = ObjectBuilder::new().build(root).unwrap();
    for i in 0..count {
        o.hash.insert(i * 7, i).unwrap();
        o.tree.insert(i * 7, i).unwrap();
        o.rb.insert(i * 7, i).unwrap();
        o.list.push_back(i).unwrap();
        o.text.push_str("word").unwrap();
    }
    o
}

/// Pairs of the maps in order, what the list holds, and the text.
type Found = ([Vec<(u64, u64)>; 3], Vec<u64>, String);

fn look_at_sets(o: Object<Sets>) -> Found {
    fn all<T>(found: impl Iterator<Item = Result<T>>) -> Vec<T> {
        found.collect::<Result<_>>().unwrap()
    }
    let o = Object::<Sets>::open(o.id()).unwrap();
    let mut hash = all(o.hash.iter());
    hash.sort_unstable();
    ([hash, all(o.tree.iter()), all(o.rb.iter())], all(o.list.iter()), o.text.to_string())
}

/// Each operation, where there is room for what it adds and where the collection must grow for it.
#[test]
fn while_a_collection_changes() {
    let changes: [fn(Object<Sets>); 8] = [
        |o| assert!(o.hash.insert(5, 5).unwrap().is_none()),
        |o| assert!(o.hash.remove(&7).unwrap().is_some()),
        |o| assert!(o.tree.insert(5, 5).unwrap().is_none()),
        |o| assert!(o.tree.remove(&7).unwrap().is_some()),
        |o| assert!(o.rb.insert(5, 5).unwrap().is_none()),
        |o| assert!(o.rb.remove(&14).unwrap().is_some()),
        |o| o.list.push_front(5).unwrap(),
        |o| o.text.push_str(" and more of it, so that it must move").unwrap(),
    ];
    for change in changes {
        for count in 12..18 {
            ends_anywhere(
                || sets(count),
                change,
                look_at_sets,
                |o| {
                    o.hash.insert(6, 6).unwrap();
                    o.tree.insert(6, 6).unwrap();
                    o.rb.insert(6, 6).unwrap();
                    o.list.push_back(6).unwrap();
                    o.text.push_str("!").unwrap();
                },
            );
        }
    }
}

#[derive(Invariant)]
#[repr(C)]
struct Holder {
    to: InvPtr<PCell<u64>>,
    changes: PCell<u64>,
}

/// All pointers that use an entry move, or none, whoever has translated them: also while the thread was at it.
#[test]
fn while_an_entry_of_a_table_changes() {
    ends_anywhere(
        || {
            let targets = [7, 8].map(|value| ObjectBuilder::new().build(PCell::new(value)).unwrap());
            let holder = Holder { to: InvPtr::null(), changes: PCell::new(0) };
            let holder = ObjectBuilder::new().build(holder).unwrap();
            holder.tx(|tx| tx.point(&holder.to, Some(targets[0].base()))).unwrap();
            assert_eq!(holder.to.get().unwrap().unwrap().get(), 7);
            // Through another mapping, nobody has translated it.
            (holder, Object::<Holder>::open_with(holder.id(), Rights::READ).unwrap(), targets[1].id())
        },
        |(holder, _, to)| {
            let rights = Rights::READ.union(Rights::WRITE);
            fot::change(holder.window(), holder.to.raw().index(), fot::Target::Id(to), rights).unwrap();
        },
        |(holder, reader, _)| {
            let _ = reader.to.get(); // as it stands, before anybody puts it back
            Object::<Holder>::open(holder.id()).unwrap();
            let values = [holder, reader].map(|by| by.to.get().unwrap().unwrap().get());
            (values, holder.changes.get())
        },
        |(holder, ..)| holder.tx(|tx| tx.put(&holder.changes, 1)).unwrap(),
    );
}

#[derive(Invariant)]
#[repr(C)]
struct Pipes {
    stream: Stream<64>,
    channel: Channel<u64, 4>,
    log: LogRing<256>,
}

/// What waits in a stream and a channel, and what a log says: whole after each store, so that no thread's end keeps others from it.
#[test]
fn while_something_is_sent() {
    let changes: [fn(Object<Pipes>); 5] = [
        |o| o.stream.write_all(b"some bytes").unwrap(),
        |o| assert_eq!(o.stream.read(&mut [0; 3]).unwrap(), 3),
        |o| o.channel.send(7).unwrap(),
        |o| assert_eq!(o.channel.receive().unwrap(), 1),
        |o| o.log.append(1, "a record that takes the place of others").unwrap(),
    ];
    for change in changes {
        ends_anywhere(
            || {
                let pipes = Pipes { stream: Stream::new(), channel: Channel::new(0), log: LogRing::new() };
                let o = ObjectBuilder::new().build(pipes).unwrap();
                o.stream.write_all(b"first").unwrap();
                o.channel.send(1).unwrap();
                (0..6).for_each(|i| o.log.append(i, "an older record").unwrap());
                o
            },
            change,
            |o| {
                let o = Object::<Pipes>::open(o.id()).unwrap();
                let mut bytes = [0; 64];
                let count = o.stream.try_read(&mut bytes).unwrap_or(0); // nothing waits
                o.stream.write_all(&bytes[..count]).unwrap();
                let texts: Vec<String> = o.log.records().unwrap().into_iter().map(|one| one.text).collect();
                let new: Vec<String> = texts.into_iter().filter(|text| !text.contains("older")).collect();
                (bytes[..count].to_vec(), o.channel.waiting().unwrap(), new)
            },
            |o| {
                o.stream.write_all(b"!").unwrap();
                o.channel.send(9).unwrap();
                o.log.append(1, "last").unwrap();
            },
        );
    }
}

/// A name and the object that it is of appear together.
#[test]
fn while_something_is_named() {
    fn name(names: Namespace, path: &str, value: u64) {
        let make = || PCell::new(value);
        assert_eq!(names.open_or_build(path, ObjectBuilder::new(), make).unwrap().get(), value);
    }
    ends_anywhere(
        || {
            let names = Namespace::create(Rights::READ).unwrap();
            names.make_dir("/there", Rights::READ).unwrap();
            names
        },
        |names| name(names, "/there/object", 7),
        |names| {
            let value = |id| Object::<PCell<u64>>::open(id).map(|o| o.get());
            let named = names.list("/there").unwrap().into_iter();
            let found = |(name, _)| (names.lookup(&format!("/there/{name}")).and_then(value).unwrap(), name);
            named.map(found).collect::<Vec<_>>()
        },
        |names| name(names, "/there/second", 8),
    );
}

/// Where a block stands whose pages come later, another may come to stand that needs its pages at once.
#[test]
fn the_pages_behind_a_sparse_block_that_is_nobodys_are_not_taken_for_there() {
    const BYTES: usize = 64 << 20;
    let (_one, _store) = begin();
    let o = cells(ObjectBuilder::new());
    // The log's mark: up to there pages are known to be there (`tx/log/mod.rs`).
    let log = o.window().load(twz_abi::object::META_OFFSET as usize + offset_of!(ObjectMeta, log_offset));
    let mark = || o.window().load(usize::try_from(log).unwrap() + 88) as u32 as usize;
    simulate::as_one_that_ends(u32::MAX, || {
        let tx = o.begin().unwrap();
        tx.alloc_sparse(o.window(), BYTES, 4096).unwrap();
        std::mem::forget(tx);
    });
    assert!(mark() > BYTES);
    Object::<Cells>::open(o.id()).unwrap();
    assert_eq!(mark(), 0);
}
