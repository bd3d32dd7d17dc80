//! Bringing an object to the last committed transaction after a power failure.
//!
//! 1. Committed transactions are stored again, undone ones put back, in the order of the log. Changes in place since the
//!    last checkpoint may or may not have been durable; now they are what the log says.
//! 2. A trailing transaction is put back, newest entry first – unless another log decides about it: that one is recovered first
//!    (it puts its participants back before its own log ends). If ours still trails then, it was committed, and
//!    what it changed is durable in place.
//! 3. Flush, fence, new epoch, fence. Cut off anywhere, it starts again with the same log: storing is idempotent.

use super::log::{Batch, Entry, Kind, Log};
use super::part::lock_of;
use crate::error::{Error, Result};
use crate::object;
use crate::persist;
use crate::view;
use crate::window::Window;
use alloc::vec::Vec;
use twz_abi::{ObjectId, Rights};

const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);

/// Recovers the object at `window` unless that was done in this boot; waits for whoever is doing it.
pub(crate) fn recover_if_first(window: Window) -> Result<()> {
    recover_once(&object::log_of(window)?.0, recover_locked)
}

fn recover_once(log: &Log, recover: impl FnOnce(&Log) -> Result<()>) -> Result<()> {
    let lock = lock_of(log);
    if lock.take_unrecovered() {
        end(log, recover(log))?;
        lock.unlock();
    }
    Ok(())
}

/// Recovers an object whose lock the caller has taken for the first time in this boot. On `Err` the lock is free, and the next holder
/// is the first again: what is half changed is seen by no transaction.
pub(super) fn recover_taken(log: &Log) -> Result<()> {
    end(log, recover_locked(log))
}

fn end(log: &Log, result: Result<()>) -> Result<()> {
    let lock = lock_of(log);
    match result {
        Ok(()) => lock.set_recovered(),
        Err(_) => lock.unlock_unrecovered(),
    }
    result
}

fn recover_locked(log: &Log) -> Result<()> {
    log.start_boot();
    let Some(trailing) = replay(log) else { return Ok(()) };
    let me = view::id_at(log.window.base());
    crate::fot::forget_table(me);
    let coordinator = log.coordinator();
    if trailing.is_empty() || coordinator.is_null() || coordinator == me {
        return roll_back(log, &trailing);
    }
    match recover_coordinator(coordinator) {
        Ok(()) => {}
        // Gone, and with it what it had committed: putting our half back leaves nothing half done.
        Err(Error::NoSuchObject(_)) => return roll_back(log, &trailing),
        Err(error) => return Err(error),
    }
    persist::fence();
    log.void(); // X2
    Ok(())
}

/// Sees to it that the deciding log was recovered in this boot: whoever is recovering it may be putting *us* back.
fn recover_coordinator(id: ObjectId) -> Result<()> {
    recover_once(&open(id)?, |log| {
        if !log.coordinator().is_null() && replay(log).is_some_and(|trailing| !trailing.is_empty()) {
            return Err(Error::Damaged { object: id, offset: 0, expected: "a coordinator that has none itself" });
        }
        recover_locked(log)
    })
}

fn open(id: ObjectId) -> Result<Log> {
    Ok(object::log_of(view::map(id, READ_WRITE)?)?.0)
}

/// Step 1: the trailing transaction's records, or `None` for an empty log.
fn replay(log: &Log) -> Option<Vec<Batch>> {
    let mut at = log.start();
    let mut pending = Vec::new();
    while let Some(batch) = log.read(&mut at) {
        match batch.kind {
            Kind::Undo | Kind::Redo => pending.push(batch),
            Kind::Commit => {
                pending.push(batch);
                for batch in pending.drain(..).filter(|batch| batch.kind != Kind::Undo) {
                    log.entries(batch).for_each(|entry| log.restore(entry));
                }
            }
            Kind::Abort => {
                put_back(log, &pending);
                pending.clear();
            }
        }
    }
    pending.retain(|batch| batch.kind == Kind::Undo);
    (at != log.start()).then_some(pending)
}

/// Puts back what undo batches say, newest first; returns who took part.
fn put_back(log: &Log, batches: &[Batch]) -> Vec<ObjectId> {
    let undo = batches.iter().filter(|batch| batch.kind == Kind::Undo);
    let entries: Vec<Entry> = undo.flat_map(|batch| log.entries(*batch)).collect();
    let mut participants = Vec::new();
    for entry in entries.into_iter().rev() {
        match entry {
            Entry::Participant(id) => participants.push(id),
            Entry::Range { .. } => log.restore(entry),
        }
    }
    participants
}

/// Steps 2 and 3 for a log that decides itself.
fn roll_back(log: &Log, trailing: &[Batch]) -> Result<()> {
    for id in put_back(log, trailing) {
        // A participant that is gone, or whose log is another transaction's by now, has nothing to put back.
        let Ok(other) = open(id) else { continue };
        if other.coordinator() != view::id_at(log.window.base()) {
            continue;
        }
        if let Some(theirs) = replay(&other)
            && !theirs.is_empty()
        {
            put_back(&other, &theirs); // its log ends when it is opened: it has no coordinator then that is undone
        }
    }
    persist::fence();
    log.void();
    Ok(())
}
