//! System calls: numbers, arguments, errors.

/// The first number that is ours; lower ones are Linux's and go to the view's handler.
pub const FIRST: u64 = 0x1000;
