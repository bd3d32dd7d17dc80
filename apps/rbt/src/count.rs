//! Counting pointer conversions: the paper's second measure beside time (§5.4).

use crate::tree::{Error, Link, Node, Pointers};
use core::cell::Cell;

/// Pointers that count.
#[derive(Debug)]
pub struct Counted<P> {
    inner: P,
    followed: Cell<u64>,
    stored: Cell<u64>,
}

impl<P> Counted<P> {
    /// Counts what is done with `inner`.
    pub const fn new(inner: P) -> Self {
        Self { inner, followed: Cell::new(0), stored: Cell::new(0) }
    }

    /// Links that were followed and links that were stored since the last call.
    pub fn take(&self) -> (u64, u64) {
        (self.followed.take(), self.stored.take())
    }
}

impl<P: Pointers> Pointers for Counted<P> {
    fn root(&self) -> &Link {
        self.inner.root()
    }

    fn make(&self) -> Result<&Node, Error> {
        self.inner.make()
    }

    fn follow(&self, link: &Link) -> Result<Option<&Node>, Error> {
        self.followed.set(self.followed.get() + 1);
        self.inner.follow(link)
    }

    fn lead(&self, link: &Link, to: Option<&Node>) -> Result<(), Error> {
        self.stored.set(self.stored.get() + 1);
        self.inner.lead(link, to)
    }
}
