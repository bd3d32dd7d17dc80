//! A persistent linked list by hand: push, print, remove.
use libtwz::prelude::*;

#[derive(Invariant)]
#[repr(C)]
struct Node {
    next: InvPtr<Node>,
    value: PCell<u64>,
}

#[derive(Invariant)]
#[repr(C)]
struct List {
    head: InvPtr<Node>,
}

fn push(list: &Object<List>, value: u64) -> Result<()> {
    list.tx(|tx| {
        let node = tx.alloc(Node { next: InvPtr::null(), value: PCell::new(value) })?;
        tx.point(&node.next, list.head.get()?)?;
        tx.point(&list.head, Some(node))
    })
}

fn pop(list: &Object<List>) -> Result<Option<u64>> {
    list.tx(|tx| {
        let Some(node) = list.head.get()? else { return Ok(None) };
        tx.point(&list.head, node.next.get()?)?;
        // SAFETY: allocated by `push`, and nothing leads to it any more.
        unsafe { tx.free(node) }?;
        Ok(Some(node.value.get()))
    })
}

fn main() -> Result<()> {
    let list = ObjectBuilder::new().build(List { head: InvPtr::null() })?;
    (1..=3).try_for_each(|value| push(&list, value))?;
    let mut at = &list.head;
    while let Some(node) = at.get()? {
        println!("{}", node.value.get());
        at = &node.next;
    }
    println!("popped {:?}", pop(&list)?);
    Ok(())
}
