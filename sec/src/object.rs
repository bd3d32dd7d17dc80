//! Object IDs and what the monitor knows of an object.

use twz_abi::{ObjectId, Rights};

/// 128 random bits (or, for a key object, a commitment) that make an object's ID its own.
pub type Nonce = [u8; 16];

/// Separates these hashes from all others.
const DOMAIN: &[u8] = b"twizzler-object\0";

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

/// The ID of an object: BLAKE3 of domain, nonce, key and default rights, folded to 128 bits; never null.
///
/// The pool's directory checks IDs by the same function (docs/formats/pool.md).
#[must_use]
pub fn object_id(nonce: Nonce, key: ObjectId, default_rights: Rights) -> ObjectId {
    let rights = default_rights.bits().to_le_bytes();
    let hash = hash(DOMAIN, &[&nonce, &key.as_u128().to_le_bytes(), &rights]);
    ObjectId::from_u128(fold(&hash).max(1))
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

/// The exclusive or of the two halves of a hash.
pub(crate) fn fold(hash: &[u8; 32]) -> u128 {
    let (low, high) = hash.split_at(16);
    let number = |half: &[u8]| half.iter().rev().fold(0, |number, byte| number << 8 | u128::from(*byte));
    number(low) ^ number(high)
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

    /// The pool refuses objects whose ID is another.
    #[test]
    fn it_is_the_pools_function() {
        for (nonce, key, rights) in [(0, 0, 0), (7, 9, 3), (255, u128::MAX, 31)] {
            let (nonce, key) = ([nonce; 16], ObjectId::from_u128(key));
            let rights = Rights::from_bits_truncate(rights);
            assert_eq!(object_id(nonce, key, rights), pool::object_id(&nonce, key, rights));
        }
    }

    /// IDs stand in every pool and every FOT: the function may never change.
    #[test]
    fn the_function_is_frozen() {
        let id = object_id([0; 16], ObjectId::NULL, Rights::empty());
        assert_eq!(std::format!("{id}"), "20caf2065305904b:498fe263661a5dd3");
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
