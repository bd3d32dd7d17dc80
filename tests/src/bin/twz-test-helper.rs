//! Small things that tests need inside of a machine, where there is only busybox:
//!
//!     map-write FILE OFFSET BYTES TEXT    maps a piece of a file or device and stores TEXT at its start
//!     map-read FILE OFFSET BYTES          prints the text at the start of such a piece
//!     copy FILE DEVICE BYTES              copies BYTES of a file to the start of a device, by mapping it
//!     lock FILE COMMAND…                  runs a command while holding the lock of a file
//!     nobody COMMAND…                     runs a command as user and group 99
//!
//! Exit status: the command's; 1 if we cannot do it ourselves.

use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["map-write", path, offset, bytes, text] => write(path, offset, bytes, text.as_bytes()),
        ["map-read", path, offset, bytes] => read(path, offset, bytes),
        ["copy", from, to, bytes] => copy(from, to, bytes),
        ["lock", path, ref command @ ..] if !command.is_empty() => lock(path, command),
        ["nobody", ref command @ ..] if !command.is_empty() => Err(nobody(command)),
        _ => Err("see the head of its source for what it takes".to_owned()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("twz-test-helper: {error}");
        ExitCode::FAILURE
    })
}

/// A shared mapping of a file or device, never unmapped.
struct Mapped {
    start: *mut u8,
    bytes: usize,
}

impl Mapped {
    fn new(path: &str, offset: &str, bytes: &str) -> Result<Mapped, String> {
        let offset: u64 = offset.parse().map_err(|_| "OFFSET is not a number")?;
        let bytes: usize = bytes.parse().map_err(|_| "BYTES is not a number")?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| format!("{path}: {error}"))?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice takes no memory from anybody.
        let mapped = unsafe { mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, &file, offset) };
        let start = mapped.map_err(|error| format!("{path}: {error}"))?.cast();
        Ok(Mapped { start, bytes })
    }

    fn store(&self, data: &[u8]) {
        for (at, byte) in data.iter().enumerate().take(self.bytes) {
            // SAFETY: `at` is below `bytes`, all of which is mapped for writing.
            unsafe { self.start.wrapping_add(at).write_volatile(*byte) };
        }
    }

    fn text(&self) -> String {
        // SAFETY: below `bytes`, all of which is mapped for reading.
        let load = |at: usize| unsafe { self.start.wrapping_add(at).read_volatile() };
        let text: Vec<u8> = (0..self.bytes).map(load).take_while(|&byte| byte != 0).take(80).collect();
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn write(path: &str, offset: &str, bytes: &str, text: &[u8]) -> Result<ExitCode, String> {
    Mapped::new(path, offset, bytes)?.store(&[text, b"\0"].concat());
    println!("written");
    Ok(ExitCode::SUCCESS)
}

fn read(path: &str, offset: &str, bytes: &str) -> Result<ExitCode, String> {
    println!("{}", Mapped::new(path, offset, bytes)?.text());
    Ok(ExitCode::SUCCESS)
}

fn copy(from: &str, to: &str, bytes: &str) -> Result<ExitCode, String> {
    let data = std::fs::read(from).map_err(|error| format!("{from}: {error}"))?;
    Mapped::new(to, "0", bytes)?.store(&data);
    Ok(ExitCode::SUCCESS)
}

fn lock(path: &str, command: &[&str]) -> Result<ExitCode, String> {
    let file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
    file.lock().map_err(|error| format!("{path}: {error}"))?;
    let status = Command::new(command[0]).args(&command[1..]).status();
    let status = status.map_err(|error| format!("{}: {error}", command[0]))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Becomes the command; returns only if that fails.
fn nobody(command: &[&str]) -> String {
    let error = Command::new(command[0]).args(&command[1..]).gid(99).uid(99).exec();
    format!("{}: {error}", command[0])
}
