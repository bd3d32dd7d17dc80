//! A guided demonstration of the five ideas: objects, pointers, late binding, contexts, power failure.
//!
//! Each step says what it does, does it, and shows what came of it. The last one ends the machine in the middle of a transaction; run
//! again, the tour finds what it left. `tour --stay` leaves that out, for a machine that others use, too.
#![no_std]
#![no_main]

extern crate alloc;

mod contexts;
mod diary;
mod late_binding;
mod pointers;
mod power;

use alloc::string::{String, ToString};
use apps::probe;
use twz_rt::abi::fault::FaultFrame;
use twz_rt::{Args, fault, println, syscall};

twz_rt::entry!(main);

/// An error for people.
type Said<T> = Result<T, String>;

fn main(mut args: Args) -> Said<()> {
    let stay = match args.nth(1) {
        None => false,
        Some("--stay") => true,
        Some(_) => return Err("usage: tour [--stay]".into()),
    };
    // SAFETY: the handler takes no lock, and changes frames of probes only.
    unsafe { fault::set_handler(on_fault) };
    println!("A tour of Twizzler: five ideas, each shown by doing it.");
    let diary = diary::open()?;
    pointers::show(&diary)?;
    late_binding::show()?;
    contexts::show()?;
    power::show(&diary, stay)
}

/// Accesses that are tried out come back with their fault; any other fault ends this program, as it would without a handler.
fn on_fault(frame: &mut FaultFrame) {
    if !probe::recover(frame) {
        syscall::thread_exit(u8::try_from(128 + frame.info.cause).unwrap_or(u8::MAX));
    }
}

/// Prints a step's heading.
fn step(number: u32, idea: &str) {
    println!("\n{number}. {idea}");
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
