//! The word that a primitive stands on, as a trait, so that loom can put its own in.

use crate::simulate;
use crate::sys::{Platform, Seam, Woken};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

/// Low half of a word: what is slept on, and everything that changes.
pub(super) const LOW: u64 = 0xffff_ffff;

/// A 64-bit word that threads share, sleep on, and that knows boot and thread. All orderings are acquire/release.
pub trait Word {
    /// Loads it (acquire).
    fn load(&self) -> u64;
    /// Replaces `current` by `new` (acquire and release); false when it is something else.
    fn replace(&self, current: u64, new: u64) -> bool;
    /// Stores `new` and returns what was there (acquire and release).
    fn swap(&self, new: u64) -> u64;
    /// Stores `new` (release), without waiting for it to be seen.
    fn store(&self, new: u64);
    /// Sleeps while the low half is `expected`.
    fn wait(&self, expected: u32, limit: Option<Duration>) -> Woken;
    /// Wakes up to `count` sleepers.
    fn wake(&self, count: u32);
    /// The boot's number in the high half.
    fn generation(&self) -> u64;
    /// The calling thread's number, 1 to 2^30 - 1.
    fn me(&self) -> u64;
    /// Whether the thread of that number still runs.
    fn lives(&self, thread: u64) -> bool;
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    #[inline]
    fn replace(&self, current: u64, new: u64) -> bool {
        let done = self.compare_exchange(current, new, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        simulate::stored(self.as_ptr().addr(), 8);
        done
    }

    #[inline]
    fn swap(&self, new: u64) -> u64 {
        let before = self.swap(new, Ordering::AcqRel);
        simulate::stored(self.as_ptr().addr(), 8);
        before
    }

    #[inline]
    fn store(&self, new: u64) {
        self.store(new, Ordering::Release);
        simulate::stored(self.as_ptr().addr(), 8);
    }

    fn wait(&self, expected: u32, limit: Option<Duration>) -> Woken {
        Platform::wait(low_half(self), expected, limit)
    }

    fn wake(&self, count: u32) {
        Platform::wake(low_half(self), count);
    }

    #[inline]
    fn generation(&self) -> u64 {
        u64::from(Platform::boot_generation()) << 32
    }

    #[inline]
    fn me(&self) -> u64 {
        u64::from(Platform::thread_id()) & (LOW >> 2)
    }

    fn lives(&self, thread: u64) -> bool {
        Platform::thread_lives(low(thread))
    }
}

/// Little-endian: the low half comes first.
fn low_half(word: &AtomicU64) -> &AtomicU32 {
    // SAFETY: the first half of a live word that is aligned to 8, accessed atomically by everybody.
    unsafe { &*core::ptr::from_ref(word).cast::<AtomicU32>() }
}

/// The low half of a value.
#[allow(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
#[must_use]
pub(super) const fn low(value: u64) -> u32 {
    value as u32
}
