//! All three trees beside std's `BTreeMap`.

#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use rbt::{Counted, Error, Link, Pointers, Ram, Tree, Twz, Unix};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

fn compare<P: Pointers>(pointers: P, pairs: &[(u64, u64)]) {
    let (tree, mut model) = (Tree::new(pointers), BTreeMap::new());
    for &(key, value) in pairs {
        assert_eq!(tree.insert(key, value).unwrap(), model.insert(key, value));
        assert_eq!(tree.get(key).unwrap(), Some(value));
    }
    tree.check().unwrap();
    let mut all = Vec::new();
    tree.for_each(|key, value| all.push((key, value))).unwrap();
    assert_eq!(all, model.into_iter().collect::<Vec<_>>());
    assert_eq!(tree.get(u64::MAX).unwrap(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn behave_as_a_btree_map(pairs in prop::collection::vec((0..300_u64, any::<u64>()), 0..400)) {
        compare(Ram::default(), &pairs);
        let folder = tempfile::tempdir().unwrap();
        compare(Unix::open(folder.path(), 3, 1 << 20).unwrap(), &pairs);
        compare(Twz::create(3, 1000).unwrap(), &pairs);
    }
}

#[test]
fn orders_that_need_every_rotation() {
    for pairs in [
        (0..2000).map(|i| (i, i)).collect::<Vec<_>>(),
        (0..2000).rev().map(|i| (i, i)).collect(),
        (0..2000).map(|i| (i * 7919 % 2003, i)).collect(),
    ] {
        compare(Ram::default(), &pairs);
        compare(Twz::create(1, 2000).unwrap(), &pairs);
    }
}

#[test]
fn trees_are_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let tree = Tree::new(Unix::open(folder.path(), 2, 1 << 20).unwrap());
    (0..500).for_each(|i| assert_eq!(tree.insert(i, i * 2), Ok(None)));
    drop(tree);
    let tree = Tree::new(Unix::open(folder.path(), 2, 1 << 20).unwrap());
    assert_eq!(tree.get(499).unwrap(), Some(998));
    let tree = Tree::new(Twz::create(4, 200).unwrap());
    (0..500).for_each(|i| assert_eq!(tree.insert(i, i * 2), Ok(None)));
    let again = Tree::new(Twz::open(&tree.pointers().ids()).unwrap());
    assert_eq!(again.get(499).unwrap(), Some(998));
    again.check().unwrap();
    (500..800).for_each(|i| assert_eq!(again.insert(i, i), Ok(None)));
    assert_eq!(again.insert(9999, 1), Err(Error::Full));
    assert!(Twz::open(&[]).is_err(), "a tree is in some object");
}

#[test]
fn links_that_lead_nowhere_are_errors() {
    fn break_root(root: &Link, tree: &Tree<impl Pointers>) {
        for wrong in [1, 1 << 40 | 64, 0x3fff_fff9, u64::MAX] {
            root.store(wrong, Ordering::Relaxed);
            assert_eq!(tree.get(1), Err(Error::Damaged), "{wrong:#x}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let tree = Tree::new(Unix::open(folder.path(), 1, 1 << 16).unwrap());
    break_root(tree.pointers().root(), &tree);
    let tree = Tree::new(Twz::create(1, 10).unwrap());
    break_root(tree.pointers().root(), &tree);
}

#[test]
fn conversions_are_counted() {
    let tree = Tree::new(Counted::new(Ram::default()));
    (0..7).for_each(|i| assert_eq!(tree.insert(i, i), Ok(None)));
    assert!(tree.pointers().take().1.links >= 14);
    tree.get(3).unwrap();
    let (followed, stored) = tree.pointers().take();
    assert!((1..=4).contains(&followed.links) && stored.links == 0, "{followed:?} {stored:?}");
}
