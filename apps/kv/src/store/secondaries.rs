//! The secondary indexes of a store: listed in its root, so that every writer keeps all of them (`secondary` says what one is).
//!
//! Life of one: `made, begun in -> listed: writers note what they publish from now on -> filled with what was there before -> complete`.

use super::{READ_WRITE, SECONDARIES, Store};
use crate::error::{Error, Result};
use crate::layout::Slot;
use crate::secondary::{By, Entries, Secondary, SecondaryRoot};
use alloc::vec::Vec;
use libtwz::prelude::*;
use libtwz::{PersistentPtr, Window, translate, view};

impl Store {
    /// Adds a secondary index, with these rights for everybody: the store's values in the order of what `by` makes of each.
    ///
    /// # Errors
    /// As [`Store::add_secondary_of`].
    pub fn add_secondary(&self, by: By, rights: Rights) -> Result<Secondary> {
        self.add_secondary_of(by, rights, ObjectId::NULL)
    }

    /// Adds a secondary index whose object belongs to a key object: its holder can sign capabilities for it (docs/security.md).
    ///
    /// # Errors
    /// [`Error::Full`]; what making an object says, and what reading the values says: it is not the store's then.
    pub fn add_secondary_of(&self, by: By, rights: Rights, key: ObjectId) -> Result<Secondary> {
        if !self.open {
            return Err(Error::ReadOnly);
        }
        let builder = ObjectBuilder::new().default_rights(rights).key(key).volatile();
        let made = builder.build(SecondaryRoot::new(by))?;
        made.tie(self.id())?;
        let pointer = self.pointer_to_root(&made)?;
        self.begin_in_secondary(pointer)?;
        self.root.growing.lock()?;
        let listed = self.list(pointer);
        self.root.growing.unlock();
        let place = listed?;
        let entries = Entries::at(self.window(), pointer)?;
        if let Err(error) = self.fill(&entries) {
            // Another writer may be about to note something in the object, so it is left to itself.
            self.root.tx(|tx| tx.put(&self.root.secondaries[place], 0))?;
            return Err(error);
        }
        Secondary::open(made.id())
    }

    /// Puts a pointer into the list; returns where.
    fn list(&self, pointer: PersistentPtr) -> Result<usize> {
        let count = self.secondary_count();
        let unused = self.root.secondaries[..count].iter().position(|place| place.get() == 0);
        let place = unused.unwrap_or(count);
        let entry = self.root.secondaries.get(place).ok_or(Error::Full)?;
        self.root.tx(|tx| {
            tx.put(entry, pointer.0)?;
            tx.put(&self.root.secondary_count, count.max(place + 1) as u64)
        })?;
        Ok(place)
    }

    /// IDs of the secondary indexes, to give rights on them and to open them by.
    ///
    /// # Errors
    /// What the list says.
    pub fn secondary_ids(&self) -> Result<Vec<ObjectId>> {
        self.secondary_pointers().map(|pointer| self.id_of(pointer)).collect()
    }

    #[inline]
    fn secondary_count(&self) -> usize {
        usize::try_from(self.root.secondary_count.get()).unwrap_or(usize::MAX).min(SECONDARIES)
    }

    #[inline]
    fn secondary_pointers(&self) -> impl Iterator<Item = PersistentPtr> {
        let listed = self.root.secondaries[..self.secondary_count()].iter();
        listed.map(|place| PersistentPtr(place.get())).filter(|pointer| !pointer.is_null())
    }

    /// Makes sure that all may be written, as every writer of the store does.
    pub(super) fn bind_secondaries(&self) -> Result<()> {
        self.secondary_pointers().try_for_each(|pointer| self.secondary_at(pointer).map(drop))
    }

    /// Notes a record that is about to be found.
    #[inline]
    pub(super) fn note_in_secondaries(&self, slot: Slot, value: &[u8], sequence: u64) -> Result<()> {
        if self.has_secondaries() { self.note_in_each(slot, value, sequence) } else { Ok(()) }
    }

    #[inline]
    pub(super) fn has_secondaries(&self) -> bool {
        self.root.secondary_count.get() != 0
    }

    #[cold]
    fn note_in_each(&self, slot: Slot, value: &[u8], sequence: u64) -> Result<()> {
        for pointer in self.secondary_pointers() {
            self.begin_in_secondary(pointer)?;
            let address = translate::lea(self.window(), slot.pointer())?;
            Entries::at(self.window(), pointer)?.add(value, sequence, address)?;
        }
        Ok(())
    }

    /// Forgets a record whose place is about to be used again.
    #[inline]
    pub(super) fn take_out_of_secondaries(&self, window: Window, offset: usize) -> Result<()> {
        for pointer in self.secondary_pointers() {
            self.begin_in_secondary(pointer)?;
            Entries::at(self.window(), pointer)?.take_out(window, offset)?;
        }
        Ok(())
    }

    fn begin_in_secondary(&self, pointer: PersistentPtr) -> Result<()> {
        let fot = pointer.index();
        if self.begun.has(fot) {
            return Ok(());
        }
        let entries = self.secondary_at(pointer)?;
        let held = entries.life().hold()?;
        if self.begun.has(fot) {
            return Ok(()); // another thread was faster
        }
        // One that was not left in order is built anew by whoever recovers the store.
        held.begin(|in_order| if in_order || entries.is_new() { Ok(()) } else { Err(Error::NeedsRecovery) })?;
        self.begun.add(fot)
    }

    fn secondary_at(&self, pointer: PersistentPtr) -> Result<Entries> {
        view::bind(Window::around(translate::lea(self.window(), pointer)?)?, READ_WRITE)?;
        Entries::at(self.window(), pointer)
    }

    /// Builds anew, after the index, those that were not left in order; all of them if that was not. For: a record may be durable that was not
    /// noted yet, and another may have lost to it.
    pub(super) fn rebuild_secondaries(&self, all: bool) -> Result<()> {
        for pointer in self.secondary_pointers() {
            let entries = self.secondary_at(pointer)?;
            if !all && entries.life().is_clean() {
                continue;
            }
            entries.life().spoil(); // who reads it meanwhile, or after another power failure, is to know
            entries.clear()?;
            self.fill(&entries)?;
            entries.life().hold()?.begin(|_| Ok(()))?;
            self.begun.add(pointer.index())?;
        }
        Ok(())
    }

    /// Notes all records that can be found.
    fn fill(&self, entries: &Entries) -> Result<()> {
        self.index.for_each_locked(|slot| {
            let Some(record) = self.index.record(slot)? else { return Ok(()) };
            entries.add_record(&record)
        })?;
        entries.set_complete();
        Ok(())
    }

    pub(super) fn end_in_secondaries(&self) -> Result<()> {
        for pointer in self.secondary_pointers() {
            if self.begun.has(pointer.index()) {
                Entries::at(self.window(), pointer)?.end()?;
            }
        }
        Ok(())
    }
}
