//! Printing.

use crate::syscall;
use core::fmt;

/// The console as a writer. Each formatted piece is gathered first, because a system call is dear.
pub struct Console {
    buffer: [u8; 512],
    length: usize,
}

impl Console {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffer: [0; 512], length: 0 }
    }

    /// Prints what was gathered.
    pub fn flush(&mut self) {
        let mut rest = &self.buffer[..self.length];
        while !rest.is_empty() {
            match syscall::console_write(rest) {
                Ok(count) if count > 0 => rest = &rest[count..],
                // A console that takes nothing: there is nowhere to complain.
                _ => break,
            }
        }
        self.length = 0;
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut bytes = text.as_bytes();
        while !bytes.is_empty() {
            if self.length == self.buffer.len() {
                self.flush();
            }
            let count = bytes.len().min(self.buffer.len() - self.length);
            self.buffer[self.length..self.length + count].copy_from_slice(&bytes[..count]);
            self.length += count;
            bytes = &bytes[count..];
        }
        Ok(())
    }
}

/// Prints formatted text; what [`print!`](crate::print) and [`println!`](crate::println) call.
pub fn print(text: fmt::Arguments<'_>) {
    let mut console = Console::new();
    // `Console` never fails.
    let _ = fmt::Write::write_fmt(&mut console, text);
    console.flush();
}

/// Prints formatted text on the console.
#[macro_export]
macro_rules! print {
    ($($text:tt)*) => { $crate::console::print(core::format_args!($($text)*)) };
}

/// Prints formatted text and a newline on the console, in one system call when it is short.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($text:tt)*) => { $crate::console::print(core::format_args!("{}\n", core::format_args!($($text)*))) };
}

/// Prints formatted text where errors go; a machine has one console.
#[macro_export]
macro_rules! eprint {
    ($($text:tt)*) => { $crate::print!($($text)*) };
}

/// As [`eprint!`], and a newline.
#[macro_export]
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::println!($($text)*) };
}
