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
//! - Recovery runs under the object's lock when it is first locked in a boot ([`crate::Object::open`] does so).
//! - A word that transactions change must not be changed by plain stores that are to survive: a redone log would put the
//!   transaction's value back. [`checkpoint`] draws a line between the two. Blocks of [`Tx::alloc`] are free of that rule.

mod check;
mod entry;
mod framed;
mod link;
mod log;
mod look;
mod part;
mod piece;
mod recover;

pub(crate) use link::Link;
pub(crate) use log::{HEADER_BYTES as LOG_HEADER_BYTES, Log};
pub(crate) use look::recover_to_read;
pub(crate) use recover::recover_before_delete;

use crate::cell::PCell;
use crate::error::{Error, Result, damaged_at};
use crate::invariant::Invariant;
use crate::persist;
use crate::ptr::InvPtr;
use crate::simulate;
use crate::translate;
use crate::view;
use crate::window::{SLOT_MASK, Window};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::marker::PhantomData;
use part::Part;
use twz_abi::{ObjectId, PersistentPtr, Rights};

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

impl State {
    /// The state of the object at `window`; `None` while a transaction has it, for then it may be half changed.
    ///
    /// Whatever is read after this is as good as read under the lock if [`Tx::state`] gives the same: a transaction that has
    /// changed anything in place has written to the log, and each batch moves `sequence`, each checkpoint `epoch`.
    #[inline]
    pub(crate) fn of(window: Window) -> Option<Self> {
        crate::object::log_of(window).ok().and_then(|(log, _)| log.state_if_free())
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
        tx.lock()?;
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
    fn lock(&mut self) -> Result<()> {
        let inner = self.inner.get_mut();
        inner.home.lock()?;
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
        let mut tx = Self::unlocked(window);
        tx.lock()?;
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
            let inner = self.inner.borrow();
            Savepoint { parts: inner.parts().map(Part::mark).collect(), failed: inner.failed }
        };
        let result = body(self);
        if result.is_err() {
            let mut inner = self.inner.borrow_mut();
            let Inner { home, others, .. } = &mut *inner;
            for (i, part) in core::iter::once(home).chain(others).enumerate() {
                part.undo_to(savepoint.parts.get(i));
            }
            inner.failed = savepoint.failed;
        }
        result
    }

    /// Records what is in `bytes` bytes at `address` (TXRECORD), without waiting: call [`Tx::settle`] before writing.
    /// The range is flushed when the transaction commits.
    ///
    /// # Errors
    /// [`Error::NotInObject`], [`Error::OutOfSpace`], [`Error::Busy`].
    #[inline]
    pub fn record_range(&self, address: usize, bytes: usize) -> Result<()> {
        self.guarded(|inner| inner.record(address, bytes))
    }

    /// [`Tx::record_range`] of a value.
    ///
    /// # Errors
    /// As [`Tx::record_range`].
    #[inline]
    pub fn record<T: Invariant>(&self, value: &T) -> Result<()> {
        self.record_range(core::ptr::from_ref(value).addr(), size_of::<T>())
    }

    /// Waits until all records are durable; free when they are.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`] when the log cannot grow: nothing may be written then.
    #[inline]
    pub fn settle(&self) -> Result<()> {
        self.guarded(Inner::settle)
    }

    /// Changes a cell.
    ///
    /// # Errors
    /// As [`Tx::record_range`].
    #[inline]
    pub fn set<T: Invariant + Copy>(&self, cell: &PCell<T>, value: T) -> Result<()> {
        self.guarded(|inner| {
            inner.record(cell.as_ptr().addr(), size_of::<T>())?;
            inner.settle()
        })?;
        cell.set_without_log(value);
        Ok(())
    }

    /// Changes a cell that was recorded ([`Tx::record`] of it or of what it is in) or allocated in this transaction.
    ///
    /// # Errors
    /// As [`Tx::settle`].
    #[inline]
    pub fn set_recorded<T: Invariant + Copy>(&self, cell: &PCell<T>, value: T) -> Result<()> {
        self.settle()?;
        cell.set_without_log(value);
        Ok(())
    }

    /// Changes a cell when the transaction commits; until then it keeps its value. The cheapest way: no record, no wait.
    /// Of a cell that is also [`Tx::set`] in this transaction, the put wins.
    ///
    /// # Errors
    /// As [`Tx::record_range`].
    #[inline]
    pub fn put<T: Invariant + Copy>(&self, cell: &PCell<T>, value: T) -> Result<()> {
        let () = T::NO_PADDING;
        self.put_value(cell.as_ptr().addr(), &value)
    }

    /// [`Tx::point`] when the transaction commits.
    ///
    /// # Errors
    /// As [`Tx::point`].
    #[inline]
    pub fn put_ptr<T: Invariant>(&self, place: &InvPtr<T>, target: Option<&T>) -> Result<()> {
        let address = core::ptr::from_ref(place).addr();
        let pointer = match target {
            None => PersistentPtr::NULL,
            Some(target) => {
                translate::persistent(Window::around(address)?, core::ptr::from_ref(target).addr())?
            }
        };
        self.put_value(address, &pointer.0)
    }

    /// Stores pending puts now, with records, so that what follows in this transaction sees them; one fence if there are any.
    ///
    /// # Errors
    /// As [`Tx::settle`].
    #[inline]
    pub fn apply(&self) -> Result<()> {
        self.guarded(|inner| {
            let mut any = inner.home.record_puts();
            for part in &mut inner.others {
                any |= part.record_puts();
            }
            if any {
                inner.settle()?;
                inner.home.store_recorded_puts();
                for part in &mut inner.others {
                    part.store_recorded_puts();
                }
            }
            Ok(())
        })
    }

    /// [`Tx::put`] of a value at an address in an object.
    #[inline]
    pub(crate) fn put_value<T: Invariant>(&self, address: usize, value: &T) -> Result<()> {
        let bytes = bytes_of(core::slice::from_ref(value));
        match bytes.as_array::<8>() {
            Some(word) => self.put_word(address, u64::from_le_bytes(*word)), // by far the most common
            None => self.put_bytes(address, bytes),
        }
    }

    /// [`Tx::put`] of values in a row.
    pub(crate) fn put_slice<T: Invariant>(&self, address: usize, values: &[T]) -> Result<()> {
        self.put_bytes(address, bytes_of(values))
    }

    fn put_bytes(&self, address: usize, bytes: &[u8]) -> Result<()> {
        self.guarded(|inner| {
            let index = inner.join_at(address)?;
            inner.part_mut(index).put(address, bytes)
        })
    }

    fn put_word(&self, address: usize, word: u64) -> Result<()> {
        self.guarded(|inner| {
            let index = inner.join_at(address)?;
            inner.part_mut(index).put_word(address, word)
        })
    }

    /// Makes `place`, which stands in an object, lead to `target` (`None`: nowhere), in the same object or another
    /// (`ptr_store`).
    ///
    /// # Errors
    /// As [`Tx::record_range`]; [`Error::OutOfFotEntries`].
    #[inline]
    pub fn point<T: Invariant>(&self, place: &InvPtr<T>, target: Option<&T>) -> Result<()> {
        self.record(place)?;
        self.point_recorded(place, target)
    }

    /// [`Tx::point`] for a place that was recorded or allocated in this transaction.
    ///
    /// # Errors
    /// [`Error::NotInObject`], [`Error::OutOfFotEntries`].
    #[inline]
    pub fn point_recorded<T: Invariant>(&self, place: &InvPtr<T>, target: Option<&T>) -> Result<()> {
        let pointer = match target {
            None => PersistentPtr::NULL,
            Some(target) => {
                let holder = Window::around(core::ptr::from_ref(place).addr())?;
                translate::persistent(holder, core::ptr::from_ref(target).addr())?
            }
        };
        self.settle()?;
        place.set_raw(pointer);
        Ok(())
    }

    /// Puts `value` into a new block of the home object, or of the objects chained to it when it is full.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`], [`Error::TooLarge`].
    #[inline]
    pub fn alloc<'a, T: Invariant>(&self, value: T) -> Result<&'a T> {
        let home = self.home();
        self.alloc_in(home, value)
    }

    /// [`Tx::alloc`] near other data: in the object at `window`.
    ///
    /// # Errors
    /// As [`Tx::alloc`].
    pub fn alloc_in<'a, T: Invariant>(&self, window: Window, value: T) -> Result<&'a T> {
        let () = T::NO_PADDING;
        let address = self.alloc_raw(window, size_of::<T>(), align_of::<T>())?;
        self.settle()?;
        // SAFETY: the block is T's size and alignment, inside an object, and nobody else's until this commits.
        unsafe { (address as *mut T).write(value) };
        simulate::stored(address, size_of::<T>());
        // SAFETY: just written; objects stay mapped (`view::unmap` is unsafe), T changes by interior mutability only.
        Ok(unsafe { &*(address as *const T) })
    }

    /// [`Tx::alloc_in`] of a block that is filled when the transaction commits: until then it holds what it held, and only puts may
    /// change it. Later plain stores to it that are to survive need a [`checkpoint`] first.
    ///
    /// # Errors
    /// As [`Tx::alloc`].
    #[inline]
    pub fn alloc_put<'a, T: Invariant>(&self, window: Window, value: T) -> Result<&'a T> {
        let () = T::NO_PADDING;
        let (bytes, align) = (size_of::<T>(), align_of::<T>());
        let address =
            self.guarded(|inner| inner.alloc(window, bytes, align, |part| part.alloc_for_put(bytes, align)))?;
        self.put_value(address, &value)?;
        // SAFETY: a block of T's size and alignment in an object that stays mapped; any bits are a T.
        Ok(unsafe { &*(address as *const T) })
    }

    /// A block of `bytes` with whatever is in it; its address. The commit flushes nothing of it: it is filled by puts, or by a
    /// program that orders its own stores with [`crate::persist`].
    ///
    /// # Errors
    /// As [`Tx::alloc`].
    #[inline]
    pub fn alloc_unfilled(&self, window: Window, bytes: usize, align: usize) -> Result<usize> {
        self.guarded(|inner| inner.alloc(window, bytes, align, |part| part.alloc_for_put(bytes, align)))
    }

    /// A block of `bytes`, with whatever is in it; its address. Call [`Tx::settle`] before writing to it. It is flushed when the
    /// transaction commits.
    ///
    /// # Errors
    /// As [`Tx::alloc`].
    pub fn alloc_raw(&self, window: Window, bytes: usize, align: usize) -> Result<usize> {
        self.guarded(|inner| inner.alloc(window, bytes, align, |part| part.alloc(bytes, align)))
    }

    /// Gives a block back when the transaction commits.
    ///
    /// # Safety
    /// The block came from [`Tx::alloc`] for a `T`, is not freed twice, and nobody follows a pointer to it any more.
    ///
    /// # Errors
    /// [`Error::NotInObject`], [`Error::Damaged`], [`Error::Busy`].
    pub unsafe fn free<T: Invariant>(&self, block: &T) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.free_raw(core::ptr::from_ref(block).addr(), size_of::<T>(), align_of::<T>()) }
    }

    /// [`Tx::free`] of a block from [`Tx::alloc_raw`].
    ///
    /// # Safety
    /// As [`Tx::free`], with the size and alignment that it was allocated with.
    ///
    /// # Errors
    /// As [`Tx::free`].
    pub unsafe fn free_raw(&self, address: usize, bytes: usize, align: usize) -> Result<()> {
        self.guarded(|inner| {
            let index = inner.join_at(address)?;
            inner.part_mut(index).free(address, bytes, align)
        })
    }

    /// Notes that a range was written which needs no record (a fresh block), so that the commit flushes it.
    ///
    /// # Errors
    /// [`Error::NotInObject`], [`Error::Busy`].
    pub fn wrote(&self, address: usize, bytes: usize) -> Result<()> {
        self.guarded(|inner| {
            let index = inner.join_at(address)?;
            inner.part_mut(index).note(address, bytes)
        })
    }

    /// The home's state as this transaction found it; for use before it did anything.
    #[inline]
    pub(crate) fn state(&self) -> Option<State> {
        Some(self.inner.borrow().home.state())
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
            inner.failed = true;
        }
        result
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        if !inner.locked {
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

impl Inner {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        core::iter::once(&self.home).chain(&self.others)
    }

    #[inline]
    fn part_mut(&mut self, index: usize) -> &mut Part {
        if index == 0 { &mut self.home } else { &mut self.others[index - 1] }
    }

    #[inline]
    fn settle(&mut self) -> Result<()> {
        let mut wrote = self.home.settle()?;
        for part in &mut self.others {
            wrote |= part.settle()?;
        }
        if wrote {
            persist::fence();
        }
        Ok(())
    }

    #[inline]
    fn record(&mut self, address: usize, bytes: usize) -> Result<()> {
        let index = self.join_at(address)?;
        self.part_mut(index).record(address, bytes)
    }

    /// The part of the object at `window`, taking its lock and telling both logs of each other when it is new (**X2**).
    #[inline]
    fn join(&mut self, window: Window) -> Result<usize> {
        if window == self.home.window() { Ok(0) } else { self.join_other(window) }
    }

    /// [`Inner::join`] by an address in the object.
    #[inline(always)]
    fn join_at(&mut self, address: usize) -> Result<usize> {
        if address & !SLOT_MASK == self.home.window().base() {
            return Ok(0);
        }
        self.join_other(Window::around(address)?)
    }

    #[cold]
    fn join_other(&mut self, window: Window) -> Result<usize> {
        if let Some(i) = self.others.iter().position(|part| part.window() == window) {
            return Ok(i + 1);
        }
        let (id, rights) = view::what_is_at(window)?;
        // The same object through another slot has one lock and one log: use the part that has them.
        if let Some(i) = self.parts().position(|part| part.id() == id) {
            return Ok(i);
        }
        if !rights.contains(Rights::WRITE) {
            return Err(Error::NotPermitted(id));
        }
        let part = Part::try_lock(window)?;
        part.set_coordinator(self.home.id());
        self.home.record_participant(id);
        self.others.push(part);
        Ok(self.others.len())
    }

    #[inline]
    fn alloc(
        &mut self,
        window: Window,
        bytes: usize,
        align: usize,
        take: impl Fn(&mut Part) -> Result<usize>,
    ) -> Result<usize> {
        let mut window = window;
        let mut made = self.made.len();
        crate::arena::class_for(bytes, align)?; // what fits no object must not make one
        loop {
            let index = self.join(window)?;
            match take(self.part_mut(index)) {
                // Not even in an empty one, since it would not be aligned there.
                Err(Error::OutOfSpace(_)) if self.made.len() > made => {
                    return Err(Error::TooLarge { bytes: bytes as u64 });
                }
                Err(Error::OutOfSpace(id)) => {
                    made = self.made.len();
                    window = self.next_object(index, id, bytes)?;
                }
                other => return other,
            }
        }
    }

    /// The object that takes what does not fit into part `index`: made on first need.
    #[cold]
    fn next_object(&mut self, index: usize, full: ObjectId, bytes: usize) -> Result<Window> {
        let (next_at, next, capacity) = self.part_mut(index).overflow()?;
        if bytes > capacity {
            return Err(Error::TooLarge { bytes: bytes as u64 });
        }
        if !next.is_null() {
            match view::map(next, READ_WRITE) {
                // The power failed after it was linked, and before it was tied: nothing of a transaction was in it (X3).
                Err(Error::NoSuchObject(_)) => {}
                found => {
                    let at = found?;
                    let full_at = self.part_mut(index).window();
                    let is_its = crate::object::continues(full, next, at);
                    return is_its
                        .then_some(at)
                        .ok_or_else(|| damaged_at(full_at, next_at, "an object that goes on from this one"));
                }
            }
        }
        let made = crate::object::create_overflow(full, capacity).map_err(|error| match error {
            Error::OutOfSpace(_) => Error::OutOfSpace(full),
            other => other,
        })?;
        let link = Link { from: self.part_mut(index).window(), at: next_at, to: made };
        self.made.push(Made { link, tied: false });
        link.store();
        view::map(made, READ_WRITE)
    }

    /// Ties the objects that were made, in the order of their chain, so that they stay; those in which nothing is after all go. Before
    /// the commit.
    #[cold]
    fn keep_made(&mut self) -> Result<()> {
        let Self { made, others, .. } = self;
        for made in made.iter().rev() {
            let is_used = others.iter_mut().find(|part| part.id() == made.link.to).is_some_and(|part| {
                part.did_anything() || part.overflow().is_ok_and(|(_, next, _)| !next.is_null())
            });
            if !is_used {
                made.link.cut();
            }
        }
        for made in made.iter_mut().filter(|made| made.link.is_there()) {
            made.link.tie()?;
            made.tied = true;
        }
        Ok(())
    }

    #[inline]
    fn commit(&mut self) -> Result<()> {
        self.home.put_allocations()?;
        if self.others.is_empty() && self.home.only_puts() {
            self.home.commit_puts()?;
            self.ended = true;
            return Ok(());
        }
        self.commit_all()
    }

    /// [`Inner::commit`] of changes in place, of new blocks, or of several objects.
    fn commit_all(&mut self) -> Result<()> {
        if !self.others.is_empty() {
            self.prepare_others()?;
        }
        // 1. New blocks are durable before anything leads to them; so are records that nobody waited for.
        let flushed = self.home.flush_fresh();
        if self.home.settle()? || flushed || !self.others.is_empty() {
            persist::fence();
        }
        // 2. Commit point (X1).
        self.home.write_commit()?;
        persist::fence();
        // 3. What was put off.
        self.home.apply_puts();
        self.ended = true;
        for part in &mut self.others {
            part.checkpoint();
        }
        // After the others': until their logs have ended, ours says that they are committed.
        if self.home.reused_blocks() || self.home.is_log_long() {
            self.home.checkpoint();
        }
        Ok(())
    }

    /// Makes the participants' changes in place, and flushes them (**X2**); durable with the next fence.
    #[cold]
    fn prepare_others(&mut self) -> Result<()> {
        for part in &mut self.others {
            part.put_allocations()?;
            part.record_puts();
        }
        if !self.made.is_empty() {
            self.keep_made()?;
        }
        self.settle()?;
        for part in &mut self.others {
            part.store_recorded_puts();
            part.flush_changed();
        }
        Ok(())
    }

    /// Puts everything back: the participants first (**X2**).
    fn undo(&mut self) {
        self.ended = true;
        if self.others.is_empty() && !self.home.did_anything() {
            return;
        }
        for part in &mut self.others {
            part.undo_to(None);
            part.checkpoint();
        }
        self.home.undo_to(None);
        self.home.write_abort();
        persist::fence(); // X1: before another thread appends
        if self.home.is_log_long() {
            self.home.checkpoint();
        }
    }
}

/// The bytes of values.
#[inline(always)]
fn bytes_of<T: Invariant>(values: &[T]) -> &[u8] {
    let () = T::NO_PADDING;
    // SAFETY: T has no padding (Invariant), so all bytes are initialised.
    unsafe { core::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
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
    part.lock()?;
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
