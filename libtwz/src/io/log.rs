//! A log that survives: records of text in a ring in an object, and the `log` facade into it.
//!
//! ```text
//! record: length and level (4 + 4) | milliseconds since 1970 (8) | text, padded to 8
//! ```
//! A record is durable when [`LogRing::append`] returns: its bytes first, then `end` (the commit point). When the ring is full the
//! oldest records go, one after the other, as far as they must.

use super::event::Bell;
use crate::error::{Error, Result, damaged};
use crate::invariant::Invariant;
use crate::persist;
use crate::sync::{Mutex, MutexGuard, until};
use crate::sys::{Platform, Seam};
use crate::window::{SLOT_MASK, Window};
use crate::{InvPtr, PCell};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

/// Bytes before a record's text.
const HEAD: usize = 16;
const ENDS: &str = "a log that is not longer than its ring";

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// As in the `log` crate: 1 error … 5 trace.
    pub level: u32,
    /// Milliseconds since 1970.
    pub time: u64,
    /// What was said.
    pub text: String,
}

/// A log of `N` bytes; `N` is a multiple of 8.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct LogRing<const N: usize> {
    ends: Mutex<Ends>,
    bell: InvPtr<Bell>,
    bytes: [PCell<u8>; N],
}

#[derive(Debug, Default, Invariant)]
#[repr(C)]
struct Ends {
    /// Where the oldest record starts, counted in bytes ever appended.
    start: PCell<u64>,
    /// Where the next one goes.
    end: PCell<u64>,
}

impl<const N: usize> Default for LogRing<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> LogRing<N> {
    /// An empty log.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(N.is_multiple_of(8) && N >= 64, "a log's size is a multiple of 8, at least 64") };
        let ends = Ends { start: PCell::new(0), end: PCell::new(0) };
        Self { ends: Mutex::new(ends), bell: InvPtr::null(), bytes: [const { PCell::new(0) }; N] }
    }

    /// What is rung when a record is appended; set it with [`crate::Tx::point`].
    #[must_use]
    pub const fn bell(&self) -> &InvPtr<Bell> {
        &self.bell
    }

    /// Appends a record, durably. Longer texts than half the ring are cut.
    ///
    /// # Errors
    /// What locking says; [`Error::Damaged`].
    pub fn append(&self, level: u32, text: &str) -> Result<()> {
        self.append_to(self.ends.lock_from_anyone(None)?, level, text)
    }

    /// [`LogRing::append`], waiting for others who use the log for at most `limit`.
    ///
    /// # Errors
    /// As [`LogRing::append`]; [`Error::TimedOut`].
    pub fn append_for(&self, level: u32, text: &str, limit: Duration) -> Result<()> {
        self.append_to(self.ends.lock_from_anyone(until(limit))?, level, text)
    }

    fn append_to(&self, ends: MutexGuard<'_, Ends>, level: u32, text: &str) -> Result<()> {
        let mut len = text.len().min(N / 2 - HEAD);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        let mut record = Vec::with_capacity(HEAD + len + 8);
        record.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        record.extend_from_slice(&level.to_le_bytes());
        let time = u64::try_from(Platform::realtime().as_millis()).unwrap_or(u64::MAX);
        record.extend_from_slice(&time.to_le_bytes());
        record.extend_from_slice(&text.as_bytes()[..len]);
        record.resize((HEAD + len).next_multiple_of(8), 0);
        let end = ends.end.get();
        let after = end.checked_add(record.len() as u64).ok_or_else(|| damaged(&ends.end, ENDS))?;
        // 1. The oldest records make room, durably, before their bytes change.
        while Self::used(&ends)? > (N - record.len()) as u64 {
            let start = ends.start.get();
            // Only its length counts: whatever else is wrong with it, it goes. If that is wrong, too, nobody can tell where the next one begins.
            let next = match self.head_at(&ends, start) {
                Ok((_, len)) => start.wrapping_add((HEAD + len).next_multiple_of(8) as u64),
                Err(_) => end,
            };
            set(&ends.start, next.min(end));
        }
        // 2. The record.
        self.pieces(end, record.len(), |window, at, done, piece| {
            window.write(at, &record[done..done + piece]);
            window.flush(at, piece);
        })?;
        persist::fence();
        // 3. Commit point.
        set(&ends.end, after);
        drop(ends);
        if let Ok(Some(bell)) = self.bell.get() {
            bell.ring();
        }
        Ok(())
    }

    /// Bytes between the ends.
    fn used(ends: &Ends) -> Result<u64> {
        let used = ends.end.get().checked_sub(ends.start.get()).filter(|used| *used <= N as u64);
        used.ok_or_else(|| damaged(ends, ENDS))
    }

    fn pieces(
        &self,
        start: u64,
        bytes: usize,
        mut with: impl FnMut(Window, usize, usize, usize),
    ) -> Result<()> {
        let address = self.bytes.as_ptr().addr();
        let window = Window::around(address)?;
        let mut done = 0;
        while done < bytes {
            let at = usize::try_from(start.wrapping_add(done as u64) % N as u64).unwrap_or(0);
            let piece = (bytes - done).min(N - at);
            with(window, (address & SLOT_MASK) + at, done, piece);
            done += piece;
        }
        Ok(())
    }

    /// The head of the record `at`, and how long its text is.
    fn head_at(&self, ends: &MutexGuard<'_, Ends>, at: u64) -> Result<([u8; HEAD], usize)> {
        let mut head = [0; HEAD];
        self.copy_out(at, &mut head)?;
        let [a, b, c, d, ..] = head;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        let left = usize::try_from(ends.end.get().wrapping_sub(at)).unwrap_or(0);
        if len > N / 2 || HEAD + len > left {
            return Err(self.damaged_at(at, "a log record that ends before the log does"));
        }
        Ok((head, len))
    }

    /// The record `at`, and where the next one is.
    fn read_at(&self, ends: &MutexGuard<'_, Ends>, at: u64) -> Result<(Result<Record>, u64)> {
        let ([_, _, _, _, e, f, g, h, time @ ..], len) = self.head_at(ends, at)?;
        let mut text = vec![0; len];
        self.copy_out(at.wrapping_add(HEAD as u64), &mut text)?;
        let record = match String::from_utf8(text) {
            Ok(text) => {
                Ok(Record { level: u32::from_le_bytes([e, f, g, h]), time: u64::from_le_bytes(time), text })
            }
            Err(_) => Err(self.damaged_at(at, "a log record in UTF-8")),
        };
        Ok((record, at.saturating_add((HEAD + len).next_multiple_of(8) as u64)))
    }

    /// The error for the record `at`.
    fn damaged_at(&self, at: u64, expected: &'static str) -> Error {
        let index = usize::try_from(at % N as u64).unwrap_or(0);
        damaged(&self.bytes[index], expected)
    }

    fn copy_out(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let bytes = into.len();
        self.pieces(at, bytes, |window, at, done, piece| {
            window.read(at, &mut into[done..done + piece]);
        })
    }

    /// Forgets all records, durably. Also mends a log whose ends are damaged.
    ///
    /// # Errors
    /// What locking says.
    pub fn clear(&self) -> Result<()> {
        let ends = self.ends.lock_from_anyone(None)?;
        let end = ends.end.get();
        // A multiple of 8 that more can follow, whatever damage made of it.
        let end = if end > u64::MAX / 2 { 0 } else { end.next_multiple_of(8) };
        // The start first and alone: at no moment do bytes of nobody count as records.
        set(&ends.start, end);
        set(&ends.end, end);
        Ok(())
    }

    /// All records, oldest first.
    ///
    /// # Errors
    /// What locking says; [`Error::Damaged`].
    pub fn records(&self) -> Result<Vec<Record>> {
        let ends = self.ends.lock_from_anyone(None)?;
        let (mut at, end) = (ends.start.get(), ends.end.get());
        Self::used(&ends)?;
        let mut records = Vec::new();
        while at < end {
            let (record, next) = self.read_at(&ends, at)?;
            records.push(record?);
            at = next;
        }
        Ok(records)
    }

    /// The records one by one, oldest first. `None` says that there is none yet: what is appended later comes with later calls, so the
    /// iterator follows the log. What was overwritten before its turn is left out. One that is not UTF-8 is an error, after which the next
    /// comes; with one whose length cannot be all ends, since nobody can tell where the next one is.
    pub const fn iter(&self) -> LogIter<'_, N> {
        LogIter { log: self, at: Some(0) }
    }
}

/// The records of a [`LogRing`]; see [`LogRing::iter`].
#[derive(Clone, Debug)]
pub struct LogIter<'a, const N: usize> {
    log: &'a LogRing<N>,
    /// Where the next record is, if it is not overwritten yet; none after damage.
    at: Option<u64>,
}

impl<const N: usize> LogIter<'_, N> {
    fn take(&mut self, at: u64) -> Result<Option<Record>> {
        self.at = None;
        let ends = self.log.ends.lock_from_anyone(None)?;
        let (start, end) = (ends.start.get(), ends.end.get());
        LogRing::<N>::used(&ends)?;
        // Past the end: the log was damaged and cleared, and counts anew.
        let at = if at > end { start } else { at.max(start) };
        self.at = Some(at);
        if at == end {
            return Ok(None);
        }
        self.at = None;
        let (record, next) = self.log.read_at(&ends, at)?;
        self.at = Some(next);
        record.map(Some)
    }
}

impl<const N: usize> Iterator for LogIter<'_, N> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take(self.at?).transpose()
    }
}

impl<'a, const N: usize> IntoIterator for &'a LogRing<N> {
    type Item = Result<Record>;
    type IntoIter = LogIter<'a, N>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

fn set(cell: &PCell<u64>, value: u64) {
    cell.set_without_log(value);
    persist::persist(cell.as_ptr().addr(), 8);
}

#[cfg(any(feature = "log", feature = "tracing"))]
pub use super::facade::{BadFilter, FACADE_RING, Facade};
