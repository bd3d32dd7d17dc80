//! The store: index and data objects together.
//!
//! Life of a put: `lock the key's segment -> append to the caller's stripe -> fence -> (durable) -> publish in the index -> retire the record before`.
//!
//! A put that is refused is refused before it appends: whether the record before may be retired is asked first, where not all objects
//! of the store may be written (`objects`).

mod objects;
mod recover;
mod secondaries;

use crate::data::CHUNKS_MAX;
use crate::error::{Error, Result};
use crate::index::{Index, IndexRoot, Published};
use crate::layout::{Slot, zero};
use crate::life::Life;
use crate::value::Value;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use libtwz::names::Namespace;
use libtwz::prelude::*;
use libtwz::sync::RawMutex;
use libtwz::sys::{Platform, Seam, Stat};
use libtwz::{PersistentPtr, Window, collections, persist, view};
use objects::Begun;

/// Most regions of a store.
const REGIONS: usize = 32;
/// Most secondary indexes of a store.
const SECONDARIES: usize = 8;
/// Read and write.
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
/// Records that [`Store::load`] makes durable with one fence.
const BATCH: usize = 64;
/// Keys that [`Store::get_many`] looks up at the same time: about as many as a processor has lines under way.
const TOGETHER: usize = 16;

/// What a new store is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Rights of everybody on the index.
    pub index_rights: Rights,
    /// Rights of everybody on the objects of region 0.
    pub data_rights: Rights,
    /// Key object of all these: its holder can sign capabilities for them (docs/security.md). NULL for none.
    pub key: ObjectId,
    /// Bytes for records in each data object: a multiple of 64 KiB, at most 512 MiB. When they are used up, another object is made.
    pub data_bytes: u64,
    /// Segments of 16 KiB in each index object; about 1,300 keys go into one. When they are used up, another object is made.
    pub index_segments: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            index_rights: Rights::empty(),
            data_rights: Rights::empty(),
            key: ObjectId::NULL,
            data_bytes: CHUNKS_MAX * (64 << 10),
            index_segments: 30_000,
        }
    }
}

/// Data objects with the same rights: where the caller puts a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region(pub u32);

/// What is in a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys.
    pub keys: u64,
    /// Slots of the index.
    pub slots: u64,
    /// Data objects.
    pub data_objects: u64,
    /// Those of them that the security context does not permit to be read; what follows is without them.
    pub hidden_objects: u64,
    /// Bytes that records may take in them.
    pub data_capacity: u64,
    /// Bytes in chunks that are taken.
    pub data_used: u64,
    /// Bytes of freed records, as far as they are known since the machine's start.
    pub data_spare: u64,
    /// How often the index was rebuilt after a power failure.
    pub recoveries: u64,
}

/// What [`Store::scan`] and [`crate::Secondary::range`] came across.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Pairs that were seen.
    pub pairs: u64,
    /// Those that were not, since the security context does not permit the objects that they are in.
    pub hidden: u64,
}

/// A data object in the list.
#[derive(Clone, Copy, Debug, Invariant)]
#[repr(C)]
struct DataEntry {
    /// To its root, in the index object's FOT.
    pointer: u64,
    region: u64,
}

/// The root of the index object, which is what a store is opened by.
#[derive(Debug, Invariant)]
#[repr(C, align(64))]
pub(crate) struct StoreRoot {
    /// Of the newest record, when the store was closed.
    sequence: PCell<u64>,
    recoveries: PCell<u64>,
    region_count: PCell<u64>,
    data_chunks: PCell<u64>,
    secondary_count: PCell<u64>,
    /// A name is part of a type: a store with data objects of another layout is refused by this one.
    version_4: [u64; 3],
    /// Of the index and what stands above: every writer of the store has begun in it.
    life: Life,
    /// From here to `index`: never flushed.
    newest: AtomicU64,
    reserved3: [u64; 7],
    /// Guards the making of data objects.
    growing: RawMutex,
    reserved4: [u64; 7],
    /// Pointer to the data object that each region's records go to now.
    current: [PCell<u64>; REGIONS],
    index: IndexRoot,
    rights: [PCell<u64>; REGIONS],
    /// Key object of each region's objects; NULL for none.
    keys: [PCell<ObjectId>; REGIONS],
    /// Pointers to the roots of secondary indexes, which every writer keeps.
    secondaries: [PCell<u64>; SECONDARIES],
    data: collections::Vec<DataEntry>,
    reserved5: [u64; (8 - size_of::<collections::Vec<u64>>() / 8 % 8) % 8],
}

// docs/formats/kv.md
const _: () = assert!(
    offset_of!(StoreRoot, secondary_count) == 32
        && offset_of!(StoreRoot, life) == 64
        && offset_of!(StoreRoot, newest) == 192
);

/// An open store. Threads share it by reference.
#[derive(Debug)]
pub struct Store {
    root: Object<StoreRoot>,
    index: Index,
    /// The objects that this store writes in.
    begun: Begun,
    /// Twice the number of objects there were when this was last looked at, and 1 if all of them may be written.
    writable: AtomicU64,
    open: bool,
}

impl Store {
    /// Makes a store with one region, and opens it. All of its objects go when its index object is deleted.
    ///
    /// # Errors
    /// What making objects says.
    pub fn create(options: &Options) -> Result<Self> {
        let root = Self::make(options)?;
        root.keep()?;
        Self::open(root.id())
    }

    /// Opens the store of this name, and makes it if there is none. Whenever the power fails, both name and store are there, or neither. Of several
    /// who make it at once one does, and all get that.
    ///
    /// # Errors
    /// As [`Store::create`], [`Store::open`] and [`Namespace::open_or_build`].
    pub fn open_or_create(names: &Namespace, path: &str, options: &Options) -> Result<Self> {
        Self::open(names.open_or_make(path, || Self::make(options))?.id())
    }

    /// Makes a store that is gone with the machine's next start, unless its root is kept.
    fn make(options: &Options) -> Result<Object<StoreRoot>> {
        let seed = libtwz::random::number();
        let builder = ObjectBuilder::new().default_rights(options.index_rights).key(options.key).volatile();
        let root = builder.build(StoreRoot::new())?;
        let segments = options.index_segments.clamp(1, 30_000);
        root.tx(|tx| {
            tx.put(&root.data_chunks, (options.data_bytes / (64 << 10)).clamp(1, CHUNKS_MAX))?;
            root.index.lay_out(tx, root.window(), seed, segments)
        })?;
        let store = Self::handle(root)?;
        store.index.clear()?;
        store.index.flush()?;
        persist::fence();
        store.add_region_of(options.data_rights, options.key)?;
        Ok(store.root)
    }

    fn handle(root: Object<StoreRoot>) -> Result<Self> {
        let pointer = PersistentPtr::new(0, root.global().offset().try_into().unwrap_or(u32::MAX));
        let lasting: &'static StoreRoot = libtwz::at(root.window(), pointer)?;
        let index = Index::new(&lasting.index, root.window())?;
        Ok(Self { root, index, begun: Begun::new(), writable: AtomicU64::new(0), open: false })
    }

    /// Opens a store for reading and writing, and recovers it if the power failed while it was open. That takes rights to write the index and
    /// the secondary indexes; data objects are touched when they are needed, by a recovery all of them.
    ///
    /// # Errors
    /// [`Error::CannotRecover`]; what opening objects says.
    pub fn open(id: ObjectId) -> Result<Self> {
        view::bind(view::map(id, READ_WRITE)?, READ_WRITE)?;
        let mut store = Self::handle(Object::open(id)?)?;
        store.begin()?;
        store.open = true;
        Ok(store)
    }

    /// Opens a store for reading.
    ///
    /// # Errors
    /// [`Error::NeedsRecovery`]; what opening objects says.
    pub fn open_to_read(id: ObjectId) -> Result<Self> {
        let store = Self::handle(Object::open_with(id, Rights::READ)?)?;
        if store.root.life.is_readable() { Ok(store) } else { Err(Error::NeedsRecovery) }
    }

    /// The index object's ID, by which the store is opened.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.root.id()
    }

    /// Adds a region whose objects have these rights for everybody, and nobody can be given more.
    ///
    /// # Errors
    /// [`Error::Full`]; what making objects says.
    pub fn add_region(&self, rights: Rights) -> Result<Region> {
        self.add_region_of(rights, ObjectId::NULL)
    }

    /// Adds a region whose objects belong to a key object: its holder can sign capabilities for them (docs/security.md).
    ///
    /// # Errors
    /// As [`Store::add_region`].
    pub fn add_region_of(&self, rights: Rights, key: ObjectId) -> Result<Region> {
        let number = self.root.region_count.get();
        #[allow(clippy::cast_possible_truncation, reason = "below REGIONS")]
        let (place, region) = (number as usize, Region(number as u32));
        if place >= REGIONS {
            return Err(Error::Full);
        }
        self.root.tx(|tx| {
            tx.put(&self.root.rights[place], u64::from(rights.bits()))?;
            tx.put(&self.root.keys[place], key)?;
            tx.put(&self.root.region_count, number + 1)
        })?;
        self.add_data_object(region)?;
        Ok(region)
    }

    /// The value of a key, where it stands.
    ///
    /// # Errors
    /// Damage; what mapping a data object says.
    #[inline(always)]
    pub fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        let found = self.index.find(self.index.hash(key), key)?;
        Ok(found.map(Value::new))
    }

    /// Calls `each` with the value of each key, in order. Several times as fast as [`Store::get`] in a loop where the store is larger than
    /// the cache: index and records of 16 keys are fetched at the same time.
    ///
    /// # Errors
    /// As [`Store::get`], and what `each` says.
    #[inline]
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        mut each: impl FnMut(K, Option<Value>) -> Result<()>,
    ) -> Result<()> {
        let mut keys = keys.into_iter();
        loop {
            let mut batch: [Option<(u64, K)>; TOGETHER] = [const { None }; TOGETHER];
            for (place, key) in batch.iter_mut().zip(&mut keys) {
                let hash = self.index.hash(key.as_ref());
                self.index.expect_bucket(hash);
                *place = Some((hash, key));
            }
            for (hash, _) in batch.iter().flatten() {
                self.index.expect_record(*hash);
            }
            for place in batch {
                let Some((hash, key)) = place else { return Ok(()) };
                let found = self.index.find(hash, key.as_ref())?;
                each(key, found.map(Value::new))?;
            }
        }
    }

    /// A copy of a key's value, also while others write.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        loop {
            let Some(value) = self.get(key)? else { return Ok(None) };
            match value.to_vec() {
                Err(Error::Changed) => {}
                done => return done.map(Some),
            }
        }
    }

    /// Gives a key a value, durably, in region 0; returns whether it had one.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Full`]; what mapping and making objects says, `NotPermitted` also where the value before stands in an
    /// object that may not be written. The key has the value that it had.
    #[inline]
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<bool> {
        self.put_in(Region(0), key, value)
    }

    /// Gives a key a value that stands in an object of `region`.
    ///
    /// # Errors
    /// As [`Store::put`]; [`Error::NoRegion`].
    #[inline]
    pub fn put_in(&self, region: Region, key: &[u8], value: &[u8]) -> Result<bool> {
        let hash = self.index.hash(key);
        self.index.expect_change(hash); // comes while the record is made durable
        self.expect_permission(hash, key)?;
        loop {
            let (pointer, data) = self.current(region)?;
            let ready = |before: Option<Slot>, slot, sequence| {
                if let Some(before) = before {
                    self.begin_in(before.fot())?;
                }
                self.note_in_secondaries(slot, value, sequence)
            };
            let record = || {
                let appending = data.append()?;
                let sequence = self.root.newest.fetch_add(1, Ordering::Relaxed) + 1;
                let offset = appending.put(hash, key, value, sequence)?;
                persist::fence(); // commit point (K1)
                Ok(offset.map(|offset| (Slot::new(hash, pointer.index(), offset), sequence)))
            };
            let is_plain = || !self.has_secondaries();
            match self.index.put(hash, key, record, is_plain, ready, |lost| self.retire(lost))? {
                Some(published) => return Ok(published != Published::New),
                None => self.make_room(region, pointer, data, (key.len(), value.len()))?,
            }
        }
    }

    /// Puts many pairs, with one fence for each 64; returns how many there were. What was put before an error stays.
    ///
    /// # Errors
    /// As [`Store::put_in`].
    pub fn load<'a>(
        &self,
        region: Region,
        pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<u64> {
        let mut pairs = pairs.into_iter();
        let mut count = 0;
        loop {
            let batch: Vec<_> =
                pairs.by_ref().take(BATCH).map(|(key, value)| (self.index.hash(key), key, value)).collect();
            if batch.is_empty() {
                return Ok(count);
            }
            for (hash, key, _) in &batch {
                self.expect_permission(*hash, key)?;
            }
            let mut slots = Vec::with_capacity(batch.len());
            let mut done = self
                .append(region, batch.iter().copied(), |slot, sequence| slots.push((slot, sequence)))
                .map(drop);
            for ((hash, key, value), (slot, sequence)) in batch.iter().zip(slots) {
                match done {
                    Ok(()) => done = self.publish(*hash, key, value, slot, sequence).map(|_| count += 1),
                    Err(_) => self.withdraw(slot),
                }
            }
            done?;
        }
    }

    /// Makes a durable record the one of its key, or withdraws it.
    #[inline]
    fn publish(&self, hash: u64, key: &[u8], value: &[u8], slot: Slot, sequence: u64) -> Result<Published> {
        let ready = |before: Option<Slot>| {
            if let Some(before) = before {
                self.begin_in(before.fot())?;
            }
            self.note_in_secondaries(slot, value, sequence)
        };
        let published = self.index.publish(hash, key, slot, sequence, ready, |lost| self.retire(lost));
        if published.is_err() {
            self.withdraw(slot);
        }
        published
    }

    /// Takes back a record that was appended and will not be published.
    #[cold]
    fn withdraw(&self, slot: Slot) {
        // The error that led here is what the caller hears of. Were this one to fail too, the record would be found after a power failure.
        let _ = self.retire(slot);
    }

    /// Appends records and makes them durable; returns what `each` made of the last one.
    #[inline]
    fn append<'a, R>(
        &self,
        region: Region,
        records: impl Iterator<Item = (u64, &'a [u8], &'a [u8])>,
        mut each: impl FnMut(Slot, u64) -> R,
    ) -> Result<R> {
        if !self.open {
            return Err(Error::ReadOnly);
        }
        let mut records = records.peekable();
        loop {
            let (pointer, data) = self.current(region)?;
            let appending = data.append()?;
            let mut last = None;
            while let Some((hash, key, value)) = records.peek() {
                let sequence = self.root.newest.fetch_add(1, Ordering::Relaxed) + 1;
                let Some(offset) = appending.put(*hash, key, value, sequence)? else { break };
                last = Some(each(Slot::new(*hash, pointer.index(), offset), sequence));
                records.next();
            }
            persist::fence(); // commit point (K1)
            drop(appending);
            match (last, records.peek()) {
                (Some(last), None) => return Ok(last),
                (_, Some((_, key, value))) => {
                    self.make_room(region, pointer, data, (key.len(), value.len()))?
                }
                (None, None) => return Err(Error::Full), // nothing was to be appended
            }
        }
    }

    /// Takes a key out, durably; returns whether it was there.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn delete(&self, key: &[u8]) -> Result<bool> {
        if !self.open {
            return Err(Error::ReadOnly);
        }
        let hash = self.index.hash(key);
        self.expect_permission(hash, key)?;
        self.index.remove(hash, key, |slot| self.begin_in(slot.fot()), |slot| self.retire(slot))
    }

    /// Calls `each` with every value, in no order; returns how many there were, and how many are in objects that the security context does not
    /// permit. A pair that is put or deleted meanwhile may or may not be among them: one for which `each` says [`Error::Changed`] is not.
    ///
    /// # Errors
    /// Damage, and what `each` says.
    pub fn scan(&self, mut each: impl FnMut(Value) -> Result<()>) -> Result<Scanned> {
        let mut scanned = Scanned::default();
        let mut refused = Refused::default();
        self.index.for_each(|slot, version, seen| {
            match refused.unless(slot.fot(), || self.index.record(slot))? {
                None => scanned.hidden += 1,
                Some(None) => {}
                Some(Some(record)) => match each(Value { record, version, seen }) {
                    Err(Error::Changed) => {}
                    done => {
                        scanned.pairs += 1;
                        done?;
                    }
                },
            }
            Ok(())
        })?;
        Ok(scanned)
    }

    /// Counts keys, and the bytes in those data objects that the security context permits.
    ///
    /// # Errors
    /// Damage.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats =
            Stats { slots: self.index.slots(), recoveries: self.root.recoveries.get(), ..Stats::default() };
        self.index.for_each(|_, _, _| {
            stats.keys += 1;
            Ok(())
        })?;
        let mut refused = Refused::default();
        for entry in self.root.data.iter() {
            let pointer = PersistentPtr(entry?.pointer);
            stats.data_objects += 1;
            match refused.unless(pointer.index(), || self.data_at(pointer, Rights::READ))? {
                None => stats.hidden_objects += 1,
                Some(data) => {
                    stats.data_capacity += data.capacity();
                    stats.data_used += data.used();
                    stats.data_spare += data.spare();
                }
            }
        }
        Ok(stats)
    }

    #[inline]
    fn window(&self) -> Window {
        self.root.window()
    }

    /// Makes pages present, so that what is put into a new store waits for none: so many bytes of the index, and of each data object there is.
    ///
    /// # Errors
    /// Damage.
    pub fn populate(&self, index_bytes: u64, data_bytes: u64) -> Result<()> {
        self.index.populate(index_bytes);
        for entry in self.root.data.iter() {
            self.data_at(PersistentPtr(entry?.pointer), READ_WRITE)?.populate(data_bytes);
        }
        Ok(())
    }

    /// Closes the store: makes the index durable, so that the next opening need not rebuild it.
    ///
    /// # Errors
    /// Damage.
    pub fn close(mut self) -> Result<()> {
        self.end()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Without it the next opening after a start rebuilds the index; nothing is lost.
        let _ = self.end();
    }
}

impl StoreRoot {
    const fn new() -> Self {
        Self {
            sequence: zero(),
            recoveries: zero(),
            region_count: zero(),
            data_chunks: zero(),
            secondary_count: zero(),
            version_4: [0; 3],
            life: Life::new(true),
            newest: AtomicU64::new(0),
            reserved3: [0; 7],
            growing: RawMutex::new(),
            reserved4: [0; 7],
            current: [const { zero() }; REGIONS],
            index: IndexRoot::new(),
            rights: [const { zero() }; REGIONS],
            keys: [const { PCell::new(ObjectId::NULL) }; REGIONS],
            secondaries: [const { zero() }; SECONDARIES],
            data: collections::Vec::new(),
            reserved5: [0; (8 - size_of::<collections::Vec<u64>>() / 8 % 8) % 8],
        }
    }
}

/// Objects that were refused to be read, by their FOT indexes: each is asked for once.
#[derive(Default)]
pub(crate) struct Refused(BTreeSet<u32>);

impl Refused {
    /// What `get` says of an object; `None` if the security context does not permit it.
    pub(crate) fn unless<R>(&mut self, fot: u32, get: impl FnOnce() -> Result<R>) -> Result<Option<R>> {
        if self.0.contains(&fot) {
            return Ok(None);
        }
        match get() {
            Err(Error::Object(libtwz::Error::NotPermitted(_))) => {
                self.0.insert(fot);
                Ok(None)
            }
            got => got.map(Some),
        }
    }
}

/// Rights of everybody on an object, and the key that more are given with.
pub(crate) fn reached_by(id: ObjectId) -> Result<(Rights, ObjectId)> {
    let Stat { default_rights, key, .. } = Platform::stat(id)?;
    Ok((default_rights, key))
}
