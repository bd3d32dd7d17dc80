//! The guest platform: a program inside Twizzler, on the kernel's calls and the view.
//!
//! # Contract
//! - Slots from [`FREE_SLOT`] on are filled by stores into the view (paper §3.2); emptying one ends with `invalidate_view`, so no hart reaches
//!   through it afterwards.
//! - The volatile area is the upper part of the heap object: private, zero at first touch.
//! - Other programs share objects with this one, so translations are compared with the machine's shared word ([`SHARED_SLOT`]).
//! - Every thread that uses `libtwz` has a [`twz_rt::tls::ThreadBlock`]; the runtime gives one to all that it starts.

pub mod env;
pub mod thread;
pub mod time;

use super::{CreateSpec, Durability, Seam, Stat, Woken};
use crate::error::{Error, Result};
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use twz_abi::object::{DATA_OFFSET, MAX_SIZE};
use twz_abi::program::{ARGS_SLOT, ArgsHeader, FREE_SLOT, HEAP_END, HEAP_SLOT, SHARED_SLOT};
use twz_abi::syscall::create_flags;
use twz_abi::view::{SLOT_SIZE, SlotRange};
use twz_abi::{ErrorCode, ObjectId, PAGE_SIZE, Rights};
use twz_rt::sync::FOREVER;
use twz_rt::view::View;
use twz_rt::{Args, syscall};

/// The program as a platform.
#[derive(Debug)]
pub struct Guest;

/// Name of the root of the machine's namespace.
const ROOT: &str = super::ROOT_NAME;
/// What a pool's granule may be, which nobody tells a program.
const GRANULES: [u64; 3] = [PAGE_SIZE, 2 << 20, MAX_SIZE];
/// [`ArgsHeader::durability`] of a pool whose flushed stores survive.
const DURABLE: u64 = 2;

#[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide here")]
const SHARED_WORD: usize = (SHARED_SLOT * SLOT_SIZE + DATA_OFFSET) as usize;
#[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide here")]
const BOOT: usize = (ARGS_SLOT * SLOT_SIZE + DATA_OFFSET) as usize + core::mem::offset_of!(ArgsHeader, boot);

/// The word that all programs share.
fn shared_word() -> &'static AtomicU64 {
    // SAFETY: the loader maps the shared object there, readable, for good; the monitor alone changes the word.
    unsafe { &*(SHARED_WORD as *const AtomicU64) }
}

/// The arguments and the environment.
pub(crate) fn args() -> Args {
    // SAFETY: `libtwz` runs in programs that were loaded, and nothing of it touches the slot.
    unsafe { Args::current() }
}

fn nanoseconds(time: Duration) -> u64 {
    // Beyond 584 years is for ever.
    u64::try_from(time.as_nanos()).unwrap_or(FOREVER)
}

/// What a call on an object says.
fn translate(operation: &'static str, id: ObjectId, error: ErrorCode) -> Error {
    match error {
        ErrorCode::NoObject => Error::NoSuchObject(id),
        ErrorCode::NotPermitted => Error::NotPermitted(id),
        ErrorCode::PoolFull => Error::OutOfSpace(id),
        ErrorCode::Exists => Error::NameExists,
        other => platform(operation, other),
    }
}

fn platform(operation: &'static str, error: ErrorCode) -> Error {
    Error::Platform { operation, code: (error as u32).cast_signed() }
}

/// Says what the code of an [`Error::Platform`] means.
pub(crate) fn describe(code: i32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match ErrorCode::try_from(code.cast_unsigned()) {
        Ok(error) => write!(f, "{error}"),
        Err(_) => write!(f, "unknown error {code}"),
    }
}

// SAFETY: the heap object is the program's alone, and the heap ends before `VOLATILE_AREA`; slots show what the view's entries say,
// which only this module changes from `FIRST_SLOT` on.
unsafe impl Seam for Guest {
    #[allow(clippy::cast_possible_truncation, reason = "16")]
    const FIRST_SLOT: usize = FREE_SLOT as usize;
    const SLOT_COUNT: usize = 16_384;
    #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide here")]
    const VOLATILE_AREA: usize = (HEAP_SLOT * SLOT_SIZE + HEAP_END) as usize;
    const SHARED_TRANSLATIONS: bool = true;

    fn start() -> Result<()> {
        Ok(())
    }

    fn map_slot(slot: usize, id: ObjectId, rights: Rights) -> Result<Rights> {
        // The store into the view would do; but then a missing object or right would be a fault and not an error.
        let granted = Self::stat(id)?.granted;
        if !granted.contains(Rights::READ) {
            return Err(Error::NotPermitted(id));
        }
        let mapped = View::current().map(slot as u64, id, rights);
        mapped.map(|_| granted).ok_or(Error::OutOfSlots)
    }

    fn unmap_slot(slot: usize) {
        View::current().clear(slot as u64);
        // The slot exists, so the call has no reason to fail.
        let _ = twz_rt::view::invalidate(&[SlotRange { first: slot as u64, count: 1 }]);
    }

    fn create(spec: &CreateSpec) -> Result<ObjectId> {
        Self::copy(ObjectId::NULL, spec)
    }

    fn delete(id: ObjectId) -> Result<()> {
        syscall::object_delete(id).map_err(|error| translate("delete an object", id, error))
    }

    fn copy(source: ObjectId, spec: &CreateSpec) -> Result<ObjectId> {
        let spec = twz_abi::syscall::CreateSpec {
            source,
            key: spec.key,
            default_rights: spec.default_rights.bits(),
            flags: if spec.volatile { create_flags::VOLATILE } else { 0 },
            bytes: spec.bytes,
        };
        syscall::object_create(&spec).map_err(|error| translate("create an object", source, error))
    }

    fn tie(object: ObjectId, keeper: ObjectId) -> Result<()> {
        syscall::object_tie(object, keeper).map_err(|error| translate("tie an object", object, error))
    }

    fn keep(id: ObjectId) -> Result<()> {
        syscall::object_tie(id, id).map_err(|error| translate("keep an object", id, error))
    }

    unsafe fn trim(id: ObjectId, range: core::ops::Range<u64>) -> Result<()> {
        // SAFETY: the caller's promise: nobody relies on what is there.
        let done = unsafe { syscall::object_trim(id, range.start, range.end.saturating_sub(range.start)) };
        match done {
            Err(ErrorCode::BadOffset) => Ok(()), // not a multiple of the pool's granule
            other => other.map_err(|error| translate("trim an object", id, error)),
        }
    }

    fn reserve(id: ObjectId, range: core::ops::Range<u64>) -> Result<()> {
        let mut done = Err(ErrorCode::BadOffset);
        for granule in GRANULES {
            let start = range.start / granule * granule;
            let end = range.end.next_multiple_of(granule).min(MAX_SIZE);
            done = syscall::object_reserve(id, start, end.saturating_sub(start));
            if done != Err(ErrorCode::BadOffset) {
                break;
            }
        }
        done.map_err(|error| translate("reserve room for an object", id, error))
    }

    fn stat(id: ObjectId) -> Result<Stat> {
        let stat = syscall::object_stat(id).map_err(|error| translate("look at an object", id, error))?;
        Ok(Stat {
            allocated: stat.allocated_bytes,
            default_rights: Rights::from_bits_truncate(stat.default_rights),
            key: stat.key,
            granted: stat.granted(),
        })
    }

    fn root() -> Option<ObjectId> {
        syscall::name_get(ROOT).ok()
    }

    fn set_root(id: ObjectId) -> Result<()> {
        syscall::name_set(id, ROOT).map_err(|error| translate("name the root", id, error))
    }

    fn durability() -> Durability {
        let is_forced = crate::env::var("TWZ_PMEM_FORCE").is_ok_and(|value| value == "1");
        if args().durability() == DURABLE || is_forced { Durability::Power } else { Durability::Program }
    }

    #[inline]
    fn boot_generation() -> u32 {
        // SAFETY: the arguments' header is there, read-only, as long as the program runs; the word is at least 1 and fits.
        unsafe { *(BOOT as *const u32) }
    }

    #[inline]
    fn translation_epoch() -> u64 {
        shared_word().load(Ordering::Acquire)
    }

    fn raise_translation_epoch() {
        // It fails only when the medium does, and then programs have more to worry about than old pointers.
        let _ = syscall::translations_changed();
    }

    fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Woken {
        match twz_rt::sync::wait(word, expected, timeout.map_or(FOREVER, nanoseconds)) {
            Err(ErrorCode::TimedOut) => Woken::TimedOut,
            Ok(()) | Err(ErrorCode::WouldBlock) => Woken::LookAgain,
            Err(_) => {
                // The kernel has no memory to park us: look again later.
                syscall::thread_yield();
                Woken::LookAgain
            }
        }
    }

    fn wake(word: &AtomicU32, count: u32) {
        // Fails only if the word's memory is gone, and then nobody sleeps on it.
        let _ = twz_rt::sync::wake(word, u64::from(count));
    }

    #[inline]
    fn thread_id() -> u32 {
        twz_rt::tls::id()
    }

    fn thread_lives(id: u32) -> bool {
        twz_rt::tls::lives(id)
    }

    fn yield_now() {
        syscall::thread_yield();
    }

    fn monotonic() -> Duration {
        syscall::clock().map_or(Duration::ZERO, |(since_start, _)| Duration::from_nanos(since_start))
    }

    fn realtime() -> Duration {
        syscall::clock().map_or(Duration::ZERO, |(_, since_1970)| Duration::from_nanos(since_1970))
    }

    fn random(bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(256) {
            // A piece that the call takes; there is no other reason to fail.
            let _ = syscall::random(piece);
        }
    }

    fn console_write(bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match syscall::console_write(rest) {
                Ok(count) if count > 0 => rest = &rest[count..],
                _ => return,
            }
        }
    }

    fn console_read(bytes: &mut [u8]) -> usize {
        syscall::console_read(bytes).unwrap_or(0)
    }

    fn exit(code: i32) -> ! {
        #[allow(
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "the low byte, as everywhere"
        )]
        let status = code as u8;
        if !twz_rt::start::is_first_thread() {
            // The first thread cannot be ended from here; the machine can, with all that runs in it. It does not fail.
            let _ = syscall::shutdown(status);
        }
        syscall::thread_exit(status)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide here")]
const ROOM: usize = (twz_abi::object::DATA_END - HEAP_END) as usize;
const _: () = assert!(crate::view::AREA_BYTES <= ROOM, "the volatile tables fit above the heap");
