//! The index: extendible hashing in segments of 16 KiB (Fagin, Nievergelt, Pippenger, Strong, TODS 1979).
//!
//! ```text
//! directory: 2^depth pointers to segments, chosen by the hash's low bits; it doubles in place
//! segment:   256 buckets of one line, chosen by the hash's high bits
//! bucket:    a word of tags (`layout`), 7 slots
//! a record is in its bucket or, as a guest, in one of the three beside it; when all are full, the segment is split in two
//! ```
//! The tags say with one comparison of a word which slot to follow. So a look-up has few instructions and no jump that goes another way each
//! time, and the processor works on several at once: while one waits for memory, the next ones have sent for theirs. For look-ups of
//! many keys at once that is done in the open ([`Index::expect_bucket`], [`Index::expect_record`]).
//!
//! # Contract
//! - **I1** a writer changes slots of a segment under its lock, after it saw that the directory still leads there.
//! - **I2** a reader takes no lock. A split fills the new segment, then stores the directory's words, then clears the old one's slots;
//!   so a reader that finds nothing looks whether its directory word or the key's `version` changed, and if so starts again. The latter grows
//!   also when a slot moves inside a segment, after it stands in the new place and before it leaves the old one.
//! - **I3** a key's `version` (it shares one with others) grows after its record left the index and before the record's place is used again (`Value::is_current`).
//! - Nothing here is flushed but by [`Index::flush`]; after a power failure the index is rebuilt ([`Index::clear`]).

mod change;
mod grow;

pub(crate) use self::change::Published;

use crate::error::{Error, Result};
use crate::layout::{self, FIRST_OFFSET, Record, Slot, TAG_BITS, Tags, zero};
use crate::segment::{BUCKETS_AT, Bucket, SEGMENT, SEGMENT_SLOTS, Segment, buckets_of, home_of};
use core::sync::atomic::{AtomicU64, Ordering, fence};
use libtwz::prelude::*;
use libtwz::sync::RawMutex;
use libtwz::translate::{self, Row};
use libtwz::{PersistentPtr, Window, at, collections, persist};

/// The directory has at most 2^20 words: it leads to 16 GiB of segments.
const DEPTH_MAX: u32 = 20;
/// Words that tell readers of changes.
const VERSIONS: usize = 512;
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
    /// The bits of a hash that are the number of its directory word, and segments in use; durable when the store is closed.
    mask: PCell<u64>,
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
    /// As in the root, where they never change.
    seed: u64,
    directory: usize,
    /// Of the root's object.
    row: Row,
}

/// The record looked for, and what tells that it left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) record: Record,
    pub(crate) version: &'static AtomicU64,
    pub(crate) seen: u64,
}

impl IndexRoot {
    pub(crate) const fn new() -> Self {
        Self {
            seed: zero(),
            directory: zero(),
            heap: zero(),
            per_object: zero(),
            reserved: [0; 4],
            mask: zero(),
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
        let heap = tx.alloc_sparse(window, bytes, 64)? - window.base();
        let directory = tx.alloc_sparse(window, 8 << DEPTH_MAX, 4096)? - window.base();
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
        if !places.into_iter().all(inside) {
            return Err(Error::Damaged);
        }
        let directory = usize::try_from(root.directory.get()).map_err(|_| Error::Damaged)?;
        Ok(Self { root, window, seed: root.seed.get(), directory, row: Row::of(window) })
    }

    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        layout::hash(self.seed, key)
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Segments in use.
    pub(crate) fn segments(&self) -> u64 {
        self.root.segments.get()
    }

    /// Segments in use, of which there cannot be more than the directory has words.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    fn checked_segments(&self) -> Result<u64> {
        let segments = self.segments();
        if segments <= 1 << DEPTH_MAX { Ok(segments) } else { Err(Error::Damaged) }
    }

    /// Slots that there are.
    pub(crate) fn slots(&self) -> u64 {
        self.segments().saturating_mul(SEGMENT_SLOTS as u64)
    }

    /// The version of the keys whose slots have this tag.
    #[inline]
    fn version(&self, tag: u64) -> &'static AtomicU64 {
        &self.root.versions[version_of(tag)]
    }

    /// Says that a record left (**I3**).
    #[inline]
    fn left(&self, hash: u64) {
        self.moved(layout::tag(hash));
    }

    /// Says that a record left the place where it was found (**I2**).
    #[inline]
    fn moved(&self, tag: u64) {
        self.version(tag).fetch_add(1, Ordering::AcqRel);
    }

    /// Length of the directory, as a power of two.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    fn depth(&self) -> Result<u64> {
        let mask = self.root.mask.get();
        let is_one = mask >> DEPTH_MAX == 0 && (mask + 1).is_power_of_two();
        if is_one { Ok(mask.count_ones().into()) } else { Err(Error::Damaged) }
    }

    /// Offset of the directory's word for a hash.
    #[inline]
    fn word_for(&self, hash: u64) -> usize {
        // What damage made of the mask, the window's makes harmless.
        self.word_at(hash & self.root.mask.get())
    }

    #[inline]
    fn word_at(&self, number: u64) -> usize {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "usize is 64 bits wide here; windows mask offsets"
        )]
        let at = self.directory.wrapping_add(number as usize * 8);
        at
    }

    /// The record that a slot leads to; `None` while somebody changes it.
    pub(crate) fn record(&self, slot: Slot) -> Result<Option<Record>> {
        Ok(Record::at(self.window_of(slot)?, slot.offset()))
    }

    /// The data object that a slot leads to.
    fn window_of(&self, slot: Slot) -> Result<Window> {
        Ok(Window::around(translate::lea_foreign(self.window, slot.pointer())?)?)
    }

    /// Has the bucket for a hash fetched, which is about to be changed. Only a hint: it may be another one by then.
    #[inline]
    pub(crate) fn expect_change(&self, hash: u64) {
        if let Some(bucket) = self.before_bucket(hash) {
            self.window.expect_store(bucket + BUCKETS_AT);
        }
    }

    /// Has a bucket fetched that will be looked into.
    #[inline]
    pub(crate) fn expect_bucket(&self, hash: u64) {
        if let Some(bucket) = self.before_bucket(hash) {
            self.window.expect_load(bucket + BUCKETS_AT);
        }
    }

    /// Has the record fetched that a bucket leads to, which has come by now.
    #[inline]
    pub(crate) fn expect_record(&self, hash: u64) {
        if let Some((window, offset)) = self.first_candidate(hash) {
            window.expect_load(offset);
        }
    }

    /// Offset of the bucket for a hash less [`BUCKETS_AT`], if that is in this object. No bounds: a window masks what damage made.
    #[inline(always)]
    fn before_bucket(&self, hash: u64) -> Option<usize> {
        let segment = usize::try_from(self.window.load(self.word_for(hash))).unwrap_or(usize::MAX);
        let is_here = segment < 1 << 30;
        is_here.then_some(segment + home_of(hash) * size_of::<Bucket>())
    }

    /// Where the first slot with the hash's tag leads, if what is needed for that is known.
    #[inline(always)]
    fn first_candidate(&self, hash: u64) -> Option<(Window, usize)> {
        let home = self.window.tagged_line::<BUCKETS_AT>(self.before_bucket(hash)?);
        let slot = Slot(home.first_with(Tags::fingerprint(hash))?);
        Some((self.row.cached(slot.fot())?, slot.offset()))
    }

    /// The record of a key.
    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Result<Option<Found>> {
        // Nearly always the first slot with the tag is the one. What else there is stays out of the caller's loop.
        let index = *self; // the acquiring load would have the compiler read it anew
        let version = index.version(layout::tag(hash));
        let seen = version.load(Ordering::Acquire);
        if let Some((window, offset)) = index.first_candidate(hash)
            && let Some(record) = Record::with_key(window, offset, key)
        {
            return Ok(Some(Found { record, version, seen }));
        }
        self.find_anywhere(hash, key)
    }

    /// [`Index::find`] where that is not all: guests, tags that agree by chance, keys that are not there.
    #[cold]
    #[inline(never)]
    fn find_anywhere(&self, hash: u64, key: &[u8]) -> Result<Option<Found>> {
        loop {
            let version = self.version(layout::tag(hash));
            let seen = version.load(Ordering::Acquire);
            let word = self.word_for(hash);
            let pointer = self.window.load(word);
            let segment: &'static Segment = at(self.window, PersistentPtr(pointer))?;
            if let Some((_, _, record)) = self.place_of(segment, hash, key)? {
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
            let pointer = self.window.load(self.word_for(hash));
            let segment: &'static Segment = at(self.window, PersistentPtr(pointer))?;
            segment.lock.lock()?;
            if self.window.load(self.word_for(hash)) == pointer {
                let result = change(segment);
                segment.lock.unlock_ahead();
                return result;
            }
            segment.lock.unlock(); // it was split meanwhile
        }
    }

    /// [`Index::locked`] without waiting; `None` if another thread has the lock, or the segment was split meanwhile.
    #[inline]
    fn try_locked<R>(
        &self,
        hash: u64,
        change: impl FnOnce(&'static Segment) -> Result<R>,
    ) -> Result<Option<R>> {
        let pointer = self.window.load(self.word_for(hash));
        let segment: &'static Segment = at(self.window, PersistentPtr(pointer))?;
        if !segment.lock.try_lock() {
            return Ok(None);
        }
        let is_the_one = self.window.load(self.word_for(hash)) == pointer;
        let result = is_the_one.then(|| change(segment)).transpose();
        segment.lock.unlock_ahead();
        result
    }

    /// The place of a key's slot in a segment (bucket and number), and the record that it led to.
    fn place_of(
        &self,
        segment: &'static Segment,
        hash: u64,
        key: &[u8],
    ) -> Result<Option<(&'static Bucket, usize, Record)>> {
        for number in buckets_of(hash) {
            let bucket = &segment.buckets[number];
            let tags = Tags(bucket[0].get());
            for place in tags.with_fingerprint(hash) {
                // Without the lock it may have changed since it was compared; the key decides.
                let slot = Slot(bucket[place].get());
                if !slot.is_empty()
                    && slot.tag() == layout::tag(hash)
                    && let Some(record) = Record::with_key(self.window_of(slot)?, slot.offset(), key)
                {
                    return Ok(Some((bucket, place, record)));
                }
            }
            if number == home_of(hash) && !tags.sent_guests() {
                break;
            }
        }
        Ok(None)
    }

    /// The window of a data object, by the index of its FOT entry.
    ///
    /// # Errors
    /// What mapping it says.
    #[inline]
    pub(crate) fn window_at(&self, fot: u32) -> Result<Window> {
        match self.row.cached(fot) {
            Some(window) => Ok(window),
            None => Ok(translate::resolve(self.window, fot)?),
        }
    }

    /// How many objects the index has beside the store's root.
    #[inline]
    pub(crate) fn more_objects(&self) -> u64 {
        self.root.more.len()
    }

    /// Where they are mapped.
    pub(crate) fn more_windows(&self) -> impl Iterator<Item = Result<Window>> {
        let window = |pointer| Ok(Window::around(translate::lea(self.window, PersistentPtr(pointer))?)?);
        self.root.more.iter().map(move |pointer| window(pointer?))
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
        self.root.mask.set_without_log(0);
        self.root.segments.set_without_log(1);
        let pointer = self.pointer_to(0)?;
        let segment: &'static Segment = at(self.window, pointer)?;
        segment.depth.set_without_log(0);
        for place in segment.buckets.iter().flatten().filter(|place| place.get() != 0) {
            segment.change(place, 0);
        }
        self.window.store(self.word_at(0), pointer.0);
        Ok(())
    }

    /// Calls `each` for every slot in use, until it fails.
    pub(crate) fn for_each(
        &self,
        mut each: impl FnMut(Slot, &'static AtomicU64, u64) -> Result<()>,
    ) -> Result<()> {
        for number in 0..self.checked_segments()? {
            let segment: &'static Segment = at(self.window, self.pointer_to(number)?)?;
            for place in segment.buckets.iter().flat_map(|bucket| &bucket[1..]) {
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

    /// Calls `each` for every slot in use, under the lock of its segment: no record that it sees is retired meanwhile, and whoever publishes
    /// one that it does not see does so after it was there.
    pub(crate) fn for_each_locked(&self, mut each: impl FnMut(Slot) -> Result<()>) -> Result<()> {
        let mut number = 0;
        // Whatever a split takes away goes to a segment that is still to come.
        while number < self.checked_segments()? {
            let segment: &'static Segment = at(self.window, self.pointer_to(number)?)?;
            segment.lock.lock()?;
            let slots = segment.buckets.iter().flat_map(|bucket| &bucket[1..]).map(|place| Slot(place.get()));
            let result = slots.filter(|slot| !slot.is_empty()).try_for_each(&mut each);
            segment.lock.unlock();
            result?;
            number += 1;
        }
        Ok(())
    }

    /// Starts writing back all that changed since the last time; durable after a fence.
    pub(crate) fn flush(&self) -> Result<()> {
        for number in 0..self.checked_segments()? {
            let segment: &'static Segment = at(self.window, self.pointer_to(number)?)?;
            if segment.dirty.get() != 0 {
                segment.dirty.set_without_log(0);
                persist::flush(core::ptr::from_ref(segment).addr(), SEGMENT);
            }
        }
        let directory = self.window.base() + self.word_at(0);
        persist::flush(directory, 8 << self.depth()?);
        persist::flush(self.root.mask.as_ptr().addr(), 16);
        Ok(())
    }
}

/// Which version is that of keys with this tag: its high bits, since the low ones choose the segment.
#[inline]
const fn version_of(tag: u64) -> usize {
    #[allow(clippy::cast_possible_truncation, reason = "masked")]
    let number = (tag >> (TAG_BITS - 9)) as usize & (VERSIONS - 1);
    number
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use alloc::vec::Vec;

    /// An index of its own, `segments` to an object.
    fn index(segments: u64) -> Index {
        let object = ObjectBuilder::new().build(IndexRoot::new()).unwrap();
        object.tx(|tx| object.lay_out(tx, object.window(), 1, segments)).unwrap();
        let root = at(object.window(), PersistentPtr(object.global().offset())).unwrap();
        let index = Index::new(root, object.window()).unwrap();
        index.clear().unwrap();
        index
    }

    /// Publishes keys that no two tags are the same of, so that no record is looked at.
    fn fill(index: &Index, numbers: core::ops::Range<u64>) -> Result<()> {
        for number in numbers {
            let hash = number | number << 56;
            index.publish(hash, b"", Slot::new(hash, 1, 4096), number, |_| Ok(()), |_| Ok(()))?;
        }
        Ok(())
    }

    fn count(index: &Index) -> Result<usize> {
        let mut slots = Vec::new();
        index.for_each(|slot, _, _| {
            slots.push(slot.tag());
            Ok(())
        })?;
        slots.sort_unstable();
        slots.dedup();
        Ok(slots.len())
    }

    #[test]
    fn a_damaged_count_of_segments_makes_no_objects() {
        let index = index(2);
        fill(&index, 0..10_000).unwrap();
        assert_eq!(count(&index), Ok(10_000));
        let (segments, objects) = (index.segments(), index.root.more.len());
        assert!(objects > 1);
        for wrong in
            [(objects + 1) * 2 + 1, 1 << DEPTH_MAX, (1 << DEPTH_MAX) + 1, u64::MAX / SEGMENT as u64, u64::MAX]
        {
            index.root.segments.set_without_log(wrong);
            assert_eq!(count(&index), Err(Error::Damaged), "{wrong:#x}");
            assert_eq!(index.flush(), Err(Error::Damaged), "{wrong:#x}");
            assert!(index.slots() > 0);
            if wrong > (objects + 1) * 2 + 1 {
                assert_eq!(fill(&index, 20_000..60_000), Err(Error::Damaged), "{wrong:#x}");
            }
        }
        assert_eq!(index.root.more.len(), objects);
        index.root.segments.set_without_log(segments);
        // Some of the later ones had room without a split.
        assert!(count(&index).is_ok_and(|count| count >= 10_000));
    }

    #[test]
    fn a_record_is_made_while_another_thread_has_the_segment() {
        let index = index(2);
        let segment = first_segment(&index);
        let made = AtomicU64::new(0);
        let record = || {
            made.fetch_add(1, Ordering::Relaxed);
            Ok(Some((Slot::new(1, 1, 4096), 1)))
        };
        std::thread::scope(|scope| {
            segment.lock.lock().unwrap();
            let put =
                scope.spawn(|| index.put(1, b"", record, || true, |_, _, _| Ok(()), |_| panic!("none lost")));
            let begun = std::time::Instant::now();
            while made.load(Ordering::Relaxed) == 0 && begun.elapsed().as_secs() < 10 {
                std::thread::yield_now();
            }
            let seen = (made.load(Ordering::Relaxed), count(&index));
            segment.lock.unlock();
            assert_eq!(seen, (1, Ok(0)));
            assert_eq!(put.join().unwrap(), Ok(Some(Published::New)));
        });
        assert_eq!((made.into_inner(), count(&index)), (1, Ok(1)));
    }

    fn first_segment(index: &Index) -> &'static Segment {
        at(index.window, PersistentPtr(index.window.load(index.word_for(0)))).unwrap()
    }

    /// The hash of a key of which 20 belong to a bucket in four, half of them with each lowest bit.
    fn crowded(number: u64) -> u64 {
        number | (number / 2 % 64 * 4) << 56
    }

    fn crowd() -> (Index, &'static Segment) {
        let index = index(100);
        for number in 0..1280 {
            let (hash, slot) = (crowded(number), Slot::new(crowded(number), 1, 4096));
            index.publish(hash, b"", slot, number, |_| Ok(()), |_| Ok(())).unwrap();
        }
        {
            let segment = first_segment(&index);
            (index, segment)
        }
    }

    /// The slots of a segment, each with its bucket's number.
    fn slots(segment: &Segment) -> Vec<(usize, Slot)> {
        let of = |(number, bucket): (usize, &Bucket)| {
            bucket[1..].iter().map(move |cell| (number, Slot(cell.get()))).collect::<Vec<_>>()
        };
        segment.buckets.iter().enumerate().flat_map(of).filter(|(_, slot)| !slot.is_empty()).collect()
    }

    #[test]
    fn guests_come_home_when_others_left() {
        let guests = |segment| slots(segment).iter().filter(|(_, slot)| slot.beside() != 0).count() as u64;
        let (index, segment) = crowd();
        let (before, moved) = (guests(segment), index.version(0).load(Ordering::Relaxed));
        assert_eq!((before, index.segments()), (64 * 13, 1));
        index.split(segment, 0).unwrap();
        // Ten are left of each bucket, of which seven have room there. Who looks meanwhile is told of each that moved.
        let stay: Vec<_> = slots(segment);
        assert_eq!((stay.len(), guests(segment)), (640, 64 * 3));
        let came = stay.iter().filter(|(_, slot)| slot.beside() == 0).count() as u64 - 64 * 4;
        assert_eq!(index.version(0).load(Ordering::Relaxed) - moved, came);
        assert_eq!(count(&index), Ok(1280));
        for (number, slot) in &stay {
            assert_eq!(number ^ slot.beside(), home_of(crowded(slot.tag())));
        }
        for (number, bucket) in segment.buckets.iter().enumerate() {
            assert_eq!(Tags(bucket[0].get()).sent_guests(), number % 4 == 0);
        }
    }

    #[test]
    fn a_guest_that_comes_home_is_there_before_it_leaves() {
        let (_, segment) = crowd();
        for bucket in &segment.buckets {
            for (place, cell) in (1..).zip(&bucket[1..]).filter(|(_, cell)| Slot(cell.get()).tag() & 1 != 0) {
                segment.change(cell, Slot::EMPTY.0);
                segment.change(&bucket[0], Tags(bucket[0].get()).without(place).0);
            }
        }
        let seen = core::cell::Cell::new(0);
        segment.bring_guests_home(|tag| {
            seen.set(seen.get() + 1);
            let places: Vec<_> = slots(segment).into_iter().filter(|(_, slot)| slot.tag() == tag).collect();
            assert_eq!(places.len(), 2, "{tag}");
            assert!(places.iter().all(|(number, slot)| number ^ slot.beside() == home_of(crowded(tag))));
        });
        assert!(seen.get() > 100);
    }

    #[test]
    fn a_damaged_depth_is_an_error() {
        let depths = [0, DEPTH_MAX.into(), u64::from(DEPTH_MAX) + 1, 36, 63, 64, 200, u64::MAX];
        let masks = [(2 << DEPTH_MAX) - 1, 5, 1 << 19, 1 << 63, u64::MAX];
        for (of_segment, wrong) in
            depths.map(|depth| (true, depth)).into_iter().chain(masks.map(|mask| (false, mask)))
        {
            let index = index(100);
            fill(&index, 0..2000).unwrap();
            let segment = first_segment(&index);
            let place = if of_segment { &segment.depth } else { &index.root.mask };
            place.set_without_log(wrong);
            let expected = if wrong == 0 { Ok(()) } else { Err(Error::Damaged) };
            assert_eq!(index.split(segment, 0), expected, "{wrong:#x} {of_segment}");
            if !of_segment {
                assert_eq!(index.flush(), Err(Error::Damaged), "{wrong:#x}");
            }
        }
    }
}
