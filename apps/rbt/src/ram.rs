//! `ramrbt`: pointers are addresses. The fastest, and gone with the process.

use crate::count::Conversion;
use crate::tree::{Error, Link, Node, Pointers};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::sync::atomic::Ordering;

/// Nodes that are asked of the allocator at once, as the other kinds take theirs from a file or object.
const SLAB: usize = 4096;

/// Nodes in this process's memory.
#[derive(Debug, Default)]
pub struct Ram {
    root: Link,
    slabs: RefCell<Vec<Box<[Node]>>>,
    used: Cell<usize>,
}

impl Pointers for Ram {
    fn root(&self) -> &Link {
        &self.root
    }

    fn make(&self) -> Result<&Node, Error> {
        let mut slabs = self.slabs.borrow_mut();
        if self.used.get().is_multiple_of(SLAB) {
            slabs.push((0..SLAB).map(|_| Node::default()).collect());
        }
        let slab = slabs.last().ok_or(Error::Full)?;
        let node = &raw const slab[self.used.get() % SLAB];
        self.used.set(self.used.get() + 1);
        // SAFETY: slabs never move or shrink while `self` lives, and nodes change by atomics only.
        Ok(unsafe { &*node })
    }

    #[inline]
    fn follow(&self, link: &Link) -> Result<Option<&Node>, Error> {
        #[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide here")]
        let address = link.load(Ordering::Relaxed) as usize;
        if address == 0 {
            return Ok(None);
        }
        // SAFETY: links of this tree are 0 or what `lead` stored: the address of a node in a slab, see `make`.
        Ok(Some(unsafe { &*core::ptr::with_exposed_provenance(address) }))
    }

    #[inline]
    fn lead(&self, link: &Link, to: Option<&Node>) -> Result<(), Error> {
        let address = to.map_or(0, |node| core::ptr::from_ref(node).expose_provenance());
        link.store(address as u64, Ordering::Relaxed);
        Ok(())
    }

    fn conversion(_: u64) -> Conversion {
        Conversion::None
    }
}
