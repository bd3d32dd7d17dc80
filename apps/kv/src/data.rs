//! A data object: where records are put, and where their places come from.
//!
//! ```text
//! heap: chunks of 64 KiB, used in order
//!   chunk: blocks one after the other, each begins with its size; a size of 0 ends the chunk
//!   a block larger than a chunk has a run of chunks to itself
//! ```
//! # Contract
//! - **D1** threads append to chunks of their own (a *stripe*), and hold the stripe's lock until the fence: in each chunk, blocks become
//!   durable in order. So [`Data::walk`] finds every block that was ever fenced.
//! - **D2** a chunk is durably taken before anything is written to it, and a block larger than a chunk has a durable header before
//!   contents: whatever a power failure leaves behind, contents are never read as headers.
//! - **D3** a block keeps its size for ever. It is free when its `check` is 0 or wrong. Free lists are found again by walking, so they
//!   are written without flushes, and are void after a start.
//! - A freed block is used again for records of its size class only. It is in the list of the stripe that it was freed by, so that a thread that
//!   replaces values waits for no other one; whose chunk is at its end takes some of the others' blocks.
//! - **D4** nothing is appended or retired before the writer began in the object ([`Data::begin`]), and after it ended.
//!
//! The only line that an append writes besides the record's own is its stripe's first, and that is never flushed.

use crate::error::{Error, Result};
use crate::layout::{self, FIRST_OFFSET, HEADER, Record, UNIT, zero};
use crate::life::{Held, Life};
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};
use libtwz::persist::Outgoing;
use libtwz::prelude::*;
use libtwz::sync::RawMutex;
use libtwz::sys::{Platform, Seam};
use libtwz::{PersistentPtr, Window, at, persist, translate};

/// Bytes of a chunk.
pub(crate) const CHUNK: usize = 64 << 10;
/// How far beyond a record lines are fetched that will be appended to.
const AHEAD: usize = 128;
/// Threads that append at the same time without waiting.
pub const STRIPES: usize = 8;
/// Size classes: exact up to 64 units, then four to a doubling.
pub const CLASSES: usize = 64 + 19 * 4 + 1;
/// Free blocks that a stripe takes from another at a time: few enough that the other one has some left, if it has many.
pub const SOME: usize = 32;
/// Most chunks of an object: libtwz's largest block.
pub(crate) const CHUNKS_MAX: u64 = (512 << 20) / CHUNK as u64;

/// What a thread appends to: `at..end` of a chunk, and blocks that were freed. Never flushed; who only appends touches the first line alone.
#[derive(Debug, Invariant)]
#[repr(C, align(64))]
struct Stripe {
    lock: RawMutex,
    at: PCell<u64>,
    end: PCell<u64>,
    /// Nonzero once a thread appended here in this boot; until then others may take it over.
    claimed: PCell<u64>,
    /// Bytes in free blocks.
    spare: PCell<u64>,
    reserved: [u64; 3],
    /// Offset of the first free block of each class; its third word is the offset of the next.
    free: [PCell<u64>; CLASSES],
    reserved2: [u64; 8 - CLASSES % 8],
}

/// The root of a data object.
#[derive(Debug, Invariant)]
#[repr(C, align(64))]
pub(crate) struct DataRoot {
    /// Offset of chunk 0.
    heap: PCell<u64>,
    /// Chunks that there is room for.
    chunks: PCell<u64>,
    /// Chunks taken.
    used: PCell<u64>,
    reserved: [u64; 5],
    /// `at` and `end` of each stripe when the store was closed.
    saved: [[PCell<u64>; 2]; STRIPES],
    life: Life,
    /// From here on: never flushed. Guards `used`.
    lock: RawMutex,
    /// Nonzero once [`Data::reclaim`] ran in this boot.
    walked: PCell<u64>,
    reserved2: [u64; 6],
    stripes: [Stripe; STRIPES],
}

/// A mapped data object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Data {
    root: &'static DataRoot,
    window: Window,
}

/// A block as [`Data::walk`] finds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) offset: usize,
}

/// Where a record goes.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Where none was before in this boot: nobody reads there.
    New(usize),
    /// Where one was that others may still be reading.
    Again(usize),
}

/// Admission to a stripe; what was appended is durable after [`persist::fence`].
pub(crate) struct Appending {
    data: Data,
    stripe: &'static Stripe,
}

impl Drop for Appending {
    #[inline]
    fn drop(&mut self) {
        self.stripe.lock.unlock_ahead();
    }
}

impl Data {
    /// Makes an object of `chunks` chunks.
    pub(crate) fn create(builder: ObjectBuilder<DataRoot>, chunks: u64) -> Result<Object<DataRoot>> {
        let chunks = chunks.clamp(1, CHUNKS_MAX);
        let object = builder.log_bytes(1024).build(DataRoot::new())?;
        object.tx(|tx| {
            let bytes = as_usize(chunks).saturating_mul(CHUNK);
            let heap = tx.alloc_sparse(object.window(), bytes, 4096)?;
            tx.put(&object.chunks, chunks)?;
            tx.put(&object.heap, (heap - object.window().base()) as u64)
        })?;
        // No transaction follows; what this one wrote must not be redone over what we store.
        libtwz::tx::checkpoint(object.window())?;
        Ok(object)
    }

    /// The data object that a pointer in the index object leads to.
    pub(crate) fn open(holder: Window, pointer: PersistentPtr) -> Result<Self> {
        let data = Self::opened(Window::around(translate::lea(holder, pointer)?)?, pointer)?;
        let (heap, end) = (as_usize(data.root.heap.get()), 1 << 30);
        if heap < FIRST_OFFSET || !heap.is_multiple_of(UNIT) || heap > end - data.chunks() * CHUNK {
            return Err(Error::Damaged);
        }
        Ok(data)
    }

    /// The same in its window, for one that was opened before: what is damaged since then leads elsewhere in the same object, as windows mask
    /// offsets.
    #[inline]
    pub(crate) fn opened(window: Window, pointer: PersistentPtr) -> Result<Self> {
        Ok(Self { root: at(window, PersistentPtr(pointer.offset().into()))?, window })
    }

    /// Makes the pages of the first records present, `bytes` of them.
    pub(crate) fn populate(self, bytes: u64) {
        let heap = as_usize(self.root.heap.get());
        self.window.populate(heap..heap + as_usize(bytes.min(self.capacity())));
    }

    /// Bytes that records may take.
    pub(crate) fn capacity(&self) -> u64 {
        self.chunks() as u64 * CHUNK as u64
    }

    /// Bytes in chunks that are taken.
    pub(crate) fn used(&self) -> u64 {
        self.root.used.get().min(self.root.chunks.get()) * CHUNK as u64
    }

    /// Bytes in free blocks, as far as they are known in this boot.
    pub(crate) fn spare(&self) -> u64 {
        let spare = self.root.stripes.iter().map(|stripe| stripe.spare.get());
        if self.root.life.has_begun() { spare.fold(0, u64::saturating_add) } else { 0 }
    }

    /// Whether a free block for a record of so many units is known.
    pub(crate) fn has_room(&self, units: usize) -> bool {
        let listed = |class: usize| self.root.stripes.iter().any(|stripe| stripe.free[class].get() != 0);
        self.root.life.has_begun() && class_of(round_units(units)).is_some_and(listed)
    }

    fn chunks(&self) -> usize {
        as_usize(self.root.chunks.get().min(CHUNKS_MAX))
    }

    fn chunk_at(&self, number: usize) -> usize {
        as_usize(self.root.heap.get()) + number * CHUNK
    }

    /// Excludes others that begin or end to write here.
    pub(crate) fn hold(&self) -> Result<Held<'static>> {
        self.root.life.hold()
    }

    /// Begins to write here. The first writer of a boot forgets what is void after a start, and goes on in the ends of chunks: those that were
    /// saved, or, after a power failure, those that are found.
    pub(crate) fn begin(&self, held: &Held<'_>) -> Result<()> {
        held.begin(|in_order| {
            let tails = if in_order { self.saved_tails() } else { self.walk(|_| ()) };
            if !in_order {
                self.clear(&tails);
            }
            self.forget_free(tails);
            Ok(())
        })
    }

    /// Ends to write here; the last writer saves where the stripes are.
    pub(crate) fn end(&self) -> Result<()> {
        self.root.life.end(|| {
            self.save();
            Ok(())
        })
    }

    /// Admission to the calling thread's stripe.
    #[inline]
    pub(crate) fn append(self) -> Result<Appending> {
        self.append_to(&self.root.stripes[own_stripe()])
    }

    #[inline]
    fn append_to(self, stripe: &'static Stripe) -> Result<Appending> {
        stripe.lock.lock()?;
        Ok(Appending { data: self, stripe })
    }

    /// Calls `each` for every block, in order; returns the unused ends of chunks, as (from, to).
    pub(crate) fn walk(&self, mut each: impl FnMut(Block)) -> Vec<(usize, usize)> {
        let mut tails = Vec::new();
        let used = as_usize(self.root.used.get()).min(self.chunks());
        let mut chunk = 0;
        while chunk < used {
            let start = self.chunk_at(chunk);
            let (mut at, mut end) = (start, start + CHUNK);
            while at + HEADER <= end {
                let units = self.units(at);
                let bytes = units * UNIT;
                let run = bytes.div_ceil(CHUNK);
                if at == start && run > 1 && run <= used - chunk {
                    end = start + run * CHUNK;
                }
                if units < 2 || bytes > end - at {
                    break;
                }
                each(Block { offset: at });
                at += bytes;
            }
            tails.push((at, end));
            chunk += (end - start) / CHUNK;
        }
        tails
    }

    fn units(&self, offset: usize) -> usize {
        (self.window.load(offset) & 0xffff_ffff) as usize
    }

    /// The record in a block, if its checksum is right; with the key and its hash.
    pub(crate) fn record(&self, block: Block, seed: u64) -> Option<(Record, Vec<u8>, u64)> {
        let record = Record::at(self.window, block.offset)?;
        let check = self.window.load(block.offset + 8) >> 32;
        if check == 0 {
            return None;
        }
        let mut bytes = alloc::vec![0; record.value_len + record.key_len];
        self.window.read(record.value_at(), &mut bytes);
        let key = bytes.split_off(record.value_len);
        let hash = layout::hash(seed, &key);
        let right = layout::check(hash, &bytes, key.len(), record.sequence());
        (check == u64::from(right)).then_some((record, key, hash))
    }

    /// Makes a record free, durably, and its place usable again. Nothing may lead to it any more.
    pub(crate) fn retire(self, offset: usize) -> Result<()> {
        let appending = self.append()?; // excludes `reclaim`, too
        let second = self.window.load(offset + 8);
        self.window.store(offset + 8, second & 0xffff_ffff); // commit point of a delete
        self.window.flush(offset + 8, 8);
        persist::fence();
        appending.give(offset);
        Ok(())
    }

    /// Takes `count` chunks, durably (**D2**); `None` when there are not so many left.
    fn take_chunks(&self, count: usize) -> Result<Option<usize>> {
        self.root.lock.lock()?;
        let used = as_usize(self.root.used.get());
        let fits = used.saturating_add(count) <= self.chunks();
        if fits {
            self.root.used.set_without_log((used + count) as u64);
            persist::persist(self.root.used.as_ptr().addr(), 8);
        }
        self.root.lock.unlock();
        Ok(fits.then(|| self.chunk_at(used)))
    }

    /// What was saved at the close, as far as it can be.
    fn saved_tails(&self) -> Vec<(usize, usize)> {
        let heap = self.chunk_at(0)..=self.chunk_at(self.chunks());
        let place = |pair: &[PCell<u64>; 2]| (as_usize(pair[0].get()), as_usize(pair[1].get()));
        let inside = |(from, to): &(usize, usize)| from < to && heap.contains(from) && heap.contains(to);
        self.root.saved.iter().map(place).filter(inside).collect()
    }

    /// Empties the free lists. `tails`: unused ends of chunks to go on with.
    fn forget_free(&self, tails: Vec<(usize, usize)>) {
        for stripe in &self.root.stripes {
            stripe.free.iter().for_each(|head| head.set_without_log(0));
            stripe.spare.set_without_log(0);
        }
        self.root.walked.set_without_log(0);
        self.set_tails(tails);
    }

    /// Gives the largest tails to the stripes.
    fn set_tails(&self, mut tails: Vec<(usize, usize)>) {
        tails.sort_by_key(|(from, to)| core::cmp::Reverse(to - from));
        for (number, stripe) in self.root.stripes.iter().enumerate() {
            let (from, to) = tails.get(number).copied().unwrap_or((0, 0));
            stripe.at.set_without_log(from as u64);
            stripe.end.set_without_log(to as u64);
            stripe.claimed.set_without_log(0);
        }
    }

    /// Zeroes the unused ends of chunks after a power failure: a torn append may have left contents there that would be read as
    /// headers once a block ends before them.
    fn clear(&self, tails: &[(usize, usize)]) {
        for &(from, to) in tails {
            for word in (from..to).step_by(8) {
                if self.window.load(word) != 0 {
                    self.window.store(word, 0);
                    self.window.flush(word, 8);
                }
            }
        }
    }

    /// Saves where the stripes are; durable after a fence. Only while nobody appends.
    fn save(&self) {
        for (saved, stripe) in self.root.saved.iter().zip(&self.root.stripes) {
            saved[0].set_without_log(stripe.at.get());
            saved[1].set_without_log(stripe.end.get());
        }
        persist::flush(core::ptr::from_ref(&self.root.saved).addr(), size_of_val(&self.root.saved));
    }

    /// Finds all free blocks by walking, once in a boot; then the calling thread's stripe has one for a record of so many units, if there is any.
    pub(crate) fn reclaim(self, units: usize) -> Result<()> {
        let all = self.root.stripes.iter().map(|stripe| self.append_to(stripe));
        let all = all.collect::<Result<Vec<_>>>()?;
        if self.root.walked.get() == 0 {
            let mut free = Vec::new();
            let tails = self.walk(|block| {
                if self.window.load(block.offset + 8) >> 32 == 0 {
                    free.push(block.offset);
                }
            });
            self.forget_free(tails);
            self.root.walked.set_without_log(1);
            free.iter().zip(all.iter().cycle()).for_each(|(offset, appending)| appending.give(*offset));
        }
        let units = round_units(units);
        let (mine, class) = (&all[own_stripe()], class_of(units));
        if let Some(class) = class.filter(|class| mine.stripe.free[*class].get() == 0) {
            all.iter()
                .filter(|other| !core::ptr::eq(other.stripe, mine.stripe))
                .any(|other| mine.take_some(other, class, units));
        }
        Ok(())
    }
}

impl Appending {
    /// Writes a record and starts flushing it; `None` when the object is full.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    #[inline]
    pub(crate) fn put(&self, hash: u64, key: &[u8], value: &[u8], sequence: u64) -> Result<Option<usize>> {
        let units = round_units(layout::units_for(key.len(), value.len())?);
        let Some(place) = self.place(units)? else { return Ok(None) };
        let (window, bytes) = (self.data.window, HEADER + value.len() + key.len());
        let check = layout::check(hash, value, key.len(), sequence);
        let head =
            [units as u64 | (key.len() as u64) << 32, value.len() as u64 | u64::from(check) << 32, sequence];
        let offset = match place {
            Place::New(offset) => {
                let record = Outgoing::range(window, offset, bytes);
                if !record.is_around() {
                    window.expect_store(offset + units * UNIT + AHEAD); // where one of the next records goes
                }
                (offset..).step_by(8).zip(head).for_each(|(at, word)| record.store(at, word));
                layout::store_parts(offset + HEADER, [value, key], |at, word| record.store(at, word));
                record.end();
                offset
            }
            Place::Again(offset) => {
                // First of all: who reads what stood here before sees that it left (`secondary`).
                window.store(offset + 16, sequence);
                fence(Ordering::Release);
                (offset..).step_by(8).zip(&head[..2]).for_each(|(at, word)| window.store(at, *word));
                layout::store_parts(offset + HEADER, [value, key], |at, word| window.store(at, word));
                window.flush(offset, bytes);
                offset
            }
        };
        Ok(Some(offset))
    }

    #[inline]
    fn place(&self, units: usize) -> Result<Option<Place>> {
        let bytes = units * UNIT;
        let Some(class) = class_of(units) else { return Err(self.too_large(bytes)) };
        if self.stripe.spare.get() != 0
            && let Some(offset) = self.take_free(class, units)
        {
            return Ok(Some(Place::Again(offset)));
        }
        let (at, end) = (as_usize(self.stripe.at.get()), as_usize(self.stripe.end.get()));
        if bytes <= end.saturating_sub(at) && self.stripe.claimed.get() != 0 {
            self.stripe.at.set_without_log((at + bytes) as u64);
            return Ok(Some(Place::New(at)));
        }
        self.place_elsewhere(class, units)
    }

    /// Puts a free block into the list of its class.
    fn give(&self, offset: usize) {
        let units = self.data.units(offset);
        let Some(class) = class_of(units) else { return }; // damaged: whatever it is, it is not used again
        let head = &self.stripe.free[class];
        self.data.window.store(offset + 16, head.get());
        head.set_without_log(offset as u64);
        self.stripe.spare.set_without_log(self.stripe.spare.get().saturating_add((units * UNIT) as u64));
    }

    /// Takes the first free block of a class out of its list.
    fn take_free(&self, class: usize, units: usize) -> Option<usize> {
        let (data, head) = (self.data, &self.stripe.free[class]);
        let offset = as_usize(head.get());
        let heap = data.chunk_at(0)..data.chunk_at(data.chunks());
        let usable = heap.contains(&offset) && offset.is_multiple_of(UNIT) && data.units(offset) == units;
        if !usable {
            head.set_without_log(0); // damaged, or the list's end: its blocks are found again by walking
            return None;
        }
        head.set_without_log(data.window.load(offset + 16));
        self.stripe.spare.set_without_log(self.stripe.spare.get().saturating_sub((units * UNIT) as u64));
        Some(offset)
    }

    /// Takes some free blocks of a class from another stripe; says whether there were any.
    fn take_some(&self, other: &Self, class: usize, units: usize) -> bool {
        let taken = core::iter::from_fn(|| other.take_free(class, units)).take(SOME);
        taken.map(|offset| self.give(offset)).count() != 0
    }

    #[cold]
    fn too_large(&self, bytes: usize) -> Error {
        Error::TooLarge { bytes: bytes as u64, limit: self.data.capacity() }
    }

    /// Goes on in what is left of a chunk that nobody appends to, else in blocks that others freed, else in a new chunk, else in somebody else's.
    #[cold]
    fn place_elsewhere(&self, class: usize, units: usize) -> Result<Option<Place>> {
        let bytes = units * UNIT;
        if bytes as u64 > self.data.capacity() {
            return Err(self.too_large(bytes));
        }
        let room = |stripe: &Stripe| stripe.end.get().saturating_sub(stripe.at.get()) >= bytes as u64;
        let unclaimed = |stripe: &Stripe| stripe.claimed.get() == 0 && room(stripe);
        let freed = |stripe: &Stripe| stripe.free[class].get() != 0;
        self.stripe.claimed.set_without_log(1);
        if !room(self.stripe) && !self.take_of_another(unclaimed, |other| self.take_over(other)) {
            if self.take_of_another(freed, |other| self.take_some(other, class, units)) {
                return Ok(self.take_free(class, units).map(Place::Again));
            }
            if bytes > CHUNK {
                return Ok(self.take_run(units)?.map(Place::New));
            }
            if !self.take_chunk()? && !self.take_of_another(room, |other| self.take_over(other)) {
                return Ok(None);
            }
        }
        let at = self.stripe.at.get();
        self.stripe.at.set_without_log(at + bytes as u64);
        Ok(Some(Place::New(as_usize(at))))
    }

    /// Takes the chunks of a block that is larger than one.
    fn take_run(&self, units: usize) -> Result<Option<usize>> {
        let taken = self.data.take_chunks((units * UNIT).div_ceil(CHUNK))?;
        if let Some(at) = taken {
            self.data.window.store(at, units as u64);
            self.data.window.flush(at, 8);
            persist::fence();
        }
        Ok(taken)
    }

    fn take_chunk(&self) -> Result<bool> {
        let Some(at) = self.data.take_chunks(1)? else { return Ok(false) };
        self.stripe.at.set_without_log(at as u64);
        self.stripe.end.set_without_log((at + CHUNK) as u64);
        Ok(true)
    }

    /// Takes the rest of another stripe's chunk.
    fn take_over(&self, other: &Self) -> bool {
        self.stripe.at.set_without_log(other.stripe.at.get());
        self.stripe.end.set_without_log(other.stripe.end.get());
        other.stripe.at.set_without_log(0);
        other.stripe.end.set_without_log(0);
        true
    }

    /// Runs `take` for the first other stripe that is `wanted` and whose lock is free: to wait for it while we hold ours could be for ever. Says whether
    /// it took something.
    fn take_of_another(&self, wanted: impl Fn(&Stripe) -> bool, take: impl Fn(&Self) -> bool) -> bool {
        let others = self.data.root.stripes.iter().filter(|other| !core::ptr::eq(*other, self.stripe));
        for stripe in others {
            if wanted(stripe) && stripe.lock.try_lock() {
                let other = Self { data: self.data, stripe };
                if wanted(stripe) && take(&other) {
                    return true;
                }
            }
        }
        false
    }
}

impl DataRoot {
    const fn new() -> Self {
        Self {
            heap: zero(),
            chunks: zero(),
            used: zero(),
            reserved: [0; 5],
            saved: [const { [const { zero() }; 2] }; STRIPES],
            life: Life::new(true),
            lock: RawMutex::new(),
            walked: zero(),
            reserved2: [0; 6],
            stripes: [const { Stripe::new() }; STRIPES],
        }
    }
}

impl Stripe {
    const fn new() -> Self {
        Self {
            lock: RawMutex::new(),
            at: zero(),
            end: zero(),
            claimed: zero(),
            spare: zero(),
            reserved: [0; 3],
            free: [const { zero() }; CLASSES],
            reserved2: [0; 8 - CLASSES % 8],
        }
    }
}

/// Number of the calling thread's stripe.
#[inline]
#[must_use]
pub fn own_stripe() -> usize {
    Platform::thread_id() as usize % STRIPES
}

/// Units of the smallest class that holds so many.
#[inline]
pub fn round_units(units: usize) -> usize {
    if units <= 64 { units.max(2) } else { units.next_multiple_of((1 << (units - 1).ilog2()) / 4) }
}

/// The class of blocks with so many units; `None` for a size that [`round_units`] does not give.
#[inline]
pub fn class_of(units: usize) -> Option<usize> {
    if units <= 64 {
        return (units >= 2).then_some(units);
    }
    let doubling = (units - 1).ilog2() as usize;
    let step = (1 << doubling) / 4;
    let class = 64 + (doubling - 6) * 4 + (units - (1 << doubling)) / step;
    (units.is_multiple_of(step) && class < CLASSES).then_some(class)
}

/// A number that came out of an object; what is too large for an address space is too large for an object, too.
#[inline]
fn as_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "tests of small numbers")]
mod tests {
    extern crate std;

    use super::*;
    use alloc::vec;

    #[test]
    fn classes_are_what_sizes_round_to() {
        for units in (1..5000).chain([1 << 20, (1 << 20) + 1, 1 << 25]) {
            let rounded = round_units(units);
            assert!(rounded >= units && rounded <= units + units / 4 + 2, "{units}");
            let class = class_of(rounded).unwrap();
            assert!(class < CLASSES && (units < 2 || class_of(round_units(units - 1)).unwrap() <= class));
        }
        assert_eq!((class_of(0), class_of(1), class_of(65), class_of(1 << 40)), (None, None, None, None));
    }

    #[test]
    fn blocks_are_found_by_walking_and_used_again() {
        let object = Data::create(ObjectBuilder::new(), 8).unwrap();
        let data =
            Data::open(object.window(), PersistentPtr::new(0, object.global().offset() as u32)).unwrap();
        data.begin(&data.hold().unwrap()).unwrap();
        let put = |key: &[u8], value: &[u8]| data.append().unwrap().put(1, key, value, 7).unwrap();
        let small = put(b"key", b"value").unwrap();
        let large = put(b"large", &[1; 3 * CHUNK]).unwrap();
        let after = put(b"k", b"v").unwrap();
        assert!(small < after && after < large, "{small} {after} {large}");
        let mut seen = Vec::new();
        data.walk(|block| seen.push(block.offset));
        assert_eq!(seen, [small, after, large]);
        data.retire(large).unwrap();
        assert!(data.spare() > 3 * CHUNK as u64);
        assert_eq!(put(b"other", &[2; 3 * CHUNK]), Some(large), "the place is used again");
        data.retire(small).unwrap();
        data.forget_free(data.walk(|_| ()));
        assert_ne!(put(b"kez", b"walue"), Some(small), "lists are void");
        data.reclaim(2).unwrap();
        assert_eq!(put(b"kez", b"walue"), Some(small), "and found again");
        assert_eq!(put(b"too large for what is left", &[3; 5 * CHUNK]), None);
        assert!(matches!(
            data.append().unwrap().put(1, b"", &[3; 9 * CHUNK], 1),
            Err(Error::TooLarge { .. })
        ));
    }

    /// Runs `what` on a thread that appends to another stripe than the caller.
    fn on_another_stripe<R: Send>(what: impl Fn() -> R + Sync) -> R {
        let mine = own_stripe();
        let once = || (own_stripe() != mine).then(&what);
        std::thread::scope(|scope| {
            loop {
                if let Some(done) = scope.spawn(once).join().unwrap() {
                    return done;
                }
            }
        })
    }

    #[test]
    fn freed_blocks_are_their_stripes_and_others_at_need() {
        let object = Data::create(ObjectBuilder::new(), 4).unwrap();
        let data =
            Data::open(object.window(), PersistentPtr::new(0, object.global().offset() as u32)).unwrap();
        data.begin(&data.hold().unwrap()).unwrap();
        let put = |size: usize| data.append().unwrap().put(1, b"key", &vec![1; size], 7).unwrap();
        let large = put(CHUNK).unwrap();
        let mut all: Vec<usize> = core::iter::from_fn(|| put(990)).collect();
        assert!(all.len() > 60, "{}", all.len());
        data.retire(large).unwrap();
        (0..40).for_each(|_| data.retire(all.pop().unwrap()).unwrap());
        on_another_stripe(|| {
            assert!(put(990).is_some());
            assert_eq!(data.append().unwrap().stripe.spare.get(), 1024 * (SOME as u64 - 1));
            assert_eq!(put(CHUNK), Some(large));
        });
        // It goes without what it would have to wait for, and has it once it waited.
        let held = data.append().unwrap();
        on_another_stripe(|| {
            (1..SOME).for_each(|_| assert!(put(990).is_some()));
            assert_eq!(put(990), None);
        });
        drop(held);
        let units = round_units(layout::units_for(3, 990).unwrap());
        on_another_stripe(|| {
            for found_by in ["walking", "taking another's"] {
                data.reclaim(units).unwrap();
                let own = data.append().unwrap().stripe.free[class_of(units).unwrap()].get();
                assert_ne!(own, 0, "{found_by}");
                assert_eq!(put(990), Some(as_usize(own)));
            }
        });
    }
}
