//! What a thread knows about itself: a block that FS points to, and in it the thread's own values ([`LocalKey`], with std's shape).
//!
//! # Contract
//! - **I1**: FS is 0, or the address of a [`ThreadBlock`] whose first word is its own address, which stays where it is as long as the
//!   thread runs. Only the thread itself uses its block.
//! - A thread that has no block (one that was started by a bare system call, or that is inside a gate) must not use what needs one.

use crate::syscall;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::any::Any;
use core::arch::asm;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};
use twz_abi::ErrorCode;
use twz_abi::thread::{THREAD_INDEX_BITS, ThreadProperty};

/// Serial numbers that [`id`] tells apart.
const SERIALS: u64 = (1 << 10) - 1;

/// A thread's block.
#[repr(C)]
pub struct ThreadBlock {
    this: Cell<*const Self>,
    id: Cell<u32>,
    /// The thread is past its end: its values are being dropped.
    has_ended: Cell<bool>,
    /// Its values, by key. A value stays where it is as long as it is in the list.
    locals: RefCell<Vec<Option<Box<dyn Any>>>>,
}

impl ThreadBlock {
    /// A block that belongs to nobody yet.
    #[must_use]
    pub const fn new() -> Self {
        Self::at(ptr::null())
    }

    const fn at(place: *const Self) -> Self {
        Self {
            this: Cell::new(place),
            id: Cell::new(0),
            has_ended: Cell::new(false),
            locals: RefCell::new(Vec::new()),
        }
    }

    /// Puts a new block at `place`, for a thread that will be started with FS as returned.
    ///
    /// # Safety
    /// The place is big enough, and the thread's alone as long as it runs (I1).
    pub unsafe fn put(place: *mut Self) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { place.write(Self::at(place)) };
        place as u64
    }

    /// Makes it the calling thread's.
    ///
    /// # Errors
    /// None today.
    ///
    /// # Safety
    /// It must stay where it is as long as the thread runs (I1), and be no other thread's.
    pub unsafe fn install(&self) -> Result<(), ErrorCode> {
        self.this.set(self);
        syscall::thread_set(0, ThreadProperty::Tls, ptr::from_ref(self) as u64)
    }
}

impl fmt::Debug for ThreadBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ThreadBlock({})", self.id.get())
    }
}

impl Default for ThreadBlock {
    fn default() -> Self {
        Self::new()
    }
}

/// The calling thread's block.
fn current() -> &'static ThreadBlock {
    let block: *const ThreadBlock;
    // SAFETY: reads the first word of the block (I1); without a block this is the null page, and a fault.
    unsafe { asm!("mov {}, fs:[0]", out(reg) block, options(nostack, preserves_flags, readonly, pure)) };
    // SAFETY: I1. The block outlives every use by its own thread.
    unsafe { &*block }
}

/// Whether `block` is the calling thread's.
pub(crate) fn is_current(block: &ThreadBlock) -> bool {
    ptr::eq(current(), block)
}

/// A number from 1 to 2^30 - 1 that no two threads running now share.
#[must_use]
pub fn id() -> u32 {
    let block = current();
    match block.id.get() {
        0 => {
            let id = syscall::thread_self().map_or(1, |running| short_id(running.thread));
            block.id.set(id);
            id
        }
        id => id,
    }
}

/// Whether the thread lives of which [`id`] gave this number; also `true` if it is not known.
#[must_use]
pub fn lives(id: u32) -> bool {
    match syscall::thread_find(u64::from(id) & ((1 << THREAD_INDEX_BITS) - 1)) {
        Ok(number) => short_id(number) == id,
        Err(error) => error != ErrorCode::NoThread,
    }
}

/// Two threads that run at the same time differ in the index; the serial number tells a thread from those before it.
#[allow(clippy::cast_possible_truncation, reason = "20 + 10 bits")]
fn short_id(number: u64) -> u32 {
    let index = number & ((1 << THREAD_INDEX_BITS) - 1);
    let serial = (number >> THREAD_INDEX_BITS) % SERIALS + 1;
    (serial << THREAD_INDEX_BITS | index) as u32
}

/// Drops the values of the calling thread, whose block this is, the newest first; what they need meanwhile may be made and is dropped as
/// well.
pub(crate) fn end(block: &ThreadBlock) {
    loop {
        // Bound first: a value's drop may look for others.
        let last = block.locals.borrow_mut().pop();
        match last {
            Some(value) => drop(value),
            None => break,
        }
    }
    block.has_ended.set(true);
}

/// Keys given out, 0 being none.
static KEYS: AtomicUsize = AtomicUsize::new(1);

/// A value that each thread has its own of, made at its first use; what [`thread_local!`](crate::thread_local) declares.
#[derive(Debug)]
pub struct LocalKey<T: 'static> {
    key: AtomicUsize,
    make: fn() -> T,
}

/// The thread's values are gone: it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessError;

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the thread's values are gone")
    }
}

impl core::error::Error for AccessError {}

impl<T: 'static> LocalKey<T> {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(make: fn() -> T) -> Self {
        Self { key: AtomicUsize::new(0), make }
    }

    fn key(&self) -> usize {
        match self.key.load(Ordering::Relaxed) {
            0 => {
                let new = KEYS.fetch_add(1, Ordering::Relaxed);
                // Another thread may have been faster; a key is lost then.
                self.key
                    .compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed)
                    .map_or_else(|key| key, |_| new)
            }
            key => key,
        }
    }

    /// Runs `body` with the calling thread's value.
    ///
    /// # Errors
    /// [`AccessError`] after the thread's end.
    pub fn try_with<R>(&'static self, body: impl FnOnce(&T) -> R) -> Result<R, AccessError> {
        let (block, key) = (current(), self.key());
        if block.has_ended.get() {
            return Err(AccessError);
        }
        let find = || {
            let locals = block.locals.borrow();
            let value = locals.get(key)?.as_ref()?.downcast_ref::<T>()?;
            Some(ptr::from_ref(value))
        };
        let value = match find() {
            Some(value) => value,
            None => {
                let made: Box<dyn Any> = Box::new((self.make)());
                let mut locals = block.locals.borrow_mut();
                if locals.len() <= key {
                    locals.resize_with(key + 1, || None);
                }
                locals[key] = Some(made);
                drop(locals);
                find().ok_or(AccessError)?
            }
        };
        // SAFETY: the box stays in the list until the thread ends, which it does not during `body`; only this thread gets here.
        Ok(body(unsafe { &*value }))
    }

    /// Runs `body` with the calling thread's value.
    ///
    /// # Panics
    /// After the thread's end.
    pub fn with<R>(&'static self, body: impl FnOnce(&T) -> R) -> R {
        match self.try_with(body) {
            Ok(result) => result,
            Err(error) => panic!("{error}"),
        }
    }
}

impl<T: 'static> LocalKey<Cell<T>> {
    /// Stores a value.
    pub fn set(&'static self, value: T) {
        self.with(|cell| cell.set(value));
    }

    /// A copy of the value.
    pub fn get(&'static self) -> T
    where
        T: Copy,
    {
        self.with(Cell::get)
    }

    /// Takes the value and leaves the default.
    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.with(Cell::take)
    }

    /// Stores a value and returns the old one.
    pub fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }
}

impl<T: 'static> LocalKey<RefCell<T>> {
    /// Runs `body` with the value.
    pub fn with_borrow<R>(&'static self, body: impl FnOnce(&T) -> R) -> R {
        self.with(|cell| body(&cell.borrow()))
    }

    /// Runs `body` with the value, which it may change.
    pub fn with_borrow_mut<R>(&'static self, body: impl FnOnce(&mut T) -> R) -> R {
        self.with(|cell| body(&mut cell.borrow_mut()))
    }

    /// Stores a value.
    pub fn set(&'static self, value: T) {
        self.with(|cell| *cell.borrow_mut() = value);
    }

    /// Takes the value and leaves the default.
    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.with(RefCell::take)
    }

    /// Stores a value and returns the old one.
    pub fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }
}

/// Declares values that each thread has its own of, as std's macro of this name does.
#[macro_export]
macro_rules! thread_local {
    ($($(#[$attribute:meta])* $visibility:vis static $name:ident : $type:ty = $value:expr);* $(;)?) => {
        $($(#[$attribute])* $visibility static $name: $crate::tls::LocalKey<$type> = $crate::tls::LocalKey::new(|| $value);)*
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ids_are_not_zero_fit_and_differ() {
        let of = |serial: u64, index: u64| short_id(serial << THREAD_INDEX_BITS | index);
        assert!(of(0, 0) > 0 && of(SERIALS, 0) > 0);
        assert!(of(SERIALS - 1, (1 << THREAD_INDEX_BITS) - 1) < 1 << 30);
        assert_ne!(of(1, 5), of(1, 6));
        assert_ne!(of(1, 5), of(2, 5));
    }
}
