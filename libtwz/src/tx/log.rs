//! The undo log of one object: format, appending, reading back.
//!
//! ```text
//! LogHeader, at meta.log_offset, a multiple of 64
//!   +0   magic          "TWZLOG01"
//!   +8   finished       number of the last transaction that committed or was rolled back: THE commit point
//!   +16  floor          log chunks lie in [floor, DATA_END); the arena ends at floor
//!   +24  first_bytes    size of chunk 0, which follows the header
//!   +32  coordinator    ID of the object whose log decides (16 bytes); 0: this one
//!   +48  reserved
//!   +64  lock           who may write (sync::RawMutex), in a line of its own: `finished` is flushed often
//!   +128 chunk 0
//! chunk k > 0: CHUNK_BYTES << (k-1) bytes, at most CHUNK_MAX, right below chunk k-1 (chunk 1 ends at DATA_END)
//!
//! record
//!   +0   check          mixes the transaction's number, the head and the payload
//!   +8   head           offset | length << 32; length 0: payload is the ID of a participant
//!   +16  payload        the bytes as they were, padded to 8
//! ```
//! # Contract
//! - **L1** the log is *live* when the record at the start of chunk 0 checks out for number `finished + 1`. No begin
//!   mark, no end mark: one store of `finished` ends a transaction.
//! - **L2** a range is changed only after its record is durable (written around the cache, then a fence).
//! - A torn record fails its check. What follows it was not fenced, so nothing was changed under it; records of the
//!   same number beyond a torn one restore what is there already, and do no harm.
//! - Tearable at a crash: any record since the last fence. Never torn: `finished`, `floor` (one word each).

use crate::error::{Error, Result};
use crate::persist::{self, LINE};
use crate::view;
use crate::window::Window;
use core::sync::atomic::Ordering;
use twz_abi::object::{DATA_END, DATA_OFFSET};
use twz_abi::{ObjectId, PAGE_SIZE};

const MAGIC: u64 = u64::from_le_bytes(*b"TWZLOG01");
/// Size of chunk 1.
const CHUNK_BYTES: usize = 64 << 10;
/// Size of the largest chunks.
const CHUNK_MAX: usize = 16 << 20;
/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 128;
/// Bytes of a record before its payload.
const RECORD_HEAD: usize = 16;
/// Most payload of one record; longer ranges take several.
const PAYLOAD_MAX: usize = 1024;

const FINISHED: usize = 8;
const FLOOR: usize = 16;
const FIRST_BYTES: usize = 24;
const COORDINATOR: usize = 32;
pub(crate) const LOCK: usize = 64;

#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
const END: usize = DATA_END as usize;
#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
const START: usize = DATA_OFFSET as usize;

/// A validated log: the header's numbers are in range.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Log {
    pub(crate) window: Window,
    /// Offset of the header.
    at: usize,
    first_bytes: usize,
}

/// Where the next record goes, or the next one to read stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    chunk: u32,
    at: usize,
    end: usize,
}

impl Position {
    /// Whether this position comes before `other`.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        (self.chunk, self.at) < (other.chunk, other.at)
    }
}

/// One record read back.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Record {
    /// Restore `bytes` at `offset` from the payload.
    Range { offset: usize, bytes: usize, payload: usize },
    /// This object took part.
    Participant(ObjectId),
}

impl Log {
    /// Writes the header of an empty log; `bytes` in all, a multiple of 64. Durable with the object's metadata.
    pub(crate) fn format(window: Window, at: usize, bytes: usize) {
        window.store(at + FINISHED, 0);
        window.store(at + FLOOR, END as u64);
        window.store(at + FIRST_BYTES, (bytes - HEADER_BYTES) as u64);
        window.store(at, MAGIC);
        window.flush(at, HEADER_BYTES);
    }

    /// The log at `at`, after checking what its header says.
    pub(crate) fn open(window: Window, at: u64) -> Result<Self> {
        let bad = |offset: usize, expected| {
            #[allow(clippy::cast_possible_truncation, reason = "for a message")]
            Error::Damaged { object: view::id_at(window.base()), offset: offset as u32, expected }
        };
        let header = usize::try_from(at).unwrap_or(0);
        if !(START..END - HEADER_BYTES).contains(&header) || header % LINE != 0 {
            return Err(bad(header, "a log inside the object's data"));
        }
        if window.load(header) != MAGIC {
            return Err(bad(header, "the magic number of a log"));
        }
        let first_bytes = usize::try_from(window.load(header + FIRST_BYTES)).unwrap_or(usize::MAX);
        if first_bytes < LINE || first_bytes > END - header - HEADER_BYTES {
            return Err(bad(header + FIRST_BYTES, "a first log chunk inside the object's data"));
        }
        let floor = usize::try_from(window.load(header + FLOOR)).unwrap_or(0);
        if floor > END || floor < header + HEADER_BYTES + first_bytes {
            return Err(bad(header + FLOOR, "log chunks above the data"));
        }
        Ok(Self { window, at: header, first_bytes })
    }

    /// Offset of the lock.
    pub(crate) const fn lock_at(&self) -> usize {
        self.at + LOCK
    }

    /// Number of the last finished transaction.
    #[inline]
    pub(crate) fn finished(&self) -> u64 {
        self.window.word(self.at + FINISHED).load(Ordering::Acquire)
    }

    /// The commit point: makes `number` the last finished transaction. Durable after a fence.
    #[inline]
    pub(crate) fn finish(&self, number: u64) {
        self.window.word(self.at + FINISHED).store(number, Ordering::Release);
        self.window.flush(self.at + FINISHED, 8);
    }

    /// Lowest offset that the log has taken.
    #[inline]
    pub(crate) fn floor(&self) -> usize {
        usize::try_from(self.window.load(self.at + FLOOR)).unwrap_or(END).min(END)
    }

    /// Who decides about a live log.
    pub(crate) fn coordinator(&self) -> ObjectId {
        let at = self.at + COORDINATOR;
        ObjectId { lo: self.window.load(at), hi: self.window.load(at + 8) }
    }

    /// Says who decides about the transaction to come; durable after a fence. Only while the log is not live.
    pub(crate) fn set_coordinator(&self, id: ObjectId) {
        if self.coordinator() == id {
            return;
        }
        let at = self.at + COORDINATOR;
        self.window.store(at, id.lo);
        self.window.store(at + 8, id.hi);
        self.window.flush(at, 16);
    }

    /// Where the first record goes.
    #[inline]
    pub(crate) fn start(&self) -> Position {
        let at = self.at + HEADER_BYTES;
        Position { chunk: 0, at, end: at + self.first_bytes }
    }

    /// Whether the largest record surely fits before the end of the chunk.
    #[inline]
    pub(crate) const fn has_room(&self, at: &Position) -> bool {
        at.at + RECORD_HEAD + PAYLOAD_MAX <= at.end
    }

    /// The chunk after `chunk`, by its number and the end of the one before; `None` where it would leave the data.
    fn chunk_after(&self, chunk: u32) -> Option<Position> {
        let mut end = END;
        let mut bytes = CHUNK_BYTES;
        for _ in 0..chunk {
            end = end.checked_sub(bytes)?;
            bytes = (bytes * 2).min(CHUNK_MAX);
        }
        let at = end.checked_sub(bytes)?;
        (at > self.at + HEADER_BYTES + self.first_bytes).then_some(Position { chunk: chunk + 1, at, end })
    }

    /// Appends a record of what is at `offset` now; durable after a fence. `limit`: first offset that data does not use.
    #[inline]
    pub(crate) fn append(
        &self,
        to: &mut Position,
        number: u64,
        offset: usize,
        bytes: usize,
        limit: usize,
    ) -> Result<()> {
        let (mut offset, mut left) = (offset, bytes);
        while left > 0 {
            let piece = left.min(PAYLOAD_MAX);
            self.make_room(to, RECORD_HEAD + piece.next_multiple_of(8), limit)?;
            let head = offset as u64 | (piece as u64) << 32;
            let mut check = start_check(number, head);
            let mut at = RECORD_HEAD;
            // Whole words around the range: the record's own offset and length say what of them counts.
            for word_at in (0..piece).step_by(8) {
                let word = self.word_of_range(offset + word_at, piece - word_at);
                check = mix_check(check, word);
                self.put(to.at + at, word);
                at += 8;
            }
            self.put(to.at + 8, head);
            self.put(to.at, end_check(check));
            to.at += at;
            offset += piece;
            left -= piece;
        }
        Ok(())
    }

    /// Appends a record that `id` takes part; durable after a fence.
    pub(crate) fn append_participant(
        &self,
        to: &mut Position,
        number: u64,
        id: ObjectId,
        limit: usize,
    ) -> Result<()> {
        self.make_room(to, RECORD_HEAD + 16, limit)?;
        let check = mix_check(mix_check(start_check(number, 0), id.lo), id.hi);
        self.put(to.at + 8, 0);
        self.put(to.at + 16, id.lo);
        self.put(to.at + 24, id.hi);
        self.put(to.at, end_check(check));
        to.at += RECORD_HEAD + 16;
        Ok(())
    }

    /// Up to eight bytes at `offset` as a word, however they are aligned.
    #[inline]
    fn word_of_range(&self, offset: usize, bytes: usize) -> u64 {
        if offset.is_multiple_of(8) && bytes >= 8 {
            return self.window.load(offset);
        }
        let mut word = [0; 8];
        let count = bytes.min(8);
        self.window.read(offset, &mut word[..count]);
        u64::from_le_bytes(word)
    }

    #[inline]
    fn put(&self, offset: usize, word: u64) {
        #[allow(clippy::cast_possible_truncation, reason = "offsets are below 1 GiB")]
        persist::store_word_through(self.window, offset as u32, word);
    }

    #[inline]
    fn make_room(&self, to: &mut Position, bytes: usize, limit: usize) -> Result<()> {
        if to.at + bytes <= to.end { Ok(()) } else { self.next_chunk(to, limit) }
    }

    /// Goes on in the next chunk, reserving it if it never was: the reservation is one durable word, so a crash leaves
    /// either none or one that the next transaction finds.
    #[cold]
    fn next_chunk(&self, to: &mut Position, limit: usize) -> Result<()> {
        let full = Error::OutOfSpace(view::id_at(self.window.base()));
        let next = self.chunk_after(to.chunk).ok_or(full)?;
        if next.at < self.floor() {
            if next.at < limit {
                return Err(full);
            }
            self.window.store(self.at + FLOOR, next.at as u64);
            self.window.flush(self.at + FLOOR, 8);
            persist::fence();
        }
        *to = next;
        Ok(())
    }

    /// The record at `from`, if it belongs to transaction `number`; moves past it.
    pub(crate) fn read(&self, from: &mut Position, number: u64) -> Option<Record> {
        if let Some(record) = self.read_here(from, number) {
            return Some(record);
        }
        // The rest of a chunk may have been too small for a record.
        let mut next = self.chunk_after(from.chunk)?;
        if next.at < self.floor() {
            return None;
        }
        let record = self.read_here(&mut next, number)?;
        *from = next;
        Some(record)
    }

    fn read_here(&self, from: &mut Position, number: u64) -> Option<Record> {
        if from.at + RECORD_HEAD > from.end {
            return None;
        }
        let head = self.window.load(from.at + 8);
        let bytes = usize::try_from(head >> 32).ok()?;
        let offset = usize::try_from(head & 0xffff_ffff).ok()?;
        let payload = if head == 0 { 16 } else { bytes.next_multiple_of(8) };
        if bytes > PAYLOAD_MAX || from.at + RECORD_HEAD + payload > from.end || (bytes == 0 && head != 0) {
            return None;
        }
        let first = from.at + RECORD_HEAD;
        let mut check = start_check(number, head);
        for at in (first..first + payload).step_by(8) {
            check = mix_check(check, self.window.load(at));
        }
        if self.window.load(from.at) != end_check(check) {
            return None;
        }
        from.at += RECORD_HEAD + payload;
        if head == 0 {
            let id = ObjectId { lo: self.window.load(first), hi: self.window.load(first + 8) };
            return Some(Record::Participant(id));
        }
        Some(Record::Range { offset, bytes, payload: first })
    }

    /// Whether an unfinished transaction left records (**L1**).
    pub(crate) fn is_live(&self) -> bool {
        self.read(&mut self.start(), self.finished().wrapping_add(1)).is_some()
    }

    /// Puts a range back as its record says; flushed, durable after a fence. Ranges that no transaction may change are left.
    pub(crate) fn restore(&self, record: Record) {
        let Record::Range { offset, bytes, payload } = record else { return };
        #[allow(clippy::cast_possible_truncation, reason = "2^30")]
        let end = twz_abi::object::MAX_SIZE as usize;
        #[allow(clippy::cast_possible_truncation, reason = "2^12")]
        let first = PAGE_SIZE as usize;
        if offset < first || offset + bytes > end {
            return; // passed its check, so it was written so; nothing but damage asks for this
        }
        let mut done = 0;
        while done < bytes {
            let word = self.window.load(payload + done).to_le_bytes();
            let count = (bytes - done).min(8);
            self.window.write(offset + done, &word[..count]);
            done += count;
        }
        self.window.flush(offset, bytes);
    }
}

const CHECK_A: u64 = 0x9e37_79b9_7f4a_7c15;
const CHECK_B: u64 = 0xd6e8_feb8_6659_fd93;

#[inline]
fn start_check(number: u64, head: u64) -> u64 {
    mix_check(number.wrapping_mul(CHECK_B) ^ CHECK_A, head)
}

#[inline]
fn mix_check(check: u64, word: u64) -> u64 {
    let mixed = (check ^ word).wrapping_mul(CHECK_A);
    mixed ^ mixed >> 32
}

/// Never 0, so that zeroed memory holds no record.
#[inline]
fn end_check(check: u64) -> u64 {
    check.wrapping_mul(CHECK_B) | 1
}
