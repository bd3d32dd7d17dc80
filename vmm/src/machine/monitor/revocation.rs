//! Taking rights back, and what ends by the clock.
//!
//! # Contract
//! - When a revocation returns, it is durable, no decision made before is given out again, and no alias of any context shows what only such a
//!   decision allowed. KVM has dropped the second-stage entries by then (MMU notifier), so no access on any hart succeeds.
//! - **Commit point** of the stored list: the pool root [`LIST_KEY`], which names an object with the whole list. A power failure on either side of it
//!   leaves the old list or the new one, and at most one object beside it, which the next start collects: it is always one of two IDs.
//! - The guest learns of it in two ways: a refused access makes the kernel forget its tables of the context, and the *revision* in every
//!   mailbox, raised before the revocation returns, makes it forget gates.

use super::facts::PoolObjects;
use super::{ErrorCode, Monitor, lock, now, refusal};
use pool::{Error as PoolError, ObjectSpec, Pool};
use sec::{Authority, Decision, Revocation, Revocations};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use twz_abi::ObjectId;
use twz_abi::object::DATA_OFFSET;
use twz_abi::sec::{RawCap, RawRevocation, RevocationRecord};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Pool root that names the object with the list.
const LIST_KEY: &str = "revocations";
/// Nonces of that object and of its next; programs' objects have hashed ones.
const LIST_NONCES: [[u8; 16]; 2] = [*b"twz revocations0", *b"twz revocations1"];

/// The revocations that the pool holds: a count, then as many records. Collects the list that a power failure kept from being published, or from being
/// deleted.
///
/// # Errors
/// The pool's; [`PoolError::NoSuchObject`] if the list is damaged: forgetting a revocation would give rights back.
pub(super) fn load(pool: &Pool) -> Result<Revocations, PoolError> {
    let Some(list) = current(pool) else {
        collect(pool, None)?;
        return Ok(Revocations::default());
    };
    let object = pool.open_object(list)?;
    let mut count = 0_u64;
    object.read(DATA_OFFSET, count.as_mut_bytes())?;
    let mut records = Vec::new();
    for index in 0..count {
        let mut record = RevocationRecord::new_zeroed();
        object.read(at(index), record.as_mut_bytes())?;
        records.push(record);
    }
    let revocations = Revocations::from_records(records).map_err(|_| PoolError::NoSuchObject(list))?;
    collect(pool, Some(list))?;
    Ok(revocations)
}

/// Makes this the list. Before [`publish`] a power failure leaves the old one, behind it the new one.
fn store(pool: &Pool, revocations: &Revocations) -> Result<(), PoolError> {
    let old = current(pool);
    // What an earlier error kept, so that there is room.
    collect(pool, old)?;
    let new = write_next(pool, old, revocations)?;
    publish(pool, new)?;
    old.map_or(Ok(()), |old| pool.delete_object(old))
}

/// Writes a list as an object that is not the list.
fn write_next(
    pool: &Pool,
    current: Option<ObjectId>,
    revocations: &Revocations,
) -> Result<ObjectId, PoolError> {
    let records: Vec<RevocationRecord> = revocations.records().collect();
    let nonce = LIST_NONCES.into_iter().find(|nonce| Some(list_id(nonce)) != current);
    let new = pool.create_object(&ObjectSpec { nonce, ..ObjectSpec::default() })?;
    let object = pool.open_object(new)?;
    object.write(DATA_OFFSET, (records.len() as u64).as_bytes())?;
    object.write(at(0), records.as_bytes())?;
    Ok(new)
}

/// The commit point.
fn publish(pool: &Pool, new: ObjectId) -> Result<(), PoolError> {
    pool.root_set(LIST_KEY, new.as_u128())
}

/// Deletes what could be a list and is not.
fn collect(pool: &Pool, current: Option<ObjectId>) -> Result<(), PoolError> {
    let mut others = LIST_NONCES.iter().map(list_id).filter(|id| Some(*id) != current && pool.contains(*id));
    others.try_for_each(|id| pool.delete_object(id))
}

fn current(pool: &Pool) -> Option<ObjectId> {
    pool.root_get(LIST_KEY).map(ObjectId::from_u128)
}

fn list_id(nonce: &[u8; 16]) -> ObjectId {
    let ObjectSpec { key, rights, .. } = ObjectSpec::default();
    pool::object_id(nonce, key, rights)
}

const fn at(index: u64) -> u64 {
    DATA_OFFSET + 64 + index * size_of::<RevocationRecord>() as u64
}

/// What the host may revoke without a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::machine) enum HostRevocation {
    /// All capabilities to an object so far.
    Object(ObjectId),
    /// Everything that a context holds.
    Context(ObjectId),
    /// One capability, by its target and digest.
    Capability(ObjectId, [u8; 32]),
}

impl Monitor {
    /// Verifies a signed revocation and carries it out.
    ///
    /// # Errors
    /// [`ErrorCode::BadArgument`] for bytes that are none, [`ErrorCode::NotPermitted`], [`ErrorCode::NoObject`], [`ErrorCode::Medium`].
    pub(in crate::machine) fn revoke(&self, bytes: &[u8], with_capability: bool) -> Result<(), ErrorCode> {
        let (raw, rest) = RawRevocation::read_from_prefix(bytes).map_err(|_| ErrorCode::BadArgument)?;
        let capability = match with_capability {
            true => Some(RawCap::read_from_prefix(rest).map_err(|_| ErrorCode::BadArgument)?.0),
            false => None,
        };
        let mut authority = self.authority();
        let revoked = authority.revoke(&PoolObjects(&self.pool), &raw, capability.as_ref());
        let revocation = revoked.map_err(|error| {
            tracing::debug!(%error, "revocation refused");
            refusal(error)
        })?;
        self.carry_out(&mut authority, &revocation)
    }

    /// Carries a revocation of the host's own out.
    ///
    /// # Errors
    /// [`ErrorCode::NoObject`], [`ErrorCode::Busy`] when the list is full, [`ErrorCode::Medium`].
    pub(in crate::machine) fn revoke_by_host(&self, what: HostRevocation) -> Result<(), ErrorCode> {
        let mut authority = self.authority();
        let (target, revocation) = match what {
            HostRevocation::Object(id) => (id, authority.revocations().by_host_of_object(id)),
            HostRevocation::Context(id) => (id, Revocation::by_host_of_context(id)),
            HostRevocation::Capability(id, digest) => {
                (id, Revocation::by_host_of_capability(id, sec::Digest(digest)))
            }
        };
        // A context that is gone may have passed something on.
        if !matches!(what, HostRevocation::Context(_)) && !self.pool.contains(target) {
            return Err(ErrorCode::NoObject);
        }
        authority.revoke_by_host(&revocation).map_err(|_| ErrorCode::Busy)?;
        self.carry_out(&mut authority, &revocation)
    }

    fn carry_out(&self, authority: &mut Authority, revocation: &Revocation) -> Result<(), ErrorCode> {
        // 1. Durable. If that fails it holds for as long as the machine runs, and the caller is told.
        let stored = store(&self.pool, authority.revocations());
        // 2. The bindings made under older decisions.
        let narrowed = self.decide_again(authority, |context, object, decision| {
            revocation.affects(context, object, decision)
        });
        // 3. The gates.
        self.revise();
        stored.map_err(|error| super::code(&error)).and(narrowed)
    }

    /// Decides anew about every binding for which `is_affected` holds, and takes away what it no longer allows.
    ///
    /// # Errors
    /// [`ErrorCode::NoMemory`] if the host refused to take something away; everything else was.
    fn decide_again(
        &self,
        authority: &mut Authority,
        is_affected: impl Fn(ObjectId, ObjectId, &Decision) -> bool,
    ) -> Result<(), ErrorCode> {
        let mut affected = Vec::new();
        for (number, live) in super::lock(&self.contexts).all() {
            let id = live.id;
            let bound = live.table.bound().filter(|bound| is_affected(id, bound.object, bound.grant));
            affected.extend(bound.map(|bound| (number, id, bound.number, bound.object)));
        }
        let mut result = Ok(());
        for (number, context, binding, object) in affected {
            let decided = authority.decide(&PoolObjects(&self.pool), context, object, now());
            let decision = decided.unwrap_or_else(|_| Decision::nothing());
            self.watch_clock(&decision);
            let (rights, grant) = (decision.rights, Arc::new(decision));
            let mut contexts = lock(&self.contexts);
            // The binding may have ended meanwhile, and its number been given to another object.
            let Some(live) = contexts.get(number).filter(|live| live.id == context) else { continue };
            if live.table.find(object) == Some(binding)
                && let Err(error) = live.table.set_rights(binding, rights, grant)
            {
                tracing::error!(%error, %context, %object, "a revocation could not take everything away");
                result = Err(ErrorCode::NoMemory);
            }
        }
        result
    }

    /// Remembers when a decision ends, for [`Monitor::expire`].
    pub(super) fn watch_clock(&self, decision: &Decision) {
        let until = decision.validity.until;
        if until != u64::MAX && self.expiry.fetch_min(until, Ordering::SeqCst) > until {
            self.expiry_timer.set(Some(Duration::from_nanos(until.saturating_sub(now()))));
        }
    }

    /// Takes away what has expired.
    pub(in crate::machine) fn expire(&self) {
        self.expiry_timer.clear();
        let mut authority = self.authority();
        let time = now();
        let expiry = self.expiry.load(Ordering::SeqCst);
        if expiry > time {
            // The timer was set for a time that has moved, or rang early: the host's clock was set.
            if expiry != u64::MAX {
                self.expiry_timer.set(Some(Duration::from_nanos(expiry - time)));
            }
            return;
        }
        self.expiry.store(u64::MAX, Ordering::SeqCst);
        // The others tell their time again.
        let done = self.decide_again(&mut authority, |_, _, decision| decision.validity.until != u64::MAX);
        self.revise();
        if let Err(error) = done {
            tracing::error!(%error, "what has expired could not be taken away");
        }
    }

    /// Tells every hart's kernel that gates may have closed.
    pub(super) fn revise(&self) {
        let revision = self.revision.fetch_add(1, Ordering::SeqCst) + 1;
        (self.on_revision)(revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::monitor::test_world::{BOTH, world};
    use twz_abi::Rights;
    use twz_abi::syscall::CreateSpec;

    #[test]
    fn the_host_takes_everything_from_a_context_and_it_stays_so() {
        let Some(world) = world() else { return };
        let monitor = &world.monitor;
        let object = world.object(BOTH, 7);
        let (binding, rights) = monitor.bind(world.context, object).expect("bind");
        assert_eq!(rights, BOTH);
        monitor.touch(world.root, binding, DATA_OFFSET, Rights::WRITE).expect("touch");
        assert!(monitor.shows(world.context, object, DATA_OFFSET));
        monitor.revoke_by_host(HostRevocation::Context(world.context)).expect("revoke");
        assert!(!monitor.shows(world.context, object, DATA_OFFSET), "still shown after the revocation");
        let touched = monitor.touch(world.root, binding, DATA_OFFSET, Rights::READ);
        assert_eq!(touched.map(drop), Err(ErrorCode::NotPermitted));
        assert_eq!(monitor.bind(world.context, object), Err(ErrorCode::NotPermitted));
        let again = load(&world.pool).expect("the stored list");
        assert!(again.has_context(world.context), "not durable");
        let nothing = ObjectId { lo: 5, hi: 5 };
        assert_eq!(monitor.revoke_by_host(HostRevocation::Object(nothing)), Err(ErrorCode::NoObject));
    }

    #[test]
    fn a_failure_at_any_step_of_storing_leaves_one_list_and_nothing_else() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let options = pool::CreateOptions::default();
        let pool = Pool::create(&place.path().join("pool"), 16 << 20, &options).expect("pool");
        let objects = || pool.object_ids().len();
        let mut revocations = Revocations::default();
        for number in 1..=4 {
            let context = ObjectId { lo: number, hi: 7 };
            let before = load(&pool).expect("the list");
            revocations.apply(&Revocation::by_host_of_context(context)).expect("room");
            let old = current(&pool);

            // The power fails before the commit point.
            write_next(&pool, old, &revocations).expect("written");
            assert!(!load(&pool).expect("the list").has_context(context), "{number}: not yet published");
            assert_eq!(objects(), usize::from(old.is_some()), "{number}: something stays behind");

            // It fails right behind it.
            let new = write_next(&pool, old, &revocations).expect("written");
            publish(&pool, new).expect("published");
            assert!(load(&pool).expect("the list").has_context(context), "{number}: published");
            assert_eq!(objects(), 1, "{number}: something stays behind");
            assert!(before.records().all(|record| revocations.records().any(|other| other == record)));

            // It does not fail, though the former error left something.
            write_next(&pool, current(&pool), &before).expect("written");
            store(&pool, &revocations).expect("stored");
            assert!(load(&pool).expect("the list").has_context(context));
            assert_eq!(objects(), 1, "{number}: something stays behind");
        }
    }

    #[test]
    fn what_nobody_granted_is_not_bound() {
        let Some(world) = world() else { return };
        let monitor = &world.monitor;
        let mine = monitor.create(world.context, &CreateSpec::default(), &[]).expect("create");
        assert_eq!(monitor.bind(world.context, mine).expect("the creator").1, Rights::all());
        let foreign = world.object(Rights::empty(), 7);
        assert_eq!(monitor.bind(world.context, foreign), Err(ErrorCode::NotPermitted));
        let stranger = world.make_context(false);
        let header = sec::Context::read(&super::super::facts::Bytes(&world.pool, stranger)).expect("header");
        monitor.enter_as(stranger, &header).expect("enter");
        assert_eq!(monitor.bind(stranger, mine), Err(ErrorCode::NotPermitted));
    }
}
