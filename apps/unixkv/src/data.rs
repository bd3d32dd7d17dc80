//! A data file: where records are put, and where their places come from, as in the data objects of `kv`.
//!
//! ```text
//! page 0      magic, bytes of chunks that are taken, where each stripe was when the store was closed
//! chunks      of 64 KiB, each with records one after the other; a larger record has a run of chunks to itself
//! ```
//! # Contract
//! - Threads append to chunks of their own (a *stripe*), and hold the stripe's lock until the fence.
//! - A chunk is durably taken before anything is written to it, and a record larger than a chunk has a durable size before contents: whatever a
//!   power failure leaves behind, contents are never read as headers.
//! - A block keeps its size for ever. It is free when its check is 0, and used again for records of its size class only. Lists of free blocks are this
//!   process's; what was free before is found by walking, once the file is full. Each stripe has the blocks that it freed; whose chunk is at its end
//!   takes some of the others'.

use crate::record::Record;
use crate::{Error, Mapping};
use kv::table::{CLASSES, FIRST_OFFSET, SOME, STRIPES, UNIT, class_of, own_stripe, round_units};
use libtwz::sync::RawMutex;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const MAGIC: u64 = u64::from_le_bytes(*b"UNIXKVD2");
/// Offsets in the first page: bytes of chunks taken, the stripes.
const TAKEN: usize = 8;
const SAVED: usize = 64;
/// Bytes of a chunk.
pub(crate) const CHUNK: usize = 64 << 10;
/// The file's end: what a slot can lead to.
const END_MAX: usize = 1 << 30;
/// How far beyond a record lines are fetched that will be appended to.
const AHEAD: usize = 128;

/// What a thread appends to: `at..end` of a chunk, and blocks that were freed. Who only appends touches the first line alone.
#[derive(Debug)]
#[repr(C, align(64))]
struct Stripe {
    lock: RawMutex,
    at: AtomicUsize,
    end: AtomicUsize,
    /// Bytes in free blocks.
    spare: AtomicUsize,
    /// Offset of the first free block of each class; its third word is the offset of the next.
    free: [AtomicUsize; CLASSES],
}

/// Who appends, in this process.
#[derive(Debug)]
struct Appenders {
    /// Guards the chunks that are taken.
    taking: RawMutex,
    /// Whether [`Data::reclaim`] ran.
    walked: AtomicBool,
    stripes: [Stripe; STRIPES],
}

/// A mapped data file.
#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) file: Mapping,
    appenders: Box<Appenders>,
}

/// Admission to a stripe; what was appended is durable after a fence.
pub(crate) struct Appending<'a> {
    data: &'a Data,
    stripe: &'a Stripe,
}

impl Drop for Appending<'_> {
    #[inline]
    fn drop(&mut self) {
        self.stripe.lock.unlock_ahead();
    }
}

impl Data {
    /// Opens or makes the file at `path`, with room for so many bytes; one that may not be written, for reading. What it holds can be read; appending needs [`Data::go_on`] or
    /// [`Data::recover`] before.
    pub(crate) fn open(path: &Path, bytes: usize, flushes: bool) -> Result<Self, Error> {
        let file = match Mapping::open(path, FIRST_OFFSET + Self::capacity_of(bytes), flushes) {
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
                Mapping::open_to_read(path)?
            }
            opened => opened?,
        };
        if file.len() < FIRST_OFFSET + CHUNK {
            return Err(Error::NotOurs(path.to_path_buf()));
        }
        if file.load(0) == 0 && file.is_writable() {
            file.store(0, MAGIC);
            file.flush(0, FIRST_OFFSET);
            file.fence();
        } else if file.load(0) != MAGIC {
            return Err(Error::NotOurs(path.to_path_buf()));
        }
        let appenders = Box::new(Appenders {
            taking: RawMutex::new(),
            walked: AtomicBool::new(false),
            stripes: [const { Stripe::new() }; STRIPES],
        });
        Ok(Self { file, appenders })
    }

    /// Bytes for chunks of a file that is to have room for `bytes`.
    pub(crate) const fn capacity_of(bytes: usize) -> usize {
        let most = END_MAX - FIRST_OFFSET - CHUNK;
        let bytes = if bytes < most { bytes } else { most };
        bytes.div_ceil(CHUNK) * CHUNK
    }

    /// Bytes that there are for chunks.
    pub(crate) fn capacity(&self) -> usize {
        (self.file.len().min(END_MAX) - FIRST_OFFSET) / CHUNK * CHUNK
    }

    /// Offset where the chunks end that are taken.
    fn taken(&self) -> usize {
        let bytes = usize::try_from(self.file.load(TAKEN)).unwrap_or(usize::MAX).min(self.capacity());
        FIRST_OFFSET + bytes / CHUNK * CHUNK
    }

    /// Goes on where the stripes were when the store was closed.
    pub(crate) fn go_on(&self) {
        let place = |at| usize::try_from(self.file.load(at)).unwrap_or(usize::MAX);
        let saved = (0..STRIPES).map(|number| (place(SAVED + number * 16), place(SAVED + number * 16 + 8)));
        let usable = |(at, end): &(usize, usize)| {
            *at >= FIRST_OFFSET && at.is_multiple_of(UNIT) && at < end && *end <= self.taken()
        };
        self.set_stripes(saved.filter(usable).collect());
    }

    /// Goes on after a power failure: calls `each` for every record that was ever written whole, with its key, and makes the unused ends of chunks zeros,
    /// where a torn one may have left contents.
    pub(crate) fn recover(&self, mut each: impl FnMut(usize, &Record<'_>, &[u8])) {
        let tails = self.walk(|at| {
            let Some(record) = Record::at(&self.file, at) else { return };
            match record.counting_key() {
                Some(key) => each(at, &record, &key),
                None => record.retire(),
            }
        });
        for (at, end) in &tails {
            for word in (*at..*end).step_by(8).filter(|word| self.file.load(*word) != 0) {
                self.file.store(word, 0);
                self.file.flush(word, 8);
            }
        }
        self.file.fence();
        self.set_stripes(tails);
    }

    /// Calls `each` for every block; returns the unused ends of chunks.
    fn walk(&self, mut each: impl FnMut(usize)) -> Vec<(usize, usize)> {
        let mut tails = Vec::new();
        let (mut start, taken) = (FIRST_OFFSET, self.taken());
        while start < taken {
            let (mut at, mut end) = (start, start + CHUNK);
            while at < end {
                let bytes = Record::units_at(&self.file, at) * UNIT;
                if at == start && bytes > CHUNK && bytes <= taken - at {
                    end = start + bytes.next_multiple_of(CHUNK);
                }
                if bytes == 0 || bytes > end - at {
                    break;
                }
                each(at);
                at += bytes;
            }
            tails.push((at, end));
            start = end;
        }
        tails
    }

    /// Finds the free blocks, once; says whether the calling thread's stripe has one for a record of so many units now.
    pub(crate) fn reclaim(&self, units: usize) -> Result<bool, Error> {
        let stripes = self.appenders.stripes.iter();
        let all = stripes.map(|stripe| self.admission(stripe)).collect::<Result<Vec<_>, Error>>()?;
        if !self.appenders.walked.swap(true, Ordering::Relaxed) {
            for stripe in &self.appenders.stripes {
                stripe.free.iter().for_each(|first| first.store(0, Ordering::Relaxed));
                stripe.spare.store(0, Ordering::Relaxed);
            }
            let mut free = Vec::new();
            self.walk(|at| {
                if self.file.load(at + 8) >> 32 == 0 {
                    free.push(at);
                }
            });
            free.iter().zip(all.iter().cycle()).for_each(|(at, appending)| appending.give(*at));
        }
        let units = round_units(units);
        let mine = &all[own_stripe()];
        let Some(class) = class_of(units) else { return Ok(false) };
        let others = || all.iter().filter(|other| !std::ptr::eq(other.stripe, mine.stripe));
        Ok(mine.has_free(class) || others().any(|other| mine.take_some(other, class, units)))
    }

    /// Makes a record count no more, durably, and its place usable again. Nothing may lead to it any more.
    pub(crate) fn retire(&self, at: usize) -> Result<(), Error> {
        let appending = self.append()?; // excludes `reclaim`, too
        Record::at(&self.file, at).ok_or(Error::Damaged)?.retire();
        appending.give(at);
        Ok(())
    }

    /// Gives the largest tails to the stripes.
    fn set_stripes(&self, mut tails: Vec<(usize, usize)>) {
        tails.sort_by_key(|(at, end)| std::cmp::Reverse(end - at));
        for (stripe, (at, end)) in self.appenders.stripes.iter().zip(tails) {
            stripe.at.store(at, Ordering::Relaxed);
            stripe.end.store(end, Ordering::Relaxed);
        }
    }

    /// Saves where the stripes are; durable after a fence. Only while nobody appends.
    pub(crate) fn save(&self) {
        for (number, stripe) in self.appenders.stripes.iter().enumerate() {
            let place = SAVED + number * 16;
            self.file.store(place, stripe.at.load(Ordering::Relaxed) as u64);
            self.file.store(place + 8, stripe.end.load(Ordering::Relaxed) as u64);
        }
        self.file.flush(0, FIRST_OFFSET);
    }

    /// Admission to the calling thread's stripe.
    #[inline]
    pub(crate) fn append(&self) -> Result<Appending<'_>, Error> {
        self.admission(&self.appenders.stripes[own_stripe()])
    }

    #[inline]
    fn admission<'a>(&'a self, stripe: &'a Stripe) -> Result<Appending<'a>, Error> {
        stripe.lock.lock().map_err(Error::Lock)?;
        Ok(Appending { data: self, stripe })
    }

    /// Takes a run of chunks, durably; `None` when there are not so many left.
    fn take(&self, bytes: usize) -> Result<Option<usize>, Error> {
        self.appenders.taking.lock().map_err(Error::Lock)?;
        let (at, bytes) = (self.taken(), bytes.next_multiple_of(CHUNK));
        let fits = bytes <= FIRST_OFFSET + self.capacity() - at;
        if fits {
            self.file.store(TAKEN, (at + bytes - FIRST_OFFSET) as u64);
            self.file.flush(TAKEN, 8);
            self.file.fence();
        }
        self.appenders.taking.unlock();
        Ok(fits.then_some(at))
    }
}

impl Appending<'_> {
    /// Writes a record and starts flushing it; returns where, or `None` when the file is full.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Lock`].
    #[inline]
    pub(crate) fn put(
        &self,
        hash: u64,
        key: &[u8],
        value: &[u8],
        sequence: u64,
    ) -> Result<Option<usize>, Error> {
        let units = round_units(Record::units_for(key, value));
        let Some(at) = self.place(units)? else { return Ok(None) };
        Record::write(&self.data.file, at, units, hash, key, value, sequence);
        Ok(Some(at))
    }

    #[inline]
    fn place(&self, units: usize) -> Result<Option<usize>, Error> {
        let bytes = units * UNIT;
        let class = class_of(units).ok_or(Error::TooLarge(bytes))?;
        if self.stripe.spare.load(Ordering::Relaxed) != 0
            && let Some(at) = self.take_free(class, units)
        {
            return Ok(Some(at));
        }
        let (at, end) = (self.stripe.at.load(Ordering::Relaxed), self.stripe.end.load(Ordering::Relaxed));
        if bytes <= end - at {
            self.stripe.at.store(at + bytes, Ordering::Relaxed);
            self.data.file.expect_store(at + bytes + AHEAD); // where one of the next records goes
            return Ok(Some(at));
        }
        self.place_elsewhere(class, units)
    }

    /// Puts a free block into the list of its class.
    fn give(&self, at: usize) {
        let units = Record::units_at(&self.data.file, at);
        let Some(class) = class_of(units) else { return }; // damaged: whatever it is, it is not used again
        let first = &self.stripe.free[class];
        self.data.file.store(at + 16, first.load(Ordering::Relaxed) as u64);
        first.store(at, Ordering::Relaxed);
        let spare = self.stripe.spare.load(Ordering::Relaxed);
        self.stripe.spare.store(spare.saturating_add(units * UNIT), Ordering::Relaxed);
    }

    fn has_free(&self, class: usize) -> bool {
        self.stripe.free[class].load(Ordering::Relaxed) != 0
    }

    /// Takes the first free block of a class out of its list.
    fn take_free(&self, class: usize, units: usize) -> Option<usize> {
        let (data, first) = (self.data, &self.stripe.free[class]);
        let at = first.load(Ordering::Relaxed);
        let usable = (FIRST_OFFSET..data.taken()).contains(&at)
            && at.is_multiple_of(UNIT)
            && Record::units_at(&data.file, at) == units;
        if !usable {
            first.store(0, Ordering::Relaxed); // damaged, or the list's end: its blocks are found again by walking
            return None;
        }
        first.store(usize::try_from(data.file.load(at + 16)).unwrap_or(0), Ordering::Relaxed);
        let spare = self.stripe.spare.load(Ordering::Relaxed);
        self.stripe.spare.store(spare.saturating_sub(units * UNIT), Ordering::Relaxed);
        Some(at)
    }

    /// Takes some free blocks of a class from another stripe; says whether there were any.
    fn take_some(&self, other: &Self, class: usize, units: usize) -> bool {
        let taken = std::iter::from_fn(|| other.take_free(class, units)).take(SOME);
        taken.map(|at| self.give(at)).count() != 0
    }

    /// [`Appending::take_some`] of whichever stripe has some and is free: to wait for one while we hold ours could be for ever.
    fn take_from_others(&self, class: usize, units: usize) -> bool {
        let others = self
            .data
            .appenders
            .stripes
            .iter()
            .filter(|other| !std::ptr::eq(*other, self.stripe))
            .filter(|other| other.free[class].load(Ordering::Relaxed) != 0 && other.lock.try_lock());
        others
            .map(|stripe| Self { data: self.data, stripe })
            .any(|other| self.take_some(&other, class, units))
    }

    #[cold]
    fn place_elsewhere(&self, class: usize, units: usize) -> Result<Option<usize>, Error> {
        let bytes = units * UNIT;
        if bytes > self.data.capacity() {
            return Err(Error::TooLarge(bytes));
        }
        if self.take_from_others(class, units) {
            return Ok(self.take_free(class, units));
        }
        let Some(at) = self.data.take(bytes)? else { return Ok(None) };
        if bytes > CHUNK {
            self.data.file.store(at, (bytes / UNIT) as u64);
            self.data.file.flush(at, 8);
            self.data.file.fence();
        } else {
            self.stripe.at.store(at + bytes, Ordering::Relaxed);
            self.stripe.end.store(at + CHUNK, Ordering::Relaxed);
        }
        Ok(Some(at))
    }
}

impl Stripe {
    const fn new() -> Self {
        Self {
            lock: RawMutex::new(),
            at: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            spare: AtomicUsize::new(0),
            free: [const { AtomicUsize::new(0) }; CLASSES],
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

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
        let folder = tempfile::tempdir().unwrap();
        let data = Data::open(&folder.path().join("data"), 4 * CHUNK, false).unwrap();
        let put = |size: usize| data.append().unwrap().put(1, b"key", &vec![1; size], 7).unwrap();
        let large = put(CHUNK).unwrap();
        let mut all: Vec<usize> = std::iter::from_fn(|| put(990)).collect();
        assert!(all.len() > 60, "{}", all.len());
        data.retire(large).unwrap();
        (0..40).for_each(|_| data.retire(all.pop().unwrap()).unwrap());
        on_another_stripe(|| {
            assert!(put(990).is_some());
            assert_eq!(data.append().unwrap().stripe.spare.load(Ordering::Relaxed), 1024 * (SOME - 1));
            assert_eq!(put(CHUNK), Some(large));
        });
        // It goes without what it would have to wait for, and has it once it waited.
        let held = data.append().unwrap();
        on_another_stripe(|| {
            (1..SOME).for_each(|_| assert!(put(990).is_some()));
            assert_eq!(put(990), None);
        });
        drop(held);
        let units = Record::units_for(b"key", &[1; 990]);
        on_another_stripe(|| {
            for found_by in ["walking", "taking another's"] {
                assert!(data.reclaim(units).unwrap(), "{found_by}");
                assert!(data.append().unwrap().has_free(class_of(units).unwrap()), "{found_by}");
                assert!(put(990).is_some());
            }
        });
    }
}
