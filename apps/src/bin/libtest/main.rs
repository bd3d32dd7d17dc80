//! The integration tests of `libtwz`, from the same files, as a program: `libtest [PART OF A NAME …]`.
//!
//! Each test runs in a thread of its own, so that one that panics is told and the others go on. `libtest --list` prints the names;
//! `libtest restart NUMBER [hold]` is what must hold over restarts, see [`restart`];
//! `libtest others` and `libtest rights` need the guest: two programs. So does `libtest full [ROUNDS]`, on a small pool ([`full`]). `libtest env ARGUMENTS` prints these and the environment.
#![no_std]
#![no_main]

extern crate alloc;
// The test files say `std::…`; what they need of it is below.
extern crate self as std;

pub use alloc::{collections, vec};
pub use core::{cell, iter, mem};
pub use libtwz::{thread, time};

/// As `std::sync`.
pub mod sync {
    pub use alloc::sync::Arc;
    pub use core::sync::atomic;
}

#[cfg(feature = "guest")]
mod full;
#[cfg(feature = "guest")]
mod others;
mod restart;
#[cfg(feature = "guest")]
mod rights;

#[allow(clippy::wildcard_imports, reason = "the test files are written for std's prelude")]
mod files {
    include!(concat!(env!("OUT_DIR"), "/libtwz_tests.rs"));
}

use libtwz::prelude::*;

#[libtwz::main]
fn main() -> core::result::Result<u8, Error> {
    let arguments: Vec<String> = libtwz::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--list") => {
            files::TESTS.iter().for_each(|(name, _)| println!("{name}"));
            Ok(0)
        }
        Some("restart") => {
            let round = arguments.get(1).and_then(|round| round.parse().ok()).unwrap_or(0);
            restart::run(round, arguments.get(2).is_some_and(|word| word == "hold")).map(|()| 0)
        }
        Some("env") => {
            println!("{:?}", &arguments[1..]);
            libtwz::env::vars().for_each(|(name, value)| println!("{name}: {value}"));
            Ok(0)
        }
        #[cfg(feature = "guest")]
        Some("others") => match twz_rt::process::current_program() {
            Some(program) => others::first(program).map(|()| 0),
            None => Err(Error::NoSuchName),
        },
        #[cfg(feature = "guest")]
        Some("second") => others::second(),
        #[cfg(feature = "guest")]
        Some("ends") => others::ends(),
        #[cfg(feature = "guest")]
        Some("full") => {
            full::run(arguments.get(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(12)).map(|()| 0)
        }
        #[cfg(feature = "guest")]
        Some("rights") => rights::first().map(|()| 0),
        #[cfg(feature = "guest")]
        Some("no-rights") => rights::second(&arguments[1..]),
        _ => Ok(run(&arguments)),
    }
}

/// Runs the tests whose names contain one of `parts`, or all; 1 if one fails.
fn run(parts: &[String]) -> u8 {
    let (mut passed, mut failed) = (0, 0);
    for &(name, test) in files::TESTS {
        if !parts.is_empty() && !parts.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let begun = time::Instant::now();
        let thread = thread::Builder::new().name(name.into()).spawn(test);
        match thread.map(thread::JoinHandle::join) {
            Ok(Ok(())) => {
                println!("test {name} ... ok ({} ms)", begun.elapsed().as_millis());
                passed += 1;
            }
            Ok(Err(_)) => {
                println!("test {name} ... FAILED");
                failed += 1;
            }
            Err(error) => {
                println!("test {name} ... FAILED: {error}");
                failed += 1;
            }
        }
    }
    println!("libtest: {passed} passed, {failed} failed");
    u8::from(failed > 0)
}
