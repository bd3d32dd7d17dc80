//! A data file: where records are put, as in the data objects of `kv`, without free blocks.
//!
//! ```text
//! page 0      magic, bytes of chunks that are taken, where each stripe was when the store was closed
//! chunks      of 64 KiB, each with records one after the other; a larger record has a run of chunks to itself
//! ```
//! # Contract
//! - Threads append to chunks of their own (a *stripe*), and hold the stripe's lock until the fence.
//! - A chunk is durably taken before anything is written to it, and a record larger than a chunk has a durable size before contents: whatever a
//!   power failure leaves behind, contents are never read as headers.

use crate::record::Record;
use crate::{Error, Mapping};
use kv::table::{FIRST_OFFSET, UNIT};
use libtwz::sync::RawMutex;
use libtwz::sys::{Platform, Seam};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

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
#[derive(Debug, Default)]
struct Appenders {
    taking: RawMutex,
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
    /// Opens or makes the file at `path`, with room for so many bytes. What it holds can be read; appending needs [`Data::go_on`] or
    /// [`Data::recover`] before.
    pub(crate) fn open(path: &Path, bytes: usize, flushes: bool) -> Result<Self, Error> {
        let bytes = bytes.clamp(1, END_MAX - FIRST_OFFSET - CHUNK).next_multiple_of(CHUNK);
        let file = Mapping::open(path, FIRST_OFFSET + bytes, flushes)?;
        if file.load(0) == 0 {
            file.store(0, MAGIC);
            file.flush(0, FIRST_OFFSET);
            file.fence();
        } else if file.load(0) != MAGIC {
            return Err(Error::NotOurs(path.to_path_buf()));
        }
        Ok(Self { file, appenders: Box::default() })
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

    /// Goes on after a power failure: calls `each` for every record that was ever written whole, and makes the unused ends of chunks zeros, where a
    /// torn one may have left contents.
    pub(crate) fn recover(&self, mut each: impl FnMut(usize, Record<'_>)) {
        let mut tails = Vec::new();
        let mut start = FIRST_OFFSET;
        while start < self.taken() {
            let (mut at, mut end) = (start, start + CHUNK);
            while at < end {
                let bytes = (self.file.load(at) & 0xffff_ffff) as usize * UNIT;
                if at == start && bytes > CHUNK && bytes <= self.taken() - at {
                    end = start + bytes.next_multiple_of(CHUNK);
                }
                if bytes == 0 || bytes > end - at {
                    break;
                }
                if let Some(record) = Record::at(&self.file, at).filter(Record::counts) {
                    each(at, record);
                }
                at += bytes;
            }
            for word in (at..end).step_by(8).filter(|word| self.file.load(*word) != 0) {
                self.file.store(word, 0);
                self.file.flush(word, 8);
            }
            tails.push((at, end));
            start = end;
        }
        self.file.fence();
        self.set_stripes(tails);
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
        let stripe = &self.appenders.stripes[Platform::thread_id() as usize % STRIPES];
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
    /// [`Error::Lock`].
    #[inline]
    pub(crate) fn put(
        &self,
        hash: u64,
        key: &[u8],
        value: &[u8],
        sequence: u64,
    ) -> Result<Option<usize>, Error> {
        let bytes = Record::bytes_for(key, value);
        let Some(at) = self.place(bytes)? else { return Ok(None) };
        Record::write(&self.data.file, at, bytes, hash, key, value, sequence);
        Ok(Some(at))
    }

    #[inline]
    fn place(&self, bytes: usize) -> Result<Option<usize>, Error> {
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
