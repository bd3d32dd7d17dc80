//! Durable stores to persistent memory: one trait, its native backend, and a simulator of power failures.
//!
//! # Contract
//! - Every durable structure of ours (the pool's metadata, `libtwz`'s transactions) is written through [`Pmem`] and
//!   through nothing else, so that one test engine can cut the power between any two stores.
//! - An aligned 8-byte store is atomic: after a power failure the word is the old or the new one.
//! - The stores of one backend call, and successive calls of one thread, reach the cache in program order. Within a
//!   64-byte line they become durable in that order, so any *prefix* of a line's stores may survive; different lines
//!   are independent of each other. The words of one call around the cache ([`Pmem::write_nt`] and its like) become durable in any order.
//! - A store is durable for certain once its line was given to [`Pmem::flush`] after it and then [`Pmem::fence`]
//!   returned on the same thread; a [`Pmem::write_nt`] needs the fence only.
//! - Offsets count bytes from the start of the region. An access outside it is a bug of the caller and panics;
//!   whoever takes an offset out of pmem checks it first.
//!
//! Sources: Intel SDM vol. 1 §11.4.4 and vol. 2 (CLWB, CLFLUSHOPT, MOVNTI, SFENCE); the line-prefix model is the one
//! that persistent-memory checkers use (Yat, ATC'14; Jaaru, ASPLOS'21).
//!
//! | backend | durable by | for |
//! |---|---|---|
//! | [`Native`] | `clwb`/`clflushopt`/`clflush`, `sfence`, `movnti` | DAX; guests, where it is all there is |
//! | `Msynced` (feature `std`) | `msync` at each fence | a file without DAX |
//! | `shadow::Shadow` (feature `std`) | a copy to the medium at each fence | power failures of whole systems |
//! | `sim::Sim` (feature `sim`) | being told so | crash tests |
#![cfg_attr(not(feature = "std"), no_std)]

mod cpu;
#[cfg(feature = "std")]
mod msync;
mod native;
#[cfg(feature = "std")]
pub mod shadow;
#[cfg(feature = "sim")]
pub mod sim;
pub mod trace;

pub use cpu::{FlushInstruction, flush_instruction};
#[cfg(feature = "std")]
pub use msync::Msynced;
pub use native::Native;

/// Bytes in a cache line: what is flushed, and the reach of store order.
pub const LINE: u64 = 64;
/// Bytes in a word: what is stored atomically.
pub const WORD: u64 = 8;

/// A region of persistent memory, and the only way to write to it.
///
/// Generic and inlined: with [`Native`] a `store` is one `mov` behind a bounds check.
///
/// What stores, flushes and fences is `track_caller`: the simulator notes which line of a program did it.
///
/// The methods take `&self` since several threads share a region. Words are stored atomically, so racing accesses
/// are defined, but what racing writers mean by them is for the caller to order.
pub trait Pmem {
    /// Size of the region in bytes.
    fn len(&self) -> u64;

    /// Whether the region is empty.
    #[inline]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Loads the word at `at`, a multiple of 8 (acquire).
    fn load(&self, at: u64) -> u64;

    /// Stores the word at `at`, a multiple of 8, atomically (release). Durable after flush and fence.
    #[track_caller]
    fn store(&self, at: u64, value: u64);

    /// Replaces the word at `at` by `new` if it is `current`; else returns what it is. Durable after flush and fence.
    ///
    /// # Errors
    /// The word found, when it is not `current`.
    #[track_caller]
    fn compare_exchange(&self, at: u64, current: u64, new: u64) -> Result<u64, u64>;

    /// Copies `into.len()` bytes at `at` out of the region. Bytes that others write meanwhile may be torn by words.
    fn read(&self, at: u64, into: &mut [u8]);

    /// Stores `from` at `at` through the cache, in ascending order, whole words atomically where `at` is aligned.
    /// Durable after flush and fence.
    #[track_caller]
    fn write(&self, at: u64, from: &[u8]);

    /// Stores `from` at `at` around the cache. Durable after the next fence without a flush.
    #[track_caller]
    fn write_nt(&self, at: u64, from: &[u8]);

    /// Zeroes `len` bytes around the cache. Durable after the next fence without a flush.
    #[track_caller]
    fn zero_nt(&self, at: u64, len: u64);

    /// Copies `len` bytes from `from` to `to` inside the region, all multiples of 8 and not overlapping, around the
    /// cache. Durable after the next fence without a flush.
    #[track_caller]
    fn copy_nt(&self, from: u64, to: u64, len: u64);

    /// Tells the backend that `len` bytes at `at` were written by plain stores through a pointer, not by this trait.
    /// Costs nothing where stores need no witness; the simulator compares and records. Call it before the flush.
    #[inline]
    #[track_caller]
    fn wrote(&self, at: u64, len: u64) {
        let _ = (at, len);
    }

    /// Starts writing back every line that `len` bytes at `at` touch. Complete after the next fence.
    #[track_caller]
    fn flush(&self, at: u64, len: u64);

    /// Waits until everything that this thread flushed or stored around the cache is durable.
    #[track_caller]
    fn fence(&self);

    /// [`Pmem::flush`] and [`Pmem::fence`].
    #[inline]
    #[track_caller]
    fn persist(&self, at: u64, len: u64) {
        self.flush(at, len);
        self.fence();
    }
}

/// Loads and stores of a [`Pmem`] whose field `$region` is one: for backends that differ in what makes them durable.
#[macro_export]
macro_rules! loads_and_stores_of {
    ($region:ident) => {
        #[inline]
        fn len(&self) -> u64 {
            self.$region.len()
        }
        #[inline]
        fn load(&self, at: u64) -> u64 {
            self.$region.load(at)
        }
        #[inline]
        fn store(&self, at: u64, value: u64) {
            self.$region.store(at, value);
        }
        #[inline]
        fn compare_exchange(&self, at: u64, current: u64, new: u64) -> ::core::result::Result<u64, u64> {
            self.$region.compare_exchange(at, current, new)
        }
        #[inline]
        fn read(&self, at: u64, into: &mut [u8]) {
            self.$region.read(at, into);
        }
        #[inline]
        fn write(&self, at: u64, from: &[u8]) {
            self.$region.write(at, from);
        }
    };
}

/// Stores around the cache of a [`Pmem`] whose field `$region` is one, for backends to which such a store is one that is flushed at once.
#[cfg(feature = "std")]
macro_rules! flushed_stores_of {
    ($region:ident) => {
        fn write_nt(&self, at: u64, from: &[u8]) {
            self.$region.write(at, from);
            self.flush(at, from.len() as u64);
        }
        fn zero_nt(&self, at: u64, len: u64) {
            self.$region.zero_nt(at, len);
            self.flush(at, len);
        }
        fn copy_nt(&self, from: u64, to: u64, len: u64) {
            self.$region.copy_nt(from, to, len);
            self.flush(to, len);
        }
    };
}
#[cfg(feature = "std")]
pub(crate) use flushed_stores_of;

/// A shared reference to a region is as good as the region.
impl<M: Pmem + ?Sized> Pmem for &M {
    #[inline]
    fn len(&self) -> u64 {
        (**self).len()
    }
    #[inline]
    fn load(&self, at: u64) -> u64 {
        (**self).load(at)
    }
    #[inline]
    fn store(&self, at: u64, value: u64) {
        (**self).store(at, value);
    }
    #[inline]
    fn compare_exchange(&self, at: u64, current: u64, new: u64) -> Result<u64, u64> {
        (**self).compare_exchange(at, current, new)
    }
    #[inline]
    fn read(&self, at: u64, into: &mut [u8]) {
        (**self).read(at, into);
    }
    #[inline]
    fn write(&self, at: u64, from: &[u8]) {
        (**self).write(at, from);
    }
    #[inline]
    fn write_nt(&self, at: u64, from: &[u8]) {
        (**self).write_nt(at, from);
    }
    #[inline]
    fn zero_nt(&self, at: u64, len: u64) {
        (**self).zero_nt(at, len);
    }
    #[inline]
    fn copy_nt(&self, from: u64, to: u64, len: u64) {
        (**self).copy_nt(from, to, len);
    }
    #[inline]
    fn wrote(&self, at: u64, len: u64) {
        (**self).wrote(at, len);
    }
    #[inline]
    fn flush(&self, at: u64, len: u64) {
        (**self).flush(at, len);
    }
    #[inline]
    fn fence(&self) {
        (**self).fence();
    }
}
