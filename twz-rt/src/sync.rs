//! Sleeping on words, and the one lock built on it that this layer needs. More is in `libtwz`.

use crate::syscall;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};
use twz_abi::ErrorCode;
use twz_abi::sync::{SyncKind, SyncOp};

/// For [`wait`] and [`syscall::thread_sync`]: sleep as long as it takes.
pub const FOREVER: u64 = u64::MAX;

/// Sleep while the word is `value`.
#[must_use]
pub fn sleep_op(word: &AtomicU32, value: u32) -> SyncOp {
    SyncOp {
        address: word.as_ptr() as u64,
        value: u64::from(value),
        kind: SyncKind::Sleep32 as u32,
        reserved: 0,
    }
}

/// Wake at most `count` sleepers on the word.
#[must_use]
pub fn wake_op(word: &AtomicU32, count: u64) -> SyncOp {
    SyncOp { address: word.as_ptr() as u64, value: count, kind: SyncKind::Wake as u32, reserved: 0 }
}

/// Sleeps while `word` is `value`, at most `nanoseconds`. May return early; the caller looks at the word again.
///
/// # Errors
/// [`ErrorCode::TimedOut`]; [`ErrorCode::WouldBlock`] if the word had another value; [`ErrorCode::NoMemory`].
pub fn wait(word: &AtomicU32, value: u32, nanoseconds: u64) -> Result<(), ErrorCode> {
    syscall::thread_sync(&[sleep_op(word, value)], nanoseconds).map(drop)
}

/// Wakes at most `count` threads that sleep on `word`; returns how many it woke.
///
/// # Errors
/// [`ErrorCode::BadAddress`] if the word's memory cannot be backed.
pub fn wake(word: &AtomicU32, count: u64) -> Result<u64, ErrorCode> {
    syscall::thread_sync(&[wake_op(word, count)], 0)
}

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// A mutual-exclusion lock whose waiters sleep. Not for fault handlers: the interrupted code may hold it.
#[derive(Debug, Default)]
pub struct Lock<T> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a guard only, and there is one guard at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { word: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Takes the lock, waiting for it.
    pub fn lock(&self) -> Guard<'_, T> {
        if self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.word.swap(CONTENDED, Ordering::Acquire) != FREE {
                if !matches!(wait(&self.word, CONTENDED, FOREVER), Ok(()) | Err(ErrorCode::WouldBlock)) {
                    // The kernel has no memory to park us: try again later.
                    syscall::thread_yield();
                }
            }
        }
        Guard { lock: self }
    }
}

/// Proof that the lock is held; releases it when dropped.
#[derive(Debug)]
pub struct Guard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard exists only while the word is not free, and only one exists then.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        if self.lock.word.swap(FREE, Ordering::Release) == CONTENDED {
            // Fails only if the lock's memory is gone, and then nobody sleeps on it.
            let _ = wake(&self.lock.word, 1);
        }
    }
}
