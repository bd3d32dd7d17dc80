//! The reference monitor: it alone touches pool metadata, decides rights, and maps objects into contexts.
//!
//! # Contract
//! - The guest names contexts and objects by ID and bindings by number; all of them are claims. A binding is found again only in the
//!   table of the context that made it.
//! - **I1 leased**: a binding holds an [`ObjectRef`] as long as any alias shows its pages, so the pool cannot reuse them.
//! - A page is shown writable only if the binding has [`Rights::WRITE`] and no other object shares the page.
//!
//! Lock order: `changes`, an object of the pool, then [`Aliases`]. The pool calls back ([`ShareHook`]) with an object locked and the hook locks the
//! aliases; so nothing here calls the pool about an object while it holds them.

mod contents;

use ept_contexts::{Chunk, Protection, Window};
use pool::{Access, Error as PoolError, ObjectRef, ObjectSpec, Pool, ShareHook};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use twz_abi::object::{DATA_OFFSET, MAX_SIZE};
use twz_abi::syscall::{CreateSpec, ObjectStat, create_flags};
use twz_abi::{ErrorCode, ObjectId, PAGE_SIZE, Rights};

/// Bytes that one first-stage table covers, and one chunk of a window.
const CHUNK: u64 = ept_contexts::CHUNK_SIZE;
/// Growth that a touch suggests to the pool, in bytes; the pool rounds it to its own policy.
const GROWTH_HINT: u64 = 16 * PAGE_SIZE;

/// Part of an object that is now reachable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touched {
    /// Guest-physical address of the whole chunk, when it can be one large page.
    pub large: Option<u64>,
    /// Guest-physical address of the first page.
    pub address: u64,
    /// Number of that page in its chunk.
    pub first_page: u64,
    /// Pages.
    pub pages: u64,
    /// Whether stores are possible.
    pub writable: bool,
}

/// A stretch of a chunk that the alias shows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shown {
    start: u64,
    bytes: u64,
    pool_offset: u64,
    writable: bool,
}

impl Shown {
    fn end(&self) -> u64 {
        self.start + self.bytes
    }

    /// What is left of `self` outside of `other`: a piece before, a piece behind.
    fn without(&self, other: &Self) -> impl Iterator<Item = Self> + use<> {
        let piece = |start: u64, end: u64| {
            let pool_offset = self.pool_offset + start.saturating_sub(self.start);
            (start < end).then(|| Self { start, bytes: end - start, pool_offset, writable: self.writable })
        };
        let before = piece(self.start, self.end().min(other.start));
        let behind = piece(self.start.max(other.end()), self.end());
        before.into_iter().chain(behind)
    }

    /// The stretches of `self` (start, bytes) that `shown` does not show in just this way.
    fn missing_in(&self, shown: &[Self]) -> Vec<(u64, u64)> {
        let mut missing = vec![*self];
        for old in shown {
            // In the same way: the same bytes of the pool at the same place, with the same access.
            let same = old.writable == self.writable
                && old.pool_offset.wrapping_sub(old.start) == self.pool_offset.wrapping_sub(self.start);
            if same {
                missing = missing.iter().flat_map(|part| part.without(old)).collect();
            }
        }
        missing.iter().map(|part| (part.start, part.bytes)).collect()
    }
}

/// An object in a context.
struct Binding {
    object: ObjectRef,
    rights: Rights,
    /// The window's chunk for each chunk of the object that was touched, and what it shows.
    chunks: HashMap<u64, (Chunk, Vec<Shown>)>,
}

/// Bindings and the window they live in; locked by itself, because the pool's hook needs it while the monitor may be locked.
struct Aliases {
    window: Window,
    bindings: Vec<Option<Binding>>,
    free: Vec<usize>,
    by_object: HashMap<ObjectId, usize>,
}

impl std::fmt::Debug for Aliases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aliases").field("bindings", &self.bindings.len()).finish_non_exhaustive()
    }
}

/// The monitor of a machine.
pub(super) struct Monitor {
    pool: Arc<Pool>,
    context: ObjectId,
    session: ObjectId,
    aliases: Arc<Mutex<Aliases>>,
    /// Held while an extent is looked up and shown, and while pages are replaced by a copy or a trim: see `contents`.
    changes: Mutex<()>,
}

/// Write-protects or hides pages before the pool changes what they mean.
#[derive(Debug)]
struct Hook(Arc<Mutex<Aliases>>);

impl ShareHook for Hook {
    fn before_share(&self, id: ObjectId, offset: u64, len: u64) -> Result<(), Box<str>> {
        lock(&self.0).narrow(id, offset, len, Narrowing::ReadOnly).map_err(|error| error.to_string().into())
    }

    fn before_replace(&self, id: ObjectId, offset: u64, len: u64) -> Result<(), Box<str>> {
        lock(&self.0).narrow(id, offset, len, Narrowing::Hidden).map_err(|error| error.to_string().into())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Narrowing {
    ReadOnly,
    Hidden,
}

fn lock(aliases: &Mutex<Aliases>) -> MutexGuard<'_, Aliases> {
    aliases.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Monitor {
    /// A monitor for one context, whose objects appear in `window`. Volatile objects are tied to `session`.
    pub(super) fn new(pool: Arc<Pool>, context: ObjectId, session: ObjectId, window: Window) -> Self {
        let aliases = Aliases { window, bindings: Vec::new(), free: Vec::new(), by_object: HashMap::new() };
        let aliases = Arc::new(Mutex::new(aliases));
        pool.set_share_hook(Some(Arc::new(Hook(Arc::clone(&aliases)))));
        Self { pool, context, session, aliases, changes: Mutex::new(()) }
    }

    /// Gives the window to `work`, for its memslot.
    pub(super) fn with_window<R>(&self, work: impl FnOnce(&Window) -> R) -> R {
        work(&lock(&self.aliases).window)
    }

    /// Makes `object` reachable in `context`.
    pub(super) fn bind(&self, context: ObjectId, object: ObjectId) -> Result<(u64, Rights), ErrorCode> {
        self.check_context(context)?;
        let mut aliases = lock(&self.aliases);
        if let Some(&index) = aliases.by_object.get(&object)
            && let Some(binding) = &aliases.bindings[index]
        {
            return Ok((index as u64, binding.rights));
        }
        let rights = self.rights(object)?;
        let object = self.pool.open_object(object).map_err(|error| code(&error))?;
        let id = object.id();
        let binding = Some(Binding { object, rights, chunks: HashMap::new() });
        let index = match aliases.free.pop() {
            Some(index) => {
                aliases.bindings[index] = binding;
                index
            }
            None => {
                aliases.bindings.push(binding);
                aliases.bindings.len() - 1
            }
        };
        aliases.by_object.insert(id, index);
        Ok((index as u64, rights))
    }

    /// Backs the page at `offset` of a bound object for `access`, and shows what lies around it.
    pub(super) fn touch(&self, binding: u64, offset: u64, access: Rights) -> Result<Touched, ErrorCode> {
        let (object, rights) = {
            let aliases = lock(&self.aliases);
            let binding = aliases.get(binding)?;
            (binding.object.clone(), binding.rights)
        };
        if !(DATA_OFFSET..MAX_SIZE).contains(&offset) {
            return Err(ErrorCode::BadOffset);
        }
        if access.is_empty() || !rights.contains(access) {
            return Err(ErrorCode::NotPermitted);
        }
        let _no_change = self.hold_touches();
        let wanted = if access.contains(Rights::WRITE) { Access::Write } else { Access::Read };
        // The pool may call the hook in here, which locks the aliases.
        let extent = grow(&object, offset, wanted).map_err(|error| code(&error))?;
        let mut aliases = lock(&self.aliases);
        aliases.show(&self.pool, binding, &extent)
    }

    /// Drops a binding and everything that it showed.
    pub(super) fn unbind(&self, binding: u64) -> Result<(), ErrorCode> {
        let dropped = lock(&self.aliases).remove(binding)?;
        // The last reference may free the object's pages, which the alias no longer shows.
        drop(dropped);
        Ok(())
    }

    /// Creates an object for a program.
    pub(super) fn create(&self, context: ObjectId, spec: &CreateSpec) -> Result<ObjectId, ErrorCode> {
        self.check_context(context)?;
        let rights = spec.rights().ok_or(ErrorCode::BadArgument)?;
        if spec.flags & !create_flags::ALL != 0 || spec.reserved != 0 {
            return Err(ErrorCode::BadArgument);
        }
        let copy_of = (!spec.source.is_null()).then_some(spec.source);
        if let Some(source) = copy_of {
            self.require(source, Rights::READ)?;
        }
        self.make(spec.key, rights, spec.flags, copy_of).map_err(|error| code(&error))
    }

    /// Creates an object; a volatile one goes with the session.
    pub(super) fn make(
        &self,
        key: ObjectId,
        rights: Rights,
        flags: u32,
        copy_of: Option<ObjectId>,
    ) -> Result<ObjectId, PoolError> {
        let is_volatile = flags & create_flags::VOLATILE != 0;
        let session = [self.session];
        let ties: &[ObjectId] = if is_volatile { &session } else { &[] };
        let spec = ObjectSpec { key, rights, kind: flags, ties, copy_of, ..ObjectSpec::default() };
        let id = self.pool.create_object(&spec)?;
        if is_volatile {
            // Deleted from the start: only the tie keeps it.
            self.pool.delete_object(id)?;
        }
        Ok(id)
    }

    /// Deletes an object for a program.
    pub(super) fn delete(&self, context: ObjectId, object: ObjectId) -> Result<(), ErrorCode> {
        self.check_context(context)?;
        self.require(object, Rights::DELETE)?;
        let stat = self.pool.stat_object(object).map_err(|error| code(&error))?;
        if stat.kind & create_flags::VOLATILE != 0 {
            return self.pool.untie(object, self.session).map(drop).map_err(|error| code(&error));
        }
        self.pool.delete_object(object).map_err(|error| code(&error))
    }

    fn require(&self, object: ObjectId, needed: Rights) -> Result<(), ErrorCode> {
        if self.rights(object)?.contains(needed) { Ok(()) } else { Err(ErrorCode::NotPermitted) }
    }

    /// What the directory says, and what `context` may do.
    pub(super) fn stat(&self, context: ObjectId, object: ObjectId) -> Result<ObjectStat, ErrorCode> {
        self.check_context(context)?;
        let granted = self.rights(object)?;
        let stat = self.pool.stat_object(object).map_err(|error| code(&error))?;
        let opened = self.pool.open_object(object).map_err(|error| code(&error))?;
        let extents = opened.extents().map_err(|error| code(&error))?;
        Ok(ObjectStat {
            id: stat.id,
            key: stat.key,
            default_rights: stat.rights.bits(),
            flags: stat.kind & create_flags::ALL,
            allocated_bytes: extents.iter().map(|extent| extent.len).sum(),
            granted: granted.bits(),
            references: u32::try_from(stat.uses).unwrap_or(u32::MAX),
        })
    }

    /// Looks a name up.
    pub(super) fn name_get(&self, context: ObjectId, name: &str) -> Result<ObjectId, ErrorCode> {
        self.check_context(context)?;
        self.pool.name_get(name).ok_or(ErrorCode::NoName)
    }

    /// Names an object.
    pub(super) fn name_set(&self, context: ObjectId, object: ObjectId, name: &str) -> Result<(), ErrorCode> {
        self.check_context(context)?;
        self.rights(object)?;
        self.pool.name_set(name, object).map_err(|error| code(&error))
    }

    /// Takes a name away.
    pub(super) fn name_remove(&self, context: ObjectId, name: &str) -> Result<(), ErrorCode> {
        self.check_context(context)?;
        self.pool.name_remove(name).map_err(|error| code(&error))
    }

    /// Keeps extents from being shown, or replaced, as long as the guard lives.
    fn hold_touches(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the alias shows the page at `offset` of an object.
    #[cfg(test)]
    fn shows(&self, object: ObjectId, offset: u64) -> bool {
        let aliases = lock(&self.aliases);
        let binding = aliases.by_object.get(&object).and_then(|&index| aliases.bindings[index].as_ref());
        let chunk = binding.and_then(|binding| binding.chunks.get(&(offset / CHUNK)));
        chunk.is_some_and(|(_, shown)| {
            shown.iter().any(|part| (part.start..part.end()).contains(&(offset % CHUNK)))
        })
    }

    fn check_context(&self, context: ObjectId) -> Result<(), ErrorCode> {
        if context == self.context { Ok(()) } else { Err(ErrorCode::NotPermitted) }
    }

    /// What the context may do with an object: the object's default rights.
    fn rights(&self, object: ObjectId) -> Result<Rights, ErrorCode> {
        let rights = self.pool.stat_object(object).map_err(|error| code(&error))?.rights;
        if rights.is_empty() { Err(ErrorCode::NotPermitted) } else { Ok(rights) }
    }
}

/// Touches the page at `offset`. A hole just below what is there is a stack or an FOT growing down: its growth goes below, too.
fn grow(object: &ObjectRef, offset: u64, access: Access) -> Result<pool::Extent, PoolError> {
    let above = offset - offset % PAGE_SIZE + PAGE_SIZE;
    let chunk = offset - offset % CHUNK;
    if above < chunk + CHUNK && object.lookup(offset)?.is_none() && object.lookup(above)?.is_some() {
        let below = above.saturating_sub(GROWTH_HINT).max(chunk).max(DATA_OFFSET);
        object.touch(below, above - below, access)?;
    }
    object.touch(offset, GROWTH_HINT, access)
}

impl Aliases {
    fn get(&self, binding: u64) -> Result<&Binding, ErrorCode> {
        let index = usize::try_from(binding).map_err(|_| ErrorCode::BadArgument)?;
        self.bindings.get(index).and_then(Option::as_ref).ok_or(ErrorCode::BadArgument)
    }

    /// Shows `extent` in the binding's chunk.
    fn show(&mut self, pool: &Pool, binding: u64, extent: &pool::Extent) -> Result<Touched, ErrorCode> {
        let index = usize::try_from(binding).map_err(|_| ErrorCode::BadArgument)?;
        let Self { window, bindings, .. } = self;
        let binding = bindings.get_mut(index).and_then(Option::as_mut).ok_or(ErrorCode::BadArgument)?;
        let number = extent.object_offset / CHUNK;
        let (chunk, shown) = match binding.chunks.entry(number) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let chunk = window.take().ok_or(ErrorCode::WindowFull)?;
                entry.insert((chunk, Vec::new()))
            }
        };
        let writable = binding.rights.contains(Rights::WRITE) && !extent.shared;
        let start = extent.object_offset % CHUNK;
        let now = Shown { start, bytes: extent.len, pool_offset: extent.pool_offset, writable };
        let address = window.guest_address(*chunk) + start;
        let protection = if writable { Protection::ReadWrite } else { Protection::Read };
        for (part_start, part_bytes) in now.missing_in(shown) {
            let at = Window::start(*chunk) + part_start;
            let from = extent.pool_offset + (part_start - start);
            window.alias().map(at, pool.backing().fd, from, part_bytes, protection).map_err(|error| {
                tracing::error!(%error, "cannot show an extent");
                ErrorCode::NoMemory
            })?;
        }
        // What `now` covers is no longer shown the old way; stretches outside of it stay as they are.
        let mut kept: Vec<Shown> = shown.iter().flat_map(|old| old.without(&now)).collect();
        kept.push(now);
        *shown = kept;
        // Page 0 of an object is never mapped, whatever the pool has there; so the first chunk is no large page either.
        let hidden = DATA_OFFSET.saturating_sub(extent.object_offset).min(extent.len);
        let is_large = extent.is_huge() && writable && hidden == 0;
        Ok(Touched {
            large: is_large.then_some(address),
            address: address + hidden,
            first_page: (start + hidden) / PAGE_SIZE,
            pages: (extent.len - hidden) / PAGE_SIZE,
            writable,
        })
    }

    fn remove(&mut self, binding: u64) -> Result<Binding, ErrorCode> {
        let index = usize::try_from(binding).map_err(|_| ErrorCode::BadArgument)?;
        let removed = self.bindings.get_mut(index).and_then(Option::take).ok_or(ErrorCode::BadArgument)?;
        self.by_object.remove(&removed.object.id());
        self.free.push(index);
        for (chunk, _) in removed.chunks.values() {
            if let Err(error) = self.window.give_back(*chunk) {
                tracing::error!(%error, "a chunk of object space is lost");
            }
        }
        Ok(removed)
    }

    /// Takes write access, or all access, away from a range of an object wherever it is shown.
    fn narrow(
        &mut self,
        id: ObjectId,
        offset: u64,
        bytes: u64,
        how: Narrowing,
    ) -> Result<(), ept_contexts::AliasError> {
        let Self { window, bindings, by_object, .. } = self;
        let Some(binding) = by_object.get(&id).and_then(|&index| bindings[index].as_mut()) else {
            return Ok(());
        };
        let end = offset.saturating_add(bytes);
        for (number, (chunk, shown)) in &mut binding.chunks {
            let base = number * CHUNK;
            let mut kept = Vec::with_capacity(shown.len());
            for old in shown.drain(..) {
                let touches = base + old.start < end && offset < base + old.start + old.bytes;
                if !touches || (how == Narrowing::ReadOnly && !old.writable) {
                    kept.push(old);
                    continue;
                }
                // The whole stretch: what was not meant is shown again by its next touch.
                let at = Window::start(*chunk) + old.start;
                match how {
                    Narrowing::ReadOnly => {
                        window.alias().protect(at, old.bytes, Protection::Read)?;
                        kept.push(Shown { writable: false, ..old });
                    }
                    Narrowing::Hidden => window.alias().clear(at, old.bytes)?,
                }
            }
            *shown = kept;
        }
        Ok(())
    }
}

/// What a pool error means for the guest.
pub(super) fn code(error: &PoolError) -> ErrorCode {
    match error {
        PoolError::NoSuchObject(_) => ErrorCode::NoObject,
        PoolError::Full { .. } => ErrorCode::PoolFull,
        PoolError::Exists(_) => ErrorCode::Exists,
        PoolError::BadRange { .. } => ErrorCode::BadOffset,
        PoolError::NoSuchName(_) => ErrorCode::NoName,
        PoolError::BadName(_) => ErrorCode::BadArgument,
        other => {
            tracing::error!(error = %other, "the pool failed");
            ErrorCode::Medium
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Shown;

    fn shown(start: u64, bytes: u64, pool_offset: u64, writable: bool) -> Shown {
        Shown { start, bytes, pool_offset, writable }
    }

    #[test]
    fn only_what_is_new_is_mapped() {
        let now = shown(0, 10, 100, true);
        assert_eq!(now.missing_in(&[]), [(0, 10)]);
        assert_eq!(now.missing_in(&[shown(2, 3, 102, true)]), [(0, 2), (5, 5)]);
        assert_eq!(now.missing_in(&[shown(0, 20, 100, true)]), []);
        // Other pages of the pool, or other access: everything anew.
        assert_eq!(now.missing_in(&[shown(2, 3, 103, true)]), [(0, 10)]);
        assert_eq!(now.missing_in(&[shown(2, 3, 102, false)]), [(0, 10)]);
    }

    #[test]
    fn a_new_stretch_cuts_the_old_one() {
        let old = shown(0, 10, 100, false);
        let left: Vec<_> =
            old.without(&shown(3, 4, 0, true)).map(|s| (s.start, s.bytes, s.pool_offset)).collect();
        assert_eq!(left, [(0, 3, 100), (7, 3, 107)]);
    }
}
