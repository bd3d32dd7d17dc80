//! The data objects of a store: where records go, where they are retired, and what has to come before.
//!
//! # Contract
//! - Rights are the machine's affair: nothing here knows any. An object is bound before it is written (`libtwz::view::bind`), so what the
//!   security context does not permit is an error, while no lock is held and nothing was changed, and no fault later.
//! - An object is begun in when this store first writes it ([`Store::begin_in`]), and ended in when the store is closed. Others are not
//!   touched.
//! - An object that a writer makes for a region has the region's default rights and key. Beyond those it is its creator's: who is to read it by a
//!   capability needs one for it, too.

use super::{DataEntry, READ_WRITE, Region, Store};
use crate::data::{Data, DataRoot};
use crate::error::{Error, Result};
use crate::layout::{self, OBJECTS_MAX, Slot};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use libtwz::prelude::*;
use libtwz::{PersistentPtr, Window, translate, view};

/// A set of FOT indexes of the store's root, as [`OBJECTS_MAX`] bounds them.
#[derive(Debug)]
pub(super) struct Begun([AtomicU64; (OBJECTS_MAX as usize + 1) / 64]);

impl Begun {
    pub(super) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; (OBJECTS_MAX as usize + 1) / 64])
    }

    #[inline]
    pub(super) fn has(&self, fot: u32) -> bool {
        let word = self.0.get(fot as usize / 64);
        word.is_some_and(|word| word.load(Ordering::Acquire) >> (fot % 64) & 1 != 0)
    }

    /// # Errors
    /// [`Error::Damaged`] for an index that no object of a store has.
    pub(super) fn add(&self, fot: u32) -> Result<()> {
        let word = self.0.get(fot as usize / 64).ok_or(Error::Damaged)?;
        word.fetch_or(1 << (fot % 64), Ordering::AcqRel);
        Ok(())
    }
}

impl Store {
    /// IDs of a region's data objects, to give rights on them.
    ///
    /// # Errors
    /// What the list of objects says.
    pub fn objects(&self, region: Region) -> Result<Vec<ObjectId>> {
        let mut ids = Vec::new();
        for entry in self.root.data.iter() {
            let entry = entry?;
            if entry.region == u64::from(region.0) {
                ids.push(self.id_of(PersistentPtr(entry.pointer))?);
            }
        }
        Ok(ids)
    }

    /// ID of the object that a pointer in the store's root leads to.
    pub(super) fn id_of(&self, pointer: PersistentPtr) -> Result<ObjectId> {
        Ok(libtwz::fot::read(self.window(), pointer.index())?.target)
    }

    /// Makes sure that the key's record may be retired: for one that may not, nothing is to be appended. Costs two loads where all
    /// objects of the store may be written.
    #[inline]
    pub(super) fn expect_permission(&self, hash: u64, key: &[u8]) -> Result<()> {
        if self.writable.load(Ordering::Relaxed) == self.object_count() << 1 | 1 {
            return Ok(());
        }
        self.ask_for_permission(hash, key)
    }

    #[inline]
    fn object_count(&self) -> u64 {
        self.root.data.len().wrapping_add(self.index.more_objects())
    }

    #[cold]
    fn ask_for_permission(&self, hash: u64, key: &[u8]) -> Result<()> {
        if !self.open {
            return Err(Error::ReadOnly);
        }
        let count = self.object_count();
        if self.writable.load(Ordering::Relaxed) >> 1 != count {
            for window in self.index.more_windows() {
                view::bind(window?, READ_WRITE)?;
            }
            let mut all = true;
            for entry in self.root.data.iter() {
                all &= self.data_at(PersistentPtr(entry?.pointer), READ_WRITE).is_ok();
            }
            self.writable.store(count << 1 | u64::from(all), Ordering::Relaxed);
        }
        match self.index.find(hash, key)? {
            Some(before) => Ok(view::bind(before.record.window, READ_WRITE)?),
            None => Ok(()),
        }
    }

    /// Begins to write in the data object with this FOT index, if this store did not yet.
    #[inline]
    pub(super) fn begin_in(&self, fot: u32) -> Result<()> {
        if self.begun.has(fot) { Ok(()) } else { self.begin_in_now(fot) }
    }

    #[cold]
    fn begin_in_now(&self, fot: u32) -> Result<()> {
        let data = self.data_at(self.data_root(fot)?, READ_WRITE)?;
        let held = data.hold()?;
        if self.begun.has(fot) {
            return Ok(()); // another thread was faster
        }
        data.begin(&held)?;
        self.begun.add(fot)
    }

    /// Ends in all data objects that this store wrote.
    pub(super) fn end_in_data(&self) -> Result<()> {
        for entry in self.root.data.iter() {
            let pointer = PersistentPtr(entry?.pointer);
            if self.begun.has(pointer.index()) {
                Data::open(self.window(), pointer)?.end()?;
            }
        }
        Ok(())
    }

    /// Makes a record's place usable again; nothing but secondary indexes lead to it. The caller began in its object.
    pub(super) fn retire(&self, slot: Slot) -> Result<()> {
        let address = translate::lea(self.window(), slot.pointer())?;
        let window = Window::around(address)?;
        self.take_out_of_secondaries(window, address - window.base())?;
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

    /// A data object that can be accessed with `rights` without a fault.
    pub(super) fn data_at(&self, pointer: PersistentPtr, rights: Rights) -> Result<Data> {
        view::bind(Window::around(translate::lea(self.window(), pointer)?)?, rights)?;
        Data::open(self.window(), pointer)
    }

    /// The object that a region's records go to now, begun in.
    #[inline]
    pub(super) fn current(&self, region: Region) -> Result<(PersistentPtr, Data)> {
        let pointer = self.current_pointer(region)?;
        self.begin_in(pointer.index())?;
        Ok((pointer, Data::opened(self.index.window_at(pointer.index())?, pointer)?))
    }

    #[inline]
    fn current_pointer(&self, region: Region) -> Result<PersistentPtr> {
        let place = self.root.current.get(region.0 as usize).ok_or(Error::NoRegion(region.0))?;
        let pointer = PersistentPtr(place.get());
        if pointer.is_null() { Err(Error::NoRegion(region.0)) } else { Ok(pointer) }
    }

    /// After `full` had no room for a key and value of these lengths: finds free blocks in it, or turns to another object of the region
    /// that has one, or makes an object.
    #[cold]
    pub(super) fn make_room(
        &self,
        region: Region,
        full: PersistentPtr,
        data: Data,
        lens: (usize, usize),
    ) -> Result<()> {
        let units = layout::units_for(lens.0, lens.1)?;
        data.reclaim(units)?;
        if data.has_room(units) {
            return Ok(());
        }
        self.root.growing.lock()?;
        let result = self.turn_to_another(region, full, units);
        self.root.growing.unlock();
        result
    }

    fn turn_to_another(&self, region: Region, full: PersistentPtr, units: usize) -> Result<()> {
        if self.current_pointer(region)? != full {
            return Ok(()); // another thread was faster
        }
        for entry in self.root.data.iter() {
            let entry = entry?;
            if entry.pointer == full.0 || entry.region != u64::from(region.0) {
                continue;
            }
            // What cannot be had has no room for us.
            let data = self.data_at(PersistentPtr(entry.pointer), READ_WRITE);
            if data.is_ok_and(|data| data.has_room(units)) {
                self.root.current[region.0 as usize].set_without_log(entry.pointer);
                return Ok(());
            }
        }
        self.add_data_object(region)
    }

    pub(super) fn add_data_object(&self, region: Region) -> Result<()> {
        let place = region.0 as usize;
        if self.root.data.len() >= u64::from(OBJECTS_MAX) / 2 {
            return Err(Error::Full);
        }
        #[allow(clippy::cast_possible_truncation, reason = "rights have 32 bits")]
        let rights = Rights::from_bits_truncate(self.root.rights[place].get() as u32);
        let key = self.root.keys[place].get();
        let builder = ObjectBuilder::<DataRoot>::new().default_rights(rights).key(key).volatile();
        let made = Data::create(builder, self.root.data_chunks.get())?;
        made.tie(self.id())?;
        let pointer = self.pointer_to_root(&made)?;
        self.root.data.push(DataEntry { pointer: pointer.0, region: u64::from(region.0) })?;
        self.root.current[place].set_without_log(pointer.0);
        Ok(())
    }

    /// The pointer to another object's root that stands in ours.
    pub(super) fn pointer_to_root<T: Invariant>(&self, object: &Object<T>) -> Result<PersistentPtr> {
        let offset = usize::try_from(object.global().offset()).unwrap_or(usize::MAX);
        let pointer = translate::persistent(self.window(), object.window().base() + offset)?;
        if pointer.index() > OBJECTS_MAX { Err(Error::Full) } else { Ok(pointer) }
    }
}
