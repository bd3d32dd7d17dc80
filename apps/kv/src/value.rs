//! What a look-up returns: the place of a value, and a way to notice that it changed.

use crate::error::{Error, Result};
use crate::index::Found;
use crate::layout::{HEADER, Record, first_bytes};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering, fence};

/// Where a value stands. Nothing is copied until one of the reading methods is called.
///
/// The bytes stay as they are until the key is put again or deleted; then the place is used for something else. Whoever reads in place
/// while others write asks [`Value::is_current`] afterwards; the copying methods do so themselves.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    pub(crate) record: Record,
    /// Counts the records of this key and some others that left the index, and what it was when this one was found.
    pub(crate) version: &'static AtomicU64,
    pub(crate) seen: u64,
}

impl Value {
    #[inline]
    pub(crate) fn new(found: Found) -> Self {
        Self { record: found.record, version: found.version, seen: found.seen }
    }

    /// Bytes of the value.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.record.value_len
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The address of the value's first byte, a multiple of 8: the direct pointer of paper §4.1. Valid in every thread and for as long as the
    /// value is current; reading through it needs the same right that the look-up needed.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        core::ptr::with_exposed_provenance(self.record.window.base() + self.record.value_at())
    }

    /// Word `number` of the value in place, little-endian; 0 past its end. What follows the value in the last word is cut off.
    #[inline]
    #[must_use]
    pub fn word(&self, number: usize) -> u64 {
        let at = number.saturating_mul(8);
        if at > self.len() {
            return 0;
        }
        let word = self.record.window.load_at_any::<HEADER>(self.record.offset + at);
        first_bytes(word, self.len() - at)
    }

    /// Whether no record has left the part of the index where this one was found: then everything read so far was the value.
    #[inline]
    #[must_use]
    pub fn is_current(&self) -> bool {
        fence(Ordering::Acquire);
        self.version.load(Ordering::Relaxed) == self.seen
    }

    /// A copy of the value.
    ///
    /// # Errors
    /// [`Error::Changed`] when a writer was at work meanwhile: look the key up again. [`Error::Damaged`], [`Error::NoMemory`].
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        self.copy(self.record.value_at(), self.len())
    }

    /// A copy of the key.
    ///
    /// # Errors
    /// As [`Value::to_vec`].
    pub fn key(&self) -> Result<Vec<u8>> {
        self.copy(self.record.key_at(), self.record.key_len)
    }

    fn copy(&self, at: usize, len: usize) -> Result<Vec<u8>> {
        if !self.record.fits() {
            return Err(if self.is_current() { Error::Damaged } else { Error::Changed });
        }
        // A length that fits the object may still be nonsense, and more than this program has memory for.
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Error::NoMemory { bytes: len as u64 })?;
        bytes.resize(len, 0);
        self.record.window.read(at, &mut bytes);
        if self.is_current() { Ok(bytes) } else { Err(Error::Changed) }
    }
}
