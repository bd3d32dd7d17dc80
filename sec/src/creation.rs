//! Who created an object, without a field for it.
//!
//! The monitor picks the nonce of an object, keeps it where nobody can write, and the object's ID is made of it. So
//! the nonce can say who created the object: its upper half is a tag of the creator's context, its lower half random.
//!
//! ```text
//!  15               8 7               0
//! +------------------+-----------------+
//! |  tag of creator  |     random      |
//! +------------------+-----------------+
//! ```
//! 64 bits of tag are enough because nobody can search for a context of a given tag at leisure: the ID of a context depends
//! on a nonce that the monitor picks, so each trial is a context really created. Key objects commit to their key instead
//! ([`crate::key_nonce`]) and have no creator; nor has what came from another machine, unless its context came along.

use crate::object::hash;
use object_id::{Nonce, fold};
use twz_abi::ObjectId;

const DOMAIN: &[u8] = b"twizzler creator v1\0";

/// The nonce for an object that a thread in `creator` creates. `random` is fresh for each object.
#[must_use]
pub fn creation_nonce(creator: ObjectId, random: u64) -> Nonce {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&random.to_le_bytes());
    nonce[8..].copy_from_slice(&tag(creator));
    nonce
}

/// Whether the object with this nonce was created in `context`. Nobody has created anything in no context.
#[must_use]
pub fn is_creator(nonce: Nonce, context: ObjectId) -> bool {
    !context.is_null() && nonce[8..] == tag(context)
}

fn tag(context: ObjectId) -> [u8; 8] {
    let folded = fold(&hash(DOMAIN, &[&context.as_u128().to_le_bytes()])).to_le_bytes();
    let mut tag = [0; 8];
    tag.copy_from_slice(&folded[..8]);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_creator_is_the_creator() {
        let (alice, bob) = (ObjectId::from_u128(1), ObjectId::from_u128(2));
        let nonce = creation_nonce(alice, 77);
        assert!(is_creator(nonce, alice));
        assert!(!is_creator(nonce, bob));
        assert!(!is_creator(creation_nonce(ObjectId::NULL, 1), ObjectId::NULL));
        assert_ne!(nonce, creation_nonce(alice, 78));
        for bit in 64..128 {
            let flipped = u128::from_le_bytes(nonce) ^ 1 << bit;
            assert!(!is_creator(flipped.to_le_bytes(), alice), "bit {bit}");
        }
    }
}
