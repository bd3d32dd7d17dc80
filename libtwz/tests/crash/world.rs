//! The objects of a scenario in `pmem`'s simulator: what `libtwz` does to them, in program order, with the places that did it.
//!
//! The crash tests of programs on `libtwz` include this file, too (`apps/kv/tests/crash.rs`).

use libtwz::Window;
use libtwz::prelude::*;
use libtwz::simulate::{self, Event, Site};
use libtwz::sys::Durability;
use libtwz::sys::hosted::{MemoryStore, use_store};
use pmem::Pmem;
use pmem::sim::Sim;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use twz_abi::object::{DATA_END, META_OFFSET};

const GIB: usize = 1 << 30;
/// Objects that the simulator has room for.
const OBJECTS: usize = 64;
#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
const META: usize = META_OFFSET as usize;
#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
const END: usize = DATA_END as usize;

pub(crate) struct World {
    pub(crate) sim: Sim,
    /// First address of the scenario's objects.
    first: usize,
    /// Pages that were ever stored to, by simulator offset.
    pages: RefCell<BTreeSet<usize>>,
    /// Lines that are never flushed (locks, tails, dirty sets): what they hold after a failure must not matter.
    unflushed: RefCell<Vec<(usize, usize)>>,
    /// Between the beginning of the recording and its end.
    recording: Cell<bool>,
    /// Look for stores that were not told of: in a run with no contents from elsewhere, of which all lines are known that are never flushed.
    strict: Cell<bool>,
    /// Which place did each event since the recording began; in step with the trace.
    sites: RefCell<Vec<Site>>,
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

    fn tell(&self, event: Event, site: Site) {
        match event {
            Event::Stored { address, bytes } => self.store(address, bytes, false, site),
            Event::Around { address, bytes } => self.store(address, bytes, true, site),
            Event::Flush { address, bytes } => {
                for line in (address & !63..address + bytes).step_by(64) {
                    if let Some(at) = self.place(line) {
                        self.sim.flush(at, 64);
                        self.note(site);
                    }
                }
            }
            Event::Fence => {
                if self.strict.get() {
                    self.differing_lines(|at| panic!("a store to line {at:#x} was not told of"));
                }
                self.sim.fence();
                self.note(site);
            }
        }
    }

    fn note(&self, site: Site) {
        if self.recording.get() {
            self.sites.borrow_mut().push(site);
        }
    }

    /// Marks where the program is.
    #[track_caller]
    pub(crate) fn mark(&self, number: u64) {
        self.sim.mark(number);
        self.note(std::panic::Location::caller());
    }

    /// What was done since [`World::record`], and where in the program; memory is as it was then.
    pub(crate) fn take(&self) -> (Vec<pmem::sim::Event>, Vec<Site>) {
        self.recording.set(false);
        self.strict.set(false);
        let trace = self.sim.take_trace();
        self.sim.rewind(&trace);
        let sites = self.sites.take();
        assert_eq!(trace.len(), sites.len(), "a place for each event");
        (trace, sites)
    }

    /// Records from here on.
    pub(crate) fn record(&self) {
        self.sim.start_recording();
        self.recording.set(true);
    }

    /// What was built so far in these objects is durable: takes it into the simulator as it is, and records from here on. Stores that are not told of are
    /// errors then.
    pub(crate) fn record_from(&self, objects: &[Window]) {
        for object in objects {
            self.know(*object);
        }
        for object in objects {
            let root = usize::try_from(object.load(META + 40)).unwrap();
            let data = (root & !4095..root + (256 << 10)).step_by(8);
            for at in
                data.chain((END - (64 << 10)..END).step_by(8)).chain((META - 4096..META + 64).step_by(8))
            {
                if object.load(at & !7) != 0 {
                    self.store(object.base() + (at & !7), 8, false, std::panic::Location::caller());
                }
            }
        }
        self.record();
        self.strict.set(true);
    }

    fn store(&self, address: usize, bytes: usize, around: bool, site: Site) {
        for word in (address & !7..address + bytes).step_by(8) {
            let Some(at) = self.place(word) else { continue };
            let value = window_of(word).load(word % GIB);
            self.pages.borrow_mut().insert(word - word % 4096 - self.first);
            if around {
                self.sim.write_nt(at, &value.to_le_bytes());
                self.note(site);
            } else if self.sim.load(at) != value {
                self.sim.store(at, value);
                self.note(site);
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
    pub(crate) fn load(&self) {
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
pub(crate) fn begin() -> (MutexGuard<'static, ()>, Rc<World>) {
    static ONE: Mutex<()> = Mutex::new(());
    static STARTED: OnceLock<()> = OnceLock::new();
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    STARTED.get_or_init(|| {
        use_store(Arc::new(MemoryStore::with_durability(Durability::Power).unwrap())).unwrap();
        assert!(simulate::record_with(|event, site| {
            WORLD.with(|world| {
                // Not while the world itself is at work.
                if let Ok(world) = world.try_borrow()
                    && let Some(world) = world.as_ref()
                {
                    world.tell(event, site);
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
        recording: Cell::new(false),
        strict: Cell::new(false),
        sites: RefCell::default(),
    });
    (guard, world)
}

impl World {
    pub(crate) fn on<R>(self: &Rc<Self>, body: impl FnOnce() -> R) -> R {
        WORLD.with(|world| *world.borrow_mut() = Some(Rc::clone(self)));
        let result = body();
        WORLD.with(|world| *world.borrow_mut() = None);
        result
    }

    /// Says which lines of an object are never flushed.
    fn know(&self, window: Window) {
        let log = window.load(META + 24);
        let start = window.base() - self.first + usize::try_from(log).unwrap() + 64;
        self.unflushed.borrow_mut().push((start, start + 64 + 4096));
    }
}
