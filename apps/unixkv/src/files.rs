//! The data files, and the table of this process that turns pointers into addresses.

use crate::data::Data;
use crate::record::Record;
use crate::{Error, Mapping};
use kv::table::Slot;
use libtwz::sync::RawMutex;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Files that a slot can name: it counts from 1.
const FILES_MAX: usize = (1 << 12) - 1;

/// Where each data file is mapped. Rights are those that the process had when it mapped them: what is granted later takes another opening of the store.
#[derive(Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    /// Room in a file that is made.
    bytes: usize,
    flushes: bool,
    /// Empty for a file that may not be read.
    table: Box<[OnceLock<Data>]>,
    /// How many there are.
    count: AtomicUsize,
    all_writable: AtomicBool,
    growing: RawMutex,
}

impl Files {
    /// Opens those that are in `folder`, as far as that is permitted; at least one.
    pub(crate) fn open(folder: &Path, bytes: usize, flushes: bool) -> Result<Self, Error> {
        let table = (0..FILES_MAX).map(|_| OnceLock::new()).collect();
        let files = Self {
            folder: folder.to_path_buf(),
            bytes,
            flushes,
            table,
            count: AtomicUsize::new(0),
            all_writable: AtomicBool::new(true),
            growing: RawMutex::new(),
        };
        let there = (0..FILES_MAX).take_while(|number| files.path(*number).exists()).last();
        files.add(there.unwrap_or(0))?;
        Ok(files)
    }

    pub(crate) fn path(&self, number: usize) -> PathBuf {
        self.folder.join(format!("data.{number}"))
    }

    /// Makes sure that there are files up to `number`.
    #[cold]
    pub(crate) fn add(&self, number: usize) -> Result<(), Error> {
        self.growing.lock().map_err(Error::Lock)?;
        let missing = self.count()..=number;
        let added = missing.into_iter().try_for_each(|number| {
            let place = self.table.get(number).ok_or(Error::Full)?;
            let opened = Data::open(&self.path(number), self.bytes, self.flushes);
            let is_writable = match opened {
                Ok(data) => {
                    let is_writable = data.file.is_writable();
                    let _ = place.set(data); // it was empty, and the lock is ours
                    is_writable
                }
                Err(Error::File { source, .. }) if source.kind() == ErrorKind::PermissionDenied => false,
                Err(other) => return Err(other),
            };
            self.all_writable.fetch_and(is_writable, Ordering::Relaxed);
            self.count.store(number + 1, Ordering::Release);
            Ok(())
        });
        self.growing.unlock();
        added
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// All that are mapped, with their numbers.
    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, &Data)> {
        (0..self.count()).filter_map(move |number| Some((number, self.table.get(number)?.get()?)))
    }

    /// Whether this process may write each of them.
    #[inline]
    pub(crate) fn all_writable(&self) -> bool {
        self.all_writable.load(Ordering::Relaxed)
    }

    /// One of them.
    ///
    /// # Errors
    /// [`Error::NotPermitted`]; [`Error::Damaged`] if there is none of this number.
    #[inline]
    pub(crate) fn get(&self, number: usize) -> Result<&Data, Error> {
        match self.table.get(number).and_then(OnceLock::get) {
            Some(data) => Ok(data),
            None => Err(self.missing(number)),
        }
    }

    #[cold]
    fn missing(&self, number: usize) -> Error {
        if number < self.count() { Error::NotPermitted(number) } else { Error::Damaged }
    }

    /// A slot that leads to the record at `at` of a file.
    #[inline]
    pub(crate) fn slot(hash: u64, number: usize, at: usize) -> Slot {
        #[allow(clippy::cast_possible_truncation, reason = "at most FILES_MAX")]
        let number = number as u32 + 1;
        Slot::new(hash, number, at)
    }

    /// Number of the file that a slot leads into.
    #[inline]
    const fn number_of(slot: Slot) -> usize {
        (slot.fot() as usize).wrapping_sub(1)
    }

    /// The file that a slot leads into, if it is mapped: with the addition in `Mapping`, *the* conversion.
    #[inline]
    pub(crate) fn mapped(&self, slot: Slot) -> Option<&Mapping> {
        Some(&self.table.get(Self::number_of(slot))?.get()?.file)
    }

    /// The data file that a slot leads into.
    ///
    /// # Errors
    /// As [`Files::get`].
    #[inline]
    pub(crate) fn data_of(&self, slot: Slot) -> Result<&Data, Error> {
        self.get(Self::number_of(slot))
    }

    /// The same, to change it: a store to a mapping that was made for reading would be a fault.
    ///
    /// # Errors
    /// As [`Files::get`].
    #[inline]
    pub(crate) fn data_to_change(&self, number: usize) -> Result<&Data, Error> {
        let data = self.get(number)?;
        if data.file.is_writable() { Ok(data) } else { Err(Error::NotPermitted(number)) }
    }

    /// Whether the record that a slot leads to may be retired.
    ///
    /// # Errors
    /// As [`Files::get`].
    #[inline]
    pub(crate) fn expect_change(&self, slot: Slot) -> Result<(), Error> {
        self.data_to_change(Self::number_of(slot)).map(drop)
    }

    /// Makes a record count no more, durably, and its place usable again.
    ///
    /// # Errors
    /// As [`Files::get`].
    pub(crate) fn retire(&self, slot: Slot) -> Result<(), Error> {
        self.data_to_change(Self::number_of(slot))?.retire(slot.offset())
    }

    /// The record that a slot leads to; `None` while somebody changes it.
    ///
    /// # Errors
    /// As [`Files::get`].
    pub(crate) fn record(&self, slot: Slot) -> Result<Option<Record<'_>>, Error> {
        Ok(Record::at(&self.data_of(slot)?.file, slot.offset()))
    }
}
