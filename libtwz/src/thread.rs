//! Threads, time, random numbers and the console, with std's shape on every platform.

use crate::error::Result;
use crate::sys::{Platform, Seam};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

const RUNNING: u32 = 0;
const ENDED: u32 = 1;

/// What a thread and its handle share.
struct Packet<T> {
    state: AtomicU32,
    result: UnsafeCell<Option<T>>,
}

// SAFETY: the thread writes the result before it stores ENDED, and the handle reads it after it saw that.
unsafe impl<T: Send> Sync for Packet<T> {}

/// A running thread; dropping the handle lets it run on.
pub struct JoinHandle<T> {
    packet: Arc<Packet<T>>,
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinHandle(ended: {})", self.is_finished())
    }
}

type Body = Box<dyn FnOnce() + Send>;

/// Starts a thread.
///
/// # Errors
/// [`crate::Error::Platform`].
pub fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    let packet = Arc::new(Packet { state: AtomicU32::new(RUNNING), result: UnsafeCell::new(None) });
    let theirs = Arc::clone(&packet);
    let body: Body = Box::new(move || {
        let result = body();
        // SAFETY: only this thread touches the result before ENDED.
        unsafe { *theirs.result.get() = Some(result) };
        theirs.state.store(ENDED, Ordering::Release);
        Platform::wake(&theirs.state, u32::MAX);
    });
    // Thin, so that it fits the word that a new thread gets.
    let argument = Box::into_raw(Box::new(body));
    if let Err(error) = Platform::spawn(begin, argument.expose_provenance()) {
        // SAFETY: no thread was started, so the box is still ours.
        drop(unsafe { Box::from_raw(argument) });
        return Err(error);
    }
    Ok(JoinHandle { packet })
}

extern "C" fn begin(argument: usize) {
    let body = core::ptr::with_exposed_provenance_mut::<Body>(argument);
    // SAFETY: `spawn` made the box for this one call.
    let body = unsafe { Box::from_raw(body) };
    body();
}

impl<T> JoinHandle<T> {
    /// Whether the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.packet.state.load(Ordering::Acquire) == ENDED
    }

    /// Waits for the thread's end; `None` when it ended without a result.
    #[must_use]
    pub fn join(self) -> Option<T> {
        while !self.is_finished() {
            Platform::wait(&self.packet.state, RUNNING, None);
        }
        // SAFETY: ENDED was seen, so the thread is done with it; `self` is consumed, so this is once.
        unsafe { (*self.packet.result.get()).take() }
    }
}

/// Sleeps for at least `time`.
pub fn sleep(time: Duration) {
    let until = Platform::monotonic() + time;
    let nobody_wakes = AtomicU32::new(0);
    while let Some(left) = until.checked_sub(Platform::monotonic()) {
        Platform::wait(&nobody_wakes, 0, Some(left));
    }
}

/// Lets others run.
pub fn yield_now() {
    Platform::yield_now();
}

/// Time since an arbitrary start, never going back.
#[must_use]
pub fn monotonic() -> Duration {
    Platform::monotonic()
}

/// Time since 1970, UTC.
#[must_use]
pub fn realtime() -> Duration {
    Platform::realtime()
}

/// Fills `bytes` with unpredictable ones.
pub fn random(bytes: &mut [u8]) {
    Platform::random(bytes);
}
