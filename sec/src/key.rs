//! Keys as objects.
//!
//! A key object's nonce is a commitment to its public key, and its ID is made of the nonce. So the ID in a capability
//! stands for one key for ever: writing other bytes into the object makes it useless ([`Refusal::KeyReplaced`]), not
//! another key. Whoever makes one calls the monitor with [`KeyPair::object_nonce`] as the nonce.
//!
//! [`Refusal::KeyReplaced`]: crate::Refusal::KeyReplaced

use crate::object::{ObjectFacts, hash};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use object_id::{Nonce, fold};
use thiserror::Error;
use twz_abi::sec::{
    PRIVATE_KEY_MAGIC, PUBLIC_KEY_MAGIC, PrivateKeyObject, PublicKeyObject, SEC_VERSION, signature_kind,
};
use twz_abi::{ObjectId, Rights};
use zerocopy::FromBytes;

const NONCE_DOMAIN: &[u8] = b"twizzler key nonce v1\0";

/// Bytes are no key object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Fewer bytes than the structure.
    #[error("too short for a key object")]
    TooShort,
    /// Magic, version, kind or reserved field.
    #[error("not a key object of a known version and kind")]
    NotAKey,
    /// The stored object ID is not that of the secret.
    #[error("the private key does not belong to the key object that it names")]
    Mismatch,
}

/// A public key that signatures can be checked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Decodes a point; `None` if the bytes are none.
    #[must_use]
    pub fn decode(bytes: &[u8; 32]) -> Option<Self> {
        VerifyingKey::from_bytes(bytes).ok().map(Self)
    }

    /// Whether `signature` is this key's on `message`, strictly (no small-order keys, one encoding).
    #[must_use]
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

/// What the monitor finds when it looks a key object up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// What it keeps of the object.
    pub facts: ObjectFacts,
    /// A copy of the object's first data bytes: a claim.
    pub object: PublicKeyObject,
}

/// Finds key objects.
pub trait Keys {
    /// The key object `id`, if there is one.
    fn key(&self, id: ObjectId) -> Option<KeyFacts>;
}

/// The nonce that a key object must have been created with.
#[must_use]
pub fn key_nonce(kind: u16, key: &[u8; 32]) -> Nonce {
    fold(&hash(NONCE_DOMAIN, &[&kind.to_le_bytes(), key])).to_le_bytes()
}

/// Copies the public part out of the data of a key object. The key itself is still a claim.
///
/// # Errors
/// [`KeyError::TooShort`]; what stands in the fields is looked at by the verification.
pub fn public_key_from_bytes(bytes: &[u8]) -> Result<PublicKeyObject, KeyError> {
    PublicKeyObject::read_from_prefix(bytes).map(|(key, _)| key).map_err(|_| KeyError::TooShort)
}

/// Whether the fields beside the key are those of a key object that we know.
pub(crate) fn is_well_formed(key: &PublicKeyObject) -> bool {
    key.magic == PUBLIC_KEY_MAGIC
        && key.version == SEC_VERSION
        && key.kind == signature_kind::ED25519
        && key.reserved == 0
}

/// A secret, with the object that its public part stands in. Wiped when dropped.
pub struct KeyPair {
    id: ObjectId,
    secret: SigningKey,
}

impl KeyPair {
    /// Makes a key of 32 random bytes, and the ID that its key object will have: no key of its own, readable by all.
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Self {
        let secret = SigningKey::from_bytes(seed);
        let nonce = key_nonce(signature_kind::ED25519, secret.verifying_key().as_bytes());
        Self { id: ObjectFacts::new(nonce, ObjectId::NULL, Rights::READ).id, secret }
    }

    /// Reads a private key object.
    ///
    /// # Errors
    /// [`KeyError`]: the bytes are none, or name a key object that [`KeyPair::new`] would not have made.
    pub fn from_private_object(bytes: &[u8]) -> Result<Self, KeyError> {
        let (object, _) = PrivateKeyObject::read_from_prefix(bytes).map_err(|_| KeyError::TooShort)?;
        let well_formed = object.magic == PRIVATE_KEY_MAGIC
            && object.version == SEC_VERSION
            && object.kind == signature_kind::ED25519
            && object.reserved == 0;
        if !well_formed {
            return Err(KeyError::NotAKey);
        }
        let pair = Self::new(&object.seed);
        if pair.id == object.public { Ok(pair) } else { Err(KeyError::Mismatch) }
    }

    /// ID of the key object.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// The nonce to create the key object with.
    #[must_use]
    pub fn object_nonce(&self) -> Nonce {
        key_nonce(signature_kind::ED25519, self.secret.verifying_key().as_bytes())
    }

    /// What the monitor keeps of the key object.
    #[must_use]
    pub fn object_facts(&self) -> ObjectFacts {
        ObjectFacts::new(self.object_nonce(), ObjectId::NULL, Rights::READ)
    }

    /// Data of the key object.
    #[must_use]
    pub fn public_object(&self) -> PublicKeyObject {
        PublicKeyObject {
            magic: PUBLIC_KEY_MAGIC,
            version: SEC_VERSION,
            kind: signature_kind::ED25519,
            reserved: 0,
            key: self.secret.verifying_key().to_bytes(),
        }
    }

    /// Data of the private key object.
    #[must_use]
    pub fn private_object(&self) -> PrivateKeyObject {
        PrivateKeyObject {
            magic: PRIVATE_KEY_MAGIC,
            version: SEC_VERSION,
            kind: signature_kind::ED25519,
            reserved: 0,
            public: self.id,
            seed: self.secret.to_bytes(),
        }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.secret.sign(message).to_bytes()
    }
}

impl core::fmt::Debug for KeyPair {
    /// The ID only: no log shows a secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "KeyPair({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn a_private_object_round_trips() {
        let pair = KeyPair::new(&[3; 32]);
        let object = pair.private_object();
        let again = KeyPair::from_private_object(object.as_bytes()).unwrap();
        assert_eq!(again.id(), pair.id());
        assert_eq!(again.sign(b"x"), pair.sign(b"x"));
        assert_eq!(pair.object_facts().id, pair.id());
    }

    #[test]
    fn bytes_that_are_no_private_key_are_refused() {
        let good = KeyPair::new(&[3; 32]).private_object();
        let read = |object: &PrivateKeyObject| KeyPair::from_private_object(object.as_bytes()).err();
        assert_eq!(KeyPair::from_private_object(&[0; 63]).err(), Some(KeyError::TooShort));
        assert_eq!(read(&PrivateKeyObject { magic: 1, ..good }), Some(KeyError::NotAKey));
        assert_eq!(read(&PrivateKeyObject { version: 2, ..good }), Some(KeyError::NotAKey));
        assert_eq!(read(&PrivateKeyObject { kind: 2, ..good }), Some(KeyError::NotAKey));
        assert_eq!(read(&PrivateKeyObject { reserved: 1, ..good }), Some(KeyError::NotAKey));
        let other = KeyPair::new(&[4; 32]).id();
        assert_eq!(read(&PrivateKeyObject { public: other, ..good }), Some(KeyError::Mismatch));
    }

    #[test]
    fn a_debug_text_holds_no_secret() {
        let pair = KeyPair::new(&[0xab; 32]);
        assert!(!std::format!("{pair:?}").contains("171, 171"));
        assert!(std::format!("{pair:?}").len() < 60);
    }

    #[test]
    fn the_nonce_commits_to_kind_and_key() {
        assert_ne!(key_nonce(1, &[1; 32]), key_nonce(1, &[2; 32]));
        assert_ne!(key_nonce(1, &[1; 32]), key_nonce(2, &[1; 32]));
    }
}
