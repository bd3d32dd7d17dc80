//! The measurements of `bench/libtwz` and of `bench/apps`, from the same files, as a program that answers as their peers in C do: a line of
//! words that ends in a count in, nanoseconds an operation out. So the host can have both do the same in turns.
//!
//! | question | answer |
//! |---|---|
//! | `libtwz OPERATION PARAMETER COUNT` | what one takes |
//! | `kv`, `twzrbt` or `ramrbt`, then `OBJECTS new\|present COUNT` | what an insert takes, and what a look-up |
//!
//! A question that it does not know, or that fails, is answered with a word that is no number, and the reason.
#![no_std]
#![no_main]

extern crate alloc;
// The measurements say `std::…`; what they need of it is below.
extern crate self as std;

pub use core::{array, hint, ptr};

/// As `std::collections`: the hash map is the one that std has inside.
pub mod collections {
    pub use hashbrown::HashMap;
}

mod apps;
#[path = "../../../../bench/libtwz/src/ours.rs"]
mod ours;
mod stopwatch;
mod timed;

use libtwz::prelude::*;
use libtwz::{console, persist, sys};
use ours::Ours;

#[libtwz::main]
fn main() -> Result<()> {
    // As in the hosted run: whatever the pool stands on is written as if it were persistent memory.
    persist::set_durability(sys::Durability::Power);
    let mut ours = None;
    for line in console::stdin().lines() {
        match answer(&mut ours, &line) {
            Ok(answer) => println!("{answer}"),
            Err(reason) => println!("failed: {reason}"),
        }
    }
    Ok(())
}

fn answer(ours: &mut Option<Ours>, line: &str) -> core::result::Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |word: &str| word.parse::<u64>().map_err(|_| format!("{word} is no number"));
    match words[..] {
        ["libtwz", what, parameter, count] => {
            let (parameter, count) = (number(parameter)?, number(count)?.max(1));
            let parameter = u32::try_from(parameter).map_err(|_| String::from("too large a parameter"))?;
            // Its objects are made when they are first asked for: others need their room.
            if ours.is_none() {
                *ours = Some(Ours::new().map_err(|error| format!("{error}"))?);
                // In a Linux process the store was opened just now, and said otherwise.
                persist::set_durability(sys::Durability::Power);
            }
            let measured = ours.as_mut().map(|ours| ours.measure(what, parameter, count));
            let each = measured.unwrap_or(Ok(0.0)).map_err(|error| format!("{error}"))?;
            Ok(format!("{each:.4}"))
        }
        [kind, objects, pages, count] => {
            let (objects, count) = (number(objects)?.max(1), number(count)?.max(1));
            let (insert, lookup) = apps::measure(kind, objects, pages, count)?;
            Ok(format!("{insert:.4} {lookup:.4}"))
        }
        _ => Err(String::from("a question has four words")),
    }
}
