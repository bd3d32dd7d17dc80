//! The monitor's one place to ask: rights, entry into contexts, revocation.
//!
//! # Contract
//! - Everything is found through [`Objects`]: facts that the monitor keeps, and bytes that anybody may have written.
//! - The context that asks is the monitor's knowledge of the thread, never a thread's word.
//! - A context's header is read before its table, and its writer raises the generation after changing the table: a
//!   decision taken while the table changes is found stale at the next question.
//! - After [`Authority::revoke`] no earlier decision is given out again. Bindings made under earlier decisions are the
//!   caller's to end, all for which [`Revocation::affects`] holds, before it reports success.

use crate::cache::{CacheKey, Freshness, GrantCache};
use crate::context::{Context, ContextError, Gate, ObjectBytes};
use crate::creation::is_creator;
use crate::decide::{Decision, Standing, decide};
use crate::key::{KeyFacts, Keys, public_key_from_bytes};
use crate::object::ObjectFacts;
use crate::revoke::{Revocation, RevocationError, Revocations};
use crate::verify::Request;
use thiserror::Error;
use twz_abi::object::DATA_OFFSET;
use twz_abi::sec::{PublicKeyObject, RawCap, RawRevocation};
use twz_abi::{ObjectId, Rights};

/// The monitor's objects.
pub trait Objects {
    /// What the directory says of an object; `None` if there is none.
    fn facts(&self, id: ObjectId) -> Option<ObjectFacts>;

    /// Copies bytes out of an object, each once; false if they are not all there.
    fn read(&self, id: ObjectId, offset: u64, into: &mut [u8]) -> bool;
}

/// A question that has no answer, or the answer no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuthorityError {
    /// No such object.
    #[error("there is no object {id}")]
    NoObject {
        /// Its ID.
        id: ObjectId,
    },
    /// The asking context, or the one to enter, is none.
    #[error("object {id} cannot be used as a security context: {why}")]
    NotAContext {
        /// Its ID.
        id: ObjectId,
        /// What is wrong with it.
        why: ContextError,
    },
    /// The right is missing.
    #[error("context {context} may not enter context {into}")]
    MayNotEnter {
        /// Who asked.
        context: ObjectId,
        /// Where to.
        into: ObjectId,
    },
    /// The revocation was refused.
    #[error(transparent)]
    Revocation(#[from] RevocationError),
}

/// Decides, remembers, and takes back.
#[derive(Debug)]
pub struct Authority {
    revocations: Revocations,
    cache: GrantCache,
    mask: Rights,
}

impl Authority {
    /// An authority that starts from the revocations stored so far, remembers up to `capacity` decisions, and gives
    /// nothing beyond `mask` (all rights, or less for a pool opened read-only).
    #[must_use]
    pub fn new(revocations: Revocations, capacity: usize, mask: Rights) -> Self {
        Self { revocations, cache: GrantCache::new(capacity), mask }
    }

    /// What threads in `context` may do with `object` at `now` (nanoseconds since 1970).
    ///
    /// # Errors
    /// [`AuthorityError::NoObject`], [`AuthorityError::NotAContext`].
    pub fn decide(
        &mut self,
        objects: &dyn Objects,
        context: ObjectId,
        object: ObjectId,
        now: u64,
    ) -> Result<Decision, AuthorityError> {
        let target = objects.facts(object).ok_or(AuthorityError::NoObject { id: object })?;
        let header = read_context(objects, context)?;
        let key = CacheKey { context, object };
        let change = self.revocations.change();
        let fresh = Freshness { change, generation: header.generation, now };
        if let Some(decision) = self.cache.get(key, fresh) {
            return Ok(decision.clone());
        }
        let created = is_creator(target.nonce, context);
        let creation = if created { Rights::all() } else { Rights::empty() };
        let standing = Standing { creation, mask: self.mask };
        let keys = KeysOf(objects);
        let request =
            Request { target: &target, accessor: context, now, keys: &keys, revocations: &self.revocations };
        let decision = decide(&header, &BytesOf(objects, context), &standing, &request);
        self.cache.put(key, decision.clone(), fresh);
        Ok(decision)
    }

    /// Whether a thread in `context` may attach, or switch to, the whole of the context `into`; returns its header.
    ///
    /// # Errors
    /// [`AuthorityError::MayNotEnter`], and those of [`Authority::decide`].
    pub fn may_enter(
        &mut self,
        objects: &dyn Objects,
        context: ObjectId,
        into: ObjectId,
        now: u64,
    ) -> Result<Context, AuthorityError> {
        let decision = self.decide(objects, context, into, now)?;
        if !decision.rights.contains(Rights::USE) {
            return Err(AuthorityError::MayNotEnter { context, into });
        }
        read_context(objects, into)
    }

    /// Whether a thread in `context` may call gate `number` of the context `into`; returns where that leads.
    ///
    /// # Errors
    /// [`AuthorityError::MayNotEnter`], and those of [`Authority::decide`].
    pub fn may_call(
        &mut self,
        objects: &dyn Objects,
        context: ObjectId,
        into: ObjectId,
        number: u32,
        now: u64,
    ) -> Result<Gate, AuthorityError> {
        let decision = self.decide(objects, context, into, now)?;
        if !decision.opens(number) {
            return Err(AuthorityError::MayNotEnter { context, into });
        }
        let gate = read_context(objects, into)?.gate(&BytesOf(objects, into), number);
        gate.map_err(|why| AuthorityError::NotAContext { id: into, why })
    }

    /// Verifies a signed revocation and takes it into the list. `capability` as for [`Revocation::verify`].
    ///
    /// # Errors
    /// [`AuthorityError::NoObject`], [`AuthorityError::Revocation`]; nothing is changed then.
    pub fn revoke(
        &mut self,
        objects: &dyn Objects,
        raw: &RawRevocation,
        capability: Option<&RawCap>,
    ) -> Result<Revocation, AuthorityError> {
        let id = raw.target;
        let facts = objects.facts(id).ok_or(AuthorityError::NoObject { id })?;
        let revocation = Revocation::verify(raw, &facts, capability, &KeysOf(objects))?;
        self.revocations.apply(&revocation)?;
        Ok(revocation)
    }

    /// Takes a revocation of the host's own into the list.
    ///
    /// # Errors
    /// [`RevocationError::TooMany`]; nothing is changed then.
    pub fn revoke_by_host(&mut self, revocation: &Revocation) -> Result<(), RevocationError> {
        self.revocations.apply(revocation)
    }

    /// What was taken back so far: to be stored before a revocation is reported done.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Forgets an object that was deleted.
    pub fn forget(&mut self, id: ObjectId) {
        self.revocations.forget(id);
    }

    /// Decisions kept, answers given from them, and questions that had none.
    #[must_use]
    pub fn counters(&self) -> (usize, u64, u64) {
        self.cache.counters()
    }
}

fn read_context(objects: &dyn Objects, id: ObjectId) -> Result<Context, AuthorityError> {
    Context::read(&BytesOf(objects, id)).map_err(|why| match objects.facts(id) {
        None => AuthorityError::NoObject { id },
        Some(_) => AuthorityError::NotAContext { id, why },
    })
}

/// One object's bytes.
struct BytesOf<'a>(&'a dyn Objects, ObjectId);

impl ObjectBytes for BytesOf<'_> {
    fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        self.0.read(self.1, offset, into)
    }
}

/// Objects, looked at as keys.
struct KeysOf<'a>(&'a dyn Objects);

impl Keys for KeysOf<'_> {
    fn key(&self, id: ObjectId) -> Option<KeyFacts> {
        let facts = self.0.facts(id)?;
        let mut bytes = [0; size_of::<PublicKeyObject>()];
        let object = self.0.read(id, DATA_OFFSET, &mut bytes).then_some(bytes)?;
        Some(KeyFacts { facts, object: public_key_from_bytes(&object).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cap::Grant;
    use crate::creation::creation_nonce;
    use crate::gates::GateSet;
    use crate::key::KeyPair;
    use crate::refusal::Refusal;
    use crate::test_world::{Bytes, NOW};
    use std::collections::BTreeMap;
    use std::vec::Vec;
    use twz_abi::sec::{CONTEXT_OFFSET, ContextHeader, GateEntry, gate_flags, gate_offset};
    use zerocopy::IntoBytes;

    /// A pool in miniature.
    #[derive(Default)]
    struct Pool(BTreeMap<ObjectId, (ObjectFacts, Bytes)>);

    impl Objects for Pool {
        fn facts(&self, id: ObjectId) -> Option<ObjectFacts> {
            self.0.get(&id).map(|(facts, _)| *facts)
        }

        fn read(&self, id: ObjectId, offset: u64, into: &mut [u8]) -> bool {
            self.0.get(&id).is_some_and(|(_, bytes)| bytes.read(offset, into))
        }
    }

    impl Pool {
        fn create(&mut self, facts: ObjectFacts) -> ObjectId {
            self.0.insert(facts.id, (facts, Bytes::new()));
            facts.id
        }

        fn add_key(&mut self, key: &KeyPair) {
            let id = self.create(key.object_facts());
            self.write(id, DATA_OFFSET, key.public_object().as_bytes());
        }

        fn add_context(&mut self, key: &KeyPair, nonce: u8) -> ObjectId {
            let id = self.create(ObjectFacts::new([nonce; 16], key.id(), Rights::empty()));
            self.write(id, CONTEXT_OFFSET, header(1, 0).as_bytes());
            id
        }

        fn write(&mut self, id: ObjectId, offset: u64, bytes: &[u8]) {
            self.0.get_mut(&id).unwrap().1.write(offset, bytes);
        }

        /// What a program does to put a capability into a context.
        fn hand_over(&mut self, context: ObjectId, caps: &[RawCap]) {
            for cap in caps {
                let bytes = BytesOf(self, context);
                let read = Context::read(&bytes).unwrap();
                let offset = read.slot_for(&bytes, cap).unwrap();
                self.write(context, offset, cap.as_bytes());
                self.write(
                    context,
                    CONTEXT_OFFSET,
                    header(read.generation + 1, read.gate_count()).as_bytes(),
                );
            }
        }
    }

    fn header(generation: u64, gate_count: u32) -> ContextHeader {
        let header = Context::new_header(false, false, Rights::all(), 64);
        ContextHeader { generation, gate_count, ..header }
    }

    struct Scene {
        pool: Pool,
        authority: Authority,
        owner: KeyPair,
        alice_key: KeyPair,
        alice: ObjectId,
        bob: ObjectId,
        object: ObjectId,
    }

    impl Scene {
        fn new() -> Self {
            let (owner, alice_key) = (KeyPair::new(&[1; 32]), KeyPair::new(&[2; 32]));
            let mut pool = Pool::default();
            pool.add_key(&owner);
            pool.add_key(&alice_key);
            let (alice, bob) = (pool.add_context(&alice_key, 20), pool.add_context(&owner, 21));
            let object = pool.create(ObjectFacts::new([9; 16], owner.id(), Rights::empty()));
            let authority = Authority::new(Revocations::default(), 16, Rights::all());
            Self { pool, authority, owner, alice_key, alice, bob, object }
        }

        fn decision(&mut self, context: ObjectId, object: ObjectId) -> Decision {
            self.authority.decide(&self.pool, context, object, NOW).unwrap()
        }

        fn rights(&mut self, context: ObjectId) -> Rights {
            self.decision(context, self.object).rights
        }

        /// The owner gives alice read and write; alice passes read on to bob.
        fn grant_both(&mut self) -> Vec<RawCap> {
            let grant = Grant::new(self.object, self.alice, Rights::READ | Rights::WRITE);
            let parent = self.owner.grant(&grant.delegable(self.alice_key.id(), 1));
            let part = Grant::new(self.object, self.bob, Rights::READ);
            let child = self.alice_key.delegate(&parent, &part).unwrap();
            self.pool.hand_over(self.alice, &[parent]);
            self.pool.hand_over(self.bob, &[child, parent]);
            Vec::from([child, parent])
        }
    }

    #[test]
    fn a_capability_handed_over_counts_at_the_next_question() {
        let mut scene = Scene::new();
        assert!(scene.rights(scene.alice).is_empty() && scene.rights(scene.bob).is_empty());
        scene.grant_both();
        assert_eq!(scene.rights(scene.alice), Rights::READ | Rights::WRITE);
        assert_eq!(scene.rights(scene.bob), Rights::READ);
        let (_, hits, misses) = scene.authority.counters();
        assert_eq!((hits, misses), (0, 4));
        scene.rights(scene.bob);
        assert_eq!(scene.authority.counters().1, 1);
    }

    #[test]
    fn creators_and_their_contexts() {
        let mut scene = Scene::new();
        let nonce = creation_nonce(scene.alice, 5);
        let own = scene.pool.create(ObjectFacts::new(nonce, ObjectId::NULL, Rights::empty()));
        assert_eq!(scene.decision(scene.alice, own).rights, Rights::all());
        assert!(scene.decision(scene.bob, own).rights.is_empty());
        let mut readonly = Authority::new(Revocations::default(), 16, Rights::READ | Rights::EXEC);
        let decision = readonly.decide(&scene.pool, scene.alice, own, NOW).unwrap();
        assert_eq!(decision.rights, Rights::READ | Rights::EXEC);
    }

    #[test]
    fn what_is_not_there_is_said() {
        let mut scene = Scene::new();
        let nobody = ObjectId::from_u128(5);
        let ask = |scene: &mut Scene, context, object| {
            scene.authority.decide(&scene.pool, context, object, NOW).unwrap_err()
        };
        let (alice, object) = (scene.alice, scene.object);
        assert_eq!(ask(&mut scene, alice, nobody), AuthorityError::NoObject { id: nobody });
        assert_eq!(ask(&mut scene, nobody, object), AuthorityError::NoObject { id: nobody });
        let null = ask(&mut scene, ObjectId::NULL, object);
        assert_eq!(null, AuthorityError::NoObject { id: ObjectId::NULL });
        let plain = ask(&mut scene, object, object);
        assert!(matches!(plain, AuthorityError::NotAContext { why: ContextError::NotAContext, .. }));
    }

    #[test]
    fn each_revocation_ends_what_it_affects() {
        let ways: [fn(&mut Scene, &[RawCap]) -> Revocation; 4] = [
            |scene, _| {
                let raw = scene.owner.revoke_object(scene.object, 1);
                scene.authority.revoke(&scene.pool, &raw, None).unwrap()
            },
            |scene, chain| {
                let raw = scene.owner.revoke_capability(&chain[1]);
                scene.authority.revoke(&scene.pool, &raw, None).unwrap()
            },
            |scene, _| {
                let raw = scene.alice_key.revoke_context(scene.alice);
                scene.authority.revoke(&scene.pool, &raw, None).unwrap()
            },
            |scene, _| {
                let revocation = Revocation::by_host_of_context(scene.alice);
                scene.authority.revoke_by_host(&revocation).unwrap();
                revocation
            },
        ];
        for way in ways {
            let mut scene = Scene::new();
            let chain = scene.grant_both();
            let (alice, bob, object) = (scene.alice, scene.bob, scene.object);
            let before = [alice, bob].map(|context| scene.decision(context, object));
            let untouched = scene.decision(bob, bob);
            let revocation = way(&mut scene, &chain);
            for (context, decision) in [alice, bob].into_iter().zip(&before) {
                assert!(!decision.rights.is_empty());
                assert!(revocation.affects(context, object, decision), "{revocation:?} {context}");
                assert!(scene.rights(context).is_empty(), "{revocation:?}");
            }
            assert!(!revocation.affects(bob, bob, &untouched));
            assert_eq!(scene.authority.revocations().records().count(), 1);
        }
    }

    #[test]
    fn a_part_revoked_by_its_signer_leaves_the_whole() {
        let mut scene = Scene::new();
        let chain = scene.grant_both();
        let raw = scene.alice_key.revoke_capability(&chain[0]);
        let refused = scene.authority.revoke(&scene.pool, &raw, None);
        assert_eq!(refused, Err(AuthorityError::Revocation(RevocationError::WrongKey)));
        scene.authority.revoke(&scene.pool, &raw, Some(&chain[0])).unwrap();
        assert!(scene.rights(scene.bob).is_empty());
        assert_eq!(scene.rights(scene.alice), Rights::READ | Rights::WRITE);
    }

    #[test]
    fn contexts_and_gates_are_entered_with_a_right_only() {
        let mut scene = Scene::new();
        let entry = GateEntry {
            flags: gate_flags::VALID,
            entry: 0x1000,
            code: scene.object,
            view: ObjectId::NULL,
            stacks: scene.object,
            stack_bytes: 4096,
            stack_count: 1,
        };
        for number in 0..2 {
            scene.pool.write(scene.bob, gate_offset(number).unwrap(), entry.as_bytes());
        }
        scene.pool.write(scene.bob, CONTEXT_OFFSET, header(1, 2).as_bytes());
        let (alice, bob) = (scene.alice, scene.bob);
        let call = |scene: &mut Scene, number| scene.authority.may_call(&scene.pool, alice, bob, number, NOW);
        let refused = AuthorityError::MayNotEnter { context: alice, into: bob };
        assert_eq!(call(&mut scene, 0), Err(refused));
        assert_eq!(scene.authority.may_enter(&scene.pool, alice, bob, NOW), Err(refused));

        let gate = Grant::new(bob, alice, Rights::empty());
        let gate = scene.owner.grant(&Grant { gates: GateSet::one(1).unwrap(), ..gate });
        scene.pool.hand_over(alice, &[gate]);
        assert_eq!(call(&mut scene, 1).unwrap().entry, 0x1000);
        assert_eq!(call(&mut scene, 0), Err(refused));
        assert_eq!(scene.authority.may_enter(&scene.pool, alice, bob, NOW), Err(refused));

        let whole = scene.owner.grant(&Grant::new(bob, alice, Rights::USE));
        scene.pool.hand_over(alice, &[whole]);
        assert!(scene.authority.may_enter(&scene.pool, alice, bob, NOW).is_ok());
        assert!(call(&mut scene, 0).is_ok());
        let none = call(&mut scene, 2);
        assert!(matches!(none, Err(AuthorityError::NotAContext { .. })), "{none:?}");
    }

    #[test]
    fn a_key_object_with_other_bytes_is_useless() {
        let mut scene = Scene::new();
        scene.grant_both();
        let key = KeyPair::new(&[66; 32]);
        let owner = scene.owner.id();
        scene.pool.write(owner, DATA_OFFSET, key.public_object().as_bytes());
        let decision = scene.decision(scene.alice, scene.object);
        assert!(decision.rights.is_empty());
        assert_eq!(decision.refused[0].1.why, Refusal::KeyReplaced);
    }
}
