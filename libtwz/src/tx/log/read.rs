//! Reading batches back.

use super::{BATCH_WORDS, Batch, Entry, Kind, Log, PIECE, Position, SLOT, START, Words};
use crate::error::Result;
use crate::line::Line;
use crate::persist::LINE;
use crate::tx::check::{Check, Lines};
use crate::tx::entry::{ENTRY_MAX, HALF, is_half, split_head, write_words};
use crate::window::Window;
use core::sync::atomic::Ordering;
use twz_abi::ObjectId;

/// Words of the batch at an offset, by its head.
fn words_of(at: usize, head: u64) -> Words {
    #[allow(clippy::cast_possible_truncation, reason = "twelve bits")]
    let count = (head >> 8 & 0xfff) as usize;
    Words { at: at + 16, end: at + 16 + count * 8 }
}

/// The next entry, moving past it; `contents`: where what it says stands, if not behind it. `None` for one that makes no sense.
fn next_entry(window: Window, entries: &mut Words, contents: Option<&mut Words>) -> Option<Entry> {
    let (at, head) = (entries.at, window.load(entries.at));
    let (offset, bytes) = split_head(head);
    let is_half_entry = head & HALF != 0;
    if is_half(offset, bytes) != is_half_entry {
        return None;
    }
    if bytes == 0 {
        entries.at += 24;
        let id = ObjectId { lo: window.load(at + 8), hi: window.load(at + 16) };
        return (entries.at <= entries.end).then_some(Entry::Participant(id));
    }
    let size = if is_half_entry { 0 } else { bytes.next_multiple_of(8) };
    entries.at += 8 + size;
    let place = match contents {
        None => at + 8 - 8 * usize::from(is_half_entry),
        Some(words) => {
            let at = words.at;
            words.at += size.max(8);
            (words.at <= words.end).then_some(at)?
        }
    };
    let payload = place + 4 * usize::from(is_half_entry); // in the word's high half
    (entries.at <= entries.end && bytes <= ENTRY_MAX).then_some(Entry::Range {
        offset,
        bytes,
        window,
        payload,
    })
}

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
        let words = words_of(from.at, head);
        let end = words.end.next_multiple_of(LINE);
        if head >> 32 != u64::from(from.sequence) || words.end > words.at + BATCH_WORDS * 8 || end > from.end
        {
            return None;
        }
        if window.load(from.at) != self.check(window, from.at, words) {
            return None;
        }
        let records = Self::records_of(window, from.at, head)?;
        from.at = end;
        from.sequence = from.sequence.wrapping_add(1);
        Some(Batch { kind: Kind::of(head)?, window, words, records })
    }

    /// Words of the records whose contents after the change a batch begins with; `None` if there are none where it says.
    fn records_of(window: Window, at: usize, head: u64) -> Option<Words> {
        #[allow(clippy::cast_possible_truncation, reason = "twelve bits")]
        let back = (head >> 20 & 0xfff) as usize * LINE;
        if back == 0 {
            return Some(Words { at, end: at });
        }
        let records = at.checked_sub(back)?;
        let head = window.load(records + 8);
        let words = words_of(records, head);
        (words.end <= at && Kind::of(head) == Some(Kind::Undo)).then_some(words)
    }

    /// What the check of a batch must be.
    fn check(&self, window: Window, at: usize, words: Words) -> u64 {
        let mut check = Check::new(self.epoch(), window.load(at + 8));
        let in_first = (words.at..words.end.min(at + LINE)).step_by(8);
        in_first.enumerate().for_each(|(i, at)| check.add(i, window.load(at)));
        if words.end > at + LINE {
            let mut lines = Lines::new();
            for at in (at + LINE..words.end).step_by(LINE) {
                let words = window.line(at);
                lines.add(&Line::of(|i| words[i].load(Ordering::Relaxed)));
            }
            check.add_lines(&lines);
        }
        check.end()
    }

    /// The entries of a batch; ends at one that does not make sense.
    pub(crate) fn entries(&self, batch: Batch) -> impl Iterator<Item = Entry> {
        let Batch { window, mut words, mut records, .. } = batch;
        core::iter::from_fn(move || {
            while records.at < records.end {
                let record = next_entry(window, &mut records, Some(&mut words))?;
                if matches!(record, Entry::Range { .. }) {
                    return Some(record); // a participant has nothing here
                }
            }
            if words.at < words.end { next_entry(window, &mut words, None) } else { None }
        })
    }

    /// Whether transactions may change a range.
    pub(crate) const fn may_restore(offset: usize, bytes: usize) -> bool {
        offset >= START && offset + bytes <= SLOT
    }

    /// Flushes a batch itself.
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub(crate) fn flush_batch(&self, batch: Batch) {
        batch.window.flush(batch.words.at - 16, batch.words.end + 16 - batch.words.at);
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
