//! Calling functions of other security contexts: [`gate`] makes a function a gate, [`Caller`] says who calls.
//!
//! ```no_run
//! use libtwz::gate::{Caller, gate};
//!
//! #[gate(number = 0)]
//! fn add(caller: Caller, a: u64, b: u32) -> u64 { a + u64::from(b) }
//!
//! # let calculator = libtwz::ObjectId::NULL;
//! // In the callee's context object, gate 0 has the entry `add::ENTRY`; in the caller's program:
//! assert_eq!(add::call(calculator, 40, 2), Ok(42));
//! ```
//! Arguments and results are plain bytes of bounded size, checked on both sides:
//! ```compile_fail
//! #[libtwz::gate::gate(number = 0)]
//! fn leak(pointer: &'static u64) {} // means nothing in the other context
//! ```
//! ```compile_fail
//! #[libtwz::gate::gate(number = 0)]
//! fn large(block: [u64; 4]) {}
//! fn call() { let _ = large::call(libtwz::ObjectId::NULL, [0; 4]); } // 32 bytes do not go through: share an object
//! ```
//! ```compile_fail
//! #[libtwz::gate::gate(number = 256)]
//! fn beyond() {}
//! ```
//! In a Linux process there are no gates: every call is an error.

pub use libtwz_derive::gate;
pub use twz_rt::gate::*;
