//! A doubly linked list.

use super::{alone, damaged, home_of, inside};
use crate::cell::PCell;
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::tx::Tx;

/// A list of `T`, with both ends at hand.
#[derive(Debug, Invariant)]
#[repr(C)]
pub struct List<T: Invariant + Copy> {
    front: InvPtr<Node<T>>,
    back: InvPtr<Node<T>>,
    len: PCell<u64>,
}

#[derive(Debug, Invariant)]
#[repr(C)]
struct Node<T: Invariant + Copy> {
    next: InvPtr<Node<T>>,
    previous: InvPtr<Node<T>>,
    value: PCell<T>,
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Front,
    Back,
}

impl<T: Invariant + Copy> Default for List<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Invariant + Copy> List<T> {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { front: InvPtr::null(), back: InvPtr::null(), len: PCell::new(0) }
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len.get()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Prepends an element, durably.
    ///
    /// # Errors
    /// [`crate::Error::OutOfSpace`], [`crate::Error::Busy`].
    pub fn push_front(&self, value: T) -> Result<()> {
        alone(self, |tx| self.push(tx, End::Front, value))
    }

    /// Appends an element, durably.
    ///
    /// # Errors
    /// As [`List::push_front`].
    pub fn push_back(&self, value: T) -> Result<()> {
        alone(self, |tx| self.push(tx, End::Back, value))
    }

    /// Prepends as a part of `tx`.
    ///
    /// # Errors
    /// As [`List::push_front`].
    pub fn push_front_in(&self, tx: &Tx, value: T) -> Result<()> {
        inside(tx, |tx| self.push(tx, End::Front, value))
    }

    /// Appends as a part of `tx`.
    ///
    /// # Errors
    /// As [`List::push_front`].
    pub fn push_back_in(&self, tx: &Tx, value: T) -> Result<()> {
        inside(tx, |tx| self.push(tx, End::Back, value))
    }

    /// Takes the first element, durably.
    ///
    /// # Errors
    /// [`crate::Error::BadPointer`], [`crate::Error::Damaged`], [`crate::Error::Busy`].
    pub fn pop_front(&self) -> Result<Option<T>> {
        alone(self, |tx| self.pop(tx, End::Front))
    }

    /// Takes the last element, durably.
    ///
    /// # Errors
    /// As [`List::pop_front`].
    pub fn pop_back(&self) -> Result<Option<T>> {
        alone(self, |tx| self.pop(tx, End::Back))
    }

    /// Takes the first element as a part of `tx`.
    ///
    /// # Errors
    /// As [`List::pop_front`].
    pub fn pop_front_in(&self, tx: &Tx) -> Result<Option<T>> {
        inside(tx, |tx| self.pop(tx, End::Front))
    }

    /// The ends as (this one, the other), and of a node the links (away from this end, towards it).
    fn ends(&self, end: End) -> (&InvPtr<Node<T>>, &InvPtr<Node<T>>) {
        match end {
            End::Front => (&self.front, &self.back),
            End::Back => (&self.back, &self.front),
        }
    }

    fn push(&self, tx: &Tx, end: End, value: T) -> Result<()> {
        let (near, far) = self.ends(end);
        let node = Node { next: InvPtr::null(), previous: InvPtr::null(), value: PCell::new(value) };
        let node = tx.alloc_put(home_of(self)?, node)?;
        match near.get()? {
            None => tx.put_ptr(far, Some(node))?,
            Some(old) => {
                tx.put_ptr(inward(node, end), Some(old))?;
                tx.put_ptr(outward(old, end), Some(node))?;
            }
        }
        tx.put_ptr(near, Some(node))?;
        tx.put(&self.len, self.len().wrapping_add(1))
    }

    fn pop(&self, tx: &Tx, end: End) -> Result<Option<T>> {
        let (near, far) = self.ends(end);
        let Some(node) = near.get()? else { return Ok(None) };
        let new = inward(node, end).get()?;
        tx.put_ptr(near, new)?;
        match new {
            None => tx.put_ptr(far, None)?,
            Some(new) => tx.put_ptr(outward(new, end), None)?,
        }
        tx.put(&self.len, self.len().saturating_sub(1))?;
        let value = node.value.get();
        // SAFETY: allocated by `push`; the links to it go in the same transaction.
        unsafe { tx.free(node) }?;
        Ok(Some(value))
    }

    /// Takes everything out and gives all memory back, durably, all or nothing.
    ///
    /// # Errors
    /// As [`List::pop_front`].
    pub fn clear(&self) -> Result<()> {
        alone(self, |tx| self.do_clear(tx))
    }

    /// Takes everything out as a part of `tx`.
    ///
    /// # Errors
    /// As [`List::clear`].
    pub fn clear_in(&self, tx: &Tx) -> Result<()> {
        inside(tx, |tx| self.do_clear(tx))
    }

    fn do_clear(&self, tx: &Tx) -> Result<()> {
        for node in self.nodes() {
            // SAFETY: allocated by `push`; no node comes twice, and the links to them go in the same transaction.
            unsafe { tx.free(node?) }?;
        }
        tx.put_ptr(&self.front, None)?;
        tx.put_ptr(&self.back, None)?;
        tx.put(&self.len, 0)
    }

    /// The elements from front to back; ends after the first error. A list that is longer than its length says is damaged.
    pub fn iter(&self) -> impl Iterator<Item = Result<T>> {
        self.nodes().map(|node| Ok(node?.value.get()))
    }

    /// The nodes from front to back. Lengths can be damaged, too: a node that was passed shows a cycle at the latest when three times as
    /// many were seen as there are.
    fn nodes(&self) -> impl Iterator<Item = Result<&Node<T>>> {
        let mut at = Some(&self.front);
        let mut left = self.len();
        let mut passed: Option<&Node<T>> = None;
        let (mut steps, mut until) = (0_u64, 1_u64);
        core::iter::from_fn(move || match at?.get() {
            Ok(None) => None,
            Ok(Some(node)) if left == 0 || passed.is_some_and(|passed| core::ptr::eq(passed, node)) => {
                at = None;
                Some(Err(damaged(node, "a list without a cycle")))
            }
            Ok(Some(node)) => {
                left -= 1;
                steps += 1;
                if steps == until {
                    (passed, until) = (Some(node), until.saturating_mul(2));
                }
                at = Some(&node.next);
                Some(Ok(node))
            }
            Err(error) => {
                at = None;
                Some(Err(error))
            }
        })
    }
}

/// The link of a node that leads away from `end`.
fn inward<T: Invariant + Copy>(node: &Node<T>, end: End) -> &InvPtr<Node<T>> {
    if end == End::Front { &node.next } else { &node.previous }
}

/// The link of a node that leads towards `end`.
fn outward<T: Invariant + Copy>(node: &Node<T>, end: End) -> &InvPtr<Node<T>> {
    if end == End::Front { &node.previous } else { &node.next }
}
