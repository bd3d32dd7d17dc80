//! Power failures: every memory that one can leave is recovered and compared with what was acknowledged.
//!
//! The store's stores, flushes and fences go into the pool's simulator (`pmem::sim`). After each operation there is a mark: a memory left
//! after mark k must hold the pairs after k operations, or k + 1 if the failure was inside the next one. Recovery is cut off, too. Mutants –
//! the same run without a flush, a fence or a store – show that the check would notice.

#![allow(clippy::unwrap_used, reason = "tests")]

use kv::{Options, Store};
use libtwz::Window;
use libtwz::prelude::{ObjectBuilder, ObjectId};
use libtwz::simulate::{self, Event};
use libtwz::sys::Durability;
use libtwz::sys::hosted::{MemoryStore, use_store};
use pmem::Pmem;
use pmem::sim::{Config, Crash, Sim, explore, mutants};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const GIB: usize = 1 << 30;
const OBJECTS: usize = 16;

/// The simulator's copy of the objects in the slots from `first` on.
struct World {
    sim: Sim,
    first: usize,
    /// Pages that were ever stored to.
    pages: RefCell<BTreeSet<usize>>,
}

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

impl World {
    fn begin() -> Rc<Self> {
        use_store(Arc::new(MemoryStore::with_durability(Durability::Power).unwrap())).unwrap();
        assert!(simulate::record_with(|event, _| {
            WORLD.with(|world| {
                // Not while the world itself is at work.
                if let Ok(world) = world.try_borrow()
                    && let Some(world) = world.as_ref()
                {
                    world.tell(event);
                }
            });
        }));
        let probe = ObjectBuilder::new().build(()).unwrap();
        Rc::new(Self {
            sim: Sim::new((OBJECTS * GIB) as u64),
            first: probe.window().base() + GIB,
            pages: RefCell::default(),
        })
    }

    fn on<R>(self: &Rc<Self>, body: impl FnOnce() -> R) -> R {
        WORLD.with(|world| *world.borrow_mut() = Some(Rc::clone(self)));
        let result = body();
        WORLD.with(|world| *world.borrow_mut() = None);
        result
    }

    fn place(&self, address: usize) -> Option<u64> {
        address.checked_sub(self.first).filter(|at| *at < OBJECTS * GIB).map(|at| at as u64)
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
            Event::Fence => self.sim.fence(),
        }
    }

    fn store(&self, address: usize, bytes: usize, around: bool) {
        for word in (address & !7..address + bytes).step_by(8) {
            let Some(at) = self.place(word) else { continue };
            let value = Window::around(word).unwrap().load(word % GIB);
            self.pages.borrow_mut().insert(word - word % 4096 - self.first);
            if around {
                self.sim.write_nt(at, &value.to_le_bytes());
            } else if self.sim.load(at) != value {
                self.sim.store(at, value);
            }
        }
    }

    /// Gives the objects the simulator's contents.
    fn load(&self) {
        for &page in self.pages.borrow().iter() {
            let window = Window::around(self.first + page).unwrap();
            let theirs = self.sim.base().wrapping_add(page).cast_const();
            // SAFETY: the simulator's memory has OBJECTS GiB, and this thread is the only one that uses it.
            let theirs = unsafe { std::slice::from_raw_parts(theirs, 4096) };
            // SAFETY: a page of an object that is mapped (it was stored to); nobody changes it meanwhile.
            let ours = unsafe { std::slice::from_raw_parts((self.first + page) as *const u8, 4096) };
            if ours == theirs {
                continue;
            }
            for at in (page..page + 4096).step_by(8) {
                let word = window.word(at % GIB);
                let value = self.sim.load(at as u64);
                if word.load(Ordering::Relaxed) != value {
                    word.store(value, Ordering::Relaxed);
                }
            }
        }
    }
}

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// One operation on a store and on the model of it.
fn operate(step: u64, store: Option<&Store>, model: &mut Pairs) {
    let mut key = vec![b'k'; usize::try_from(step % 5).unwrap() + 1];
    let mut size = [10, 40, 0, 100, 20, 70][usize::try_from(step % 6).unwrap()];
    let stays = step % 5 == 4; // something that is never deleted
    if stays {
        (key, size) = (step.to_le_bytes().to_vec(), 150);
    }
    let value = vec![u8::try_from(step % 251).unwrap() + 1; size];
    if step % 4 == 3 && !stays {
        if let Some(store) = store {
            store.delete(&key).unwrap();
        }
        model.remove(&key);
    } else {
        if let Some(store) = store {
            store.put(&key, &value).unwrap();
        }
        model.insert(key, value);
    }
}

fn model_after(operations: u64) -> Pairs {
    let mut model = Pairs::new();
    (0..operations).for_each(|step| operate(step, None, &mut model));
    model
}

/// Opens what a failure left and compares; then uses it, since a wrong allocator shows only then.
fn check(id: ObjectId, operations: u64) -> Result<(), String> {
    let model = model_after(operations);
    let said = |error: kv::Error| error.to_string();
    let store = Store::open(id).map_err(said)?;
    let mut found = Pairs::new();
    let result = store.scan(|value| {
        found.insert(value.key()?, value.to_vec()?);
        Ok(())
    });
    let compared = result.map_err(said).and_then(|_| {
        for (key, value) in &model {
            if store.read(key).map_err(said)?.as_ref() != Some(value) {
                return Err(format!("a wrong value for a key of {} bytes", key.len()));
            }
        }
        found.remove(&b"new"[..]); // of a check that was cut off
        if found != model {
            return Err(format!("{} pairs instead of {}", found.len(), model.len()));
        }
        store.put(b"new", &[1; 64]).map_err(said)?;
        for (key, value) in &model {
            if store.read(key).map_err(said)?.as_ref() != Some(value) {
                return Err(format!("a put changed the value for a key of {} bytes", key.len()));
            }
        }
        Ok(())
    });
    std::mem::forget(store); // its close is not what is tested here
    compared
}

/// How much to explore: `TWZ_CRASH_EFFORT=10` takes minutes, the default seconds.
fn effort() -> u64 {
    std::env::var("TWZ_CRASH_EFFORT").ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// Flushes and fences: dropped or moved, they make the mutants. Most stores are the index's, which may be lost anyway.
fn is_ordering(event: &pmem::sim::Event) -> bool {
    matches!(event, pmem::sim::Event::Flush(_) | pmem::sim::Event::Fence)
}

#[test]
fn what_was_acknowledged_survives() {
    let world = World::begin();
    let options = Options { data_bytes: 64 << 10, index_segments: 2, ..Options::default() };
    // All of the store's making goes into the simulator, too.
    let (trace, id) = world.on(|| {
        let store = Store::create(&options).unwrap();
        let id = store.id();
        // A large block, freed: small records do not fit its class, so the run begins with making another object.
        store.put(b"large", &[9; 64_000]).unwrap();
        store.delete(b"large").unwrap();
        store.close().unwrap();
        world.sim.fence();
        world.sim.start_recording();
        let mut store = Store::open(id).unwrap();
        for step in 0..9 {
            world.sim.mark(step);
            operate(step, Some(&store), &mut Pairs::new());
            if step == 4 {
                store.close().unwrap();
                store = Store::open(id).unwrap();
            }
        }
        assert!(store.stats().unwrap().data_objects > 1, "the run grows past one object");
        store.close().unwrap();
        (world.sim.take_trace(), id)
    });
    println!("{} events", trace.len());
    world.sim.rewind(&trace);
    let accept = &mut |_: &Sim, crash: Crash| {
        world.load();
        simulate::reboot();
        let first = world.on(|| check(id, crash.mark));
        if crash.at_mark || first.is_ok() {
            return first;
        }
        world.load();
        simulate::reboot();
        world.on(|| check(id, crash.mark + 1)).map_err(|second| {
            format!("neither before ({}) nor after ({second}) the operation", first.unwrap_err())
        })
    };
    let effort = effort();
    let samples = effort;
    let config = Config { exhaustive: 2 * effort, samples, depth: 1, track_reads: false, seed: 1, from: 0 };
    let mut report =
        explore(&world.sim, &trace, &config, accept).unwrap_or_else(|failure| panic!("{failure}"));
    let nested =
        Config { exhaustive: 2, samples: 1, depth: 2, from: trace.len().saturating_sub(3), ..config };
    report.add(&explore(&world.sim, &trace, &nested, accept).unwrap_or_else(|failure| panic!("{failure}")));
    let (mut killed, mut made) = (0, 0);
    let mut wrong: Vec<_> =
        mutants(&trace, |event| is_ordering(&trace[event])).into_iter().filter(|m| !m.equivalent).collect();
    let stride = (wrong.len() / (24 * usize::try_from(effort).unwrap())).max(1);
    for mutant in wrong.iter_mut().step_by(stride) {
        mutant.trace.truncate(mutant.event + 120);
        let near = Config { exhaustive: 4, samples: 4, from: mutant.event.saturating_sub(2), ..config };
        made += 1;
        killed += usize::from(explore(&world.sim, &mutant.trace, &near, accept).is_err());
    }
    println!(
        "{} events, {} points, {} states, {} recovered and checked, {} after a cut-off recovery; {killed} of {made} mutants killed",
        trace.len(),
        report.points,
        report.states,
        report.checked,
        report.nested_states
    );
    assert!(report.states > 300 && report.nested_states > 0, "explored too little");
    assert!(killed >= 3, "the check notices too little: {killed} of {made}");
}
