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
//! - A freed block is used again for records of its size class only.
//! - **D4** nothing is appended or retired before the writer began in the object ([`Data::begin`]), and after it ended.
//!
//! The only line that an append writes besides the record's own is the stripe's, and that is never flushed.

use crate::error::{Error, Result};
use crate::layout::{self, FIRST_OFFSET, HEADER, Record, UNIT, zero};
use crate::life::{Held, Life};
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};
use libtwz::prelude::*;
use libtwz::sync::RawMutex;
use libtwz::sys::{Platform, Seam};
use libtwz::{PersistentPtr, Window, at, persist, translate};

/// Bytes of a chunk.
pub(crate) const CHUNK: usize = 64 << 10;
/// How far beyond a record lines are fetched that will be appended to.
const AHEAD: usize = 128;
/// Threads that append at the same time without waiting.
const STRIPES: usize = 8;
/// Size classes: exact up to 64 units, then four to a doubling.
pub const CLASSES: usize = 64 + 19 * 4 + 1;
/// Most chunks of an object: libtwz's largest block.
pub(crate) const CHUNKS_MAX: u64 = (512 << 20) / CHUNK as u64;

/// What a thread appends to: `at..end` of a chunk. A line of its own, never flushed.
#[derive(Debug, Invariant)]
#[repr(C, align(64))]
struct Stripe {
    lock: RawMutex,
    at: PCell<u64>,
    end: PCell<u64>,
    /// Nonzero once a thread appended here in this boot; until then others may take it over.
    claimed: PCell<u64>,
    reserved: [u64; 4],
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
    /// From here on: never flushed. Guards what follows, and `used`.
    lock: RawMutex,
    /// Bytes in free blocks.
    spare: PCell<u64>,
    /// Nonzero once [`Data::reclaim`] ran in this boot.
    walked: PCell<u64>,
    /// Offset of the first free block of each class; its third word is the offset of the next.
    free: [PCell<u64>; CLASSES],
    reserved2: [u64; 8 - (3 + CLASSES) % 8],
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
        if self.root.life.has_begun() { self.root.spare.get() } else { 0 }
    }

    /// Whether a free block for a record of these lengths is known.
    pub(crate) fn has_room(&self, key_len: usize, value_len: usize) -> bool {
        let class = layout::units_for(key_len, value_len).ok().and_then(|units| class_of(round_units(units)));
        self.root.life.has_begun() && class.is_some_and(|class| self.root.free[class].get() != 0)
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
        let stripe = &self.root.stripes[Platform::thread_id() as usize % STRIPES];
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
        let _appending = self.append()?; // excludes `reclaim`
        let second = self.window.load(offset + 8);
        self.window.store(offset + 8, second & 0xffff_ffff); // commit point of a delete
        self.window.flush(offset + 8, 8);
        persist::fence();
        // It is free now; a list that cannot be had only means that its place is found later, by walking.
        let _ = self.give(offset);
        Ok(())
    }

    fn give(&self, offset: usize) -> Result<()> {
        let units = self.units(offset);
        let Some(class) = class_of(units) else { return Ok(()) }; // damaged: whatever it is, it is not used again
        self.root.lock.lock()?;
        self.window.store(offset + 16, self.root.free[class].get());
        self.root.free[class].set_without_log(offset as u64);
        self.root.spare.set_without_log(self.spare() + (units * UNIT) as u64);
        self.root.lock.unlock();
        Ok(())
    }

    #[inline]
    fn take(&self, class: usize, units: usize) -> Result<Option<usize>> {
        let head = &self.root.free[class];
        if head.get() == 0 { Ok(None) } else { self.take_first(head, units) }
    }

    fn take_first(&self, head: &PCell<u64>, units: usize) -> Result<Option<usize>> {
        self.root.lock.lock()?;
        let offset = as_usize(head.get());
        let heap = self.chunk_at(0)..self.chunk_at(self.chunks());
        let usable = heap.contains(&offset) && offset.is_multiple_of(UNIT) && self.units(offset) == units;
        if usable {
            head.set_without_log(self.window.load(offset + 16));
            self.root.spare.set_without_log(self.spare().saturating_sub((units * UNIT) as u64));
        } else {
            head.set_without_log(0); // damaged, or the list's end: its blocks are found again by walking
        }
        self.root.lock.unlock();
        Ok(usable.then_some(offset))
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
        for head in &self.root.free {
            head.set_without_log(0);
        }
        self.root.spare.set_without_log(0);
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

    /// Finds all free blocks by walking, once in a boot.
    pub(crate) fn reclaim(self) -> Result<()> {
        let admission = |stripe: &'static Stripe| -> Result<_> {
            stripe.lock.lock()?;
            Ok(Appending { data: self, stripe })
        };
        let _all = self.root.stripes.iter().map(admission).collect::<Result<Vec<_>>>()?;
        self.reclaim_locked()
    }

    fn reclaim_locked(&self) -> Result<()> {
        if self.root.walked.get() != 0 {
            return Ok(());
        }
        let mut free = Vec::new();
        let tails = self.walk(|block| {
            if self.window.load(block.offset + 8) >> 32 == 0 {
                free.push(block.offset);
            }
        });
        self.forget_free(tails);
        self.root.walked.set_without_log(1);
        for &offset in &free {
            self.give(offset)?;
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
        let Some(offset) = self.place(units)? else { return Ok(None) };
        let window = self.data.window;
        let check = layout::check(hash, value, key.len(), sequence);
        // First of all: who reads what stood here before sees that it left (`secondary`).
        window.store(offset + 16, sequence);
        fence(Ordering::Release);
        window.store(offset, units as u64 | (key.len() as u64) << 32);
        window.store(offset + 8, value.len() as u64 | u64::from(check) << 32);
        store_parts(offset + HEADER, [value, key], |at, word| window.store(at, word));
        window.flush(offset, HEADER + value.len() + key.len());
        Ok(Some(offset))
    }

    #[inline]
    fn place(&self, units: usize) -> Result<Option<usize>> {
        let bytes = units * UNIT;
        let Some(class) = class_of(units) else { return Err(self.too_large(bytes)) };
        if let Some(offset) = self.data.take(class, units)? {
            return Ok(Some(offset));
        }
        let (at, end) = (as_usize(self.stripe.at.get()), as_usize(self.stripe.end.get()));
        if bytes <= end.saturating_sub(at) && self.stripe.claimed.get() != 0 {
            self.stripe.at.set_without_log((at + bytes) as u64);
            self.data.window.expect_store(at + bytes + AHEAD); // where one of the next records goes
            return Ok(Some(at));
        }
        self.place_elsewhere(units)
    }

    #[cold]
    fn too_large(&self, bytes: usize) -> Error {
        Error::TooLarge { bytes: bytes as u64, limit: self.data.capacity() }
    }

    /// Goes on in what is left of a chunk that nobody appends to, else in a new one, else in somebody else's.
    #[cold]
    fn place_elsewhere(&self, units: usize) -> Result<Option<usize>> {
        let bytes = units * UNIT;
        if bytes as u64 > self.data.capacity() {
            return Err(self.too_large(bytes));
        }
        self.stripe.claimed.set_without_log(1);
        if bytes > CHUNK {
            let Some(at) = self.data.take_chunks(bytes.div_ceil(CHUNK))? else { return Ok(None) };
            self.data.window.store(at, units as u64);
            self.data.window.flush(at, 8);
            persist::fence();
            return Ok(Some(at));
        }
        let room = |stripe: &Stripe| stripe.end.get().saturating_sub(stripe.at.get()) >= bytes as u64;
        if !room(self.stripe)
            && !self.take_over(|stripe| stripe.claimed.get() == 0 && room(stripe))
            && !self.take_chunk()?
            && !self.take_over(room)
        {
            return Ok(None);
        }
        let at = self.stripe.at.get();
        self.stripe.at.set_without_log(at + bytes as u64);
        Ok(Some(as_usize(at)))
    }

    fn take_chunk(&self) -> Result<bool> {
        let Some(at) = self.data.take_chunks(1)? else { return Ok(false) };
        self.stripe.at.set_without_log(at as u64);
        self.stripe.end.set_without_log((at + CHUNK) as u64);
        Ok(true)
    }

    /// Takes the rest of a stripe's chunk that is `wanted`, if its lock is free.
    fn take_over(&self, wanted: impl Fn(&Stripe) -> bool) -> bool {
        let others = self.data.root.stripes.iter().filter(|other| !core::ptr::eq(*other, self.stripe));
        for other in others {
            if !wanted(other) || !other.lock.try_lock() {
                continue;
            }
            let found = wanted(other);
            if found {
                self.stripe.at.set_without_log(other.at.get());
                self.stripe.end.set_without_log(other.end.get());
                other.at.set_without_log(0);
                other.end.set_without_log(0);
            }
            other.lock.unlock();
            if found {
                return true;
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
            spare: zero(),
            walked: zero(),
            free: [const { zero() }; CLASSES],
            reserved2: [0; 8 - (3 + CLASSES) % 8],
            stripes: [const {
                Stripe { lock: RawMutex::new(), at: zero(), end: zero(), claimed: zero(), reserved: [0; 4] }
            }; STRIPES],
        }
    }
}

/// Stores byte sequences one after the other, by words, from `at`, a multiple of 8; `store` gets the place of each.
#[inline]
pub fn store_parts(at: usize, parts: [&[u8]; 2], mut store: impl FnMut(usize, u64)) {
    let (mut at, mut carry, mut bits) = (at, 0, 0_u32);
    for part in parts {
        let mut words = part.chunks_exact(8);
        for word in &mut words {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            let word = u64::from_le_bytes(bytes);
            store(at, carry | word << bits);
            carry = word.checked_shr(64 - bits).unwrap_or(0);
            at += 8;
        }
        let mut rest = words.remainder();
        if let Some((half, more)) = rest.split_first_chunk::<4>() {
            rest = more;
            let half = u64::from(u32::from_le_bytes(*half));
            carry |= half << bits;
            bits += 32;
            if bits >= 64 {
                store(at, carry);
                bits -= 64;
                (at, carry) = (at + 8, half.checked_shr(32 - bits).unwrap_or(0));
            }
        }
        for &byte in rest {
            carry |= u64::from(byte) << bits;
            bits += 8;
            if bits == 64 {
                store(at, carry);
                (at, carry, bits) = (at + 8, 0, 0);
            }
        }
    }
    if bits > 0 {
        store(at, carry);
    }
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
    use super::*;

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
    fn parts_are_stored_one_after_the_other() {
        let object = ObjectBuilder::new().build([0_u64; 16]).unwrap();
        let (window, base) = (object.window(), object.global().offset() as usize);
        let text: [u8; 80] = core::array::from_fn(|i| i as u8 + 1);
        for first in 0..30 {
            for second in 0..30 {
                store_parts(base, [&text[..first], &text[first..first + second]], |at, word| {
                    window.store(at, word)
                });
                let mut back = [0; 80];
                window.read(base, &mut back);
                assert_eq!(back[..first + second], text[..first + second], "{first} {second}");
            }
        }
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
        data.reclaim().unwrap();
        assert_eq!(put(b"kez", b"walue"), Some(small), "and found again");
        assert_eq!(put(b"too large for what is left", &[3; 5 * CHUNK]), None);
        assert!(matches!(
            data.append().unwrap().put(1, b"", &[3; 9 * CHUNK], 1),
            Err(Error::TooLarge { .. })
        ));
    }
}
