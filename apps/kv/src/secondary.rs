//! Secondary indexes: values in the order of a number that is made of each, in an object with rights of its own.
//!
//! # Contract
//! - A reader needs rights on this object and on the values, none on the primary index.
//! - An entry is durable before the record that it leads to can be found, and goes before the record's place is used again. A power failure
//!   in between is made good when the index is attached after the store's recovery ([`crate::Store::attach`]).
//! - A store's writers must all have attached the same secondary indexes; readers need not.

use crate::error::Result;
use crate::layout::Record;
use crate::store::Store;
use crate::value::Value;
use core::sync::atomic::AtomicU64;
use libtwz::prelude::*;
use libtwz::{PersistentPtr, Window, collections, translate};

/// Makes the number that a pair is ordered by; `None` leaves it out.
pub type Extract = fn(key: &[u8], value: &[u8]) -> Option<u64>;

/// The root of the object.
#[derive(Debug, Invariant)]
#[repr(C)]
struct SecondaryRoot {
    /// (number, pointer to the record in this object's FOT).
    entries: collections::BTreeMap<[u64; 2], u64>,
    /// Recoveries of the store that this index has taken part in, plus 1; 0 for a new one.
    caught_up: PCell<u64>,
}

/// An index over values.
#[derive(Clone, Copy, Debug)]
pub struct Secondary {
    root: Object<SecondaryRoot>,
    extract: Extract,
}

/// The values that a secondary index leads to never leave *its* object: it has no version to watch.
static UNWATCHED: AtomicU64 = AtomicU64::new(0);

impl Secondary {
    /// Makes one whose object has these rights for everybody.
    ///
    /// # Errors
    /// What making an object says.
    pub fn create(rights: Rights, extract: Extract) -> Result<Self> {
        let root = SecondaryRoot { entries: collections::BTreeMap::new(), caught_up: PCell::new(0) };
        Ok(Self { root: ObjectBuilder::new().default_rights(rights).build(root)?, extract })
    }

    /// Opens one to be attached to its store.
    ///
    /// # Errors
    /// What opening an object says.
    pub fn open(id: ObjectId, extract: Extract) -> Result<Self> {
        Ok(Self { root: Object::open(id)?, extract })
    }

    /// Opens one for reading.
    ///
    /// # Errors
    /// What opening an object says.
    pub fn open_to_read(id: ObjectId, extract: Extract) -> Result<Self> {
        Ok(Self { root: Object::open_with(id, Rights::READ)?, extract })
    }

    /// The object's ID.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.root.id()
    }

    /// Calls `each` with the number and place of every value whose number is in `from..=to`, in order. While others write, check what you
    /// read against the primary index.
    ///
    /// # Errors
    /// Damage, and what `each` says.
    pub fn range(&self, from: u64, to: u64, mut each: impl FnMut(u64, Value) -> Result<()>) -> Result<()> {
        for entry in self.root.entries.range([from, 0]..=[to, u64::MAX]) {
            let ([number, pointer], _) = entry?;
            let address = translate::lea(self.root.window(), PersistentPtr(pointer))?;
            let window = Window::around(address)?;
            if let Some(record) = Record::at(window, address - window.base()) {
                each(number, Value { record, version: &UNWATCHED, seen: 0 })?;
            }
        }
        Ok(())
    }

    pub(crate) fn add(&self, key: &[u8], value: &[u8], address: usize) -> Result<()> {
        if let Some(number) = (self.extract)(key, value) {
            let pointer = translate::persistent(self.root.window(), address)?;
            self.root.entries.insert([number, pointer.0], 0)?;
        }
        Ok(())
    }

    /// Takes the entry of a record out, before its place is used again.
    pub(crate) fn take_out(&self, window: Window, offset: usize) -> Result<()> {
        let Some(record) = Record::at(window, offset) else { return Ok(()) };
        let value = Value { record, version: &UNWATCHED, seen: 0 };
        if let Some(number) = (self.extract)(&value.key()?, &value.to_vec()?) {
            let pointer = translate::persistent(self.root.window(), window.base() + offset)?;
            self.root.entries.remove(&[number, pointer.0])?;
        }
        Ok(())
    }

    /// Builds the index anew if the store was recovered since it was last attached: entries may lead to records that are no more.
    pub(crate) fn catch_up(&self, store: &Store, recoveries: u64) -> Result<()> {
        if self.root.caught_up.get() == recoveries + 1 {
            return Ok(());
        }
        let keys: alloc::vec::Vec<_> = self.root.entries.iter().collect::<libtwz::Result<_>>()?;
        for (key, _) in keys {
            self.root.entries.remove(&key)?;
        }
        store.scan(|value| {
            let at = value.record.window.base() + value.record.offset;
            self.add(&value.key()?, &value.to_vec()?, at)
        })?;
        Ok(self.root.tx(|tx| tx.put(&self.root.caught_up, recoveries + 1))?)
    }
}
