//! The pool as `sec` wants to see it: facts that the directory keeps, bytes that anybody may have written.

use pool::Pool;
use sec::{ObjectBytes, ObjectFacts, Objects};
use twz_abi::ObjectId;

/// A pool, to decide by.
pub(super) struct PoolObjects<'a>(pub(super) &'a Pool);

impl Objects for PoolObjects<'_> {
    fn facts(&self, id: ObjectId) -> Option<ObjectFacts> {
        // One that was deleted may still be in use; nobody gets at it, or through it, any more.
        let stat = self.0.stat_object(id).ok().filter(|stat| !stat.doomed || self.0.contains(id))?;
        Some(ObjectFacts { id: stat.id, nonce: stat.nonce, key: stat.key, default_rights: stat.rights })
    }

    fn read(&self, id: ObjectId, offset: u64, into: &mut [u8]) -> bool {
        self.0.open_object(id).and_then(|object| object.read(offset, into)).is_ok()
    }
}

/// One object's bytes.
pub(super) struct Bytes<'a>(pub(super) &'a Pool, pub(super) ObjectId);

impl ObjectBytes for Bytes<'_> {
    fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        PoolObjects(self.0).read(self.1, offset, into)
    }
}
