//! Telling a recorder of each store, flush and fence, for the crash tests (`tests/crash/main.rs`).
//!
//! Without feature `crash-sim` these are empty functions. With it, a recorder sees everything that reaches objects through the crate, in
//! program order, with the place in the crate that did it; the test copies it into `pmem`'s simulator.

#[cfg(feature = "crash-sim")]
pub use with_recorder::{Event, Site, as_one_that_ends, reboot, record_with, repeat_random, set_by_cache};

#[cfg(feature = "crash-sim")]
pub(crate) use with_recorder::{acts_as, has_ended, repeated, repeated_id, tell};

#[cfg(feature = "crash-sim")]
mod with_recorder {
    use std::boxed::Box;
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use twz_abi::ObjectId;

    /// What was done to objects.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Event {
        /// Bytes were stored through the cache.
        Stored {
            /// First address.
            address: usize,
            /// How many.
            bytes: usize,
        },
        /// Bytes were stored around the cache.
        Around {
            /// First address.
            address: usize,
            /// How many.
            bytes: usize,
        },
        /// Lines were flushed.
        Flush {
            /// First address.
            address: usize,
            /// How many bytes.
            bytes: usize,
        },
        /// A fence.
        Fence,
    }

    /// A place in the crate: what calls this module's functions, or what calls those that only pass a store on.
    pub type Site = &'static Location<'static>;

    type Recorder = Box<dyn Fn(Event, Site) + Send + Sync>;

    static RECORDER: OnceLock<Recorder> = OnceLock::new();

    std::thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
        static BY_CACHE: Cell<Option<usize>> = const { Cell::new(None) };
        static ENDS_AFTER: Cell<Option<u32>> = const { Cell::new(None) };
        static ACTS_AS: Cell<u32> = const { Cell::new(1 << 22) };
    }

    /// What unwinds where a thread ends.
    struct Ended;

    /// Runs `body` as a thread that ends after so many events, in the middle of whatever it is at: nothing of it is undone, and what it has locked
    /// stays so, by nobody who lives. `None` if it came to that.
    pub fn as_one_that_ends<R>(after: u32, body: impl FnOnce() -> R) -> Option<R> {
        ENDS_AFTER.set(Some(after));
        ACTS_AS.set(ACTS_AS.get() % ((1 << 30) - 1) + 1);
        let result = catch_unwind(AssertUnwindSafe(body));
        ENDS_AFTER.set(None);
        result
            .map(Some)
            .unwrap_or_else(|reason| if reason.is::<Ended>() { None } else { resume_unwind(reason) })
    }

    /// The number of who ends: another each time, and none that Linux gives.
    pub(crate) fn acts_as() -> Option<u32> {
        ENDS_AFTER.get().map(|_| ACTS_AS.get())
    }

    /// Whether this thread has ended: what would be dropped is left as it is.
    pub(crate) fn has_ended() -> bool {
        ENDS_AFTER.get() == Some(0)
    }

    /// Up to how many bytes batches of this thread go through the cache, whatever is best on this processor.
    pub fn set_by_cache(bytes: usize) {
        BY_CACHE.set(Some(bytes));
    }

    pub(crate) fn by_cache() -> Option<usize> {
        BY_CACHE.get()
    }

    /// What this thread draws from here on (a map's seed, where an object's contents begin) is the same in each run with this `seed`.
    pub fn repeat_random(seed: u64) {
        STATE.set(Some(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).max(1)));
    }

    /// Fills `bytes`, if what this thread draws is to be the same in each run.
    pub(crate) fn repeated(bytes: &mut [u8]) -> bool {
        let Some(mut state) = STATE.get() else { return false };
        for byte in bytes {
            // Xorshift (Marsaglia, Journal of Statistical Software 8, 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state.to_le_bytes()[5];
        }
        STATE.set(Some(state));
        true
    }

    /// An object's ID, if what this thread draws is to be the same in each run: one that no other object of this process has, but whose halves
    /// differ in the same bits in each run. Where the contents begin follows from these.
    pub(crate) fn repeated_id() -> Option<ObjectId> {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let mut drawn = [0; 8];
        if !repeated(&mut drawn) {
            return None;
        }
        let hi = COUNT.fetch_add(1, Ordering::Relaxed);
        Some(ObjectId { lo: hi ^ u64::from_le_bytes(drawn), hi })
    }

    /// Sets the process's recorder, once; false when there is one.
    pub fn record_with(recorder: impl Fn(Event, Site) + Send + Sync + 'static) -> bool {
        RECORDER.set(Box::new(recorder)).is_ok()
    }

    #[track_caller]
    pub(crate) fn tell(event: Event) {
        if let Some(recorder) = RECORDER.get() {
            recorder(event, Location::caller());
        }
        match ENDS_AFTER.get() {
            None | Some(0) => {}
            Some(1) => {
                ENDS_AFTER.set(Some(0));
                resume_unwind(Box::new(Ended));
            }
            Some(left) => ENDS_AFTER.set(Some(left - 1)),
        }
    }

    /// Forgets what a power failure would make this process forget, and counts one boot more. Objects stay mapped; the caller has
    /// put their contents to what survived, and uses no lock, transaction or collection of before.
    pub fn reboot() {
        crate::sys::hosted::next_boot();
        crate::view::forget_recovered();
        crate::fot::forget_all_tables();
        crate::translate::forget_all(crate::view::used_slots());
    }
}

/// What a test has set instead of what is best on this processor.
#[inline(always)]
pub(crate) fn by_cache() -> Option<usize> {
    #[cfg(feature = "crash-sim")]
    return with_recorder::by_cache();
    #[cfg(not(feature = "crash-sim"))]
    None
}

/// Whether this thread is one that has ended.
#[cfg(not(feature = "crash-sim"))]
#[inline(always)]
pub(crate) const fn has_ended() -> bool {
    false
}

/// Bytes at `address` were stored through the cache.
#[inline(always)]
#[cfg_attr(feature = "crash-sim", track_caller)]
pub(crate) fn stored(address: usize, bytes: usize) {
    #[cfg(feature = "crash-sim")]
    tell(Event::Stored { address, bytes });
    #[cfg(not(feature = "crash-sim"))]
    let _ = (address, bytes);
}

/// Bytes at `address` were stored around the cache.
#[inline(always)]
#[cfg_attr(feature = "crash-sim", track_caller)]
pub(crate) fn stored_around(address: usize, bytes: usize) {
    #[cfg(feature = "crash-sim")]
    tell(Event::Around { address, bytes });
    #[cfg(not(feature = "crash-sim"))]
    let _ = (address, bytes);
}

/// Bytes at `address` are flushed.
#[inline(always)]
#[cfg_attr(feature = "crash-sim", track_caller)]
pub(crate) fn flush(address: usize, bytes: usize) {
    #[cfg(feature = "crash-sim")]
    tell(Event::Flush { address, bytes });
    #[cfg(not(feature = "crash-sim"))]
    let _ = (address, bytes);
}

/// A fence.
#[inline(always)]
#[cfg_attr(feature = "crash-sim", track_caller)]
pub(crate) fn fence() {
    #[cfg(feature = "crash-sim")]
    tell(Event::Fence);
}
