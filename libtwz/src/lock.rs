//! A lock for this program's volatile tables.
//!
//! # Contract
//! Mutual exclusion among the threads of one program; waiters sleep. Never held while object memory is touched whose first touch may fault
//! into code that needs the same lock. Persistent locks are in `sync`.

#[cfg(feature = "guest")]
pub(crate) use twz_rt::sync::Lock;

#[cfg(not(feature = "guest"))]
pub(crate) use hosted::Lock;

#[cfg(not(feature = "guest"))]
mod hosted {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// A value that one thread at a time may touch.
    #[derive(Debug)]
    pub(crate) struct Lock<T>(Mutex<T>);

    impl<T> Lock<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }

        /// The tables are whole after each change, so a thread that panicked while it held the lock left nothing half done.
        #[inline]
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
