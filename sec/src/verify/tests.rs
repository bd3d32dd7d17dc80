//! One attack for each check. [`each_check_is_needed`] makes sure that it is that check, and nothing else, that stops it.

use super::*;
use crate::cap::Grant;
use crate::key::{KeyFacts, KeyPair};
use crate::refusal::mutation;
use crate::revoke::Revocation;
use crate::test_world::{NOW, World};
use proptest::prelude::*;
use std::{format, vec};
use twz_abi::sec::RawGateSet;
use zerocopy::{FromBytes, IntoBytes};

/// A world, and a chain that somebody tries in it.
struct Attempt {
    world: World,
    chain: Vec<RawCap>,
    accessor: ObjectId,
}

impl Attempt {
    fn verify(&self) -> Result<Verified, CapError> {
        verify(&self.chain, &self.world.request(self.accessor))
    }
}

/// Alice uses `chain`.
fn by_alice(world: World, chain: Vec<RawCap>) -> Attempt {
    let accessor = world.alice;
    Attempt { world, chain, accessor }
}

/// Bob uses `chain`.
fn by_bob(world: World, chain: Vec<RawCap>) -> Attempt {
    let accessor = world.bob;
    Attempt { world, chain, accessor }
}

/// The owner signs alice's capability after `change`.
fn owner_signs(change: impl FnOnce(&World, &mut RawCap)) -> Attempt {
    let world = World::new();
    let mut raw = world.owner.grant(&world.for_alice());
    change(&world, &mut raw);
    let raw = world.owner.sign_raw(raw);
    by_alice(world, vec![raw])
}

/// Somebody signs bob's part of what the owner gave alice.
fn passed_on(
    parent: impl FnOnce(&World, Grant) -> Grant,
    child: impl FnOnce(&World, Grant) -> Grant,
    signer: impl FnOnce(&World) -> &KeyPair,
) -> Attempt {
    let world = World::new();
    let parent = world.owner.grant(&parent(&world, world.for_alice()));
    let child = child(&world, world.for_bob());
    let child = signer(&world).sign_cap(&child, Digest::of(&parent));
    by_bob(world, vec![child, parent])
}

/// Mallory signs in the owner's name, in a world where looking the owner's key object up gives `found`.
fn with_key(found: impl FnOnce(&World) -> KeyFacts) -> Attempt {
    let mut world = World::new();
    let raw = world.owner.grant(&world.for_alice());
    let raw = world.mallory.sign_raw(raw);
    let found = found(&world);
    world.keys.0.insert(world.owner.id(), found);
    by_alice(world, vec![raw])
}

fn same(_: &World, grant: Grant) -> Grant {
    grant
}

/// The attack that the check `why` is there for. Exhaustive, so that a new check needs a new attack.
#[allow(clippy::too_many_lines, reason = "a table")]
fn attack(why: Refusal) -> Attempt {
    let alice_key = |world: &World| world.alice_key.id();
    match why {
        Refusal::NoCapability => by_alice(World::new(), vec![]),
        Refusal::ChainTooLong => {
            let world = World::new();
            let grant = |left| Grant { links_left: left, ..world.for_alice() };
            let mut chain = vec![world.owner.grant(&grant(20))];
            for left in (12..20).rev() {
                let link = world.alice_key.delegate(&chain[0], &grant(left)).unwrap();
                chain.insert(0, link);
            }
            by_alice(world, chain)
        }
        Refusal::MetadataAltered => {
            let mut world = World::new();
            world.target.key = world.mallory.id();
            let raw = world.mallory.grant(&world.for_alice());
            by_alice(world, vec![raw])
        }
        Refusal::TargetWithoutKey => {
            let mut world = World::new();
            world.target = ObjectFacts::new([10; 16], ObjectId::NULL, Rights::empty());
            let raw = world.mallory.grant(&world.for_alice());
            by_alice(world, vec![raw])
        }
        Refusal::BadMagic => owner_signs(|_, raw| raw.magic ^= 1),
        Refusal::BadVersion => owner_signs(|_, raw| raw.version = 2),
        Refusal::ReservedSet => owner_signs(|_, raw| raw.flags = 1),
        Refusal::UnknownHash => owner_signs(|_, raw| raw.hash = 2),
        Refusal::UnknownSignature => owner_signs(|_, raw| raw.signature_kind = 2),
        Refusal::UnknownRights => owner_signs(|_, raw| raw.rights |= 1 << 31),
        Refusal::BadGates => owner_signs(|_, raw| raw.gates.first = 1),
        Refusal::NullId => {
            let attempt = owner_signs(|_, raw| raw.accessor = ObjectId::NULL);
            Attempt { accessor: ObjectId::NULL, ..attempt }
        }
        Refusal::GivesNothing => owner_signs(|_, raw| raw.rights = 0),
        Refusal::WrongTarget => owner_signs(|world, raw| raw.target = world.other.id),
        Refusal::WrongAccessor => {
            let world = World::new();
            let raw = world.owner.grant(&world.for_alice());
            by_bob(world, vec![raw])
        }
        Refusal::NotYetValid => owner_signs(|_, raw| raw.not_before = NOW + 1),
        Refusal::Expired => owner_signs(|_, raw| raw.not_after = NOW),
        Refusal::RevokedWithObject => {
            let mut world = World::new();
            let raw = world.owner.grant(&world.for_alice());
            let revocation = world.revocations.by_host_of_object(world.target.id);
            world.revocations.apply(&revocation).unwrap();
            by_alice(world, vec![raw])
        }
        Refusal::FromTheFuture => owner_signs(|_, raw| raw.epoch = 1),
        Refusal::RevokedItself => {
            let mut world = World::new();
            let raw = world.owner.grant(&world.for_alice());
            let revocation = Revocation::by_host_of_capability(world.target.id, Digest::of(&raw));
            world.revocations.apply(&revocation).unwrap();
            by_alice(world, vec![raw])
        }
        Refusal::RevokedContext => {
            let mut world = World::new();
            let chain = world.chain();
            world.revocations.apply(&Revocation::by_host_of_context(world.alice)).unwrap();
            by_bob(world, chain)
        }
        Refusal::WrongKey => {
            let world = World::new();
            let raw = world.mallory.grant(&world.for_alice());
            by_alice(world, vec![raw])
        }
        Refusal::NotTheHolder => passed_on(same, same, |world| &world.mallory),
        Refusal::NotDelegable => {
            passed_on(|_, grant| grant.delegable(ObjectId::NULL, 3), same, |world| &world.alice_key)
        }
        Refusal::TooManyLinks => passed_on(
            |world, grant| grant.delegable(alice_key(world), 1),
            |world, grant| grant.delegable(alice_key(world), 1),
            |world| &world.alice_key,
        ),
        Refusal::WrongParent => {
            let world = World::new();
            let parent = world.owner.grant(&world.for_alice());
            let other = world.owner.grant(&Grant { serial: 1, ..world.for_alice() });
            let child = world.alice_key.delegate(&parent, &world.for_bob()).unwrap();
            by_bob(world, vec![child, other])
        }
        Refusal::MissingParent => {
            let world = World::new();
            let raw = world.owner.sign_cap(&world.for_alice(), Digest([1; 32]));
            by_alice(world, vec![raw])
        }
        Refusal::WidensRights => passed_on(
            same,
            |_, grant| Grant { rights: Rights::READ | Rights::EXEC, ..grant },
            |world| &world.alice_key,
        ),
        Refusal::WidensGates => passed_on(
            same,
            |_, grant| Grant { gates: GateSet::one(3).unwrap(), ..grant },
            |world| &world.alice_key,
        ),
        Refusal::UnknownKey => with_key(|world| world.keys.0[&world.mallory.id()]),
        Refusal::KeyMetadataAltered => with_key(|world| KeyFacts {
            facts: ObjectFacts { id: world.owner.id(), ..world.mallory.object_facts() },
            object: world.mallory.public_object(),
        }),
        Refusal::KeyReplaced => with_key(|world| KeyFacts {
            facts: world.owner.object_facts(),
            object: world.mallory.public_object(),
        }),
        Refusal::BadKey => {
            let mut world = World::new();
            let object = twz_abi::sec::PublicKeyObject { kind: 2, ..world.mallory.public_object() };
            let nonce = key_nonce(object.kind, &object.key);
            let facts = ObjectFacts::new(nonce, ObjectId::NULL, Rights::READ);
            world.keys.0.insert(facts.id, KeyFacts { facts, object });
            world.target = ObjectFacts::new([10; 16], facts.id, Rights::empty());
            let raw = world.mallory.grant(&world.for_alice());
            let raw = world.mallory.sign_raw(RawCap { signer: facts.id, ..raw });
            by_alice(world, vec![raw])
        }
        Refusal::BadSignature => {
            let mut attempt = owner_signs(|_, _| ());
            attempt.chain[0].signature[5] ^= 1;
            attempt
        }
    }
}

#[test]
fn good_chains_give_what_they_say() {
    let world = World::new();
    let raw = world.owner.grant(&world.for_alice());
    let verified = verify(&[raw], &world.request(world.alice)).unwrap();
    assert_eq!(verified.rights, Rights::READ | Rights::WRITE);
    assert_eq!(verified.digest, Digest::of(&raw));
    let verified = verify(&world.chain(), &world.request(world.bob)).unwrap();
    assert_eq!(verified.rights, Rights::READ);
    assert_eq!(verified.validity, Validity::ALWAYS);
}

#[test]
fn a_chain_of_the_greatest_length_holds() {
    let mut attempt = attack(Refusal::ChainTooLong);
    attempt.chain.remove(0);
    assert_eq!(attempt.chain.len(), CHAIN_MAX);
    assert!(attempt.verify().is_ok());
}

#[test]
fn each_attack_has_its_refusal() {
    for why in Refusal::ALL {
        let error = attack(*why).verify().expect_err(&format!("{why:?} must be refused"));
        assert_eq!(error.why, *why);
    }
}

/// The mutation test: with one check switched off, exactly its attack goes through. So each check is there, does
/// something that no other does, and has a test that fails without it.
#[test]
fn each_check_is_needed() {
    for why in Refusal::ALL {
        // Without a link there is nothing that could be accepted.
        if *why == Refusal::NoCapability {
            continue;
        }
        let result = mutation::without(*why, || attack(*why).verify());
        assert!(result.is_ok(), "without {why:?} its attack is still stopped, by {result:?}");
    }
}

#[test]
fn the_faulty_link_is_named() {
    assert_eq!(attack(Refusal::RevokedContext).verify().unwrap_err().link, 1);
    let mut world = World::new();
    let chain = world.chain();
    world.keys.0.remove(&world.owner.id());
    let error = verify(&chain, &world.request(world.bob)).unwrap_err();
    assert_eq!(error, CapError { link: 1, why: Refusal::UnknownKey });
}

#[test]
fn every_reserved_field_and_every_id_is_looked_at() {
    let reserved = [
        owner_signs(|_, raw| raw.reserved0 = 1),
        owner_signs(|_, raw| raw.reserved1[0] = 1),
        owner_signs(|_, raw| raw.reserved1[1] = 1 << 63),
    ];
    for attempt in reserved {
        assert_eq!(attempt.verify().unwrap_err().why, Refusal::ReservedSet);
    }
    for attempt in
        [owner_signs(|_, raw| raw.target = ObjectId::NULL), owner_signs(|_, raw| raw.signer = ObjectId::NULL)]
    {
        assert_eq!(attempt.verify().unwrap_err().why, Refusal::NullId);
    }
    let bad_gates = RawGateSet { first: 0, length: 1, stride: 1, reserved: 1 };
    let attempt = owner_signs(|_, raw| raw.gates = bad_gates);
    assert_eq!(attempt.verify().unwrap_err().why, Refusal::BadGates);
}

#[test]
fn time_is_checked_at_every_link_and_to_the_nanosecond() {
    let valid = |from, until| Validity { from, until };
    let chain = |parent, child| {
        passed_on(
            move |_, grant| Grant { validity: parent, ..grant },
            move |_, grant| Grant { validity: child, ..grant },
            |world| &world.alice_key,
        )
        .verify()
    };
    let why = |result: Result<Verified, CapError>| result.unwrap_err().why;
    assert_eq!(why(chain(valid(0, NOW), Validity::ALWAYS)), Refusal::Expired);
    assert_eq!(why(chain(Validity::ALWAYS, valid(0, NOW))), Refusal::Expired);
    assert_eq!(why(chain(valid(NOW + 1, u64::MAX), Validity::ALWAYS)), Refusal::NotYetValid);
    let both = chain(valid(NOW, NOW + 9), valid(3, NOW + 1)).unwrap();
    assert_eq!(both.validity, valid(NOW, NOW + 1));
    assert!(!Validity::ALWAYS.is_over(u64::MAX), "what never ends has not ended at the end of time");
}

#[test]
fn epochs_are_checked_at_every_link() {
    let chain = |parent: u64, child: u64| {
        let mut attempt = passed_on(
            move |_, grant| Grant { epoch: parent, ..grant },
            move |_, grant| Grant { epoch: child, ..grant },
            |world| &world.alice_key,
        );
        let revocation = attempt.world.revocations.by_host_of_object(attempt.world.target.id);
        attempt.world.revocations.apply(&revocation).unwrap();
        attempt.verify().map_err(|error| error.why)
    };
    assert!(chain(1, 1).is_ok());
    assert_eq!(chain(0, 1), Err(Refusal::RevokedWithObject));
    assert_eq!(chain(1, 0), Err(Refusal::RevokedWithObject));
    assert_eq!(chain(2, 1), Err(Refusal::FromTheFuture));
}

#[test]
fn signing_again_does_not_bring_a_revoked_capability_back() {
    let attempt = attack(Refusal::RevokedItself);
    let again = attempt.world.owner.sign_raw(RawCap { signature: [0; 64], ..attempt.chain[0] });
    let result = verify(&[again], &attempt.world.request(attempt.accessor));
    assert_eq!(result.unwrap_err().why, Refusal::RevokedItself);
}

#[test]
fn a_parent_revoked_takes_its_parts_along() {
    let mut world = World::new();
    let chain = world.chain();
    let revocation = Revocation::by_host_of_capability(world.target.id, Digest::of(&chain[1]));
    world.revocations.apply(&revocation).unwrap();
    let error = verify(&chain, &world.request(world.bob)).unwrap_err();
    assert_eq!(error, CapError { link: 1, why: Refusal::RevokedItself });
}

#[test]
fn chains_out_of_order_or_cut_are_refused() {
    let world = World::new();
    let chain = world.chain();
    let [child, parent] = [chain[0], chain[1]];
    for bad in [vec![child], vec![parent, child], vec![child, child], vec![child, parent, parent]] {
        assert!(verify(&bad, &world.request(world.bob)).is_err(), "{bad:?}");
    }
}

#[test]
fn delegating_what_would_be_refused_fails_at_once() {
    let world = World::new();
    let parent = world.owner.grant(&world.for_alice());
    let refused = |key: &KeyPair, grant: Grant| key.delegate(&parent, &grant).unwrap_err().why;
    let bob = world.for_bob();
    assert_eq!(refused(&world.mallory, bob), Refusal::NotTheHolder);
    assert_eq!(refused(&world.alice_key, Grant { target: world.other.id, ..bob }), Refusal::WrongTarget);
    assert_eq!(refused(&world.alice_key, Grant { rights: Rights::all(), ..bob }), Refusal::WidensRights);
    assert_eq!(refused(&world.alice_key, Grant { links_left: 3, ..bob }), Refusal::TooManyLinks);
    assert_eq!(refused(&world.alice_key, Grant { rights: Rights::empty(), ..bob }), Refusal::GivesNothing);
}

/// The neutral point as a public key makes the signature (neutral point, 0) fit every message, if verified loosely.
#[test]
fn a_key_that_fits_everything_fits_nothing() {
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut world = World::new();
    let object = twz_abi::sec::PublicKeyObject { key: neutral, ..world.mallory.public_object() };
    let facts = ObjectFacts::new(key_nonce(object.kind, &neutral), ObjectId::NULL, Rights::READ);
    world.keys.0.insert(facts.id, KeyFacts { facts, object });
    world.target = ObjectFacts::new([10; 16], facts.id, Rights::empty());
    let mut signature = [0; 64];
    signature[0] = 1;
    let raw = world.mallory.grant(&world.for_alice());
    let raw = RawCap { signer: facts.id, signature, ..raw };
    let error = verify(&[raw], &world.request(world.alice)).unwrap_err();
    assert_eq!(error.why, Refusal::BadSignature);
}

/// Every single bit of both links, flipped: 4,096 forgeries, none accepted.
#[test]
fn no_flipped_bit_is_accepted() {
    let world = World::new();
    let chain = world.chain();
    let request = world.request(world.bob);
    let mut tried = 0;
    for link in 0..chain.len() {
        for bit in 0..256 * 8 {
            let mut bytes = [0u8; 256];
            bytes.copy_from_slice(chain[link].as_bytes());
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut forged = chain.clone();
            forged[link] = RawCap::read_from_bytes(&bytes).unwrap();
            assert!(verify(&forged, &request).is_err(), "link {link} bit {bit}");
            tried += 1;
        }
    }
    std::println!("{tried} forgeries by one bit, 0 accepted");
}

/// What a link may say, right or wrong, small enough that good chains are frequent.
fn any_grant() -> impl Strategy<Value = (u32, u32, u64, u64, u64)> {
    (0u32..32, 0u32..5, 0u64..3, prop_oneof![Just(u64::MAX), 0u64..12], 0u64..2)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// S1: random bytes in place of links, and random damage to good ones, never panic and never pass.
    #[test]
    fn junk_is_refused(
        junk in proptest::collection::vec(proptest::array::uniform32(any::<u8>()), 0..24),
        damage in proptest::collection::vec((0usize..512, any::<u8>()), 1..20),
    ) {
        let world = World::new();
        let request = world.request(world.bob);
        let bytes: Vec<u8> = junk.concat();
        let chain: Vec<RawCap> =
            bytes.chunks_exact(256).filter_map(|raw| RawCap::read_from_bytes(raw).ok()).collect();
        prop_assert!(verify(&chain, &request).is_err());

        let good = world.chain();
        let mut bytes: Vec<u8> = good.iter().flat_map(|raw| raw.as_bytes().to_vec()).collect();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        let damaged: Vec<RawCap> =
            bytes.chunks_exact(256).filter_map(|raw| RawCap::read_from_bytes(raw).ok()).collect();
        if damaged != good {
            prop_assert!(verify(&damaged, &request).is_err());
        }
    }

    /// S3: whatever the links of a chain say, what is accepted is no more than any of them says.
    #[test]
    fn a_chain_never_gives_more_than_a_link(grants in proptest::collection::vec(any_grant(), 1..5)) {
        let mut world = World::new();
        world.now = 5;
        let mut chain: Vec<RawCap> = vec![];
        for (rights, links_left, from, until, epoch) in &grants {
            let grant = Grant {
                rights: Rights::from_bits_truncate(*rights),
                validity: Validity { from: *from, until: *until },
                epoch: *epoch,
                ..Grant::new(world.target.id, world.alice, Rights::READ)
            };
            let grant = grant.delegable(world.alice_key.id(), *links_left);
            let link = match chain.first() {
                None => world.owner.grant(&grant),
                Some(parent) => world.alice_key.sign_cap(&grant, Digest::of(parent)),
            };
            chain.insert(0, link);
        }
        if let Ok(verified) = verify(&chain, &world.request(world.alice)) {
            for (rights, _, from, until, epoch) in &grants {
                prop_assert!(Rights::from_bits_truncate(*rights).contains(verified.rights));
                prop_assert!(*from <= verified.validity.from && verified.validity.until <= *until);
                prop_assert!(*from <= 5 && 5 < *until && *epoch == 0);
            }
            let lefts: Vec<u32> = grants.iter().map(|grant| grant.1).collect();
            prop_assert!(lefts.windows(2).all(|pair| pair[1] < pair[0]));
        }
    }
}
