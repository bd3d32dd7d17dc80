//! The data files, and the table of this process that turns pointers into addresses.

use crate::Error;
use crate::data::Data;
use crate::record::Record;
use kv::table::Slot;
use libtwz::sync::RawMutex;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Files that a slot can name: it counts from 1.
const FILES_MAX: usize = (1 << 12) - 1;

/// Where each data file is mapped.
#[derive(Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    /// Room in a file that is made.
    bytes: usize,
    flushes: bool,
    table: Box<[OnceLock<Data>]>,
    growing: RawMutex,
}

impl Files {
    /// Opens those that are in `folder`; at least one.
    pub(crate) fn open(folder: &Path, bytes: usize, flushes: bool) -> Result<Self, Error> {
        let table = (0..FILES_MAX).map(|_| OnceLock::new()).collect();
        let files = Self { folder: folder.to_path_buf(), bytes, flushes, table, growing: RawMutex::new() };
        let there = (0..FILES_MAX).take_while(|number| files.path(*number).exists()).last();
        files.add(there.unwrap_or(0))?;
        Ok(files)
    }

    fn path(&self, number: usize) -> PathBuf {
        self.folder.join(format!("data.{number}"))
    }

    /// Makes sure that there are files up to `number`.
    #[cold]
    pub(crate) fn add(&self, number: usize) -> Result<(), Error> {
        self.growing.lock().map_err(Error::Lock)?;
        let missing = self.all().count()..=number;
        let added = missing.into_iter().try_for_each(|number| {
            let place = self.table.get(number).ok_or(Error::Full)?;
            let data = Data::open(&self.path(number), self.bytes, self.flushes)?;
            // It was empty, and the lock is ours.
            let _ = place.set(data);
            Ok(())
        });
        self.growing.unlock();
        added
    }

    /// All, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Data> {
        self.table.iter().map_while(OnceLock::get)
    }

    /// One of them.
    #[inline]
    pub(crate) fn get(&self, number: usize) -> Option<&Data> {
        self.table.get(number)?.get()
    }

    /// A slot that leads to the record at `at` of a file.
    #[inline]
    pub(crate) fn slot(hash: u64, number: usize, at: usize) -> Slot {
        #[allow(clippy::cast_possible_truncation, reason = "at most FILES_MAX")]
        let number = number as u32 + 1;
        Slot::new(hash, number, at)
    }

    /// The file that a slot leads into: with the addition in `Mapping`, *the* conversion.
    #[inline]
    fn file_of(&self, slot: Slot) -> Option<&Data> {
        self.get((slot.fot() as usize).wrapping_sub(1))
    }

    /// The record that a slot leads to.
    pub(crate) fn record(&self, slot: Slot) -> Option<Record<'_>> {
        Record::at(&self.file_of(slot)?.file, slot.offset())
    }

    /// The same, if it has this key.
    #[inline]
    pub(crate) fn record_with_key(&self, slot: Slot, key: &[u8]) -> Option<Record<'_>> {
        Record::with_key(&self.file_of(slot)?.file, slot.offset(), key)
    }

    /// Room in a file.
    pub(crate) fn capacity(&self) -> usize {
        self.get(0).map_or(0, Data::capacity)
    }
}
