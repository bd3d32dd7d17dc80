//! The console: printing, which is std's own where the program is hosted, and reading lines.

#[cfg(not(feature = "guest"))]
pub use std::{eprint, eprintln, print, println};
#[cfg(feature = "guest")]
pub use twz_rt::{eprint, eprintln, print, println};

use crate::lock::Lock;
use crate::sys::{Platform, Seam};
use alloc::string::String;
use alloc::vec::Vec;

/// Bytes that one read asks for.
const READ_BYTES: usize = 256;

/// What was read and is not yet part of a line.
static READ_AHEAD: Lock<Vec<u8>> = Lock::new(Vec::new());

/// What is typed, or piped in.
#[derive(Clone, Copy, Debug)]
pub struct Stdin(());

/// The program's input.
#[must_use]
pub const fn stdin() -> Stdin {
    Stdin(())
}

impl Stdin {
    /// Waits for a line and appends it to `line`, its newline included; returns its bytes, 0 at the end of the input. What is not UTF-8 is
    /// replaced by U+FFFD.
    pub fn read_line(&self, line: &mut String) -> usize {
        let mut ahead = READ_AHEAD.lock();
        let mut seen = 0;
        let length = loop {
            if let Some(at) = ahead[seen..].iter().position(|&byte| byte == b'\n') {
                break seen + at + 1;
            }
            seen = ahead.len();
            let mut piece = [0; READ_BYTES];
            match Platform::console_read(&mut piece) {
                0 => break seen,
                count => ahead.extend_from_slice(&piece[..count]),
            }
        };
        line.push_str(&String::from_utf8_lossy(&ahead[..length]));
        ahead.drain(..length);
        length
    }

    /// The lines of the input, without their ends.
    pub fn lines(self) -> impl Iterator<Item = String> {
        core::iter::from_fn(move || {
            let mut line = String::new();
            if self.read_line(&mut line) == 0 {
                return None;
            }
            let length = line.trim_end_matches('\n').trim_end_matches('\r').len();
            line.truncate(length);
            Some(line)
        })
    }
}
