//! Object IDs are hashes.

use twz_abi::{ObjectId, Rights};

/// What separates these hashes from all other uses of BLAKE3.
const DOMAIN: &[u8; 16] = b"twizzler-object\0";

/// The ID of the object with this nonce, key object and default rights: the BLAKE3 hash of domain, nonce, key (low half
/// first) and rights, little-endian, folded to 128 bits by exclusive or of its halves. Never null.
#[must_use]
pub fn object_id(nonce: &[u8; 16], key: ObjectId, rights: Rights) -> ObjectId {
    id_of_bits(nonce, key, rights.bits())
}

pub(crate) fn id_of_bits(nonce: &[u8; 16], key: ObjectId, rights: u32) -> ObjectId {
    let mut input = [0; 52];
    input[..16].copy_from_slice(DOMAIN);
    input[16..32].copy_from_slice(nonce);
    input[32..48].copy_from_slice(&key.as_u128().to_le_bytes());
    input[48..].copy_from_slice(&rights.to_le_bytes());
    let hash = blake3::hash(&input);
    let half = |from: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_bytes()[from..from + 16]);
        u128::from_le_bytes(bytes)
    };
    // Nobody will meet the null hash, but a promise is a promise.
    ObjectId::from_u128((half(0) ^ half(16)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pools outlive programs: the hash may never change.
    #[test]
    fn is_what_it_always_was() {
        let id = object_id(&[7; 16], ObjectId::from_u128(9), Rights::READ | Rights::WRITE);
        assert_eq!(id, object_id(&[7; 16], ObjectId::from_u128(9), Rights::READ | Rights::WRITE));
        assert_ne!(id, object_id(&[8; 16], ObjectId::from_u128(9), Rights::READ | Rights::WRITE));
        assert_ne!(id, object_id(&[7; 16], ObjectId::from_u128(8), Rights::READ | Rights::WRITE));
        assert_ne!(id, object_id(&[7; 16], ObjectId::from_u128(9), Rights::READ));
    }
}
