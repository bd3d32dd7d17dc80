//! Objects in a pool file or DAX device, by the crate `pool`.
//!
//! # Contract
//! - One process at a time has a pool open (the pool's lock).
//! - When the pool is about to share or replace pages (copy on write), every mapping of them is dropped first; the next touch faults
//!   and asks the pool again. The pool calls with the object locked, so nobody may hold `STATE` while calling the pool: the fault
//!   handler looks up, calls, and looks whether a drop came between (`epoch`).
//! - New objects belong to the context that first programs run in, once a machine has made it: what a hosted program stores is within
//!   reach of programs in a machine on the same pool.
//! - Each opening counts one boot more, in the pool's record [`BOOTS_RECORD`].
//! - Volatile objects are deleted from the start, and kept by a tie to an object that stands for this opening ([`SESSION_NONCE`]); the next
//!   opening ends that. It is itself kept by the last machine's, if there was one, so that the next machine ends it, too.

use super::{CreateSpec, Durability, Piece, Stat, Store};
use crate::error::{Error, Result};
use crate::sys::ROOT_NAME;
use pool::{Access, CreateOptions, Extent, Mapped, ObjectRef, ObjectSpec, OpenOptions, Pool, ShareHook};
use std::boxed::Box;
use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use twz_abi::object::MAX_SIZE;
use twz_abi::program::{BOOTS_RECORD, INIT_CONTEXT_RECORD, SESSION_RECORD};
use twz_abi::syscall::create_flags::VOLATILE;
use twz_abi::{ObjectId, Rights};

/// Bytes that a first touch asks for: a new object's root, log and first blocks.
const HINT: u64 = 64 << 10;

/// What the object that keeps volatile ones is made of.
const SESSION_NONCE: [u8; 16] = *b"twz hosted sessn";

/// A store in a pool.
#[derive(Debug)]
pub struct PoolStore {
    pool: Pool<Mapped>,
    /// Objects in use: they keep their pages while they are here.
    used: Mutex<HashMap<ObjectId, ObjectRef<Mapped>>>,
    generation: u32,
}

#[derive(Debug)]
struct DropMappings;

impl ShareHook for DropMappings {
    fn before_share(&self, id: ObjectId, offset: u64, len: u64) -> core::result::Result<(), Box<str>> {
        super::drop_mappings(id, offset, len);
        Ok(())
    }

    fn before_replace(&self, id: ObjectId, offset: u64, len: u64) -> core::result::Result<(), Box<str>> {
        super::drop_mappings(id, offset, len);
        Ok(())
    }
}

impl PoolStore {
    /// Opens the pool at `path` for this process alone.
    ///
    /// # Errors
    /// [`Error::Platform`]; the pool's own message goes to stderr.
    pub fn open(path: &Path) -> Result<Self> {
        Pool::open(path, &OpenOptions::default()).map_err(|e| explain("open the pool", &e)).and_then(Self::on)
    }

    /// Makes a pool of `bytes` at `path` and opens it.
    ///
    /// # Errors
    /// As [`PoolStore::open`].
    pub fn create(path: &Path, bytes: u64) -> Result<Self> {
        let made = Pool::create(path, bytes, &CreateOptions::default());
        made.map_err(|e| explain("create the pool", &e)).and_then(Self::on)
    }

    fn on(pool: Pool<Mapped>) -> Result<Self> {
        end_session(&pool).map_err(|e| explain("end the last session", &e))?;
        let boots = pool.root_get(BOOTS_RECORD).unwrap_or(0).wrapping_add(1);
        pool.root_set(BOOTS_RECORD, boots).map_err(|e| explain("count the boot", &e))?;
        pool.set_share_hook(Some(Arc::new(DropMappings)));
        let generation = u32::try_from(boots & u128::from(u32::MAX)).unwrap_or(1).max(1);
        Ok(Self { pool, used: Mutex::default(), generation })
    }

    /// Writes everything to the medium: for a clean end on a file without DAX.
    ///
    /// # Errors
    /// [`Error::Platform`].
    pub fn sync(&self) -> Result<()> {
        self.pool.sync().map_err(|e| explain("sync the pool", &e))
    }

    /// Whether a machine has begun in the pool: whom its objects belong to is known from then on.
    pub(super) fn has_begun(&self) -> bool {
        self.pool.root_get(INIT_CONTEXT_RECORD).is_some()
    }

    /// What makes the pool's first context the creator of a new object; `None` where there is none yet.
    fn nonce(&self) -> Option<[u8; 16]> {
        let owner = self.pool.root_get(INIT_CONTEXT_RECORD).map(ObjectId::from_u128)?;
        let mut lot = [0; 8];
        super::memory::random(&mut lot);
        Some(sec::creation_nonce(owner, u64::from_le_bytes(lot)))
    }

    /// The object that stands for this opening of the pool, which is empty.
    fn session(&self) -> core::result::Result<ObjectId, pool::Error> {
        let session = session_id();
        let _one = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.pool.contains(session) {
            let machine = self.pool.root_get(SESSION_RECORD).map(ObjectId::from_u128);
            let machine: Vec<ObjectId> = machine.filter(|&id| self.pool.contains(id)).into_iter().collect();
            let spec = ObjectSpec { ties: &machine, ..session_spec() };
            self.pool.create_object(&spec)?;
            if !machine.is_empty() {
                self.pool.delete_object(session)?;
            }
        }
        Ok(session)
    }

    /// Makes an object that goes with this opening of the pool: deleted from the start, so that only the tie keeps it.
    fn create_volatile(&self, spec: &ObjectSpec<'_>) -> core::result::Result<ObjectId, pool::Error> {
        let ties: &[ObjectId] = &[self.session()?];
        self.pool.create_object(&ObjectSpec { kind: VOLATILE, ties, doomed: true, ..spec.clone() })
    }

    /// Cuts the tie of one that was made to stay.
    fn let_stay(&self, id: ObjectId) -> core::result::Result<(), pool::Error> {
        self.pool.untie(id, session_id()).map(drop)
    }

    fn piece_of(&self, extent: &Extent) -> Piece {
        Piece {
            object_offset: extent.object_offset,
            file_offset: extent.pool_offset,
            bytes: extent.len,
            file: self.pool.backing().fd.as_raw_fd(),
        }
    }

    fn object(&self, id: ObjectId) -> Result<ObjectRef<Mapped>> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(object) = used.get(&id) {
            return Ok(object.clone());
        }
        let object = self.pool.open_object(id).map_err(|e| translate(id, &e))?;
        used.insert(id, object.clone());
        Ok(object)
    }
}

impl Store for PoolStore {
    fn create(&self, spec: &CreateSpec) -> Result<ObjectId> {
        let is_volatile = spec.volatile;
        let spec = ObjectSpec {
            nonce: self.nonce(),
            key: spec.key,
            rights: spec.default_rights,
            size: spec.bytes,
            ..ObjectSpec::default()
        };
        let made = if is_volatile { self.create_volatile(&spec) } else { self.pool.create_object(&spec) };
        made.map_err(|e| translate(ObjectId::NULL, &e))
    }

    fn delete(&self, id: ObjectId) -> Result<()> {
        let is_there = self.pool.contains(id);
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        drop(used); // after the lock is free: it may have been the last that kept the object
        if !is_there {
            return Err(Error::NoSuchObject(id));
        }
        let stat = self.pool.stat_object(id).map_err(|e| translate(id, &e))?;
        if stat.doomed && stat.kind & VOLATILE != 0 {
            self.pool.untie(id, session_id()).map(drop).map_err(|e| translate(id, &e))
        } else {
            self.pool.delete_object(id).map_err(|e| translate(id, &e))
        }
    }

    fn tie(&self, object: ObjectId, keeper: ObjectId) -> Result<()> {
        self.pool.tie(object, keeper).map_err(|e| translate(object, &e))
    }

    fn keep(&self, id: ObjectId) -> Result<()> {
        self.pool.keep_object(id).and_then(|()| self.let_stay(id)).map_err(|e| translate(id, &e))
    }

    fn trim(&self, id: ObjectId, range: Range<u64>) -> Result<()> {
        let target = self.object(id)?;
        // A copy of nothing.
        let nothing = self.session().and_then(|session| self.pool.open_object(session));
        let nothing = nothing.map_err(|e| translate(id, &e))?;
        let len = range.end.saturating_sub(range.start);
        match self.pool.copy_range(&nothing, range.start, &target, range.start, len) {
            Ok(()) => target.release_replaced(), // its mappings were dropped (`before_replace`)
            Err(pool::Error::BadRange { .. }) => {} // no multiple of the granule
            Err(error) => return Err(translate(id, &error)),
        }
        Ok(())
    }

    fn reserve(&self, id: ObjectId, range: Range<u64>) -> Result<()> {
        let granule = self.pool.granule();
        let start = range.start / granule * granule;
        let end = range.end.next_multiple_of(granule).min(MAX_SIZE);
        let object = self.object(id)?;
        self.pool.reserve_range(&object, start, end.saturating_sub(start)).map_err(|e| translate(id, &e))
    }

    fn copy(&self, source: ObjectId, spec: &CreateSpec) -> Result<ObjectId> {
        let spec = ObjectSpec {
            nonce: self.nonce(),
            key: spec.key,
            rights: spec.default_rights,
            size: spec.bytes,
            copy_of: Some(source),
            ..ObjectSpec::default()
        };
        self.pool.create_object(&spec).map_err(|e| translate(source, &e))
    }

    fn stat(&self, id: ObjectId) -> Result<Stat> {
        let stat = self.pool.stat_object(id).map_err(|e| translate(id, &e))?;
        if !self.pool.contains(id) {
            return Err(Error::NoSuchObject(id));
        }
        let extents = self.object(id)?.extents().map_err(|e| translate(id, &e))?;
        let allocated = extents.iter().map(|extent| extent.len).sum();
        Ok(Stat { allocated, default_rights: stat.rights, key: stat.key, granted: Rights::all() })
    }

    fn piece(&self, id: ObjectId, offset: u64) -> Result<Piece> {
        let extent = self.object(id)?.touch(offset, HINT, Access::Write).map_err(|e| translate(id, &e))?;
        Ok(self.piece_of(&extent))
    }

    fn piece_to_read(&self, id: ObjectId, offset: u64) -> Result<Option<(Piece, bool)>> {
        let found = self.object(id)?.lookup(offset).map_err(|e| translate(id, &e))?;
        Ok(found.map(|extent| (self.piece_of(&extent), !extent.shared)))
    }

    fn root(&self) -> Option<ObjectId> {
        self.pool.name_get(ROOT_NAME)
    }

    fn set_root(&self, id: ObjectId) -> Result<()> {
        match self.pool.name_new(ROOT_NAME, id).and_then(|()| self.let_stay(id)) {
            Err(pool::Error::NameTaken(_)) => Err(Error::NameExists),
            result => result.map_err(|e| explain("set the root", &e)),
        }
    }

    fn durability(&self) -> Durability {
        match self.pool.durability() {
            pool::Durability::Dax => Durability::Power,
            _ => super::forced_durability(),
        }
    }

    fn boot_generation(&self) -> u32 {
        self.generation
    }

    fn finish(&self) {
        // `explain` has said it.
        let _ = self.sync();
    }
}

/// What the object that keeps volatile ones is made like.
fn session_spec() -> ObjectSpec<'static> {
    ObjectSpec { nonce: Some(SESSION_NONCE), kind: VOLATILE, ..ObjectSpec::default() }
}

/// Its ID.
fn session_id() -> ObjectId {
    let spec = session_spec();
    pool::object_id(&SESSION_NONCE, spec.key, spec.rights)
}

/// Ends the last opening, and with it every volatile object.
fn end_session(pool: &Pool<Mapped>) -> core::result::Result<(), pool::Error> {
    let session = session_id();
    if !pool.contains(session) {
        return Ok(());
    }
    let machines = pool.ties(session).0;
    if pool.stat_object(session)?.doomed {
        machines.into_iter().try_for_each(|machine| pool.untie(session, machine).map(drop))
    } else {
        pool.delete_object(session)
    }
}

fn translate(id: ObjectId, error: &pool::Error) -> Error {
    match error {
        pool::Error::NoSuchObject(..) => Error::NoSuchObject(id),
        pool::Error::Full { .. } => Error::OutOfSpace(id),
        other => explain("use the pool", other),
    }
}

/// Our errors hold no texts, so the pool's goes where a user sees it.
fn explain(operation: &'static str, error: &pool::Error) -> Error {
    use std::io::Write;
    // Nothing can be done when stderr is gone.
    let _ = writeln!(std::io::stderr(), "cannot {operation}: {error}");
    Error::Platform { operation, code: libc::EIO }
}
