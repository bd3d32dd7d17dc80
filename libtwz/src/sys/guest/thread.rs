//! Threads; see [`crate::thread`].

use super::Guest;
use crate::sys::Seam;
use alloc::boxed::Box;
use alloc::string::String;
use core::any::Any;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

pub use twz_rt::thread::Ended;

/// What joining a thread gives: its value, or in a box the [`Ended`] that says how else it ended.
pub type Result<T> = core::result::Result<T, Box<dyn Any + Send + 'static>>;

/// What a new thread is to be.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    name: Option<String>,
}

impl Builder {
    /// All defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A name for messages; the kernel keeps its first 16 bytes.
    #[must_use]
    pub fn name(mut self, name: String) -> Self {
        self.name = Some(name);
        self
    }

    /// Starts a thread that runs `body`.
    ///
    /// # Errors
    /// [`Error::Platform`] when there is no memory, or no room in the pool, for its stack.
    pub fn spawn<T, F>(self, body: F) -> crate::Result<JoinHandle<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let mut builder = twz_rt::thread::Builder::new();
        if let Some(name) = &self.name {
            builder = builder.name(name);
        }
        let inner = builder.spawn(body).map_err(|error| super::platform("start a thread", error))?;
        Ok(JoinHandle { inner })
    }
}

/// Starts a thread with all defaults.
///
/// # Panics
/// When it cannot be started; [`Builder::spawn`] returns an error instead.
pub fn spawn<T, F>(body: F) -> JoinHandle<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match Builder::new().spawn(body) {
        Ok(handle) => handle,
        Err(error) => panic!("{error}"),
    }
}

/// A thread that was started; dropping the handle lets it run on.
#[derive(Debug)]
pub struct JoinHandle<T> {
    inner: twz_rt::thread::JoinHandle<T>,
}

impl<T> JoinHandle<T> {
    /// Waits for the thread's end.
    ///
    /// # Errors
    /// An [`Ended`] in a box when it panicked or faulted.
    pub fn join(self) -> Result<T> {
        self.inner.join().map_err(|ended| -> Box<dyn Any + Send> { Box::new(ended) })
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.inner.is_finished()
    }
}

/// Sleeps for at least `time`.
pub fn sleep(time: Duration) {
    let until = Guest::monotonic() + time;
    let nobody_wakes = AtomicU32::new(0);
    while let Some(left) = until.checked_sub(Guest::monotonic()).filter(|left| !left.is_zero()) {
        Guest::wait(&nobody_wakes, 0, Some(left));
    }
}

/// Lets other threads run.
pub fn yield_now() {
    Guest::yield_now();
}
