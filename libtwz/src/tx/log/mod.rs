//! The log of one object: format, appending, reading back.
//!
//! ```text
//! LogHeader, at meta.log_offset, a multiple of 64
//!   +0   magic          "TWZLOG04"
//!   +8   epoch          batches of another epoch are void
//!   +16  floor          log chunks lie in [floor, DATA_END); the arena ends at floor
//!   +24  first_bytes    u32: size of chunk 0, which follows the header
//!   +28  most           u32: bytes that the other chunks may take here, and of a piece elsewhere; 0: what there is room for
//!   +32  coordinator    ID of the object whose log decides about a trailing transaction (16 bytes); 0: this one
//!   +48  piece          ID of the object that the log goes on in when there is no room for more chunks here (piece.rs); low half 0: none
//!   +64  lock           who may write (sync::RawMutex); this line is never flushed
//!   +72  tail           chunk << 32 | offset: where the next batch goes, in this boot
//!   +80  sequence       number of the next batch in the epoch, in this boot
//!   +88  room           u32: the mark of room.rs; u32: the boot that it is of
//!   +128 dirty        u32[1056]: lines changed since the last checkpoint (dirty.rs); never flushed
//!   +4352 chunk 0
//! chunk k > 0: CHUNK_BYTES << (k-1) bytes, at most CHUNK_MAX, right below chunk k-1 (chunk 1 ends at DATA_END)
//!
//! batch, a multiple of 64 bytes
//!   +0   check          mixes epoch, head and words
//!   +8   head           kind | count of words << 8 | lines back << 20 | sequence << 32
//!   +16  words          if lines back is not 0: what the ranges of the records that begin so many lines before hold now, without the ranges;
//!                       entries: offset | bytes << 32, then the bytes padded to 8; bytes 0: ID of a participant;
//!                       of four bytes at a multiple of 4: offset | 1 << 31 | value << 32
//! ```
//! # Contract
//! - Pieces are used by one transaction, and empty when it ends, as are chunks from [`KEEP_CHUNKS`] on: what it took is given back. So the
//!   tail stands in the object itself whenever the lock is free.
//! - **L1** batches are read from chunk 0 until one does not check out or has not the next sequence number; those are all
//!   that count. A torn batch and what follows it were not fenced, so nothing relied on them; recovery voids them by a new epoch.
//! - A transaction is `Undo*`, then `Redo* Commit` or `Abort`, or nothing more: then it is *trailing*.
//! - Whole lines, whatever a batch needs: stored and written back if they are no more than the processor does cheaper so ([`persist::by_cache`]), and
//!   then fetched while the transaction runs; else around the cache.
//! - Never torn: `epoch`, `floor` (one word each). Tearable: batches since the last fence.

mod append;
mod dirty;
mod read;

pub(crate) use self::append::Tag;
pub(crate) use self::dirty::{Dirty, Marker};

use crate::error::{Error, Result, damaged_at};
use crate::object::END;
use crate::persist::{self, LINE};
use crate::sys::{Platform, Seam};
use crate::tx::entry::ENTRY_MAX;
use crate::tx::link::Link;
use crate::tx::piece::{self, Place};
use crate::tx::room;
use crate::view;
use crate::window::{SLOT, Window};
use core::sync::atomic::Ordering;
use twz_abi::ObjectId;
use twz_abi::object::DATA_OFFSET;

const MAGIC: u64 = u64::from_le_bytes(*b"TWZLOG04");
/// Size of chunk 1.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that a log keeps after a transaction that needed more: 1 MiB.
const KEEP_CHUNKS: u32 = 4;
/// Bit of a chunk's number: a piece, by its number in the lower bits.
const PIECE: u32 = 1 << 31;
/// Size of the largest chunks.
const CHUNK_MAX: usize = 16 << 20;
/// Places of dirty lines.
const PLACES: usize = 1024;
/// Dirty lines that may have lost their places and are not flushed.
const LATER: usize = 31;
/// Half-words that tell of dirty lines.
const DIRTY_WORDS: usize = PLACES + 1 + LATER;
/// Where they stand.
const DIRTY: usize = 128;
/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = DIRTY + DIRTY_WORDS * 4;
/// Most words of one batch: fits any chunk but the first, and any piece of the usual size. And twelve bits of its head, as do its lines.
const BATCH_WORDS: usize = 2048;
/// Words that fit the smallest piece: an entry of the largest size.
const SMALL_BATCH_WORDS: usize = 1 + ENTRY_MAX / 8;
/// Bytes of the smallest piece.
const SMALLEST_PIECE: usize = (16 + SMALL_BATCH_WORDS * 8).next_multiple_of(LINE);
/// Logs smaller than this grow when transactions have used them up; larger ones only for a transaction that needs it.
const GROW_TO: usize = CHUNK_BYTES;
/// Logs that so few batches use up grow to so many chunks more: 456 KiB in all.
const FEW_BATCHES: u32 = 64;
const GROW_CHUNKS: u32 = 3;
/// Logs smaller than this are used up to the last sixteenth before a checkpoint, larger ones to the half.
const SMALL_LOG: usize = 1 << 20;

const EPOCH: usize = 8;
const FLOOR: usize = 16;
const FIRST_BYTES: usize = 24;
const MOST: usize = 28;
const COORDINATOR: usize = 32;
const FIRST_PIECE: usize = 48;
const LOCK: usize = 64;
const TAIL: usize = 72;
const SEQUENCE: usize = 80;
const ROOM: usize = 88;

#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
const START: usize = DATA_OFFSET as usize;

/// Lines in an object.
const END_OF_LINES: usize = SLOT / LINE;

/// What a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Contents before a change.
    Undo = 1,
    /// Contents after a change; counts if a `Commit` follows.
    Redo = 2,
    /// Contents after a change, and the end of the transaction: THE commit point.
    Commit = 3,
    /// The end of a transaction that was undone.
    Abort = 4,
}

impl Kind {
    fn of(number: u64) -> Option<Self> {
        [Self::Undo, Self::Redo, Self::Commit, Self::Abort]
            .into_iter()
            .find(|kind| *kind as u64 == number & 0xff)
    }
}

/// A validated log: the header's numbers are in range.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Log {
    pub(crate) window: Window,
    /// Offset of the header.
    at: usize,
    first_bytes: usize,
}

/// Where the next batch goes, or the next one to read stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    window: Window,
    /// Number of the chunk, or [`PIECE`] and that of a piece.
    chunk: u32,
    at: usize,
    end: usize,
    sequence: u32,
}

impl Position {
    /// Before a log is opened.
    #[inline(always)]
    pub(crate) const fn unopened(window: Window) -> Self {
        Self { window, chunk: 0, at: 0, end: 0, sequence: 0 }
    }

    /// Number of the next batch in the epoch.
    #[inline(always)]
    pub(crate) const fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Where its chunk ends.
    pub(crate) const fn end(&self) -> usize {
        self.end
    }

    /// Whether the log has become longer than it is to stay.
    #[inline(always)]
    pub(crate) const fn is_far(&self) -> bool {
        self.chunk > KEEP_CHUNKS
    }
}

/// A batch read back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    pub(crate) kind: Kind,
    window: Window,
    words: Words,
    /// Of the records of which the first words say what stands there after the change; none in most.
    records: Words,
}

/// Words of a batch, from one offset to another in an object.
#[derive(Clone, Copy, Debug)]
struct Words {
    at: usize,
    end: usize,
}

/// One entry of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    /// `bytes` at `offset`, whose contents stand at `payload` in the object at `window`.
    Range { offset: usize, bytes: usize, window: Window, payload: usize },
    /// This object took part.
    Participant(ObjectId),
}

impl Log {
    /// Writes the header of an empty log; `bytes` in all, a multiple of 64, and `most` of other chunks and pieces, 0 for any number. Durable
    /// with the object's metadata. `mark`: where the room ends that the object has ([`room`]).
    pub(crate) fn format(window: Window, at: usize, bytes: usize, most: usize, mark: usize) {
        window.store(at + EPOCH, 1);
        window.store(at + FLOOR, END as u64);
        window.store(at + FIRST_BYTES, (bytes - HEADER_BYTES) as u64 | (most.min(SLOT) as u64) << 32);
        window.store(at + TAIL, (at + HEADER_BYTES) as u64);
        window.store(at + ROOM, room_word(mark));
        window.store(at, MAGIC);
        window.flush(at, DIRTY);
    }

    /// Where a log will be: nothing may be done with it but opening it.
    #[inline(always)]
    pub(crate) const fn unopened(window: Window) -> Self {
        Self { window, at: 0, first_bytes: 0 }
    }

    /// The log at `at`, after checking what its header says.
    #[inline(always)]
    pub(crate) fn open(window: Window, at: u64) -> Result<Self> {
        let header = usize::try_from(at).unwrap_or(0);
        if !(START..END - HEADER_BYTES).contains(&header) || !header.is_multiple_of(LINE) {
            return Err(damaged_at(window, header, "a log inside the object's data"));
        }
        if window.load(header) != MAGIC {
            return Err(damaged_at(window, header, "the magic number of a log"));
        }
        let first_bytes = window.half(header + FIRST_BYTES).load(Ordering::Relaxed) as usize;
        if first_bytes < LINE || first_bytes > END - header - HEADER_BYTES {
            return Err(damaged_at(
                window,
                header + FIRST_BYTES,
                "a first log chunk inside the object's data",
            ));
        }
        let floor = usize::try_from(window.load(header + FLOOR)).unwrap_or(0);
        if floor > END || floor < header + HEADER_BYTES + first_bytes {
            return Err(damaged_at(window, header + FLOOR, "log chunks above the data"));
        }
        Ok(Self { window, at: header, first_bytes })
    }

    /// Offset of the lock.
    #[inline]
    pub(crate) const fn lock_at(&self) -> usize {
        self.at + LOCK
    }

    #[inline]
    fn epoch(&self) -> u64 {
        self.window.load(self.at + EPOCH)
    }

    /// What tells whether a transaction came between.
    #[inline(always)]
    pub(crate) fn state(&self) -> crate::tx::State {
        let word = |field| self.window.load(self.at + field);
        crate::tx::State { epoch: self.epoch(), tail: word(TAIL), sequence: word(SEQUENCE) }
    }

    /// [`Log::state`] if nobody has the lock.
    #[inline(always)]
    pub(crate) fn state_if_free(&self) -> Option<crate::tx::State> {
        let free = crate::tx::part::lock_of(self).is_free_in_this_boot();
        free.then(|| self.state())
    }

    /// Lowest offset that the log has taken.
    #[inline]
    pub(crate) fn floor(&self) -> usize {
        usize::try_from(self.window.load(self.at + FLOOR)).unwrap_or(END).min(END)
    }

    /// Who decides about a trailing transaction.
    #[inline]
    pub(crate) fn coordinator(&self) -> ObjectId {
        let at = self.at + COORDINATOR;
        ObjectId { lo: self.window.load(at), hi: self.window.load(at + 8) }
    }

    /// Says who decides about the transaction to come. Only while nothing is trailing.
    #[inline]
    pub(crate) fn set_coordinator(&self, id: ObjectId) {
        if self.coordinator() != id {
            self.change_coordinator(id);
        }
    }

    /// Durable before any batch of the transaction: one beside the name of who decided about an older one would wait for that, and two such logs
    /// for each other.
    #[cold]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    fn change_coordinator(&self, id: ObjectId) {
        let at = self.at + COORDINATOR;
        self.window.store(at, id.lo);
        self.window.store(at + 8, id.hi);
        self.window.flush(at, 16);
        persist::fence();
    }

    /// Where the first batch goes.
    #[inline]
    pub(crate) fn start(&self) -> Position {
        let at = self.at + HEADER_BYTES;
        Position { window: self.window, chunk: 0, at, end: at + self.first_bytes, sequence: 0 }
    }

    /// Where the next batch goes, as the last holder of the lock left it.
    #[inline]
    pub(crate) fn tail(&self) -> Result<Position> {
        let word = self.window.load(self.at + TAIL);
        #[allow(clippy::cast_possible_truncation, reason = "the low halves are what is wanted")]
        let (at, sequence) = (word as u32 as usize, self.window.load(self.at + SEQUENCE) as u32);
        #[allow(clippy::cast_possible_truncation, reason = "the high half is what is wanted")]
        let chunk = (word >> 32) as u32;
        let place = if chunk == 0 { Some(self.start()) } else { self.chunk_after(chunk - 1) };
        match place {
            Some(place) if (place.at..=place.end).contains(&at) && at.is_multiple_of(LINE) => {
                Ok(Position { at, sequence, ..place })
            }
            _ => Err(damaged_at(self.window, self.at + TAIL, "the log's tail in one of its chunks")),
        }
    }

    /// Leaves the tail for the next holder of the lock.
    #[inline]
    pub(crate) fn set_tail(&self, to: Position) {
        self.window.store(self.at + TAIL, u64::from(to.chunk) << 32 | to.at as u64);
        self.window.store(self.at + SEQUENCE, u64::from(to.sequence));
    }

    /// Where the room ends that the object is known to have ([`room`]); 0 when nobody has looked since the boot.
    #[inline(always)]
    pub(crate) fn room(&self) -> usize {
        self.window.half(self.at + ROOM).load(Ordering::Relaxed) as usize
    }

    /// Says where it ends.
    pub(crate) fn set_room(&self, mark: usize) {
        self.window.store(self.at + ROOM, room_word(mark));
    }

    /// Whether it is smaller than a log that is used up to here should be: each checkpoint costs two fences, and flushes what was changed.
    pub(crate) fn should_grow(&self, tail: Position) -> bool {
        let is_small = self.first_bytes + (END - self.floor()) < GROW_TO;
        is_small || tail.sequence < FEW_BATCHES && tail.chunk < GROW_CHUNKS
    }

    /// Reserves one chunk more, unless that would go below `limit`; true if there is one more then.
    pub(crate) fn grow(&self, limit: usize) -> bool {
        let mut chunk = 0;
        while let Some(next) = self.chunk_after(chunk) {
            if next.at < self.floor() {
                return self.reserve(next.at, limit).is_ok();
            }
            chunk = next.chunk;
        }
        false
    }

    /// Takes the space from `at` on: one word, so a crash leaves either none or a chunk that the next transaction finds. Durable
    /// with the next fence, before anything relies on a batch in there.
    fn reserve(&self, at: usize, limit: usize) -> Result<()> {
        let most = self.most();
        if at < limit || most != 0 && END - at > most {
            return Err(Error::OutOfSpace(view::id_at(self.window.base())));
        }
        room::have(view::id_at(self.window.base()), at..self.floor())?;
        self.window.store(self.at + FLOOR, at as u64);
        self.window.flush(self.at + FLOOR, 8);
        Ok(())
    }

    /// Whether so much is used that a checkpoint should come before the next transaction.
    #[inline]
    pub(crate) fn is_nearly_full(&self, tail: Position) -> bool {
        let total = self.first_bytes + (END - self.floor());
        let spare = if total < SMALL_LOG { total / 16 } else { total / 2 };
        let in_chunk = tail.end - tail.at;
        if in_chunk >= spare {
            return false;
        }
        let mut rest = in_chunk;
        let mut chunk = tail.chunk;
        while let Some(next) = self.chunk_after(chunk)
            && next.at >= self.floor()
        {
            rest += next.end - next.at;
            chunk = next.chunk;
        }
        rest < spare
    }

    /// The chunk after `chunk`; `None` where it would leave the data.
    fn chunk_after(&self, chunk: u32) -> Option<Position> {
        let mut end = END;
        let mut bytes = CHUNK_BYTES;
        for _ in 0..chunk {
            end = end.checked_sub(bytes)?;
            bytes = (bytes * 2).min(CHUNK_MAX);
        }
        let at = end.checked_sub(bytes)?;
        let above = at > self.at + HEADER_BYTES + self.first_bytes;
        above.then_some(Position { window: self.window, chunk: chunk + 1, at, end, sequence: 0 })
    }

    /// Bytes that chunks other than the first may take; 0 for any number.
    fn most(&self) -> usize {
        self.window.half(self.at + MOST).load(Ordering::Relaxed) as usize
    }

    /// Bytes of batches in a piece that is made.
    fn piece_bytes(&self) -> usize {
        match self.most() {
            0 => piece::MOST,
            most => most.clamp(SMALLEST_PIECE, piece::MOST) / LINE * LINE,
        }
    }

    /// Most words of a batch in this log.
    #[cold]
    fn batch_words(&self) -> usize {
        BATCH_WORDS.min((self.piece_bytes() - 16) / 8)
    }

    /// The first piece.
    fn first_piece(&self) -> Place {
        let of = view::id_at(self.window.base());
        Place { from: self.window, at: self.at + FIRST_PIECE, of, number: 1 }
    }

    /// The piece after a position; `None` after the last that numbers can name.
    fn piece_after(&self, from: Position) -> Option<Place> {
        let first = self.first_piece();
        if from.chunk & PIECE == 0 {
            return Some(first);
        }
        Place { number: from.chunk & !PIECE, ..first }.after(from.window).filter(|place| place.number < PIECE)
    }

    /// `bytes`: of the batches in the piece.
    fn in_piece(place: Place, (window, bytes): (Window, usize)) -> Position {
        let (chunk, end) = (PIECE | place.number, piece::START + bytes);
        Position { window, chunk, at: piece::START, end, sequence: 0 }
    }

    /// Gives back what the log took and is not to keep. It is empty.
    #[cold]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub(crate) fn give_back(&self) {
        let (id, floor) = (view::id_at(self.window.base()), self.floor());
        let keep = self.chunk_after(KEEP_CHUNKS - 1).map_or(END, |last| last.at);
        if floor < keep {
            self.set_room(self.room().min(floor)); // the arena may have had room ahead there
            self.window.store(self.at + FLOOR, keep as u64);
            self.window.flush(self.at + FLOOR, 8);
            persist::fence(); // before the arena takes the space
            piece::trim(id, floor, keep);
        }
        for (id, _, bytes) in self.first_piece().all() {
            piece::trim(id, piece::START, piece::START + bytes);
        }
    }

    /// The objects with the log's pieces.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = ObjectId> {
        self.first_piece().all().map(|(id, ..)| id)
    }

    /// Forgets the pieces, for a copy of an object: they are the original's.
    pub(crate) fn forget_pieces(&self) {
        Link { from: self.window, at: self.at + FIRST_PIECE, to: ObjectId::NULL }.cut();
    }

    /// Whether a batch of this epoch stands in the log.
    #[inline]
    pub(crate) fn is_empty(&self, tail: Position) -> bool {
        tail.sequence == 0
    }

    /// Forgets what a boot before this one, or a thread that has ended, left in the lines that are never flushed. True if the object was made in this
    /// boot.
    pub(crate) fn start_boot(&self) -> bool {
        for place in (0..DIRTY_WORDS * 4).step_by(8) {
            self.window.store(self.at + DIRTY + place, 0);
        }
        let is_new =
            self.window.half(self.at + ROOM + 4).load(Ordering::Relaxed) == Platform::boot_generation();
        if !is_new {
            self.set_room(0);
        }
        self.set_tail(self.start());
        is_new
    }

    /// Starts a new epoch, durably: all batches are void. Everything in place is durable before.
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub(crate) fn void(&self) -> Position {
        self.window.store_release(self.at + EPOCH, self.epoch().wrapping_add(1));
        self.window.flush(self.at + EPOCH, 8);
        persist::fence();
        self.set_tail(self.start());
        self.start()
    }
}

/// A mark of this boot.
fn room_word(mark: usize) -> u64 {
    mark as u64 | u64::from(Platform::boot_generation()) << 32
}
