//! The console: what programs print and what is typed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Typed bytes that are kept for the guest before reading stops.
const INPUT_LIMIT: usize = 64 * 1024;

#[derive(Default)]
struct Input {
    typed: VecDeque<u8>,
    ended: bool,
    /// Reading stopped at [`INPUT_LIMIT`].
    paused: bool,
}

/// Standard input and output, shared by all harts.
#[derive(Default)]
pub(super) struct Console {
    input: Mutex<Input>,
    /// One printer at a time.
    output: Mutex<()>,
    gave_up: AtomicBool,
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

impl Console {
    /// Prints what a program wrote. A closed output is the reader's wish, not an error of the program's. Waits for a reader that is slow,
    /// until [`Console::give_up`].
    pub(super) fn print(&self, bytes: &[u8]) {
        // Not through the standard library's buffer, which would wait for ever: a signal must be able to end the wait.
        // SAFETY: descriptor 1 is open as long as the process, and `ManuallyDrop` keeps this value from closing it.
        let out = ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDOUT_FILENO) });
        let _turn = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = bytes;
        while !rest.is_empty() {
            match (&*out).write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    if self.gave_up.load(Ordering::Acquire) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "standard output is gone");
                    return;
                }
            }
        }
    }

    /// From now on nobody waits for a reader of the output; who waits already must be interrupted by a signal.
    pub(super) fn give_up(&self) {
        self.gave_up.store(true, Ordering::Release);
    }

    /// Prints a line of the kernel's on standard error.
    pub(super) fn print_kernel_line(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        // As above; and there is no third place to say so.
        let _ = writeln!(io::stderr().lock(), "kernel: {}", text.trim_end().escape_debug());
    }

    /// Reads once from standard input, which the caller knows to be readable. Returns whether more may be read now.
    pub(super) fn fill(&self) -> bool {
        // Larger than what the standard library would read ahead: it must keep nothing that the event loop cannot see.
        let mut buffer = [0; 16 * 1024];
        let count = io::stdin().lock().read(&mut buffer);
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        match count {
            Ok(0) => input.ended = true,
            Ok(count) => input.typed.extend(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::debug!(%error, "standard input is gone");
                input.ended = true;
            }
        }
        input.paused = !input.ended && input.typed.len() >= INPUT_LIMIT;
        !input.ended && !input.paused
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
