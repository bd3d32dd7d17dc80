//! The store: index and data files together.

use crate::Error;
use crate::data::Data;
use crate::files::Files;
use crate::index::Index;
use crate::record::{Record, SEED};
use kv::table::hash;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes of a data file, unless the caller says otherwise.
const DATA_BYTES: usize = 512 << 20;

/// What is in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Keys.
    pub keys: usize,
    /// Slots that the index has for them.
    pub slots: usize,
    /// Data files.
    pub files: usize,
}

/// An open store.
#[derive(Debug)]
pub struct UnixKv {
    index: Index,
    files: Files,
    /// Of the newest record.
    sequence: AtomicU64,
    /// The file that the last record of [`UnixKv::put`] went to.
    current: AtomicUsize,
}

impl UnixKv {
    /// Opens the store in `folder`, or makes one; data files have room for `data_bytes` (0: 512 MiB). `flushes`: on persistent memory.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::NotOurs`], [`Error::Full`].
    pub fn open(folder: &Path, data_bytes: usize, flushes: bool) -> Result<Self, Error> {
        std::fs::create_dir_all(folder)
            .map_err(|source| Error::File { path: folder.to_path_buf(), source })?;
        let data_bytes = if data_bytes == 0 { DATA_BYTES } else { data_bytes };
        let files = Files::open(folder, data_bytes, flushes)?;
        let (index, is_clean) = Index::open(&folder.join("index"), flushes)?;
        let store = Self { index, files, sequence: AtomicU64::new(0), current: AtomicUsize::new(0) };
        if is_clean {
            store.files.all().for_each(Data::go_on);
            store.sequence.store(store.index.sequence(), Ordering::Relaxed);
        } else {
            store.recover()?;
        }
        Ok(store)
    }

    /// Fills the index from the records: the newest of each key counts.
    fn recover(&self) -> Result<(), Error> {
        self.index.clear();
        let mut done = Ok(());
        for (number, data) in self.files.all().enumerate() {
            data.recover(|at, record| {
                let (hash, sequence) = (hash(SEED, record.key()), record.sequence());
                self.sequence.fetch_max(sequence, Ordering::Relaxed);
                if done.is_ok() {
                    let slot = Files::slot(hash, number, at);
                    done = self.index.publish(&self.files, hash, record.key(), slot, sequence).map(drop);
                }
            });
        }
        done
    }

    /// Makes sure that there are data files up to `number`, which the caller may then put values into ([`UnixKv::put_in`]).
    ///
    /// # Errors
    /// [`Error::File`], [`Error::NotOurs`], [`Error::Full`].
    pub fn add_file(&self, number: usize) -> Result<(), Error> {
        self.files.add(number)
    }

    /// Makes pages present, so that what is put into a new store waits for none: so many bytes of the index, and of each data file.
    pub fn populate(&self, index_bytes: usize, data_bytes: usize) {
        self.index.populate(index_bytes);
        self.files.all().for_each(|data| data.file.populate(0, data_bytes));
    }

    /// The value of a key, where it stands in the mapping. It stays there, also when the key gets another.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    #[inline(always)]
    pub fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        let found = self.index.find(&self.files, hash(SEED, key), key)?;
        Ok(found.map(|record| record.value()))
    }

    /// Gives a key a value, durably, in a data file with room; says whether it had one.
    ///
    /// # Errors
    /// As [`UnixKv::put_in`].
    #[inline]
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        self.put_from(self.current.load(Ordering::Relaxed), key, value, |file| {
            self.current.store(file, Ordering::Relaxed)
        })
    }

    /// Gives a key a value in data file `file`, or the next one with room.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Full`], [`Error::File`], [`Error::Damaged`].
    #[inline]
    pub fn put_in(&self, file: usize, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        self.put_from(file, key, value, |_| ())
    }

    /// Puts in `file` or the next one with room, which `went` is told if it is another.
    #[inline(always)]
    fn put_from(&self, file: usize, key: &[u8], value: &[u8], went: impl Fn(usize)) -> Result<bool, Error> {
        let bytes = Record::bytes_for(key, value);
        if bytes > self.files.capacity() {
            return Err(Error::TooLarge(bytes));
        }
        let hash = hash(SEED, key);
        self.index.expect_change(hash); // comes while the record is made durable
        let (number, at, sequence) = self.append(file, hash, key, value)?;
        if number != file {
            went(number);
        }
        self.index.publish(&self.files, hash, key, Files::slot(hash, number, at), sequence)
    }

    /// Appends a record and makes it durable; returns its file, its place and its sequence.
    #[inline]
    fn append(&self, file: usize, hash: u64, key: &[u8], value: &[u8]) -> Result<(usize, usize, u64), Error> {
        let mut number = file;
        loop {
            let Some(data) = self.files.get(number) else {
                self.files.add(number)?;
                continue;
            };
            let appending = data.append()?;
            let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(at) = appending.put(hash, key, value, sequence)? {
                data.file.fence(); // commit point
                return Ok((number, at, sequence));
            }
            number += 1;
        }
    }

    /// Takes a key out, durably; says whether it was there.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn delete(&self, key: &[u8]) -> Result<bool, Error> {
        self.index.remove(&self.files, hash(SEED, key), key)
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut keys = 0;
        self.index.for_each(|_| keys += 1);
        Stats { keys, slots: self.index.slots(), files: self.files.all().count() }
    }

    /// Calls `each` with every pair, in no order. One that is put or deleted meanwhile may or may not be among them.
    pub fn scan(&self, mut each: impl FnMut(&[u8], &[u8])) {
        self.index.for_each(|slot| {
            if let Some(record) = self.files.record(slot) {
                each(record.key(), record.value());
            }
        });
    }
}

impl Drop for UnixKv {
    fn drop(&mut self) {
        self.files.all().for_each(Data::save);
        self.index.save(self.sequence.load(Ordering::Relaxed));
    }
}
