//! Walking a list.

use super::{End, List, Node, inward};
use crate::collections::damaged;
use crate::collections::debug::{self, InCell};
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use core::fmt;

/// The elements of a [`List`], from both ends; ends after the first error.
pub struct ListIter<'a, T: Invariant> {
    front: Nodes<'a, T>,
    back: Nodes<'a, T>,
    /// Not yet given out by either end.
    left: u64,
}

impl<T: Invariant> fmt::Debug for ListIter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListIter({} left)", self.left)
    }
}

impl<T: Invariant + Copy> ListIter<'_, T> {
    fn give(&mut self, end: End) -> Option<Result<T>> {
        let (here, there) = match end {
            End::Front => (&mut self.front, &self.back),
            End::Back => (&mut self.back, &self.front),
        };
        // The ends have met. One that went all the way alone looks whether the list goes on.
        if self.left == 0 && (there.steps > 0 || there.at.is_none()) {
            return None;
        }
        self.left = self.left.saturating_sub(1);
        let node = here.next();
        if !matches!(node, Some(Ok(_))) {
            (self.left, self.front.at, self.back.at) = (0, None, None);
        }
        node.map(|node| node.map(|node| node.value.get()))
    }
}

impl<T: Invariant + Copy> Iterator for ListIter<'_, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.give(End::Front)
    }
}

impl<T: Invariant + Copy> DoubleEndedIterator for ListIter<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.give(End::Back)
    }
}

impl<'a, T: Invariant + Copy> IntoIterator for &'a List<T> {
    type Item = Result<T>;
    type IntoIter = ListIter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Invariant + fmt::Debug> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug::list(f, self.cells().map(|cell| cell.map(InCell)))
    }
}

/// The nodes from one end on. Lengths can be damaged, too: a node that was passed shows a cycle at the latest when three times as many were
/// seen as there are.
pub(super) struct Nodes<'a, T: Invariant> {
    at: Option<&'a InvPtr<Node<T>>>,
    end: End,
    left: u64,
    passed: Option<&'a Node<T>>,
    steps: u64,
    until: u64,
}

impl<'a, T: Invariant> Iterator for Nodes<'a, T> {
    type Item = Result<&'a Node<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.at.take()?.get() {
            Ok(None) => None,
            Ok(Some(node))
                if self.left == 0 || self.passed.is_some_and(|passed| core::ptr::eq(passed, node)) =>
            {
                Some(Err(damaged(node, "a list without a cycle")))
            }
            Ok(Some(node)) => {
                self.left -= 1;
                self.steps += 1;
                if self.steps == self.until {
                    (self.passed, self.until) = (Some(node), self.until.saturating_mul(2));
                }
                self.at = Some(inward(node, self.end));
                Some(Ok(node))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl<T: Invariant> List<T> {
    /// The nodes from `end` on.
    pub(super) fn nodes(&self, end: End) -> Nodes<'_, T> {
        Nodes { at: Some(self.ends(end).0), end, left: self.len(), passed: None, steps: 0, until: 1 }
    }
}

impl<T: Invariant + Copy> List<T> {
    /// The elements in order, from both ends; ends after the first error. A list that is longer than its length says is damaged.
    pub fn iter(&self) -> ListIter<'_, T> {
        ListIter { front: self.nodes(End::Front), back: self.nodes(End::Back), left: self.len() }
    }
}
