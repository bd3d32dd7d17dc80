//! `run`: another program, and what becomes of it.

use apps::launch::{self, Home};
use twz_rt::abi::ErrorCode;
use twz_rt::abi::fault::FaultCause;
use twz_rt::thread::Ended;
use twz_rt::{Args, println};

/// Status of a program that could not be started, as in other shells.
const NOT_STARTED: u8 = 127;

/// Runs `words` in a view of its own, and in our context or one of its own; returns the exit status.
pub(crate) fn run(words: &[&str], own: bool, ours: Args) -> u8 {
    let Some(&name) = words.first() else {
        println!("usage: run [--own] PROGRAM [ARGUMENT]...");
        return crate::SYNTAX_STATUS;
    };
    match started(name, words, own, ours) {
        Ok(ended) => report(name, &ended),
        Err(ErrorCode::NoName) => {
            println!("run: no program {name}; `ls program/` lists them");
            NOT_STARTED
        }
        Err(ErrorCode::NotPermitted) if own => {
            println!(
                "run: this shell may not give {name} a context of its own; without --own it runs in the shell's"
            );
            NOT_STARTED
        }
        Err(error) => {
            println!("run: {name}: {error}");
            NOT_STARTED
        }
    }
}

fn started(name: &str, words: &[&str], own: bool, ours: Args) -> Result<Ended, ErrorCode> {
    let home = if own { Home::own(name)? } else { Home::Here };
    Ok(launch::start(name, words, ours, &home)?.wait())
}

/// Says how it ended, unless it ended well.
fn report(name: &str, ended: &Ended) -> u8 {
    let cause = ended.fault.and_then(|fault| Some((fault, FaultCause::try_from(fault.cause).ok()?)));
    match cause {
        Some((fault, cause)) => println!(
            "run: {name} was ended by a fault: {} at {:#x}, instruction {:#x} (status {})",
            cause.name(),
            fault.address,
            fault.instruction,
            ended.status
        ),
        _ if ended.status != 0 => println!("run: {name} ended with status {}", ended.status),
        _ => {}
    }
    u8::try_from(ended.status).unwrap_or(u8::MAX)
}
