//! The rights of a context to an object: `(defaults ∪ creation ∪ capabilities) ∩ masks`.

use crate::cap::{Digest, Validity};
use crate::context::{Context, ObjectBytes};
use crate::gates::GateSet;
use crate::refusal::{CapError, Refusal};
use crate::verify::{Request, Signatures, verify_remembering};
use alloc::vec::Vec;
use twz_abi::sec::{CHAIN_MAX, RawCap};
use twz_abi::{ObjectId, Rights};

/// What a context has besides capabilities, as the monitor knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Rights from the monitor's own record, for the context that created the object; else none.
    pub creation: Rights,
    /// Rights that anything beyond the context allows: all, or less for a pool opened read-only.
    pub mask: Rights,
}

/// What a context may do with an object, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The rights.
    pub rights: Rights,
    /// The gates, if the object is a context.
    pub gates: Vec<GateSet>,
    /// When this decision holds: until the first capability ends or a further one begins.
    pub validity: Validity,
    /// Capabilities that were used.
    pub used: Vec<Digest>,
    /// Contexts that passed on what was used: revoking one of them affects this decision.
    pub through: Vec<ObjectId>,
    /// Capabilities that were refused, and why.
    pub refused: Vec<(Digest, CapError)>,
}

impl Decision {
    /// Nothing, for as long as nothing changes.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            rights: Rights::empty(),
            gates: Vec::new(),
            validity: Validity::ALWAYS,
            used: Vec::new(),
            through: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Whether gate `number` is open: by the right to use the whole context, or by itself.
    #[must_use]
    pub fn opens(&self, number: u32) -> bool {
        self.rights.contains(Rights::USE) || self.gates.iter().any(|gates| gates.contains(number))
    }
}

/// Decides for the context `request.accessor`, whose header is `context` and whose bytes are `bytes`.
///
/// Never fails: what cannot be verified gives nothing, and stands in [`Decision::refused`].
#[must_use]
pub fn decide(
    context: &Context,
    bytes: &dyn ObjectBytes,
    standing: &Standing,
    request: &Request<'_>,
) -> Decision {
    let mut decision = Decision::nothing();
    // A revoked context has nothing, defaults included: this is how the host stops one. And defaults are worth as
    // much as the metadata that they stand in. A thread without a context has the ID of no object.
    let revoked = request.revocations.has_context(request.accessor);
    if revoked || request.accessor.is_null() || !request.target.is_consistent() {
        return decision;
    }
    let candidates = context.candidates(bytes, request.target.id);
    let digests: Vec<Digest> = candidates.iter().map(Digest::of).collect();
    let mut signatures = Signatures::default();
    let mut from_capabilities = Rights::empty();
    for (leaf, digest) in candidates.iter().zip(&digests) {
        if leaf.accessor != request.accessor {
            continue; // a link of somebody else's chain, kept here because one of ours is a part of it
        }
        let chain = chain_of(leaf, &candidates, &digests);
        match verify_remembering(&chain, request, &mut signatures) {
            Ok(verified) => {
                from_capabilities |= verified.rights;
                decision.validity = decision.validity.and(verified.validity);
                decision.used.push(*digest);
                decision.through.extend(chain.iter().skip(1).map(|link| link.accessor));
                if !verified.gates.is_empty() {
                    decision.gates.push(verified.gates);
                }
            }
            Err(error) => {
                if error.why == Refusal::NotYetValid {
                    let begin = chain.iter().map(|raw| raw.not_before).max().unwrap_or(u64::MAX);
                    decision.validity = decision.validity.and(Validity { from: 0, until: begin });
                }
                decision.refused.push((*digest, error));
            }
        }
    }
    let sources = request.target.default_rights | standing.creation | from_capabilities;
    let masks = context.mask & standing.mask;
    decision.rights = sources & masks;
    if !masks.contains(Rights::USE) {
        decision.gates.clear();
    }
    decision
}

/// The chain from `leaf` up, as far as its links stand among the candidates.
fn chain_of(leaf: &RawCap, candidates: &[RawCap], digests: &[Digest]) -> Vec<RawCap> {
    let mut chain = Vec::from([*leaf]);
    while let Some(last) = chain.last() {
        let parent = Digest(last.parent);
        let found = candidates.iter().zip(digests).find(|(_, digest)| **digest == parent);
        match found {
            // One link more than allowed, so that the verification says that the chain is too long.
            Some((raw, _)) if chain.len() <= CHAIN_MAX => chain.push(*raw),
            _ => break,
        }
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cap::Grant;
    use crate::object::ObjectFacts;
    use crate::revoke::Revocation;
    use crate::test_world::{NOW, World, context_with};
    use proptest::prelude::*;
    use std::vec;

    const PLAIN: Standing = Standing { creation: Rights::empty(), mask: Rights::all() };

    fn decide_with(world: &World, accessor: ObjectId, mask: Rights, caps: &[RawCap]) -> Decision {
        let (context, bytes) = context_with(mask, caps);
        decide(&context, &bytes, &PLAIN, &world.request(accessor))
    }

    fn rights(world: &World, accessor: ObjectId, caps: &[RawCap]) -> Rights {
        decide_with(world, accessor, Rights::all(), caps).rights
    }

    #[test]
    fn a_new_object_is_its_creators_alone() {
        let world = World::new();
        let (context, bytes) = context_with(Rights::all(), &[]);
        let standing = Standing { creation: Rights::all(), mask: Rights::all() };
        let own = decide(&context, &bytes, &standing, &world.request(world.alice));
        assert_eq!(own.rights, Rights::all());
        assert_eq!(rights(&world, world.bob, &[]), Rights::empty());
    }

    #[test]
    fn defaults_are_everybodys_unless_edited() {
        let mut world = World::new();
        world.target = ObjectFacts::new([1; 16], world.owner.id(), Rights::READ);
        assert_eq!(rights(&world, world.bob, &[]), Rights::READ);
        world.target.default_rights = Rights::all();
        assert_eq!(rights(&world, world.bob, &[]), Rights::empty(), "edited metadata gives nothing");
    }

    #[test]
    fn capabilities_add_up_and_chains_are_found_in_the_table() {
        let world = World::new();
        let chain = world.chain();
        assert_eq!(rights(&world, world.bob, &chain), Rights::READ);
        // Without the link above, and for alice's own capability in bob's table: nothing.
        assert_eq!(rights(&world, world.bob, &chain[..1]), Rights::empty());
        assert_eq!(rights(&world, world.bob, &chain[1..]), Rights::empty());
        let exec = world.owner.grant(&Grant { rights: Rights::EXEC, ..world.for_bob() });
        let both = [chain[0], exec, chain[1]];
        let decision = decide_with(&world, world.bob, Rights::all(), &both);
        assert_eq!(decision.rights, Rights::READ | Rights::EXEC);
        assert_eq!((decision.used.len(), decision.refused.len()), (2, 0));
    }

    #[test]
    fn a_bad_capability_neither_gives_nor_takes() {
        let world = World::new();
        let good = world.owner.grant(&world.for_alice());
        let forged = world.mallory.grant(&Grant { rights: Rights::all(), ..world.for_alice() });
        let decision = decide_with(&world, world.alice, Rights::all(), &[forged, good]);
        assert_eq!(decision.rights, Rights::READ | Rights::WRITE);
        assert_eq!(decision.refused.len(), 1);
        assert_eq!(decision.refused[0].1.why, Refusal::WrongKey);
    }

    #[test]
    fn a_forged_copy_does_not_hide_the_original() {
        let world = World::new();
        let good = world.owner.grant(&world.for_alice());
        let forged = RawCap { signature: [1; 64], ..good };
        let (context, mut bytes) = context_with(Rights::all(), &[]);
        for (probe, raw) in [forged, good, forged].iter().enumerate() {
            let probe = u32::try_from(probe).unwrap();
            let offset = twz_abi::sec::cap_slot_offset(good.target, probe, 64).unwrap();
            bytes.write(offset, zerocopy::IntoBytes::as_bytes(raw));
        }
        let decision = decide(&context, &bytes, &PLAIN, &world.request(world.alice));
        assert_eq!(decision.rights, Rights::READ | Rights::WRITE);
        assert_eq!((decision.used.len(), decision.refused.len()), (1, 2));
    }

    #[test]
    fn masks_take_away() {
        let world = World::new();
        let cap = world.owner.grant(&world.for_alice());
        assert_eq!(decide_with(&world, world.alice, Rights::READ, &[cap]).rights, Rights::READ);
        let (context, bytes) = context_with(Rights::all(), &[cap]);
        let standing = Standing { creation: Rights::all(), mask: Rights::READ | Rights::EXEC };
        let decision = decide(&context, &bytes, &standing, &world.request(world.alice));
        assert_eq!(decision.rights, Rights::READ | Rights::EXEC);
    }

    #[test]
    fn gates_are_a_use_of_the_context() {
        let world = World::new();
        let gates = GateSet::range(2, 4, 2).unwrap();
        let cap = world.owner.grant(&Grant { gates, rights: Rights::empty(), ..world.for_alice() });
        let decision = decide_with(&world, world.alice, Rights::all(), &[cap]);
        let open: Vec<u32> = (0..8).filter(|number| decision.opens(*number)).collect();
        assert_eq!(open, [2, 4]);
        assert_eq!(decision.rights, Rights::empty());
        let masked = decide_with(&world, world.alice, Rights::ACCESS, &[cap]);
        assert!(!masked.opens(2));
        let user = world.owner.grant(&Grant { rights: Rights::USE, ..world.for_alice() });
        assert!(decide_with(&world, world.alice, Rights::all(), &[user]).opens(200));
        assert!(!decide_with(&world, world.alice, Rights::ACCESS, &[user]).opens(200));
    }

    #[test]
    fn revoked_contexts_and_threads_without_one_have_nothing() {
        let mut world = World::new();
        world.target = ObjectFacts::new([1; 16], world.owner.id(), Rights::READ);
        let cap = world.owner.grant(&world.for_alice());
        assert_eq!(rights(&world, ObjectId::NULL, &[cap]), Rights::empty());
        assert_eq!(rights(&world, world.alice, &[cap]), Rights::READ | Rights::WRITE);
        world.revocations.apply(&Revocation::by_host_of_context(world.alice)).unwrap();
        assert_eq!(rights(&world, world.alice, &[cap]), Rights::empty());
        assert_eq!(rights(&world, world.bob, &[]), Rights::READ);
    }

    #[test]
    fn a_decision_ends_when_a_capability_ends_or_begins() {
        let world = World::new();
        let until = |from, until| {
            let validity = Validity { from, until };
            let grant = Grant { validity, serial: from ^ until, ..world.for_alice() };
            world.owner.grant(&grant)
        };
        let ends = until(0, NOW + 50);
        let begins = until(NOW + 20, u64::MAX);
        let decision = |caps: &[RawCap]| decide_with(&world, world.alice, Rights::all(), caps);
        assert_eq!(decision(&[ends]).validity.until, NOW + 50);
        assert_eq!(decision(&[ends, begins]).validity.until, NOW + 20);
        assert_eq!(decision(&[begins]).rights, Rights::empty());
        assert_eq!(decision(&[]).validity, Validity::ALWAYS);
    }

    #[test]
    fn a_chain_too_long_is_called_that() {
        let world = World::new();
        let mut chain = vec![world.owner.grant(&world.for_alice().delegable(world.alice_key.id(), 30))];
        for left in (10..20).rev() {
            let grant = world.for_alice().delegable(world.alice_key.id(), left);
            let link = world.alice_key.delegate(&chain[0], &grant).unwrap();
            chain.insert(0, link);
        }
        let decision = decide_with(&world, world.alice, Rights::all(), &chain);
        let long = decision.refused.iter().filter(|(_, error)| error.why == Refusal::ChainTooLong).count();
        assert_eq!((long, decision.used.len()), (3, 8));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// S2 in full: whatever stands in the table, nobody gets more than the owner ever signed for that context.
        #[test]
        fn nothing_comes_from_nothing(
            junk in proptest::collection::vec((0u64..16, proptest::collection::vec(any::<u8>(), 256)), 0..6),
            flips in proptest::collection::vec((0u64..16, 0u64..256, any::<u8>()), 0..12),
            mask in 0u32..32,
        ) {
            let world = World::new();
            let (context, mut bytes) = context_with(Rights::from_bits_truncate(mask), &world.chain());
            let slot = |number: u64| {
                twz_abi::sec::cap_slot_offset(world.target.id, number.try_into().unwrap(), 64).unwrap()
            };
            for (number, junk) in &junk {
                bytes.write(slot(*number), junk);
            }
            for (number, at, byte) in &flips {
                bytes.write(slot(*number) + at, &[*byte]);
            }
            let bob = decide(&context, &bytes, &PLAIN, &world.request(world.bob));
            prop_assert!((Rights::READ & context.mask).contains(bob.rights));
            let alice = decide(&context, &bytes, &PLAIN, &world.request(world.alice));
            prop_assert!(((Rights::READ | Rights::WRITE) & context.mask).contains(alice.rights));
            let stranger = ObjectId::from_u128(77);
            prop_assert!(decide(&context, &bytes, &PLAIN, &world.request(stranger)).rights.is_empty());
        }
    }
}
