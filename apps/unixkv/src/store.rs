//! The store: an index file, and data files that records are appended to.

use crate::{Error, Mapping};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const MAGIC: u64 = u64::from_le_bytes(*b"UNIXKV01");
/// Bytes before the buckets, and before the first record.
const HEADER: usize = 64;
/// Offset of the header's count of keys; in data files, of bytes in use.
const COUNT: usize = 8;
/// Offset of the header's mark of an orderly close.
const CLEAN: usize = 16;
const SLOTS: usize = 8;
/// Buckets that a key may be in.
const PROBES: usize = 4;
const FIRST_BUCKETS: usize = 1024;
const TAG_BITS: u32 = 26;
/// Bytes of a data file, unless the caller says otherwise.
pub(crate) const DATA_BYTES: usize = 512 << 20;
const FILES_MAX: usize = 4095;
/// Bytes before a record's value: lengths and check, sequence.
const RECORD: usize = 16;
/// Set in a record's first word when its key was deleted.
const TOMBSTONE: u64 = 1 << 31;

/// What is in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Keys.
    pub keys: usize,
    /// Data files.
    pub files: usize,
}

/// An open store.
#[derive(Debug)]
pub struct UnixKv {
    folder: PathBuf,
    index: Mapping,
    buckets: usize,
    /// Where the data files are mapped: the table that turns pointers into addresses.
    data: Vec<Mapping>,
    data_bytes: usize,
    flushes: bool,
    sequence: u64,
}

/// A record that the index leads to.
#[derive(Clone, Copy)]
struct Record<'a> {
    file: &'a Mapping,
    at: usize,
    key_len: usize,
    value_len: usize,
}

impl UnixKv {
    /// Opens the store in `folder`, or makes one; data files have `data_bytes` (0: 512 MiB). `flushes`: on persistent memory.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::NotOurs`].
    pub fn open(folder: &Path, data_bytes: usize, flushes: bool) -> Result<Self, Error> {
        std::fs::create_dir_all(folder)
            .map_err(|source| Error::File { path: folder.to_path_buf(), source })?;
        let data_bytes = if data_bytes == 0 { DATA_BYTES } else { data_bytes };
        let path = folder.join("index");
        let index = Mapping::open(&path, HEADER + FIRST_BUCKETS * SLOTS * 8, flushes)?;
        let is_new = index.load(0) == 0;
        if !is_new && index.load(0) != MAGIC {
            return Err(Error::NotOurs(path));
        }
        let buckets = (index.len() - HEADER) / (SLOTS * 8);
        let mut store = Self {
            folder: folder.to_path_buf(),
            index,
            buckets,
            data: Vec::new(),
            data_bytes,
            flushes,
            sequence: 0,
        };
        while folder.join(format!("data.{}", store.data.len())).exists() {
            store.add_file(store.data.len())?;
        }
        if store.data.is_empty() {
            store.add_file(0)?;
        }
        if is_new || !buckets.is_power_of_two() || store.index.load(CLEAN) == 0 {
            store.rebuild()?;
        }
        store.sequence = store.index.load(CLEAN).max(store.sequence);
        store.index.store(0, MAGIC);
        store.index.store(CLEAN, 0);
        store.index.flush(0, HEADER);
        store.index.fence();
        Ok(store)
    }

    /// Maps data file `number`, which the caller may then put values into ([`UnixKv::put_in`]).
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Full`].
    pub fn add_file(&mut self, number: usize) -> Result<(), Error> {
        if number >= FILES_MAX {
            return Err(Error::Full);
        }
        for number in self.data.len()..=number {
            let path = self.folder.join(format!("data.{number}"));
            let file = Mapping::open(&path, self.data_bytes, self.flushes)?;
            if file.load(0) == 0 {
                file.store(COUNT, HEADER as u64);
                file.store(0, MAGIC);
                file.flush(0, HEADER);
                file.fence();
            } else if file.load(0) != MAGIC {
                return Err(Error::NotOurs(path));
            }
            self.data.push(file);
        }
        Ok(())
    }

    fn hash(key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, 0)
    }

    /// Offset of a slot in the index file.
    #[inline]
    fn slot_at(&self, hash: u64, probe: usize, slot: usize) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "masked")]
        let bucket = (hash as usize & (self.buckets - 1)) ^ probe;
        HEADER + (bucket * SLOTS + slot) * 8
    }

    /// The address of what a slot leads to: *the* conversion.
    #[inline]
    fn record(&self, slot: u64) -> Option<Record<'_>> {
        let file = self.data.get((slot >> 26 & 0xfff) as usize)?;
        Record::at(file, (slot & 0x3ff_ffff) as usize * 16)
    }

    #[inline]
    fn find(&self, hash: u64, key: &[u8]) -> Option<(usize, Record<'_>)> {
        for probe in 0..PROBES {
            let mut has_room = false;
            for slot in 0..SLOTS {
                let at = self.slot_at(hash, probe, slot);
                let word = self.index.load(at);
                has_room |= word == 0;
                if word != 0
                    && word >> 38 == hash >> (64 - TAG_BITS)
                    && let Some(record) = self.record(word)
                    && record.has_key(key)
                {
                    return Some((at, record));
                }
            }
            // A key goes on to the next bucket only when this one is full, and a full one does not become empty (see `delete`).
            if has_room {
                return None;
            }
        }
        None
    }

    /// The value of a key, where it stands in the mapping.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.find(Self::hash(key), key)
            .filter(|(_, record)| !record.is_tombstone())
            .map(|(_, record)| record.value())
    }

    /// Gives a key a value, durably, in the last data file.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Full`], [`Error::File`].
    #[inline]
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.put_in(self.data.len() - 1, key, value)
    }

    /// Gives a key a value in data file `file`, or the next one with room.
    ///
    /// # Errors
    /// As [`UnixKv::put`].
    pub fn put_in(&mut self, file: usize, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.append(file, key, value, false)
    }

    /// Takes a key out, durably; returns whether it was there.
    ///
    /// # Errors
    /// As [`UnixKv::put`].
    pub fn delete(&mut self, key: &[u8]) -> Result<bool, Error> {
        let was = self.get(key).is_some();
        if was {
            // A tombstone keeps the slot: what is in later buckets stays findable, and the record survives a rebuild.
            self.append(self.data.len() - 1, key, &[], true)?;
        }
        Ok(was)
    }

    fn append(&mut self, file: usize, key: &[u8], value: &[u8], gone: bool) -> Result<(), Error> {
        let bytes = (RECORD + value.len() + key.len()).next_multiple_of(16);
        if bytes > self.data_bytes - HEADER || value.len() >= 1 << 30 || key.len() >= 1 << 30 {
            return Err(Error::TooLarge(bytes));
        }
        let hash = Self::hash(key);
        let (file, at) = self.place(file, bytes)?;
        self.sequence += 1;
        // 1. The record, durable with one fence.
        let data = &self.data[file];
        let lens = value.len() as u64 | (key.len() as u64) << 32 | if gone { TOMBSTONE } else { 0 };
        let check = check(hash, value, lens, self.sequence);
        data.store(at, lens);
        data.store(at + 8, u64::from(check) << 32 | self.sequence & 0xffff_ffff);
        write(data, at + RECORD, value, key);
        data.flush(at, RECORD + value.len() + key.len());
        data.fence();
        data.store(COUNT, (at + bytes) as u64); // found again by reading records
        // 2. The index leads to it.
        let slot = hash >> (64 - TAG_BITS) << 38 | (file as u64) << 26 | (at / 16) as u64;
        self.publish(hash, key, slot)
    }

    fn publish(&mut self, hash: u64, key: &[u8], slot: u64) -> Result<(), Error> {
        if let Some((at, _)) = self.find(hash, key) {
            self.index.store(at, slot);
            return Ok(());
        }
        loop {
            for probe in 0..PROBES {
                for place in 0..SLOTS {
                    let at = self.slot_at(hash, probe, place);
                    if self.index.load(at) == 0 {
                        self.index.store(at, slot);
                        return Ok(());
                    }
                }
            }
            self.enlarge()?;
        }
    }

    /// Where a record goes: in `file`, or the first one after it with room.
    fn place(&mut self, file: usize, bytes: usize) -> Result<(usize, usize), Error> {
        let mut file = file;
        loop {
            if file >= self.data.len() {
                self.add_file(file)?;
            }
            let at = usize::try_from(self.data[file].load(COUNT)).unwrap_or(usize::MAX).max(HEADER);
            if at.saturating_add(bytes) <= self.data[file].len() && at.is_multiple_of(16) {
                return Ok((file, at));
            }
            file += 1;
        }
    }

    /// Twice as many buckets, in a new file that takes the old one's name.
    fn enlarge(&mut self) -> Result<(), Error> {
        let path = self.folder.join("index.new");
        let buckets = self.buckets * 2;
        let failed = |path: &Path, source| Error::File { path: path.to_path_buf(), source };
        if path.exists() {
            std::fs::remove_file(&path).map_err(|source| failed(&path, source))?;
        }
        let index = Mapping::open(&path, HEADER + buckets * SLOTS * 8, self.flushes)?;
        index.store(0, MAGIC);
        std::fs::rename(&path, self.folder.join("index")).map_err(|source| failed(&path, source))?;
        let old = std::mem::replace(&mut self.index, index);
        self.buckets = buckets;
        for at in (HEADER..old.len()).step_by(8) {
            let slot = old.load(at);
            let Some(record) = self.record(slot).filter(|_| slot != 0) else { continue };
            let key = record.key().to_vec();
            self.publish(Self::hash(&key), &key, slot)?;
        }
        Ok(())
    }

    /// Builds the index from the records: the newest of each key counts.
    fn rebuild(&mut self) -> Result<(), Error> {
        for at in (HEADER..self.index.len()).step_by(8) {
            self.index.store(at, 0);
        }
        self.buckets = self.buckets.next_power_of_two() / if self.buckets.is_power_of_two() { 1 } else { 2 };
        let mut found: Vec<(u64, u64, u64, Vec<u8>)> = Vec::new();
        for (number, file) in self.data.iter().enumerate() {
            let mut at = HEADER;
            while let Some(record) = Record::at(file, at).filter(Record::is_whole) {
                let key = record.key().to_vec();
                let hash = Self::hash(&key);
                let slot = hash >> (64 - TAG_BITS) << 38 | (number as u64) << 26 | (at / 16) as u64;
                found.push((record.sequence(), hash, slot, key));
                at += record.bytes();
            }
            // What follows was never acknowledged; old contents there must not be taken for records later.
            for word in (at..file.len()).step_by(8).take_while(|word| file.load(*word) != 0) {
                file.store(word, 0);
            }
            file.store(COUNT, at as u64);
        }
        found.sort_unstable_by_key(|(sequence, ..)| *sequence);
        for (sequence, hash, slot, key) in found {
            self.sequence = sequence;
            self.publish(hash, &key, slot)?;
        }
        Ok(())
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut keys = 0;
        self.scan(|_, _| keys += 1);
        Stats { keys, files: self.data.len() }
    }

    /// Calls `each` with every pair, in no order.
    pub fn scan(&self, mut each: impl FnMut(&[u8], &[u8])) {
        for at in (HEADER..self.index.len()).step_by(8) {
            let slot = self.index.load(at);
            if slot != 0
                && let Some(record) = self.record(slot).filter(|record| !record.is_tombstone())
            {
                each(record.key(), record.value());
            }
        }
    }
}

impl Drop for UnixKv {
    fn drop(&mut self) {
        self.index.flush(0, self.index.len());
        self.index.fence();
        self.index.store(CLEAN, self.sequence.max(1));
        self.index.flush(CLEAN, 8);
        self.index.fence();
    }
}

impl<'a> Record<'a> {
    #[inline]
    fn at(file: &'a Mapping, at: usize) -> Option<Self> {
        if at < HEADER || at + RECORD > file.len() {
            return None;
        }
        let lens = file.load(at);
        let record =
            Self { file, at, key_len: (lens >> 32) as usize, value_len: (lens & (TOMBSTONE - 1)) as usize };
        (record.bytes() <= file.len() - at).then_some(record)
    }

    fn bytes(&self) -> usize {
        (RECORD + self.value_len + self.key_len).next_multiple_of(16)
    }

    fn is_tombstone(&self) -> bool {
        self.file.load(self.at) & TOMBSTONE != 0
    }

    fn sequence(&self) -> u64 {
        self.file.load(self.at + 8) & 0xffff_ffff
    }

    /// Whether the record was written whole.
    fn is_whole(&self) -> bool {
        let check = check(UnixKv::hash(self.key()), self.value(), self.file.load(self.at), self.sequence());
        self.file.load(self.at + 8) >> 32 == u64::from(check)
    }

    #[inline]
    fn slice(&self, at: usize, len: usize) -> &'a [u8] {
        // SAFETY: `at` checked that the record lies inside the mapping, which lives as long as `'a`; records are not changed while
        // the store is borrowed (one writer, `&mut self`), and other processes are promised to stay away.
        unsafe { std::slice::from_raw_parts(self.file.base().wrapping_add(at), len) }
    }

    #[inline]
    fn value(&self) -> &'a [u8] {
        self.slice(self.at + RECORD, self.value_len)
    }

    #[inline]
    fn key(&self) -> &'a [u8] {
        self.slice(self.at + RECORD + self.value_len, self.key_len)
    }

    #[inline]
    fn has_key(&self, key: &[u8]) -> bool {
        self.key() == key
    }
}

/// The check of a record: never 0.
fn check(key_hash: u64, value: &[u8], lens: u64, sequence: u64) -> u32 {
    let hash = xxh3_64_with_seed(value, key_hash ^ lens.rotate_left(16) ^ (sequence & 0xffff_ffff));
    #[allow(clippy::cast_possible_truncation, reason = "folded")]
    let folded = (hash ^ hash >> 32) as u32;
    folded.max(1)
}

/// Stores value and key one after the other, by words.
fn write(file: &Mapping, at: usize, value: &[u8], key: &[u8]) {
    let mut word = [0_u8; 8];
    let (mut at, mut filled) = (at, 0);
    for part in [value, key] {
        let mut rest = part;
        while !rest.is_empty() {
            let count = rest.len().min(8 - filled);
            word[filled..filled + count].copy_from_slice(&rest[..count]);
            (filled, rest) = (filled + count, &rest[count..]);
            if filled == 8 {
                file.store(at, u64::from_le_bytes(word));
                (at, filled) = (at + 8, 0);
            }
        }
    }
    if filled > 0 {
        word[filled..].fill(0);
        file.store(at, u64::from_le_bytes(word));
    }
}
