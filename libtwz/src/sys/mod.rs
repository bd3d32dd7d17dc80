//! The platform seam: everything that `libtwz` needs from what is below it.
//!
//! # Contract
//! - Programs run on exactly one [`Seam`]: [`Platform`] is `hosted` (a Linux process) or `guest` (inside Twizzler).
//!   All of the crate is written against the trait; static dispatch, no cost.
//! - A *slot* is 1 GiB of virtual addresses at `slot * 1 GiB`; slot numbers are addresses divided by 1 GiB.
//!   Slots `FIRST_SLOT .. FIRST_SLOT + SLOT_COUNT` are `libtwz`'s to fill; `view.rs` says which holds what.
//! - The platform owns nothing that must survive: every persistent fact is in objects.

use crate::error::Result;
use core::sync::atomic::AtomicU32;
use core::time::Duration;
use twz_abi::{ObjectId, Rights};

#[cfg(all(feature = "hosted", not(feature = "guest")))]
pub mod hosted;
#[cfg(all(feature = "hosted", not(feature = "guest")))]
pub use hosted::Hosted as Platform;
#[cfg(all(feature = "hosted", not(feature = "guest")))]
pub(crate) use hosted::describe;

#[cfg(feature = "guest")]
pub mod guest;
#[cfg(feature = "guest")]
pub use guest::Guest as Platform;
#[cfg(feature = "guest")]
pub(crate) use guest::describe;

#[cfg(not(any(feature = "hosted", feature = "guest")))]
compile_error!(
    "libtwz needs a platform: enable feature `hosted` (Linux process) or `guest` (inside Twizzler)"
);

/// The pool's name for the root of the namespace, the same on every platform.
const ROOT_NAME: &str = "libtwz.root";

/// What survives a power failure without further calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Durability {
    /// Nothing is flushed: stores survive the program, not the machine (a file's page cache, tests).
    Program = 0,
    /// Flushed cache lines survive power failure (DAX, or a host told to pretend).
    Power = 1,
}

/// What a new object is to be.
#[derive(Clone, Copy, Debug)]
pub struct CreateSpec {
    /// Rights of everybody, without a capability.
    pub default_rights: Rights,
    /// Object holding the key that signs capabilities for the new one; NULL: the creator's.
    pub key: ObjectId,
    /// Gone after the machine's next start, or the next opening of the store, unless it was tied ([`Seam::tie`]) to what is not.
    pub volatile: bool,
    /// Bytes from its start on that get room in the pool at once, in whole granules; 0 for none. Memory without a pool is Linux's to give.
    pub bytes: u64,
}

/// What the platform knows about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Bytes of storage that the object takes.
    pub allocated: u64,
    /// Rights of everybody, without a capability.
    pub default_rights: Rights,
    /// The object with the key that signs capabilities for it; NULL for none.
    pub key: ObjectId,
    /// Rights that this program's context has now; all on Linux, where there are no contexts.
    pub granted: Rights,
}

/// What [`Seam::wait`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Woken, or the word had another value already; look again.
    LookAgain,
    /// The time was up.
    TimedOut,
}

/// What a platform provides.
///
/// # Safety
/// `VOLATILE_AREA` must be readable, writable, zero at start, private to the program and at least
/// `view::AREA_BYTES` long once [`Seam::start`] returned; a slot filled by [`Seam::map_slot`] must show that object
/// (or fault) until [`Seam::unmap_slot`], and an unfilled one must fault. `libtwz` forms references on the
/// strength of this.
pub unsafe trait Seam {
    /// The first slot that is `libtwz`'s to fill.
    const FIRST_SLOT: usize;
    /// How many slots are.
    const SLOT_COUNT: usize;
    /// Address of the area for this program's volatile tables (slots, index, cached translations); multiple of 4096.
    const VOLATILE_AREA: usize;
    /// Whether other programs may change FOT entries of objects that this one maps, so that each translation must
    /// compare [`Seam::translation_epoch`].
    const SHARED_TRANSLATIONS: bool;

    /// Makes the platform ready; any number of calls, from any thread.
    ///
    /// # Errors
    /// [`crate::Error::Platform`] when address space cannot be had.
    fn start() -> Result<()>;

    /// Makes `slot` show `id` with at most `rights`, and returns what rights this program's context has to it now: it may be less, and an access
    /// that it does not cover faults.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchObject`]; [`crate::Error::NotPermitted`] for an object that the context may not even read.
    fn map_slot(slot: usize, id: ObjectId, rights: Rights) -> Result<Rights>;
    /// Makes `slot` fault again (guest: clear the entry, then `invalidate_view`).
    fn unmap_slot(slot: usize);

    /// Creates an object of zeroes and returns its ID.
    ///
    /// # Errors
    /// [`crate::Error::OutOfSpace`], [`crate::Error::Platform`].
    fn create(spec: &CreateSpec) -> Result<ObjectId>;
    /// Deletes an object; what still maps it faults.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchObject`], [`crate::Error::Platform`].
    fn delete(id: ObjectId) -> Result<()>;
    /// Makes a new object with the contents of `source`, copied on write where the platform can.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchObject`], [`crate::Error::OutOfSpace`].
    fn copy(source: ObjectId, spec: &CreateSpec) -> Result<ObjectId>;
    /// Makes `object` live at least as long as `keeper`, durably, whatever else ends its life; not undone.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchObject`], [`crate::Error::OutOfSpace`].
    fn tie(object: ObjectId, keeper: ObjectId) -> Result<()>;
    /// Makes a volatile object stay, durably; nothing to do for one that is not volatile.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchObject`], [`crate::Error::NotPermitted`].
    fn keep(id: ObjectId) -> Result<()>;
    /// Gives back the storage of a range, which reads as zeroes from then on, or as it did: where the range is no whole number of the store's
    /// pieces nothing happens.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchObject`], [`crate::Error::Platform`].
    ///
    /// # Safety
    /// Nobody relies on what stands in the range.
    unsafe fn trim(id: ObjectId, range: core::ops::Range<u64>) -> Result<()>;
    /// Room in the store for all of a range, which is rounded out to whole pieces of the store's: stores to it meet no full store from then on.
    /// Changes nothing that can be read. Pages that are shared with a copy stay so: the first store to one takes a page.
    ///
    /// # Errors
    /// [`crate::Error::OutOfSpace`], after which there is no more room than before; [`crate::Error::NoSuchObject`],
    /// [`crate::Error::NotPermitted`].
    fn reserve(id: ObjectId, range: core::ops::Range<u64>) -> Result<()>;
    /// What is known about `id`.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchObject`].
    fn stat(id: ObjectId) -> Result<Stat>;
    /// The object from which everything named is reached, if one was set (`names::Namespace`).
    fn root() -> Option<ObjectId>;
    /// Makes a volatile object the root, if there is none, so that it stays: both or neither, whenever the power fails.
    ///
    /// # Errors
    /// [`crate::Error::NameExists`] when there is one; [`crate::Error::Platform`] when the program may not.
    fn set_root(id: ObjectId) -> Result<()>;

    /// How durable a flushed store is; asked once, after [`Seam::start`].
    fn durability() -> Durability;
    /// Number of this boot (pool generation), at least 1: a lock taken in an earlier one is free.
    fn boot_generation() -> u32;

    /// A number that grows whenever any program changed a used FOT entry or a name; read on every cross-object
    /// translation when [`Seam::SHARED_TRANSLATIONS`], so it must be one load (a page shared with the kernel).
    fn translation_epoch() -> u64;
    /// Raises it, after the change is visible; returns when all programs' next load sees it.
    fn raise_translation_epoch();

    /// Sleeps while `*word == expected`, at most `timeout`. The word may be in an object (guest: `thread_sync`).
    fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Woken;
    /// Wakes up to `count` sleepers on `word`, in whatever program they are.
    fn wake(word: &AtomicU32, count: u32);

    /// A number that no two threads running now share; at least 1, below 2^30.
    fn thread_id() -> u32;
    /// Whether a thread of that number still runs, in whatever program.
    fn thread_lives(id: u32) -> bool;
    /// Lets others run.
    fn yield_now();

    /// Time since an arbitrary start, never going back.
    fn monotonic() -> Duration;
    /// Time since 1970, UTC.
    fn realtime() -> Duration;
    /// Fills `bytes` with unpredictable ones.
    fn random(bytes: &mut [u8]);

    /// Writes to the console; what cannot be written is dropped.
    fn console_write(bytes: &[u8]);
    /// Reads what is there, waiting for at least one byte; 0 at the end of input.
    fn console_read(bytes: &mut [u8]) -> usize;
    /// Ends the program.
    fn exit(code: i32) -> !;
}
