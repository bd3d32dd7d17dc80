//! A stream of bytes in an object: what one end writes the other reads, in whatever program it is.
//!
//! Bytes wait durably: [`Stream::write`] returns when they are (two fences a call). Any number of writers and readers; each call is
//! one piece.

use super::event::Bell;
use crate::error::{Error, Result, damaged};
use crate::invariant::Invariant;
use crate::persist;
use crate::sync::{Condvar, Mutex, MutexGuard, left, until};
use crate::window::{SLOT_MASK, Window};
use crate::{InvPtr, PCell};
use core::time::Duration;

/// How long a call waits.
#[derive(Clone, Copy, Debug)]
enum Patience {
    None,
    Until(Option<Duration>),
}

const FOREVER: Patience = Patience::Until(None);

/// A stream in which at most `N` bytes wait.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct Stream<const N: usize> {
    state: Mutex<State>,
    not_empty: Condvar,
    not_full: Condvar,
    bell: InvPtr<Bell>,
    bytes: [PCell<u8>; N],
}

#[derive(Debug, Default, Invariant)]
#[repr(C)]
struct State {
    /// Bytes ever written.
    written: PCell<u64>,
    /// Bytes ever read.
    read: PCell<u64>,
    /// Nonzero: nothing more is written.
    closed: PCell<u64>,
}

impl<const N: usize> Default for Stream<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Stream<N> {
    /// An empty stream.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(N > 0, "a stream has room for a byte") };
        Self {
            state: Mutex::new(State { written: PCell::new(0), read: PCell::new(0), closed: PCell::new(0) }),
            not_empty: Condvar::new(),
            not_full: Condvar::new(),
            bell: InvPtr::null(),
            bytes: [const { PCell::new(0) }; N],
        }
    }

    /// What is rung when bytes arrive or the stream is closed; set it with [`crate::Tx::point`].
    #[must_use]
    pub const fn bell(&self) -> &InvPtr<Bell> {
        &self.bell
    }

    fn waiting(state: &State) -> Result<usize> {
        let waiting =
            usize::try_from(state.written.get().wrapping_sub(state.read.get())).unwrap_or(usize::MAX);
        if waiting <= N { Ok(waiting) } else { Err(damaged(state, "at most N bytes in a stream")) }
    }

    /// Writes some of `from`, at least one byte, waiting for room; returns how many.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn write(&self, from: &[u8]) -> Result<usize> {
        self.write_within(from, FOREVER)
    }

    /// [`Stream::write`] if there is room.
    ///
    /// # Errors
    /// [`Error::WouldBlock`], [`Error::Closed`].
    pub fn try_write(&self, from: &[u8]) -> Result<usize> {
        self.write_within(from, Patience::None)
    }

    /// [`Stream::write`], waiting for room for at most `limit`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Closed`].
    pub fn write_for(&self, from: &[u8], limit: Duration) -> Result<usize> {
        self.write_within(from, Patience::Until(until(limit)))
    }

    fn write_within(&self, from: &[u8], patience: Patience) -> Result<usize> {
        let state = self.state.lock_from_anyone(None)?;
        while Self::waiting(&state)? >= N && state.closed.get() == 0 && !from.is_empty() {
            wait_at(&self.not_full, &state, patience)?;
        }
        if state.closed.get() != 0 {
            return Err(Error::Closed);
        }
        let count = from.len().min(N - Self::waiting(&state)?);
        self.copy(state.written.get(), count, |window, at, done, piece| {
            window.write(at, &from[done..done + piece]);
            window.flush(at, piece);
        })?;
        persist::fence();
        advance(&state.written, count); // commit point
        self.wake(&state);
        Ok(count)
    }

    /// Writes all of `from`, in pieces where it must wait for room.
    ///
    /// # Errors
    /// As [`Stream::write`].
    pub fn write_all(&self, from: &[u8]) -> Result<()> {
        let mut rest = from;
        while !rest.is_empty() {
            rest = &rest[self.write(rest)?..];
        }
        Ok(())
    }

    /// Reads some bytes, waiting for at least one; 0 at the end of a closed stream.
    ///
    /// # Errors
    /// What locking says.
    pub fn read(&self, into: &mut [u8]) -> Result<usize> {
        self.read_within(into, FOREVER)
    }

    /// [`Stream::read`] if there are bytes.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when there are none in a stream that is not closed; what locking says.
    pub fn try_read(&self, into: &mut [u8]) -> Result<usize> {
        self.read_within(into, Patience::None)
    }

    /// [`Stream::read`], waiting for bytes for at most `limit`.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; what locking says.
    pub fn read_for(&self, into: &mut [u8], limit: Duration) -> Result<usize> {
        self.read_within(into, Patience::Until(until(limit)))
    }

    fn read_within(&self, into: &mut [u8], patience: Patience) -> Result<usize> {
        let state = self.state.lock_from_anyone(None)?;
        while Self::waiting(&state)? == 0 && state.closed.get() == 0 && !into.is_empty() {
            wait_at(&self.not_empty, &state, patience)?;
        }
        let count = into.len().min(Self::waiting(&state)?);
        self.copy(state.read.get(), count, |window, at, done, piece| {
            window.read(at, &mut into[done..done + piece]);
        })?;
        if count > 0 {
            advance(&state.read, count);
            self.not_full.notify_all();
        }
        Ok(count)
    }

    /// Calls `with(window, offset, done, bytes)` for the one or two pieces of the ring that `count` bytes from `start` are in.
    fn copy(
        &self,
        start: u64,
        count: usize,
        mut with: impl FnMut(Window, usize, usize, usize),
    ) -> Result<()> {
        let address = self.bytes.as_ptr().addr();
        let window = Window::around(address)?;
        let mut done = 0;
        while done < count {
            let at = usize::try_from(start.wrapping_add(done as u64) % N as u64).unwrap_or(0);
            let piece = (count - done).min(N - at);
            with(window, (address & SLOT_MASK) + at, done, piece);
            done += piece;
        }
        Ok(())
    }

    /// Lets nothing more be written; what waits can be read.
    ///
    /// # Errors
    /// What locking says.
    pub fn close(&self) -> Result<()> {
        let state = self.state.lock_from_anyone(None)?;
        state.closed.set_without_log(1);
        persist::persist(state.closed.as_ptr().addr(), 8);
        self.not_full.notify_all();
        self.wake(&state);
        Ok(())
    }

    /// Tells those who wait. What they are told of is done: a bell that leads astray rings nowhere, and is no reason to say otherwise.
    fn wake(&self, _held: &MutexGuard<'_, State>) {
        self.not_empty.notify_all();
        if let Ok(Some(bell)) = self.bell.get() {
            bell.ring();
        }
    }
}

fn wait_at(at: &Condvar, held: &MutexGuard<'_, State>, patience: Patience) -> Result<()> {
    let woken = match patience {
        Patience::None => return Err(Error::WouldBlock),
        Patience::Until(until) => match left(until)? {
            None => at.wait(held),
            Some(left) => at.wait_for(held, left),
        },
    };
    match woken {
        // The last byte may have come with the end of the time: the caller looks again, and then nothing is left of it. Who had the lock and has ended
        // left the counters whole.
        Err(Error::TimedOut | Error::HolderEnded { .. }) => Ok(()),
        other => other,
    }
}

fn advance(cell: &PCell<u64>, count: usize) {
    cell.set_without_log(cell.get().wrapping_add(count as u64));
    persist::persist(cell.as_ptr().addr(), 8);
}
