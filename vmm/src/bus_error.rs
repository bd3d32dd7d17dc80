//! Signals that a failing medium sends.
//!
//! # Contract
//! - SIGBUS: a page of a pool cannot be had, because its file was truncated, its disk is full, or the medium failed. The process says which byte of which
//!   file, and what to do, and ends with status 2. What was durable stays so, as after any kill. An access of the guest does not end up here: KVM makes
//!   it a refused access, and the kernel a fault of the thread (`MachineCheck`).
//! - SIGXFSZ: a file may not grow so far. It is ignored, and the call that wanted it fails.

use std::fmt::{self, Write};
use std::io;

/// Exit status, that of all errors of `twzvmm`.
const EXIT: i32 = 2;

/// Some text, without an allocator, which a signal handler must not use. What does not fit is left out.
struct Text {
    bytes: [u8; 1024],
    length: usize,
}

impl Text {
    const fn new() -> Self {
        Self { bytes: [0; 1024], length: 0 }
    }

    fn push(&mut self, byte: u8) {
        if let Some(free) = self.bytes.get_mut(self.length) {
            *free = byte;
            self.length += 1;
        }
    }

    fn text(&self) -> &str {
        let bytes = &self.bytes[..self.length];
        let valid = |error: std::str::Utf8Error| std::str::from_utf8(&bytes[..error.valid_up_to()]);
        std::str::from_utf8(bytes).or_else(valid).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}

extern "C" fn bus_error(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid one to a handler of SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: for SIGBUS it has an address.
    let address = unsafe { info.si_addr() } as u64;
    let message = message(address);
    // SAFETY: `write` is async-signal-safe, and the message is ours.
    unsafe { libc::write(libc::STDERR_FILENO, message.bytes.as_ptr().cast(), message.length) };
    // SAFETY: async-signal-safe, too.
    unsafe { libc::_exit(EXIT) }
}

fn message(address: u64) -> Text {
    let mut message = Text::new();
    let mut write_for = |(offset, name): (u64, &str)| {
        // Writing to a text cannot fail.
        let _ = writeln!(
            message,
            "twzvmm: {name} cannot be read or written at byte {offset:#x} (SIGBUS): the file was truncated, its disk is full, or the \
             medium failed; nothing that was durable is changed: mend the medium or copy the pool to another, and `twzvmm pool fsck` \
             tells what is left"
        );
    };
    if !each_mapping(|line| place(line, address).map(&mut write_for).is_some()) {
        write_for((address, "memory"));
    }
    message
}

/// Where in which file `address` is, if it is in the mapping that this line of /proc/self/maps (proc_pid_maps(5)) is about.
fn place(line: &str, address: u64) -> Option<(u64, &str)> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let hexadecimal = |word| u64::from_str_radix(word, 16).ok();
    let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
    let offset = hexadecimal(words.nth(1)?)?;
    let name = words.nth(2)?.trim();
    let is_in = (start..end).contains(&address) && !name.is_empty();
    is_in.then(|| (offset + (address - start), name))
}

/// Visits the lines of /proc/self/maps until that returns true; whether it did.
fn each_mapping(mut visit: impl FnMut(&str) -> bool) -> bool {
    // SAFETY: async-signal-safe; the name ends with a zero.
    let file = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let mut line = Text::new();
    let mut buffer = [0_u8; 4096];
    loop {
        // SAFETY: async-signal-safe; the buffer is ours. A file that could not be opened cannot be read.
        let count = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), buffer.len()) };
        let Some(count @ 1..) = usize::try_from(count).ok() else { return false };
        for &byte in &buffer[..count] {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            if visit(line.text()) {
                return true;
            }
            line.length = 0;
        }
    }
}

/// Installs the handlers, for all pools that this process will open.
///
/// # Errors
/// The host's.
pub fn install_handlers() -> io::Result<()> {
    let handler = bus_error as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    for (signal, action, flags) in
        [(libc::SIGBUS, handler as libc::sighandler_t, libc::SA_SIGINFO), (libc::SIGXFSZ, libc::SIG_IGN, 0)]
    {
        // SAFETY: an all-zero action is valid: no flags, an empty mask.
        let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
        new.sa_sigaction = action;
        new.sa_flags = flags;
        // SAFETY: `new` is ours; the handler does only what a handler may.
        if unsafe { libc::sigaction(signal, &raw const new, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_of_a_file_is_found_by_its_address() {
        let line =
            "7f01000000-7f01400000 rw-s 00200000 00:2d 17                         /dev/shm/my pool.img";
        assert_eq!(place(line, 0x7f_0100_3008), Some((0x20_3008, "/dev/shm/my pool.img")));
        assert_eq!(place(line, 0x7f_0140_0000), None, "behind it");
        assert_eq!(place("7f01000000-7f01400000 rw-p 00000000 00:00 0 ", 0x7f_0100_3008), None, "no file");
        assert_eq!(place("", 0), None);
    }

    #[test]
    fn mappings_of_this_process_are_found() {
        use std::os::fd::AsRawFd;
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        io::Write::write_all(&mut file, &[7; 3 << 12]).expect("written");
        // SAFETY: a new mapping of a file of ours at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 8192)
        };
        assert_ne!(base, libc::MAP_FAILED);
        let message = message(base as u64 + 5);
        assert!(message.text().contains(file.path().to_str().expect("a name")), "{}", message.text());
        assert!(message.text().contains("at byte 0x2005"), "{}", message.text());
        assert!(message.text().ends_with("tells what is left\n"), "{}", message.text());
        // SAFETY: the mapping from above, which nobody uses.
        unsafe { libc::munmap(base, 4096) };
    }
}
