//! Power failures: every memory that one can leave, by the pool's simulator, is recovered and checked.
//!
//! Each scenario runs operations with a mark after each; the model after k operations is known. A memory left after mark k must
//! recover to the model after k operations, or k + 1 if the failure was inside the next one. Recovery is cut off, too (depth 2). Mutants –
//! the same run without a flush, fence or store – show that the check would notice.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::collections::{BTreeMap, HashMap, List, RbTree, Vec as PVec};
use libtwz::names::Namespace;
use libtwz::prelude::*;
use libtwz::simulate::{self, Event};
use libtwz::sync::Channel;
use libtwz::sys::Durability;
use libtwz::sys::hosted::{MemoryStore, use_store};
use libtwz::{Window, fot};
use pmem::Pmem;
use pmem::sim::{Config, Crash, Report, Sim, explore, mutants};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

const GIB: usize = 1 << 30;
/// Objects that the simulator has room for.
const OBJECTS: usize = 64;
const RW: Rights = Rights::READ.union(Rights::WRITE);

struct World {
    sim: Sim,
    /// First address of the scenario's objects.
    first: usize,
    /// Pages that were ever stored to, by simulator offset.
    pages: RefCell<BTreeSet<usize>>,
    /// Lines that are never flushed (locks, tails, dirty sets): what they hold after a failure must not matter.
    unflushed: RefCell<Vec<(usize, usize)>>,
    /// Look for stores that were not told of: in the run itself, where no contents come from elsewhere.
    strict: Cell<bool>,
}

thread_local! {
    /// The recorder is off on threads that are not a scenario's.
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

impl World {
    /// Where an address is in the simulator; `None` for objects of other scenarios and lines that are never flushed.
    fn place(&self, address: usize) -> Option<u64> {
        let at = address.checked_sub(self.first)?;
        (at < OBJECTS * GIB && !self.is_unflushed(at)).then_some(at as u64)
    }

    fn is_unflushed(&self, at: usize) -> bool {
        self.unflushed.borrow().iter().any(|&(start, end)| (start..end).contains(&at))
    }

    fn tell(&self, event: Event) {
        match event {
            Event::Stored { address, bytes } => self.store(address, bytes, false),
            Event::Around { address, bytes } => self.store(address, bytes, true),
            Event::Flush { address, bytes } => {
                for line in (address & !63..address + bytes).step_by(64) {
                    if let Some(at) = self.place(line) {
                        self.sim.flush(at, 64);
                    }
                }
            }
            Event::Fence => {
                if self.strict.get() {
                    self.differing_lines(|at| panic!("a store to line {at:#x} was not told of"));
                }
                self.sim.fence();
            }
        }
    }

    fn store(&self, address: usize, bytes: usize, around: bool) {
        for word in (address & !7..address + bytes).step_by(8) {
            let Some(at) = self.place(word) else { continue };
            let value = window_of(word).load(word % GIB);
            self.pages.borrow_mut().insert(word - word % 4096 - self.first);
            if around {
                self.sim.write_nt(at, &value.to_le_bytes());
            } else if self.sim.load(at) != value {
                self.sim.store(at, value);
            }
        }
    }

    /// Calls `with` for each line in which objects and simulator differ and that is flushed at all.
    fn differing_lines(&self, with: impl Fn(usize)) {
        for &page in self.pages.borrow().iter() {
            let theirs = self.sim.base().wrapping_add(page).cast_const();
            // SAFETY: the simulator's memory has OBJECTS GiB, and this thread is the only one that uses it.
            let theirs = unsafe { std::slice::from_raw_parts(theirs, 4096) };
            // SAFETY: a page of an object that is mapped (it was stored to); nobody changes it meanwhile.
            let ours = unsafe { std::slice::from_raw_parts((self.first + page) as *const u8, 4096) };
            if ours == theirs {
                continue;
            }
            for line in (0..4096).step_by(64) {
                if ours[line..line + 64] != theirs[line..line + 64] && !self.is_unflushed(page + line) {
                    with(page + line);
                }
            }
        }
    }

    /// Gives the objects the simulator's contents. Lines that are never flushed keep what they had: stale, as they may be.
    fn load(&self) {
        self.differing_lines(|line| {
            for at in (line..line + 64).step_by(8) {
                let word = window_of(self.first + at).word(at % GIB);
                word.store(self.sim.load(at as u64), Ordering::Relaxed);
            }
        });
    }
}

fn window_of(address: usize) -> Window {
    Window::around(address).unwrap()
}

/// One scenario at a time: they share the process's objects.
fn begin() -> (MutexGuard<'static, ()>, Rc<World>) {
    static ONE: Mutex<()> = Mutex::new(());
    static STARTED: OnceLock<()> = OnceLock::new();
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    STARTED.get_or_init(|| {
        use_store(Arc::new(MemoryStore::with_durability(Durability::Power).unwrap())).unwrap();
        assert!(simulate::record_with(|event| {
            WORLD.with(|world| {
                // Not while the world itself is at work.
                if let Ok(world) = world.try_borrow()
                    && let Some(world) = world.as_ref()
                {
                    world.tell(event);
                }
            });
        }));
    });
    let probe = ObjectBuilder::new().build(()).unwrap();
    let world = Rc::new(World {
        sim: Sim::new((OBJECTS * GIB) as u64),
        first: probe.window().base() + GIB,
        pages: RefCell::default(),
        unflushed: RefCell::default(),
        strict: Cell::new(false),
    });
    (guard, world)
}

impl World {
    fn on<R>(self: &Rc<Self>, body: impl FnOnce() -> R) -> R {
        WORLD.with(|world| *world.borrow_mut() = Some(Rc::clone(self)));
        let result = body();
        WORLD.with(|world| *world.borrow_mut() = None);
        result
    }

    /// Says which lines of an object are never flushed.
    fn know(&self, window: Window) {
        let log = window.load(usize::try_from(twz_abi::object::META_OFFSET).unwrap() + 24);
        let start = window.base() - self.first + usize::try_from(log).unwrap() + 64;
        self.unflushed.borrow_mut().push((start, start + 64 + 4096));
    }
}

/// Runs the operations, explores all failures, then mutants of the run. `check(k)` compares what was recovered with the model after
/// k operations.
fn scenario(
    name: &str,
    objects: &[Window],
    world: &Rc<World>,
    steps: &mut dyn FnMut(u64) -> bool,
    check: &dyn Fn(u64) -> Result<(), String>,
    wanted_kills: usize,
) {
    for object in objects {
        world.know(*object);
    }
    // What was built so far is durable: take it into the simulator as it is.
    let meta = usize::try_from(twz_abi::object::META_OFFSET).unwrap();
    world.on(|| {
        for object in objects {
            let root = usize::try_from(object.load(meta + 40)).unwrap();
            for at in (root & !4095..root + (64 << 10)).step_by(8).chain(meta - 4096..meta + 64) {
                if object.load(at & !7) != 0 {
                    world.store(object.base() + (at & !7), 8, false);
                }
            }
        }
        world.sim.start_recording();
        world.strict.set(true);
        for step in 0.. {
            world.sim.mark(step);
            if !steps(step) {
                break;
            }
        }
    });
    world.strict.set(false);
    let trace = world.sim.take_trace();
    world.sim.rewind(&trace);
    let accept = &mut |_: &Sim, crash: Crash| {
        world.load();
        simulate::reboot();
        let first = world.on(|| check(crash.mark));
        if crash.at_mark || first.is_ok() {
            return first;
        }
        world.on(|| check(crash.mark + 1)).map_err(|second| {
            format!("neither before ({}) nor after ({second}) the operation", first.unwrap_err())
        })
    };
    let effort = effort();
    let effort_events = usize::try_from(effort).unwrap();
    let config = Config {
        exhaustive: 4 * effort,
        samples: 2 * effort,
        depth: 1,
        track_reads: false,
        seed: 1,
        from: 0,
    };
    let fail = |failure| panic!("{name}: {failure}");
    let mut report: Report = explore(&world.sim, &trace, &config, accept).unwrap_or_else(fail);
    // Failures of the recovery, too, from the last operations.
    let nested = Config {
        exhaustive: 2,
        samples: 1,
        depth: 2,
        from: trace.len().saturating_sub(8 * effort_events),
        ..config
    };
    report.add(&explore(&world.sim, &trace, &nested, accept).unwrap_or_else(fail));
    let (mut killed, mut made) = (0, 0);
    let mut wrong: Vec<_> = mutants(&trace, |_| true).into_iter().filter(|m| !m.equivalent).collect();
    let stride = (wrong.len() / (12 * effort_events)).max(1);
    for mutant in wrong.iter_mut().step_by(stride) {
        // What comes before the mutation is right; its effect shows soon after it or never.
        mutant.trace.truncate(mutant.event + 90);
        let near = Config { exhaustive: 8, samples: 8, from: mutant.event.saturating_sub(2), ..config };
        made += 1;
        killed += usize::from(explore(&world.sim, &mutant.trace, &near, accept).is_err());
    }
    println!(
        "{name}: {} events, {} points, {} states, {} recovered and checked, {} after a cut-off recovery; \
         {killed} of {made} mutants killed",
        trace.len(),
        report.points,
        report.states,
        report.checked,
        report.nested_states
    );
    assert!(report.states > 100, "{name}: explored too little");
    assert!(killed >= wanted_kills, "{name}: the check notices too little: {killed} of {made} mutants");
}

/// How much to explore: `TWZ_CRASH_EFFORT=10` takes minutes, the default seconds.
fn effort() -> u64 {
    std::env::var("TWZ_CRASH_EFFORT").ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:?}, expected {expected:?}")) }
}

fn text<T>(result: Result<T>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

use std::result::Result as StdResult;
type Result<T, E = Error> = StdResult<T, E>;

#[derive(Invariant)]
#[repr(C)]
struct Cells {
    cells: [PCell<u64>; 1600],
}

fn cells() -> Object<Cells> {
    ObjectBuilder::new().build(Cells { cells: [const { PCell::new(0) }; 1600] }).unwrap()
}

#[test]
fn transactions_are_whole_or_not_at_all() {
    let (_one, world) = begin();
    let o = cells();
    let id = o.id();
    // Cell 0 counts; cells 8, 16, 24 follow it in different ways.
    let all = |k: u64| [0, 8, 16, 24, 33].map(|i| (i, k * (i as u64 + 1)));
    scenario(
        "transactions",
        &[o.window()],
        &world,
        &mut |step| {
            let k = step + 1;
            o.tx(|tx| match step % 5 {
                0 => all(k).iter().try_for_each(|(i, v)| tx.set(&o.cells[*i], *v)),
                1 => all(k).iter().try_for_each(|(i, v)| tx.put(&o.cells[*i], *v)),
                2 => {
                    all(k).iter().try_for_each(|(i, _)| tx.record(&o.cells[*i]))?;
                    all(k).iter().try_for_each(|(i, v)| tx.set_recorded(&o.cells[*i], *v))
                }
                3 => {
                    let _ = tx.nested(|tx| {
                        tx.set(&o.cells[0], 999)?;
                        tx.set(&o.cells[40], 999)?;
                        Err::<(), _>(Error::Aborted)
                    });
                    all(k).iter().try_for_each(|(i, v)| tx.set(&o.cells[*i], *v))
                }
                _ => {
                    tx.set(&o.cells[0], all(k)[0].1)?;
                    all(k)[1..].iter().try_for_each(|(i, v)| tx.put(&o.cells[*i], *v))
                }
            })
            .unwrap();
            // An aborted one between; it changes nothing.
            let _ = o.tx(|tx| {
                tx.set(&o.cells[0], 7)
                    .and_then(|()| tx.set(&o.cells[48], 7))
                    .and(Err::<(), _>(Error::Aborted))
            });
            step < 5
        },
        &|k| {
            let o = text(Object::<Cells>::open(id))?;
            for (i, value) in all(k) {
                expect(&format!("cell {i}"), o.cells[i].get(), value)?;
            }
            expect("cell 40", o.cells[40].get(), 0)?;
            expect("cell 48", o.cells[48].get(), 0)
        },
        1,
    );
}

#[test]
fn the_log_crosses_its_chunks() {
    let (_one, world) = begin();
    // The first chunk has room for four lines, so that most transactions end in another than they began in.
    let o =
        ObjectBuilder::new().log_bytes(256).build(Cells { cells: [const { PCell::new(0) }; 1600] }).unwrap();
    let id = o.id();
    scenario(
        "log growth",
        &[o.window()],
        &world,
        &mut |step| {
            o.tx(|tx| {
                for cell in &o.cells[..12] {
                    tx.record(cell)?;
                }
                for cell in &o.cells[..12] {
                    tx.set_recorded(cell, step + 1)?;
                }
                Ok(())
            })
            .unwrap();
            step < 3
        },
        &|k| {
            let o = text(Object::<Cells>::open(id))?;
            for (i, cell) in o.cells[..12].iter().enumerate() {
                expect(&format!("cell {i}"), cell.get(), k)?;
            }
            Ok(())
        },
        1,
    );
}

#[test]
fn several_objects_change_together() {
    let (_one, world) = begin();
    let (x, y) = (cells(), cells());
    let ids = [x.id(), y.id()];
    scenario(
        "two objects",
        &[x.window(), y.window()],
        &world,
        &mut |step| {
            let (home, other) = if step % 2 == 0 { (x, y) } else { (y, x) };
            home.tx(|tx| {
                tx.set(&home.cells[3], step + 1)?;
                tx.set(&other.cells[3], step + 1)?;
                tx.put(&other.cells[99], step + 1)?;
                tx.put(&home.cells[99], step + 1)
            })
            .unwrap();
            other.tx(|tx| tx.put(&other.cells[200], step)).unwrap();
            step < 5
        },
        &|k| {
            // Whichever is opened first.
            for order in [[0, 1], [1, 0]] {
                for i in order {
                    let o = text(Object::<Cells>::open(ids[i]))?;
                    expect("cell 3", o.cells[3].get(), k)?;
                    expect("cell 99", o.cells[99].get(), k)?;
                }
            }
            Ok(())
        },
        1,
    );
}

#[derive(Invariant)]
#[repr(C)]
struct Lists {
    list: List<u64>,
    vec: PVec<u64>,
}

#[test]
fn nothing_leaks_and_lists_stay_whole() {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(Lists { list: List::new(), vec: PVec::new() }).unwrap();
    let id = o.id();
    let model = |k: u64| -> Vec<u64> {
        let mut list = std::collections::VecDeque::new();
        for step in 0..k {
            if step % 4 == 3 {
                list.pop_front();
            } else {
                list.push_back(step);
            }
        }
        list.into()
    };
    scenario(
        "allocator, list, vector",
        &[o.window()],
        &world,
        &mut |step| {
            o.tx(|tx| {
                if step % 4 == 3 {
                    o.list.pop_front_in(tx).map(drop)
                } else {
                    o.list.push_back_in(tx, step)
                }?;
                o.vec.push_in(tx, step)
            })
            .unwrap();
            step < 11
        },
        &|k| {
            let o = text(Object::<Lists>::open(id))?;
            let list: Vec<u64> = text(o.list.iter().collect())?;
            expect("list", list.clone(), model(k))?;
            let vec: Vec<u64> = text(o.vec.iter().collect())?;
            expect("vector", vec, (0..k).collect())?;
            let census = text(o.census())?;
            // Nodes are 32 bytes; the vector has a segment of 64 and, past 8 elements, one of 128.
            let used = list.len() * 32
                + if k > 8 {
                    192
                } else if k > 0 {
                    64
                } else {
                    0
                };
            expect("bytes in use", census.bytes - census.free_bytes, used)
        },
        1,
    );
}

#[derive(Invariant)]
#[repr(C)]
struct Maps {
    hash: HashMap<u64, u64>,
    tree: BTreeMap<u64, u64>,
    rb: RbTree<u64, u64>,
}

#[test]
fn maps_survive() {
    let (_one, world) = begin();
    let maps = Maps { hash: HashMap::new(), tree: BTreeMap::new(), rb: RbTree::new() };
    let o = ObjectBuilder::new().build(maps).unwrap();
    let id = o.id();
    let key = |step: u64| step * 7919 % 101;
    let model = |k: u64, which: u64| -> Vec<(u64, u64)> {
        // Each step changes the three maps one after the other; only the step that is running may be between.
        let mut map = std::collections::BTreeMap::new();
        for step in 0..k {
            if step % 3 != which {
                continue;
            }
            if step % 12 == 10 + which {
                map.remove(&key(step - 6));
            } else {
                map.insert(key(step), step);
            }
        }
        map.into_iter().collect()
    };
    // Enough before the recording that buckets and leaves split in it.
    for step in 0..45 {
        maps_step(&o, step, key);
    }
    scenario(
        "maps",
        &[o.window()],
        &world,
        &mut |step| {
            maps_step(&o, step + 45, key);
            step < 5
        },
        &|k| {
            let o = text(Object::<Maps>::open(id))?;
            let mut hash: Vec<(u64, u64)> = text(o.hash.iter().collect())?;
            hash.sort_unstable();
            expect("hash map", hash, model(k + 45, 0))?;
            expect("tree", text(o.tree.iter().collect())?, model(k + 45, 1))?;
            text(o.rb.check())?;
            expect("red-black tree", text(o.rb.iter().collect())?, model(k + 45, 2))
        },
        1,
    );
}

fn maps_step(o: &Object<Maps>, step: u64, key: impl Fn(u64) -> u64) {
    let remove = step % 12 == 10 + step % 3;
    let victim = if remove { key(step - 6) } else { key(step) };
    match (step % 3, remove) {
        (0, false) => o.hash.insert(victim, step),
        (0, true) => o.hash.remove(&victim),
        (1, false) => o.tree.insert(victim, step),
        (1, true) => o.tree.remove(&victim),
        (_, false) => o.rb.insert(victim, step),
        (_, true) => o.rb.remove(&victim),
    }
    .unwrap();
}

#[derive(Invariant)]
#[repr(C)]
struct Pointers {
    places: [InvPtr<PCell<u64>>; 16],
}

#[test]
fn fot_entries_are_whole() {
    let (_one, world) = begin();
    let holder = ObjectBuilder::new().build(Pointers { places: [const { InvPtr::null() }; 16] }).unwrap();
    let targets: Vec<_> =
        (0..6).map(|i| ObjectBuilder::new().uncoloured().build(PCell::new(i + 100)).unwrap()).collect();
    let (id, target_ids) = (holder.id(), targets.iter().map(Object::id).collect::<Vec<_>>());
    let mut windows = vec![holder.window()];
    windows.extend(targets.iter().map(Object::window));
    // Steps 0–4 insert; later ones change the entry of place 0.
    scenario(
        "FOT",
        &windows,
        &world,
        &mut |step| {
            let i = usize::try_from(step).unwrap();
            if step < 5 {
                holder.tx(|tx| tx.point(&holder.places[i], Some(targets[i].base()))).unwrap();
            } else {
                let target = fot::Target::Id(target_ids[i % 6]);
                fot::change(holder.window(), holder.places[0].raw().index(), target, RW).unwrap();
            }
            step < 8
        },
        &|k| {
            let holder = text(Object::<Pointers>::open(id))?;
            for i in 0..5_u64 {
                let place = &holder.places[usize::try_from(i).unwrap()];
                let expected = if i >= k {
                    None
                } else if i == 0 && k > 5 {
                    Some((k - 1) % 6 + 100)
                } else {
                    Some(i + 100)
                };
                expect("pointer", text(place.get())?.map(PCell::get), expected)?;
            }
            // The table takes more, and uses unfinished entries again.
            let more = text(fot::insert(holder.window(), target_ids[5], Rights::READ))?;
            if more > 8 {
                return Err(format!("entry {more} for the sixth target: unfinished ones are lost"));
            }
            let entry = text(fot::read(holder.window(), more))?;
            expect("new entry", entry.target, target_ids[5])
        },
        1,
    );
}

#[test]
fn names_are_whole() {
    let (_one, world) = begin();
    let names = Namespace::create(Rights::READ).unwrap();
    let root = Object::<libtwz::names::Directory>::open(names.id()).unwrap();
    let targets = [ObjectId::from_u128(1001), ObjectId::from_u128(1002)];
    scenario(
        "names",
        &[root.window()],
        &world,
        &mut |step| {
            match step % 4 {
                0 => names.bind("/a", targets[0]),
                1 => names.rebind("/a", targets[1]).map(drop),
                2 => names.link("/l", "/a"),
                _ => names.unbind("/a").and_then(|_| names.unbind("/l")).map(drop),
            }
            .unwrap();
            step < 6
        },
        &|k| {
            let names = Namespace::at(root.id());
            let a = names.lookup("/a");
            let l = names.lookup("/l");
            let (expected_a, expected_l) = match k % 4 {
                0 => (Err(Error::NoSuchName), Err(Error::NoSuchName)),
                1 => (Ok(targets[0]), Err(Error::NoSuchName)),
                2 => (Ok(targets[1]), Err(Error::NoSuchName)),
                _ => (Ok(targets[1]), Ok(targets[1])),
            };
            // Step 3 is two operations: between them the link leads to nothing.
            if k % 4 == 3
                && a == Err(Error::NoSuchName)
                && l == Err(Error::NoSuchName)
                && names.entry("/l").is_ok()
            {
                return Ok(());
            }
            expect("/a", a, expected_a)?;
            expect("/l", l, expected_l)?;
            text(names.list("/")).map(drop)
        },
        1,
    );
}

#[test]
fn what_was_sent_is_received() {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(Channel::<[u64; 3], 4>::new([0; 3])).unwrap();
    let id = o.id();
    scenario(
        "channel",
        &[o.window()],
        &world,
        &mut |step| {
            o.send([step, step * 2, step * 3]).unwrap();
            if step >= 2 {
                assert_eq!(o.receive().unwrap()[0], step - 2);
            }
            step < 12
        },
        &|k| {
            let o = text(Object::<Channel<[u64; 3], 4>>::open(id))?;
            let messages = text(o.waiting())?;
            for message in &messages {
                expect("message", *message, [message[0], message[0] * 2, message[0] * 3])?;
            }
            let waiting: Vec<u64> = messages.iter().map(|message| message[0]).collect();
            // Sending and receiving are two operations: between them three wait.
            let before: Vec<u64> = (k.saturating_sub(2)..k).collect();
            let between: Vec<u64> = (k.saturating_sub(3)..k).collect();
            if waiting == between { Ok(()) } else { expect("messages", waiting, before) }
        },
        1,
    );
}
