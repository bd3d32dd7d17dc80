//! A link from an object to one that was made because the first is full: 16 bytes, an ID.
//!
//! # Contract
//! - The word with the low half is stored last, and emptied first, in the line that holds the other: a link whose low half is 0 leads nowhere,
//!   whatever the power failure left of the rest.
//! - No transaction records a link. Who changes one has the lock of the object that it stands in.
//! - A link that leads to an object that is not there was stored before the power failed and the object was tied; it is stored over.

use crate::error::Result;
use crate::persist;
use crate::sys::{Platform, Seam};
use crate::view;
use crate::window::Window;
use twz_abi::ObjectId;

/// A link, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// The object that it stands in.
    pub(crate) from: Window,
    /// Offset, a multiple of 16.
    pub(crate) at: usize,
    /// Where it leads.
    pub(crate) to: ObjectId,
}

impl Link {
    /// Where the link at `at` leads; NULL for nowhere.
    pub(crate) fn read(from: Window, at: usize) -> ObjectId {
        match from.load(at) {
            0 => ObjectId::NULL,
            lo => ObjectId { lo, hi: from.load(at + 8) },
        }
    }

    /// Stores the link, durably.
    pub(crate) fn store(&self) {
        self.from.store_release(self.at, 0);
        self.from.store(self.at + 8, self.to.hi);
        self.from.store_release(self.at, self.to.lo);
        self.from.flush(self.at, 16);
        persist::fence();
    }

    /// Makes the object live as long as the one that the link stands in.
    pub(crate) fn tie(&self) -> Result<()> {
        Platform::tie(self.to, view::id_at(self.from.base()))
    }

    /// Whether the link stands.
    pub(crate) fn is_there(&self) -> bool {
        Self::read(self.from, self.at) == self.to
    }

    /// Takes the link away, durably.
    pub(crate) fn cut(&self) {
        self.from.store_release(self.at, 0);
        self.from.store(self.at + 8, 0);
        self.from.flush(self.at, 16);
        persist::fence();
    }
}
