//! The measurements of `bench/libtwz` and of `bench/apps`, from the same files, as a program: `libbench [ROUNDS] [DIVIDE] [PART OF A NAME]`.
//! Prints a row of JSON a line, as the reports of `bench` read them.
#![no_std]
#![no_main]

extern crate alloc;
// The measurements say `std::…`; what they need of it is below.
extern crate self as std;

pub use core::{array, hint, ptr};
pub use libtwz::time;

/// As `std::collections`; the hash map is the one that std has inside.
pub mod collections {
    pub use alloc::collections::*;
    pub use hashbrown::HashMap;
}

mod apps;
#[path = "../../../../bench/libtwz/src/ours.rs"]
mod ours;
#[path = "../../../../bench/libtwz/src/plans.rs"]
#[allow(dead_code, reason = "peers and aims are for the run beside them")]
mod plans;
mod stopwatch;
mod timed;

use libtwz::prelude::*;
use libtwz::{persist, sys};
use ours::Ours;
use plans::PLANS;

/// Rounds of each row, if not said.
const ROUNDS: u64 = 7;
/// Pieces of a round that are timed one by one: on a busy host most of them run without a break, and the median is one of these.
const SLICES: u64 = 10;

#[libtwz::main]
fn main() -> Result<()> {
    let arguments: Vec<String> = libtwz::env::args().skip(1).collect();
    let number = |index: usize, default: u64| {
        arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default).max(1)
    };
    let (rounds, divide) = (number(0, ROUNDS), number(1, 1));
    let part = arguments.get(2).map_or("", String::as_str);
    // As in the hosted run: whatever the pool stands on is written as if it were persistent memory.
    persist::set_durability(sys::Durability::Power);
    let mut ours = Ours::new()?;
    for plan in PLANS.iter().filter(|plan| plan.name.contains(part)) {
        let count = (plan.count / divide / SLICES).max(1);
        let mut samples = Vec::new();
        for slice in 0..(rounds + 1) * SLICES {
            let sample = ours.measure(plan.ours.0, plan.ours.1, count)?;
            if slice >= SLICES {
                samples.push(sample); // the first round warms up
            }
        }
        print_row("libtwz", plan.name, &mut samples);
    }
    apps::measure(rounds, divide, part).map_err(|error| {
        eprintln!("libbench: {error}");
        Error::Aborted
    })
}

/// A row of JSON.
fn print_row(group: &str, name: &str, samples: &mut [f64]) {
    samples.sort_by(f64::total_cmp);
    let at = |percent: usize| samples.get(samples.len() * percent / 100).copied().unwrap_or(f64::NAN);
    println!(
        "{{\"group\":\"{group}\",\"name\":\"{name}\",\"where\":\"guest\",\"unit\":\"ns\",\"ours\":{:.4},\"ours_spread\":[{:.4},{:.4}]}}",
        at(50),
        at(25),
        at(75),
    );
}
