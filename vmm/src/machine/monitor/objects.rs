//! Objects as programs make, name, look at and delete them; each call only with the rights that it needs.

use super::{Monitor, code, lock, random};
use pool::{Error as PoolError, ObjectSpec};
use sec::creation_nonce;
use twz_abi::object::{DATA_OFFSET, MAX_SIZE};
use twz_abi::sec::PublicKeyObject;
use twz_abi::syscall::{CopyRange, CreateSpec, ObjectStat, create_flags};
use twz_abi::{ErrorCode, ObjectId, Rights};
use zerocopy::IntoBytes;

impl Monitor {
    /// Creates an object for a program, with all that it is to begin with, or none.
    ///
    /// # Errors
    /// [`ErrorCode::BadArgument`], [`ErrorCode::NoObject`], [`ErrorCode::NotPermitted`], [`ErrorCode::PoolFull`]; [`ErrorCode::BadOffset`] for
    /// ranges that are not whole granules, lie outside of an object or overlap in the new one.
    pub(in crate::machine) fn create(
        &self,
        context: ObjectId,
        spec: &CreateSpec,
        ranges: &[CopyRange],
    ) -> Result<ObjectId, ErrorCode> {
        let rights = spec.rights().ok_or(ErrorCode::BadArgument)?;
        let copy_of = (!spec.source.is_null()).then_some(spec.source);
        let is_good = spec.flags & !create_flags::ALL == 0
            && spec.bytes <= MAX_SIZE
            && (copy_of.is_none() || ranges.is_empty());
        if !is_good {
            return Err(ErrorCode::BadArgument);
        }
        let sources = copy_of.into_iter().chain(ranges.iter().map(|range| range.source));
        let needed: Vec<_> = sources.map(|source| (source, Rights::READ)).collect();
        let _held = self.permit(context, &needed)?;
        let ranges: Vec<_> = ranges.iter().map(to_pool).collect();
        let made = ObjectSpec {
            key: spec.key,
            rights,
            size: spec.bytes,
            copy_of,
            ranges: &ranges,
            ..ObjectSpec::default()
        };
        self.make(context, spec.flags, &made).map_err(|error| code(&error))
    }

    /// Creates a volatile object that belongs to nobody's key.
    pub(in crate::machine) fn make_volatile(
        &self,
        context: ObjectId,
        rights: Rights,
    ) -> Result<ObjectId, PoolError> {
        self.make(context, create_flags::VOLATILE, &ObjectSpec { rights, ..ObjectSpec::default() })
    }

    /// Creates an object, with `context` as its creator; a volatile one goes with the session.
    fn make(&self, context: ObjectId, flags: u32, spec: &ObjectSpec<'_>) -> Result<ObjectId, PoolError> {
        // Deleted from the start: only the tie keeps it.
        let doomed = flags & create_flags::VOLATILE != 0;
        let session = [self.session];
        let ties: &[ObjectId] = if doomed { &session } else { &[] };
        let mut lot = [0; 8];
        random(&mut lot)?;
        let nonce = Some(creation_nonce(context, u64::from_le_bytes(lot)));
        self.pool.create_object(&ObjectSpec { nonce, kind: flags, ties, doomed, ..spec.clone() })
    }

    /// Creates a key object with this public part, or finds the one that there is: a key has one object.
    pub(in crate::machine) fn create_key(
        &self,
        context: ObjectId,
        public: &PublicKeyObject,
    ) -> Result<ObjectId, ErrorCode> {
        let public = sec::public_key_from_bytes(public.as_bytes()).map_err(|_| ErrorCode::BadArgument)?;
        let _held = self.permit(context, &[])?;
        let nonce = sec::key_nonce(public.kind, &public.key);
        let id = sec::object_id(&nonce, ObjectId::NULL, Rights::READ);
        if !self.pool.contains(id) {
            let spec = ObjectSpec { nonce: Some(nonce), rights: Rights::READ, ..ObjectSpec::default() };
            self.pool.create_object(&spec).map_err(|error| code(&error))?;
        }
        let object = self.pool.open_object(id).map_err(|error| code(&error))?;
        object.write(DATA_OFFSET, public.as_bytes()).map_err(|error| code(&error))?;
        Ok(id)
    }

    /// Deletes an object for a program. The gates of a context are closed when it returns; calls in progress go on.
    pub(in crate::machine) fn delete(&self, context: ObjectId, object: ObjectId) -> Result<(), ErrorCode> {
        let mut authority = self.permit(context, &[(object, Rights::DELETE)])?;
        if self.is_volatile(object)? {
            self.pool.untie(object, self.session).map_err(|error| code(&error))?;
        } else {
            self.pool.delete_object(object).map_err(|error| code(&error))?;
        }
        if !self.pool.contains(object) {
            authority.forget(object);
        }
        let is_context = lock(&self.contexts).find(object).is_some();
        if is_context {
            self.revise();
        }
        Ok(())
    }

    /// What the directory says, and what `context` may do.
    pub(in crate::machine) fn stat(
        &self,
        context: ObjectId,
        object: ObjectId,
    ) -> Result<ObjectStat, ErrorCode> {
        let mut authority = self.authority();
        let granted = self.rights(&mut authority, context, object)?;
        let epoch = authority.revocations().object_epoch(object);
        drop(authority);
        let stat = self.pool.stat_object(object).map_err(|error| code(&error))?;
        let opened = self.pool.open_object(object).map_err(|error| code(&error))?;
        let extents = opened.extents().map_err(|error| code(&error))?;
        Ok(ObjectStat {
            id: stat.id,
            key: stat.key,
            default_rights: stat.rights.bits(),
            flags: if stat.doomed {
                stat.kind & create_flags::ALL
            } else {
                stat.kind & create_flags::ALL & !create_flags::VOLATILE
            },
            allocated_bytes: extents.iter().map(|extent| extent.len).sum(),
            granted: granted.bits(),
            references: u32::try_from(stat.uses).unwrap_or(u32::MAX),
            epoch,
        })
    }

    /// Looks a name up.
    pub(in crate::machine) fn name_get(&self, name: &str) -> Result<ObjectId, ErrorCode> {
        self.pool.name_get(name).ok_or(ErrorCode::NoName)
    }

    /// The first name behind `after` in the order of bytes.
    pub(in crate::machine) fn name_next(&self, after: &str) -> Result<String, ErrorCode> {
        self.pool.name_after(after).ok_or(ErrorCode::NoName)
    }

    /// Names an object. One that is volatile takes only a name that is free, and stays from then on.
    pub(in crate::machine) fn name_set(
        &self,
        context: ObjectId,
        object: ObjectId,
        name: &str,
    ) -> Result<(), ErrorCode> {
        let _held = self.permit(context, &[(object, Rights::empty())])?;
        if !self.is_volatile(object)? {
            return self.pool.name_set(name, object).map_err(|error| code(&error));
        }
        self.pool.name_new(name, object).map_err(|error| code(&error))?;
        self.pool.untie(object, self.session).map(drop).map_err(|error| code(&error))
    }

    fn is_volatile(&self, object: ObjectId) -> Result<bool, ErrorCode> {
        let stat = self.pool.stat_object(object).map_err(|error| code(&error))?;
        Ok(stat.doomed && stat.kind & create_flags::VOLATILE != 0)
    }

    /// Makes a volatile object stay.
    pub(super) fn keep(&self, object: ObjectId) -> Result<(), ErrorCode> {
        if !self.is_volatile(object)? {
            let is_deleted = self.pool.stat_object(object).is_ok_and(|stat| stat.doomed);
            return if is_deleted { Err(ErrorCode::NoObject) } else { Ok(()) };
        }
        self.pool.keep_object(object).map_err(|error| code(&error))?;
        self.pool.untie(object, self.session).map(drop).map_err(|error| code(&error))
    }

    /// Takes a name away.
    pub(in crate::machine) fn name_remove(&self, name: &str) -> Result<(), ErrorCode> {
        self.pool.name_remove(name).map_err(|error| code(&error))
    }
}

fn to_pool(range: &CopyRange) -> pool::CopyRange {
    let CopyRange { source, source_offset, target_offset, bytes } = *range;
    pool::CopyRange { source, source_offset, target_offset, len: bytes }
}
