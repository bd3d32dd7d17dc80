//! The index: `kv`'s, in a file. The segments are the same type, and what is done with them is what `kv` does (`apps/kv/src/index` says why).
//!
//! ```text
//! page 0       magic, whether it was closed in order, directory's mask, segments in use, sequence of the newest record
//! +4 KiB       directory: offsets of segments
//! +8 MiB+4 KiB segments, in order of their making
//! ```
//! # Contract
//! - **I1** a writer changes slots of a segment under its lock, after it saw that the directory still leads there.
//! - **I2** a reader takes no lock. One that finds nothing looks whether its directory word or the key's version changed, and if so starts again.
//! - **I3** a key's version (it shares one with others) grows after its record left the index and before the record's place is used again
//!   ([`Value::is_current`]).
//! - A record that loses its key must be in a file that may be written: asked before anything is changed.
//! - Nothing is flushed but by [`Index::save`]; after a power failure the index is filled anew ([`Index::clear`]).

use crate::files::Files;
use crate::record::Record;
use crate::{Error, Mapping, Value};
use kv::table::{BUCKETS_AT, Bucket, SEGMENT, SEGMENT_SLOTS, Segment, Slot, Tags, buckets_of, home_of, tag};
use libtwz::sync::RawMutex;
use libtwz::tags::TaggedLine;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, fence};

const MAGIC: u64 = u64::from_le_bytes(*b"UNIXKVI2");
/// Offsets in the first page.
const CLEAN: usize = 8;
const MASK: usize = 16;
const SEGMENTS: usize = 24;
const SEQUENCE: usize = 32;
/// The directory, and how long it can be, as a power of two.
const DIRECTORY: usize = 4096;
const DEPTH_MAX: u64 = 20;
/// The first segment.
const HEAP: usize = DIRECTORY + (8 << DEPTH_MAX);
/// Size of the file, which is sparse: room for 80 million keys.
const BYTES: usize = 1 << 30;
/// Words that tell readers of changes.
const VERSIONS: usize = 512;

/// The index of an open store.
#[derive(Debug)]
pub(crate) struct Index {
    file: Mapping,
    /// Guards the directory and the number of segments.
    growing: RawMutex,
    /// Of the keys with some bits of the tag in common.
    versions: Box<[AtomicU64; VERSIONS]>,
}

impl Index {
    /// Opens or makes the file at `path`; says whether it was left in order.
    pub(crate) fn open(path: &Path, flushes: bool) -> Result<(Self, bool), Error> {
        let file = Mapping::open(path, BYTES, flushes)?;
        if !matches!(file.load(0), 0 | MAGIC) {
            return Err(Error::NotOurs(path.to_path_buf()));
        }
        let versions = Box::new([const { AtomicU64::new(0) }; VERSIONS]);
        let index = Self { file, growing: RawMutex::new(), versions };
        let is_clean = index.file.load(CLEAN) == 1 && index.is_plausible();
        if is_clean {
            // Nobody is there yet who could hold a lock, whatever damage says.
            let count = usize::try_from(index.file.load(SEGMENTS)).unwrap_or(0) + 1;
            let locks = (HEAP..index.file.len() - SEGMENT).step_by(SEGMENT).take(count);
            locks.for_each(|lock| index.file.store(lock, 0));
        }
        index.file.store(0, MAGIC);
        index.set_clean(false);
        Ok((index, is_clean))
    }

    fn is_plausible(&self) -> bool {
        let (mask, segments) = (self.file.load(MASK), self.file.load(SEGMENTS));
        mask >> DEPTH_MAX == 0 && (mask + 1).is_power_of_two() && (1..=1 << DEPTH_MAX).contains(&segments)
    }

    fn set_clean(&self, is_clean: bool) {
        self.file.store(CLEAN, u64::from(is_clean));
        self.file.flush(0, DIRECTORY);
        self.file.fence();
    }

    /// Empties it.
    pub(crate) fn clear(&self) {
        self.file.store(MASK, 0);
        self.file.store(SEGMENTS, 1);
        (HEAP..HEAP + SEGMENT).step_by(8).for_each(|word| self.file.store(word, 0));
        self.file.store(DIRECTORY, HEAP as u64);
    }

    /// The newest record's, when the store was closed.
    pub(crate) fn sequence(&self) -> u64 {
        self.file.load(SEQUENCE)
    }

    /// Makes all that changed durable, and says that it is in order.
    pub(crate) fn save(&self, sequence: u64) {
        self.file.store(SEQUENCE, sequence);
        for (at, segment) in self.segments() {
            if segment.dirty.get() != 0 {
                segment.dirty.set_without_log(0);
                self.file.flush(at, SEGMENT);
            }
        }
        let words = usize::try_from(self.file.load(MASK)).unwrap_or(0) + 1;
        self.file.flush(DIRECTORY, words.min(1 << DEPTH_MAX) * 8);
        self.file.fence();
        self.set_clean(true);
    }

    /// Makes the pages of the first segments present.
    pub(crate) fn populate(&self, bytes: usize) {
        self.file.populate(HEAP, bytes);
    }

    /// All segments in use, with their offsets.
    fn segments(&self) -> impl Iterator<Item = (usize, &Segment)> {
        let count = usize::try_from(self.file.load(SEGMENTS)).unwrap_or(usize::MAX);
        (HEAP..).step_by(SEGMENT).take(count).map_while(|at| Some((at, self.file.at(at)?)))
    }

    /// Slots that there are.
    pub(crate) fn slots(&self) -> usize {
        self.segments().count() * SEGMENT_SLOTS
    }

    /// Calls `each` for every slot in use, with the version of its key.
    pub(crate) fn for_each<'a>(&'a self, mut each: impl FnMut(Slot, &'a AtomicU64, u64)) {
        for place in
            self.segments().flat_map(|(_, segment)| segment.buckets.iter().flat_map(|bucket| &bucket[1..]))
        {
            // The version of a slot's key is known once the slot was read: read it again after.
            let version = self.version(Slot(place.get()).tag());
            let seen = version.load(Ordering::Acquire);
            let slot = Slot(place.get());
            if !slot.is_empty() && std::ptr::eq(version, self.version(slot.tag())) {
                each(slot, version, seen);
            }
        }
    }

    #[inline]
    fn version(&self, tag: u64) -> &AtomicU64 {
        #[allow(clippy::cast_possible_truncation, reason = "masked")]
        let number = (tag >> 11) as usize & (VERSIONS - 1);
        &self.versions[number]
    }

    /// Offset of the directory's word for a hash.
    #[inline]
    fn word_for(&self, hash: u64) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "masked")]
        let number = (hash & self.file.load(MASK)) as usize & ((1 << DEPTH_MAX) - 1);
        DIRECTORY + number * 8
    }

    #[inline]
    fn segment(&self, word: usize) -> Result<&Segment, Error> {
        self.segment_at(self.file.load(word))
    }

    /// The segment that a word of the directory leads to.
    #[inline]
    fn segment_at(&self, pointer: u64) -> Result<&Segment, Error> {
        // One that is in use, from its start: elsewhere something else would be taken for a lock.
        let at = usize::try_from(pointer).unwrap_or(usize::MAX);
        let from_first = at.checked_sub(HEAP).ok_or(Error::Damaged)?;
        let is_one =
            from_first.is_multiple_of(SEGMENT) && (from_first / SEGMENT) as u64 <= self.file.load(SEGMENTS);
        self.file.at(at).filter(|_| is_one).ok_or(Error::Damaged)
    }

    /// Has the bucket for a hash fetched, which is about to be changed.
    #[inline]
    pub(crate) fn expect_change(&self, hash: u64) {
        self.file.expect_store(self.bucket_of(hash));
    }

    /// Offset of the bucket for a hash, wherever damage may have put it.
    #[inline(always)]
    fn bucket_of(&self, hash: u64) -> usize {
        let segment = usize::try_from(self.file.load(self.word_for(hash))).unwrap_or(usize::MAX);
        segment.saturating_add(BUCKETS_AT + home_of(hash) * size_of::<Bucket>())
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NotPermitted`].
    #[inline(always)]
    pub(crate) fn find<'a>(
        &'a self,
        files: &'a Files,
        hash: u64,
        key: &[u8],
    ) -> Result<Option<Value<'a>>, Error> {
        // Nearly always the first slot with the tag is the one. What else there is stays out of the caller's loop.
        let version = self.version(tag(hash));
        let seen = version.load(Ordering::Acquire);
        if let Some(bucket) = self.file.at::<Bucket>(self.bucket_of(hash))
            && let Some(slot) = TaggedLine::of(bucket).first_with(Tags::fingerprint(hash))
            && let slot = Slot(slot)
            && let Some(file) = files.mapped(slot)
            && let Some(record) = Record::with_key(file, slot.offset(), key)
        {
            return Ok(Some(Value { record, version, seen }));
        }
        self.find_anywhere(files, hash, key)
    }

    #[cold]
    #[inline(never)]
    fn find_anywhere<'a>(
        &'a self,
        files: &'a Files,
        hash: u64,
        key: &[u8],
    ) -> Result<Option<Value<'a>>, Error> {
        loop {
            let version = self.version(tag(hash));
            let seen = version.load(Ordering::Acquire);
            let word = self.word_for(hash);
            let pointer = self.file.load(word);
            if let Some((_, _, record)) = Self::place_of(self.segment(word)?, files, hash, key)? {
                return Ok(Some(Value { record, version, seen }));
            }
            fence(Ordering::Acquire);
            let same = version.load(Ordering::Relaxed) == seen;
            if same && self.word_for(hash) == word && self.file.load(word) == pointer {
                return Ok(None); // I2
            }
        }
    }

    /// The slot of a key.
    ///
    /// # Errors
    /// As [`Index::find`].
    pub(crate) fn slot_of(&self, files: &Files, hash: u64, key: &[u8]) -> Result<Option<Slot>, Error> {
        self.locked(hash, |segment| {
            let place = Self::place_of(segment, files, hash, key)?;
            Ok(place.map(|(bucket, place, _)| Slot(bucket[place].get())))
        })
    }

    /// The place of a key's slot in a segment (bucket and number), and the record that it led to.
    fn place_of<'a>(
        segment: &'a Segment,
        files: &'a Files,
        hash: u64,
        key: &[u8],
    ) -> Result<Option<(&'a Bucket, usize, Record<'a>)>, Error> {
        for number in buckets_of(hash) {
            let bucket = &segment.buckets[number];
            let tags = Tags(bucket[0].get());
            for place in tags.with_fingerprint(hash) {
                // Without the lock it may have changed since it was compared; the key decides.
                let slot = Slot(bucket[place].get());
                if !slot.is_empty()
                    && slot.tag() == tag(hash)
                    && let Some(record) = Record::with_key(&files.data_of(slot)?.file, slot.offset(), key)
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

    /// Runs `change` under the lock of the segment for `hash`.
    #[inline]
    fn locked<'a, R>(
        &'a self,
        hash: u64,
        change: impl FnOnce(&'a Segment) -> Result<R, Error>,
    ) -> Result<R, Error> {
        loop {
            let word = self.word_for(hash);
            let pointer = self.file.load(word);
            let segment = self.segment_at(pointer)?;
            segment.lock.lock().map_err(Error::Lock)?;
            if self.file.load(self.word_for(hash)) == pointer {
                let result = change(segment);
                segment.lock.unlock_ahead();
                return result;
            }
            segment.lock.unlock(); // it was split meanwhile
        }
    }

    /// [`Index::locked`] without waiting; `None` if another thread has the lock, or the segment was split meanwhile.
    #[inline]
    fn try_locked<'a, R>(
        &'a self,
        hash: u64,
        change: impl FnOnce(&'a Segment) -> Result<R, Error>,
    ) -> Result<Option<R>, Error> {
        let pointer = self.file.load(self.word_for(hash));
        let segment = self.segment_at(pointer)?;
        if !segment.lock.try_lock() {
            return Ok(None);
        }
        let is_the_one = self.file.load(self.word_for(hash)) == pointer;
        let result = is_the_one.then(|| change(segment)).transpose();
        segment.lock.unlock_ahead();
        result
    }

    /// Says that a record left (**I3**).
    #[inline]
    fn left(&self, hash: u64) {
        self.moved(tag(hash));
    }

    /// Says that a record left the place where it was found (**I2**).
    #[inline]
    fn moved(&self, tag: u64) {
        self.version(tag).fetch_add(1, Ordering::AcqRel);
    }

    /// Has a record made and makes it the one of its key, under the lock: what is done here overlaps with the fence that `record` ended with,
    /// since little after it waits for memory. Where another thread has the lock, the record is made first: that overlaps with the wait. Says
    /// whether the key had one; `None` if `record` had no room.
    ///
    /// # Errors
    /// As [`Index::publish`], and what `record` says.
    #[inline]
    pub(crate) fn put(
        &self,
        files: &Files,
        hash: u64,
        key: &[u8],
        record: impl Fn() -> Result<Option<(Slot, u64)>, Error>,
    ) -> Result<Option<bool>, Error> {
        let mut made = None;
        let tried = self.try_locked(hash, |segment| {
            made = record()?;
            match made {
                Some((new, _)) if segment.lacks(hash) && segment.add(hash, new) => Ok(Some(false)),
                Some(made) => self.put_over(segment, files, hash, key, made),
                None => Ok(None),
            }
        })?;
        match (tried, made) {
            (Some(Some(had_one)), _) => Ok(Some(had_one)),
            (Some(None), None) => Ok(None), // no room
            (_, made) => self.put_again(files, hash, key, made, record),
        }
    }

    /// [`Index::put`] of a record that is made, where a key like it may have one, or the segment is full.
    #[inline(never)]
    fn put_over(
        &self,
        segment: &Segment,
        files: &Files,
        hash: u64,
        key: &[u8],
        (new, sequence): (Slot, u64),
    ) -> Result<Option<bool>, Error> {
        self.publish_in(segment, files, hash, key, new, sequence).inspect_err(|_| {
            // The error is what the caller hears of. Were this one to fail too, the record would be found after a power failure.
            let _ = files.retire(new);
        })
    }

    /// [`Index::put`] where another thread had the lock, or the segment was split.
    #[cold]
    #[inline(never)]
    fn put_again(
        &self,
        files: &Files,
        hash: u64,
        key: &[u8],
        made: Option<(Slot, u64)>,
        record: impl Fn() -> Result<Option<(Slot, u64)>, Error>,
    ) -> Result<Option<bool>, Error> {
        let Some(made) = made.map_or_else(record, |made| Ok(Some(made)))? else { return Ok(None) };
        loop {
            let done = self.locked(hash, |segment| self.put_over(segment, files, hash, key, made))?;
            if done.is_some() {
                return Ok(done);
            }
        }
    }

    /// Makes a durable record the one of its key, unless that has a newer one; the record that lost is retired under the lock. Says whether the key
    /// had one.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Damaged`], [`Error::NotPermitted`]: the key has the record that it had.
    pub(crate) fn publish(
        &self,
        files: &Files,
        hash: u64,
        key: &[u8],
        new: Slot,
        sequence: u64,
    ) -> Result<bool, Error> {
        loop {
            let done =
                self.locked(hash, |segment| self.publish_in(segment, files, hash, key, new, sequence))?;
            if let Some(done) = done {
                return Ok(done);
            }
        }
    }

    /// [`Index::publish`] in the segment for the key, which is locked; `None` if that was full, and is split now.
    fn publish_in(
        &self,
        segment: &Segment,
        files: &Files,
        hash: u64,
        key: &[u8],
        new: Slot,
        sequence: u64,
    ) -> Result<Option<bool>, Error> {
        if !segment.lacks(hash)
            && let Some((bucket, place, old)) = Self::place_of(segment, files, hash, key)?
        {
            if old.sequence() > sequence {
                files.retire(new)?;
                return Ok(Some(true));
            }
            let before = Slot(bucket[place].get());
            files.expect_change(before)?;
            segment.change(&bucket[place], new.in_bucket(before.beside()).0);
            self.left(hash);
            files.retire(before)?;
            return Ok(Some(true));
        }
        if segment.add(hash, new) {
            return Ok(Some(false));
        }
        self.split(segment, hash)?;
        Ok(None)
    }

    /// Takes a key out and retires its record, under the lock; says whether it was there.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NotPermitted`].
    pub(crate) fn remove(&self, files: &Files, hash: u64, key: &[u8]) -> Result<bool, Error> {
        self.locked(hash, |segment| {
            let Some((bucket, place, _)) = Self::place_of(segment, files, hash, key)? else {
                return Ok(false);
            };
            let slot = Slot(bucket[place].get());
            files.expect_change(slot)?;
            segment.change(&bucket[place], Slot::EMPTY.0);
            segment.change(&bucket[0], Tags(bucket[0].get()).without(place).0);
            self.left(hash);
            files.retire(slot)?;
            Ok(true)
        })
    }

    /// Splits a segment that is locked: keys with the next bit of the hash set go to a new one.
    #[cold]
    fn split(&self, old: &Segment, hash: u64) -> Result<(), Error> {
        self.growing.lock().map_err(Error::Lock)?;
        let result = self.split_locked(old, hash);
        self.growing.unlock();
        result
    }

    fn split_locked(&self, old: &Segment, hash: u64) -> Result<(), Error> {
        let (depth, mask) = (old.depth.get(), self.file.load(MASK));
        let directory = u64::from(mask.count_ones());
        if !self.is_plausible() || depth > directory {
            return Err(Error::Damaged);
        }
        // 1. The new segment, which nobody sees yet.
        let number = self.file.load(SEGMENTS);
        let at = HEAP + usize::try_from(number).map_err(|_| Error::Damaged)? * SEGMENT;
        let new: &Segment = self.file.at(at).filter(|_| depth < DEPTH_MAX).ok_or(Error::Full)?;
        self.file.store(at, 0); // the lock: what a power failure left there is not held
        let word_at = |number: u64| DIRECTORY + usize::try_from(number).unwrap_or(0) * 8;
        if depth == directory {
            for number in 0..1 << depth {
                self.file.store(word_at(number + (1 << depth)), self.file.load(word_at(number)));
            }
            fence(Ordering::Release);
            self.file.store(MASK, (2 << depth) - 1);
        }
        new.depth.set_without_log(depth + 1);
        old.copy_half(new, depth);
        fence(Ordering::Release);
        // 2. The directory leads to it.
        let first = hash & ((1 << depth) - 1) | 1 << depth;
        for number in (first..1 << directory.max(depth + 1)).step_by(2 << depth) {
            self.file.store(word_at(number), at as u64);
        }
        fence(Ordering::Release);
        // 3. Nobody finds the old places any more (I2).
        old.depth.set_without_log(depth + 1);
        old.clear_half(depth, |tag| self.moved(tag));
        self.file.store(SEGMENTS, number + 1);
        Ok(())
    }
}
