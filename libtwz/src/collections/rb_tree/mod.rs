//! A red-black tree with parent pointers: the paper's example of a structure that is all pointers (§4.3, §5.3).
//!
//! Nodes are recorded as the change comes to them and then changed in place; each batch of records costs a fence, so prefer
//! [`super::BTreeMap`] unless values must keep their places.
//!
//! Values that are `Copy` are copied in and out. Others – pointers, texts, other collections – begin as their default
//! ([`RbTree::insert_default`]), are used in place ([`RbTree::get_ref`]), and stay where they are; what they own is to be released before they
//! are taken out ([`RbTree::remove_key`]).

mod check;
mod iter;
mod remove;

pub use self::iter::RbTreeRange;

use super::{damaged, home_of};
use crate::cell::PCell;
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::tx::Tx;
use core::cmp::Ordering;
use twz_abi::PersistentPtr;

/// Longer ways down are damage: a red-black tree of 2^30 nodes is at most 60 deep.
const DEPTH_MAX: usize = 64;
const BLACK: u64 = 0;
const RED: u64 = 1;

/// An ordered map with a node per entry.
#[derive(Invariant)]
#[repr(C)]
#[invariant(version = 1)]
pub struct RbTree<K: Invariant + Copy + Ord, V: Invariant> {
    root: InvPtr<Node<K, V>>,
    count: PCell<u64>,
}

/// Between and behind a key and a value that are not of one size are bytes that nobody reads or writes.
#[derive(Invariant)]
#[repr(C)]
struct Node<K: Invariant + Copy + Ord, V: Invariant> {
    parent: InvPtr<Node<K, V>>,
    /// Left and right.
    children: [InvPtr<Node<K, V>>; 2],
    colour: PCell<u64>,
    key: PCell<K>,
    value: PCell<V>,
}

const LEFT: usize = 0;
const RIGHT: usize = 1;

impl<K: Invariant + Copy + Ord, V: Invariant> Default for RbTree<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Invariant + Copy + Ord, V: Invariant> RbTree<K, V> {
    /// An empty tree.
    #[must_use]
    pub const fn new() -> Self {
        Self { root: InvPtr::null(), count: PCell::new(0) }
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count.get()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The node of `key`, or the one that its node would hang on and on which side.
    fn find(&self, key: &K) -> Result<Search<'_, K, V>> {
        let Some(mut node) = self.root.get()? else { return Ok(Search::Empty) };
        for _ in 0..DEPTH_MAX {
            let side = match key.cmp(&node.key.get()) {
                Ordering::Equal => return Ok(Search::Found(node)),
                Ordering::Less => LEFT,
                Ordering::Greater => RIGHT,
            };
            match node.children[side].get()? {
                Some(child) => node = child,
                None => return Ok(Search::Below(node, side)),
            }
        }
        Err(damaged(node, "a tree of possible depth"))
    }

    /// The value of `key` in place. For types that may change under a reference ([`Invariant::CELLS`]); others do not compile.
    ///
    /// # Errors
    /// [`crate::Error::BadPointer`], [`crate::Error::Damaged`].
    pub fn get_ref(&self, key: &K) -> Result<Option<&V>> {
        Ok(if let Search::Found(node) = self.find(key)? { Some(node.value.as_ref()) } else { None })
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    /// As [`RbTree::get_ref`].
    pub fn contains_key(&self, key: &K) -> Result<bool> {
        Ok(matches!(self.find(key)?, Search::Found(_)))
    }

    /// Hangs a new node where `found`, which is no node of that key, says.
    fn add(&self, tx: &Tx, found: &Search<'_, K, V>, key: K, value: V) -> Result<&Node<K, V>> {
        let node = tx.alloc_raw(home_of(self)?, size_of::<Node<K, V>>(), align_of::<Node<K, V>>())?;
        tx.settle()?;
        let node: &Node<K, V> = crate::ptr::at_address(node)?;
        for link in [&node.parent, &node.children[LEFT], &node.children[RIGHT]] {
            link.set_raw(PersistentPtr::NULL);
        }
        node.colour.set_without_log(RED);
        node.key.set_without_log(key);
        node.value.fill(value);
        tx.record(self)?;
        tx.set_recorded(&self.count, self.len().wrapping_add(1))?;
        match found {
            Search::Below(parent, side) => {
                tx.record(*parent)?;
                tx.point_recorded(&parent.children[*side], Some(node))?;
                tx.point_recorded(&node.parent, Some(parent))?;
            }
            _ => tx.point_recorded(&self.root, Some(node))?,
        }
        self.rebalance_after_insert(tx, node)?;
        Ok(node)
    }

    fn rebalance_after_insert<'a>(&'a self, tx: &Tx, node: &'a Node<K, V>) -> Result<()> {
        let mut node = node;
        for _ in 0..DEPTH_MAX {
            let Some(parent) = node.parent.get()? else {
                tx.record(node)?;
                return tx.set_recorded(&node.colour, BLACK); // the root
            };
            if parent.colour.get() == BLACK {
                return Ok(());
            }
            let grand = parent.parent.resolve()?; // a red node is no root
            let side = side_of(grand, parent)?;
            let uncle = grand.children[1 - side].get()?;
            tx.record(node)?;
            tx.record(parent)?;
            tx.record(grand)?;
            if let Some(uncle) = uncle
                && uncle.colour.get() == RED
            {
                tx.record(uncle)?;
                tx.set_recorded(&parent.colour, BLACK)?;
                tx.set_recorded(&uncle.colour, BLACK)?;
                tx.set_recorded(&grand.colour, RED)?;
                node = grand;
                continue;
            }
            let top = if side_of(parent, node)? == side {
                parent
            } else {
                self.rotate(tx, parent, side)?;
                node
            };
            self.rotate(tx, grand, 1 - side)?;
            tx.set_recorded(&top.colour, BLACK)?;
            return tx.set_recorded(&grand.colour, RED);
        }
        Err(damaged(self, "a tree of possible depth"))
    }

    /// Turns `node` down to `side`; the child of its other side takes its place.
    fn rotate(&self, tx: &Tx, node: &Node<K, V>, side: usize) -> Result<()> {
        let up = node.children[1 - side].resolve()?;
        let inner = up.children[side].get()?;
        let parent = node.parent.get()?;
        tx.record(node)?;
        tx.record(up)?;
        if let Some(inner) = inner {
            tx.record(inner)?;
        }
        match parent {
            Some(parent) => tx.record(parent)?,
            None => tx.record(self)?,
        }
        tx.point_recorded(&node.children[1 - side], inner)?;
        if let Some(inner) = inner {
            tx.point_recorded(&inner.parent, Some(node))?;
        }
        tx.point_recorded(&up.parent, parent)?;
        match parent {
            Some(parent) => tx.point_recorded(&parent.children[side_of(parent, node)?], Some(up))?,
            None => tx.point_recorded(&self.root, Some(up))?,
        }
        tx.point_recorded(&up.children[side], Some(node))?;
        tx.point_recorded(&node.parent, Some(up))
    }
}

enum Search<'a, K: Invariant + Copy + Ord, V: Invariant> {
    Empty,
    Found(&'a Node<K, V>),
    Below(&'a Node<K, V>, usize),
}

fn side_of<K: Invariant + Copy + Ord, V: Invariant>(
    parent: &Node<K, V>,
    child: &Node<K, V>,
) -> Result<usize> {
    for side in [LEFT, RIGHT] {
        if parent.children[side].get()?.is_some_and(|node| core::ptr::eq(node, child)) {
            return Ok(side);
        }
    }
    Err(damaged(child, "a node that its parent knows"))
}

impl<K: Invariant + Copy + Ord, V: Invariant + Default> RbTree<K, V> {
    changes! {
        /// The value of `key` in place, as [`RbTree::get_ref`]; a default one if it has none.
        insert_default / insert_default_in => do_insert_default(key: K) -> &V;
    }

    fn do_insert_default(&self, tx: &Tx, key: K) -> Result<&V> {
        let node = match self.find(&key)? {
            Search::Found(node) => node,
            found => self.add(tx, &found, key, V::default())?,
        };
        Ok(node.value.as_ref())
    }
}

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> RbTree<K, V> {
    map_methods!(DoubleEndedIterator);
    ordered_map_methods!();

    changes! {
        /// Gives `key` a value; returns the one before.
        insert / insert_in => put_entry_in(key: K, value: V) -> Option<V>;
        /// Takes `key` out; returns its value.
        remove / remove_in => do_remove(key: &K) -> Option<V>;
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`crate::Error::BadPointer`], [`crate::Error::Damaged`].
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        Ok(if let Search::Found(node) = self.find(key)? { Some(node.value.get()) } else { None })
    }

    fn put_entry_in(&self, tx: &Tx, key: K, value: V) -> Result<Option<V>> {
        match self.find(&key)? {
            Search::Found(node) => {
                let before = node.value.get();
                tx.put(&node.value, value)?;
                Ok(Some(before))
            }
            found => self.add(tx, &found, key, value).map(|_| None),
        }
    }

    fn do_remove(&self, tx: &Tx, key: &K) -> Result<Option<V>> {
        let Search::Found(node) = self.find(key)? else { return Ok(None) };
        let value = node.value.get();
        self.take_out(tx, node)?;
        Ok(Some(value))
    }
}
