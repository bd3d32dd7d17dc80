//! The contexts that are in use: bindings, placement, root; made when first entered, evicted when idle.
//!
//! # Contract
//! - A context is *live* from its first [`Contexts::enter`] on. It is *idle* when no thread holds it and nothing is bound in it.
//! - **E1** A window's addresses go to another context of the same root only after the kernel gave up everything bound in it: shared
//!   windows are taken away from idle contexts only. A root of its own may go at any time that no hart is in it: its guest-physical
//!   addresses mean nothing elsewhere, and a later root for the same context starts with an empty window.
//! - A guest's binding number carries the number of its context, and is looked up in that context's table only.
//!
//! All of it is behind one lock, which the pool's hook takes with an object locked: nothing here calls the pool.

use super::super::roots::{RootCell, RootMaker};
use crate::control::{BoundInfo, ContextInfo};
use ept_contexts::{AliasError, Context as Table, Narrowing, RootError, Window, WindowSlot};
use sec::Decision;
use std::collections::HashMap;
use std::sync::Arc;
use twz_abi::{ErrorCode, ObjectId};

/// Idle contexts that keep their tables, in case that they are entered again.
const IDLE_MAX: usize = 8;

/// How much object space contexts get, and where.
#[derive(Clone, Copy, Debug)]
pub(in crate::machine) struct Limits {
    /// First guest-physical byte of object space.
    pub window_base: u64,
    /// Bytes of a window with a root to itself.
    pub own_bytes: u64,
    /// Bytes of a window in the shared root.
    pub shared_bytes: u64,
    /// Windows that fit the shared root.
    pub shared_count: u32,
    /// Most tables at a time.
    pub tables: usize,
    /// Most stretches that all windows show together: the host limits a process's mappings.
    pub stretches: usize,
}

/// A context's place cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Address space.
    #[error(transparent)]
    Alias(#[from] AliasError),
    /// The root.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Every shared window belongs to a context in use.
    #[error("all {0} windows of the shared root are in use")]
    SharedFull(u32),
}

/// Why a binding has the rights that it has.
pub(super) type Grant = Arc<Decision>;

/// Where a context's table is.
#[derive(Debug)]
struct Place {
    root: Arc<RootCell>,
    slot: WindowSlot,
    /// Which of the shared root's windows.
    shared_index: Option<u32>,
}

/// A context in use.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: ObjectId,
    pub(super) table: Table<Grant>,
    pub(super) shared: bool,
    pub(super) undetachable: bool,
    /// A thread holds it.
    pub(super) entered: bool,
    place: Option<Place>,
    /// When it was last entered, on the clock of [`Contexts::uses`].
    used: u64,
}

impl Live {
    fn is_idle(&self) -> bool {
        !self.entered && self.table.is_empty()
    }

    /// Number of its root; 0 while it has none.
    pub(super) fn root_number(&self) -> u64 {
        self.place.as_ref().map_or(0, |place| place.root.number())
    }

    /// The context for people.
    pub(super) fn describe(&self) -> ContextInfo {
        let bound = self.table.bound().map(|bound| BoundInfo {
            object: bound.object.to_string(),
            rights: bound.rights.letters().iter().map(|&letter| char::from(letter)).collect(),
            capabilities: bound.grant.used.iter().map(ToString::to_string).collect(),
            chunks: bound.chunks as u64,
        });
        ContextInfo {
            id: self.id.to_string(),
            placement: if self.shared { "shared" } else { "own" }.to_owned(),
            entered: self.entered,
            root: self.root_number(),
            window: self.table.window().map(Window::base),
            bound: bound.collect(),
        }
    }
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ContextCounters {
    /// Contexts made live.
    pub entered: u64,
    /// Tables taken away from idle contexts.
    pub evicted_idle: u64,
    /// Tables taken away from contexts in use.
    pub evicted_in_use: u64,
    /// Of both, those that went because the process had no descriptor left.
    pub evicted_for_descriptors: u64,
    /// Windows emptied because they were full, or because all together had as many mappings as the host allows.
    pub hidden: u64,
    /// Contexts with placement `shared` that got a root to themselves, because the shared one was full.
    pub moved_out: u64,
    /// Tables that exist now.
    pub tables: u64,
    /// Roots made.
    pub roots: u64,
}

/// Contexts that are live.
pub(super) struct Contexts {
    live: Vec<Option<Live>>,
    by_id: HashMap<ObjectId, u32>,
    maker: RootMaker,
    /// A root that was made early; the first context gets it.
    spare: Option<Arc<RootCell>>,
    limits: Limits,
    shared_root: Option<Arc<RootCell>>,
    shared_used: Vec<bool>,
    /// The context that was refused last because the shared root is full.
    full_for: Option<ObjectId>,
    /// The root that each hart is in.
    current: Vec<u64>,
    uses: u64,
    counters: ContextCounters,
}

impl std::fmt::Debug for Contexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contexts").field("live", &self.by_id.len()).finish_non_exhaustive()
    }
}

impl Contexts {
    /// None, for a machine with `harts` harts, which begin in the root `spare`.
    pub(super) fn new(maker: RootMaker, spare: Arc<RootCell>, limits: Limits, harts: usize) -> Self {
        Self {
            live: Vec::new(),
            by_id: HashMap::new(),
            maker,
            spare: Some(Arc::clone(&spare)),
            limits,
            shared_root: None,
            shared_used: vec![false; limits.shared_count as usize],
            full_for: None,
            current: vec![spare.number(); harts],
            uses: 0,
            counters: ContextCounters::default(),
        }
    }

    /// The live context of this ID.
    pub(super) fn find(&mut self, id: ObjectId) -> Option<(u32, &mut Live)> {
        let number = *self.by_id.get(&id)?;
        self.get(number).map(|live| (number, live))
    }

    /// The live context of this number.
    pub(super) fn get(&mut self, number: u32) -> Option<&mut Live> {
        self.live.get_mut(number as usize)?.as_mut()
    }

    /// All live contexts.
    pub(super) fn all(&mut self) -> impl Iterator<Item = (u32, &mut Live)> {
        (0..).zip(&mut self.live).filter_map(|(number, live)| live.as_mut().map(|live| (number, live)))
    }

    /// Whether the context `id` is entered and its table is in the root `root`.
    pub(super) fn is_in(&mut self, root: u64, id: ObjectId) -> bool {
        self.find(id).is_some_and(|(_, live)| live.entered && live.root_number() == root)
    }

    /// Makes a context live and gives it a place; returns its number.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub(super) fn enter(&mut self, id: ObjectId, header: &sec::Context) -> Result<u32, PlaceError> {
        let number = match self.by_id.get(&id) {
            Some(&number) => number,
            None => self.add(id, header),
        };
        let placed = self.place(number);
        self.uses += 1;
        let uses = self.uses;
        match (placed, self.get(number)) {
            (Ok(()), Some(live)) => {
                (live.entered, live.used) = (true, uses);
                Ok(number)
            }
            (Err(error), _) => {
                self.drop_if_idle(number);
                Err(error)
            }
            (Ok(()), None) => Ok(number),
        }
    }

    fn add(&mut self, id: ObjectId, header: &sec::Context) -> u32 {
        let live = Live {
            id,
            table: Table::default(),
            shared: header.shared,
            undetachable: header.undetachable,
            entered: false,
            place: None,
            used: 0,
        };
        let free = self.live.iter().position(Option::is_none);
        let index = free.unwrap_or(self.live.len());
        match free {
            Some(index) => self.live[index] = Some(live),
            None => self.live.push(Some(live)),
        }
        self.counters.entered += 1;
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        self.by_id.insert(id, number);
        number
    }

    /// Gives a live context a window in a root, if it has none.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub(super) fn place(&mut self, number: u32) -> Result<(), PlaceError> {
        let Some(shared) = self.get(number).filter(|live| live.place.is_none()).map(|live| live.shared)
        else {
            return Ok(());
        };
        if self.tables() >= self.limits.tables {
            // If there is none to take away, there is one table more than wanted.
            self.evict_least_used(number, |_| true);
        }
        let Limits { window_base, own_bytes, shared_bytes, .. } = self.limits;
        let shared = if shared { self.shared_place(number)? } else { None };
        let (root, window, shared_index) = if let Some(index) = shared {
            let root = match &self.shared_root {
                Some(root) => Arc::clone(root),
                None => {
                    let root = self.new_root(number)?;
                    Arc::clone(self.shared_root.insert(root))
                }
            };
            let base = window_base + u64::from(index) * shared_bytes;
            (root, Window::new(base, shared_bytes)?, Some(index))
        } else {
            (self.new_root(number)?, Window::new(window_base, own_bytes)?, None)
        };
        let slot = root.add_window(&window)?;
        if let Some(index) = shared_index {
            self.shared_used[index as usize] = true;
        }
        if let Some(live) = self.get(number) {
            live.table.set_window(window);
            live.place = Some(Place { root, slot, shared_index });
        }
        Ok(())
    }

    /// A root for the context of that number. Where descriptors run out, tables that no hart is in go for it.
    fn new_root(&mut self, for_whom: u32) -> Result<Arc<RootCell>, RootError> {
        if let Some(root) = self.spare.take() {
            return Ok(root);
        }
        loop {
            match self.maker.make() {
                Err(error) if error.is_out_of_descriptors() && self.spare_descriptors(Some(for_whom)) => {}
                made => return made.map(Arc::new),
            }
        }
    }

    /// Takes a table with a root of its own away, for its descriptors: not that of `for_whom`. `false` if there is none that no hart is in.
    pub(super) fn spare_descriptors(&mut self, for_whom: Option<u32>) -> bool {
        let found = self.evict_least_used(for_whom.unwrap_or(u32::MAX), |live| !live.shared);
        self.counters.evicted_for_descriptors += u64::from(found);
        found
    }

    /// A window of the shared root. When all are in use, the context's kernel is told, and gives back what it only keeps; if it then asks for
    /// the same context again, that one gets a root to itself, for as long as it is live (E1): more than it asked for, and slower.
    ///
    /// # Errors
    /// [`PlaceError::SharedFull`] the first time.
    fn shared_place(&mut self, number: u32) -> Result<Option<u32>, PlaceError> {
        let index = self.free_shared(number);
        let id = self.get(number).map(|live| live.id);
        if index.is_none() && std::mem::replace(&mut self.full_for, id) != id {
            return Err(PlaceError::SharedFull(self.limits.shared_count));
        }
        self.full_for = None;
        if let Some(live) = self.get(number).filter(|_| index.is_none()) {
            live.shared = false;
            self.counters.moved_out += 1;
        }
        Ok(index)
    }

    fn free_shared(&mut self, for_whom: u32) -> Option<u32> {
        let free = |used: &[bool]| used.iter().position(|used| !used);
        let index = free(&self.shared_used).or_else(|| {
            let idle =
                self.idle(for_whom).filter(|(_, live)| live.shared).map(|(number, live)| (live.used, number));
            let victim = idle.min()?.1;
            self.evict(victim);
            free(&self.shared_used)
        });
        index.and_then(|index| u32::try_from(index).ok())
    }

    fn idle(&mut self, except: u32) -> impl Iterator<Item = (u32, &mut Live)> {
        self.all().filter(move |(number, live)| *number != except && live.place.is_some() && live.is_idle())
    }

    fn tables(&self) -> usize {
        self.live.iter().flatten().filter(|live| live.place.is_some()).count()
    }

    /// Takes the table of one of the contexts that `may_go` away, but not of `except`: the idle one that was used least recently, else one
    /// with a root of its own that no hart is in. `false` if there is none.
    fn evict_least_used(&mut self, except: u32, may_go: impl Fn(&Live) -> bool) -> bool {
        let current = self.current.clone();
        let is_left = |live: &Live| !live.shared && !current.contains(&live.root_number());
        let others =
            self.all().filter(|(number, live)| *number != except && live.place.is_some() && may_go(live));
        let victim = others
            .filter(|(_, live)| live.is_idle() || is_left(live))
            .map(|(number, live)| (!live.is_idle(), live.used, number))
            .min();
        victim.inspect(|&(_, _, number)| self.evict(number)).is_some()
    }

    /// Takes a context's table away (E1 is the caller's to keep); an idle one is forgotten.
    fn evict(&mut self, number: u32) {
        let Some(live) = self.get(number) else { return };
        live.table.hide();
        let (is_idle, place, window) = (live.is_idle(), live.place.take(), live.table.take_window());
        let Some(place) = place else { return };
        if let Some(index) = place.shared_index {
            // A slot that cannot be removed keeps its addresses: they are not given to anybody else.
            match place.root.remove_window(place.slot) {
                Ok(()) => self.shared_used[index as usize] = false,
                Err(error) => tracing::error!(%error, "a window of the shared root is lost"),
            }
        } else {
            place.root.retire();
        }
        drop(window);
        tracing::debug!(number, is_idle, "context evicted");
        if is_idle {
            self.counters.evicted_idle += 1;
            self.drop_if_idle(number);
        } else {
            self.counters.evicted_in_use += 1;
        }
    }

    fn drop_if_idle(&mut self, number: u32) {
        if let Some(place) = self.live.get_mut(number as usize)
            && place.as_ref().is_some_and(|live| live.is_idle() && live.place.is_none())
            && let Some(live) = place.take()
        {
            self.by_id.remove(&live.id);
        }
    }

    /// No thread holds the context any more. Idle ones beyond [`IDLE_MAX`] lose their tables.
    pub(super) fn leave(&mut self, number: u32) -> Result<(), ErrorCode> {
        let live = self.get(number).filter(|live| live.entered).ok_or(ErrorCode::BadArgument)?;
        live.entered = false;
        let current = self.current.clone();
        let mut idle: Vec<(u64, u32)> = self
            .idle(u32::MAX)
            .filter(|(_, live)| live.shared || !current.contains(&live.root_number()))
            .map(|(number, live)| (live.used, number))
            .collect();
        idle.sort_unstable();
        let too_many = idle.len().saturating_sub(IDLE_MAX);
        idle.into_iter().take(too_many).for_each(|(_, victim)| self.evict(victim));
        Ok(())
    }

    /// The root to enter for an entered context; `hart` counts as being there from now on.
    ///
    /// # Errors
    /// [`ErrorCode::NotPermitted`] for a context that no thread was let into; [`ErrorCode::WindowFull`] if its table cannot be made again.
    pub(super) fn switch(&mut self, hart: u32, number: u32) -> Result<Arc<RootCell>, ErrorCode> {
        self.get(number).filter(|live| live.entered).ok_or(ErrorCode::NotPermitted)?;
        self.place(number).map_err(|error| {
            tracing::error!(%error, "a context's table cannot be made");
            ErrorCode::WindowFull
        })?;
        let place = self.get(number).and_then(|live| live.place.as_ref()).ok_or(ErrorCode::NotPermitted)?;
        let root = Arc::clone(&place.root);
        self.current[hart as usize] = root.number();
        Ok(root)
    }

    /// Sees that another stretch can be shown in a context's window. At the limit the window that shows most is emptied: its
    /// own, by its kernel, which knows then what to forget; another's here, whose threads are refused once and ask again.
    ///
    /// # Errors
    /// [`ErrorCode::WindowFull`] if it is its own that is to be emptied first.
    pub(super) fn make_room(&mut self, number: u32) -> Result<(), ErrorCode> {
        if self.all().map(|(_, live)| live.table.stretches()).sum::<usize>() < self.limits.stretches {
            return Ok(());
        }
        match self.all().max_by_key(|(_, live)| live.table.stretches()) {
            Some((most, live)) if most != number => {
                let hidden = live.table.hide_in_place();
                self.counters.hidden += 1;
                hidden.map_err(|error| {
                    tracing::error!(%error, "a window cannot be emptied");
                    ErrorCode::NoMemory
                })
            }
            _ => Err(ErrorCode::WindowFull),
        }
    }

    /// Empties a context's window.
    ///
    /// # Errors
    /// [`ErrorCode::BadArgument`] if there is no such context.
    pub(super) fn hide(&mut self, number: u32) -> Result<(), ErrorCode> {
        self.get(number).ok_or(ErrorCode::BadArgument)?.table.hide();
        self.counters.hidden += 1;
        Ok(())
    }

    /// Takes access to a range of an object away in every context.
    ///
    /// # Errors
    /// The host's, from the first context that failed; the others were narrowed all the same.
    pub(super) fn narrow(
        &mut self,
        id: ObjectId,
        offset: u64,
        bytes: u64,
        how: Narrowing,
    ) -> Result<(), AliasError> {
        let all = self.live.iter_mut().flatten();
        all.map(|live| live.table.narrow(id, offset, bytes, how)).fold(Ok(()), Result::and)
    }

    /// What was counted.
    pub(super) fn counters(&self) -> ContextCounters {
        ContextCounters { tables: self.tables() as u64, roots: self.maker.made(), ..self.counters }
    }
}

#[cfg(test)]
mod tests {
    use crate::machine::monitor::test_world::{BOTH, world};
    use twz_abi::object::DATA_OFFSET;
    use twz_abi::{ErrorCode, Rights};

    #[test]
    fn idle_contexts_give_their_tables_back_and_foreign_roots_are_refused() {
        let Some(world) = world() else { return };
        let monitor = &world.monitor;
        for number in 0..12 {
            let shared = number % 2 == 0;
            let id = world.make_context(shared);
            let entered = monitor.enter(world.context, id).expect("enter");
            assert_ne!(entered.root, world.root, "a context of its own kind of root");
            assert_eq!(monitor.check_caller(world.root, id), Err(ErrorCode::NotPermitted));
            assert_eq!(monitor.check_caller(entered.root, id), Ok(()));
            assert_eq!(monitor.check_caller(entered.root, world.context), Err(ErrorCode::NotPermitted));
            assert_eq!(monitor.bind(id, world.context), Err(ErrorCode::NotPermitted));
            monitor.leave(u64::from(entered.number)).expect("leave");
            assert_eq!(monitor.check_caller(entered.root, id), Err(ErrorCode::NotPermitted));
            assert_eq!(monitor.switch(0, u64::from(entered.number)).map(drop), Err(ErrorCode::NotPermitted));
        }
        let list = monitor.list();
        assert_eq!(list.entered, 13, "one more is the first program's");
        assert!(list.tables <= 4, "{list}");
        assert!(list.evicted_idle >= 8, "{list}");
    }

    /// The test world allows four stretches.
    #[test]
    fn at_the_hosts_limit_of_mappings_the_window_with_most_is_emptied() {
        let Some(world) = world() else { return };
        let monitor = &world.monitor;
        let object = world.object(BOTH, 7);
        let chunk = |number: u64| DATA_OFFSET + number * ept_contexts::CHUNK_SIZE;
        let (binding, _) = monitor.bind(world.context, object).expect("bind");
        let touch = |number| monitor.touch(world.root, binding, chunk(number), Rights::WRITE).map(drop);
        let mapped = || {
            let maps = std::fs::read_to_string("/proc/self/maps").expect("our own mappings");
            maps.lines().filter(|line| line.ends_with(world.path().to_str().expect("a plain path"))).count()
        };
        let none = mapped();
        touch(0).expect("below the limit");
        (0..4).for_each(|number| touch(number).expect("below the limit"));
        assert_eq!(mapped() - none, 4, "a stretch is a mapping of the host");
        // Its own window: its kernel forgets what it showed, and has it emptied.
        assert_eq!(touch(4), Err(ErrorCode::WindowFull));
        let (number, _) = super::super::split(binding).expect("our number");
        monitor.hide(world.root, u64::from(number)).expect("hide");
        assert_eq!(mapped(), none);
        (0..4).for_each(|number| touch(number).expect("shown again"));
        // Another's: it has fewer, so the first one's is emptied under it, and shows again what is asked for again.
        let other = world.make_context(false);
        let root = monitor.enter(world.context, other).expect("enter").root;
        let (others, _) = monitor.bind(other, object).expect("bind");
        monitor.touch(root, others, chunk(0), Rights::WRITE).expect("room was made");
        assert!(!monitor.shows(world.context, object, chunk(0)) && monitor.shows(other, object, chunk(0)));
        assert_eq!(mapped() - none, 1);
        touch(1).expect("shown again");
        assert_eq!(monitor.list().windows_emptied, 2);
    }

    /// The test world has two shared windows.
    #[test]
    fn when_the_shared_root_is_full_a_context_that_is_asked_for_again_gets_one_to_itself() {
        let Some(world) = world() else { return };
        let monitor = &world.monitor;
        let ids = [(); 3].map(|()| world.make_context(true));
        let enter = |id| monitor.enter(world.context, id);
        let [first, second] = [ids[0], ids[1]].map(|id| enter(id).expect("a window"));
        assert_eq!(first.root, second.root);
        assert_eq!(enter(ids[2]).map(drop), Err(ErrorCode::WindowFull), "the kernel may have idle ones");
        let third = enter(ids[2]).expect("asked again");
        assert_ne!(third.root, first.root);
        assert_eq!(third.flags & twz_abi::sec::context_flags::SHARED, 0, "it is told so");
        assert_eq!(monitor.list().moved_out, 1);
        // Once one has left, there is a window again.
        monitor.leave(u64::from(first.number)).expect("leave");
        monitor.leave(u64::from(third.number)).expect("leave");
        let fourth = enter(world.make_context(true)).expect("the first one's window");
        assert_eq!((fourth.root, monitor.list().moved_out), (second.root, 1));
    }

    #[test]
    fn only_who_may_use_a_context_enters_it() {
        let Some(world) = world() else { return };
        let monitor = &world.monitor;
        let (alice, bob) = (world.make_context(false), world.make_context(false));
        monitor.enter(world.context, alice).expect("its creator may");
        assert_eq!(monitor.enter(alice, bob).map(drop), Err(ErrorCode::NotPermitted));
        assert_eq!(monitor.gate(alice, bob, 0).map(drop), Err(ErrorCode::NotPermitted));
        let plain = monitor.create(world.context, &Default::default(), &[]).expect("create");
        assert_eq!(monitor.enter(world.context, plain).map(drop), Err(ErrorCode::BadContext));
    }
}
