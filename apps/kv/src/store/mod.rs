//! The store: index and data objects together.
//!
//! Life of a put: `append to the caller's stripe -> fence -> (durable) -> publish in the index -> retire the record before`.

mod recover;

use crate::data::{CHUNKS_MAX, Data, DataRoot};
use crate::error::{Error, Result};
use crate::index::{Index, IndexRoot, Published};
use crate::layout::{OBJECTS_MAX, Slot, zero};
use crate::secondary::Secondary;
use crate::value::Value;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use libtwz::prelude::*;
use libtwz::sync::RawMutex;
use libtwz::sys::{Platform, Seam};
use libtwz::{PersistentPtr, Window, collections, persist, translate};

/// Most regions of a store.
const REGIONS: usize = 32;
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
    /// Bytes that records may take in them.
    pub data_capacity: u64,
    /// Bytes in chunks that are taken.
    pub data_used: u64,
    /// Bytes of freed records, as far as they are known since the machine's start.
    pub data_spare: u64,
    /// How often the index was rebuilt after a power failure.
    pub recoveries: u64,
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
    /// [`CLEAN`] if the index and what was saved are right.
    state: PCell<u64>,
    /// Of the newest record, when the store was closed.
    sequence: PCell<u64>,
    recoveries: PCell<u64>,
    region_count: PCell<u64>,
    data_chunks: PCell<u64>,
    reserved: [u64; 3],
    /// From here to `index`: never flushed. Excludes opening and closing.
    lock: RawMutex,
    /// The boot in which somebody last opened the store for writing.
    boot: PCell<u64>,
    writers: PCell<u64>,
    reserved2: [u64; 5],
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
    data: collections::Vec<DataEntry>,
    reserved5: [u64; (8 - size_of::<collections::Vec<u64>>() / 8 % 8) % 8],
}

/// Value of `StoreRoot::state` after an orderly close, with an index of this version: one of another is built anew from the records, as
/// after a power failure.
const CLEAN: u64 = 2;

/// An open store. Threads share it by reference.
#[derive(Debug)]
pub struct Store {
    root: Object<StoreRoot>,
    index: Index,
    secondaries: Vec<Secondary>,
    open: bool,
}

impl Store {
    /// Makes a store with one region, and opens it.
    ///
    /// # Errors
    /// What making objects says.
    pub fn create(options: &Options) -> Result<Self> {
        let seed = libtwz::random::number();
        let root = ObjectBuilder::new().default_rights(options.index_rights).build(StoreRoot::new())?;
        let segments = options.index_segments.clamp(1, 30_000);
        root.tx(|tx| {
            tx.put(&root.data_chunks, (options.data_bytes / (64 << 10)).clamp(1, CHUNKS_MAX))?;
            root.index.lay_out(tx, root.window(), seed, segments)
        })?;
        let store = Self::handle(root)?;
        store.index.clear()?;
        store.index.flush()?;
        persist::fence();
        store.set_state(CLEAN);
        store.add_region(options.data_rights)?;
        Self::open(root.id())
    }

    fn handle(root: Object<StoreRoot>) -> Result<Self> {
        let pointer = PersistentPtr::new(0, root.global().offset().try_into().unwrap_or(u32::MAX));
        let lasting: &'static StoreRoot = libtwz::at(root.window(), pointer)?;
        let index = Index::new(&lasting.index, root.window())?;
        Ok(Self { root, index, secondaries: Vec::new(), open: false })
    }

    /// Opens a store for reading and writing, and recovers it if the power failed while it was open.
    ///
    /// # Errors
    /// What opening objects says.
    pub fn open(id: ObjectId) -> Result<Self> {
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
        let live = store.root.boot.get() == boot();
        if live || store.root.state.get() == CLEAN { Ok(store) } else { Err(Error::NeedsRecovery) }
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

    /// IDs of a region's data objects, to give rights on them.
    ///
    /// # Errors
    /// What the list of objects says.
    pub fn objects(&self, region: Region) -> Result<Vec<ObjectId>> {
        let mut ids = Vec::new();
        for entry in self.root.data.iter() {
            let entry = entry?;
            if entry.region == u64::from(region.0) {
                ids.push(libtwz::fot::read(self.window(), PersistentPtr(entry.pointer).index())?.target);
            }
        }
        Ok(ids)
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
    /// [`Error::TooLarge`], [`Error::Full`]; what making objects says.
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
        let (slot, sequence) =
            self.append(region, core::iter::once((hash, key, value)), |slot, sequence| (slot, sequence))?;
        self.note_in_secondaries(slot, key, value)?;
        let published = self.index.publish(hash, key, slot, sequence, |lost| self.retire(lost))?;
        Ok(published != Published::New)
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
            let mut slots = Vec::with_capacity(batch.len());
            self.append(region, batch.iter().copied(), |slot, sequence| slots.push((slot, sequence)))?;
            for ((hash, key, value), (slot, sequence)) in batch.iter().zip(slots) {
                self.note_in_secondaries(slot, key, value)?;
                self.index.publish(*hash, key, slot, sequence, |lost| self.retire(lost))?;
                count += 1;
            }
        }
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
        self.index.remove(self.index.hash(key), key, |slot| self.retire(slot))
    }

    /// Calls `each` with every value, in no order; returns how many there were. A pair that is put or deleted meanwhile may or may
    /// not be among them.
    ///
    /// # Errors
    /// Damage, and what `each` says.
    pub fn scan(&self, mut each: impl FnMut(Value) -> Result<()>) -> Result<u64> {
        let mut count = 0;
        self.index.for_each(|slot, version, seen| {
            let Some(record) = self.index.record(slot)? else { return Ok(()) };
            count += 1;
            each(Value { record, version, seen })
        })?;
        Ok(count)
    }

    /// Counts keys and bytes.
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
        for data in self.data_objects()? {
            stats.data_objects += 1;
            stats.data_capacity += data.1.capacity();
            stats.data_used += data.1.used();
            stats.data_spare += data.1.spare();
        }
        Ok(stats)
    }

    /// Keeps a secondary index up to date from now on; rebuilds it if the store was recovered without it.
    ///
    /// # Errors
    /// What changing the index says.
    pub fn attach(&mut self, secondary: Secondary) -> Result<()> {
        secondary.catch_up(self, self.root.recoveries.get())?;
        self.secondaries.push(secondary);
        Ok(())
    }

    fn note_in_secondaries(&self, slot: Slot, key: &[u8], value: &[u8]) -> Result<()> {
        for secondary in &self.secondaries {
            let address = translate::lea(self.window(), slot.pointer())?;
            secondary.add(key, value, address)?;
        }
        Ok(())
    }

    /// Makes a record's place usable again; nothing but secondary indexes lead to it.
    fn retire(&self, slot: Slot) -> Result<()> {
        let address = translate::lea(self.window(), slot.pointer())?;
        let window = Window::around(address)?;
        for secondary in &self.secondaries {
            secondary.take_out(window, address - window.base())?;
        }
        let root = self.data_root(slot.fot())?;
        Data::open(self.window(), root)?.retire(address - window.base())
    }

    /// Pointer to the root of the data object with this FOT index.
    fn data_root(&self, fot: u32) -> Result<PersistentPtr> {
        for entry in self.root.data.iter() {
            let pointer = PersistentPtr(entry?.pointer);
            if pointer.index() == fot {
                return Ok(pointer);
            }
        }
        Err(Error::Full) // a slot that leads elsewhere: damage that nothing can be done about
    }

    #[inline]
    fn window(&self) -> Window {
        self.root.window()
    }

    /// The object that a region's records go to now.
    #[inline]
    fn current(&self, region: Region) -> Result<(PersistentPtr, Data)> {
        let place = self.root.current.get(region.0 as usize).ok_or(Error::NoRegion(region.0))?;
        let pointer = PersistentPtr(place.get());
        if pointer.is_null() {
            return Err(Error::NoRegion(region.0));
        }
        Ok((pointer, Data::open(self.window(), pointer)?))
    }

    fn data_objects(&self) -> Result<Vec<(DataEntry, Data)>> {
        let open = |entry: libtwz::Result<DataEntry>| -> Result<_> {
            let entry = entry?;
            Ok((entry, Data::open(self.window(), PersistentPtr(entry.pointer))?))
        };
        self.root.data.iter().map(open).collect()
    }

    /// After `full` had no room for a key and value of these lengths: finds free blocks in it, or turns to another object of the region
    /// that has one, or makes an object.
    #[cold]
    fn make_room(&self, region: Region, full: PersistentPtr, data: Data, lens: (usize, usize)) -> Result<()> {
        data.reclaim()?;
        if data.has_room(lens.0, lens.1) {
            return Ok(());
        }
        self.root.growing.lock()?;
        let result = self.turn_to_another(region, full, lens);
        self.root.growing.unlock();
        result
    }

    fn turn_to_another(&self, region: Region, full: PersistentPtr, lens: (usize, usize)) -> Result<()> {
        let (current, _) = self.current(region)?;
        if current != full {
            return Ok(()); // another thread was faster
        }
        for (entry, data) in self.data_objects()? {
            let other = entry.pointer != full.0 && entry.region == u64::from(region.0);
            if other && data.has_room(lens.0, lens.1) {
                self.root.current[region.0 as usize].set_without_log(entry.pointer);
                return Ok(());
            }
        }
        self.add_data_object(region)
    }

    fn add_data_object(&self, region: Region) -> Result<()> {
        let place = region.0 as usize;
        if self.root.data.len() >= u64::from(OBJECTS_MAX) / 2 {
            return Err(Error::Full);
        }
        #[allow(clippy::cast_possible_truncation, reason = "rights have 32 bits")]
        let rights = Rights::from_bits_truncate(self.root.rights[place].get() as u32);
        let builder =
            ObjectBuilder::<DataRoot>::new().default_rights(rights).key(self.root.keys[place].get());
        let made = Data::create(builder, self.root.data_chunks.get())?;
        let address = made.window().base() + usize::try_from(made.global().offset()).unwrap_or(usize::MAX);
        let pointer = translate::persistent(self.window(), address)?;
        if pointer.index() > OBJECTS_MAX {
            return Err(Error::Full);
        }
        self.root.data.push(DataEntry { pointer: pointer.0, region: u64::from(region.0) })?;
        Data::open(self.window(), pointer)?.begin_boot(None);
        self.root.current[place].set_without_log(pointer.0);
        Ok(())
    }

    /// Makes pages present, so that what is put into a new store waits for none: so many bytes of the index, and of each data object there is.
    ///
    /// # Errors
    /// Damage.
    pub fn populate(&self, index_bytes: u64, data_bytes: u64) -> Result<()> {
        self.index.populate(index_bytes);
        self.data_objects()?.into_iter().for_each(|(_, data)| data.populate(data_bytes));
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
            state: zero(),
            sequence: zero(),
            recoveries: zero(),
            region_count: zero(),
            data_chunks: zero(),
            reserved: [0; 3],
            lock: RawMutex::new(),
            boot: zero(),
            writers: zero(),
            reserved2: [0; 5],
            newest: AtomicU64::new(0),
            reserved3: [0; 7],
            growing: RawMutex::new(),
            reserved4: [0; 7],
            current: [const { zero() }; REGIONS],
            index: IndexRoot::new(),
            rights: [const { zero() }; REGIONS],
            keys: [const { PCell::new(ObjectId::NULL) }; REGIONS],
            data: collections::Vec::new(),
            reserved5: [0; (8 - size_of::<collections::Vec<u64>>() / 8 % 8) % 8],
        }
    }
}

/// This boot's number.
fn boot() -> u64 {
    u64::from(Platform::boot_generation())
}

/// Rights of everybody on an object.
pub(crate) fn default_rights(id: ObjectId) -> Result<Rights> {
    Ok(Platform::stat(id)?.default_rights)
}
