//! A witness of flushes and fences, for whole-system crash tests: somebody else keeps the durable memory and must be told.
//!
//! # Contract
//! - With a witness set, [`Native`](crate::Native) tells it of every flush and fence before the call returns. Stores around the cache count as
//!   flushed. Without one, nothing but a load of a pointer is added.

use core::panic::Location;
use core::sync::atomic::{AtomicPtr, Ordering};

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traced {
    /// The lines that so many bytes at this address touch are flushed.
    Flush {
        /// First byte.
        address: u64,
        /// Bytes.
        bytes: u64,
    },
    /// What this thread flushed is durable when the witness returns.
    Fence,
}

/// Told of an event, and which line of the program did it.
pub type Witness = fn(Traced, &'static Location<'static>);

static WITNESS: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Makes `witness` be told from now on.
pub fn set_witness(witness: Witness) {
    WITNESS.store(witness as *mut (), Ordering::Release);
}

/// Tells the witness, if there is one; says whether there is.
#[inline]
pub(crate) fn tell(event: Traced, site: &'static Location<'static>) -> bool {
    let witness = WITNESS.load(Ordering::Acquire);
    if witness.is_null() {
        return false;
    }
    call(witness, event, site);
    true
}

#[cold]
fn call(witness: *mut (), event: Traced, site: &'static Location<'static>) {
    // SAFETY: not null, so `set_witness` stored it, from a function of this type; functions live for ever.
    let witness = unsafe { core::mem::transmute::<*mut (), Witness>(witness) };
    witness(event, site);
}
