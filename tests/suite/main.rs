//! Whole-system tests. What needs a machine stands in modules `local`, `testbed` and `intel`, so that
//! `cargo test -p tests -- local::` and the like choose.

#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

/// Makes tests of functions that take the place to run in: one for each name, in a module called after the place.
macro_rules! tests_on {
    ($module:ident, $place:expr, $($name:ident),+ $(,)?) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::$name($place);
                }
            )+
        }
    };
}

mod bad_input;
mod book;
mod console;
mod context_tools;
mod contexts;
mod guest_docs;
mod guest_kernel;
mod kernel_image;
mod kv;
mod libbench;
mod libtwz;
mod logboi;
mod power;
mod programs;
mod resume;
mod shell;
mod tool;
mod tour;
