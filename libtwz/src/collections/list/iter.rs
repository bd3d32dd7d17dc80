//! Walking a list.

use super::{End, List, Node, inward};
use crate::collections::damaged;
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::InvPtr;

/// The elements of a [`List`]; ends after the first error.
pub struct ListIter<'a, T: Invariant>(Nodes<'a, T>);

impl<T: Invariant> core::fmt::Debug for ListIter<'_, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ListIter({} left)", self.0.left)
    }
}

impl<T: Invariant + Copy> Iterator for ListIter<'_, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|node| Ok(node?.value.get()))
    }
}

impl<'a, T: Invariant + Copy> IntoIterator for &'a List<T> {
    type Item = Result<T>;
    type IntoIter = ListIter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
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
    /// The elements from front to back; ends after the first error. A list that is longer than its length says is damaged.
    pub fn iter(&self) -> ListIter<'_, T> {
        ListIter(self.nodes(End::Front))
    }

    /// The elements from back to front, as [`List::iter`].
    pub fn iter_rev(&self) -> ListIter<'_, T> {
        ListIter(self.nodes(End::Back))
    }
}
