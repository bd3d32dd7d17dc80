//! Remembering decisions, for exactly as long as they hold.
//!
//! # Contract
//! - [`GrantCache::get`] returns a decision only if nothing that it was taken from has changed: the revocation list
//!   ([`Freshness::change`]), the context's table ([`Freshness::generation`]), and the time. A clock that was set back
//!   before the moment of the decision makes it stale too.
//! - At most `capacity` decisions are kept; a full cache forgets the least ID first. Forgetting costs time, never
//!   rights.
//! - What a context's writer does without raising the generation is seen when something else makes the decision stale:
//!   taking a capability out of a table is not a revocation.

use crate::decide::Decision;
use alloc::collections::BTreeMap;
use twz_abi::ObjectId;

/// Whose rights to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheKey {
    /// The context.
    pub context: ObjectId,
    /// The object.
    pub object: ObjectId,
}

/// The state of the world that a decision belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// [`crate::Revocations::change`].
    pub change: u64,
    /// [`crate::Context::generation`].
    pub generation: u64,
    /// Nanoseconds since 1970.
    pub now: u64,
}

/// Decisions by context and object.
#[derive(Debug)]
pub struct GrantCache {
    entries: BTreeMap<CacheKey, (Decision, Freshness)>,
    capacity: usize,
    hits: u64,
    misses: u64,
}

impl GrantCache {
    /// A cache of at most `capacity` decisions.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { entries: BTreeMap::new(), capacity, hits: 0, misses: 0 }
    }

    /// The decision for `key`, if it still holds.
    pub fn get(&mut self, key: CacheKey, fresh: Freshness) -> Option<&Decision> {
        let holds = self.entries.get(&key).is_some_and(|(decision, taken)| {
            taken.change == fresh.change
                && taken.generation == fresh.generation
                && taken.now <= fresh.now
                && !decision.validity.is_over(fresh.now)
        });
        if !holds {
            self.entries.remove(&key);
            self.misses += 1;
            return None;
        }
        self.hits += 1;
        self.entries.get(&key).map(|(decision, _)| decision)
    }

    /// Remembers a decision taken in the state `fresh`.
    pub fn put(&mut self, key: CacheKey, decision: Decision, fresh: Freshness) {
        if self.capacity == 0 {
            return;
        }
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            self.entries.pop_first();
        }
        self.entries.insert(key, (decision, fresh));
    }

    /// Decisions kept, answers given from them, and questions that had none.
    #[must_use]
    pub fn counters(&self) -> (usize, u64, u64) {
        (self.entries.len(), self.hits, self.misses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Standing, decide};
    use crate::revoke::Revocation;
    use crate::test_world::{NOW, World, context_with};
    use crate::{Grant, Validity};
    use twz_abi::Rights;

    fn decision(world: &World, validity: Validity) -> Decision {
        let cap = world.owner.grant(&Grant { validity, ..world.for_alice() });
        let (context, bytes) = context_with(Rights::all(), &[cap]);
        let standing = Standing { creation: Rights::empty(), mask: Rights::all() };
        decide(&context, &bytes, &standing, &world.request(world.alice))
    }

    fn key(number: u128) -> CacheKey {
        CacheKey { context: ObjectId::from_u128(number / 10), object: ObjectId::from_u128(number) }
    }

    const FRESH: Freshness = Freshness { change: 0, generation: 1, now: NOW };

    #[test]
    fn a_decision_dies_with_what_it_was_taken_from() {
        let mut world = World::new();
        let kept = decision(&world, Validity { from: NOW - 10, until: NOW + 10 });
        let holds = |fresh: Freshness| {
            let mut cache = GrantCache::new(4);
            cache.put(key(1), kept.clone(), FRESH);
            cache.get(key(1), fresh).is_some()
        };
        assert!(holds(FRESH));
        assert!(holds(Freshness { now: NOW + 9, ..FRESH }));
        assert!(!holds(Freshness { now: NOW + 10, ..FRESH }), "expired");
        assert!(!holds(Freshness { now: NOW - 1, ..FRESH }), "the clock went back");
        assert!(!holds(Freshness { generation: 2, ..FRESH }), "the table changed");
        world.revocations.apply(&Revocation::by_host_of_context(world.bob)).unwrap();
        assert!(!holds(Freshness { change: world.revocations.change(), ..FRESH }), "something was revoked");
    }

    #[test]
    fn it_forgets_but_never_grows() {
        let world = World::new();
        let kept = decision(&world, Validity::ALWAYS);
        let mut cache = GrantCache::new(3);
        for number in 0..50 {
            cache.put(key(number), kept.clone(), FRESH);
            assert!(cache.counters().0 <= 3);
            assert!(cache.get(key(number), FRESH).is_some());
        }
        cache.put(key(49), kept.clone(), FRESH);
        for number in 47..50 {
            assert!(cache.get(key(number), FRESH).is_some(), "replacing one evicts no other");
        }
        assert_eq!(cache.counters(), (3, 53, 0));
        let mut none = GrantCache::new(0);
        none.put(key(1), kept, FRESH);
        assert_eq!(none.counters().0, 0);
    }
}
