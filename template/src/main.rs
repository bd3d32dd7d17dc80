//! Notes that stay: each argument is added as a line, and all lines are printed, the newest first.
#![no_std]
#![no_main]
use libtwz::collections::String as Text;
use libtwz::prelude::*;

/// What the program keeps. Only what may stand in an object passes the derive.
#[derive(Invariant)]
#[repr(C)]
struct Notes {
    newest: InvPtr<Line>,
}

#[derive(Invariant)]
#[repr(C)]
struct Line {
    before: InvPtr<Line>,
    text: Text,
}

#[libtwz::main]
fn main() -> Result<()> {
    let notes = Object::<Notes>::named("/mine", || Notes { newest: InvPtr::null() })?;
    for text in libtwz::env::args().skip(1) {
        // All of this or nothing, whatever happens to the power.
        notes.tx(|tx| {
            let line = tx.alloc(Line { before: InvPtr::null(), text: Text::new() })?;
            line.text.set_in(tx, &text)?;
            tx.point(&line.before, notes.newest.get()?)?;
            tx.point(&notes.newest, Some(line))
        })?;
    }
    let mut at = &notes.newest;
    while let Some(line) = at.get()? {
        println!("{}", line.text.get()?);
        at = &line.before;
    }
    Ok(())
}
