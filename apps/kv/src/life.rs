//! Whether an object was left in order, and who writes in it now. The store's root, each data object and each secondary index have one.
//!
//! ```text
//! CLEAN --a writer begins: state stored, flushed, fenced--> DIRTY --the last writer ends--> CLEAN
//!                                                            │ power fails
//!                                                            └--the next boot's first writer puts it in order--> DIRTY
//! ```
//! # Contract
//! - Who never changes an object does not begin in it: a writer of one object needs no right on another.
//! - What the last writer saves is durable before the state says CLEAN; a state other than that is durable before anything is changed.
//! - A program that ends without [`Life::end`] leaves the object DIRTY for this boot and the next one's first writer.

use crate::error::Result;
use crate::layout::zero;
use libtwz::persist;
use libtwz::prelude::*;
use libtwz::sync::RawMutex;
use libtwz::sys::{Platform, Seam};

/// The state of what was left in order by this version; what another left is put in order, as after a power failure.
const CLEAN: u64 = 3;

/// The words in the object.
#[derive(Debug, Invariant)]
#[repr(C, align(64))]
pub(crate) struct Life {
    /// [`CLEAN`] or 0.
    state: PCell<u64>,
    reserved: [u64; 7],
    /// From here on never flushed. Guards the rest.
    lock: RawMutex,
    /// The boot in which somebody last began.
    boot: PCell<u64>,
    writers: PCell<u64>,
    reserved2: [u64; 5],
}

// docs/formats/kv.md
const _: () = assert!(size_of::<Life>() == 128 && core::mem::offset_of!(Life, lock) == 64);

/// The lock of a [`Life`], held.
pub(crate) struct Held<'a>(&'a Life);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.lock.unlock();
    }
}

impl Life {
    /// That of an object that nobody wrote in, in order or not.
    pub(crate) const fn new(in_order: bool) -> Self {
        Self {
            state: PCell::new(if in_order { CLEAN } else { 0 }),
            reserved: [0; 7],
            lock: RawMutex::new(),
            boot: zero(),
            writers: zero(),
            reserved2: [0; 5],
        }
    }

    /// Excludes others that begin or end.
    pub(crate) fn hold(&self) -> Result<Held<'_>> {
        self.lock.lock()?;
        Ok(Held(self))
    }

    /// Whether somebody began in this boot: what is never flushed means something.
    #[inline]
    pub(crate) fn has_begun(&self) -> bool {
        self.boot.get() == boot()
    }

    /// Whether what is there can be read: it was left in order, or put in order in this boot.
    pub(crate) fn is_readable(&self) -> bool {
        self.has_begun() || self.is_clean()
    }

    /// Whether it was left in order.
    pub(crate) fn is_clean(&self) -> bool {
        self.state.get() == CLEAN
    }

    /// One writer less; `save` is run for the last one, and makes durable what it does.
    pub(crate) fn end(&self, save: impl FnOnce() -> Result<()>) -> Result<()> {
        let _held = self.hold()?;
        let left = self.writers.get().saturating_sub(1);
        self.writers.set_without_log(left);
        if left == 0 {
            save()?;
            persist::fence();
            self.set_state(CLEAN); // commit point of the close
        }
        Ok(())
    }

    /// Says, durably, that what is there is in no order.
    pub(crate) fn spoil(&self) {
        self.set_state(0);
    }

    fn set_state(&self, state: u64) {
        self.state.set_without_log(state);
        persist::persist(self.state.as_ptr().addr(), 8);
    }
}

impl Held<'_> {
    /// One writer more; `first` is run for the first one of a boot, and told whether the object was left in order.
    pub(crate) fn begin(&self, first: impl FnOnce(bool) -> Result<()>) -> Result<()> {
        let life = self.0;
        if !life.has_begun() {
            first(life.is_clean())?;
            life.writers.set_without_log(0);
            life.boot.set_without_log(boot());
        }
        if life.is_clean() {
            life.set_state(0);
        }
        life.writers.set_without_log(life.writers.get() + 1);
        Ok(())
    }
}

/// This boot's number.
fn boot() -> u64 {
    u64::from(Platform::boot_generation())
}
