//! Reading batches back.

use super::{BATCH_WORDS, Batch, Entry, Kind, Log, PIECE, Position, SLOT, START};
use crate::error::Result;
use crate::persist::LINE;
use crate::tx::check::Check;
use crate::tx::entry::{ENTRY_MAX, HALF, is_half, split_head, write_words};
use core::sync::atomic::Ordering;
use twz_abi::ObjectId;

impl Log {
    /// The next batch that counts (**L1**); moves past it.
    ///
    /// # Errors
    /// What keeps this program from a piece that is there.
    pub(crate) fn read(&self, from: &mut Position) -> Result<Option<Batch>> {
        if let Some(batch) = self.read_here(from) {
            return Ok(Some(batch));
        }
        // The rest of a chunk may have been too small for a batch.
        let Some(next) = self.chunk_to_read(from)? else { return Ok(None) };
        let mut next = Position { sequence: from.sequence, ..next };
        let batch = self.read_here(&mut next);
        if batch.is_some() {
            *from = next;
        }
        Ok(batch)
    }

    /// Where the next batch is, if not in this chunk.
    fn chunk_to_read(&self, from: &Position) -> Result<Option<Position>> {
        if from.chunk & PIECE == 0
            && let Some(next) = self.chunk_after(from.chunk)
            && next.at >= self.floor()
        {
            return Ok(Some(next));
        }
        let Some(place) = self.piece_after(*from) else { return Ok(None) };
        Ok(place.find()?.map(|found| Self::in_piece(place, found)))
    }

    fn read_here(&self, from: &mut Position) -> Option<Batch> {
        if from.at + LINE > from.end {
            return None;
        }
        let window = from.window;
        let head = window.load(from.at + 8);
        let words = usize::try_from(head >> 8 & 0xff_ffff).ok()?;
        let bytes = (16 + words * 8).next_multiple_of(LINE);
        if head >> 32 != u64::from(from.sequence) || words > BATCH_WORDS || from.at + bytes > from.end {
            return None;
        }
        let first = from.at + 16;
        let mut check = Check::new(self.epoch(), head);
        for i in 0..words {
            check.add(i, window.load(first + i * 8));
        }
        if window.load(from.at) != check.end() {
            return None;
        }
        from.at += bytes;
        from.sequence = from.sequence.wrapping_add(1);
        Some(Batch { kind: Kind::of(head)?, window, first, words })
    }

    /// The entries of a batch; ends at one that does not make sense.
    pub(crate) fn entries(&self, batch: Batch) -> impl Iterator<Item = Entry> {
        let mut at = batch.first;
        let end = batch.first + batch.words * 8;
        let window = batch.window;
        core::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let head = window.load(at);
            let (offset, bytes) = split_head(head);
            if is_half(offset, bytes) != (head & HALF != 0) {
                return None;
            }
            if head & HALF != 0 {
                at += 8;
                return Some(Entry::Range { offset, bytes, window, payload: at - 4 }); // the word's high half
            }
            let payload = at + 8;
            if bytes == 0 {
                at = payload + 16;
                let id = ObjectId { lo: window.load(payload), hi: window.load(payload + 8) };
                return (at <= end).then_some(Entry::Participant(id));
            }
            at = payload + bytes.next_multiple_of(8);
            (at <= end && bytes <= ENTRY_MAX).then_some(Entry::Range { offset, bytes, window, payload })
        })
    }

    /// Whether transactions may change a range.
    pub(crate) const fn may_restore(offset: usize, bytes: usize) -> bool {
        offset >= START && offset + bytes <= SLOT
    }

    /// Flushes a batch itself.
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub(crate) fn flush_batch(&self, batch: Batch) {
        batch.window.flush(batch.first - 16, 16 + batch.words * 8);
    }

    /// Flushes what stands where an entry says, but for what no transaction may change.
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub(crate) fn flush(&self, entry: Entry) {
        if let Entry::Range { offset, bytes, .. } = entry
            && Self::may_restore(offset, bytes)
        {
            self.window.flush(offset, bytes);
        }
    }

    /// Stores a range as an entry says, and flushes it. What no transaction may change is left alone.
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub(crate) fn restore(&self, entry: Entry) {
        let Entry::Range { offset, bytes, window, payload } = entry else { return };
        if !Self::may_restore(offset, bytes) {
            return;
        }
        if is_half(offset, bytes) {
            self.window.store_half(offset, window.half(payload).load(Ordering::Relaxed));
            return self.window.flush(offset, bytes);
        }
        let words = (payload..).step_by(8).map(|at| window.load(at));
        write_words(self.window, offset, bytes, words);
        self.window.flush(offset, bytes);
    }
}
