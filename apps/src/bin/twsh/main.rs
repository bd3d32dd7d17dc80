//! The shell on the console.
//!
//! At a terminal it edits lines, completes names and keeps its history in an object; else it reads commands from standard input, without
//! prompt, and ends with the status of the first command that failed. `twsh -c "COMMAND"` does one. See docs/shell.md.
#![no_std]
#![no_main]

extern crate alloc;

mod commands;
mod history;
mod input;
mod paths;
mod run;
mod top;

use alloc::string::String;
use apps::words;
use commands::Session;
use input::{Input, Next};
use twz_rt::{Args, println};

twz_rt::entry!(main);

/// Exit status of a command that cannot be understood, as in other shells.
const SYNTAX_STATUS: u8 = 2;

fn main(args: Args) -> u8 {
    let mut session = Session::new(args);
    let mut words = args.skip(1);
    match (words.next(), words.next()) {
        (Some("-c"), Some(line)) => drop(execute(&mut session, line)),
        (Some(_), _) => {
            println!("usage: twsh [-c COMMAND]");
            return SYNTAX_STATUS;
        }
        (None, _) => converse(&mut session),
    }
    session.status
}

/// Reads and executes until the input ends or a command ends it.
fn converse(session: &mut Session) {
    let mut input = Input::new();
    if input.is_terminal() {
        println!(
            "twsh: `help` lists the commands, Ctrl-D leaves; Tab completes, the arrows edit and go back."
        );
    }
    loop {
        let goes_on = match input.line() {
            Next::Line(line) => execute(session, &line),
            Next::End => return,
        };
        if input.is_terminal() {
            // What people saw fail is no failure of the session.
            session.status = if goes_on { 0 } else { session.status };
        }
        if !goes_on {
            return;
        }
    }
}

/// Executes one line; false if it ends the shell.
fn execute(session: &mut Session, line: &str) -> bool {
    let Ok(words) = words::split(line) else {
        println!("twsh: a quote does not end");
        session.failed(SYNTAX_STATUS);
        return true;
    };
    let words: alloc::vec::Vec<&str> = words.iter().map(String::as_str).collect();
    match words.split_first() {
        Some((&name, rest)) => session.execute(name, rest),
        None => true,
    }
}
