//! A value that one thread at a time may use.

use super::raw::RawMutex;
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use core::marker::PhantomData;
use core::ops::Deref;
use core::time::Duration;

/// A lock and what it guards. What it guards is changed through cells and transactions, as everything in objects.
#[derive(Debug, Default, Invariant)]
#[repr(C)]
pub struct Mutex<T: Invariant> {
    raw: RawMutex,
    value: T,
}

/// Holding a [`Mutex`]; frees it when dropped.
///
/// It stays with its thread, whose number the lock's word holds:
/// ```compile_fail,E0277
/// fn pass_on(held: libtwz::sync::MutexGuard<'static, u64>) {
///     std::thread::spawn(move || drop(held)); // error: cannot be sent between threads
/// }
/// ```
#[derive(Debug)]
pub struct MutexGuard<'a, T: Invariant> {
    mutex: &'a Mutex<T>,
    /// Not [`Send`].
    thread: PhantomData<*const ()>,
}

impl<T: Invariant> Mutex<T> {
    /// A free lock around `value`.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self { raw: RawMutex::new(), value }
    }

    /// Takes the lock, sleeping while another thread has it.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when the caller holds it; [`Error::HolderEnded`], and then [`Mutex::take_over`] is for those who can tell what is half changed.
    pub fn lock(&self) -> Result<MutexGuard<'_, T>> {
        self.raw.lock()?;
        Ok(MutexGuard::of(self))
    }

    /// Takes the lock if that needs no waiting.
    ///
    /// # Errors
    /// [`Error::WouldBlock`].
    pub fn try_lock(&self) -> Result<MutexGuard<'_, T>> {
        if self.raw.try_lock() { Ok(MutexGuard::of(self)) } else { Err(Error::WouldBlock) }
    }

    /// Takes the lock, waiting for at most `limit`.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; as [`Mutex::lock`].
    pub fn lock_for(&self, limit: Duration) -> Result<MutexGuard<'_, T>> {
        self.raw.lock_for(limit)?;
        Ok(MutexGuard::of(self))
    }

    /// Takes the lock from a thread that has ended. What it guards is as that thread left it: perhaps half changed, which the caller puts in order (as of
    /// POSIX's robust mutexes, `pthread_mutex_consistent`).
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when no thread has it that has ended.
    pub fn take_over(&self) -> Result<MutexGuard<'_, T>> {
        self.raw.take_over().map(|_| MutexGuard::of(self)).ok_or(Error::WouldBlock)
    }

    /// Takes the lock, waiting until a moment, also from a thread that has ended: for what is whole after each store.
    pub(crate) fn lock_from_anyone(&self, until: Option<Duration>) -> Result<MutexGuard<'_, T>> {
        self.raw.take_from_anyone(until).map(|_| MutexGuard::of(self))
    }
}

impl<T: Invariant> Mutex<T> {
    /// The lock, and what it guards: only to be used by whoever holds the lock.
    pub(super) fn parts(&self) -> (&RawMutex, &T) {
        (&self.raw, &self.value)
    }
}

impl<'a, T: Invariant> MutexGuard<'a, T> {
    /// The calling thread has taken the lock.
    const fn of(mutex: &'a Mutex<T>) -> Self {
        Self { mutex, thread: PhantomData }
    }

    /// The lock that is held.
    pub(super) fn raw(&self) -> &'a RawMutex {
        &self.mutex.raw
    }
}

impl<T: Invariant> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.mutex.value
    }
}

impl<T: Invariant> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.mutex.raw.unlock();
    }
}
