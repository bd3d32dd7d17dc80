//! One object's part in a transaction: its lock, its log, and what of it was changed.

mod puts;
mod records;

use super::entry;
use super::log::{Dirty, Kind, Log, Marker, Position, Tag};
use super::{recover, room};
use crate::arena::{self, Arena, Shadow};
use crate::error::{Error, Result};
use crate::object;
use crate::persist;
use crate::spill::Spill;
use crate::sync::{RawMutex, Taken};
use crate::view;
use crate::window::{SLOT_MASK, Stretch, Window};
use alloc::vec::Vec;
use records::Extendable;
use twz_abi::{ObjectId, Rights};

#[allow(clippy::cast_possible_truncation, reason = "2^12")]
const FIRST: usize = twz_abi::object::DATA_OFFSET as usize;

/// Words of a log: 16 records of a word each need no heap allocation.
type Words = Spill<u64, 32>;
/// (offset, bytes) kept without a heap allocation.
type Ranges = Spill<(u32, u32), 4>;

/// Where a nested transaction began.
#[derive(Debug)]
pub(super) struct Mark {
    undo: usize,
    /// All puts that were pending: the nested one may apply them, and undoing it takes that back.
    puts: Vec<u64>,
    fresh: usize,
    outer_fresh: usize,
    shadow: Shadow,
    frees: usize,
}

/// An object in a transaction. Locked from [`Part::lock`] to [`Part::unlock`].
#[derive(Debug)]
pub(super) struct Part {
    log: Log,
    arena_at: u64,
    arena: Option<Arena>,
    at: Position,
    /// The pages before this offset are there ([`room`]).
    mark: usize,
    /// Whether the pool refused more of them.
    is_pool_full: bool,
    /// Whether the mark was moved past a sparse block.
    skipped: bool,
    /// Number of the transaction's first batch.
    first_batch: u32,
    /// Where it marks what it changes.
    dirty: Dirty,
    /// Entries of what recorded ranges held before.
    undo: Words,
    /// Words of `undo` that are in the log.
    settled: usize,
    /// Where in `undo` the last batch of records begins, if that was one batch; else where it ends.
    last_records: usize,
    /// The last entry of `undo`, if it may grow: of whole words, not in the log, and of the innermost transaction.
    extendable: Extendable,
    /// The words from [`FIRST`] on that need nothing but their records: before the mark, and none while a block is fresh or the transaction has failed.
    plain: Stretch,
    /// Entries of what the commit stores.
    puts: Words,
    /// Ranges that were written without a record. What they and recorded ones hold at the commit goes to the log.
    noted: Ranges,
    /// Blocks taken in this transaction, and parts of tables that came into use, which need no record.
    fresh: Spill<Fresh, 2>,
    /// How many of these were there before the nested transaction that runs: what that changes in them it must be able to put back.
    outer_fresh: usize,
    /// Whether the log may tell of what stood in memory before it was given out: a table was taken from a free list, or a nested transaction
    /// gave back by failing what it had put into.
    stale_log: bool,
    shadow: Shadow,
    frees: Vec<(usize, usize)>,
}

/// A block taken in this transaction.
#[derive(Clone, Copy, Debug)]
struct Fresh {
    offset: u32,
    bytes: u32,
    /// It was on a free list. The log may hold what stood there when it was used before, and would put that back; so its new
    /// contents go to the log, too. Others are made durable in place before the commit.
    reused: bool,
}

#[inline]
fn range(offset: usize, bytes: usize) -> (u32, u32) {
    #[allow(clippy::cast_possible_truncation, reason = "both are at most 1 GiB")]
    (offset as u32, bytes as u32)
}

impl Part {
    /// The part of an object before it is locked. Made where it stays: moving it would cost as much as a small transaction.
    #[inline(always)]
    pub(super) fn unlocked(window: Window) -> Self {
        Self {
            log: Log::unopened(window),
            arena_at: 0,
            arena: None,
            at: Position::unopened(window),
            mark: 0,
            is_pool_full: false,
            skipped: false,
            first_batch: 0,
            dirty: Log::unopened(window).dirty(Marker::of(0)),
            undo: Words::new(),
            settled: 0,
            last_records: 0,
            extendable: Extendable::NONE,
            plain: Stretch::NONE,
            puts: Words::new(),
            noted: Ranges::new(),
            fresh: Spill::new(),
            outer_fresh: 0,
            stale_log: false,
            shadow: Shadow::default(),
            frees: Vec::new(),
        }
    }

    /// Locks the object, waiting for it. `opened`: what [`object::log_of`] says, if the caller has asked it.
    ///
    /// # Errors
    /// [`Error::Busy`] when this thread has it; [`Error::NotPermitted`] when it is mapped for reading only; what recovery says. Then it is not
    /// locked.
    #[inline(never)]
    pub(super) fn lock(&mut self, opened: Option<(Log, u64)>) -> Result<()> {
        let window = self.log.window;
        if !view::rights_at(window)?.contains(Rights::WRITE) {
            return Err(Error::NotPermitted(view::id_at(window.base())));
        }
        let (log, arena_at) = match opened {
            Some(opened) => opened,
            None => object::log_of(window)?,
        };
        let taken = lock_of(&log).take_from_anyone(None).map_err(|error| match error {
            Error::WouldBlock => Error::Busy(view::id_at(window.base())),
            other => other,
        })?;
        self.begin(log, arena_at, taken)
    }

    /// Locks the object if nobody has it, with an empty log: what an other log decides about must stand alone (**X2**).
    pub(super) fn try_lock(window: Window) -> Result<Self> {
        let mut part = Self::unlocked(window);
        let (log, arena_at) = object::log_of(window)?;
        let lock = lock_of(&log);
        let taken = lock.try_take().or_else(|| lock.take_over());
        part.begin(log, arena_at, taken.ok_or_else(|| Error::Busy(view::id_at(window.base())))?)?;
        if !log.is_empty(part.at) {
            part.at = log.checkpoint();
            part.number();
        }
        Ok(part)
    }

    /// What is to be done when the lock was taken: recover unless that was done; make room in the log.
    #[inline(always)]
    fn begin(&mut self, log: Log, arena_at: u64, taken: Taken) -> Result<()> {
        if taken != Taken::Again {
            recover::recover_taken(&log, taken)?;
        }
        let at = log.tail().inspect_err(|_| lock_of(&log).unlock())?;
        (self.log, self.arena_at, self.at, self.mark) = (log, arena_at, at, log.room());
        if log.is_nearly_full(at) {
            self.make_room();
        }
        self.number();
        log.expect_batch(self.at);
        Ok(())
    }

    /// The transaction begins here in the log.
    #[inline(always)]
    fn number(&mut self) {
        self.first_batch = self.at.sequence();
        self.dirty = self.log.dirty(Marker::of(self.first_batch));
    }

    /// A log that is used up by transactions grows while it is small; else it starts anew.
    #[cold]
    fn make_room(&mut self) {
        let Self { log, arena_at, shadow, .. } = &*self;
        let grown =
            log.should_grow(self.at) && data_top(log, *arena_at, shadow).is_ok_and(|limit| log.grow(limit));
        if !grown {
            self.at = log.checkpoint();
        }
    }

    /// Leaves the tail for the next holder of the lock.
    #[inline]
    pub(super) fn leave_tail(&self) {
        self.log.set_tail(self.at);
    }

    #[inline]
    pub(super) fn unlock(&self) {
        self.leave_tail();
        lock_of(&self.log).unlock_ahead();
    }

    #[inline]
    pub(super) fn window(&self) -> Window {
        self.log.window
    }

    #[inline]
    pub(super) fn state(&self) -> super::State {
        self.log.state()
    }

    pub(super) fn id(&self) -> ObjectId {
        view::id_at(self.log.window.base())
    }

    #[inline]
    pub(super) fn set_coordinator(&self, id: ObjectId) {
        self.log.set_coordinator(id);
    }

    /// The offset of a range, of which all pages are there then.
    #[inline]
    fn place(&mut self, address: usize, bytes: usize) -> Result<usize> {
        let offset = address & SLOT_MASK;
        if offset < FIRST || offset + bytes > self.mark { self.far_place(address, bytes) } else { Ok(offset) }
    }

    /// [`Part::place`] beyond the mark.
    #[cold]
    fn far_place(&mut self, address: usize, bytes: usize) -> Result<usize> {
        let offset = address & SLOT_MASK;
        let end = offset.saturating_add(bytes);
        if offset < FIRST || end > SLOT_MASK + 1 {
            return Err(Error::NotInObject { address });
        }
        self.look()?;
        if end > self.mark {
            room::have(self.id(), offset..end)?;
        }
        Ok(offset)
    }

    /// Sees to it that the mark counts in this boot.
    fn look(&mut self) -> Result<()> {
        if self.mark == 0 {
            let Self { log, arena_at, shadow, .. } = &*self;
            let (sparse, top) = match *arena_at {
                0 => (0, log.start().end()), // nobody says where data ends
                at => (Arena::open(log.window, at)?.sparse(), data_top(log, at, shadow)?),
            };
            self.mark = room::look(log, sparse, top)?;
        }
        Ok(())
    }

    /// Writes records to the log; true when a fence must follow.
    #[inline]
    pub(super) fn settle(&mut self) -> Result<bool> {
        if self.settled == self.undo.len() {
            return Ok(false);
        }
        let Self { log, at, undo, settled, last_records, arena_at, shadow, .. } = self;
        let first = at.sequence();
        log.append(at, Kind::Undo, Kind::Undo, &undo.as_slice()[*settled..], || {
            data_top(log, *arena_at, shadow)
        })?;
        let is_one_batch = at.sequence().wrapping_sub(first) == 1;
        *last_records = if is_one_batch { *settled } else { undo.len() };
        *settled = undo.len();
        self.extendable = Extendable::NONE;
        Ok(true)
    }

    #[inline]
    fn arena(&mut self) -> Result<Arena> {
        if let Some(arena) = self.arena {
            return Ok(arena);
        }
        let arena = Arena::open(self.log.window, self.arena_at)?;
        self.arena = Some(arena);
        Ok(arena)
    }

    /// Takes a block and returns its address; records it if it was on a free list.
    #[inline]
    pub(super) fn alloc(&mut self, bytes: usize, align: usize) -> Result<usize> {
        let (offset, reused) = self.take_block(bytes, align)?;
        if reused {
            // Its first word links the free list until the commit: an abort must find it.
            self.extendable = Extendable::NONE;
            entry::entries_of(self.log.window, offset, 8, &mut self.undo);
        }
        let (start, len) = range(offset, bytes);
        self.push_fresh(Fresh { offset: start, bytes: len, reused });
        Ok(self.log.window.base() + offset)
    }

    /// Takes a block that is only written by puts.
    #[inline]
    pub(super) fn alloc_for_put(&mut self, bytes: usize, align: usize) -> Result<usize> {
        Ok(self.log.window.base() + self.take_block(bytes, align)?.0)
    }

    /// Takes a block whose parts come into use one after the other, by [`Part::fill`].
    pub(super) fn alloc_table(&mut self, bytes: usize, align: usize) -> Result<usize> {
        let (offset, reused) = self.take_block(bytes, align)?;
        self.stale_log |= reused;
        Ok(self.log.window.base() + offset)
    }

    /// Notes a part of a table that was filled in place, and that nothing leads to before the commit.
    pub(super) fn fill(&mut self, address: usize, bytes: usize) -> Result<()> {
        if self.stale_log {
            return self.note(address, bytes); // to be redone after what the log holds of it
        }
        let (offset, bytes) = range(self.place(address, bytes)?, bytes);
        self.push_fresh(Fresh { offset, bytes, reused: false });
        Ok(())
    }

    /// Takes a block whose pages come when they are first stored to.
    pub(super) fn alloc_sparse(&mut self, bytes: usize, align: usize) -> Result<usize> {
        let class = arena::class_for(bytes, align)?;
        self.look()?;
        let arena = self.arena()?;
        let Self { log, shadow, mark, is_pool_full, skipped, .. } = self;
        let size = arena::class_bytes(class);
        let (offset, _) = arena.take(shadow, class, log.floor(), |end| {
            if end > *mark {
                *mark = room::skip(log, end - size, end).inspect_err(|_| *is_pool_full = true)?;
                *skipped = true;
            }
            Ok(())
        })?;
        let base = self.log.window.base();
        self.put_word(base + arena.sparse_at(), (offset + size).max(arena.sparse()) as u64)?;
        Ok(base + offset)
    }

    #[inline]
    fn take_block(&mut self, bytes: usize, align: usize) -> Result<(usize, bool)> {
        let class = arena::class_for(bytes, align)?;
        let arena = self.arena()?;
        let Self { log, shadow, mark, is_pool_full, .. } = self;
        let floor = log.floor();
        arena.take(shadow, class, floor, |end| {
            if end > *mark {
                return more_room(log, &arena, mark, end).inspect_err(|_| *is_pool_full = true);
            }
            Ok(())
        })
    }

    /// Whether the block that was just refused was not to be had because the pool is full, and not the object.
    #[cold]
    pub(super) fn was_pool_full(&mut self) -> bool {
        core::mem::take(&mut self.is_pool_full)
    }

    pub(super) fn free(&mut self, address: usize, bytes: usize, align: usize) -> Result<()> {
        let class = arena::class_for(bytes, align)?;
        self.frees.push((address & SLOT_MASK, class));
        Ok(())
    }

    /// Notes a range that is written without a record.
    pub(super) fn note(&mut self, address: usize, bytes: usize) -> Result<()> {
        let offset = self.place(address, bytes)?;
        self.noted.push(range(offset, bytes));
        Ok(())
    }

    /// Where the chained object stands, which it is, and how many bytes this arena may grow to.
    pub(super) fn overflow(&mut self) -> Result<(usize, ObjectId, usize)> {
        let arena = self.arena()?;
        Ok((arena.next_at(), arena.next(), arena.capacity()))
    }

    /// Turns what the allocator changed into puts; once, at the commit.
    #[inline]
    pub(super) fn put_allocations(&mut self) -> Result<()> {
        if !self.frees.is_empty() {
            let arena = self.arena()?;
            for (block, class) in self.frees.drain(..) {
                arena.give(&mut self.shadow, block, class)?;
            }
        }
        if let Some(arena) = self.arena {
            let Self { puts, shadow, dirty, .. } = self;
            arena.for_changes(shadow, |offset, value| {
                dirty.mark(offset, 8);
                puts.extend([entry::entry_head(offset, 8), value]);
            });
        }
        Ok(())
    }

    /// Whether the transaction did anything here.
    #[inline]
    pub(super) fn did_anything(&self) -> bool {
        !(self.undo.is_empty() && self.puts.is_empty() && self.fresh.is_empty() && self.noted.is_empty())
    }

    /// Whether all that it did is in its puts.
    #[inline(always)]
    pub(super) fn only_puts(&self) -> bool {
        self.undo.is_empty() && self.fresh.is_empty() && self.noted.is_empty()
    }

    /// The whole commit of a transaction that has only puts, if any: one fence (**X1**).
    #[inline(always)]
    pub(super) fn commit_puts(&mut self) -> Result<()> {
        let Self { log, at, puts, arena_at, shadow, .. } = self;
        let puts = puts.as_slice();
        if puts.is_empty() {
            return Ok(());
        }
        log.append(at, Kind::Redo, Kind::Commit, puts, || data_top(log, *arena_at, shadow))?;
        persist::fence();
        self.apply_puts();
        if self.is_log_long() {
            self.checkpoint();
        }
        Ok(())
    }

    /// Flushes new blocks; true when a fence must follow.
    #[inline]
    pub(super) fn flush_fresh(&self) -> bool {
        let mut any = false;
        for block in self.fresh.as_slice().iter().filter(|block| !block.reused) {
            self.log.window.flush(block.offset as usize, block.bytes as usize);
            any = true;
        }
        any
    }

    /// Whether blocks were used again whose contents are in the log: plain stores to them must find it empty.
    #[inline]
    pub(super) fn reused_blocks(&self) -> bool {
        self.stale_log || self.fresh.as_slice().iter().any(|block| block.reused)
    }

    /// Writes the commit batch; the transaction is committed once a fence followed (**X1**).
    #[inline]
    pub(super) fn write_commit(&mut self) -> Result<()> {
        let mut redo = Words::new();
        redo.reserve(self.undo.len() + self.puts.len());
        let tag = self.redo_after_records(&mut redo).unwrap_or_else(|| {
            redo.truncate(0);
            self.redo_entries(0, &mut redo);
            Kind::Commit.into()
        });
        let Self { log, at, arena_at, shadow, .. } = self;
        log.append(at, Kind::Redo, tag, redo.as_slice(), || data_top(log, *arena_at, shadow))
    }

    /// What the commit batch has in it if it begins with the contents of the last batch of records; `None` if it would not come right after that.
    fn redo_after_records(&mut self, redo: &mut Words) -> Option<Tag> {
        let Self { log, undo, last_records, dirty, .. } = self;
        let records = undo.as_slice().get(*last_records..)?;
        if records.is_empty() {
            return None;
        }
        let count = records.len();
        let mut marked = *dirty; // a copy that nothing else knows of stays in registers
        entry::contents_of(log.window, records, redo, |offset, bytes| marked.mark(offset, bytes));
        *dirty = marked;
        self.redo_entries(count, redo);
        self.log.commit_after(&self.at, count, redo.len())
    }

    /// Entries of what was changed in place, but for what the last records are of, and of the puts.
    fn redo_entries(&mut self, last_records: usize, redo: &mut Words) {
        let Self { log, undo, puts, noted, fresh, dirty, .. } = self;
        let records = undo.as_slice().split_at(undo.len() - last_records).0;
        let records = entry::ranges(records).map(|(offset, bytes, _)| (offset, bytes));
        let fresh =
            fresh.as_slice().iter().filter(|block| block.reused).map(|block| (block.offset, block.bytes));
        let written = fresh.chain(noted.as_slice().iter().copied());
        let written = written.map(|(offset, bytes)| (offset as usize, bytes as usize));
        for (offset, bytes) in written.chain(records) {
            dirty.mark(offset, bytes);
            entry::entries_of(log.window, offset, bytes, redo);
        }
        redo.extend_from(puts.as_slice());
    }

    /// Flushes everything that was changed in place.
    pub(super) fn flush_changed(&self) {
        let fresh = self.fresh.as_slice().iter().map(|block| (block.offset, block.bytes));
        for (offset, bytes) in self.noted.as_slice().iter().copied().chain(fresh) {
            self.log.window.flush(offset as usize, bytes as usize);
        }
        for (offset, bytes, _) in entry::ranges(self.undo.as_slice()) {
            self.log.window.flush(offset, bytes);
        }
    }

    /// Makes what is dirty durable in place, and the log empty; nothing may be trailing that is to be undone.
    pub(super) fn checkpoint(&mut self) {
        let was_long = self.is_log_long();
        self.at = self.log.checkpoint();
        if was_long {
            self.log.give_back();
            self.mark = self.log.room();
            self.forget_plain();
        }
    }

    /// Whether this transaction made the log longer than it is to stay.
    #[inline(always)]
    pub(super) fn is_log_long(&self) -> bool {
        self.at.is_far()
    }

    /// Begins a nested transaction.
    pub(super) fn begin_nested(&mut self) -> Mark {
        let mark = Mark {
            undo: self.undo.len(),
            puts: self.puts.as_slice().to_vec(),
            fresh: self.fresh.len(),
            outer_fresh: self.outer_fresh,
            shadow: self.shadow.clone(),
            frees: self.frees.len(),
        };
        self.outer_fresh = mark.fresh;
        self.extendable = Extendable::NONE;
        mark
    }

    /// Ends it, however it went. `None`: the object came into the transaction in it.
    pub(super) fn end_nested(&mut self, mark: Option<&Mark>) {
        self.outer_fresh = mark.map_or(0, |mark| mark.outer_fresh);
        self.extendable = Extendable::NONE;
    }

    /// Puts back everything recorded since `mark` (`None`: since the start), newest first, and forgets what the commit was to
    /// do. Records stay: they say what stands there then, and do no harm.
    pub(super) fn undo_to(&mut self, mark: Option<&Mark>) {
        let start = mark.map_or(0, |mark| mark.undo);
        let ranges: Vec<entry::Range<'_>> = entry::ranges(&self.undo.as_slice()[start..]).collect();
        for range in ranges.into_iter().rev() {
            entry::store_range(self.log.window, range);
            // What was undone may have reached memory: the next checkpoint must flush what stands there now.
            self.dirty.mark(range.0, range.1);
        }
        self.puts.truncate(0);
        if let Some(mark) = mark {
            self.puts.extend_from(&mark.puts);
        }
        self.fresh.truncate(mark.map_or(0, |mark| mark.fresh));
        self.frees.truncate(mark.map_or(0, |mark| mark.frees));
        // Records of blocks from the arena's end stay in the log, and nobody will know that these were used before.
        self.stale_log |=
            mark.is_some_and(|mark| self.undo.len() > start && self.shadow.end_differs(&mark.shadow));
        self.shadow = mark.map_or_else(Shadow::default, |mark| mark.shadow.clone());
        if core::mem::take(&mut self.skipped) {
            self.mark = 0; // what comes to stand there now is no sparse block
            self.forget_plain();
            self.log.set_room(0);
        }
    }

    /// Ends an undone transaction in the log; a fence must follow before the lock is freed. Also one whose commit did not fit: what is there of
    /// it must not count for the next.
    pub(super) fn write_abort(&mut self) {
        if self.at.sequence() == self.first_batch {
            return; // nothing of it is in the log
        }
        let Self { log, at, arena_at, shadow, .. } = self;
        if log.append(at, Kind::Abort, Kind::Abort, &[], || data_top(log, *arena_at, shadow)).is_err() {
            // No room for it: everything in place is as it was, so it may become durable and the log void.
            self.flush_changed();
            self.checkpoint();
        }
    }
}

/// Moves the mark, so that blocks may end at `end`.
#[cold]
fn more_room(log: &Log, arena: &Arena, mark: &mut usize, end: usize) -> Result<()> {
    if *mark == 0 {
        *mark = room::look(log, arena.sparse(), arena.bump())?;
    }
    if end > *mark {
        *mark = room::grow(log, end, log.floor().min(arena.limit()))?;
    }
    Ok(())
}

/// First offset that no data uses: the log must not grow below it.
fn data_top(log: &Log, arena_at: u64, shadow: &Shadow) -> Result<usize> {
    if arena_at == 0 {
        return Ok(usize::MAX); // nobody says where the data ends, so the log does not grow
    }
    Ok(Arena::open(log.window, arena_at)?.top(shadow))
}

pub(super) fn lock_of(log: &Log) -> &'static RawMutex {
    let word = log.window.word(log.lock_at());
    // SAFETY: RawMutex is a transparent AtomicU64, and this one stands in the slot for as long as that is mapped.
    unsafe { &*core::ptr::from_ref(word).cast::<RawMutex>() }
}
