//! Threads and waiting on words, by the kernel's futex.

use crate::sys::Woken;
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Sleeps while `word` holds `expected`. Not FUTEX_PRIVATE: the word may be in a file that others map too.
pub(super) fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Woken {
    let limit = timeout.map(|t| libc::timespec {
        tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(t.subsec_nanos()),
    });
    let limit_at = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `word` is a live, aligned u32; the timeout is null or a live timespec.
    let result =
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, limit_at, 0, 0) };
    let error = std::io::Error::last_os_error().raw_os_error();
    if result != 0 && error == Some(libc::ETIMEDOUT) { Woken::TimedOut } else { Woken::LookAgain }
}

pub(super) fn wake(word: &AtomicU32, count: u32) {
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    // SAFETY: `word` is a live, aligned u32.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count, 0, 0, 0) };
}

thread_local! {
    static ID: Cell<u32> = const { Cell::new(0) };
}

/// The kernel's number of the calling thread; those are below 2^22.
#[inline]
pub(super) fn id() -> u32 {
    #[cfg(feature = "crash-sim")]
    if let Some(id) = crate::simulate::acts_as() {
        return id;
    }
    let id = ID.get();
    if id != 0 {
        return id;
    }
    // SAFETY: takes nothing, and cannot fail.
    let id = unsafe { libc::gettid() }.unsigned_abs();
    ID.set(id);
    id
}

/// Whether this process has a thread of that number.
pub(super) fn lives(id: u32) -> bool {
    let tid = libc::pid_t::try_from(id).unwrap_or(0);
    // SAFETY: signal 0 is none: the kernel only looks for the thread.
    let found = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, 0) };
    found == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}
