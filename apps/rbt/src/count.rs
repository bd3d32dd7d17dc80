//! Counting pointer conversions: the paper's second measure beside time (§5.4).

use crate::tree::{Error, Link, Node, Pointers};
use core::cell::Cell;
use core::ops::Add;
use core::sync::atomic::Ordering;

/// What turning a stored pointer into an address takes besides loading it, or an address into a stored pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// Nothing: it is an address, or leads nowhere.
    None,
    /// The number of a file is looked up in a table of where files are mapped, and an offset added; back, the file is searched for.
    Table,
    /// Bits are taken from the address of the pointer itself: it leads to somewhere in the same object.
    Within,
    /// What an entry of the holding object's FOT stands for is looked up: it leads to another object.
    Across,
}

/// How often each conversion was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conversions {
    /// Links, converted or not.
    pub links: u64,
    /// [`Conversion::Table`].
    pub by_table: u64,
    /// [`Conversion::Within`].
    pub within: u64,
    /// [`Conversion::Across`].
    pub across: u64,
}

impl Conversions {
    fn count(cell: &Cell<Self>, conversion: Conversion) {
        let mut all = cell.get();
        all.links += 1;
        match conversion {
            Conversion::None => {}
            Conversion::Table => all.by_table += 1,
            Conversion::Within => all.within += 1,
            Conversion::Across => all.across += 1,
        }
        cell.set(all);
    }
}

impl Add for Conversions {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            links: self.links + other.links,
            by_table: self.by_table + other.by_table,
            within: self.within + other.within,
            across: self.across + other.across,
        }
    }
}

/// Pointers that count what is done with them.
#[derive(Debug)]
pub struct Counted<P> {
    inner: P,
    followed: Cell<Conversions>,
    stored: Cell<Conversions>,
}

impl<P> Counted<P> {
    /// Counts what is done with `inner`.
    pub fn new(inner: P) -> Self {
        Self { inner, followed: Cell::default(), stored: Cell::default() }
    }

    /// Links that were followed and links that were stored since the last call.
    pub fn take(&self) -> (Conversions, Conversions) {
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
        Conversions::count(&self.followed, P::conversion(link.load(Ordering::Relaxed)));
        self.inner.follow(link)
    }

    fn lead(&self, link: &Link, to: Option<&Node>) -> Result<(), Error> {
        self.inner.lead(link, to)?;
        Conversions::count(&self.stored, P::conversion(link.load(Ordering::Relaxed)));
        Ok(())
    }

    fn conversion(pointer: u64) -> Conversion {
        P::conversion(pointer)
    }
}
