//! The console: what programs print and what is typed.

use super::outlet::Outlet;
use super::terminal;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use twz_abi::syscall::ConsoleMode;

/// Typed bytes that are kept for the guest before reading stops.
const INPUT_LIMIT: usize = 64 * 1024;
/// Ctrl-]: with `x` behind it, it ends the machine while keys go to the program; twice, it is typed once.
const LEAVE_PREFIX: u8 = 0x1d;
/// Printed bytes that are kept for a slow reader before programs that print have to wait.
const OUTPUT_LIMIT: usize = 64 * 1024;

#[derive(Default)]
struct Input {
    typed: VecDeque<u8>,
    ended: bool,
    /// Reading stopped at [`INPUT_LIMIT`].
    paused: bool,
    /// The last key was [`LEAVE_PREFIX`], which is not passed on yet.
    prefixed: bool,
}

/// What [`Console::fill`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// More may be read now.
    More,
    /// No more, or not now.
    Stop,
    /// The keys that end the machine.
    Leave,
}

/// Standard input, output and error, shared by all harts.
pub(super) struct Console {
    input: Mutex<Input>,
    /// What programs print.
    pub(super) output: Arc<Outlet>,
    /// The kernel's own lines.
    pub(super) log: Arc<Outlet>,
    lost_lines: AtomicU64,
}

/// Bytes taken from the input, and whether there will be no more.
pub(super) struct Taken {
    /// What was typed.
    pub bytes: Vec<u8>,
    /// The input has ended and everything was taken.
    pub ended: bool,
    /// Reading stopped because nobody took anything, and may go on.
    pub resume: bool,
}

impl Input {
    /// Takes keys from a terminal in raw mode; false if they ask for the end of the machine.
    fn take_keys(&mut self, keys: &[u8]) -> bool {
        for &key in keys {
            match (std::mem::take(&mut self.prefixed), key) {
                (false, LEAVE_PREFIX) => self.prefixed = true,
                (true, b'x' | b'X') => return false,
                (true, LEAVE_PREFIX) | (false, _) => self.typed.push_back(key),
                (true, _) => {}
            }
        }
        true
    }
}

impl Console {
    /// Nothing typed, nothing printed.
    pub(super) fn new() -> Self {
        Self {
            input: Mutex::default(),
            output: Arc::new(Outlet::new(libc::STDOUT_FILENO, OUTPUT_LIMIT)),
            log: Arc::new(Outlet::new(libc::STDERR_FILENO, OUTPUT_LIMIT)),
            lost_lines: AtomicU64::new(0),
        }
    }

    /// Prints what a program wrote; `false` if there is no room for it now.
    pub(super) fn print(&self, bytes: &[u8]) -> bool {
        self.output.put(bytes)
    }

    /// Prints a line of the kernel's on standard error. The kernel waits for no reader: a line without room is lost, and counted in the next
    /// one that has some.
    pub(super) fn print_kernel_line(&self, line: &[u8]) {
        let lost = self.lost_lines.swap(0, Ordering::Relaxed);
        let text = String::from_utf8_lossy(line);
        let mut text = format!("kernel: {}\n", text.trim_end().escape_debug());
        if lost > 0 {
            text.insert_str(0, &format!("kernel: {lost} lines are lost here\n"));
        }
        if !self.log.put(text.as_bytes()) {
            self.lost_lines.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }

    /// How typed input comes from now on; columns of the terminal (0: unknown), or `None` if there is no terminal that is ours to use.
    pub(super) fn set_mode(&self, mode: ConsoleMode) -> Option<u16> {
        terminal::set(mode)
    }

    /// Reads once from standard input, which the caller knows to be readable.
    pub(super) fn fill(&self) -> Filled {
        // Larger than what the standard library would read ahead: it must keep nothing that the event loop cannot see.
        let mut buffer = [0; 16 * 1024];
        let count = io::stdin().lock().read(&mut buffer);
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        match count {
            Ok(0) => input.ended = true,
            Ok(count) if terminal::is_raw() => {
                if !input.take_keys(&buffer[..count]) {
                    return Filled::Leave;
                }
            }
            Ok(count) => input.typed.extend(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::debug!(%error, "standard input is gone");
                input.ended = true;
            }
        }
        input.paused = !input.ended && input.typed.len() >= INPUT_LIMIT;
        if input.ended || input.paused { Filled::Stop } else { Filled::More }
    }

    /// Whether there may be more to read, and room for it.
    pub(super) fn wants_input(&self) -> bool {
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        !input.ended && !input.paused
    }

    /// Takes up to `room` typed bytes.
    pub(super) fn take(&self, room: usize) -> Taken {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let count = room.min(input.typed.len());
        let bytes: Vec<u8> = input.typed.drain(..count).collect();
        let ended = bytes.is_empty() && input.ended;
        let resume = input.paused && input.typed.len() < INPUT_LIMIT;
        input.paused &= !resume;
        Taken { bytes, ended, resume }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut input = Input::default();
        let goes_on = keys.iter().all(|keys| input.take_keys(keys));
        (input.typed.into(), goes_on)
    }

    #[test]
    fn only_the_prefix_with_an_x_leaves() {
        assert_eq!(typed(&[b"\x03ax\x04"]), (b"\x03ax\x04".to_vec(), true), "Ctrl-C and Ctrl-D are keys");
        assert_eq!(typed(&[b"a\x1dx"]), (b"a".to_vec(), false));
        assert_eq!(typed(&[b"a\x1d", b"x"]), (b"a".to_vec(), false), "in two pieces");
        assert_eq!(typed(&[b"\x1d\x1dx"]), (b"\x1dx".to_vec(), true), "typed once");
        assert_eq!(typed(&[b"\x1dyx"]), (b"x".to_vec(), true), "anything else is dropped");
    }
}
