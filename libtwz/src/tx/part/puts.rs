//! What a transaction stores in an object when it commits.

use super::{Extendable, Part};
use crate::error::Result;
use crate::persist;
use crate::tx::entry;
use crate::window::SLOT_MASK;

impl Part {
    /// The offset of a range that a put will change: it is fetched, since the store comes after a fence.
    #[inline(always)]
    fn place_of_put(&mut self, address: usize, bytes: usize) -> Result<usize> {
        let offset = self.place(address, bytes)?;
        persist::expect_store(address);
        Ok(offset)
    }

    /// Notes what a word shall hold after the commit.
    ///
    /// This and the others below mark the lines as dirty now, when what loses its place for them is written back while other things are done; last
    /// of all, since that is now and then a call, across which nothing is kept then.
    #[inline(always)]
    pub(in crate::tx) fn put_word(&mut self, address: usize, word: u64) -> Result<()> {
        let offset = self.place_of_put(address, 8)?;
        self.puts.extend([entry::entry_head(offset, 8), word]);
        self.dirty.mark(offset, 8);
        Ok(())
    }

    /// Whether a put is pending for the word at `address`.
    pub(in crate::tx) fn is_put(&self, address: usize) -> bool {
        let (window, offset) = (address & !SLOT_MASK, address & SLOT_MASK);
        let overlaps = |(at, bytes, _): entry::Range<'_>| at < offset + 8 && offset < at + bytes;
        window == self.window().base() && entry::ranges(self.puts.as_slice()).any(overlaps)
    }

    /// [`Part::put_word`] of a half-word.
    #[inline(always)]
    pub(in crate::tx) fn put_half(&mut self, address: usize, half: u32) -> Result<()> {
        let offset = self.place_of_put(address, 4)?;
        self.puts.push(entry::half_entry(offset, half));
        self.dirty.mark(offset, 4);
        Ok(())
    }

    /// Notes what a range shall hold after the commit. A few stores where the number of bytes is known when this is compiled.
    #[inline(always)]
    pub(in crate::tx) fn put(&mut self, address: usize, bytes: &[u8]) -> Result<()> {
        let (words, rest) = bytes.as_chunks::<8>();
        if bytes.is_empty() || bytes.len() > entry::ENTRY_MAX || !rest.is_empty() {
            return self.put_pieces(address, bytes);
        }
        let offset = self.place_of_put(address, bytes.len())?;
        self.puts.push(entry::entry_head(offset, bytes.len()));
        self.puts.extend_with(words.len(), |i| u64::from_le_bytes(words[i]));
        self.dirty.mark(offset, bytes.len());
        Ok(())
    }

    /// [`Part::put`] of what is no small number of words.
    fn put_pieces(&mut self, address: usize, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return self.place(address, 0).map(drop); // an entry of no bytes would be a participant's
        }
        let offset = self.place_of_put(address, bytes.len())?;
        self.dirty.mark(offset, bytes.len());
        // Entries are limited in size: long values go in several.
        for (number, piece) in bytes.chunks(entry::ENTRY_MAX).enumerate() {
            let offset = offset + number * entry::ENTRY_MAX;
            if let Some(half) = piece.as_array::<4>()
                && entry::is_half(offset, 4)
            {
                self.puts.push(entry::half_entry(offset, u32::from_le_bytes(*half)));
                continue;
            }
            self.puts.push(entry::entry_head(offset, piece.len()));
            let (words, rest) = piece.as_chunks::<8>();
            self.puts.extend_with(words.len(), |i| u64::from_le_bytes(words[i]));
            if !rest.is_empty() {
                let mut word = [0; 8];
                word[..rest.len()].copy_from_slice(rest);
                self.puts.push(u64::from_le_bytes(word));
            }
        }
        Ok(())
    }

    /// Stores the puts, after the commit is durable.
    #[inline]
    pub(in crate::tx) fn apply_puts(&self) {
        entry::store_all(self.log.window, self.puts.as_slice());
        if self.dirty.lost() {
            self.flush_unmarked();
        }
    }

    /// Makes durable what was put into lines that are not marked any more.
    #[cold]
    fn flush_unmarked(&self) {
        let mut flushed = false;
        for (offset, bytes, _) in entry::ranges(self.puts.as_slice()) {
            flushed |= self.dirty.flush_unmarked(offset, bytes);
        }
        if flushed {
            persist::fence(); // the next checkpoint may be another thread's, whose fence would not count for these
        }
    }

    /// Records what the puts will change, so that they can be stored before the commit; true if there are any.
    #[inline]
    pub(in crate::tx) fn record_puts(&mut self) -> bool {
        if self.puts.is_empty() {
            return false;
        }
        self.extendable = Extendable::NONE;
        let Self { log, puts, undo, .. } = self;
        for (offset, bytes, _) in entry::ranges(puts.as_slice()) {
            entry::entries_of(log.window, offset, bytes, undo);
        }
        true
    }

    /// Stores puts that [`Part::record_puts`] recorded, after their records are durable.
    #[inline]
    pub(in crate::tx) fn store_recorded_puts(&mut self) {
        entry::store_all(self.log.window, self.puts.as_slice());
        self.puts.truncate(0);
    }
}
