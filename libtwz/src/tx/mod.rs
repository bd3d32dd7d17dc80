//! Transactions: several changes to several objects, all or none (paper §3.5: TXSTART, TXRECORD, TXEND).
//!
//! ```text
//! lock object -> record, fence, change, record, fence, change … -> flush changes, fence -> finish, fence -> unlock
//!                                                      └ error or drop: restore from the log, fence, finish, fence
//! ```
//! # Contract
//! - Undo log with record before write: a change reaches memory only after its record is durable. A batch of records
//!   ([`Tx::record`] several times, then the first [`Tx::settle`] or write) costs one fence.
//! - **X1** commit point: the store of the home object's `finished` number (`log.rs`). Before it is durable, recovery
//!   puts everything back; after it, everything is durable already.
//! - **X2** several objects: the others' logs name the home object as coordinator, and the home's log names them. Home
//!   rolled back means that it rolled them back first; a live log whose coordinator is finished is thus committed.
//! - One transaction at a time in an object; the second object is only tried, never waited for, so that two
//!   transactions cannot wait for each other ([`Error::Busy`]).
//! - A failed transaction can only end; dropping one undoes it. Out of space undoes the whole.
//! - Recovery runs under the object's lock when it is first locked in a boot ([`crate::Object::open`] does so), and may
//!   be cut off and repeated: restoring is idempotent, `finished` moves last.

mod log;
mod part;
mod recover;

pub(crate) use log::{HEADER_BYTES as LOG_HEADER_BYTES, Log};
pub(crate) use recover::recover_if_first;

use crate::cell::PCell;
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::persist;
use crate::ptr::InvPtr;
use crate::translate;
use crate::view;
use crate::window::Window;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::Ordering;
use part::Part;
use twz_abi::{ObjectId, PersistentPtr, Rights};

/// A running transaction. Not shared between threads; ends when dropped, undone unless [`Tx::end`] was called.
#[derive(Debug)]
pub struct Tx {
    inner: RefCell<Inner>,
}

#[derive(Debug)]
struct Inner {
    home: Part,
    others: Vec<Part>,
    failed: bool,
    ended: bool,
    /// Records were written that no fence has made durable.
    unsettled: bool,
}

/// Where a nested transaction began, in each object.
struct Savepoint {
    parts: Vec<part::Mark>,
}

impl Tx {
    /// Begins a transaction whose home is the object at `window` (TXSTART); waits for its lock.
    ///
    /// # Errors
    /// [`Error::Busy`] when this thread is in a transaction of that object already: pass that on, or nest in it.
    pub fn start(window: Window) -> Result<Self> {
        let home = Part::lock(window)?;
        home.set_coordinator(ObjectId::NULL);
        let inner = Inner { home, others: Vec::new(), failed: false, ended: false, unsettled: false };
        Ok(Self { inner: RefCell::new(inner) })
    }

    /// Runs `body` in a transaction with home `window`, committing when it returns `Ok`.
    ///
    /// # Errors
    /// What `body` or the transaction says; then nothing has changed.
    pub fn run<R>(window: Window, body: impl FnOnce(&Self) -> Result<R>) -> Result<R> {
        let tx = Self::start(window)?;
        let result = body(&tx)?;
        tx.end()?;
        Ok(result)
    }

    /// Runs `body` as a part of this transaction that can fail alone: on `Err` what it changed is put back, and the
    /// transaction goes on.
    ///
    /// # Errors
    /// What `body` says.
    pub fn nested<R>(&self, body: impl FnOnce(&Self) -> Result<R>) -> Result<R> {
        let savepoint = {
            let inner = self.inner.borrow();
            Savepoint { parts: inner.parts().map(Part::mark).collect() }
        };
        let result = body(self);
        if result.is_err() {
            let mut inner = self.inner.borrow_mut();
            inner.settle();
            let Inner { home, others, .. } = &mut *inner;
            for (i, part) in core::iter::once(home).chain(others).enumerate() {
                part.undo_to(savepoint.parts.get(i));
            }
            inner.failed = false;
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
    #[inline]
    pub fn settle(&self) {
        self.inner.borrow_mut().settle();
    }

    /// Changes a cell.
    ///
    /// # Errors
    /// As [`Tx::record_range`].
    #[inline]
    pub fn set<T: Invariant + Copy>(&self, cell: &PCell<T>, value: T) -> Result<()> {
        self.guarded(|inner| {
            inner.record(cell.as_ptr().addr(), size_of::<T>())?;
            inner.settle();
            Ok(())
        })?;
        cell.set_without_log(value);
        Ok(())
    }

    /// Changes a cell that was recorded ([`Tx::record`] of it or of what it is in) or allocated in this transaction.
    #[inline]
    pub fn set_recorded<T: Invariant + Copy>(&self, cell: &PCell<T>, value: T) {
        self.settle();
        cell.set_without_log(value);
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
        self.settle();
        place.word().store(pointer.0, Ordering::Release);
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
        // SAFETY: the block is T's size and alignment, inside an object, and nobody else's until this commits.
        unsafe { (address as *mut T).write(value) };
        // SAFETY: just written; objects stay mapped (`view::unmap` is unsafe), T changes by interior mutability only.
        Ok(unsafe { &*(address as *const T) })
    }

    /// A block of `bytes`, with whatever is in it; its address. It is flushed when the transaction commits.
    ///
    /// # Errors
    /// As [`Tx::alloc`].
    pub fn alloc_raw(&self, window: Window, bytes: usize, align: usize) -> Result<usize> {
        self.guarded(|inner| {
            let mut window = window;
            loop {
                let (index, result) = inner.alloc(window, bytes, align)?;
                match result {
                    Err(Error::OutOfSpace(id)) => window = inner.next_object(index, id)?,
                    other => return other,
                }
            }
        })
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
            let index = inner.join(Window::around(address)?)?;
            inner.part_mut(index).free(address, bytes, align)
        })
    }

    /// Notes that a range was written which needs no record (a fresh block), so that the commit flushes it.
    ///
    /// # Errors
    /// [`Error::NotInObject`], [`Error::Busy`].
    pub fn wrote(&self, address: usize, bytes: usize) -> Result<()> {
        self.guarded(|inner| {
            let index = inner.join(Window::around(address)?)?;
            inner.part_mut(index).note(address, bytes);
            Ok(())
        })
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
        let inner = &mut *self.inner.borrow_mut();
        if inner.failed {
            return Err(Error::TransactionFailed); // the drop puts everything back
        }
        inner.commit()
    }

    /// Ends the transaction and puts everything back.
    pub fn abort(self) {}

    #[inline]
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
        if !inner.ended {
            inner.undo();
        }
        for part in inner.parts() {
            part.unlock();
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
    fn settle(&mut self) {
        if self.unsettled {
            persist::fence();
            self.unsettled = false;
        }
    }

    #[inline]
    fn record(&mut self, address: usize, bytes: usize) -> Result<()> {
        let window = Window::around(address)?;
        let index = if window == self.home.window() { 0 } else { self.join(window)? };
        if self.part_mut(index).record(address, bytes)? {
            self.unsettled = true;
        }
        Ok(())
    }

    /// The part of the object at `window`, taking its lock and telling both logs of each other when it is new (**X2**).
    fn join(&mut self, window: Window) -> Result<usize> {
        if window == self.home.window() {
            return Ok(0);
        }
        if let Some(i) = self.others.iter().position(|part| part.window() == window) {
            return Ok(i + 1);
        }
        let (id, rights) = view::what_is_at(window)?;
        // The same object through another slot has one lock and one log: use the part that has them.
        let known = self.parts().position(|part| part.id() == id);
        if let Some(i) = known {
            return Ok(i);
        }
        if !rights.contains(Rights::WRITE) {
            return Err(Error::NotInObject { address: window.base() });
        }
        let part = Part::try_lock(window)?;
        part.set_coordinator(self.home.id());
        if let Err(error) = self.home.record_participant(id) {
            part.unlock();
            return Err(error);
        }
        self.unsettled = true;
        self.others.push(part);
        Ok(self.others.len())
    }

    fn alloc(&mut self, window: Window, bytes: usize, align: usize) -> Result<(usize, Result<usize>)> {
        let index = self.join(window)?;
        let (recorded, result) = self.part_mut(index).alloc(bytes, align);
        self.unsettled |= recorded;
        Ok((index, result))
    }

    /// The object that takes what does not fit into part `index`: made on first need.
    #[cold]
    fn next_object(&mut self, index: usize, full: ObjectId) -> Result<Window> {
        let part = self.part_mut(index);
        let (next_at, next, capacity) = part.overflow()?;
        if !next.is_null() {
            return view::map(next, Rights::READ | Rights::WRITE);
        }
        let made = crate::object::create_overflow(capacity).map_err(|error| match error {
            Error::OutOfSpace(_) => Error::OutOfSpace(full),
            other => other,
        })?;
        let window = self.part_mut(index).window();
        self.record(window.base() + next_at, 16)?;
        self.settle();
        window.store(next_at, made.lo);
        window.store(next_at + 8, made.hi);
        view::map(made, Rights::READ | Rights::WRITE)
    }

    fn commit(&mut self) -> Result<()> {
        // 1. What the allocators changed is recorded and stored with the rest.
        let Self { home, others, unsettled, .. } = self;
        for part in core::iter::once(&mut *home).chain(others) {
            *unsettled |= part.record_frees()?;
        }
        self.settle();
        let mut dirty = false;
        let Self { home, others, .. } = self;
        for part in core::iter::once(&mut *home).chain(others) {
            dirty |= part.flush_changes();
        }
        if dirty {
            // 2. All data is durable before the logs let go of the old.
            persist::fence();
            // 3. Commit point (X1), then the participants'.
            self.home.finish();
            persist::fence();
            self.finish_others();
        }
        self.ended = true;
        Ok(())
    }

    fn finish_others(&self) {
        if !self.others.is_empty() {
            for part in &self.others {
                part.finish();
            }
            persist::fence();
        }
    }

    /// Puts everything back: the participants first (**X2**).
    fn undo(&mut self) {
        self.settle();
        for part in &mut self.others {
            part.undo_to(None);
        }
        self.home.undo_to(None);
        persist::fence();
        self.finish_others();
        self.home.finish();
        persist::fence();
        self.ended = true;
    }
}
