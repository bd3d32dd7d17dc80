//! The guest kernel: it runs threads in views and turns their faults into bindings.
//!
//! # Contract
//! - Interrupts are off in ring 0, always. An entry from ring 3 runs to its end on the hart's stack and leaves by
//!   returning the next thread's saved registers; there are no kernel threads and nothing blocks in here.
//! - One lock guards all of [`kernel::Kernel`]. Paths are short and the number of harts is small, which is where one lock is best
//!   (Peters et al., "For a microkernel, a big lock is fine", APSys 2015).
//! - **I1 rights**: the kernel grants none. A mapping holds at most what the monitor returned for (context, object) and what the view
//!   asks for.
//! - **I2 hostile input**: every address, ID, register and view entry of ring 3 is checked here, once, after one read.
//! - **I3 failure**: running out of anything fails the call or the thread that asked, never the kernel.
//!
//! `unsafe` lives in [`arch`], [`memory`], [`mailbox`] and [`lock`]; the rest is safe code on top.
#![no_std]

mod arch;
mod console;
mod context;
mod counters;
mod fault;
mod gate;
#[cfg(feature = "hostile")]
mod hostile;
mod kernel;
mod lock;
mod mailbox;
mod memory;
mod objects;
mod resume;
mod sched;
mod space;
mod sync;
mod syscalls;
mod thread;
mod tlb;

use core::panic::PanicInfo;

pub use arch::entry::start;

/// What a call answers: the code is what programs see.
pub(crate) type Result<T = ()> = core::result::Result<T, twz_abi::ErrorCode>;

/// Reports a broken invariant of the kernel to `twzvmm`, which ends the machine.
pub fn panic(info: &PanicInfo<'_>) -> ! {
    mailbox::panic(info)
}
