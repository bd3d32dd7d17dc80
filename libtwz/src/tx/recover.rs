//! Undoing what a power failure cut off.
//!
//! 1. Live log, no coordinator (or one that is gone): restore all ranges, newest first; so for each participant; fence.
//! 2. Finish the participants, fence, finish this log, fence (**X2**: never this log first).
//! 3. Live log with a coordinator: recover that first. If our log is still live, the coordinator had committed: finish.

use super::log::{Log, Record};
use super::part::lock_of;
use crate::error::{Error, Result};
use crate::object;
use crate::persist;
use crate::view;
use crate::window::Window;
use alloc::vec::Vec;
use twz_abi::{ObjectId, Rights};

const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
/// Longest chain of coordinators that is followed; ours are one long.
const DEPTH: u32 = 4;

/// Recovers the object at `window` unless that was done in this boot, or somebody is working in it.
pub(crate) fn recover_if_first(window: Window) -> Result<()> {
    let (log, _) = object::log_of(window)?;
    let lock = lock_of(&log);
    let Some(first) = lock.try_take() else { return Ok(()) };
    let result = if first.0 { recover_locked(&log) } else { Ok(()) };
    lock.unlock();
    result
}

/// Recovers an object whose lock the caller holds, for the first time in this boot.
pub(super) fn recover_locked(log: &Log) -> Result<()> {
    recover(log, DEPTH)
}

fn recover(log: &Log, depth: u32) -> Result<()> {
    if !log.is_live() {
        return Ok(());
    }
    crate::fot::forget_table(view::id_at(log.window.base()));
    let coordinator = log.coordinator();
    if coordinator.is_null() || coordinator == view::id_at(log.window.base()) {
        return roll_back(log);
    }
    let decided = match open(coordinator) {
        Ok(home) if depth > 0 => recover(&home, depth - 1),
        Ok(home) => Err(Error::Damaged {
            object: view::id_at(home.window.base()),
            offset: 0,
            expected: "a coordinator that has none itself",
        }),
        // Gone, and with it what it had committed: putting our half back leaves nothing half done.
        Err(Error::NoSuchObject(_)) => return roll_back(log),
        Err(error) => Err(error),
    };
    decided?;
    if log.is_live() {
        finish(log);
        persist::fence();
    }
    Ok(())
}

fn open(id: ObjectId) -> Result<Log> {
    Ok(object::log_of(view::map(id, READ_WRITE)?)?.0)
}

fn finish(log: &Log) {
    log.finish(log.finished().wrapping_add(1));
}

fn roll_back(log: &Log) -> Result<()> {
    let mut others = Vec::new();
    for id in restore_ranges(log) {
        // A participant that is gone, or whose log is another transaction's by now, has nothing to put back.
        let Ok(other) = open(id) else { continue };
        if other.is_live() && other.coordinator() == view::id_at(log.window.base()) {
            restore_ranges(&other);
            others.push(other);
        }
    }
    persist::fence();
    for other in &others {
        finish(other);
    }
    persist::fence();
    finish(log);
    persist::fence();
    Ok(())
}

/// Restores the ranges of a live log, newest first, and returns who took part.
fn restore_ranges(log: &Log) -> Vec<ObjectId> {
    let number = log.finished().wrapping_add(1);
    let (mut at, mut records, mut participants) = (log.start(), Vec::new(), Vec::new());
    while let Some(record) = log.read(&mut at, number) {
        match record {
            Record::Participant(id) => participants.push(id),
            Record::Range { .. } => records.push(record),
        }
    }
    for record in records.into_iter().rev() {
        log.restore(record);
    }
    participants
}
