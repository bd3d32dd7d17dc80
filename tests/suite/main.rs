//! Whole-system tests. A module for each place they need, so that `cargo test -p tests -- local::` and the like choose.

mod tool;
