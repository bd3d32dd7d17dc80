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
//!   process's; what was free before is found by walking, once the file is full.

use crate::record::Record;
use crate::{Error, Mapping};
use kv::table::{CLASSES, FIRST_OFFSET, UNIT, class_of, round_units};
use libtwz::sync::RawMutex;
use libtwz::sys::{Platform, Seam};
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
/// Threads that append at the same time without waiting.
const STRIPES: usize = 8;

/// What a thread appends to: `at..end` of a chunk.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe {
    lock: RawMutex,
    at: AtomicUsize,
    end: AtomicUsize,
}

/// Who appends, in this process.
#[derive(Debug)]
struct Appenders {
    /// Guards what follows, and the chunks that are taken.
    taking: RawMutex,
    /// Whether [`Data::reclaim`] ran.
    walked: AtomicBool,
    /// Offset of the first free block of each class; its third word is the offset of the next.
    free: [AtomicUsize; CLASSES],
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
            free: [const { AtomicUsize::new(0) }; CLASSES],
            stripes: Default::default(),
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

    /// Finds the free blocks, once; says whether there is one for a record of so many units.
    pub(crate) fn reclaim(&self, units: usize) -> Result<bool, Error> {
        let stripes = self.appenders.stripes.iter();
        let _all = stripes.map(|stripe| self.admission(stripe)).collect::<Result<Vec<_>, Error>>()?;
        if !self.appenders.walked.swap(true, Ordering::Relaxed) {
            self.appenders.free.iter().for_each(|first| first.store(0, Ordering::Relaxed));
            let mut free = Vec::new();
            self.walk(|at| {
                if self.file.load(at + 8) >> 32 == 0 {
                    free.push(at);
                }
            });
            free.into_iter().try_for_each(|at| self.give(at))?;
        }
        let first = class_of(round_units(units)).and_then(|class| self.appenders.free.get(class));
        Ok(first.is_some_and(|first| first.load(Ordering::Relaxed) != 0))
    }

    /// Makes a record count no more, durably, and its place usable again. Nothing may lead to it any more.
    pub(crate) fn retire(&self, at: usize) -> Result<(), Error> {
        let _appending = self.append()?; // excludes `reclaim`
        Record::at(&self.file, at).ok_or(Error::Damaged)?.retire();
        self.give(at)
    }

    fn give(&self, at: usize) -> Result<(), Error> {
        let first =
            class_of(Record::units_at(&self.file, at)).and_then(|class| self.appenders.free.get(class));
        let Some(first) = first else { return Ok(()) }; // damaged: whatever it is, it is not used again
        self.appenders.taking.lock().map_err(Error::Lock)?;
        self.file.store(at + 16, first.load(Ordering::Relaxed) as u64);
        first.store(at, Ordering::Relaxed);
        self.appenders.taking.unlock();
        Ok(())
    }

    /// A free block of a class, if one is known.
    #[inline]
    fn take_free(&self, class: usize, units: usize) -> Result<Option<usize>, Error> {
        let first = &self.appenders.free[class];
        if first.load(Ordering::Relaxed) == 0 { Ok(None) } else { self.take_first(first, units) }
    }

    fn take_first(&self, first: &AtomicUsize, units: usize) -> Result<Option<usize>, Error> {
        self.appenders.taking.lock().map_err(Error::Lock)?;
        let at = first.load(Ordering::Relaxed);
        let usable = (FIRST_OFFSET..self.taken()).contains(&at)
            && at.is_multiple_of(UNIT)
            && Record::units_at(&self.file, at) == units;
        // A damaged list ends here: its blocks are found again by walking.
        let next = if usable { usize::try_from(self.file.load(at + 16)).unwrap_or(0) } else { 0 };
        first.store(next, Ordering::Relaxed);
        self.appenders.taking.unlock();
        Ok(usable.then_some(at))
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
        self.admission(&self.appenders.stripes[Platform::thread_id() as usize % STRIPES])
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
        if let Some(at) = self.data.take_free(class, units)? {
            return Ok(Some(at));
        }
        let (at, end) = (self.stripe.at.load(Ordering::Relaxed), self.stripe.end.load(Ordering::Relaxed));
        if bytes <= end - at {
            self.stripe.at.store(at + bytes, Ordering::Relaxed);
            self.data.file.expect_store(at + bytes + AHEAD); // where one of the next records goes
            return Ok(Some(at));
        }
        self.place_elsewhere(bytes)
    }

    #[cold]
    fn place_elsewhere(&self, bytes: usize) -> Result<Option<usize>, Error> {
        if bytes > self.data.capacity() {
            return Err(Error::TooLarge(bytes));
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
