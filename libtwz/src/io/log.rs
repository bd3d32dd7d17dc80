//! A log that survives: records of text in a ring in an object, and the `log` facade into it.
//!
//! ```text
//! record: length and level (4 + 4) | milliseconds since 1970 (8) | text, padded to 8
//! ```
//! A record is durable when [`LogRing::append`] returns: its bytes first, then `end` (the commit point). When the ring is full the
//! oldest records go.

use crate::PCell;
use crate::error::{Error, Result, damaged};
use crate::invariant::Invariant;
use crate::persist;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::{Platform, Seam};
use crate::window::{SLOT_MASK, Window};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

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
        Self { ends: Mutex::new(ends), bytes: [const { PCell::new(0) }; N] }
    }

    /// Appends a record, durably. Longer texts than half the ring are cut.
    ///
    /// # Errors
    /// What locking says; [`Error::Damaged`].
    pub fn append(&self, level: u32, text: &str) -> Result<()> {
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
        let ends = self.ends.lock()?;
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

    fn read_at(&self, ends: &MutexGuard<'_, Ends>, at: u64) -> Result<Record> {
        let ([_, _, _, _, e, f, g, h, time @ ..], len) = self.head_at(ends, at)?;
        let mut text = vec![0; len];
        self.copy_out(at.wrapping_add(HEAD as u64), &mut text)?;
        let text = String::from_utf8(text).map_err(|_| self.damaged_at(at, "a log record in UTF-8"))?;
        Ok(Record { level: u32::from_le_bytes([e, f, g, h]), time: u64::from_le_bytes(time), text })
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
        let ends = self.ends.lock()?;
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
        let ends = self.ends.lock()?;
        let (mut at, end) = (ends.start.get(), ends.end.get());
        Self::used(&ends)?;
        let mut records = Vec::new();
        while at < end {
            let record = self.read_at(&ends, at)?;
            at = at.saturating_add((HEAD + record.text.len()).next_multiple_of(8) as u64);
            records.push(record);
        }
        Ok(records)
    }
}

fn set(cell: &PCell<u64>, value: u64) {
    cell.set_without_log(value);
    persist::persist(cell.as_ptr().addr(), 8);
}

#[cfg(any(feature = "log", feature = "tracing"))]
pub use super::facade::{FACADE_RING, Facade};
