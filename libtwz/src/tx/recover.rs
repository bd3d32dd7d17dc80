//! Bringing an object to the last committed transaction after a power failure, or after a thread ended in the middle of one.
//!
//! 1. Committed transactions are stored again, undone ones put back, in the order of the log. Changes in place since the
//!    last checkpoint may or may not have been durable; now they are what the log says.
//! 2. A trailing transaction is put back, newest entry first – unless another log decides about it: that one is recovered first
//!    (it puts its participants back, or ends their logs, before its own log ends). If ours still trails then, it was committed, and
//!    what it changed is durable in place.
//! 3. Flush, fence, new epoch, fence. Cut off anywhere, it starts again with the same log: storing is idempotent.
//!
//! After a thread that ended, and not the power ([`Taken::FromEnded`]), memory is what that thread left, and others may be reading it. Then step 1
//! flushes what stands there, and stores only what the last transaction, if it was committed, may not have come to ([`Memory::AsLeft`]). What it made for
//! want of room exists, so it is tied before it is used (**X3**).
//!
//! # Contract
//! - **R1** a log ends only when all that it decides about is done. Where that cannot be (an object that may not be written, no slot), recovery
//!   fails, and the object stays unrecovered: whoever opens it next tries again.
//! - **R2** nobody gets an object from [`recover_if_first`] that is not recovered: who comes second waits.
//! - **R3** another object's log is touched only while it waits for our decision: it trails, names us, and was not recovered in this boot, or not since
//!   the thread ended that holds its lock. Whoever recovers it meanwhile waits for our lock.
//! - A participant that was deleted has nothing to put back. With a deleted coordinator all participants are put back, each when it is opened;
//!   [`crate::Object::delete`] has recovered it before, so only what was not committed, or a deletion by other means, comes to that.
//! - What was committed does not need the participants at once: one that this program may not write keeps its log, and asks when
//!   it is opened.

use super::link::Link;
use super::log::{Batch, Entry, Kind, Log};
use super::part::lock_of;
use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::object;
use crate::persist;
use crate::sync::Taken;
use crate::sys::{Platform, Seam};
use crate::translate;
use crate::view;
use crate::window::Window;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};
use twz_abi::{ObjectId, Rights};

/// Most logs of which each decides about the one before.
const COORDINATORS: u32 = 8;
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);

/// Recovers the object at `window` unless that was done in this boot; waits for whoever is doing it.
pub(crate) fn recover_if_first(window: Window) -> Result<()> {
    recover_once(&object::log_of(window)?.0, recover_locked)
}

/// As [`recover_if_first`] for an object that is to be deleted: what it committed is then the participants' own. One that is damaged, or not to
/// be written by this program, is left as it is.
pub(crate) fn recover_before_delete(id: ObjectId) -> Result<()> {
    match open(id).and_then(|log| recover_once(&log, recover_locked)) {
        Err(Error::Damaged { .. } | Error::NotPermitted(_)) => Ok(()),
        other => other,
    }
}

fn recover_once(log: &Log, recover: impl FnOnce(&Log, Taken) -> Result<()>) -> Result<()> {
    let lock = lock_of(log);
    let taken = lock.take_unrecovered();
    if taken != Taken::Again {
        end(log, recover(log, taken))?;
        lock.unlock();
    }
    Ok(())
}

/// Recovers an object whose lock the caller has taken for the first time in this boot, or from a thread that has ended. On `Err` the next
/// one that wants the lock takes it over and recovers first: what is half changed is seen by no transaction.
pub(super) fn recover_taken(log: &Log, taken: Taken) -> Result<()> {
    end(log, recover_locked(log, taken))
}

fn end(log: &Log, result: Result<()>) -> Result<()> {
    let lock = lock_of(log);
    match result {
        Ok(()) => lock.set_recovered(),
        Err(_) => lock.unlock_unrecovered(),
    }
    result
}

fn recover_locked(log: &Log, taken: Taken) -> Result<()> {
    recover_before(log, taken, 0)
}

/// [`recover_locked`] for the sake of so many logs that this one decides about, each about the one before.
fn recover_before(log: &Log, taken: Taken, waiting: u32) -> Result<()> {
    let is_new = log.start_boot() && taken == Taken::First;
    if taken != Taken::First {
        log.set_room(0); // it may have been moved past a sparse block that is nobody's now
        tie_what_it_made(log)?;
        make_durable(log)?;
    }
    let memory = if taken == Taken::FromEnded { Memory::AsLeft } else { Memory::Old };
    let was_empty = !redo_and_undo(log, memory, waiting)?;
    if was_empty && !is_new {
        log.void(); // behind a torn batch others may be whole, and would count behind one of that length (L1)
    }
    log.give_back();
    if taken != Taken::First {
        translate::forget_for_all(); // somebody may have translated what was put back, or not heard of what was committed
    }
    Ok(())
}

/// Makes the log durable as it is read: whoever wrote it may have ended before it was, and what it says is done is done elsewhere, too, from here on.
fn make_durable(log: &Log) -> Result<()> {
    let mut at = log.start();
    while let Some(batch) = log.read(&mut at)? {
        log.flush_batch(batch);
    }
    persist::fence();
    Ok(())
}

/// Ties the objects that the one with this log goes on in: whoever linked them may have ended before that.
fn tie_what_it_made(log: &Log) -> Result<()> {
    let (id, arena_at) = (view::id_at(log.window.base()), object::log_of(log.window)?.1);
    let mut keeper = id;
    for piece in log.pieces() {
        Platform::tie(piece, keeper)?;
        keeper = piece;
    }
    if arena_at == 0 {
        return Ok(());
    }
    let arena = Arena::open(log.window, arena_at)?;
    let next = arena.next();
    let is_its = !next.is_null()
        && view::map(next, Rights::READ).is_ok_and(|window| object::continues(id, next, window));
    if is_its { Link { from: log.window, at: arena.next_at(), to: next }.tie() } else { Ok(()) }
}

/// What memory is beside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// What a power failure left: older than the log, in places.
    Old,
    /// What a thread left that has ended: what was committed stands there, but perhaps for the end of the last transaction.
    AsLeft,
}

/// Steps 1 to 3; the log is empty then. False if it was before.
fn redo_and_undo(log: &Log, memory: Memory, waiting: u32) -> Result<bool> {
    let Some(Found { trailing, committed }) = replay(log, memory)? else { return Ok(false) };
    let me = view::id_at(log.window.base());
    crate::fot::forget_table(me);
    let coordinator = log.coordinator();
    if trailing.is_empty() || coordinator.is_null() || coordinator == me {
        end_participants(log, &committed)?;
        return roll_back(log, &trailing).map(|()| true);
    }
    match recover_coordinator(coordinator, waiting + 1) {
        Ok(()) => {}
        // Gone, and with it what it had committed: putting our half back leaves nothing half done.
        Err(Error::NoSuchObject(id)) if id == coordinator => return roll_back(log, &trailing).map(|()| true),
        Err(error) => return Err(error),
    }
    persist::fence();
    log.void(); // X2
    Ok(true)
}

/// Sees to it that the deciding log was recovered in this boot: whoever is recovering it may be putting *us* back. It may itself wait for another
/// one's decision: ours may be an old transaction of it, which was committed when we could not be had.
fn recover_coordinator(id: ObjectId, waiting: u32) -> Result<()> {
    let log = open(id)?;
    if waiting > COORDINATORS {
        let expected = "coordinators of coordinators that end";
        return Err(Error::Damaged { object: id, offset: 0, expected });
    }
    recover_once(&log, |log, taken| recover_before(log, taken, waiting))
}

/// The log of an object that this program can read and write.
fn open(id: ObjectId) -> Result<Log> {
    let window = view::map(id, READ_WRITE)?;
    // A mapping may have more rights than the context, or be of an object that is gone: that would end the program at the first access.
    if !Platform::stat(id)?.granted.contains(READ_WRITE) {
        return Err(Error::NotPermitted(id));
    }
    Ok(object::log_of(window)?.0)
}

/// What [`replay`] leaves to do.
struct Found {
    /// Records of the transaction that has not ended.
    trailing: Vec<Batch>,
    /// Who took part in the last transaction, if that was committed.
    committed: Vec<ObjectId>,
}

/// Step 1; `None` for an empty log.
fn replay(log: &Log, memory: Memory) -> Result<Option<Found>> {
    let mut at = log.start();
    let mut pending = Vec::new();
    let mut committed = Vec::new();
    // The last transaction, if it was committed and nothing of another came after it.
    let mut last = Vec::new();
    while let Some(batch) = log.read(&mut at)? {
        committed.clear(); // a transaction begins when the one before is done everywhere
        see_to(log, last.drain(..), memory);
        match batch.kind {
            Kind::Undo | Kind::Redo => pending.push(batch),
            Kind::Commit => {
                pending.push(batch);
                committed = participants(log, &pending);
                last.extend(pending.drain(..).filter(|batch| batch.kind != Kind::Undo));
            }
            Kind::Abort if memory == Memory::AsLeft => see_to(log, pending.drain(..), memory),
            Kind::Abort => {
                put_back(log, &pending);
                pending.clear();
            }
        }
    }
    see_to(log, last.into_iter(), Memory::Old);
    pending.retain(|batch| batch.kind == Kind::Undo);
    Ok((at != log.start()).then_some(Found { trailing: pending, committed }))
}

/// Sees to it that what batches say is durable in place: stores it, or flushes what stands there.
fn see_to(log: &Log, batches: impl Iterator<Item = Batch>, memory: Memory) {
    for entry in batches.flat_map(|batch| log.entries(batch)) {
        match memory {
            Memory::Old => log.restore(entry),
            Memory::AsLeft => log.flush(entry),
        }
    }
}

/// The records of the transaction that has not ended; changes nothing.
fn trailing(log: &Log) -> Result<Vec<Batch>> {
    let mut at = log.start();
    let mut records = Vec::new();
    while let Some(batch) = log.read(&mut at)? {
        match batch.kind {
            Kind::Undo => records.push(batch),
            Kind::Redo => {}
            Kind::Commit | Kind::Abort => records.clear(),
        }
    }
    Ok(records)
}

fn undo_entries(log: &Log, batches: &[Batch]) -> Vec<Entry> {
    let undo = batches.iter().filter(|batch| batch.kind == Kind::Undo);
    undo.flat_map(|batch| log.entries(*batch)).collect()
}

fn participants(log: &Log, batches: &[Batch]) -> Vec<ObjectId> {
    let id = |entry| if let Entry::Participant(id) = entry { Some(id) } else { None };
    undo_entries(log, batches).into_iter().filter_map(id).collect()
}

/// Puts back what undo batches say, newest first.
fn put_back(log: &Log, batches: &[Batch]) {
    undo_entries(log, batches).into_iter().rev().for_each(|entry| log.restore(entry));
}

/// The log and the records of `id` if it waits for the decision of the object `me`, whose lock is held (**R3**).
fn waits_for(id: ObjectId, me: ObjectId) -> Result<Option<(Log, Vec<Batch>)>> {
    let other = match open(id) {
        Ok(other) => other,
        Err(Error::NoSuchObject(_)) => return Ok(None), // gone: there is nothing to put back
        Err(error) => return Err(error),
    };
    if other.coordinator() != me {
        return Ok(None); // the log is another transaction's by now
    }
    let theirs = trailing(&other)?;
    // Last: if it is not recovered now, nobody was at work in it while the log was read, nor will be before it is.
    fence(Ordering::Acquire);
    let waits = !theirs.is_empty() && !lock_of(&other).is_recovered();
    Ok(waits.then_some((other, theirs)))
}

/// Ends the logs of those who took part in what is committed: what was changed in them is durable in place (**X2**), and stays when
/// this object is deleted.
fn end_participants(log: &Log, committed: &[ObjectId]) -> Result<()> {
    for id in committed {
        match waits_for(*id, view::id_at(log.window.base())) {
            Ok(None) => {}
            Ok(Some((other, _))) => {
                other.void();
            }
            // It may have been done with for long: no reason to keep this object from who may not write that one.
            Err(Error::NotPermitted(_) | Error::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Steps 2 and 3 for a log that decides itself.
fn roll_back(log: &Log, trailing: &[Batch]) -> Result<()> {
    put_back(log, trailing);
    for id in participants(log, trailing) {
        if let Some((other, theirs)) = waits_for(id, view::id_at(log.window.base()))? {
            put_back(&other, &theirs); // its log ends when it is opened: it has no coordinator then that is undone
        }
    }
    persist::fence();
    log.void();
    Ok(())
}
