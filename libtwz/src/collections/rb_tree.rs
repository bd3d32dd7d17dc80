//! A red-black tree with parent pointers: the paper's example of a structure that is all pointers (§4.3, §5.3).
//!
//! Nodes are recorded as the change comes to them and then changed in place; each batch of records costs a fence, so prefer
//! [`super::BTreeMap`] unless nodes must keep their places.

use super::{alone, damaged, home_of, inside};
use crate::cell::PCell;
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::tx::Tx;
use core::cmp::Ordering;

/// Longer ways down are damage: a red-black tree of 2^30 nodes is at most 60 deep.
const DEPTH_MAX: usize = 64;
const BLACK: u64 = 0;
const RED: u64 = 1;

/// An ordered map with a node per entry.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct RbTree<K: Invariant + Copy + Ord, V: Invariant + Copy> {
    root: InvPtr<Node<K, V>>,
    count: PCell<u64>,
}

#[derive(Debug, Invariant)]
#[repr(C)]
struct Node<K: Invariant + Copy + Ord, V: Invariant + Copy> {
    parent: InvPtr<Node<K, V>>,
    /// Left and right.
    children: [InvPtr<Node<K, V>>; 2],
    colour: PCell<u64>,
    key: PCell<K>,
    value: PCell<V>,
}

const LEFT: usize = 0;
const RIGHT: usize = 1;

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> Default for RbTree<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Invariant + Copy + Ord, V: Invariant + Copy> RbTree<K, V> {
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

    /// The value of `key`.
    ///
    /// # Errors
    /// [`crate::Error::BadPointer`], [`crate::Error::Damaged`].
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        Ok(if let Search::Found(node) = self.find(key)? { Some(node.value.get()) } else { None })
    }

    /// Gives `key` a value, durably; returns the one before.
    ///
    /// # Errors
    /// As [`RbTree::get`]; [`crate::Error::OutOfSpace`], [`crate::Error::Busy`].
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>> {
        alone(self, |tx| self.do_insert(tx, key, value))
    }

    /// Gives `key` a value as a part of `tx`.
    ///
    /// # Errors
    /// As [`RbTree::insert`].
    pub fn insert_in(&self, tx: &Tx, key: K, value: V) -> Result<Option<V>> {
        inside(tx, |tx| self.do_insert(tx, key, value))
    }

    fn do_insert(&self, tx: &Tx, key: K, value: V) -> Result<Option<V>> {
        let found = self.find(&key)?;
        if let Search::Found(node) = found {
            let before = node.value.get();
            tx.put(&node.value, value)?;
            return Ok(Some(before));
        }
        let node = Node {
            parent: InvPtr::null(),
            children: [const { InvPtr::null() }; 2],
            colour: PCell::new(RED),
            key: PCell::new(key),
            value: PCell::new(value),
        };
        let node = tx.alloc_in(home_of(self)?, node)?;
        tx.record(self)?;
        tx.set_recorded(&self.count, self.len().wrapping_add(1))?;
        match found {
            Search::Below(parent, side) => {
                tx.record(parent)?;
                tx.point_recorded(&parent.children[side], Some(node))?;
                tx.point_recorded(&node.parent, Some(parent))?;
            }
            _ => tx.point_recorded(&self.root, Some(node))?,
        }
        self.rebalance_after_insert(tx, node)?;
        Ok(None)
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

    /// Takes `key` out, durably; returns its value.
    ///
    /// # Errors
    /// As [`RbTree::get`]; [`crate::Error::Busy`].
    pub fn remove(&self, key: &K) -> Result<Option<V>> {
        alone(self, |tx| self.do_remove(tx, key))
    }

    /// Takes `key` out as a part of `tx`.
    ///
    /// # Errors
    /// As [`RbTree::remove`].
    pub fn remove_in(&self, tx: &Tx, key: &K) -> Result<Option<V>> {
        inside(tx, |tx| self.do_remove(tx, key))
    }

    fn do_remove(&self, tx: &Tx, key: &K) -> Result<Option<V>> {
        let Search::Found(node) = self.find(key)? else { return Ok(None) };
        let value = node.value.get();
        // A node with two children gets the contents of the next one, which has at most one, and that goes instead.
        let mut gone = node;
        if let (Some(_), Some(right)) = (node.children[LEFT].get()?, node.children[RIGHT].get()?) {
            gone = leftmost(right)?;
            tx.record(node)?;
            tx.set_recorded(&node.key, gone.key.get())?;
            tx.set_recorded(&node.value, gone.value.get())?;
        }
        let child = match gone.children[LEFT].get()? {
            Some(left) => Some(left),
            None => gone.children[RIGHT].get()?,
        };
        if gone.colour.get() == BLACK && child.is_none() {
            self.rebalance_before_remove(tx, gone)?;
        }
        let parent = gone.parent.get()?;
        tx.record(self)?;
        tx.set_recorded(&self.count, self.len().saturating_sub(1))?;
        if let Some(child) = child {
            tx.record(child)?;
            tx.point_recorded(&child.parent, parent)?;
            tx.set_recorded(&child.colour, BLACK)?; // an only child is red, or the black heights would differ
        }
        match parent {
            Some(parent) => tx.point(&parent.children[side_of(parent, gone)?], child)?,
            None => tx.point_recorded(&self.root, child)?,
        }
        // SAFETY: allocated by `do_insert`; the links to it are gone with the same transaction.
        unsafe { tx.free(gone) }?;
        Ok(Some(value))
    }

    /// Makes the ways through `node` one black node longer, so that it can go.
    fn rebalance_before_remove(&self, tx: &Tx, node: &Node<K, V>) -> Result<()> {
        let mut node = node;
        for _ in 0..DEPTH_MAX {
            let Some(parent) = node.parent.get()? else { return Ok(()) };
            let side = side_of(parent, node)?;
            let mut sibling = parent.children[1 - side].resolve()?;
            tx.record(parent)?;
            tx.record(sibling)?;
            if sibling.colour.get() == RED {
                tx.set_recorded(&sibling.colour, BLACK)?;
                tx.set_recorded(&parent.colour, RED)?;
                self.rotate(tx, parent, side)?;
                sibling = parent.children[1 - side].resolve()?;
                tx.record(sibling)?;
            }
            let (near, far) = (sibling.children[side].get()?, sibling.children[1 - side].get()?);
            let is_red = |node: Option<&Node<K, V>>| node.is_some_and(|node| node.colour.get() == RED);
            if !is_red(near) && !is_red(far) {
                tx.set_recorded(&sibling.colour, RED)?;
                if parent.colour.get() == RED {
                    return tx.set_recorded(&parent.colour, BLACK);
                }
                node = parent;
                continue;
            }
            let top = if is_red(far) {
                sibling
            } else {
                self.rotate(tx, sibling, 1 - side)?;
                near.ok_or_else(|| damaged(sibling, "a red child"))?
            };
            let outer = top.children[1 - side].get()?.unwrap_or(sibling);
            tx.record(top)?;
            tx.record(outer)?;
            tx.set_recorded(&top.colour, parent.colour.get())?;
            tx.set_recorded(&parent.colour, BLACK)?;
            tx.set_recorded(&outer.colour, BLACK)?;
            return self.rotate(tx, parent, side);
        }
        Err(damaged(self, "a tree of possible depth"))
    }

    /// Takes everything out and gives all memory back, durably, all or nothing.
    ///
    /// # Errors
    /// As [`RbTree::remove`].
    pub fn clear(&self) -> Result<()> {
        alone(self, |tx| self.do_clear(tx))
    }

    /// Takes everything out as a part of `tx`.
    ///
    /// # Errors
    /// As [`RbTree::clear`].
    pub fn clear_in(&self, tx: &Tx) -> Result<()> {
        inside(tx, |tx| self.do_clear(tx))
    }

    fn do_clear(&self, tx: &Tx) -> Result<()> {
        for node in self.nodes() {
            // SAFETY: allocated by `do_insert`; no node comes twice, and the links to them go in the same transaction.
            unsafe { tx.free(node?) }?;
        }
        tx.record(self)?;
        tx.point_recorded(&self.root, None)?;
        tx.set_recorded(&self.count, 0)
    }

    /// All entries in order; ends after the first error.
    pub fn iter(&self) -> impl Iterator<Item = Result<(K, V)>> {
        self.nodes().map(|node| node.map(|node| (node.key.get(), node.value.get())))
    }

    /// All nodes in order of keys, which ascend: so none comes twice, whatever the count says.
    fn nodes(&self) -> impl Iterator<Item = Result<&Node<K, V>>> {
        let mut last: Option<K> = None;
        let mut at = self.root.get().and_then(|root| root.map(leftmost).transpose());
        let mut left = self.len();
        core::iter::from_fn(move || {
            let node = match core::mem::replace(&mut at, Ok(None)) {
                Ok(node) => node?,
                Err(error) => return Some(Err(error)),
            };
            let key = node.key.get();
            if left == 0 || last.is_some_and(|last| key <= last) {
                return Some(Err(damaged(node, "a tree in order, without a cycle")));
            }
            (left, last) = (left - 1, Some(key));
            at = successor(node);
            Some(Ok(node))
        })
    }

    /// Checks order, colours, parents and black heights.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`] where a rule is broken; what following a pointer says.
    pub fn check(&self) -> Result<()> {
        match self.root.get()? {
            None if self.is_empty() => Ok(()),
            None => Err(damaged(self, "a root")),
            Some(root) if root.colour.get() != BLACK => Err(damaged(root, "a black root")),
            Some(root) => check_below(root, DEPTH_MAX).map(drop),
        }
    }
}

enum Search<'a, K: Invariant + Copy + Ord, V: Invariant + Copy> {
    Empty,
    Found(&'a Node<K, V>),
    Below(&'a Node<K, V>, usize),
}

type Link<'a, K, V> = Option<&'a Node<K, V>>;

fn side_of<K: Invariant + Copy + Ord, V: Invariant + Copy>(
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

fn leftmost<K: Invariant + Copy + Ord, V: Invariant + Copy>(node: &Node<K, V>) -> Result<&Node<K, V>> {
    let mut node = node;
    for _ in 0..DEPTH_MAX {
        match node.children[LEFT].get()? {
            Some(child) => node = child,
            None => return Ok(node),
        }
    }
    Err(damaged(node, "a tree of possible depth"))
}

fn successor<K: Invariant + Copy + Ord, V: Invariant + Copy>(node: &Node<K, V>) -> Result<Link<'_, K, V>> {
    if let Some(right) = node.children[RIGHT].get()? {
        return leftmost(right).map(Some);
    }
    let mut node = node;
    for _ in 0..DEPTH_MAX {
        let Some(parent) = node.parent.get()? else { return Ok(None) };
        if side_of(parent, node)? == LEFT {
            return Ok(Some(parent));
        }
        node = parent;
    }
    Err(damaged(node, "a tree of possible depth"))
}

/// The black height below a node, after checking everything there.
fn check_below<K: Invariant + Copy + Ord, V: Invariant + Copy>(
    node: &Node<K, V>,
    depth: usize,
) -> Result<usize> {
    if depth == 0 {
        return Err(damaged(node, "a tree of possible depth"));
    }
    let mut heights = [0; 2];
    for side in [LEFT, RIGHT] {
        let Some(child) = node.children[side].get()? else { continue };
        if child.parent.get()?.is_none_or(|parent| !core::ptr::eq(parent, node)) {
            return Err(damaged(child, "a child that knows its parent"));
        }
        if node.colour.get() == RED && child.colour.get() == RED {
            return Err(damaged(child, "no red child of a red node"));
        }
        let in_order =
            if side == LEFT { child.key.get() < node.key.get() } else { child.key.get() > node.key.get() };
        if !in_order {
            return Err(damaged(child, "keys in order"));
        }
        heights[side] = check_below(child, depth - 1)?;
    }
    if heights[LEFT] != heights[RIGHT] {
        return Err(damaged(node, "equal black heights"));
    }
    Ok(heights[LEFT] + usize::from(node.colour.get() == BLACK))
}
