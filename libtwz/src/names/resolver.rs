//! Names in FOT entries: pointers to what a name leads to when they are followed.
//!
//! An FOT entry with `NAME` holds the offset of the name in its own object, and a pointer to its resolver. A resolver is data: the
//! header below at the root of any object. Without one, names are paths in the machine's namespace.
//!
//! ```text
//! name:     length in bytes (8) | bytes
//! resolver: kind (8): 1 paths in a namespace, 2 names in one directory, 3 names of contents in one directory
//!           | reserved (8) | ID of the directory (16)
//! ```
//! A content name says hash and length of what the target's root region held: it resolves only while that still holds.

use super::directory::Directory;
use super::{Entry, Namespace};
use crate::error::{Error, Result, damaged};
use crate::fot;
use crate::invariant::Invariant;
use crate::object::{self, Object, ObjectBuilder};
use crate::ptr::{self, InvPtr};
use crate::sys::{Platform, Seam};
use crate::tx::Tx;
use crate::view;
use crate::window::Window;
use crate::{ObjectId, PCell, PersistentPtr, Rights};
use alloc::string::String;
use alloc::vec;
use twz_abi::object::{DATA_END, DATA_OFFSET};

/// Longest path in an FOT entry.
const PATH_MAX: usize = 4096;

const KIND_PATHS: u64 = 1;
const KIND_TABLE: u64 = 2;
const KIND_CONTENT: u64 = 3;

/// How names in FOT entries are turned into objects; the root of an object that the entries point to.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct Resolver {
    kind: PCell<u64>,
    reserved: PCell<u64>,
    directory: PCell<ObjectId>,
}

impl Resolver {
    fn create(kind: u64, directory: ObjectId) -> Result<Object<Self>> {
        ObjectBuilder::new().default_rights(Rights::READ).build(Self {
            kind: PCell::new(kind),
            reserved: PCell::new(0),
            directory: PCell::new(directory),
        })
    }

    /// Paths in a namespace other than the machine's.
    ///
    /// # Errors
    /// What creating an object says.
    pub fn paths(namespace: Namespace) -> Result<Object<Self>> {
        Self::create(KIND_PATHS, namespace.id())
    }

    /// A table: names in the namespace's root directory, as they stand, slashes having no meaning.
    ///
    /// # Errors
    /// As [`Resolver::paths`].
    pub fn table(table: Namespace) -> Result<Object<Self>> {
        Self::create(KIND_TABLE, table.id())
    }

    /// Contents: [`content_name`]s in the namespace's root directory, verified when resolved.
    ///
    /// # Errors
    /// As [`Resolver::paths`].
    pub fn contents(table: Namespace) -> Result<Object<Self>> {
        Self::create(KIND_CONTENT, table.id())
    }

    fn resolve(&self, name: &str) -> Result<ObjectId> {
        let directory = self.directory.get();
        match self.kind.get() {
            KIND_PATHS => Namespace::read_only(directory).lookup(name),
            kind @ (KIND_TABLE | KIND_CONTENT) => {
                let table = Object::<Directory>::open_with(directory, Rights::READ)?;
                match table.get(name, Rights::READ)? {
                    Entry::Object(id) | Entry::Directory(id) => {
                        if kind == KIND_CONTENT && !has_content(id, name)? {
                            return Err(Error::NoSuchName);
                        }
                        Ok(id)
                    }
                    Entry::Link(_) => Err(Error::NoSuchName),
                }
            }
            _ => Err(damaged(&self.kind, "a known kind of resolver")),
        }
    }
}

/// Offset and bytes of the name whose length word an FOT entry of `holder` says is at `lo`.
fn name_at(holder: Window, lo: u64) -> Result<(usize, usize)> {
    let object = view::id_at(holder.base());
    let damaged =
        |expected| Error::Damaged { object, offset: u32::try_from(lo).unwrap_or(u32::MAX), expected };
    let is_in_data = (DATA_OFFSET..DATA_END).contains(&lo) && lo.is_multiple_of(8);
    let at = usize::try_from(lo).ok().filter(|_| is_in_data);
    let at = at.ok_or_else(|| damaged("a name inside the object's data"))?;
    let bytes = usize::try_from(holder.load(at)).unwrap_or(usize::MAX);
    if bytes == 0 || bytes > PATH_MAX || lo + 8 + bytes as u64 > DATA_END {
        return Err(damaged("a name of 1 to 4096 bytes"));
    }
    Ok((at, bytes))
}

/// The object that a named FOT entry of `holder` leads to now.
pub(crate) fn resolve_entry(holder: Window, target: ObjectId) -> Result<ObjectId> {
    let (at, len) = name_at(holder, target.lo)?;
    let object = view::id_at(holder.base());
    let damaged =
        |expected| Error::Damaged { object, offset: u32::try_from(target.lo).unwrap_or(u32::MAX), expected };
    let mut bytes = vec![0; len];
    holder.read(at + 8, &mut bytes);
    let name = String::from_utf8(bytes).map_err(|_| damaged("a name in UTF-8"))?;
    if target.hi == 0 {
        let root = Platform::root().ok_or(Error::NoSuchName)?;
        return Namespace::read_only(root).lookup(&name);
    }
    // A resolver is named by ID: a chain of resolvers that name each other would not end.
    let pointer = PersistentPtr(target.hi);
    let entry = fot::read(holder, pointer.index());
    if entry.is_ok_and(|entry| entry.flags & twz_abi::object::fot_flags::NAME != 0) {
        return Err(damaged("a resolver that is given by ID"));
    }
    ptr::at::<Resolver>(holder, pointer)?.resolve(&name)
}

/// Makes `place` lead to the root of whatever `name` leads to when it is followed, by the `resolver` (`None`: paths from the
/// machine's root), asking for `rights`.
///
/// # Errors
/// [`Error::BadName`], [`Error::OutOfFotEntries`], what the transaction says.
pub fn point_by_name<T: Invariant>(
    tx: &Tx,
    place: &InvPtr<T>,
    name: &str,
    resolver: Option<&Object<Resolver>>,
    rights: Rights,
) -> Result<()> {
    if name.is_empty() || name.len() > PATH_MAX {
        return Err(Error::BadName);
    }
    let holder = Window::around(core::ptr::from_ref(place).addr())?;
    let block = tx.alloc_raw(holder, 8 + name.len(), 8)?;
    let (window, offset) = crate::translate::split(block)?;
    if window != holder {
        return Err(Error::OutOfSpace(view::id_at(holder.base()))); // the name must stand beside the entry
    }
    tx.settle()?;
    window.store(offset as usize, name.len() as u64);
    window.write(offset as usize + 8, name.as_bytes());
    let resolver = match resolver {
        Some(resolver) => {
            let entry = fot::insert(holder, resolver.id(), Rights::READ)?;
            PersistentPtr::new(entry, object::root_offset(resolver.window())?).0
        }
        None => 0,
    };
    let index = fot::insert_name(tx, holder, offset, resolver, rights)?;
    tx.put_value(core::ptr::from_ref(place).addr(), &PersistentPtr::new(index, 0).0)
}

/// Makes `place`, which [`point_by_name`] made lead by a name, lead nowhere, durably; its entry and its name are free for others. No copy of
/// the pointer may be followed any more: it would lead where the entry leads next.
///
/// # Errors
/// [`Error::Damaged`] for a pointer that leads by no name; what the transaction says.
pub fn clear_by_name<T: Invariant>(place: &InvPtr<T>) -> Result<()> {
    let address = core::ptr::from_ref(place).addr();
    let (holder, index) = (Window::around(address)?, place.raw().index());
    let result = Tx::run(holder, |tx| {
        let (at, len) = name_at(holder, fot::remove_name(tx, holder, index)?)?;
        // SAFETY: allocated by `point_by_name` with this size; the entry that says where goes in the same transaction.
        unsafe { tx.free_raw(holder.base() + at, 8 + len, 8) }?;
        tx.put_value(address, &PersistentPtr::NULL.0)
    });
    fot::forget_name(holder, index); // also after a failure: somebody may have looked at what was put back
    result
}

/// The content name of an object: hash and length of its first `bytes` bytes from the root on. Not cryptographic: it tells
/// whether contents changed, not who changed them.
///
/// # Errors
/// What mapping says.
pub fn content_name(id: ObjectId, bytes: usize) -> Result<String> {
    let window = view::map(id, Rights::READ)?;
    let start = object::root_offset(window)? as usize;
    let bytes = bytes.min((1 << 30) - start);
    let (mut a, mut b) = (crate::invariant::SEED, 0x9e37_79b9_7f4a_7c15);
    let mut piece = [0_u8; 4096];
    let mut done = 0;
    while done < bytes {
        let count = window.read(start + done, &mut piece[..(bytes - done).min(4096)]);
        for word in piece[..count].chunks(8) {
            let mut full = [0; 8];
            full[..word.len()].copy_from_slice(word);
            a = crate::invariant::mix(a, u64::from_le_bytes(full));
            b = crate::invariant::mix(b ^ a.rotate_left(17), u64::from_le_bytes(full));
        }
        done += count;
    }
    Ok(alloc::format!("{a:016x}{b:016x}-{bytes}"))
}

fn has_content(id: ObjectId, name: &str) -> Result<bool> {
    let Some(bytes) = name.split_once('-').and_then(|(_, bytes)| bytes.parse().ok()) else {
        return Ok(false);
    };
    Ok(content_name(id, bytes)? == name)
}
