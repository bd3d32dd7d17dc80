//! Signals that a failing medium sends.
//!
//! # Contract
//! - SIGBUS: a page of the pool cannot be had, because its file was truncated, its disk is full, or the medium failed. The process says so and ends
//!   with status 2. What was durable stays so, as after any kill. An access of the guest does not end up here: KVM makes it a
//!   refused access, and the kernel a fault of the thread (`MachineCheck`).
//! - SIGXFSZ: a file may not grow so far. It is ignored, and the call that wanted it fails.

use pool::Pool;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

/// Exit status, that of all errors of `twzvmm`.
const EXIT: i32 = 2;
/// What the handler says, made before there is a handler.
static MESSAGE: OnceLock<String> = OnceLock::new();

extern "C" fn bus_error(_signal: libc::c_int) {
    if let Some(message) = MESSAGE.get() {
        // SAFETY: `write` is async-signal-safe, and the message is never changed or freed.
        unsafe { libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len()) };
    }
    // SAFETY: async-signal-safe, too.
    unsafe { libc::_exit(EXIT) }
}

/// Installs the handlers, for a machine on `pool`.
///
/// # Errors
/// The host's.
pub(super) fn install_handlers(pool: &Pool) -> io::Result<()> {
    let descriptor = pool.backing().fd.as_raw_fd();
    let name = std::fs::read_link(format!("/proc/self/fd/{descriptor}"));
    let name = name.map_or_else(|_| "the pool".to_owned(), |path| path.display().to_string());
    MESSAGE.get_or_init(|| {
        format!(
            "twzvmm: {name} cannot be read or written (SIGBUS): the file was truncated, its disk is full, or the medium \
             failed; `twzvmm pool fsck` tells what is left\n"
        )
    });
    let handler = bus_error as extern "C" fn(libc::c_int);
    for (signal, action) in [(libc::SIGBUS, handler as libc::sighandler_t), (libc::SIGXFSZ, libc::SIG_IGN)] {
        // SAFETY: an all-zero action is valid: no flags, an empty mask.
        let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
        new.sa_sigaction = action;
        // SAFETY: `new` is ours; the handler does only what a handler may.
        if unsafe { libc::sigaction(signal, &raw const new, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
