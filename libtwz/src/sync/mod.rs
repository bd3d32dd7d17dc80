//! Concurrency primitives that stand in objects, and wait with the platform's `thread_sync`.
//!
//! # Contract
//! - Each is a word or a few in an object, works for all threads of all programs that map it writable, and starts as zeroes.
//! - What was held when the power failed is free: words carry the boot's number.
//! - The algorithms are generic over [`Word`], and `tests/loom.rs` runs these same ones through all interleavings.

mod barrier;
mod channel;
mod condvar;
mod mutex;
mod once;
mod raw;
mod rwlock;
mod turns;
mod version;
mod word;

pub use barrier::Barrier;
pub use channel::Channel;
#[doc(hidden)]
pub use channel::Passage;
pub use condvar::Condvar;
pub use mutex::{Mutex, MutexGuard};
pub use once::Once;
pub use raw::RawMutex;
#[doc(hidden)]
pub use raw::Taken;
pub(crate) use raw::{left, until};
pub use rwlock::{RawRwLock, ReadGuard, RwLock, WriteGuard};
#[doc(hidden)]
pub use turns::{Counter, Turns};
pub use version::Version;
pub use word::Word;
