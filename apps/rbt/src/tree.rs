//! The tree, without knowing what its pointers are.

use crate::count::Conversion;
use core::cmp::Ordering::{Equal, Greater, Less};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use libtwz::Invariant;

/// A stored pointer; 0 leads nowhere. What else it means is [`Pointers`]' affair.
pub type Link = AtomicU64;

/// Longer ways down are damage: a red-black tree of 2^30 nodes is at most 60 deep.
const DEPTH_MAX: usize = 64;
const LEFT: usize = 0;
const RIGHT: usize = 1;
const BLACK: u64 = 0;
const RED: u64 = 1;

/// A node: 48 bytes, the same in memory, file and object.
#[derive(Debug, Default, Invariant)]
#[repr(C)]
pub struct Node {
    parent: Link,
    children: [Link; 2],
    colour: AtomicU64,
    key: AtomicU64,
    value: AtomicU64,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A stored pointer leads nowhere, or the tree breaks its rules.
    Damaged,
    /// No place for another node.
    Full,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "the tree is damaged",
            Self::Full => "there is no place for another node",
        })
    }
}

impl core::error::Error for Error {}

/// A kind of pointers, and the memory that nodes are in.
pub trait Pointers {
    /// Where the tree starts.
    fn root(&self) -> &Link;
    /// Makes a node; nothing leads to it yet.
    ///
    /// # Errors
    /// [`Error::Full`].
    fn make(&self) -> Result<&Node, Error>;
    /// What a link of this tree leads to.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    fn follow(&self, link: &Link) -> Result<Option<&Node>, Error>;
    /// Makes a link of this tree lead to a node of it.
    ///
    /// # Errors
    /// [`Error::Full`] when another file or object cannot be named.
    fn lead(&self, link: &Link, to: Option<&Node>) -> Result<(), Error>;
    /// What following this stored pointer takes, for [`Counted`](crate::Counted).
    fn conversion(pointer: u64) -> Conversion;
}

/// An ordered map from numbers to numbers.
#[derive(Debug)]
pub struct Tree<P> {
    pointers: P,
}

impl Node {
    fn colour(&self) -> u64 {
        self.colour.load(Ordering::Relaxed)
    }

    fn paint(&self, colour: u64) {
        self.colour.store(colour, Ordering::Relaxed);
    }

    #[inline]
    fn key(&self) -> u64 {
        self.key.load(Ordering::Relaxed)
    }
}

impl<P: Pointers> Tree<P> {
    /// The tree in this memory.
    pub const fn new(pointers: P) -> Self {
        Self { pointers }
    }

    /// The memory.
    pub const fn pointers(&self) -> &P {
        &self.pointers
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    #[inline]
    pub fn get(&self, key: u64) -> Result<Option<u64>, Error> {
        let mut at = self.pointers.follow(self.pointers.root())?;
        for _ in 0..DEPTH_MAX {
            let Some(node) = at else { return Ok(None) };
            let side = match key.cmp(&node.key()) {
                Equal => return Ok(Some(node.value.load(Ordering::Relaxed))),
                Less => LEFT,
                Greater => RIGHT,
            };
            at = self.pointers.follow(&node.children[side])?;
        }
        Err(Error::Damaged)
    }

    /// Gives a key a value; returns the one before.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Full`].
    pub fn insert(&self, key: u64, value: u64) -> Result<Option<u64>, Error> {
        let mut parent: Option<&Node> = None;
        let mut link = self.pointers.root();
        for _ in 0..DEPTH_MAX {
            let Some(node) = self.pointers.follow(link)? else { break };
            link = match key.cmp(&node.key()) {
                Equal => return Ok(Some(node.value.swap(value, Ordering::Relaxed))),
                Less => &node.children[LEFT],
                Greater => &node.children[RIGHT],
            };
            parent = Some(node);
        }
        let node = self.pointers.make()?;
        node.key.store(key, Ordering::Relaxed);
        node.value.store(value, Ordering::Relaxed);
        node.paint(RED);
        self.pointers.lead(&node.parent, parent)?;
        self.pointers.lead(link, Some(node))?;
        self.balance(node)?;
        Ok(None)
    }

    /// Restores the rules above a red node that was hung on (Cormen et al., Introduction to Algorithms, RB-INSERT-FIXUP).
    fn balance(&self, node: &Node) -> Result<(), Error> {
        let mut node = node;
        for _ in 0..DEPTH_MAX {
            let Some(mut parent) = self.pointers.follow(&node.parent)? else {
                node.paint(BLACK); // the root
                return Ok(());
            };
            if parent.colour() == BLACK {
                return Ok(());
            }
            let grand = self.pointers.follow(&parent.parent)?.ok_or(Error::Damaged)?; // the root is black
            let side = self.side(grand, parent)?;
            if let Some(uncle) =
                self.pointers.follow(&grand.children[1 - side])?.filter(|u| u.colour() == RED)
            {
                parent.paint(BLACK);
                uncle.paint(BLACK);
                grand.paint(RED);
                node = grand;
                continue;
            }
            if self.side(parent, node)? != side {
                self.rotate(parent, side)?;
                parent = node;
            }
            parent.paint(BLACK);
            grand.paint(RED);
            return self.rotate(grand, 1 - side);
        }
        Err(Error::Damaged)
    }

    fn side(&self, parent: &Node, child: &Node) -> Result<usize, Error> {
        let left = self.pointers.follow(&parent.children[LEFT])?;
        Ok(if left.is_some_and(|left| core::ptr::eq(left, child)) { LEFT } else { RIGHT })
    }

    /// Turns `node` down to `side`; its other child takes its place.
    fn rotate(&self, node: &Node, side: usize) -> Result<(), Error> {
        let up = self.pointers.follow(&node.children[1 - side])?.ok_or(Error::Damaged)?;
        let inner = self.pointers.follow(&up.children[side])?;
        let parent = self.pointers.follow(&node.parent)?;
        let above = match parent {
            Some(parent) => &parent.children[self.side(parent, node)?],
            None => self.pointers.root(),
        };
        self.pointers.lead(&node.children[1 - side], inner)?;
        if let Some(inner) = inner {
            self.pointers.lead(&inner.parent, Some(node))?;
        }
        self.pointers.lead(&up.parent, parent)?;
        self.pointers.lead(above, Some(up))?;
        self.pointers.lead(&up.children[side], Some(node))?;
        self.pointers.lead(&node.parent, Some(up))
    }

    /// Calls `each` with all pairs, in order.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn for_each(&self, mut each: impl FnMut(u64, u64)) -> Result<(), Error> {
        let mut way: alloc::vec::Vec<&Node> = alloc::vec::Vec::new();
        let mut at = self.pointers.follow(self.pointers.root())?;
        loop {
            while let Some(node) = at {
                if way.len() == DEPTH_MAX {
                    return Err(Error::Damaged);
                }
                way.push(node);
                at = self.pointers.follow(&node.children[LEFT])?;
            }
            let Some(node) = way.pop() else { return Ok(()) };
            each(node.key(), node.value.load(Ordering::Relaxed));
            at = self.pointers.follow(&node.children[RIGHT])?;
        }
    }

    /// Checks order, colours, parents and black heights.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn check(&self) -> Result<(), Error> {
        match self.pointers.follow(self.pointers.root())? {
            Some(root) if root.colour() != BLACK => Err(Error::Damaged),
            Some(root) => self.check_below(root, None, DEPTH_MAX).map(drop),
            None => Ok(()),
        }
    }

    /// The black height below a node whose keys must lie in a range.
    fn check_below(&self, node: &Node, parent: Option<&Node>, depth: usize) -> Result<usize, Error> {
        let knows = self.pointers.follow(&node.parent)?.map(core::ptr::from_ref);
        if depth == 0 || knows != parent.map(core::ptr::from_ref) {
            return Err(Error::Damaged);
        }
        let mut heights = [1; 2];
        for side in [LEFT, RIGHT] {
            let Some(child) = self.pointers.follow(&node.children[side])? else { continue };
            let in_order = if side == LEFT { child.key() < node.key() } else { child.key() > node.key() };
            if !in_order || (node.colour() == RED && child.colour() == RED) {
                return Err(Error::Damaged);
            }
            heights[side] = self.check_below(child, Some(node), depth - 1)?;
        }
        if heights[LEFT] != heights[RIGHT] {
            return Err(Error::Damaged);
        }
        Ok(heights[LEFT] + usize::from(node.colour() == BLACK))
    }
}
