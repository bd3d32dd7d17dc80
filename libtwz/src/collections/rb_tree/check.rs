//! Checking a tree.

use super::{BLACK, DEPTH_MAX, LEFT, Node, RED, RIGHT, RbTree};
use crate::collections::damaged;
use crate::error::Result;
use crate::invariant::Invariant;

impl<K: Invariant + Copy + Ord, V: Invariant> RbTree<K, V> {
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

/// The black height below a node, after checking everything there.
fn check_below<K: Invariant + Copy + Ord, V: Invariant>(node: &Node<K, V>, depth: usize) -> Result<usize> {
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
