//! A small world for the tests: an owner, an object of hers, contexts, and somebody who is up to no good.

use crate::cap::Grant;
use crate::context::{Context, ObjectBytes};
use crate::key::{KeyFacts, KeyPair, Keys};
use crate::object::ObjectFacts;
use crate::revoke::Revocations;
use crate::verify::Request;
use std::collections::BTreeMap;
use std::vec::Vec;
use twz_abi::sec::{CONTEXT_OFFSET, RawCap};
use twz_abi::{ObjectId, Rights};
use zerocopy::IntoBytes;

/// "Now" in the tests.
pub(crate) const NOW: u64 = 1_000_000;

/// Sparse object bytes.
pub(crate) struct Bytes {
    words: BTreeMap<u64, u8>,
    length: u64,
}

impl Bytes {
    pub(crate) fn new() -> Self {
        Self::of_length(1 << 30)
    }

    pub(crate) fn of_length(length: u64) -> Self {
        Self { words: BTreeMap::new(), length }
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.words.extend((offset..).zip(bytes.iter().copied()));
    }
}

impl ObjectBytes for Bytes {
    fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        let end = offset.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return false;
        }
        for (at, byte) in (offset..).zip(into) {
            *byte = self.words.get(&at).copied().unwrap_or(0);
        }
        true
    }
}

/// Key objects by ID.
#[derive(Clone, Default)]
pub(crate) struct KeyRing(pub(crate) BTreeMap<ObjectId, KeyFacts>);

impl KeyRing {
    pub(crate) fn add(&mut self, key: &KeyPair) {
        let facts = KeyFacts { facts: key.object_facts(), object: key.public_object() };
        self.0.insert(key.id(), facts);
    }
}

impl Keys for KeyRing {
    fn key(&self, id: ObjectId) -> Option<KeyFacts> {
        self.0.get(&id).copied()
    }
}

pub(crate) struct World {
    /// Key object of the target.
    pub(crate) owner: KeyPair,
    /// Key of the context `alice`, who may pass on what she is given so.
    pub(crate) alice_key: KeyPair,
    /// A key of somebody with no rights at all.
    pub(crate) mallory: KeyPair,
    pub(crate) target: ObjectFacts,
    pub(crate) other: ObjectFacts,
    pub(crate) alice: ObjectId,
    pub(crate) bob: ObjectId,
    pub(crate) keys: KeyRing,
    pub(crate) revocations: Revocations,
    pub(crate) now: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        let [owner, alice_key, bob_key, mallory] = [1, 2, 3, 4].map(|seed| KeyPair::new(&[seed; 32]));
        let mut keys = KeyRing::default();
        for key in [&owner, &alice_key, &bob_key, &mallory] {
            keys.add(key);
        }
        let object = |nonce| ObjectFacts::new([nonce; 16], owner.id(), Rights::empty());
        let context = |nonce, key: &KeyPair| ObjectFacts::new([nonce; 16], key.id(), Rights::empty()).id;
        Self {
            target: object(10),
            other: object(11),
            alice: context(20, &alice_key),
            bob: context(21, &bob_key),
            owner,
            alice_key,
            mallory,
            keys,
            revocations: Revocations::default(),
            now: NOW,
        }
    }

    pub(crate) fn request(&self, accessor: ObjectId) -> Request<'_> {
        Request {
            target: &self.target,
            accessor,
            now: self.now,
            keys: &self.keys,
            revocations: &self.revocations,
        }
    }

    /// Read and write for alice, who may pass it on in up to three steps.
    pub(crate) fn for_alice(&self) -> Grant {
        Grant::new(self.target.id, self.alice, Rights::READ | Rights::WRITE).delegable(self.alice_key.id(), 3)
    }

    /// Read for bob.
    pub(crate) fn for_bob(&self) -> Grant {
        Grant::new(self.target.id, self.bob, Rights::READ)
    }

    /// A good chain of two: the owner's to alice, and alice's to bob.
    pub(crate) fn chain(&self) -> Vec<RawCap> {
        let parent = self.owner.grant(&self.for_alice());
        let child = self.alice_key.delegate(&parent, &self.for_bob()).unwrap();
        Vec::from([child, parent])
    }
}

/// A context object with `caps` in it.
pub(crate) fn context_with(mask: Rights, caps: &[RawCap]) -> (Context, Bytes) {
    let mut bytes = Bytes::new();
    bytes.write(CONTEXT_OFFSET, Context::new_header(false, false, mask, 64).as_bytes());
    let context = Context::read(&bytes).unwrap();
    for cap in caps {
        let offset = context.slot_for(&bytes, cap).unwrap();
        bytes.write(offset, cap.as_bytes());
    }
    (context, bytes)
}
