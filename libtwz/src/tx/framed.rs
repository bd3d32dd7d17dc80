//! Transactions whose changes readers without a lock see whole: under a [`Version`].
//!
//! ```text
//! lock -> version odd -> body -> commit, or put back -> version even -> unlock
//! ```
//! # Contract
//! - **V2** while anything of the transaction is half done – a change in place, a put of the commit, what is put back – readers of the version
//!   wait, or read again. Also when the body panics.

use super::Tx;
use crate::error::Result;
use crate::sync::Version;
use crate::window::Window;

/// A transaction between its lock and the version that tells readers of it.
struct Framed<'v> {
    /// Dropped last, which frees the lock.
    tx: Tx,
    version: &'v Version,
    before: u64,
}

impl Drop for Framed<'_> {
    fn drop(&mut self) {
        let inner = self.tx.inner.get_mut();
        if !inner.ended {
            inner.undo();
        }
        self.version.end(self.before);
    }
}

impl Tx {
    /// [`Tx::run`] of which readers of `version` see all or nothing; it is written under the lock of the object at `window` only.
    pub(crate) fn run_versioned<R>(
        window: Window,
        version: &Version,
        body: impl FnOnce(&Self) -> Result<R>,
    ) -> Result<R> {
        let tx = Self::start(window)?;
        let framed = Framed { before: version.begin(), version, tx };
        let result = body(&framed.tx)?;
        framed.tx.finish()?;
        Ok(result)
    }
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
                        Tx::run_versioned(o.window(), &o.version, |tx| {
                            tx.set(&o.cells[0], value)?;
                            tx.put(&o.cells[1], value)?;
                            end
                        })
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
