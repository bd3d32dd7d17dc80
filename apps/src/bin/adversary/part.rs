//! Capabilities that are passed on: what a delegate gives away beyond what it holds is worth nothing.

use crate::callee;
use crate::{SECRET, expect, intrude, intruder, is_refused, load, secret};
use alloc::vec::Vec;
use apps::compartment::World;
use apps::mapped::BOTH;
use sec::{Digest, GateSet, Grant, KeyPair, Validity};
use twz_rt::abi::program::FREE_SLOT;
use twz_rt::abi::sec::{CHAIN_MAX, RawCap};
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::context::{self};
use twz_rt::syscall;

/// Passes on that the first capability permits, more than any chain may have.
const LINKS: u32 = 20;

pub(crate) fn delegation(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let callee = world.compartment(shared, &[callee::probe])?;
    // It holds the first capability; nothing runs in it.
    let holder = world.compartment(shared, &[])?;
    let friend = KeyPair::new(&[0x77; 32]);
    let stranger = KeyPair::new(&[0x78; 32]);
    for key in [&friend, &stranger] {
        context::key_create(&key.public_object())?;
    }
    let owner = &world.owner;
    let mut slot = FREE_SLOT;
    // Tries the chain that `make` makes for a fresh object, and says what loading gave.
    let mut attempt = |make: &dyn Fn(ObjectId) -> Vec<RawCap>| -> Result<Result<u64, ErrorCode>, ErrorCode> {
        let (target, _) = secret(world)?;
        for capability in make(target) {
            callee.hand_over(&capability)?;
        }
        slot += 1;
        Ok(load(&callee, slot, target))
    };
    let first = |target, rights| Grant::new(target, holder.id, rights).delegable(friend.id(), 1);
    let part = |target| Grant::new(target, callee.id, Rights::READ);
    // The first capability, and what `who` signs as a part of it.
    let chain = |first: Grant, who: &KeyPair, part: &Grant| {
        let first = owner.grant(&first);
        Vec::from([who.sign_cap(part, Digest::of(&first)), first])
    };
    let now = syscall::clock()?.1;
    let until = |until| Validity { from: 0, until };

    let good = attempt(&|target| chain(first(target, BOTH), &friend, &part(target)))?;
    expect("a part that its holder passes on works", good == Ok(SECRET));
    let more = |target| Grant { rights: BOTH, ..part(target) };
    let wider = attempt(&|target| chain(first(target, Rights::READ), &friend, &more(target)))?;
    expect("passed on with more rights than the holder has", is_refused(wider));
    let ended = |target| Grant { validity: until(now), ..first(target, BOTH) };
    let later = |target| Grant { validity: until(u64::MAX - 1), ..part(target) };
    let outlives = attempt(&|target| chain(ended(target), &friend, &later(target)))?;
    expect("passed on for longer than the holder has it", is_refused(outlives));
    let elsewhere = |target| Grant { accessor: holder.id, ..part(target) };
    let other = attempt(&|target| chain(first(target, BOTH), &friend, &elsewhere(target)))?;
    expect("passed on to another context", is_refused(other));
    let whole = attempt(&|target| Vec::from([owner.grant(&first(target, BOTH))]))?;
    expect("the holder's own, in another context", is_refused(whole));
    let closed = |target| Grant { delegate: ObjectId::NULL, links_left: 0, ..first(target, BOTH) };
    let kept = attempt(&|target| chain(closed(target), &friend, &part(target)))?;
    expect("passed on though it may not be", is_refused(kept));
    let foreign = attempt(&|target| chain(first(target, BOTH), &stranger, &part(target)))?;
    expect("passed on by somebody else than its holder", is_refused(foreign));
    let again = |target| part(target).delegable(friend.id(), 1);
    let endless = attempt(&|target| chain(first(target, BOTH), &friend, &again(target)))?;
    expect("passed on with as many further links as it came with", is_refused(endless));
    let orphan = attempt(&|target| Vec::from([chain(first(target, BOTH), &friend, &part(target))[0]]))?;
    expect("passed on without what it is a part of", is_refused(orphan));

    // Leaf last here, so that each knows its parent.
    let deep = |target, length: usize| {
        let mut grant = Grant::new(target, holder.id, Rights::READ).delegable(friend.id(), LINKS);
        let mut links = Vec::from([owner.grant(&grant)]);
        while links.len() < length {
            grant.links_left -= 1;
            if links.len() + 1 == length {
                grant.accessor = callee.id;
            }
            let parent = links.last().map_or(Digest::NONE, Digest::of);
            links.push(friend.sign_cap(&grant, parent));
        }
        links
    };
    let longest = attempt(&|target| deep(target, CHAIN_MAX))?;
    expect("the longest chain works", longest == Ok(SECRET));
    let too_deep = attempt(&|target| deep(target, CHAIN_MAX + 1))?;
    expect("a chain that is too deep", is_refused(too_deep));

    // Gates are passed on like rights.
    let into = world.compartment(shared, &[callee::probe, callee::who])?;
    let gates = |number| GateSet::one(number).ok_or(ErrorCode::BadArgument);
    let held = Grant { gates: gates(1)?, ..first(into.id, Rights::empty()) };
    let from = world.compartment(shared, &[])?;
    let given = Grant { accessor: from.id, gates: gates(0)?, ..held }.delegable(ObjectId::NULL, 0);
    for capability in chain(held, &friend, &given) {
        from.hand_over(&capability)?;
    }
    let said = intrude(world, &from, FREE_SLOT, into.id, intruder)?;
    expect("passed on with another gate than the holder may call", said[2] == ErrorCode::NotPermitted as u64);
    let both = Grant { gates: gates(0)?, ..held };
    for capability in chain(both, &friend, &given) {
        from.hand_over(&capability)?;
    }
    let said = intrude(world, &from, FREE_SLOT + 1, into.id, intruder)?;
    expect("a gate that its holder passes on works", said[2] == ErrorCode::CalleeFailed as u64);
    Ok(())
}
