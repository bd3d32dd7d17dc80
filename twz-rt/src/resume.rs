//! Beginning again after a power failure (`docs/resume.md`).
//!
//! # Contract
//! - A thread that called [`set`] is started again, at [`resume_entry!`](crate::resume_entry)'s function, by every start of the machine until it
//!   ends by itself or calls [`clear`].
//! - Unless it asked for its memory to be kept it finds the program's data as they are at a start, and an empty heap: what it needs to
//!   know stands in its state object, and is durable as far as it was flushed.

use crate::syscall;
use twz_abi::program::{FORMER_HEAP_SLOT, STATE_SLOT};
use twz_abi::resume::{ResumeSpec, resume_flags};
use twz_abi::syscall::calls;
use twz_abi::view::SLOT_SIZE;
use twz_abi::{ErrorCode, ObjectId};

/// What a thread that begins again is told.
#[derive(Clone, Copy, Debug)]
pub struct Resumed {
    /// The argument that was given to [`set`].
    pub argument: u64,
    /// Where the state object is mapped, readable and writable; null if there is none.
    pub state: *mut u8,
    /// How many times it was resumed before.
    pub times: u64,
}

/// Where the heap of the run that was cut off is mapped, if its memory was not kept.
pub const FORMER_HEAP: *mut u8 = core::ptr::without_provenance_mut(address(FORMER_HEAP_SLOT));
/// Where [`Resumed::state`] is mapped.
pub const STATE: *mut u8 = core::ptr::without_provenance_mut(address(STATE_SLOT));

#[allow(clippy::cast_possible_truncation, reason = "64-bit addresses")]
const fn address(slot: u64) -> usize {
    (slot * SLOT_SIZE) as usize
}

/// Makes this thread resumable: at `entry` (usually [`resume_entry!`](crate::resume_entry)'s `_resume`), with `state` mapped and `argument` passed.
///
/// # Errors
/// [`ErrorCode::NotPermitted`] in a gate, or without a right to the state object; [`ErrorCode::NoObject`]; [`ErrorCode::PoolFull`];
/// [`ErrorCode::Medium`].
pub fn set(entry: unsafe extern "C" fn() -> !, state: ObjectId, argument: u64) -> Result<(), ErrorCode> {
    let entry = entry as usize as u64;
    syscall::resume_set(&ResumeSpec { state, entry, argument, ..ResumeSpec::default() }).map(drop)
}

/// Makes this thread resumable at this place, with its memory and registers kept; returns whether it goes on here after a failure.
///
/// Data, heap and stack are made durable as they are now. What is stored to them later is there again if it was flushed, and perhaps if it was
/// not: a program that uses this changes only what it can tell by itself to be whole.
///
/// The function that calls this must not have returned when the power fails: it is in its frame that the thread goes on. Nor does the compiler
/// know that this returns twice, so what only the second way uses, and the first may have stored over, belongs on the heap or in data.
///
/// # Errors
/// As [`set`].
// A function of its own would return into whatever its caller called next, where the return address stood.
#[inline(always)]
pub fn checkpoint(state: ObjectId) -> Result<bool, ErrorCode> {
    let flags = resume_flags::KEEP_MEMORY | resume_flags::KEEP_REGISTERS;
    let spec = ResumeSpec { state, flags, ..ResumeSpec::default() };
    let call = calls::resume_set(&spec);
    let (status, resumed): (u64, u64);
    // SAFETY: the call changes no memory of ours. The second time only the registers that calls preserve are what they were, as
    // `clobber_abi` says; stack and data hold what they did when the first one returned, or what was stored since.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") call.number() as u64 => status,
            in("rdi") call.words()[0],
            lateout("rdx") resumed,
            clobber_abi("sysv64"),
        );
    }
    syscall::outcome(status).map(|()| resumed == 1)
}

/// Says that this thread, which was resumed, has recovered. A thread that ends, or is cut off, without having said so three times in a row is
/// set aside.
///
/// # Errors
/// [`ErrorCode::NoThread`] if this thread is not resumable; [`ErrorCode::Medium`].
pub fn confirm() -> Result<(), ErrorCode> {
    syscall::resume_confirm()
}

/// Makes this thread not resumable any more.
///
/// # Errors
/// [`ErrorCode::NoThread`] if it was not; [`ErrorCode::Medium`].
pub fn clear() -> Result<(), ErrorCode> {
    syscall::resume_clear()
}

/// Names the function that a resumed thread begins with: `fn resume(args: Args, resumed: Resumed) -> impl Termination`. Its entry is
/// `_resume`, for [`set`].
#[macro_export]
macro_rules! resume_entry {
    ($resume:path) => {
        /// First instruction of a resumed thread; the kernel has set RSP up, and RDI, RSI and RDX to what `Resumed` holds.
        #[cfg(feature = "guest")]
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn _resume() -> ! {
            core::arch::naked_asm!("xor ebp, ebp", "and rsp, -16", "call {}", "ud2", sym run_resume)
        }

        extern "C" fn run_resume(argument: u64, state: *mut u8, times: u64) -> ! {
            let arguments = core::ptr::with_exposed_provenance($crate::start::ARGUMENTS);
            // SAFETY: this is the first thread of the program's new life, and its view has the arguments object where the loader put it.
            let arguments = unsafe { $crate::start::begin(arguments) };
            let resumed = $crate::resume::Resumed { argument, state, times };
            let status = $crate::start::Termination::status($resume(arguments, resumed));
            $crate::syscall::thread_exit(status)
        }
    };
}
