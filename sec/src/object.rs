//! Object IDs and what the monitor knows of an object.

use sha2::{Digest as _, Sha256};
use twz_abi::{ObjectId, Rights};

/// 128 random bits (or, for a key object, a commitment) that make an object's ID its own.
pub type Nonce = [u8; 16];

/// Separates these hashes from all others.
const DOMAIN: &[u8] = b"twizzler object id v1\0";

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
        Self { id: object_id(nonce, key, default_rights), nonce, key, default_rights }
    }

    /// Whether the ID is that of the other three: false after any of them was edited.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        object_id(self.nonce, self.key, self.default_rights) == self.id
    }
}

/// The ID of an object: SHA-256 of domain, nonce, key and default rights (little-endian), its halves XORed.
#[must_use]
pub fn object_id(nonce: Nonce, key: ObjectId, default_rights: Rights) -> ObjectId {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    hash.update(nonce);
    hash.update(key.as_u128().to_le_bytes());
    hash.update(default_rights.bits().to_le_bytes());
    let (low, high) = split(&hash.finalize().into());
    ObjectId::from_u128(u128::from_le_bytes(low) ^ u128::from_le_bytes(high))
}

/// The two halves of a SHA-256.
pub(crate) fn split(digest: &[u8; 32]) -> ([u8; 16], [u8; 16]) {
    let (mut low, mut high) = ([0; 16], [0; 16]);
    low.copy_from_slice(&digest[..16]);
    high.copy_from_slice(&digest[16..]);
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_depends_on_each_of_its_sources() {
        let (nonce, key) = ([7; 16], ObjectId::from_u128(9));
        let id = object_id(nonce, key, Rights::READ);
        assert_ne!(id, object_id([8; 16], key, Rights::READ));
        assert_ne!(id, object_id(nonce, ObjectId::from_u128(10), Rights::READ));
        assert_ne!(id, object_id(nonce, key, Rights::READ | Rights::WRITE));
        assert_eq!(id, object_id(nonce, key, Rights::READ));
    }

    /// IDs stand in every pool and every FOT: the function may never change.
    #[test]
    fn the_function_is_frozen() {
        let id = object_id([0; 16], ObjectId::NULL, Rights::empty());
        assert_eq!(std::format!("{id}"), "04055b1766ade141:552cfe5fc69180b0");
    }

    #[test]
    fn edited_facts_are_inconsistent() {
        let facts = ObjectFacts::new([1; 16], ObjectId::from_u128(2), Rights::READ);
        assert!(facts.is_consistent());
        assert!(!ObjectFacts { default_rights: Rights::all(), ..facts }.is_consistent());
        assert!(!ObjectFacts { key: ObjectId::NULL, ..facts }.is_consistent());
        assert!(!ObjectFacts { nonce: [2; 16], ..facts }.is_consistent());
    }
}
