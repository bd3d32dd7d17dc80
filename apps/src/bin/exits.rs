//! Prints how often harts have left the guest, by reason, once at the start and again for each line that is typed.
//!
//! A line is `exits {"hypercall": 12, …}`. `twzvmm stats` counts the same; see `docs/control.md`.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use twz_rt::abi::ErrorCode;
use twz_rt::abi::counters::ExitCounters;
use twz_rt::{Args, println, syscall};
use zerocopy::FromBytes;

twz_rt::entry!(main);

fn main(_: Args) -> Result<(), ErrorCode> {
    let mut typed = [0; 64];
    loop {
        println!("exits {{{}}}", text(&syscall::all_counters()?.exits));
        if syscall::console_read(&mut typed)? == 0 {
            return Ok(());
        }
    }
}

/// The members of a JSON object.
fn text(exits: &ExitCounters) -> String {
    let words = zerocopy::IntoBytes::as_bytes(exits).chunks_exact(8).map(u64::read_from_bytes);
    let named = ExitCounters::NAMES.iter().zip(words);
    let members: Vec<String> =
        named.map(|(name, count)| format!("\"{name}\": {}", count.unwrap_or_default())).collect();
    members.join(", ")
}
