//! Names for objects: a hierarchy of directories, and resolvers for names in FOT entries.
//!
//! # Contract
//! - A [`Namespace`] is a root directory; paths are UNIX-like (`/a/b`, `..`, links). Directories are objects, so who may use one
//!   is a matter of rights to it. Reading takes no lock and needs no right to write.
//! - Each change is one transaction, durable when it returns.
//! - What is made to be named (a directory, what [`Namespace::open_or_build`] builds, the root) appears with its name: a power failure leaves
//!   both or neither, and of several who make it at once one does, and all get that (`directory`, N1).
//! - Names in FOT entries are resolved when a pointer is first followed. A change of any name by this program drops all
//!   translations that came from names; other programs see it by the shared epoch (`translate`).

mod directory;
mod resolver;

pub use directory::{Directory, Entry, NAME_MAX};
pub use resolver::{Resolver, clear_by_name, content_name, point_by_name};

pub(crate) use resolver::resolve_entry;

use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::object::{Object, ObjectBuilder};
use crate::sys::{Platform, Seam};
use crate::{ObjectId, Rights};
use alloc::string::String;
use alloc::vec::Vec;
use directory::check_name;

/// Links followed in one look-up before they are taken for a cycle.
const LINKS_MAX: u32 = 40;

/// Tries to take out a directory that somebody is changing.
const PATIENCE: u32 = 10_000;

/// A hierarchy of names.
#[derive(Clone, Copy, Debug)]
pub struct Namespace {
    root: ObjectId,
    /// What directories are opened with.
    rights: Rights,
}

impl<T: Invariant> Object<T> {
    /// The object that `path` leads to in the machine's namespace; if there is none, a new one of that name with `root` in it. Only this
    /// program's context reaches a new one; [`Namespace::open_or_build`] gives the choice.
    ///
    /// # Errors
    /// As [`Namespace::open_or_build`].
    pub fn named(path: &str, root: impl FnOnce() -> T) -> Result<Self> {
        Namespace::root()?.open_or_build(path, ObjectBuilder::new(), root)
    }
}

/// Where a path ends.
struct Place<'p> {
    directory: ObjectId,
    /// The last part; `None` when the path is the directory itself.
    name: Option<&'p str>,
}

impl Namespace {
    /// The machine's namespace, as [`Namespace::read_only`] where this context may not write it; makes an empty one if there is none.
    ///
    /// # Errors
    /// What creating or asking about an object says.
    pub fn root() -> Result<Self> {
        Platform::start()?;
        if let Some(root) = Platform::root() {
            return Self::at_if_granted(root);
        }
        let made = Directory::create(ObjectId::NULL, Directory::builder(Rights::READ).volatile())?.id();
        match Platform::set_root(made) {
            Ok(()) => Ok(Self::at(made)),
            Err(error) => {
                forget(made);
                match Platform::root() {
                    // Somebody else was faster: theirs counts.
                    Some(root) if error == Error::NameExists => Self::at_if_granted(root),
                    _ => Err(error),
                }
            }
        }
    }

    fn at_if_granted(root: ObjectId) -> Result<Self> {
        let may_write = Platform::stat(root)?.granted.contains(Rights::WRITE);
        Ok(if may_write { Self::at(root) } else { Self::read_only(root) })
    }

    /// The object that `path` leads to; if there is none, or it was deleted, a new one of that name with `root` in it.
    ///
    /// Whenever the power fails, both name and object are there, or neither. Of several who build it at once one does, and all get that.
    ///
    /// # Errors
    /// As [`Namespace::lookup`], [`Object::open`] and [`ObjectBuilder::build`].
    pub fn open_or_build<T: Invariant>(
        &self,
        path: &str,
        builder: ObjectBuilder<T>,
        root: impl FnOnce() -> T,
    ) -> Result<Object<T>> {
        let is_to_stay = !builder.is_volatile();
        self.open_or_name(path, is_to_stay, || builder.volatile().build(root()))
    }

    /// [`Namespace::open_or_build`] of what takes more than one step to make: `make` makes the object *volatile*
    /// ([`ObjectBuilder::volatile`]), as others that it leads to, tied to it ([`Object::tie`]); it stays from then on, and they with it.
    ///
    /// # Errors
    /// As [`Namespace::open_or_build`], and what `make` says.
    pub fn open_or_make<T: Invariant, E: From<Error>>(
        &self,
        path: &str,
        make: impl FnOnce() -> core::result::Result<Object<T>, E>,
    ) -> core::result::Result<Object<T>, E> {
        self.open_or_name(path, true, make)
    }

    fn open_or_name<T: Invariant, E: From<Error>>(
        &self,
        path: &str,
        is_to_stay: bool,
        make: impl FnOnce() -> core::result::Result<Object<T>, E>,
    ) -> core::result::Result<Object<T>, E> {
        // What the name leads to if that is gone: the name is as good as free.
        let gone = match self.lookup(path) {
            Err(Error::NoSuchName) => None,
            found => {
                let id = found?;
                match Object::open(id) {
                    Err(Error::NoSuchObject(gone)) if gone == id => Some(id),
                    opened => return Ok(opened?),
                }
            }
        };
        let made = make()?;
        let place = self.place(self.root, path, &mut { LINKS_MAX });
        let named =
            place.and_then(|place| Self::name_new(&place, &Entry::Object(made.id()), gone, is_to_stay));
        match named {
            Ok(()) => Ok(made),
            Err(error) => {
                forget(made.id());
                // Somebody else was faster: theirs counts.
                if error == Error::NameExists {
                    Ok(Object::open(self.lookup(path)?)?)
                } else {
                    Err(error.into())
                }
            }
        }
    }

    /// Gives a name, which is free or leads to `gone`, to what was made volatile and stays from then on.
    fn name_new(place: &Place<'_>, entry: &Entry, gone: Option<ObjectId>, is_to_stay: bool) -> Result<()> {
        if !is_to_stay {
            return Self::change_at(place, |tx, directory, name| match (directory.look(name)?, entry) {
                (Some(Entry::Object(id)), Entry::Object(made)) if Some(id) == gone => {
                    directory.replace(tx, name, *made).map(drop)
                }
                _ => directory.add(tx, name, entry),
            });
        }
        Self::change_at(place, |tx, directory, name| directory.add_new(tx, name, entry, gone))?;
        if let Entry::Object(id) | Entry::Directory(id) = entry {
            Platform::keep(*id).inspect_err(|_| {
                // What is left of the name counts for nothing once the object is deleted.
                let _ = Self::change_at(place, |tx, directory, name| directory.remove(tx, name));
            })?;
        }
        // That it stays is said where it is: whoever looks it up until this is done makes sure of it himself, which is slower.
        let _ = Self::change_at(place, |tx, directory, name| directory.settle(tx, name, entry));
        Ok(())
    }

    /// An empty namespace of its own, whose directories everybody has `default_rights` to.
    ///
    /// # Errors
    /// What creating an object says.
    pub fn create(default_rights: Rights) -> Result<Self> {
        Ok(Self::at(Directory::create(ObjectId::NULL, Directory::builder(default_rights))?.id()))
    }

    /// The namespace whose root directory is `root`.
    #[must_use]
    pub const fn at(root: ObjectId) -> Self {
        Self { root, rights: Rights::READ.union(Rights::WRITE) }
    }

    /// The namespace whose root directory is `root`, for those who may only read it. A directory in which a power failure cut off a change gives
    /// them [`Error::Unrecovered`], until somebody with the right to write it has opened it.
    #[must_use]
    pub const fn read_only(root: ObjectId) -> Self {
        Self { root, rights: Rights::READ }
    }

    fn open(&self, id: ObjectId) -> Result<Object<Directory>> {
        Object::open_with(id, self.rights)
    }

    /// Its root directory.
    #[must_use]
    pub const fn id(&self) -> ObjectId {
        self.root
    }

    /// The object that `path` leads to, through links; a directory is an object, too.
    ///
    /// # Errors
    /// [`Error::NoSuchName`], [`Error::BadName`], what opening a directory says.
    pub fn lookup(&self, path: &str) -> Result<ObjectId> {
        self.lookup_from(self.root, path, &mut { LINKS_MAX })
    }

    /// What `path` leads to, without following a link at its end.
    ///
    /// # Errors
    /// As [`Namespace::lookup`].
    pub fn entry(&self, path: &str) -> Result<Entry> {
        let place = self.place(self.root, path, &mut { LINKS_MAX })?;
        match place.name {
            Some(name) => self.open(place.directory)?.get(name, self.rights),
            None => Ok(Entry::Directory(place.directory)),
        }
    }

    fn lookup_from(&self, start: ObjectId, path: &str, links: &mut u32) -> Result<ObjectId> {
        let place = self.place(start, path, links)?;
        let Some(name) = place.name else { return Ok(place.directory) };
        match self.open(place.directory)?.get(name, self.rights)? {
            Entry::Object(id) | Entry::Directory(id) => Ok(id),
            Entry::Link(text) => {
                use_link(links)?;
                self.lookup_from(place.directory, &text, links)
            }
        }
    }

    /// The directory that holds the last part of `path`, and that part. `links` may still be followed, by all of one look-up together:
    /// links that each name two others would otherwise cost two to their number.
    fn place<'p>(&self, start: ObjectId, path: &'p str, links: &mut u32) -> Result<Place<'p>> {
        let mut directory = if path.starts_with('/') { self.root } else { start };
        let mut parts = path.split('/').filter(|part| !part.is_empty() && *part != ".").peekable();
        if path.is_empty() {
            return Err(Error::BadName);
        }
        while let Some(part) = parts.next() {
            if part == ".." {
                // Above the root of this namespace there is nothing.
                directory =
                    if directory == self.root { directory } else { self.open(directory)?.parent()? };
                continue;
            }
            check_name(part)?;
            if parts.peek().is_none() {
                return Ok(Place { directory, name: Some(part) });
            }
            directory = match self.open(directory)?.get(part, self.rights)? {
                Entry::Directory(id) => id,
                Entry::Link(text) => {
                    use_link(links)?;
                    self.lookup_from(directory, &text, links)?
                }
                Entry::Object(_) => return Err(Error::NoSuchName),
            };
        }
        Ok(Place { directory, name: None })
    }

    fn change<R>(
        &self,
        path: &str,
        change: impl FnOnce(&crate::Tx, &Directory, &str) -> Result<R>,
    ) -> Result<R> {
        let place = self.place(self.root, path, &mut { LINKS_MAX })?;
        Self::change_at(&place, change)
    }

    fn change_at<R>(
        place: &Place<'_>,
        change: impl FnOnce(&crate::Tx, &Directory, &str) -> Result<R>,
    ) -> Result<R> {
        let name = place.name.ok_or(Error::BadName)?;
        let directory = Object::<Directory>::open(place.directory)?;
        Directory::change(&directory, |tx| change(tx, &directory, name))
    }

    /// Gives `object` a name; it may have several.
    ///
    /// # Errors
    /// [`Error::NameExists`], as [`Namespace::lookup`], what the transaction says.
    pub fn bind(&self, path: &str, object: ObjectId) -> Result<()> {
        self.change(path, |tx, directory, name| directory.add(tx, name, &Entry::Object(object)))
    }

    /// Gives `object` a name, taking it from what had it; returns that. Whoever looks the name up meanwhile finds one of the two.
    ///
    /// # Errors
    /// As [`Namespace::bind`]; [`Error::NameExists`] when a directory has it.
    pub fn rebind(&self, path: &str, object: ObjectId) -> Result<Option<Entry>> {
        self.change(path, |tx, directory, name| directory.replace(tx, name, object))
    }

    /// Makes `path` lead where `target` leads, whenever it is followed; `target` need not exist.
    ///
    /// # Errors
    /// As [`Namespace::bind`].
    pub fn link(&self, path: &str, target: &str) -> Result<()> {
        self.change(path, |tx, directory, name| directory.add(tx, name, &Entry::Link(target.into())))
    }

    /// Makes a directory, which everybody has `default_rights` to. Whenever the power fails, it is there with its name, or not at all.
    ///
    /// # Errors
    /// As [`Namespace::bind`].
    pub fn make_dir(&self, path: &str, default_rights: Rights) -> Result<ObjectId> {
        let place = self.place(self.root, path, &mut { LINKS_MAX })?;
        let made = Directory::create(place.directory, Directory::builder(default_rights).volatile())?.id();
        Self::name_new(&place, &Entry::Directory(made), None, true).inspect_err(|_| forget(made))?;
        Ok(made)
    }

    /// Takes a name out; the object stays. Returns what it led to. A directory takes no names any more then: whoever had found it is told
    /// [`Error::NoSuchName`].
    ///
    /// # Errors
    /// As [`Namespace::lookup`]; [`Error::NameExists`] for a directory that is not empty; [`Error::Busy`] for one that stays in a transaction.
    pub fn unbind(&self, path: &str) -> Result<Entry> {
        let place = self.place(self.root, path, &mut { LINKS_MAX })?;
        Self::take_out(&place, |tx, directory, name| directory.remove(tx, name))
    }

    /// Takes a name out by `change`; a directory is closed in the same step.
    fn take_out<R>(
        place: &Place<'_>,
        change: impl Fn(&crate::Tx, &Directory, &str) -> Result<R>,
    ) -> Result<R> {
        let mut tries = 0;
        loop {
            let result = Self::change_at(place, |tx, directory, name| {
                if let Some(Entry::Directory(id)) = directory.look(name)? {
                    Object::<Directory>::open(id)?.close(tx)?;
                }
                change(tx, directory, name)
            });
            tries += 1;
            if !matches!(result, Err(Error::Busy(_))) || tries > PATIENCE {
                return result;
            }
            Platform::yield_now(); // somebody is changing the directory that is to go
        }
    }

    /// Takes a directory's name out, and deletes it. Whenever the power fails, it is there with its name, or has none, and the next change of the
    /// directory above deletes what is left of it.
    ///
    /// # Safety
    /// No other thread of this program is using a path through the directory: its memory goes. Other programs keep it until they end.
    ///
    /// # Errors
    /// As [`Namespace::unbind`]; [`Error::NoSuchName`] for what is no directory.
    pub unsafe fn remove_dir(&self, path: &str) -> Result<()> {
        let place = self.place(self.root, path, &mut { LINKS_MAX })?;
        let id = Self::take_out(&place, |tx, directory, name| match directory.look(name)? {
            Some(Entry::Directory(id)) => directory.retire(tx, name).map(|()| id),
            _ => Err(Error::NoSuchName),
        })?;
        // SAFETY: the caller's promise.
        let deleted = Object::<Directory>::open(id).and_then(|directory| unsafe { directory.delete() });
        match deleted {
            // Somebody who changes the directory above was faster.
            Ok(()) | Err(Error::NoSuchObject(_)) => {
                let _ = Self::change_at(&place, |_, _, _| Ok(())); // or the next change forgets it
                Ok(())
            }
            other => other,
        }
    }

    /// The names in a directory with what they lead to, in order.
    ///
    /// # Errors
    /// As [`Namespace::lookup`].
    pub fn list(&self, path: &str) -> Result<Vec<(String, Entry)>> {
        self.open(self.lookup(path)?)?.list(self.rights)
    }
}

/// Deletes what was made and has got no name.
fn forget(made: ObjectId) {
    // Nobody knows it; that it cannot be deleted is the lesser error: it is volatile.
    let _ = Platform::delete(made);
}

/// Counts a link that is followed.
fn use_link(links: &mut u32) -> Result<()> {
    *links = links.checked_sub(1).ok_or(Error::BadName)?;
    Ok(())
}
