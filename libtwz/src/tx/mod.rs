//! Transactions: several changes to several objects, all or none (paper §3.5: TXSTART, TXRECORD, TXEND).
//!
//! ```text
//! lock -> record, fence, change, record, fence, change … -> commit batch, fence -> puts are stored -> unlock
//!                                          └ error or drop: put back, abort batch, fence, unlock
//! … when the log is nearly full, before the next transaction: checkpoint = flush what the log names, fence, new epoch, fence
//! ```
//! # Contract
//! - A change in place ([`Tx::set`], or a store after [`Tx::record`] and [`Tx::settle`]) is visible at once; its record is durable
//!   before it. A batch of records costs one fence.
//! - A put ([`Tx::put`]) is stored when the transaction commits, and needs no record: a transaction of puts costs one fence in all.
//! - **X1** commit point: the batch that ends the transaction, with the new contents of all that it changed. So changed
//!   lines need not be flushed; the log is redone after a power failure. They are flushed at the next checkpoint, once each, however
//!   often they were changed.
//! - **X2** several objects: the others' logs are checkpointed when they join, name the home object as coordinator, hold records
//!   only, and what is changed in them is durable before the home's commit batch. The home's log names them, and an undone
//!   home has put them back before its own log ends. So a log that still trails when its coordinator is recovered is committed.
//! - **X3** an object that is made because another is full (an arena's, a log's: [`Link`]) is volatile until it is tied to that one, and linked
//!   before it is tied: whenever the power fails, it is reached from there, or gone. It is tied before the commit, and stays then; a
//!   transaction that is undone takes it with it.
//! - One transaction at a time in an object; the second object is only tried, never waited for, so that two
//!   transactions cannot wait for each other ([`Error::Busy`]).
//! - A failed transaction can only end; dropping one undoes it. Out of space undoes the whole.
//! - Recovery runs under the object's lock when it is first locked in a boot ([`crate::Object::open`] does so), or taken from a thread that has ended.
//! - A word that transactions change must not be changed by plain stores that are to survive: a redone log would put the
//!   transaction's value back. [`checkpoint`] draws a line between the two. Blocks of [`Tx::alloc`] are free of that rule.

mod change;
mod check;
mod entry;
mod framed;
mod inner;
mod link;
mod log;
mod look;
mod part;
mod piece;
mod recover;
pub(crate) mod room;

pub(crate) use change::{Puts, bytes_of};
pub(crate) use framed::read_versioned;
pub(crate) use link::Link;
pub(crate) use log::{HEADER_BYTES as LOG_HEADER_BYTES, Log};
pub(crate) use look::recover_to_read;
pub(crate) use recover::recover_before_delete;

use crate::error::{Error, Result};
use crate::persist;
use crate::simulate;
use crate::window::Window;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::marker::PhantomData;
use part::Part;
use twz_abi::{ObjectId, Rights};

const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);

/// A running transaction. Ends when dropped, undone unless [`Tx::end`] was called.
///
/// It stays with its thread, whose number the objects' locks hold:
/// ```compile_fail,E0277
/// fn pass_on(tx: libtwz::Tx) {
///     std::thread::spawn(move || tx.abort()); // error: cannot be sent between threads
/// }
/// ```
/// ```compile_fail,E0277
/// fn pass_on(tx: libtwz::TxObject<libtwz::PCell<u64>>) {
///     std::thread::spawn(move || tx.commit());
/// }
/// ```
#[derive(Debug)]
pub struct Tx {
    inner: RefCell<Inner>,
    /// Not [`Send`].
    thread: PhantomData<*const ()>,
}

#[derive(Debug)]
struct Inner {
    home: Part,
    others: Vec<Part>,
    /// Objects made for what did not fit.
    made: Vec<Made>,
    failed: bool,
    ended: bool,
    locked: bool,
}

/// An object that was made for what did not fit into another (**X3**).
#[derive(Clone, Copy, Debug)]
struct Made {
    link: Link,
    /// It lives as long as the full object from now on, so the link stays.
    tied: bool,
}

/// Which transactions an object has seen: equal states mean that none changed it between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    epoch: u64,
    tail: u64,
    sequence: u64,
}

/// An object that is looked at before a transaction has its lock.
///
/// Whatever is read after this is as good as read under the lock if the transaction finds the same state: one that has changed
/// anything in place has written to the log, and each batch moves `sequence`, each checkpoint `epoch`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    window: Window,
    /// Its log, and where its arena stands; `None` for an object that has none, as the transaction will say.
    opened: Option<(Log, u64)>,
    /// `None` while a transaction has it, for then it may be half changed.
    state: Option<State>,
}

impl Ahead {
    #[inline(always)]
    pub(crate) fn of(window: Window) -> Self {
        let opened = crate::object::log_of(window).ok();
        let state = opened.and_then(|(log, _)| log.state_if_free());
        Self { window, opened, state }
    }

    /// [`Tx::run`] there; `body` is told whether what was read since is as good as read in it.
    #[inline(always)]
    pub(crate) fn run<R>(self, body: impl FnOnce(&Tx, bool) -> Result<R>) -> Result<R> {
        Tx::run_with(self.window, self.opened, |tx| {
            let state = tx.inner.borrow().home.state();
            body(tx, self.state == Some(state))
        })
    }
}

/// Where a nested transaction began, in each object.
#[derive(Debug)]
struct Savepoint {
    parts: Vec<part::Mark>,
    /// Whether the transaction had failed before.
    failed: bool,
}

impl Tx {
    /// Begins a transaction whose home is the object at `window` (TXSTART); waits for its lock.
    ///
    /// # Errors
    /// [`Error::Busy`] when this thread is in a transaction of that object already: pass that on, or nest in it.
    pub fn start(window: Window) -> Result<Self> {
        let mut tx = Self::unlocked(window);
        tx.lock(None)?;
        Ok(tx)
    }

    #[inline(always)]
    fn unlocked(window: Window) -> Self {
        let inner = Inner {
            home: Part::unlocked(window),
            others: Vec::new(),
            made: Vec::new(),
            failed: false,
            ended: false,
            locked: false,
        };
        Self { inner: RefCell::new(inner), thread: PhantomData }
    }

    #[inline(always)]
    fn lock(&mut self, opened: Option<(Log, u64)>) -> Result<()> {
        let inner = self.inner.get_mut();
        inner.home.lock(opened)?;
        inner.locked = true;
        inner.home.set_coordinator(ObjectId::NULL);
        Ok(())
    }

    /// Runs `body` in a transaction with home `window`, committing when it returns `Ok`.
    ///
    /// # Errors
    /// What `body` or the transaction says; then nothing has changed.
    #[inline]
    pub fn run<R>(window: Window, body: impl FnOnce(&Self) -> Result<R>) -> Result<R> {
        Self::run_with(window, None, body)
    }

    #[inline(always)]
    fn run_with<R>(
        window: Window,
        opened: Option<(Log, u64)>,
        body: impl FnOnce(&Self) -> Result<R>,
    ) -> Result<R> {
        let mut tx = Self::unlocked(window);
        tx.lock(opened)?;
        let result = body(&tx)?;
        tx.finish()?;
        Ok(result)
    }

    /// Runs `body` as a part of this transaction that can fail alone: on `Err` what it changed is put back, and the
    /// transaction goes on, unless it had failed before.
    ///
    /// # Errors
    /// What `body` says.
    pub fn nested<R>(&self, body: impl FnOnce(&Self) -> Result<R>) -> Result<R> {
        let savepoint = {
            let mut inner = self.inner.borrow_mut();
            Savepoint { parts: inner.parts_mut().map(Part::begin_nested).collect(), failed: inner.failed }
        };
        let result = body(self);
        let mut inner = self.inner.borrow_mut();
        for (i, part) in inner.parts_mut().enumerate() {
            let mark = savepoint.parts.get(i);
            if result.is_err() {
                part.undo_to(mark);
            }
            part.end_nested(mark);
        }
        if result.is_err() {
            // Lines were written back that lost their marks to what is undone: nobody may be left waiting for a fence.
            persist::fence();
            inner.failed = savepoint.failed;
        }
        result
    }

    /// The home object's window.
    #[must_use]
    pub fn home(&self) -> Window {
        self.inner.borrow().home.window()
    }

    /// Makes everything durable and final (TXEND).
    ///
    /// # Errors
    /// [`Error::TransactionFailed`] when an operation failed that was not nested; everything is put back then. So also for an
    /// error while the free lists are changed.
    pub fn end(self) -> Result<()> {
        self.finish()
    }

    #[inline]
    fn finish(&self) -> Result<()> {
        let inner = &mut *self.inner.borrow_mut();
        if inner.failed {
            return Err(Error::TransactionFailed); // the drop puts everything back
        }
        inner.commit()
    }

    /// Ends the transaction and puts everything back.
    pub fn abort(self) {}

    #[inline(always)]
    fn guarded<R>(&self, operation: impl FnOnce(&mut Inner) -> Result<R>) -> Result<R> {
        let inner = &mut *self.inner.borrow_mut();
        if inner.failed {
            return Err(Error::TransactionFailed);
        }
        let result = operation(inner);
        if result.is_err() {
            inner.fail();
        }
        result
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        if !inner.locked || simulate::has_ended() {
            return;
        }
        if !inner.ended {
            inner.undo();
        }
        if inner.others.is_empty() && inner.made.is_empty() {
            return inner.home.unlock();
        }
        let mut made = core::mem::take(&mut inner.made);
        made.retain(|made| !made.tied);
        made.iter().for_each(|made| made.link.cut());
        for part in inner.parts() {
            part.unlock();
        }
        for orphan in made {
            // SAFETY: blocks in it were given out by this transaction only, which undid that; nothing leads to it.
            // That it cannot be deleted is the lesser error.
            let _ = unsafe { crate::object::discard(orphan.link.to) };
        }
    }
}

/// Makes everything that transactions changed in the object at `window` durable in place, and its log empty.
///
/// # Errors
/// As [`Tx::start`].
pub fn checkpoint(window: Window) -> Result<()> {
    while_quiet(window, || Ok(()))
}

/// Runs `body` while no transaction of the object at `window` can run, with its log empty.
pub(crate) fn while_quiet<R>(window: Window, body: impl FnOnce() -> Result<R>) -> Result<R> {
    let mut part = Part::unlocked(window);
    part.lock(None)?;
    part.checkpoint();
    part.leave_tail(); // as whoever copies the object now must find it
    let result = body();
    part.unlock();
    result
}

/// What transactions an object has seen, also if none in this boot; `None` while one has it.
pub(crate) fn settled_state(log: &Log) -> Option<State> {
    (!part::lock_of(log).is_held()).then(|| log.state())
}
