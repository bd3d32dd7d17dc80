//! Object IDs are hashes: what the pool checks when it opens an object, and `sec` when it decides about one, is this function.
//!
//! # Contract
//! - [`object_id`] never changes: IDs stand in every pool and every FOT (`docs/formats/pool.md`).
//! - It is never null, and needs nothing but its arguments.
#![no_std]
#![forbid(unsafe_code)]

use twz_abi::{ObjectId, Rights};

/// 128 bits that make an object's ID its own: random ones, or a commitment (`docs/formats/security.md`).
pub type Nonce = [u8; 16];

/// What separates these hashes from all other uses of BLAKE3.
const DOMAIN: &[u8; 16] = b"twizzler-object\0";

/// The ID of the object with this nonce, key object and default rights: the BLAKE3 hash of domain, nonce, key (low half first) and rights,
/// little-endian, [folded](fold). Rights may have bits that are not defined; they count.
#[must_use]
pub fn object_id(nonce: &Nonce, key: ObjectId, default_rights: Rights) -> ObjectId {
    let mut input = [0; 52];
    input[..16].copy_from_slice(DOMAIN);
    input[16..32].copy_from_slice(nonce);
    input[32..48].copy_from_slice(&key.as_u128().to_le_bytes());
    input[48..].copy_from_slice(&default_rights.bits().to_le_bytes());
    // Nobody will meet the null hash, but a promise is a promise.
    ObjectId::from_u128(fold(blake3::hash(&input).as_bytes()).max(1))
}

/// The exclusive or of the two halves of a hash, as little-endian numbers.
#[must_use]
pub fn fold(hash: &[u8; 32]) -> u128 {
    let half = |from: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[from..from + 16]);
        u128::from_le_bytes(bytes)
    };
    half(0) ^ half(16)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn an_id_depends_on_each_of_its_sources() {
        let (nonce, key) = ([7; 16], ObjectId::from_u128(9));
        let id = object_id(&nonce, key, Rights::READ);
        assert_ne!(id, object_id(&[8; 16], key, Rights::READ));
        assert_ne!(id, object_id(&nonce, ObjectId::from_u128(10), Rights::READ));
        assert_ne!(id, object_id(&nonce, key, Rights::READ | Rights::WRITE));
        assert_ne!(id, object_id(&nonce, key, Rights::from_bits_retain(1 << 31 | 1)));
        assert_eq!(id, object_id(&nonce, key, Rights::READ));
    }

    #[test]
    fn the_function_is_frozen() {
        let id = object_id(&[0; 16], ObjectId::NULL, Rights::empty());
        assert_eq!(std::format!("{id}"), "20caf2065305904b:498fe263661a5dd3");
    }
}
