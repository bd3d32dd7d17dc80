//! Taking rights back: signed statements, and the monitor's list of what they said.
//!
//! # Contract
//! - Whoever may grant may take back: a revocation is signed by the key of the object or context that it names, or, for
//!   one capability, by the key that signed that capability. The host may revoke anything ([`Revocation::by_host`]).
//! - A revocation of an object names the next epoch, so it works once: repeating an old one changes nothing.
//! - A revoked context is revoked for good, and everything delegated from its capabilities with it.
//! - Every change raises [`Revocations::change`], and no decision from before is used after.
//! - The list cannot be made to grow without bound: at most [`REVOKED_MAX`] capabilities an object; more need
//!   the object's epoch to be raised, which also empties them.

use crate::cap::{Cap, Digest};
use crate::decide::Decision;
use crate::key::{KeyPair, Keys};
use crate::object::{ObjectFacts, hash};
use crate::refusal::{Refusal, check, checks};
use crate::verify::signed_by;
use alloc::collections::{BTreeMap, BTreeSet};
use twz_abi::ObjectId;
use twz_abi::sec::{
    REVOCATION_MAGIC, REVOCATION_SIGNED_BYTES, RawCap, RawRevocation, RevocationRecord, SEC_VERSION,
    hash_kind, revocation_kind, signature_kind,
};
use zerocopy::IntoBytes;

/// Most capabilities to one object that can be revoked one by one.
pub const REVOKED_MAX: usize = 64;

const DIGEST_DOMAIN: &[u8] = b"twizzler revocation v1\0";
const SIGN_DOMAIN: &[u8; 28] = b"twizzler sign revocation v1\0";

/// What is taken back. Holding one proves that it was asked for by somebody who may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation(What);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Every capability to `target` from before `epoch`.
    Object { target: ObjectId, epoch: u64 },
    /// One capability and what was delegated from it.
    Capability { target: ObjectId, digest: Digest },
    /// Everything that a context holds.
    Context { context: ObjectId },
}

checks! {
/// Why a revocation was refused.
RevocationError {
    /// Magic, version, a reserved field, hash or signature kind.
    #[error("not a revocation of a known version and kind")]
    BadForm,
    /// An unknown kind.
    #[error("revokes something that this monitor does not know")]
    UnknownKind,
    /// A field that the kind does not use is not zero.
    #[error("says more than its kind allows")]
    Overloaded,
    /// About another object than the one looked up.
    #[error("it is about another object")]
    WrongTarget,
    /// The facts do not hash to the ID.
    #[error("the object's metadata is not what its ID was made of")]
    MetadataAltered,
    /// Signed by somebody who may not.
    #[error("its signer may not revoke this")]
    WrongKey,
    /// The signer's key object is missing, altered or of another kind.
    #[error("its signer's key object cannot be used")]
    UnusableKey,
    /// The signature does not fit.
    #[error("the signature is wrong")]
    BadSignature,
    /// Not the next epoch: an old revocation, or one that skips.
    #[error("it does not name the object's next epoch")]
    NotNextEpoch,
    /// [`REVOKED_MAX`] reached.
    #[error("too many capabilities to this object were revoked one by one: revoke the object's epoch")]
    TooMany,
}
}

impl KeyPair {
    /// Signs the end of every capability to `target` from before `epoch`, which must be its next.
    #[must_use]
    pub fn revoke_object(&self, target: ObjectId, epoch: u64) -> RawRevocation {
        self.sign_revocation(revocation_kind::OBJECT, target, epoch, Digest::NONE)
    }

    /// Signs the end of one capability.
    #[must_use]
    pub fn revoke_capability(&self, capability: &RawCap) -> RawRevocation {
        let digest = Digest::of(capability);
        self.sign_revocation(revocation_kind::CAPABILITY, capability.target, 0, digest)
    }

    /// Signs the end of everything that `context` holds.
    #[must_use]
    pub fn revoke_context(&self, context: ObjectId) -> RawRevocation {
        self.sign_revocation(revocation_kind::CONTEXT, context, 0, Digest::NONE)
    }

    fn sign_revocation(&self, kind: u32, target: ObjectId, epoch: u64, digest: Digest) -> RawRevocation {
        self.sign_raw_revocation(RawRevocation {
            magic: REVOCATION_MAGIC,
            version: SEC_VERSION,
            kind,
            target,
            epoch,
            digest: digest.0,
            signer: self.id(),
            hash: hash_kind::BLAKE3,
            signature_kind: signature_kind::ED25519,
            reserved0: 0,
            reserved1: [0; 4],
            signature: [0; 64],
        })
    }

    /// Signs the bytes as they are, sense or nonsense.
    pub(crate) fn sign_raw_revocation(&self, raw: RawRevocation) -> RawRevocation {
        RawRevocation { signature: self.sign(&message(&raw)), ..raw }
    }
}

fn message(raw: &RawRevocation) -> [u8; 60] {
    let signed = raw.as_bytes().get(..REVOCATION_SIGNED_BYTES).unwrap_or_default();
    let mut message = [0; 60];
    message[..28].copy_from_slice(SIGN_DOMAIN);
    message[28..].copy_from_slice(&hash(DIGEST_DOMAIN, &[signed]));
    message
}

impl Revocation {
    /// Verifies a signed revocation of (something about) the object or context `facts`.
    ///
    /// `capability` is the one that is revoked, if the revoker is its signer and not the object's key.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(
        raw: &RawRevocation,
        facts: &ObjectFacts,
        capability: Option<&RawCap>,
        keys: &dyn Keys,
    ) -> Result<Self, RevocationError> {
        let well_formed = raw.magic == REVOCATION_MAGIC
            && raw.version == SEC_VERSION
            && raw.hash == hash_kind::BLAKE3
            && raw.signature_kind == signature_kind::ED25519
            && raw.reserved0 == 0
            && raw.reserved1 == [0; 4];
        check(RevocationError::BadForm, well_formed)?;
        check(RevocationError::WrongTarget, raw.target == facts.id)?;
        check(RevocationError::MetadataAltered, facts.is_consistent())?;
        let (target, epoch, digest) = (raw.target, raw.epoch, Digest(raw.digest));
        let (what, spare) = match raw.kind {
            revocation_kind::OBJECT => (What::Object { target, epoch }, digest == Digest::NONE),
            revocation_kind::CAPABILITY => (What::Capability { target, digest }, epoch == 0),
            revocation_kind::CONTEXT => {
                (What::Context { context: target }, epoch == 0 && digest == Digest::NONE)
            }
            _ => return Err(RevocationError::UnknownKind),
        };
        check(RevocationError::Overloaded, spare)?;
        let by_key = !facts.key.is_null() && raw.signer == facts.key;
        let by_signer = matches!(what, What::Capability { .. })
            && capability
                .and_then(|raw| Cap::parse(raw, 0).ok())
                .is_some_and(|cap| cap.digest == digest && cap.target == target && cap.signer == raw.signer);
        check(RevocationError::WrongKey, by_key || by_signer)?;
        match signed_by(raw.signer, keys, &message(raw), &raw.signature) {
            Ok(()) => Ok(Self(what)),
            Err(Refusal::BadSignature) => check(RevocationError::BadSignature, false).map(|()| Self(what)),
            Err(_) => check(RevocationError::UnusableKey, false).map(|()| Self(what)),
        }
    }

    /// Whether a binding of `object` in `context`, made under `decision`, must end.
    #[must_use]
    pub fn affects(&self, context: ObjectId, object: ObjectId, decision: &Decision) -> bool {
        match self.0 {
            What::Object { target, .. } => object == target,
            What::Capability { target, .. } => object == target,
            What::Context { context: revoked } => context == revoked || decision.through.contains(&revoked),
        }
    }

    /// The host's own: everything that `context` holds ends.
    #[must_use]
    pub fn by_host_of_context(context: ObjectId) -> Self {
        Self(What::Context { context })
    }

    /// The host's own: one capability ends.
    #[must_use]
    pub fn by_host_of_capability(target: ObjectId, digest: Digest) -> Self {
        Self(What::Capability { target, digest })
    }
}

/// What was taken back so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    epochs: BTreeMap<ObjectId, u64>,
    capabilities: BTreeMap<ObjectId, BTreeSet<Digest>>,
    contexts: BTreeSet<ObjectId>,
    change: u64,
}

impl Revocations {
    /// The object's epoch: the one that new capabilities to it must name.
    #[must_use]
    pub fn object_epoch(&self, object: ObjectId) -> u64 {
        self.epochs.get(&object).copied().unwrap_or(0)
    }

    /// Whether a capability was revoked by itself.
    #[must_use]
    pub fn has_capability(&self, target: ObjectId, digest: Digest) -> bool {
        self.capabilities.get(&target).is_some_and(|digests| digests.contains(&digest))
    }

    /// Whether a context was revoked.
    #[must_use]
    pub fn has_context(&self, context: ObjectId) -> bool {
        self.contexts.contains(&context)
    }

    /// Raised by each change; decisions of another value are stale.
    #[must_use]
    pub fn change(&self) -> u64 {
        self.change
    }

    /// Makes every decision taken so far stale, for a change outside of this list.
    pub fn invalidate(&mut self) {
        self.change = self.change.wrapping_add(1);
    }

    /// The host's own revocation of an object: of all capabilities to it so far.
    #[must_use]
    pub fn by_host_of_object(&self, target: ObjectId) -> Revocation {
        Revocation(What::Object { target, epoch: self.object_epoch(target).saturating_add(1) })
    }

    /// Adds a revocation. The caller then makes it durable ([`Revocations::records`]) and ends the bindings.
    ///
    /// # Errors
    /// [`RevocationError::NotNextEpoch`] and [`RevocationError::TooMany`]; nothing is changed then.
    pub fn apply(&mut self, revocation: &Revocation) -> Result<(), RevocationError> {
        match revocation.0 {
            What::Object { target, epoch } => {
                let next = self.object_epoch(target).checked_add(1);
                check(RevocationError::NotNextEpoch, Some(epoch) == next)?;
                self.epochs.insert(target, epoch);
                self.capabilities.remove(&target); // they are all from before
            }
            What::Capability { target, digest } => {
                let known = self.capabilities.get(&target).map_or(0, BTreeSet::len);
                let room = known < REVOKED_MAX || self.has_capability(target, digest);
                check(RevocationError::TooMany, room)?;
                self.capabilities.entry(target).or_default().insert(digest);
            }
            What::Context { context } => {
                self.contexts.insert(context);
            }
        }
        self.invalidate();
        Ok(())
    }

    /// Forgets what concerns an object that was deleted: nobody makes another with its ID. That a context was revoked is kept: what it passed on
    /// is in the hands of others, and stays revoked.
    pub fn forget(&mut self, id: ObjectId) {
        self.epochs.remove(&id);
        self.capabilities.remove(&id);
        self.invalidate();
    }

    /// Everything, as it is stored.
    pub fn records(&self) -> impl Iterator<Item = RevocationRecord> + '_ {
        let record = |kind, target, epoch, digest: Digest| RevocationRecord {
            kind,
            reserved: 0,
            target,
            epoch,
            digest: digest.0,
        };
        let objects = self
            .epochs
            .iter()
            .map(move |(target, epoch)| record(revocation_kind::OBJECT, *target, *epoch, Digest::NONE));
        let capabilities = self.capabilities.iter().flat_map(move |(target, digests)| {
            digests.iter().map(move |digest| record(revocation_kind::CAPABILITY, *target, 0, *digest))
        });
        let contexts = self
            .contexts
            .iter()
            .map(move |context| record(revocation_kind::CONTEXT, *context, 0, Digest::NONE));
        objects.chain(capabilities).chain(contexts)
    }

    /// Reads what [`Revocations::records`] gave; free records are skipped.
    ///
    /// # Errors
    /// [`RevocationError::BadForm`] at the first record that is none: the list is the monitor's own, so a broken one
    /// means a broken pool, and forgetting a revocation would give rights back.
    pub fn from_records(
        records: impl IntoIterator<Item = RevocationRecord>,
    ) -> Result<Self, RevocationError> {
        let mut list = Self::default();
        for record in records {
            let RevocationRecord { kind, reserved, target, epoch, digest } = record;
            let digest = Digest(digest);
            let no_digest = digest == Digest::NONE;
            match kind {
                0 => {}
                revocation_kind::OBJECT if reserved == 0 && no_digest && epoch > 0 => {
                    list.epochs.insert(target, epoch);
                }
                revocation_kind::CAPABILITY if reserved == 0 && epoch == 0 => {
                    list.capabilities.entry(target).or_default().insert(digest);
                }
                revocation_kind::CONTEXT if reserved == 0 && no_digest && epoch == 0 => {
                    list.contexts.insert(target);
                }
                _ => return Err(RevocationError::BadForm),
            }
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::mutation;
    use crate::test_world::World;
    use proptest::prelude::*;
    use std::vec::Vec;
    use zerocopy::FromBytes;

    /// A revocation that somebody tries, and what it is about.
    struct Attempt {
        world: World,
        raw: RawRevocation,
        capability: Option<RawCap>,
    }

    impl Attempt {
        fn verify(&self) -> Result<Revocation, RevocationError> {
            let (facts, keys) = (&self.world.target, &self.world.keys);
            Revocation::verify(&self.raw, facts, self.capability.as_ref(), keys)
        }

        fn apply(&mut self) -> Result<(), RevocationError> {
            let revocation = self.verify()?;
            self.world.revocations.apply(&revocation)
        }
    }

    fn owner_signs(change: impl FnOnce(&World, &mut RawRevocation)) -> Attempt {
        let world = World::new();
        let mut raw = world.owner.revoke_object(world.target.id, 1);
        change(&world, &mut raw);
        let raw = world.owner.sign_raw_revocation(raw);
        Attempt { world, raw, capability: None }
    }

    /// The attack that each check is there for.
    fn attack(why: RevocationError) -> Attempt {
        match why {
            RevocationError::BadForm => owner_signs(|_, raw| raw.version = 2),
            RevocationError::UnknownKind => owner_signs(|_, raw| raw.kind = 4),
            RevocationError::Overloaded => owner_signs(|_, raw| raw.digest[0] = 1),
            RevocationError::WrongTarget => owner_signs(|world, raw| raw.target = world.other.id),
            RevocationError::MetadataAltered => {
                let mut attempt = owner_signs(|_, _| ());
                attempt.world.target.key = attempt.world.mallory.id();
                attempt.raw = attempt.world.mallory.revoke_object(attempt.raw.target, 1);
                attempt
            }
            RevocationError::WrongKey => {
                let mut attempt = owner_signs(|_, _| ());
                attempt.raw = attempt.world.mallory.revoke_object(attempt.raw.target, 1);
                attempt
            }
            RevocationError::UnusableKey => {
                let mut attempt = owner_signs(|_, _| ());
                attempt.world.keys.0.clear();
                attempt
            }
            RevocationError::BadSignature => {
                let mut attempt = owner_signs(|_, _| ());
                attempt.raw.signature[0] ^= 1;
                attempt
            }
            RevocationError::NotNextEpoch => owner_signs(|_, raw| raw.epoch = 2),
            RevocationError::TooMany => {
                let mut attempt = owner_signs(|_, _| ());
                for serial in 0..REVOKED_MAX as u64 {
                    let grant = crate::Grant { serial, ..attempt.world.for_alice() };
                    attempt.raw = attempt.world.owner.revoke_capability(&attempt.world.owner.grant(&grant));
                    attempt.apply().unwrap();
                }
                let more = attempt.world.owner.grant(&attempt.world.for_bob());
                attempt.raw = attempt.world.owner.revoke_capability(&more);
                attempt
            }
        }
    }

    #[test]
    fn each_attack_has_its_error_and_each_check_is_needed() {
        for why in RevocationError::ALL {
            assert_eq!(attack(*why).apply(), Err(*why));
            // An unknown kind has no meaning that could be accepted.
            if *why != RevocationError::UnknownKind {
                let mut attempt = attack(*why);
                assert_eq!(mutation::without(*why, || attempt.apply()), Ok(()), "without {why:?}");
            }
        }
    }

    #[test]
    fn every_field_of_the_form_is_looked_at() {
        let bad = [
            owner_signs(|_, raw| raw.magic = 0),
            owner_signs(|_, raw| raw.hash = 0),
            owner_signs(|_, raw| raw.signature_kind = 0),
            owner_signs(|_, raw| raw.reserved0 = 1),
            owner_signs(|_, raw| raw.reserved1[3] = 1),
        ];
        for attempt in bad {
            assert_eq!(attempt.verify(), Err(RevocationError::BadForm));
        }
        let overloaded = [
            owner_signs(|_, raw| (raw.kind, raw.epoch) = (revocation_kind::CAPABILITY, 1)),
            owner_signs(|_, raw| (raw.kind, raw.epoch) = (revocation_kind::CONTEXT, 1)),
            owner_signs(|_, raw| {
                (raw.kind, raw.epoch, raw.digest) = (revocation_kind::CONTEXT, 0, [1; 32]);
            }),
        ];
        for attempt in overloaded {
            assert_eq!(attempt.verify(), Err(RevocationError::Overloaded));
        }
    }

    #[test]
    fn an_old_revocation_changes_nothing() {
        let mut attempt = owner_signs(|_, _| ());
        attempt.apply().unwrap();
        let (epoch, change) = (attempt.world.revocations.object_epoch(attempt.world.target.id), 1);
        assert_eq!((epoch, attempt.world.revocations.change()), (1, change));
        assert_eq!(attempt.apply(), Err(RevocationError::NotNextEpoch));
        assert_eq!(attempt.world.revocations.change(), change);
    }

    #[test]
    fn the_signer_of_a_capability_may_revoke_it_and_no_other() {
        let world = World::new();
        let chain = world.chain();
        let verify =
            |raw: &RawRevocation, capability| Revocation::verify(raw, &world.target, capability, &world.keys);
        let own = world.alice_key.revoke_capability(&chain[0]);
        assert!(verify(&own, Some(&chain[0])).is_ok());
        assert_eq!(verify(&own, None), Err(RevocationError::WrongKey));
        assert_eq!(verify(&own, Some(&chain[1])), Err(RevocationError::WrongKey));
        let above = world.alice_key.revoke_capability(&chain[1]);
        assert_eq!(verify(&above, Some(&chain[1])), Err(RevocationError::WrongKey));
        assert_eq!(verify(&above, Some(&chain[0])), Err(RevocationError::WrongKey));
        // Nor may she, with that capability in hand, revoke the object, or fill another object's list.
        let elsewhere = RawRevocation { target: world.other.id, ..own };
        let elsewhere = world.alice_key.sign_raw_revocation(elsewhere);
        let result = Revocation::verify(&elsewhere, &world.other, Some(&chain[0]), &world.keys);
        assert_eq!(result, Err(RevocationError::WrongKey));
        let object = world.alice_key.revoke_object(world.target.id, 1);
        assert_eq!(verify(&object, Some(&chain[0])), Err(RevocationError::WrongKey));
    }

    #[test]
    fn an_object_without_a_key_is_revoked_by_the_host_only() {
        let mut world = World::new();
        world.target = ObjectFacts::new([1; 16], ObjectId::NULL, twz_abi::Rights::empty());
        let raw = world.owner.revoke_object(world.target.id, 1);
        let raw = world.owner.sign_raw_revocation(RawRevocation { signer: ObjectId::NULL, ..raw });
        let result = Revocation::verify(&raw, &world.target, None, &world.keys);
        assert_eq!(result, Err(RevocationError::WrongKey));
        let revocation = world.revocations.by_host_of_object(world.target.id);
        assert_eq!(world.revocations.apply(&revocation), Ok(()));
    }

    #[test]
    fn records_round_trip_and_broken_ones_are_refused() {
        let mut world = World::new();
        let cap = world.owner.grant(&world.for_alice());
        let host = [
            world.revocations.by_host_of_object(world.other.id),
            Revocation::by_host_of_capability(world.target.id, Digest::of(&cap)),
            Revocation::by_host_of_context(world.bob),
        ];
        for revocation in &host {
            world.revocations.apply(revocation).unwrap();
        }
        let records: Vec<_> = world.revocations.records().collect();
        assert_eq!(records.len(), 3);
        let again = Revocations::from_records(records.iter().copied()).unwrap();
        assert_eq!(again.object_epoch(world.other.id), 1);
        assert!(again.has_capability(world.target.id, Digest::of(&cap)));
        assert!(again.has_context(world.bob) && !again.has_context(world.alice));
        for record in records {
            for bad in [
                RevocationRecord { kind: 9, ..record },
                RevocationRecord { reserved: 1, ..record },
                RevocationRecord { epoch: 1 - record.epoch, ..record },
            ] {
                assert_eq!(Revocations::from_records([bad]), Err(RevocationError::BadForm), "{bad:?}");
            }
        }
        let mut forgetful = again;
        for id in [world.other.id, world.target.id, world.bob] {
            forgetful.forget(id);
        }
        let kept: Vec<_> = forgetful.records().map(|record| (record.kind, record.target)).collect();
        assert_eq!(kept, [(revocation_kind::CONTEXT, world.bob)], "what it passed on stays revoked");
    }

    #[test]
    fn raising_the_epoch_empties_the_list_of_capabilities() {
        let mut attempt = attack(RevocationError::TooMany);
        assert_eq!(attempt.world.revocations.records().count(), REVOKED_MAX);
        let again = attempt.world.owner.grant(&attempt.world.for_alice());
        let again = Revocation::by_host_of_capability(attempt.world.target.id, Digest::of(&again));
        assert_eq!(attempt.world.revocations.apply(&again), Ok(()), "revoked before: takes no room");
        let host = attempt.world.revocations.by_host_of_object(attempt.world.target.id);
        attempt.world.revocations.apply(&host).unwrap();
        assert_eq!(attempt.world.revocations.records().count(), 1);
        assert_eq!(attempt.apply(), Ok(()));
    }

    proptest! {
        #[test]
        fn no_flipped_byte_is_accepted(at in 0usize..192, flip in 1u8..) {
            let attempt = owner_signs(|_, _| ());
            let mut bytes = [0; 192];
            bytes.copy_from_slice(attempt.raw.as_bytes());
            bytes[at] ^= flip;
            let raw = RawRevocation::read_from_bytes(&bytes).unwrap();
            let result = Attempt { raw, ..attempt }.verify();
            prop_assert!(result.is_err());
        }

        #[test]
        fn no_records_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let records = bytes.chunks_exact(64).filter_map(|raw| RevocationRecord::read_from_bytes(raw).ok());
            let _ = Revocations::from_records(records);
        }
    }
}
