//! The entry point.

use crate::args::Args;
use crate::tls::ThreadBlock;
use twz_abi::program::ARGS_SLOT;
use twz_abi::view::SLOT_SIZE;

/// Address of the arguments object.
#[allow(clippy::cast_possible_truncation, reason = "64-bit addresses")]
pub const ARGUMENTS: usize = (ARGS_SLOT * SLOT_SIZE) as usize;

/// The first thread's.
struct First(ThreadBlock);

// SAFETY: only the first thread uses it (`begin`'s contract).
unsafe impl Sync for First {}

static FIRST: First = First(ThreadBlock::new());

/// What comes before `main`: gives the first thread its block and finds the arguments.
///
/// # Safety
/// Only for the first thread of a program, once, with the address that the loader passed.
#[must_use]
pub unsafe fn begin(arguments: *const u8) -> Args {
    // SAFETY: a static never moves, and this is the one thread that gets it. The call has no way to fail; if it did, the first use of the
    // block would be a fault.
    let _ = unsafe { FIRST.0.install() };
    // SAFETY: the caller's promise.
    let arguments = unsafe { Args::at(arguments) };
    crate::trace::begin(&arguments);
    arguments
}

/// Whether the calling thread is the program's first, whose end is the program's.
#[must_use]
pub fn is_first_thread() -> bool {
    crate::tls::is_current(&FIRST.0)
}

/// What a program's `main` may return.
pub trait Termination {
    /// The exit status.
    fn status(self) -> u8;
}

impl Termination for () {
    fn status(self) -> u8 {
        0
    }
}

impl Termination for u8 {
    fn status(self) -> u8 {
        self
    }
}

impl<T: Termination, E: core::fmt::Display> Termination for Result<T, E> {
    /// An error is printed in one line and is status 1.
    fn status(self) -> u8 {
        match self {
            Ok(value) => value.status(),
            Err(error) => {
                crate::println!("error: {error}");
                1
            }
        }
    }
}

/// Names the function that a program begins with: `fn main(args: Args) -> impl Termination`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        /// First instruction; the loader has set RSP up and put the address of the arguments object into RDI.
        #[cfg(feature = "guest")]
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn _start() -> ! {
            core::arch::naked_asm!("xor ebp, ebp", "and rsp, -16", "call {}", "ud2", sym run_main)
        }

        extern "C" fn run_main(arguments: *const u8) -> ! {
            // SAFETY: this is the first thread, and the loader passes the address of the arguments object, which nobody unmaps.
            let arguments = unsafe { $crate::start::begin(arguments) };
            let status = $crate::start::Termination::status($main(arguments));
            $crate::syscall::thread_exit(status)
        }
    };
}
