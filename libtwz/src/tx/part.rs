//! One object's part in a transaction: its lock, its log, and what of it was changed.

use super::log::{Log, Position, Record};
use super::recover;
use crate::arena::{self, Arena, Shadow};
use crate::error::{Error, Result};
use crate::object;
use crate::persist::LINE;
use crate::sync::RawMutex;
use crate::view;
use crate::window::{SLOT_MASK, Window};
use alloc::vec::Vec;
use twz_abi::ObjectId;

/// Ranges kept without a heap allocation.
const INLINE: usize = 12;

/// Byte ranges to flush: the first few in place, the rest on the heap.
#[derive(Debug)]
struct Ranges {
    first: [(u32, u32); INLINE],
    used: usize,
    rest: Vec<(u32, u32)>,
}

impl Ranges {
    const fn new() -> Self {
        Self { first: [(0, 0); INLINE], used: 0, rest: Vec::new() }
    }

    #[inline]
    fn push(&mut self, offset: usize, bytes: usize) {
        #[allow(clippy::cast_possible_truncation, reason = "both are at most 1 GiB")]
        let range = (offset as u32, bytes as u32);
        match self.first.get_mut(self.used) {
            Some(place) => {
                *place = range;
                self.used += 1;
            }
            None => self.rest.push(range),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        self.first[..self.used]
            .iter()
            .chain(&self.rest)
            .map(|&(offset, bytes)| (offset as usize, bytes as usize))
    }
}

/// Where a nested transaction began.
#[derive(Debug)]
pub(super) struct Mark {
    at: Position,
    shadow: Shadow,
    frees: usize,
}

/// An object in a transaction. Locked from [`Part::lock`] to [`Part::unlock`].
#[derive(Debug)]
pub(super) struct Part {
    log: Log,
    arena_at: u64,
    arena: Option<Arena>,
    number: u64,
    at: Position,
    /// Changed in place, recorded.
    changed: Ranges,
    /// Blocks taken in this transaction: they need no record.
    fresh: Ranges,
    shadow: Shadow,
    frees: Vec<(usize, usize)>,
}

impl Part {
    pub(super) fn lock(window: Window) -> Result<Self> {
        let (log, arena_at) = object::log_of(window)?;
        let lock = lock_of(&log);
        let first = lock.take().map_err(|_| Error::Busy(view::id_at(window.base())))?;
        Self::locked(log, arena_at, first.0).inspect_err(|_| lock.unlock())
    }

    pub(super) fn try_lock(window: Window) -> Result<Self> {
        let (log, arena_at) = object::log_of(window)?;
        let lock = lock_of(&log);
        let first = lock.try_take().ok_or_else(|| Error::Busy(view::id_at(window.base())))?;
        Self::locked(log, arena_at, first.0).inspect_err(|_| lock.unlock())
    }

    #[inline]
    fn locked(log: Log, arena_at: u64, first_in_boot: bool) -> Result<Self> {
        if first_in_boot {
            recover::recover_locked(&log)?;
        }
        Ok(Self {
            number: log.finished().wrapping_add(1),
            at: log.start(),
            log,
            arena_at,
            arena: None,
            changed: Ranges::new(),
            fresh: Ranges::new(),
            shadow: Shadow::default(),
            frees: Vec::new(),
        })
    }

    pub(super) fn unlock(&self) {
        lock_of(&self.log).unlock();
    }

    #[inline]
    pub(super) fn window(&self) -> Window {
        self.log.window
    }

    pub(super) fn id(&self) -> ObjectId {
        view::id_at(self.log.window.base())
    }

    pub(super) fn set_coordinator(&self, id: ObjectId) {
        self.log.set_coordinator(id);
    }

    /// Records a range; false when it needs no record.
    #[inline]
    pub(super) fn record(&mut self, address: usize, bytes: usize) -> Result<bool> {
        let offset = address & SLOT_MASK;
        if offset + bytes > SLOT_MASK + 1 {
            return Err(Error::NotInObject { address });
        }
        let is_fresh = |(start, len): (usize, usize)| offset >= start && offset + bytes <= start + len;
        if self.fresh.iter().any(is_fresh) {
            return Ok(false);
        }
        let limit = self.data_top()?;
        self.log.append(&mut self.at, self.number, offset, bytes, limit)?;
        self.changed.push(offset, bytes);
        Ok(true)
    }

    pub(super) fn record_participant(&mut self, id: ObjectId) -> Result<()> {
        let limit = self.data_top()?;
        self.log.append_participant(&mut self.at, self.number, id, limit)
    }

    /// First offset that no data uses: the log must not grow below it. Only asked for when the log may grow.
    #[inline]
    fn data_top(&mut self) -> Result<usize> {
        if self.log.has_room(&self.at) {
            return Ok(0);
        }
        match self.arena()? {
            Some(arena) => Ok(arena.top(&self.shadow)),
            None => Ok(usize::MAX), // no arena: nobody says where the data ends, so the log does not grow
        }
    }

    #[inline]
    fn arena(&mut self) -> Result<Option<Arena>> {
        if self.arena.is_none() && self.arena_at != 0 {
            self.arena = Some(Arena::open(self.log.window, self.arena_at)?);
        }
        Ok(self.arena)
    }

    fn must_have_arena(&mut self) -> Result<Arena> {
        let object = self.id();
        self.arena()?.ok_or(Error::Damaged { object, offset: 0, expected: "an object with an arena" })
    }

    /// Takes a block; the flag says whether records were written.
    pub(super) fn alloc(&mut self, bytes: usize, align: usize) -> (bool, Result<usize>) {
        let before = self.at;
        let result = self.take_block(bytes, align);
        (before != self.at, result)
    }

    fn take_block(&mut self, bytes: usize, align: usize) -> Result<usize> {
        let class = arena::class_for(bytes, align)?;
        let arena = self.must_have_arena()?;
        let Self { log, number, at, shadow, changed, .. } = self;
        let top = arena.top(shadow);
        let offset = arena.take(shadow, class, log.floor(), |word| {
            log.append(at, *number, word, 8, top)?;
            changed.push(word, 8);
            Ok(())
        })?;
        self.fresh.push(offset, bytes);
        Ok(self.log.window.base() + offset)
    }

    pub(super) fn free(&mut self, address: usize, bytes: usize, align: usize) -> Result<()> {
        let class = arena::class_for(bytes, align)?;
        self.frees.push((address & SLOT_MASK, class));
        Ok(())
    }

    pub(super) fn note(&mut self, address: usize, bytes: usize) {
        self.changed.push(address & SLOT_MASK, bytes);
    }

    /// Where the chained object stands, which it is, and how many bytes this arena may grow to.
    pub(super) fn overflow(&mut self) -> Result<(usize, ObjectId, usize)> {
        let arena = self.must_have_arena()?;
        Ok((arena.next_at(), arena.next(), arena.capacity()))
    }

    /// Records the words that the free lists change; true when there are records to settle.
    pub(super) fn record_frees(&mut self) -> Result<bool> {
        if self.frees.is_empty() {
            return Ok(false);
        }
        let arena = self.must_have_arena()?;
        let Self { log, number, at, shadow, changed, frees, .. } = self;
        let top = arena.top(shadow);
        for (block, class) in frees.drain(..) {
            arena.give(shadow, block, class, |word| {
                log.append(at, *number, word, 8, top)?;
                changed.push(word, 8);
                Ok(())
            })?;
        }
        Ok(true)
    }

    /// Stores the allocator's words and flushes everything changed; false when nothing was.
    #[inline]
    pub(super) fn flush_changes(&mut self) -> bool {
        if let (Some(arena), false) = (self.arena, self.shadow.is_empty()) {
            arena.apply(&self.shadow);
        }
        let mut last_line = 0;
        for (offset, bytes) in self.changed.iter().chain(self.fresh.iter()) {
            let line = offset & !(LINE - 1);
            if line != last_line || offset + bytes > line + LINE {
                self.log.window.flush(offset, bytes);
            }
            last_line = line;
        }
        self.changed.used + self.fresh.used > 0
    }

    #[inline]
    pub(super) fn finish(&self) {
        self.log.finish(self.number);
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { at: self.at, shadow: self.shadow.clone(), frees: self.frees.len() }
    }

    /// Restores everything recorded since `mark` (`None`: since the start), newest first. Records stay: they restore what
    /// stands there then, and do no harm.
    pub(super) fn undo_to(&mut self, mark: Option<&Mark>) {
        let mut records: Vec<Record> = Vec::new();
        let mut at = mark.map_or_else(|| self.log.start(), |mark| mark.at);
        while at.is_before(&self.at) {
            let Some(record) = self.log.read(&mut at, self.number) else { break };
            records.push(record);
        }
        for record in records.into_iter().rev() {
            self.log.restore(record);
        }
        self.shadow = mark.map_or_else(Shadow::default, |mark| mark.shadow.clone());
        self.frees.truncate(mark.map_or(0, |mark| mark.frees));
    }
}

pub(super) fn lock_of(log: &Log) -> &'static RawMutex {
    let word = log.window.word(log.lock_at());
    // SAFETY: RawMutex is a transparent AtomicU64, and this one stands in the slot for as long as that is mapped.
    unsafe { &*core::ptr::from_ref(word).cast::<RawMutex>() }
}
