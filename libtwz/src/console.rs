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
            let length = without_end(&line).len();
            line.truncate(length);
            Some(line)
        })
    }
}

/// A line without its end, a newline with or without one carriage return before it: as std's `lines`, all else is the line's.
fn without_end(line: &str) -> &str {
    line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::without_end;

    #[test]
    fn only_the_end_is_taken_from_a_line() {
        for text in ["a\n", "a\r\n", "a", "a\r", "a\r\r\n", "\n"] {
            assert_eq!(
                Some(without_end(text)),
                std::io::BufRead::lines(text.as_bytes()).next().map(Result::unwrap).as_deref()
            );
        }
    }
}
