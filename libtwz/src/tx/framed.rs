//! Transactions whose changes readers without a lock see whole: under a [`Version`].
//!
//! ```text
//! lock -> version odd -> body -> commit, or put back -> version even, others told -> unlock
//! ```
//! # Contract
//! - **V2** while anything of the transaction is half done – a change in place, a put of the commit, what is put back – readers of the version
//!   wait, or read again. Also when the body panics.
//! - A thread that ends in the middle leaves the version odd. Its readers undo what it did, if they may write; others wait for somebody who may.

use super::part::Part;
use super::{READ_WRITE, Tx};
use crate::error::Result;
use crate::ptr;
use crate::simulate;
use crate::sync::Version;
use crate::sys::{Platform, Seam};
use crate::view;
use crate::window::{SLOT_MASK, Window};

/// A transaction between its lock and the version that tells readers of it.
struct Framed<'v> {
    /// Dropped last, which frees the lock.
    tx: Tx,
    version: &'v Version,
    before: u64,
    tell: fn(),
}

impl Drop for Framed<'_> {
    fn drop(&mut self) {
        if simulate::has_ended() {
            return;
        }
        let inner = self.tx.inner.get_mut();
        if !inner.ended {
            inner.undo();
        }
        self.version.end(self.before);
        (self.tell)();
    }
}

impl Tx {
    /// [`Tx::run`] of which readers of `version` see all or nothing; it is written under the lock of the object at `window` only. `tell` is run before the
    /// lock is free, however the transaction ended: whoever takes it from a thread that did not come to that does as much.
    pub(crate) fn run_versioned<R>(
        window: Window,
        version: &Version,
        tell: fn(),
        body: impl FnOnce(&Self) -> Result<R>,
    ) -> Result<R> {
        let tx = Self::start(window)?;
        let framed = Framed { before: version.begin(), version, tell, tx };
        let result = body(&framed.tx)?;
        framed.tx.finish()?;
        Ok(result)
    }
}

/// Reads what [`Tx::run_versioned`] changes in the object that `version` stands in.
///
/// # Errors
/// As [`Version::read`].
pub(crate) fn read_versioned<R>(version: &Version, read: impl Fn() -> Result<R>) -> Result<R> {
    version.read_past(read, || {
        let _ = end_what_was_left(version); // whatever keeps this program from it: it waits
    })
}

/// Undoes a transaction whose thread has ended, and says so to readers.
#[cold]
fn end_what_was_left(version: &Version) -> Result<()> {
    let at = core::ptr::from_ref(version).addr();
    let id = view::id_at(at & !SLOT_MASK);
    if !Platform::stat(id)?.granted.contains(READ_WRITE) {
        return Ok(());
    }
    let window = view::map(id, READ_WRITE)?;
    let version = ptr::at_address::<Version>(window.base() + (at & SLOT_MASK))?;
    // Free, it is nobody's, and a version that is odd yet was left so.
    let part = Part::try_lock(window)?;
    version.end(version.begin());
    part.unlock();
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use crate::error::Error;
    use crate::sync::Version;
    use crate::{Invariant, ObjectBuilder, PCell, Tx};
    use core::sync::atomic::{AtomicBool, Ordering};

    #[derive(Invariant)]
    #[repr(C)]
    struct Pair {
        version: Version,
        cells: [PCell<u64>; 2],
    }

    /// A change in place, one that is put back, and puts, which are stored after the body.
    #[test]
    fn readers_see_no_half_and_nothing_that_is_put_back() {
        let cells = [const { PCell::new(0) }; 2];
        let o = ObjectBuilder::new().build(Pair { version: Version::new(), cells }).unwrap();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 1..3000 {
                    let run = |value: u64, end: Result<(), Error>| {
                        Tx::run_versioned(
                            o.window(),
                            &o.version,
                            || (),
                            |tx| {
                                tx.set(&o.cells[0], value)?;
                                tx.put(&o.cells[1], value)?;
                                end
                            },
                        )
                    };
                    assert_eq!(run(1, Err(Error::Aborted)), Err(Error::Aborted));
                    run(i * 2, Ok(())).unwrap();
                }
                is_done.store(true, Ordering::Relaxed);
            });
            let mut last = 0;
            while !is_done.load(Ordering::Relaxed) {
                let [a, b] = o.version.read(|| Ok(o.cells.each_ref().map(PCell::get))).unwrap();
                assert!(a == b && a % 2 == 0 && a >= last, "{a} and {b} after {last}");
                last = a;
            }
        });
    }
}
