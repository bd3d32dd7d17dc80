//! A bounded channel in an object: any number of senders and receivers, in any program that maps it.
//!
//! A message is sent when [`Channel::send`] returns, durably: places are written before the counter that shows them (two fences).

use super::condvar::Condvar;
use super::mutex::Mutex;
use super::raw::RawMutex;
use super::word::Word;
use crate::cell::PCell;
use crate::error::{Error, Result, damaged};
use crate::invariant::Invariant;
use crate::persist;
use core::sync::atomic::AtomicU64;

/// How the two sides of a channel wait for each other, on words of any kind.
#[doc(hidden)]
#[derive(Debug)]
pub struct Passage<'a, W: Word> {
    /// Held by whoever looks at the channel.
    pub lock: &'a RawMutex<W>,
    /// Where receivers wait.
    pub not_empty: &'a Condvar<W>,
    /// Where senders wait.
    pub not_full: &'a Condvar<W>,
}

impl<W: Word> Passage<'_, W> {
    /// Puts a message in as soon as there is a place.
    ///
    /// # Errors
    /// What the two say, and the lock.
    pub fn send<R>(
        &self,
        is_full: impl FnMut() -> Result<bool>,
        put: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        self.pass(is_full, self.not_full, put, self.not_empty)
    }

    /// Takes a message out as soon as there is one.
    ///
    /// # Errors
    /// As [`Passage::send`].
    pub fn receive<R>(
        &self,
        is_empty: impl FnMut() -> Result<bool>,
        take: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        self.pass(is_empty, self.not_empty, take, self.not_full)
    }

    /// With the lock held: waits at `here` while it must, passes, and wakes one who waits `there`.
    fn pass<R>(
        &self,
        mut must_wait: impl FnMut() -> Result<bool>,
        here: &Condvar<W>,
        pass: impl FnOnce() -> Result<R>,
        there: &Condvar<W>,
    ) -> Result<R> {
        struct Held<'a, W: Word>(&'a RawMutex<W>);
        impl<W: Word> Drop for Held<'_, W> {
            fn drop(&mut self) {
                self.0.unlock();
            }
        }
        // Also from a thread that has ended: the counters are whole after each store.
        self.lock.take_from_anyone(None)?;
        let held = Held(self.lock);
        while must_wait()? {
            match here.wait_on(self.lock, None) {
                Err(Error::HolderEnded { .. }) => {}
                other => other?,
            }
        }
        let passed = pass()?;
        there.notify_one();
        drop(held);
        Ok(passed)
    }
}

/// A channel of at most `N` messages that wait.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct Channel<T: Invariant + Copy, const N: usize> {
    state: Mutex<Counters>,
    not_empty: Condvar,
    not_full: Condvar,
    places: [PCell<T>; N],
}

#[derive(Debug, Default, Invariant)]
#[repr(C)]
struct Counters {
    /// Messages ever sent.
    sent: PCell<u64>,
    /// Messages ever received.
    received: PCell<u64>,
    /// Nonzero: nothing more is sent.
    closed: PCell<u64>,
}

impl Counters {
    /// Messages that wait, at most `most`.
    fn waiting(&self, most: usize) -> Result<u64> {
        let waiting = self.sent.get().wrapping_sub(self.received.get());
        if waiting <= most as u64 {
            Ok(waiting)
        } else {
            Err(damaged(self, "at most N messages in a channel"))
        }
    }
}

impl<T: Invariant + Copy, const N: usize> Channel<T, N> {
    /// An empty channel; `blank` fills its places.
    #[must_use]
    pub fn new(blank: T) -> Self {
        Self {
            state: Mutex::new(Counters::default()),
            not_empty: Condvar::new(),
            not_full: Condvar::new(),
            places: core::array::from_fn(|_| PCell::new(blank)),
        }
    }

    fn place(&self, number: u64) -> Result<&PCell<T>> {
        let index = usize::try_from(number % (N.max(1) as u64)).unwrap_or(0);
        self.places.get(index).ok_or(Error::TooLarge { bytes: 0 })
    }

    fn passage(&self) -> (Passage<'_, AtomicU64>, &Counters) {
        let (lock, state) = self.state.parts();
        (Passage { lock, not_empty: &self.not_empty, not_full: &self.not_full }, state)
    }

    /// Sends a message, waiting for a place.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Damaged`].
    pub fn send(&self, message: T) -> Result<()> {
        let (passage, state) = self.passage();
        let is_full = || Ok(state.waiting(N)? >= N as u64 && state.closed.get() == 0);
        passage.send(is_full, || self.put(state, message))
    }

    /// Sends a message if there is a place.
    ///
    /// # Errors
    /// [`Error::WouldBlock`], [`Error::Closed`].
    pub fn try_send(&self, message: T) -> Result<()> {
        let (passage, state) = self.passage();
        let is_full = || {
            let is_full = state.waiting(N)? >= N as u64 && state.closed.get() == 0;
            if is_full { Err(Error::WouldBlock) } else { Ok(false) }
        };
        passage.send(is_full, || self.put(state, message))
    }

    fn put(&self, state: &Counters, message: T) -> Result<()> {
        if state.closed.get() != 0 {
            return Err(Error::Closed);
        }
        let place = self.place(state.sent.get())?;
        place.set_without_log(message);
        persist::persist(place.as_ptr().addr(), size_of::<T>());
        store(&state.sent, state.sent.get().wrapping_add(1)); // commit point
        Ok(())
    }

    /// Receives the oldest message, waiting for one.
    ///
    /// # Errors
    /// [`Error::Closed`] when it is closed and empty.
    pub fn receive(&self) -> Result<T> {
        let (passage, state) = self.passage();
        let is_empty = || Ok(state.waiting(N)? == 0 && state.closed.get() == 0);
        passage.receive(is_empty, || self.take(state)?.ok_or(Error::Closed))
    }

    /// Receives the oldest message if there is one.
    ///
    /// # Errors
    /// [`Error::Closed`] when it is closed and empty; [`Error::WouldBlock`].
    pub fn try_receive(&self) -> Result<T> {
        let (passage, state) = self.passage();
        let closed = || if state.closed.get() != 0 { Error::Closed } else { Error::WouldBlock };
        passage.receive(|| Ok(false), || self.take(state)?.ok_or_else(closed))
    }

    fn take(&self, state: &Counters) -> Result<Option<T>> {
        if state.waiting(N)? == 0 {
            return Ok(None);
        }
        let received = state.received.get();
        let message = self.place(received)?.get();
        store(&state.received, received.wrapping_add(1));
        Ok(Some(message))
    }

    /// A copy of the messages that wait, oldest first; they go on waiting.
    ///
    /// # Errors
    /// As [`Mutex::lock`]; [`Error::Damaged`].
    pub fn waiting(&self) -> Result<alloc::vec::Vec<T>> {
        let state = self.state.lock_from_anyone(None)?;
        let first = state.received.get();
        (0..state.waiting(N)?).map(|i| Ok(self.place(first.wrapping_add(i))?.get())).collect()
    }

    /// Lets nothing more be sent; what was sent can be received.
    ///
    /// # Errors
    /// As [`Mutex::lock`].
    pub fn close(&self) -> Result<()> {
        let state = self.state.lock_from_anyone(None)?;
        store(&state.closed, 1);
        self.not_empty.notify_all();
        self.not_full.notify_all();
        Ok(())
    }
}

fn store(cell: &PCell<u64>, value: u64) {
    cell.set_without_log(value);
    persist::persist(cell.as_ptr().addr(), 8);
}
