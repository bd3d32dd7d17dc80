//! A persistent binary search tree by hand: insert and walk.
use libtwz::prelude::*;

#[derive(Invariant)]
#[repr(C)]
struct Node {
    key: PCell<u64>,
    value: PCell<u64>,
    children: [InvPtr<Node>; 2],
}

#[derive(Invariant)]
#[repr(C)]
struct Tree {
    root: InvPtr<Node>,
}

fn insert(tree: &Object<Tree>, key: u64, value: u64) -> Result<()> {
    tree.tx(|tx| {
        let mut place = &tree.root;
        while let Some(node) = place.get()? {
            if node.key.get() == key {
                return tx.set(&node.value, value);
            }
            place = &node.children[usize::from(key > node.key.get())];
        }
        let children = [InvPtr::null(), InvPtr::null()];
        let node = tx.alloc(Node { key: PCell::new(key), value: PCell::new(value), children })?;
        tx.point(place, Some(node))
    })
}

fn walk(place: &InvPtr<Node>) -> Result<()> {
    if let Some(node) = place.get()? {
        walk(&node.children[0])?;
        println!("{} -> {}", node.key.get(), node.value.get());
        walk(&node.children[1])?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let tree = ObjectBuilder::new().build(Tree { root: InvPtr::null() })?;
    for key in [5, 2, 8, 1, 9, 2] {
        insert(&tree, key, key * key)?;
    }
    walk(&tree.root)
}
