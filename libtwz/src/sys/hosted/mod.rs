//! The hosted platform: an ordinary Linux process, single user, no isolation.
//!
//! # Contract
//! - Slots are a reservation of 16 TiB at a fixed address; a slot's pages are mapped when first touched, by the SIGSEGV
//!   handler (`fault.rs`), from the [`Store`] that holds the objects: memory of this process ([`MemoryStore`]), or a
//!   pool file. So a program touches any offset without asking first, as in the guest. Reading allocates nothing: what is not there reads as zeroes.
//! - The handler takes `STATE` and allocates. That is sound since it only ever runs on an instruction that touches a
//!   slot, and no code touches a slot while it holds `STATE` or is inside the allocator. Nobody holds `STATE` while calling the store.
//! - A system call that is given memory of an object whose pages were never touched fails with EFAULT: touch it first.
//! - Without [`use_store`] the first use of an object opens the pool that the environment's `TWZ_POOL` names, or makes a [`MemoryStore`].

mod fault;
mod memory;
mod pool;
mod thread;

pub use memory::MemoryStore;
pub use pool::PoolStore;

use super::{CreateSpec, Durability, Seam, Stat, Woken};
use crate::error::{Error, Result};
use crate::window::SLOT_SHIFT;
use std::boxed::Box;
use std::fmt;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::vec::Vec;
use twz_abi::{ObjectId, PAGE_SIZE, Rights};

/// The Linux process as a platform.
#[derive(Debug)]
pub struct Hosted;

/// A piece of a file that backs a piece of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it starts in the object, a multiple of 4096.
    pub object_offset: u64,
    /// Where it starts in the file, a multiple of 4096.
    pub file_offset: u64,
    /// Bytes, a multiple of 4096.
    pub bytes: u64,
    /// The file.
    pub file: RawFd,
}

/// Where objects are kept.
pub trait Store: Send + Sync {
    /// Creates an object of zeroes.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`], [`Error::Platform`].
    fn create(&self, spec: &CreateSpec) -> Result<ObjectId>;
    /// Deletes an object.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`].
    fn delete(&self, id: ObjectId) -> Result<()>;
    /// Copies an object.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::OutOfSpace`].
    fn copy(&self, source: ObjectId, spec: &CreateSpec) -> Result<ObjectId>;
    /// Makes `object` live at least as long as `keeper`.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::OutOfSpace`].
    fn tie(&self, object: ObjectId, keeper: ObjectId) -> Result<()>;
    /// Makes a volatile object stay.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`].
    fn keep(&self, id: ObjectId) -> Result<()>;
    /// Gives back the storage of a range, if it is a whole number of the store's pieces.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::Platform`].
    fn trim(&self, id: ObjectId, range: Range<u64>) -> Result<()>;
    /// Room for all of a range, so that [`Store::piece`] does not fail there. A store that cannot do it at once makes piece after piece.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::OutOfSpace`].
    fn reserve(&self, id: ObjectId, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let piece = self.piece(id, at)?;
            at = (piece.object_offset + piece.bytes).max(at + PAGE_SIZE);
        }
        Ok(())
    }
    /// What is known about an object.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`].
    fn stat(&self, id: ObjectId) -> Result<Stat>;
    /// The piece around `offset`, allocated if it was not there; it must not lie under page 0. Called by the fault
    /// handler: may lock and allocate, must not touch slots.
    ///
    /// # Errors
    /// [`Error::NoSuchObject`], [`Error::OutOfSpace`].
    fn piece(&self, id: ObjectId, offset: u64) -> Result<Piece>;
    /// The piece around `offset` for who only reads it, and whether it may be written as it is; `None` where nothing is, which reads as zeroes.
    /// Allocates nothing where the store can do so. Called as [`Store::piece`] is.
    ///
    /// # Errors
    /// As [`Store::piece`].
    fn piece_to_read(&self, id: ObjectId, offset: u64) -> Result<Option<(Piece, bool)>> {
        self.piece(id, offset).map(|piece| Some((piece, true)))
    }
    /// The root object, if set.
    fn root(&self) -> Option<ObjectId>;
    /// Makes a volatile object the root, if there is none; it stays then.
    ///
    /// # Errors
    /// [`Error::NameExists`], [`Error::Platform`].
    fn set_root(&self, id: ObjectId) -> Result<()>;
    /// How durable flushed stores are.
    fn durability(&self) -> Durability;
    /// How often the store was opened, at least 1.
    fn boot_generation(&self) -> u32;
    /// The program ends: writes out what stands in a page cache. What fails is said on stderr.
    fn finish(&self) {}
}

/// What a slot shows, for the fault handler.
struct Slot {
    id: ObjectId,
    rights: Rights,
    /// What is mapped of it.
    mapped: Vec<Mapping>,
}

/// A range of a slot that is mapped.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    start: u64,
    bytes: u64,
    shows: Shows,
}

/// What a range shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    /// The store's piece, as the slot's rights say.
    All,
    /// The store's piece, which must become the object's own before it is written.
    ToRead,
    /// Nothing is there yet.
    Zeroes,
}

impl Mapping {
    fn meets(&self, start: u64, bytes: u64) -> bool {
        self.start < start.saturating_add(bytes) && start < self.start + self.bytes
    }
}

struct State {
    store: Arc<dyn Store>,
    /// Counts [`drop_mappings`] and pieces that were to be written: what the store said before one may be wrong.
    epoch: u64,
    /// Indexed by slot number less `FIRST_SLOT`.
    slots: Vec<Option<Box<Slot>>>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);
static GENERATION: AtomicU32 = AtomicU32::new(0);

const FIRST_ADDRESS: usize = 0x2000_0000_0000;
const SLOT_COUNT: usize = 16_384;
/// Size of a pool that is made because `TWZ_POOL` names one that is not there.
const POOL_BYTES: u64 = 256 << 20;
const SPACE_BYTES: usize = SLOT_COUNT << SLOT_SHIFT;

fn state() -> MutexGuard<'static, Option<State>> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Chooses where objects are kept; before the first object is used.
///
/// # Errors
/// [`Error::Platform`] when a store is in use already.
pub fn use_store(store: Arc<dyn Store>) -> Result<()> {
    reserve()?;
    let mut state = state();
    if state.is_some() {
        return Err(Error::Platform { operation: "use_store: a store is in use", code: libc::EBUSY });
    }
    install(&mut state, store);
    Ok(())
}

/// Unmaps all objects and lets go of the store, which can then be closed; [`use_store`] may follow, as after a restart.
///
/// # Safety
/// No reference into any object may be used any more, and no other thread may be using `libtwz`.
pub unsafe fn shut_down() {
    // SAFETY: the caller's promise: nobody uses a slot.
    unsafe { crate::view::unmap_all() };
    let before = state().take();
    drop(before); // after the lock is free: closing a pool calls back
}

/// The end of a program: what was printed goes out, and a pool in a file is written out.
pub(crate) fn finish() {
    // Nothing can be done when the output is gone.
    let _ = std::io::stdout().flush();
    // Bound first: the pool calls back.
    let store = state().as_ref().map(|state| Arc::clone(&state.store));
    if let Some(store) = store {
        store.finish();
    }
}

/// The pool that `TWZ_POOL` names, made if it is not there (of [`POOL_BYTES`]); without it memory of this process.
fn default_store() -> Result<Arc<dyn Store>> {
    let Some(path) = std::env::var_os("TWZ_POOL") else {
        tell_people("TWZ_POOL names no pool: what is stored is gone when this program ends");
        return Ok(Arc::new(MemoryStore::new()?));
    };
    let path = std::path::Path::new(&path);
    let store = if path.exists() {
        PoolStore::open(path)?
    } else {
        let store = PoolStore::create(path, POOL_BYTES)?;
        tell_people(&std::format!("made the pool {}, of {} MiB", path.display(), POOL_BYTES >> 20));
        store
    };
    if !store.has_begun() {
        let pool = path.display();
        tell_people(&std::format!(
            "no machine has begun in {pool}, so machines will refuse what is stored now: first run `twzvmm --pmem {pool} -- hello`"
        ));
    }
    Ok(Arc::new(store))
}

/// A line for whoever sits before a terminal.
fn tell_people(line: &str) {
    let mut to = std::io::stderr();
    if std::io::IsTerminal::is_terminal(&to) {
        // Nothing can be done when it is gone.
        let _ = writeln!(to, "note: {line}");
    }
}

/// What a medium that is no persistent memory counts as: with `TWZ_PMEM_FORCE=1` as if it were, as PMDK's `PMEM_IS_PMEM_FORCE` does,
/// so that costs can be compared.
fn forced_durability() -> Durability {
    let force = std::env::var_os("TWZ_PMEM_FORCE").is_some_and(|value| value == "1");
    if force { Durability::Power } else { Durability::Program }
}

/// Drops every mapping of a piece of an object, so that the next touch asks the store again.
fn drop_mappings(id: ObjectId, offset: u64, len: u64) {
    let mut state = state();
    let Some(state) = state.as_mut() else { return };
    state.epoch += 1;
    for (number, slot) in state.slots.iter_mut().enumerate() {
        let Some(slot) = slot.as_mut().filter(|slot| slot.id == id) else { continue };
        unmap_meeting(number, slot, offset, len, |_| true);
    }
}

/// Unmaps those ranges of a slot that meet a range and are `wanted`; the next touch asks the store again.
fn unmap_meeting(number: usize, slot: &mut Slot, offset: u64, len: u64, wanted: impl Fn(Shows) -> bool) {
    slot.mapped.retain(|mapping| {
        let goes = mapping.meets(offset, len) && wanted(mapping.shows);
        if goes
            && let (Ok(start), Ok(bytes)) = (usize::try_from(mapping.start), usize::try_from(mapping.bytes))
        {
            unmap_range(FIRST_ADDRESS + (number << SLOT_SHIFT) + start, bytes);
        }
        !goes
    });
}

fn install(state: &mut Option<State>, store: Arc<dyn Store>) {
    GENERATION.store(store.boot_generation(), Ordering::Relaxed);
    let durability = store.durability();
    let mut slots = Vec::new();
    slots.resize_with(SLOT_COUNT, || None);
    *state = Some(State { store, epoch: 0, slots });
    crate::persist::set_durability(durability);
}

/// Reserves the slots and the volatile area, and installs the fault handler, once.
fn reserve() -> Result<()> {
    static DONE: OnceLock<Result<()>> = OnceLock::new();
    *DONE.get_or_init(|| {
        map_fixed(FIRST_ADDRESS, SPACE_BYTES, libc::PROT_NONE)?;
        map_fixed(Hosted::VOLATILE_AREA, crate::view::AREA_BYTES, libc::PROT_READ | libc::PROT_WRITE)?;
        fault::install()
    })
}

fn map_fixed(address: usize, bytes: usize, protection: i32) -> Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: NOREPLACE: a range that is in use makes it fail, so no memory of others is touched.
    let got = unsafe { libc::mmap(address as *mut libc::c_void, bytes, protection, flags, -1, 0) };
    if got.addr() == address { Ok(()) } else { Err(last_error("reserve the object space")) }
}

fn last_error(operation: &'static str) -> Error {
    Error::Platform { operation, code: std::io::Error::last_os_error().raw_os_error().unwrap_or(0) }
}

/// Says what the code of an [`Error::Platform`] means.
pub(crate) fn describe(code: i32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{}", std::io::Error::from_raw_os_error(code))
}

/// Counts one boot more, for the crash tests.
#[cfg(feature = "crash-sim")]
pub(crate) fn next_boot() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

fn store() -> Result<Arc<dyn Store>> {
    Hosted::start()?;
    state()
        .as_ref()
        .map(|state| Arc::clone(&state.store))
        .ok_or(Error::Platform { operation: "find the store", code: libc::ENODEV })
}

/// Every slot's address range back to faulting.
fn unmap_range(address: usize, bytes: usize) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the range is inside our reservation, and the caller of `unmap_slot` promised that nobody uses it.
    unsafe { libc::mmap(address as *mut libc::c_void, bytes, libc::PROT_NONE, flags, -1, 0) };
}

// SAFETY: `reserve` maps the volatile area, zeroed and private; slots are PROT_NONE until filled and after.
unsafe impl Seam for Hosted {
    const FIRST_SLOT: usize = FIRST_ADDRESS >> SLOT_SHIFT;
    const SLOT_COUNT: usize = SLOT_COUNT;
    const VOLATILE_AREA: usize = FIRST_ADDRESS + SPACE_BYTES;
    const SHARED_TRANSLATIONS: bool = false; // one program per store

    fn start() -> Result<()> {
        reserve()?;
        let mut state = state();
        if state.is_none() {
            install(&mut state, default_store()?);
        }
        Ok(())
    }

    fn map_slot(slot: usize, id: ObjectId, rights: Rights) -> Result<Rights> {
        let granted = store()?.stat(id)?.granted;
        if !granted.contains(Rights::READ) {
            return Err(Error::NotPermitted(id));
        }
        // As in the guest: what is not granted faults when it is touched.
        let rights = rights & granted;
        let mut state = state();
        if let Some(place) = state.as_mut().and_then(|s| s.slots.get_mut(slot.wrapping_sub(Self::FIRST_SLOT)))
        {
            *place = Some(Box::new(Slot { id, rights, mapped: Vec::new() }));
        }
        Ok(granted)
    }

    fn unmap_slot(slot: usize) {
        let number = slot.wrapping_sub(Self::FIRST_SLOT);
        let taken = state().as_mut().and_then(|s| s.slots.get_mut(number)).and_then(Option::take);
        if taken.is_some_and(|slot| !slot.mapped.is_empty()) {
            unmap_range(slot << SLOT_SHIFT, 1 << SLOT_SHIFT);
        }
    }

    fn create(spec: &CreateSpec) -> Result<ObjectId> {
        store()?.create(spec)
    }

    fn delete(id: ObjectId) -> Result<()> {
        store()?.delete(id)
    }

    fn copy(source: ObjectId, spec: &CreateSpec) -> Result<ObjectId> {
        store()?.copy(source, spec)
    }

    fn tie(object: ObjectId, keeper: ObjectId) -> Result<()> {
        store()?.tie(object, keeper)
    }

    fn keep(id: ObjectId) -> Result<()> {
        store()?.keep(id)
    }

    unsafe fn trim(id: ObjectId, range: Range<u64>) -> Result<()> {
        store()?.trim(id, range)
    }

    fn reserve(id: ObjectId, range: Range<u64>) -> Result<()> {
        store()?.reserve(id, range)
    }

    fn stat(id: ObjectId) -> Result<Stat> {
        store()?.stat(id)
    }

    fn root() -> Option<ObjectId> {
        store().ok()?.root()
    }

    fn set_root(id: ObjectId) -> Result<()> {
        store()?.set_root(id)
    }

    fn durability() -> Durability {
        store().map_or(Durability::Program, |store| store.durability())
    }

    #[inline]
    fn boot_generation() -> u32 {
        GENERATION.load(Ordering::Relaxed).max(1)
    }

    #[inline]
    fn translation_epoch() -> u64 {
        TRANSLATION_EPOCH.load(Ordering::Acquire)
    }

    fn raise_translation_epoch() {
        TRANSLATION_EPOCH.fetch_add(1, Ordering::AcqRel);
    }

    fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Woken {
        thread::wait(word, expected, timeout)
    }

    fn wake(word: &AtomicU32, count: u32) {
        thread::wake(word, count);
    }

    #[inline]
    fn thread_id() -> u32 {
        thread::id()
    }

    fn thread_lives(id: u32) -> bool {
        thread::lives(id)
    }

    fn yield_now() {
        std::thread::yield_now();
    }

    fn monotonic() -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }

    fn realtime() -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn random(bytes: &mut [u8]) {
        #[cfg(feature = "crash-sim")]
        if crate::simulate::repeated(bytes) {
            return;
        }
        memory::random(bytes);
    }

    fn console_write(bytes: &[u8]) {
        // What cannot be written is dropped, says the Seam.
        let _ = std::io::stdout().write_all(bytes);
        let _ = std::io::stdout().flush();
    }

    fn console_read(bytes: &mut [u8]) -> usize {
        loop {
            match std::io::stdin().read(bytes) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {} // not the end of input
                read => return read.unwrap_or(0),
            }
        }
    }

    fn exit(code: i32) -> ! {
        finish();
        std::process::exit(code & 0xff)
    }
}

static TRANSLATION_EPOCH: AtomicU64 = AtomicU64::new(0);
