//! A directory: names to objects, directories and links, in one object (and those chained to it).
//!
//! ```text
//! Directory (root of its object)
//!   version   readers look without a lock, and look again if a writer came between; odd through each whole transaction (tx/framed.rs)
//!   parent    ID of the directory above; the root's own for the root; NULL: taken out of the one above, and takes no names any more
//!   names     hash of the name -> first record with that hash
//! Record
//!   next      another record with the same hash
//!   kind      1 object, 2 directory, 3 link; 4 object, 5 directory that is being named; 6 directory that is being removed
//!   target    ID (link: unused)
//!   name, text of a link
//! ```
//! # Contract
//! - **N1** a new object and its name appear together. It is volatile until it has one: it is made, named by a record that says so (4, 5), made to stay
//!   (**commit point**: [`Seam::keep`]), and the record then says 1 or 2. Whoever meets a 4 or 5 makes the object stay first, so nobody uses
//!   one that a power failure could take away; where the failure was faster the object is gone, and the record counts for nothing.
//! - **N2** a directory that is removed is not left behind. Its record becomes one without a name that says so (6; **commit point**: the transaction,
//!   which closes the directory, too), its object is deleted, and the record goes. What a power failure leaves of that the next change of the
//!   directory above does.

use crate::collections::{HashMap, String};
use crate::error::{Error, Result, damaged};
use crate::invariant::Invariant;
use crate::object::{Object, ObjectBuilder};
use crate::ptr::{GlobalPtr, InvPtr};
use crate::sync::Version;
use crate::sys::{Platform, Seam};
use crate::translate;
use crate::tx::{Tx, read_versioned};
use crate::{ObjectId, PCell, Rights};
use alloc::string::String as Text;
use alloc::vec::Vec;

/// Longest name in bytes.
pub const NAME_MAX: usize = 255;
/// Records with one hash before they are taken for a cycle.
const CHAIN_MAX: usize = 1000;
const CHAIN: &str = "a chain of records without a cycle";

const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
const KIND_OBJECT: u64 = 1;
const KIND_DIRECTORY: u64 = 2;
const KIND_LINK: u64 = 3;
const KIND_REMOVED: u64 = 6;
/// Where the records of what is being removed stand: no name is empty.
const REMOVED: &str = "";
/// Added to the kind of what is being named.
const NEW: u64 = 3;

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An object.
    Object(ObjectId),
    /// A directory.
    Directory(ObjectId),
    /// Another path.
    Link(Text),
}

/// The root of a directory's object.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct Directory {
    version: Version,
    parent: PCell<ObjectId>,
    names: HashMap<u64, GlobalPtr<Record>>,
}

#[derive(Debug, Invariant)]
#[repr(C)]
struct Record {
    next: InvPtr<Record>,
    kind: PCell<u64>,
    target: PCell<ObjectId>,
    name: String,
    text: String,
}

impl Directory {
    /// What makes directories.
    pub(super) fn builder(default_rights: Rights) -> ObjectBuilder<Self> {
        ObjectBuilder::new().default_rights(default_rights)
    }

    /// Makes an empty directory below `parent` (NULL: a root). Nothing leads to it yet.
    pub(super) fn create(parent: ObjectId, builder: ObjectBuilder<Self>) -> Result<Object<Self>> {
        let directory = Self { version: Version::new(), parent: PCell::new(parent), names: HashMap::new() };
        let made = builder.build(directory)?;
        if parent.is_null() {
            made.tx(|tx| tx.set(&made.parent, made.id()))?;
        }
        Ok(made)
    }

    /// The directory above, which one that was taken out has not.
    pub(super) fn parent(&self) -> Result<ObjectId> {
        let parent = self.parent.get();
        if parent.is_null() { Err(Error::NoSuchName) } else { Ok(parent) }
    }

    /// Changes `directory` by one transaction, of which readers see all or nothing.
    pub(super) fn change<R>(directory: &Object<Self>, body: impl FnOnce(&Tx) -> Result<R>) -> Result<R> {
        Tx::run_versioned(directory.window(), &directory.version, translate::names_changed, |tx| {
            directory.finish_removals(tx)?;
            body(tx)
        })
    }

    /// Takes a directory's name out; what has to be deleted stays noted until [`Directory::finish_removals`] finds it gone (**N2**).
    pub(super) fn retire(&self, tx: &Tx, name: &str) -> Result<()> {
        let record = self.find(name, READ_WRITE)?.ok_or(Error::NoSuchName)?;
        self.unlink(tx, name, record)?;
        record.name.release(tx)?;
        tx.put(&record.kind, KIND_REMOVED)?;
        self.link(tx, REMOVED, record)
    }

    /// Deletes what is noted as removed, and forgets it.
    fn finish_removals(&self, tx: &Tx) -> Result<()> {
        let Some(first) = self.names.get(&hash(REMOVED))? else { return Ok(()) };
        let first = first.resolve(READ_WRITE)?;
        let mut at = Some(first);
        for _ in 0..CHAIN_MAX {
            let Some(record) = at else { return Ok(()) };
            at = record.next.get()?;
            if record.kind.get() != KIND_REMOVED {
                continue;
            }
            if Self::delete_if_closed(record.target.get()) {
                self.unlink(tx, REMOVED, record)?;
                // SAFETY: allocated by `add`; nothing leads to it any more. A reader that is looking at it looks again.
                unsafe { tx.free(record) }?;
            }
        }
        Err(damaged(first, CHAIN))
    }

    /// What `name` leads to, if it is there: for who changes the directory.
    pub(super) fn look(&self, name: &str) -> Result<Option<Entry>> {
        self.find(name, READ_WRITE)?.map_or(Ok(None), Record::entry)
    }

    /// Lets nobody add names from now on, if there are none: for a directory that is taken out of the one above. Holds its lock until `tx` ends.
    pub(super) fn close(&self, tx: &Tx) -> Result<()> {
        tx.record(&self.parent)?; // takes the lock
        self.finish_removals(tx)?;
        if !self.names.is_empty() && !self.entries(READ_WRITE)?.is_empty() {
            return Err(Error::NameExists);
        }
        tx.set_recorded(&self.parent, ObjectId::NULL)
    }

    /// Deletes a directory that was taken out of the one above; `false` if that is left to somebody with more rights. Nothing else is deleted, whatever a
    /// record says: who may write the directory above need have no right to it.
    fn delete_if_closed(id: ObjectId) -> bool {
        let deleted = match Object::<Self>::open(id) {
            Ok(directory) if !directory.parent.get().is_null() => return true,
            Ok(_) => Platform::delete(id),
            Err(error) => Err(error),
        };
        matches!(
            deleted,
            Ok(()) | Err(Error::NoSuchObject(_) | Error::WrongType { .. } | Error::Damaged { .. })
        )
    }

    /// What `name` leads to; `rights` to ask for where records stand in other objects.
    pub(super) fn get(&self, name: &str, rights: Rights) -> Result<Entry> {
        read_versioned(&self.version, || {
            self.find(name, rights)?.map_or(Ok(None), Record::entry)?.ok_or(Error::NoSuchName)
        })
    }

    fn find(&self, name: &str, rights: Rights) -> Result<Option<&Record>> {
        let Some(first) = self.names.get(&hash(name))? else { return Ok(None) };
        let first = first.resolve(rights)?;
        let mut at = Some(first);
        for _ in 0..CHAIN_MAX {
            let Some(record) = at else { return Ok(None) };
            if record.name.get()? == name {
                return Ok(Some(record));
            }
            at = record.next.get()?;
        }
        Err(damaged(first, CHAIN))
    }

    /// Gives `name` to `object`, in place of what had it; returns that. A directory keeps its name.
    pub(super) fn replace(&self, tx: &Tx, name: &str, object: ObjectId) -> Result<Option<Entry>> {
        let Some(record) = self.find(name, READ_WRITE)? else {
            return self.add(tx, name, &Entry::Object(object)).map(|()| None);
        };
        let before = record.entry()?;
        if matches!(before, Some(Entry::Directory(_))) {
            return Err(Error::NameExists);
        }
        record.lead(tx, KIND_OBJECT, &Entry::Object(object))?;
        Ok(before)
    }

    /// Gives a name that is not there, or leads to `gone`, to an object that is volatile (**N1**); [`Directory::settle`] must follow.
    pub(super) fn add_new(&self, tx: &Tx, name: &str, entry: &Entry, gone: Option<ObjectId>) -> Result<()> {
        let kind = entry.kind() + NEW;
        match self.find(name, READ_WRITE)? {
            Some(record) if gone.is_some() && record.entry()? == gone.map(Entry::Object) => {
                record.lead(tx, kind, entry)
            }
            _ => self.add_as(tx, name, kind, entry),
        }
    }

    /// Says that what has `name` stays, which was being named.
    pub(super) fn settle(&self, tx: &Tx, name: &str, entry: &Entry) -> Result<()> {
        match self.find(name, READ_WRITE)? {
            Some(record)
                if record.kind.get() == entry.kind() + NEW && record.entry()?.as_ref() == Some(entry) =>
            {
                tx.put(&record.kind, entry.kind())
            }
            _ => Ok(()), // somebody gave the name to something else meanwhile
        }
    }

    /// Gives a name that is not there.
    pub(super) fn add(&self, tx: &Tx, name: &str, entry: &Entry) -> Result<()> {
        self.add_as(tx, name, entry.kind(), entry)
    }

    fn add_as(&self, tx: &Tx, name: &str, kind: u64, entry: &Entry) -> Result<()> {
        self.parent()?; // not one that was taken out
        if let Some(record) = self.find(name, READ_WRITE)? {
            // One that a power failure left of a naming is used again.
            return if record.entry()?.is_some() {
                Err(Error::NameExists)
            } else {
                record.lead(tx, kind, entry)
            };
        }
        let record = tx.alloc(Record {
            next: InvPtr::null(),
            kind: PCell::new(kind),
            target: PCell::new(entry.target()),
            name: String::new(),
            text: String::new(),
        })?;
        record.name.set_in(tx, name)?;
        record.text.set_in(tx, entry.text())?;
        self.link(tx, name, record)
    }

    /// Puts a record into the chain of `name`.
    fn link(&self, tx: &Tx, name: &str, record: &Record) -> Result<()> {
        let first = self.names.get(&hash(name))?.map(|first| first.resolve(READ_WRITE)).transpose()?;
        tx.point(&record.next, first)?;
        self.names.insert_in(tx, hash(name), GlobalPtr::to(record)?)?;
        Ok(())
    }

    /// Takes a name out, and returns what it led to.
    pub(super) fn remove(&self, tx: &Tx, name: &str) -> Result<Entry> {
        let gone = self.find(name, READ_WRITE)?.ok_or(Error::NoSuchName)?;
        let entry = gone.entry()?.ok_or(Error::NoSuchName)?;
        self.unlink(tx, name, gone)?;
        gone.name.release(tx)?;
        gone.text.release(tx)?;
        // SAFETY: allocated by `add`; the chain and the map do not lead to it any more. A reader that is looking at it looks again,
        // since the version changed.
        unsafe { tx.free(gone) }?;
        Ok(entry)
    }

    /// Takes a record out of its chain.
    fn unlink(&self, tx: &Tx, name: &str, gone: &Record) -> Result<()> {
        let first = self.names.get(&hash(name))?.ok_or(Error::NoSuchName)?;
        let first = first.resolve(READ_WRITE)?;
        if core::ptr::eq(first, gone) {
            match gone.next.get()? {
                Some(next) => self.names.insert_in(tx, hash(name), GlobalPtr::to(next)?)?,
                None => self.names.remove_in(tx, &hash(name))?,
            };
            return Ok(());
        }
        let mut before = first;
        for _ in 0..CHAIN_MAX {
            match before.next.get()? {
                Some(next) if core::ptr::eq(next, gone) => {
                    return tx.point(&before.next, gone.next.get()?);
                }
                Some(next) => before = next,
                None => return Err(Error::NoSuchName),
            }
        }
        Err(Error::NoSuchName)
    }

    /// All names with what they lead to, in order.
    pub(super) fn list(&self, rights: Rights) -> Result<Vec<(Text, Entry)>> {
        read_versioned(&self.version, || self.entries(rights))
    }

    fn entries(&self, rights: Rights) -> Result<Vec<(Text, Entry)>> {
        let mut all = Vec::new();
        for item in self.names.iter() {
            let (_, first) = item?;
            let first = first.resolve(rights)?;
            let mut at = Some(first);
            for _ in 0..CHAIN_MAX {
                let Some(record) = at else { break };
                if let Some(entry) = record.entry()? {
                    all.push((record.name.get()?, entry));
                }
                at = record.next.get()?;
            }
            if at.is_some() {
                return Err(damaged(first, CHAIN));
            }
        }
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }
}

impl Entry {
    const fn kind(&self) -> u64 {
        match self {
            Self::Object(_) => KIND_OBJECT,
            Self::Directory(_) => KIND_DIRECTORY,
            Self::Link(_) => KIND_LINK,
        }
    }

    const fn target(&self) -> ObjectId {
        match self {
            Self::Object(id) | Self::Directory(id) => *id,
            Self::Link(_) => ObjectId::NULL,
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Object(_) | Self::Directory(_) => "",
            Self::Link(text) => text,
        }
    }
}

const NEW_OBJECT: u64 = KIND_OBJECT + NEW;
const NEW_DIRECTORY: u64 = KIND_DIRECTORY + NEW;

impl Record {
    /// What it leads to; `None` for what was being named when the power failed, or is being removed.
    fn entry(&self) -> Result<Option<Entry>> {
        let id = self.target.get();
        let entry = match self.kind.get() {
            KIND_OBJECT => Entry::Object(id),
            KIND_DIRECTORY => Entry::Directory(id),
            KIND_LINK => Entry::Link(self.text.get()?),
            KIND_REMOVED => return Ok(None),
            NEW_OBJECT => return stay(id, Entry::Object(id)),
            NEW_DIRECTORY => return stay(id, Entry::Directory(id)),
            _ => return Err(damaged(&self.kind, "a record that is an object, a directory or a link")),
        };
        Ok(Some(entry))
    }

    /// Makes it lead elsewhere.
    fn lead(&self, tx: &Tx, kind: u64, entry: &Entry) -> Result<()> {
        tx.put(&self.kind, kind)?;
        tx.put(&self.target, entry.target())?;
        match entry.text() {
            "" => self.text.release(tx),
            text => self.text.set_in(tx, text),
        }
    }
}

/// Makes an object stay that is being named, whoever does that (**N1**); `entry` if it is there.
fn stay(id: ObjectId, entry: Entry) -> Result<Option<Entry>> {
    match Platform::keep(id) {
        // Who has no right to it cannot use it, so it makes no difference to him whether it stays.
        Ok(()) | Err(Error::NotPermitted(_)) => Ok(Some(entry)),
        Err(Error::NoSuchObject(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Hash of a name (FNV-1a); who can write the directory can make collisions, and only makes it slow.
fn hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Whether `name` may be given.
pub(super) fn check_name(name: &str) -> Result<()> {
    let bad = name.is_empty() || name.len() > NAME_MAX || name == "." || name == "..";
    if bad || name.contains(['/', '\0']) { Err(Error::BadName) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Who may write a directory cannot have others delete what he has no right to.
    #[test]
    fn a_note_of_a_removal_deletes_only_what_was_taken_out() {
        let above = Directory::create(ObjectId::NULL, Directory::builder(Rights::READ)).unwrap();
        let below = || Directory::create(above.id(), Directory::builder(Rights::READ)).unwrap();
        let (open, closed) = (below(), below());
        let plain = ObjectBuilder::new().build(PCell::new(5_u64)).unwrap();
        let targets = [open.id(), closed.id(), plain.id()];
        for (name, id) in ["a", "b", "c"].into_iter().zip(targets) {
            Directory::change(&above, |tx| above.add(tx, name, &Entry::Directory(id))).unwrap();
        }
        Directory::change(&closed, |tx| closed.close(tx)).unwrap();
        Directory::change(&above, |tx| {
            ["a", "b", "c"].into_iter().try_for_each(|name| above.retire(tx, name))
        })
        .unwrap();
        assert_eq!(above.entries(READ_WRITE), Ok(Vec::new()));
        assert_eq!(above.names.len(), 1, "all three are noted");
        Directory::change(&above, |_| Ok(())).unwrap();
        assert!(above.names.is_empty(), "and forgotten");
        let there = targets.map(|id| Platform::stat(id).is_ok());
        assert_eq!(there, [true, false, true]);
    }
}
