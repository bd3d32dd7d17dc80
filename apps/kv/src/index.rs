//! The index: extendible hashing in segments of 16 KiB (Fagin, Nievergelt, Pippenger, Strong, TODS 1979).
//!
//! ```text
//! directory: 2^depth pointers to segments, chosen by the hash's low bits; it doubles in place
//! segment:   256 buckets of one line, chosen by the hash's high bits; a bucket has 8 slots (`layout`)
//! a record is in its bucket or in the one beside it; when both are full, the segment is split in two
//! ```
//! # Contract
//! - **I1** a writer changes slots of a segment under its lock, after it saw that the directory still leads there.
//! - **I2** a reader takes no lock. A split fills the new segment, then stores the directory's words, then clears the old one's slots;
//!   so a reader that finds nothing looks whether its directory word changed, and if so starts again.
//! - **I3** a key's `version` (it shares one with others) grows after its record left the index and before the record's place is used again (`Value::is_current`).
//! - Nothing here is flushed but by [`Index::flush`]; after a power failure the index is rebuilt ([`Index::clear`]).

use crate::error::{Error, Result};
use crate::layout::{self, FIRST_OFFSET, Record, Slot, TAG_BITS, zero};
use core::sync::atomic::{AtomicU64, Ordering, fence};
use libtwz::prelude::*;
use libtwz::sync::RawMutex;
use libtwz::{PersistentPtr, Window, at, collections, persist, translate};

const BUCKETS: usize = 256;
const SLOTS: usize = 8;
/// The directory has at most 2^20 words: it leads to 16 GiB of segments.
const DEPTH_MAX: u32 = 20;
/// Words that tell readers of changes.
const VERSIONS: usize = 512;
/// Bytes of a segment.
const SEGMENT: usize = size_of::<Segment>();

/// A part of the table with a lock of its own.
#[derive(Debug, Invariant)]
#[repr(C, align(64))]
pub(crate) struct Segment {
    /// This line is never flushed.
    lock: RawMutex,
    /// Nonzero if a slot changed since the last flush.
    dirty: PCell<u64>,
    reserved: [u64; 6],
    /// How many low bits of the hash all keys here have in common.
    depth: PCell<u64>,
    reserved2: [u64; 7],
    buckets: [[PCell<u64>; SLOTS]; BUCKETS],
}

/// Where segments of a further object start.
#[derive(Debug, Invariant)]
#[repr(C)]
pub(crate) struct MoreRoot {
    heap: PCell<u64>,
}

/// The index's words in the store's root.
#[derive(Debug, Invariant)]
#[repr(C, align(64))]
pub(crate) struct IndexRoot {
    /// Seed of the hash.
    pub(crate) seed: PCell<u64>,
    /// Offsets of the directory and of segment 0.
    directory: PCell<u64>,
    heap: PCell<u64>,
    per_object: PCell<u64>,
    reserved: [u64; 4],
    /// Length of the directory, as a power of two, and segments in use; durable when the store is closed.
    depth: PCell<u64>,
    segments: PCell<u64>,
    reserved2: [u64; 6],
    /// Guards the two, and the list; never flushed.
    lock: RawMutex,
    reserved3: [u64; 7],
    /// Of the keys with some bits of the hash in common ([`version_of`]); never flushed. They stand together, apart from the segments, so
    /// that a look-up need not fetch another line and page for one.
    versions: [AtomicU64; VERSIONS],
    /// Pointers to segment 0 of further objects.
    more: collections::Vec<u64>,
    reserved4: [u64; (64 - size_of::<collections::Vec<u64>>() / 8 % 8) % 8],
}

/// The index of an open store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Index {
    root: &'static IndexRoot,
    window: Window,
}

/// The record looked for, and what tells that it left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) record: Record,
    pub(crate) version: &'static AtomicU64,
    pub(crate) seen: u64,
}

/// What became of a record that was to be found from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// Its key had none.
    New,
    /// It takes the place of another.
    Replaced,
    /// Its key has a newer one already.
    Late,
}

impl IndexRoot {
    pub(crate) const fn new() -> Self {
        Self {
            seed: zero(),
            directory: zero(),
            heap: zero(),
            per_object: zero(),
            reserved: [0; 4],
            depth: zero(),
            segments: zero(),
            reserved2: [0; 6],
            lock: RawMutex::new(),
            reserved3: [0; 7],
            versions: [const { AtomicU64::new(0) }; VERSIONS],
            more: collections::Vec::new(),
            reserved4: [0; (64 - size_of::<collections::Vec<u64>>() / 8 % 8) % 8],
        }
    }

    /// Lays the index out in a new object: `segments` in each object.
    pub(crate) fn lay_out(&self, tx: &Tx, window: Window, seed: u64, segments: u64) -> libtwz::Result<()> {
        let bytes = usize::try_from(segments).unwrap_or(usize::MAX).saturating_mul(SEGMENT);
        let heap = tx.alloc_unfilled(window, bytes, 64)? - window.base();
        let directory = tx.alloc_unfilled(window, 8 << DEPTH_MAX, 4096)? - window.base();
        tx.put(&self.seed, seed)?;
        tx.put(&self.heap, heap as u64)?;
        tx.put(&self.directory, directory as u64)?;
        tx.put(&self.per_object, segments)
    }
}

impl Index {
    /// The index in a store's root.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub(crate) fn new(root: &'static IndexRoot, window: Window) -> Result<Self> {
        let places = [(root.directory.get(), 8 << DEPTH_MAX), (root.heap.get(), SEGMENT as u64)];
        let inside = |(at, bytes): (u64, u64)| at >= FIRST_OFFSET as u64 && at <= (1 << 30) - bytes;
        if places.into_iter().all(inside) { Ok(Self { root, window }) } else { Err(Error::Damaged) }
    }

    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        layout::hash(self.root.seed.get(), key)
    }

    pub(crate) fn seed(&self) -> u64 {
        self.root.seed.get()
    }

    /// Segments in use.
    pub(crate) fn segments(&self) -> u64 {
        self.root.segments.get()
    }

    /// Slots that there are.
    pub(crate) fn slots(&self) -> u64 {
        self.segments() * (BUCKETS * SLOTS) as u64
    }

    /// The version of the keys whose slots have this tag.
    #[inline]
    fn version(&self, tag: u64) -> &'static AtomicU64 {
        &self.root.versions[version_of(tag)]
    }

    /// Says that a record left (**I3**).
    #[inline]
    fn left(&self, hash: u64) {
        self.version(layout::tag(hash)).fetch_add(1, Ordering::AcqRel);
    }

    /// Offset of the directory's word for a hash.
    #[inline]
    fn word_for(&self, hash: u64) -> usize {
        let depth = self.root.depth.get().min(DEPTH_MAX.into());
        self.word_at(hash & ((1 << depth) - 1))
    }

    #[inline]
    fn word_at(&self, number: u64) -> usize {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "usize is 64 bits wide here; windows mask offsets"
        )]
        let at = self.root.directory.get().wrapping_add(number * 8) as usize;
        at
    }

    #[inline]
    fn segment(&self, word: usize) -> Result<&'static Segment> {
        Ok(at(self.window, PersistentPtr(self.window.load(word)))?)
    }

    /// The record that a slot leads to; `None` while somebody changes it.
    #[inline]
    pub(crate) fn record(&self, slot: Slot) -> Result<Option<Record>> {
        let address = translate::lea_foreign(self.window, slot.pointer())?;
        let window = Window::around(address)?;
        Ok(Record::at(window, address - window.base()))
    }

    /// The record of a key.
    #[inline]
    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Result<Option<Found>> {
        loop {
            let version = self.version(layout::tag(hash));
            let seen = version.load(Ordering::Acquire);
            let word = self.word_for(hash);
            let pointer = self.window.load(word);
            let segment: &'static Segment = at(self.window, PersistentPtr(pointer))?;
            if let Some((_, record)) = self.place_of(segment, hash, key)? {
                return Ok(Some(Found { record, version, seen }));
            }
            fence(Ordering::Acquire);
            let same = version.load(Ordering::Relaxed) == seen;
            if same && self.word_for(hash) == word && self.window.load(word) == pointer {
                return Ok(None); // I2
            }
        }
    }

    /// Runs `change` under the lock of the segment for `hash`.
    #[inline]
    fn locked<R>(&self, hash: u64, change: impl FnOnce(&'static Segment) -> Result<R>) -> Result<R> {
        loop {
            let segment = self.segment(self.word_for(hash))?;
            segment.lock.lock()?;
            let current = self.segment(self.word_for(hash)).map(|now| core::ptr::eq(now, segment));
            if current == Ok(true) {
                let result = change(segment);
                segment.lock.unlock();
                return result;
            }
            segment.lock.unlock(); // it was split meanwhile
            current?;
        }
    }

    /// The place of a key's slot in a segment, and the record that it led to.
    #[inline]
    fn place_of(
        &self,
        segment: &'static Segment,
        hash: u64,
        key: &[u8],
    ) -> Result<Option<(&'static PCell<u64>, Record)>> {
        for bucket in buckets_of(hash) {
            let places = &segment.buckets[bucket];
            let mut candidates = candidates_in(places, hash);
            while candidates != 0 {
                let place = &places[candidates.trailing_zeros() as usize % SLOTS];
                // Without the lock it may have changed since it was compared; the key decides.
                let slot = Slot(place.get());
                if !slot.is_empty()
                    && let Some(record) = self.record(slot)?
                    && record.has_key(key)
                {
                    return Ok(Some((place, record)));
                }
                candidates &= candidates - 1;
            }
        }
        Ok(None)
    }

    /// Makes a durable record the one of its key, unless that has a newer one. `retire` runs for the record that lost, under the lock:
    /// were a delete to come between, a power failure could bring that record back.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(crate) fn publish(
        &self,
        hash: u64,
        key: &[u8],
        new: Slot,
        sequence: u64,
        retire: impl Fn(Slot) -> Result<()>,
    ) -> Result<Published> {
        loop {
            let done = self.locked(hash, |segment| {
                if let Some((place, old)) = self.place_of(segment, hash, key)? {
                    if old.sequence() > sequence {
                        retire(new)?;
                        return Ok(Some(Published::Late));
                    }
                    let before = Slot(place.get());
                    segment.change(place, new);
                    self.left(hash);
                    retire(before)?;
                    return Ok(Some(Published::Replaced));
                }
                let mut places = buckets_of(hash).into_iter().flat_map(|bucket| &segment.buckets[bucket]);
                if let Some(place) = places.find(|place| Slot(place.get()).is_empty()) {
                    segment.change(place, new);
                    return Ok(Some(Published::New));
                }
                self.split(segment, hash)?;
                Ok(None)
            })?;
            if let Some(done) = done {
                return Ok(done);
            }
        }
    }

    /// Takes a key out and runs `retire` for its record, under the lock; returns whether it was there.
    pub(crate) fn remove(
        &self,
        hash: u64,
        key: &[u8],
        retire: impl FnOnce(Slot) -> Result<()>,
    ) -> Result<bool> {
        self.locked(hash, |segment| {
            let Some((place, _)) = self.place_of(segment, hash, key)? else { return Ok(false) };
            let slot = Slot(place.get());
            segment.change(place, Slot::EMPTY);
            self.left(hash);
            retire(slot)?;
            Ok(true)
        })
    }

    /// Splits a segment that is locked: keys with the next bit of the hash set go to a new one.
    #[cold]
    fn split(&self, old: &'static Segment, hash: u64) -> Result<()> {
        self.root.lock.lock()?;
        let result = self.split_locked(old, hash);
        self.root.lock.unlock();
        result
    }

    fn split_locked(&self, old: &'static Segment, hash: u64) -> Result<()> {
        let depth = old.depth.get();
        if depth >= DEPTH_MAX.into() {
            return Err(Error::Full);
        }
        if depth == self.root.depth.get() {
            for number in 0..1 << depth {
                self.window
                    .store(self.word_at(number + (1 << depth)), self.window.load(self.word_at(number)));
            }
            fence(Ordering::Release);
            self.root.depth.set_without_log(depth + 1);
        }
        // 1. The new segment, which nobody sees yet.
        let number = self.segments();
        let pointer = self.pointer_to(number)?;
        let new: &'static Segment = at(self.window, pointer)?;
        new.depth.set_without_log(depth + 1);
        new.dirty.set_without_log(1);
        let moves = |slot: Slot| !slot.is_empty() && slot.tag() >> depth & 1 != 0;
        for (from, to) in old.buckets.iter().flatten().zip(new.buckets.iter().flatten()) {
            let slot = Slot(from.get());
            to.set_without_log(if moves(slot) { slot.0 } else { 0 });
        }
        fence(Ordering::Release);
        // 2. The directory leads to it.
        let first = hash & ((1 << depth) - 1) | 1 << depth;
        for number in (first..1 << self.root.depth.get()).step_by(2 << depth) {
            self.window.store(self.word_at(number), pointer.0);
        }
        fence(Ordering::Release);
        // 3. Nobody finds the old places any more (I2).
        old.depth.set_without_log(depth + 1);
        for place in old.buckets.iter().flatten() {
            if moves(Slot(place.get())) {
                old.change(place, Slot::EMPTY);
            }
        }
        self.root.segments.set_without_log(number + 1);
        Ok(())
    }

    /// Where segment `number` is: in this object or in one of the others, which are made as they are needed.
    fn pointer_to(&self, number: u64) -> Result<PersistentPtr> {
        let per_object = self.root.per_object.get().max(1);
        let (object, place) = (number / per_object, number % per_object);
        let first = match object.checked_sub(1) {
            None => self.root.heap.get(),
            Some(more) => match self.root.more.get(more)? {
                Some(pointer) => pointer,
                None => self.add_object(per_object)?,
            },
        };
        Ok(PersistentPtr(first.saturating_add(place * SEGMENT as u64)))
    }

    /// Another object for segments, with the rights of the first.
    #[cold]
    fn add_object(&self, segments: u64) -> Result<u64> {
        let (id, _) = libtwz::view::what_is_at(self.window)?;
        let rights = crate::store::default_rights(id)?;
        let made = ObjectBuilder::new().default_rights(rights).build(MoreRoot { heap: PCell::new(0) })?;
        let bytes = usize::try_from(segments).unwrap_or(usize::MAX).saturating_mul(SEGMENT);
        let heap = made.tx(|tx| {
            let heap = tx.alloc_unfilled(made.window(), bytes, 64)?;
            tx.put(&made.heap, (heap - made.window().base()) as u64)?;
            Ok(heap)
        })?;
        let pointer = translate::persistent(self.window, heap)?;
        self.root.more.push(pointer.0)?;
        Ok(pointer.0)
    }

    /// Makes the pages of the first segments present, `bytes` of them.
    pub(crate) fn populate(&self, bytes: u64) {
        let heap = self.root.heap.get();
        let bytes = bytes.min(self.root.per_object.get().saturating_mul(SEGMENT as u64));
        let [first, end] =
            [heap, heap.saturating_add(bytes)].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
        self.window.populate(first..end);
    }

    /// Empties the index: for a new store, and before it is rebuilt.
    pub(crate) fn clear(&self) -> Result<()> {
        self.root.depth.set_without_log(0);
        self.root.segments.set_without_log(1);
        let pointer = self.pointer_to(0)?;
        let segment: &'static Segment = at(self.window, pointer)?;
        segment.depth.set_without_log(0);
        for place in segment.buckets.iter().flatten().filter(|place| place.get() != 0) {
            segment.change(place, Slot::EMPTY);
        }
        self.window.store(self.word_at(0), pointer.0);
        Ok(())
    }

    /// Calls `each` for every slot in use, until it fails.
    pub(crate) fn for_each(
        &self,
        mut each: impl FnMut(Slot, &'static AtomicU64, u64) -> Result<()>,
    ) -> Result<()> {
        for number in 0..self.segments() {
            let segment: &'static Segment = at(self.window, self.pointer_to(number)?)?;
            for place in segment.buckets.iter().flatten() {
                // The version of a slot's key is known once the slot was read: read it again after.
                let version = self.version(Slot(place.get()).tag());
                let seen = version.load(Ordering::Acquire);
                let slot = Slot(place.get());
                if !slot.is_empty() && core::ptr::eq(version, self.version(slot.tag())) {
                    each(slot, version, seen)?;
                }
            }
        }
        Ok(())
    }

    /// Starts writing back all that changed since the last time; durable after a fence.
    pub(crate) fn flush(&self) -> Result<()> {
        for number in 0..self.segments() {
            let segment: &'static Segment = at(self.window, self.pointer_to(number)?)?;
            if segment.dirty.get() != 0 {
                segment.dirty.set_without_log(0);
                persist::flush(core::ptr::from_ref(segment).addr(), SEGMENT);
            }
        }
        let directory = self.window.base() + self.word_at(0);
        persist::flush(directory, 8 << self.root.depth.get().min(DEPTH_MAX.into()));
        persist::flush(self.root.depth.as_ptr().addr(), 16);
        Ok(())
    }
}

impl Segment {
    /// Changes a slot under the lock.
    #[inline]
    fn change(&self, place: &PCell<u64>, to: Slot) {
        place.set_without_log(to.0);
        if self.dirty.get() == 0 {
            self.dirty.set_without_log(1);
        }
    }
}

/// Which version is that of keys with this tag: its high bits, since the low ones choose the segment.
#[inline]
const fn version_of(tag: u64) -> usize {
    #[allow(clippy::cast_possible_truncation, reason = "masked")]
    let number = (tag >> (TAG_BITS - 9)) as usize & (VERSIONS - 1);
    number
}

/// Which places of a bucket have the hash's tag, one bit each; empty ones may be among them. Without branches that wait for the line.
#[inline]
fn candidates_in(places: &[PCell<u64>; SLOTS], hash: u64) -> u32 {
    let wanted = Slot::with_tag(hash);
    (0..)
        .zip(places)
        .fold(0, |found, (bit, place)| found | u32::from(wanted.same_tag(Slot(place.get()))) << bit)
}

/// A bucket and the one beside it: the lines are fetched together.
#[inline]
fn buckets_of(hash: u64) -> [usize; 2] {
    let first = (hash >> 56) as usize;
    [first, first ^ 1]
}

const _: () = assert!(SEGMENT == 128 + BUCKETS * SLOTS * 8 && BUCKETS == 1 << 8);
