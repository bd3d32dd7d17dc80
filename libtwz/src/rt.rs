//! What a program's start and end look like; `#[libtwz::main]` puts it in place.
//!
//! A program is a crate with `#![no_std]` and `#![no_main]`, on every platform: the same source becomes a Linux program (feature `hosted`)
//! and one for Twizzler (feature `guest`).

use core::fmt::Display;

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

impl<T: Termination, E: Display> Termination for Result<T, E> {
    /// An error is printed in one line and is status 1.
    fn status(self) -> u8 {
        match self {
            Ok(value) => value.status(),
            Err(error) => {
                crate::console::eprintln!("error: {error}");
                1
            }
        }
    }
}

#[cfg(feature = "guest")]
#[doc(hidden)]
pub use twz_rt::start::begin;

/// [`begin`] with the arguments where the loader put them.
///
/// # Safety
/// As for [`begin`].
#[cfg(feature = "guest")]
#[doc(hidden)]
pub unsafe fn begin_again() -> twz_rt::Args {
    // SAFETY: the caller's promise.
    unsafe { begin(core::ptr::with_exposed_provenance(twz_rt::start::ARGUMENTS)) }
}

#[cfg(feature = "guest")]
#[doc(hidden)]
pub fn finish(status: u8) -> ! {
    twz_rt::syscall::thread_exit(status)
}

/// Runs a hosted program's `main`.
#[cfg(not(feature = "guest"))]
#[doc(hidden)]
pub fn run<T: Termination>(main: fn() -> T) -> i32 {
    let status = main().status();
    crate::sys::hosted::finish();
    i32::from(status)
}

/// The program's first instruction; what `#[libtwz::main]` expands to besides the function.
#[cfg(feature = "guest")]
#[doc(hidden)]
#[macro_export]
macro_rules! start {
    ($main:path) => {
        const _: () = {
            /// The loader has set RSP up and put the address of the arguments object into RDI.
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            unsafe extern "C" fn _start() -> ! {
        ::core::arch::naked_asm!("xor ebp, ebp", "and rsp, -16", "call {}", "ud2", sym run)
            }

            extern "C" fn run(arguments: *const u8) -> ! {
                // SAFETY: this is the first thread, and the loader passes the address of the arguments object, which nobody unmaps.
                let _ = unsafe { $crate::rt::begin(arguments) };
                $crate::rt::finish($crate::rt::Termination::status($main()))
            }
        };
    };
}

/// The C library's entry; what `#[libtwz::main]` expands to besides the function.
#[cfg(not(feature = "guest"))]
#[doc(hidden)]
#[macro_export]
macro_rules! start {
    ($main:path) => {
        const _: () = {
            #[unsafe(export_name = "main")]
            extern "C" fn run(_count: i32, _arguments: *const *const u8) -> i32 {
                $crate::rt::run($main)
            }
        };
    };
}
