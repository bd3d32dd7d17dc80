//! The store: index and data files together.

use crate::files::Files;
use crate::index::Index;
use crate::record::{Record, SEED};
use crate::{Error, Value};
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
            store.files.all().for_each(|(_, data)| data.go_on());
            store.sequence.store(store.index.sequence(), Ordering::Relaxed);
        } else {
            store.recover()?;
        }
        Ok(store)
    }

    /// Fills the index from the records: the newest of each key counts. Those that lose are retired, so all files must be writable.
    fn recover(&self) -> Result<(), Error> {
        (0..self.files.count()).try_for_each(|number| self.files.data_to_change(number).map(drop))?;
        self.index.clear();
        let mut done = Ok(());
        for (number, data) in self.files.all() {
            data.recover(|at, record, key| {
                let (hash, sequence) = (hash(SEED, key), record.sequence());
                self.sequence.fetch_max(sequence, Ordering::Relaxed);
                if done.is_ok() {
                    let slot = Files::slot(hash, number, at);
                    done = self.index.publish(&self.files, hash, key, slot, sequence).map(drop);
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
        self.files.all().for_each(|(_, data)| data.file.populate(0, data_bytes));
    }

    /// The value of a key, where it stands in the mapping.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NotPermitted`].
    #[inline(always)]
    pub fn get(&self, key: &[u8]) -> Result<Option<Value<'_>>, Error> {
        self.index.find(&self.files, hash(SEED, key), key)
    }

    /// A copy of a key's value, also while others write.
    ///
    /// # Errors
    /// As [`UnixKv::get`].
    pub fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        loop {
            let Some(value) = self.get(key)? else { return Ok(None) };
            if let Some(bytes) = value.to_vec() {
                return Ok(Some(bytes));
            }
        }
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

    /// Gives a key a value in data file `file`, or the next one with room that may be written.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Full`], [`Error::File`], [`Error::Damaged`]; [`Error::NotPermitted`], also where the value before stands in a file that
    /// may not be written. The key has the value that it had.
    #[inline]
    pub fn put_in(&self, file: usize, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        self.put_from(file, key, value, |_| ())
    }

    /// Puts in `file` or the next one with room, which `went` is told if it is another.
    #[inline(always)]
    fn put_from(&self, file: usize, key: &[u8], value: &[u8], went: impl Fn(usize)) -> Result<bool, Error> {
        let hash = hash(SEED, key);
        self.index.expect_change(hash); // comes while the record is made durable
        self.expect_permission(hash, key)?;
        let mut number = file;
        loop {
            match self.files.data_to_change(number) {
                Ok(data) => {
                    let record = || {
                        let appending = data.append()?;
                        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
                        let at = appending.put(hash, key, value, sequence)?;
                        data.file.fence(); // commit point
                        Ok(at.map(|at| (Files::slot(hash, number, at), sequence)))
                    };
                    if let Some(had_one) = self.index.put(&self.files, hash, key, record)? {
                        if number != file {
                            went(number);
                        }
                        return Ok(had_one);
                    }
                    if !data.reclaim(Record::units_for(key, value))? {
                        number += 1;
                    }
                }
                Err(error) => number = self.file_instead(file, number, error)?,
            }
        }
    }

    /// Makes sure that the key's record may be retired: for one that may not, nothing is to be appended.
    #[inline]
    fn expect_permission(&self, hash: u64, key: &[u8]) -> Result<(), Error> {
        if self.files.all_writable() { Ok(()) } else { self.ask_for_permission(hash, key) }
    }

    #[cold]
    fn ask_for_permission(&self, hash: u64, key: &[u8]) -> Result<(), Error> {
        match self.index.slot_of(&self.files, hash, key)? {
            Some(before) => self.files.expect_change(before),
            None => Ok(()),
        }
    }

    /// Where to append if `number`, to which a put to `file` has come, is not to be had.
    #[cold]
    fn file_instead(&self, file: usize, number: usize, error: Error) -> Result<usize, Error> {
        if number >= self.files.count() {
            self.files.add(number)?;
            return Ok(number);
        }
        if number > file { Ok(number + 1) } else { Err(error) }
    }

    /// Takes a key out, durably; says whether it was there.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NotPermitted`].
    pub fn delete(&self, key: &[u8]) -> Result<bool, Error> {
        self.index.remove(&self.files, hash(SEED, key), key)
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut keys = 0;
        self.index.for_each(|_, _, _| keys += 1);
        Stats { keys, slots: self.index.slots(), files: self.files.count() }
    }

    /// Calls `each` with every value that this process may read, in no order. One that is put or deleted meanwhile may or may not be among them.
    pub fn scan(&self, mut each: impl FnMut(Value<'_>)) {
        self.index.for_each(|slot, version, seen| {
            if let Ok(Some(record)) = self.files.record(slot) {
                each(Value { record, version, seen });
            }
        });
    }
}

impl Drop for UnixKv {
    fn drop(&mut self) {
        self.files.all().filter(|(_, data)| data.file.is_writable()).for_each(|(_, data)| data.save());
        self.index.save(self.sequence.load(Ordering::Relaxed));
    }
}
