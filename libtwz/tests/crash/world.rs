//! The objects of a scenario in `pmem`'s simulator: what `libtwz` does to them, in program order, with the places that did it.
//!
//! Which objects there are is a part of that, too: the store of these tests keeps a word for each in the simulator, as a pool does. So a
//! power failure leaves those that had been made by then, and of the volatile ones those that had been tied.
//!
//! The crash tests of programs on `libtwz` include this file, too (`apps/kv/tests/crash.rs`).

use crate::delegate::delegated;
use libtwz::Window;
use libtwz::prelude::*;
use libtwz::simulate::{self, Event, Site};
use libtwz::sys::hosted::{MemoryStore, Store, use_store};
use libtwz::sys::{CreateSpec, Durability, Stat};
use libtwz::view;
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
/// Where the words stand that say which there are: a line for each, behind the objects.
const WORDS: u64 = (OBJECTS * GIB) as u64;
/// Where the word stands that says which is the root: its place and one.
const ROOT: u64 = WORDS + (OBJECTS * 64) as u64;
/// An object that stays until it is deleted.
const LASTING: u64 = 1;
/// One that goes with the boot.
const VOLATILE: u64 = 2;
/// One that goes with its keeper, whose place stands above.
const TIED: u64 = 3;
/// One that was.
const GONE: u64 = 4;
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
const META: usize = META_OFFSET as usize;
#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
const END: usize = DATA_END as usize;

pub(crate) struct World {
    pub(crate) sim: Sim,
    /// The scenario's objects, by their place in the simulator.
    objects: RefCell<Vec<ObjectId>>,
    /// How many of them were there when the recording began.
    lasting: Cell<usize>,
    /// Pages that were ever stored to, by simulator offset.
    pages: RefCell<BTreeSet<usize>>,
    /// Lines that are never flushed (locks, tails, dirty sets): what they hold after a failure must not matter.
    unflushed: RefCell<Vec<(usize, usize)>>,
    /// Those of the recorded run: what a check makes may have another layout in the same place.
    recorded: RefCell<Vec<(usize, usize)>>,
    /// Between the beginning of the recording and its end.
    recording: Cell<bool>,
    /// Look for stores that were not told of: in a run with no contents from elsewhere, of which all lines are known that are never flushed.
    strict: Cell<bool>,
    /// What another program does in the moment before the next object is made to stay.
    before_keep: RefCell<Option<Box<dyn FnOnce()>>>,
    /// Which place did each event since the recording began; in step with the trace.
    sites: RefCell<Vec<Site>>,
}

thread_local! {
    /// The recorder is off on threads that are not a scenario's.
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

impl World {
    /// The place of an object in the simulator.
    fn place_of(&self, id: ObjectId) -> Option<usize> {
        self.objects.borrow().iter().position(|known| *known == id)
    }

    /// Gives an object a place.
    fn add(&self, id: ObjectId) -> usize {
        self.place_of(id).unwrap_or_else(|| {
            let mut objects = self.objects.borrow_mut();
            objects.push(id);
            assert!(objects.len() <= OBJECTS, "more objects than the simulator has room for");
            objects.len() - 1
        })
    }

    /// Where an object is mapped that has a place.
    fn window(&self, place: usize) -> Option<Window> {
        view::find(self.objects.borrow()[place], READ_WRITE)
    }

    /// Where an address is in the simulator, whether it is flushed or not; `None` for objects of other scenarios.
    fn offset(&self, address: usize) -> Option<usize> {
        let (id, _) = view::what_is_at(window_of(address)).ok()?;
        Some(self.place_of(id)? * GIB + address % GIB)
    }

    /// Where an address is in the simulator; `None` for objects of other scenarios and lines that are never flushed.
    fn place(&self, address: usize) -> Option<u64> {
        let at = self.offset(address)?;
        (!self.is_unflushed(at)).then_some(at as u64)
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
                    self.differing_lines(|_, at| panic!("a store to line {at:#x} was not told of"));
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
        *self.recorded.borrow_mut() = self.unflushed.borrow().clone();
        let trace = self.sim.take_trace();
        self.sim.rewind(&trace);
        let sites = self.sites.take();
        assert_eq!(trace.len(), sites.len(), "a place for each event");
        (trace, sites)
    }

    /// Records from here on.
    pub(crate) fn record(&self) {
        self.lasting.set(self.objects.borrow().len());
        self.sim.start_recording();
        self.recording.set(true);
    }

    /// What was built so far in these objects is durable: takes it into the simulator as it is, and records from here on. Stores that are not told of are
    /// errors then.
    pub(crate) fn record_from(&self, objects: &[Window]) {
        for object in objects {
            let place = self.add(view::id_at(object.base()));
            self.set_word(place, LASTING);
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
        let words = (address & !7..address + bytes).step_by(8);
        for (word, at) in words.clone().filter_map(|word| Some((word, self.place(word)?))) {
            let value = window_of(word).load(word % GIB);
            self.pages.borrow_mut().insert(usize::try_from(at).unwrap() & !4095);
            if !around && self.sim.load(at) != value {
                self.sim.store(at, value);
                self.note(site);
            }
            if word % GIB == META && value != 0 {
                self.know(window_of(word)); // complete: its log has lines that are never flushed
            }
        }
        if around && let Some(at) = self.place(address & !7) {
            // In one piece: the simulator draws in which order they come.
            let contents: Vec<u8> =
                words.clone().flat_map(|word| window_of(word).load(word % GIB).to_le_bytes()).collect();
            self.sim.write_nt(at, &contents);
            words.for_each(|_| self.note(site));
        }
    }

    /// Calls `with` for each line in which objects and simulator differ and that is flushed at all.
    fn differing_lines(&self, with: impl Fn(Window, usize)) {
        for &page in self.pages.borrow().iter() {
            let Some(window) = self.window(page / GIB) else { continue };
            let theirs = self.sim.base().wrapping_add(page).cast_const();
            // SAFETY: the simulator's memory has OBJECTS GiB, and this thread is the only one that uses it.
            let theirs = unsafe { std::slice::from_raw_parts(theirs, 4096) };
            // SAFETY: a page of an object that is mapped (it was stored to); nobody changes it meanwhile.
            let ours = unsafe { std::slice::from_raw_parts((window.base() + page % GIB) as *const u8, 4096) };
            if ours == theirs {
                continue;
            }
            for line in (0..4096).step_by(64) {
                if ours[line..line + 64] != theirs[line..line + 64] && !self.is_unflushed(page + line) {
                    with(window, page + line);
                }
            }
        }
    }

    /// Gives the objects the simulator's contents. Lines that are never flushed keep what they had: stale, as they may be.
    pub(crate) fn load(&self) {
        *self.unflushed.borrow_mut() = self.recorded.borrow().clone();
        let count = self.objects.borrow().len();
        for place in 0..count {
            if self.word(place) & 0xff == VOLATILE {
                self.sim.store(WORDS + place as u64 * 64, GONE);
            }
        }
        for place in 0..count {
            let id = self.objects.borrow()[place];
            if self.is_there(place) {
                view::map(id, READ_WRITE).unwrap();
            } else {
                // SAFETY: a scenario's check uses no reference that another one got.
                unsafe { view::unmap(id) };
            }
        }
        self.differing_lines(|window, line| {
            for at in (line..line + 64).step_by(8) {
                window.word(at % GIB).store(self.sim.load(at as u64), Ordering::Relaxed);
            }
        });
    }

    fn word(&self, place: usize) -> u64 {
        self.sim.load(WORDS + place as u64 * 64)
    }

    #[track_caller]
    fn set_word(&self, place: usize, word: u64) {
        self.write(WORDS + place as u64 * 64, word);
    }

    #[track_caller]
    fn write(&self, at: u64, word: u64) {
        let site = std::panic::Location::caller();
        self.sim.write_nt(at, &word.to_le_bytes());
        self.note(site);
        self.sim.fence();
        self.note(site);
    }

    /// Whether the object at `place` exists.
    fn is_there(&self, place: usize) -> bool {
        match self.word(place) & 0xff {
            LASTING | VOLATILE => true,
            TIED => self.is_there(usize::try_from(self.word(place) >> 8).unwrap()),
            _ => false,
        }
    }

    /// Makes an object stay.
    fn keep(&self, id: ObjectId) -> Option<Result<()>> {
        let place = self.place_of(id)?;
        Some(match self.word(place) {
            VOLATILE => {
                self.set_word(place, LASTING);
                Ok(())
            }
            _ if self.is_there(place) => Ok(()),
            _ => Err(Error::NoSuchObject(id)),
        })
    }

    /// Has `other` run in the moment before the next object is made to stay.
    #[allow(dead_code, reason = "not all tests that include this file name objects")]
    pub(crate) fn before_keep(&self, other: impl FnOnce() + 'static) {
        self.before_keep.replace(Some(Box::new(other)));
    }

    /// The root, which goes with its object.
    fn root(&self) -> Option<ObjectId> {
        let place = usize::try_from(self.sim.load(ROOT)).unwrap().checked_sub(1)?;
        self.is_there(place).then(|| self.objects.borrow()[place])
    }

    /// Objects made since the recording began that exist.
    #[allow(dead_code, reason = "not all tests that include this file make objects")]
    pub(crate) fn made(&self) -> Vec<ObjectId> {
        let objects = self.objects.borrow();
        (self.lasting.get()..objects.len()).filter(|&at| self.is_there(at)).map(|at| objects[at]).collect()
    }

    /// Objects made since the recording began that exist, and that no link leads to from those that were there before.
    #[allow(dead_code, reason = "not all tests that include this file have such objects")]
    pub(crate) fn stray(&self) -> Vec<ObjectId> {
        let objects = self.objects.borrow().clone();
        let mut reached = objects[..self.lasting.get()].to_vec();
        let mut next = 0;
        while let Some(id) = reached.get(next).copied() {
            next += 1;
            let Ok(window) = view::map(id, READ_WRITE) else { continue };
            let id_at = |at: usize| ObjectId { lo: window.load(at), hi: window.load(at + 8) };
            let place_in_meta = |field: usize| usize::try_from(window.load(META + field)).unwrap();
            // What takes what does not fit the arena, or the log; of a piece of a log (its root), the next piece.
            let links = [place_in_meta(32) + 32, place_in_meta(24) + 48, place_in_meta(40) + 16];
            // A mutant may leave an object that is not complete.
            for link in links.into_iter().filter(|at| *at >= 4096).map(id_at) {
                if objects.contains(&link) && !reached.contains(&link) {
                    reached.push(link);
                }
            }
        }
        let is_stray = |(place, id): &(usize, &ObjectId)| self.is_there(*place) && !reached.contains(id);
        objects.iter().enumerate().filter(is_stray).map(|(_, id)| *id).collect()
    }
}

impl Drop for World {
    /// Gives the memory of its objects back: all scenarios together have several times what a machine has.
    fn drop(&mut self) {
        for id in self.objects.borrow().iter() {
            let _ = memory().0.trim(*id, 0..GIB as u64); // of one that is gone there is nothing left
        }
    }
}

/// Objects in memory; those of a scenario are there as its simulator says.
struct Simulated(MemoryStore);

/// Where the objects of all scenarios are.
fn memory() -> &'static Arc<Simulated> {
    static MEMORY: OnceLock<Arc<Simulated>> = OnceLock::new();
    MEMORY.get_or_init(|| Arc::new(Simulated(MemoryStore::with_durability(Durability::Power).unwrap())))
}

/// The world of this thread, if it has one that is not at work itself.
fn with_world<R>(body: impl FnOnce(&World) -> R) -> Option<R> {
    WORLD.with(|world| Some(body(world.try_borrow().ok()?.as_ref()?)))
}

impl Store for Simulated {
    delegated!(0: copy, piece, durability, boot_generation);
    fn keep(&self, id: ObjectId) -> Result<()> {
        if let Some(other) = with_world(|world| world.before_keep.take()).flatten() {
            other();
        }
        with_world(|world| world.keep(id)).flatten().unwrap_or_else(|| self.0.keep(id))
    }
    fn root(&self) -> Option<ObjectId> {
        with_world(World::root).unwrap_or_else(|| self.0.root())
    }
    fn set_root(&self, id: ObjectId) -> Result<()> {
        let set = with_world(|world| {
            if world.root().is_some() {
                return Err(Error::NameExists);
            }
            // As in a pool: the name of what is volatile is nothing yet.
            world.write(ROOT, world.place_of(id).map_or(0, |place| place as u64 + 1));
            world.keep(id).unwrap_or(Err(Error::NoSuchObject(id)))
        });
        set.unwrap_or_else(|| self.0.set_root(id))
    }
    fn create(&self, spec: &CreateSpec) -> Result<ObjectId> {
        let kind = if spec.volatile { VOLATILE } else { LASTING };
        let spec = CreateSpec { volatile: false, ..*spec };
        let made = with_world(|world| {
            let free = |place: &usize| world.word(*place) == 0;
            let place = (world.lasting.get()..world.objects.borrow().len()).find(free);
            let id = match place {
                Some(place) => world.objects.borrow()[place],
                None => self.0.create(&spec)?,
            };
            self.0.trim(id, 4096..GIB as u64)?; // another life's contents
            let place = world.add(id);
            world.unflushed.borrow_mut().retain(|&(start, _)| start / GIB != place);
            world.set_word(place, kind);
            Ok(id)
        });
        made.unwrap_or_else(|| self.0.create(&spec))
    }
    fn delete(&self, id: ObjectId) -> Result<()> {
        match with_world(|world| world.place_of(id).map(|place| world.set_word(place, GONE))) {
            Some(Some(())) => Ok(()),
            _ => self.0.delete(id),
        }
    }
    fn tie(&self, object: ObjectId, keeper: ObjectId) -> Result<()> {
        with_world(|world| {
            if let (Some(object), Some(keeper)) = (world.place_of(object), world.place_of(keeper)) {
                world.set_word(object, TIED | (keeper as u64) << 8);
            }
        });
        Ok(())
    }
    fn trim(&self, _: ObjectId, _: std::ops::Range<u64>) -> Result<()> {
        Ok(()) // what stands there may stay
    }
    fn stat(&self, id: ObjectId) -> Result<Stat> {
        // Counting the bytes that memory takes is slow, and nothing here asks for them.
        let stat =
            Stat { allocated: 0, default_rights: Rights::READ, key: ObjectId::NULL, granted: Rights::all() };
        match with_world(|world| world.place_of(id).map(|place| world.is_there(place))) {
            Some(Some(true)) => Ok(stat),
            Some(Some(false)) => Err(Error::NoSuchObject(id)),
            _ => self.0.stat(id),
        }
    }
}

fn window_of(address: usize) -> Window {
    Window::around(address).unwrap()
}

/// What decides where objects' contents begin, and what maps draw: the same in each run, or what `TWZ_CRASH_SEED` says. Where blocks lie decides which of them
/// leave gaps, which others come from, and so which mutants there are.
fn seed() -> u64 {
    std::env::var("TWZ_CRASH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// One scenario at a time: they share the process's objects.
pub(crate) fn begin() -> (MutexGuard<'static, ()>, Rc<World>) {
    static ONE: Mutex<()> = Mutex::new(());
    static STARTED: OnceLock<()> = OnceLock::new();
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    STARTED.get_or_init(|| {
        use_store(Arc::<Simulated>::clone(memory())).unwrap();
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
    simulate::repeat_random(seed()); // a mutant that is killed once is killed always
    let world = Rc::new(World {
        sim: Sim::new(ROOT + 64),
        objects: RefCell::default(),
        lasting: Cell::new(0),
        pages: RefCell::default(),
        unflushed: RefCell::default(),
        recorded: RefCell::default(),
        recording: Cell::new(false),
        strict: Cell::new(false),
        before_keep: RefCell::default(),
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
        let log = usize::try_from(window.load(META + 24)).unwrap();
        let Some(start) = self.offset(window.base() + log + 64) else { return };
        let lines = (start, start + 64 + 4224);
        let mut unflushed = self.unflushed.borrow_mut();
        if !unflushed.contains(&lines) {
            unflushed.push(lines);
        }
    }
}
