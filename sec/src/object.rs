//! What the monitor knows of an object.

use object_id::{Nonce, object_id};
use twz_abi::{ObjectId, Rights};

/// What the monitor keeps of an object, where no writer of the object reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectFacts {
    /// Its ID.
    pub id: ObjectId,
    /// Its nonce.
    pub nonce: Nonce,
    /// The key object that may grant rights to it; null: nobody can.
    pub key: ObjectId,
    /// Rights that everybody has.
    pub default_rights: Rights,
}

impl ObjectFacts {
    /// The facts of a new object.
    #[must_use]
    pub fn new(nonce: Nonce, key: ObjectId, default_rights: Rights) -> Self {
        Self { id: object_id(&nonce, key, default_rights), nonce, key, default_rights }
    }

    /// Whether the ID is that of the other three: false after any of them was edited.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        object_id(&self.nonce, self.key, self.default_rights) == self.id
    }
}

/// BLAKE3 of a domain and parts of fixed lengths.
pub(crate) fn hash(domain: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edited_facts_are_inconsistent() {
        let facts = ObjectFacts::new([1; 16], ObjectId::from_u128(2), Rights::READ);
        assert!(facts.is_consistent());
        assert!(!ObjectFacts { default_rights: Rights::all(), ..facts }.is_consistent());
        assert!(!ObjectFacts { key: ObjectId::NULL, ..facts }.is_consistent());
        assert!(!ObjectFacts { nonce: [2; 16], ..facts }.is_consistent());
    }
}
