//! `dax-poke write DEVICE OFFSET BYTES TEXT | read DEVICE OFFSET BYTES`: maps a piece of a device, as any program would,
//! and stores TEXT at its start, or prints its first word. Exit status 1 if the piece cannot be mapped.
//!
//! It lets the testbed's own tests use /dev/dax0.0 without the project's pool.

use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::fs::OpenOptions;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["write", device, offset, bytes, text] => poke(device, offset, bytes, Some(text)),
        ["read", device, offset, bytes] => poke(device, offset, bytes, None),
        _ => Err("usage: dax-poke write DEVICE OFFSET BYTES TEXT | read DEVICE OFFSET BYTES".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dax-poke: {error}");
            ExitCode::FAILURE
        }
    }
}

fn poke(device: &str, offset: &str, bytes: &str, text: Option<&str>) -> Result<(), String> {
    let offset: u64 = offset.parse().map_err(|_| "OFFSET is not a number")?;
    let bytes: usize = bytes.parse().map_err(|_| "BYTES is not a number")?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .map_err(|error| format!("{device}: {error}"))?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice takes no memory from anybody.
    let mapped = unsafe { mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, &file, offset) };
    let start = mapped.map_err(|error| format!("{device}: {error}"))?.cast::<u8>();
    if let Some(text) = text {
        for (at, byte) in text.bytes().chain([0]).enumerate().take(bytes) {
            // SAFETY: `at` is below `bytes`, all of which is mapped for writing.
            unsafe { start.wrapping_add(at).write_volatile(byte) };
        }
        println!("written");
        return Ok(());
    }
    // SAFETY: below `bytes`, all of which is mapped for reading.
    let read = |at: usize| unsafe { start.wrapping_add(at).read_volatile() };
    let word: Vec<u8> = (0..bytes).map(read).take_while(|&byte| byte != 0).take(80).collect();
    println!("{}", String::from_utf8_lossy(&word));
    Ok(())
}
