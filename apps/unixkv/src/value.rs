//! What a look-up returns, as in `kv`: the place of a value, and a way to notice that it changed.

use crate::record::Record;
use kv::table::first_bytes;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Where a value stands. The bytes stay as they are until the key is put again or deleted; then the place is used for something else.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    pub(crate) record: Record<'a>,
    /// Counts the records of this key and some others that left the index, and what it was when this one was found.
    pub(crate) version: &'a AtomicU64,
    pub(crate) seen: u64,
}

impl Value<'_> {
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

    /// Word `number` of the value in place, little-endian; 0 past its end. What follows the value in the last word is cut off.
    #[inline]
    #[must_use]
    pub fn word(&self, number: usize) -> u64 {
        let at = number.saturating_mul(8);
        if at >= self.len() {
            return 0;
        }
        let word = self.record.file.load(self.record.value_at() + at);
        first_bytes(word, self.len() - at)
    }

    /// Whether no record has left the part of the index where this one was found: then everything read so far was the value.
    #[inline]
    #[must_use]
    pub fn is_current(&self) -> bool {
        fence(Ordering::Acquire);
        self.version.load(Ordering::Relaxed) == self.seen
    }

    /// A copy of the value; `None` when a writer was at work meanwhile: look the key up again.
    #[must_use]
    pub fn to_vec(&self) -> Option<Vec<u8>> {
        let bytes = self.record.copy(self.record.value_at(), self.len());
        self.is_current().then_some(bytes)
    }

    /// A copy of the key, likewise.
    #[must_use]
    pub fn key(&self) -> Option<Vec<u8>> {
        let bytes = self.record.key();
        self.is_current().then_some(bytes)
    }
}
