//! The lowest layer of a program: where it begins, how it calls the kernel, prints and ends.
//!
//! # Contract
//! - [`entry!`] names the program's `main`; it gets the [`Args`] and returns an exit status.
//! - Everything here works before any object but the program's own is mapped.
//! - Pieces that only a program may have (panic handler, heap, memory functions) are there with feature `guest`; without it the
//!   crate is an ordinary library that host tools can check.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod args;
pub mod console;
pub mod context;
pub mod fault;
pub mod gate;
#[cfg(feature = "guest")]
mod heap;
#[cfg(feature = "guest")]
mod memory;
#[cfg(feature = "guest")]
mod panic;
pub mod process;
pub mod resume;
pub mod slots;
pub mod start;
pub mod sync;
pub mod syscall;
pub mod thread;
pub mod tls;
pub mod trace;
pub mod view;

pub use args::Args;
pub use twz_abi as abi;
