//! What `#[gate]` makes of a function, without a kernel: the callee's side is called as the gate's entry calls it.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::ObjectId;
use libtwz::gate::{Caller, Plain, gate};

#[gate(number = 7)]
fn who_calls(caller: Caller, low: u64, high: u64) -> ObjectId {
    assert_eq!((low, high), (1, 2));
    caller.context()
}

#[gate(number = 8)]
fn sum(number: u64, words: u64, result: u64) -> u64 {
    number + words + result
}

/// Names of the caller's side, and the function's own.
#[gate(number = 9)]
fn first(context: u64, arguments: u64, first: u64) -> Result<u64, u8> {
    u8::try_from(context + arguments + first).map(u64::from).map_err(|_| 1)
}

#[test]
fn parameters_named_as_the_macro_names_things_are_only_parameters() {
    let kernel_says = ObjectId { lo: 3, hi: 4 };
    assert_eq!(who_calls::run([1, 2, 0], (kernel_says.lo, kernel_says.hi), 7), Some(Plain(kernel_says)));
    assert_eq!(sum::run([1, 2, 3], (0, 0), 8), Some(Plain(6)));
    assert_eq!(sum::run([8, 2, 3], (0, 0), 7), None, "another gate's number");
    assert_eq!(first::run([1, 2, 3], (0, 0), 9), Some(Ok(6)));
    // There is no kernel: what counts is that the arguments have their places.
    assert!(first::call(kernel_says, 1, 2, 3).is_err());
}
