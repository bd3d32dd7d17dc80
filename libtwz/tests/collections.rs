//! Each collection against its model in std, with random operations, aborts, small objects and damage.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::collections::{BTreeMap, HashMap, List, RbTree, Ring, String, Vec};
use libtwz::prelude::*;
use std::collections::{BTreeMap as Ordered, VecDeque};

#[derive(Invariant)]
#[repr(C)]
struct Root {
    hash: HashMap<u64, u64>,
    tree: BTreeMap<u64, u64>,
    rb: RbTree<u64, u64>,
    list: List<u64>,
    vec: Vec<u64>,
    ring: Ring<u64, 16>,
    text: String,
}

fn root(data_bytes: usize) -> Object<Root> {
    let root = Root {
        hash: HashMap::new(),
        tree: BTreeMap::new(),
        rb: RbTree::new(),
        list: List::new(),
        vec: Vec::new(),
        ring: Ring::new(),
        text: String::new(),
    };
    ObjectBuilder::new().data_bytes(data_bytes).build(root).unwrap()
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Random inserts, removals and look-ups of keys below `keys` in all three maps.
fn maps_agree(data_bytes: usize, keys: u64, steps: u64) {
    let o = root(data_bytes);
    let mut model = Ordered::new();
    let mut random = Random(keys + 12345);
    for step in 0..steps {
        let key = random.below(keys);
        match random.below(8) {
            0..=3 => {
                let before = model.insert(key, step);
                assert_eq!(o.hash.insert(key, step).unwrap(), before);
                assert_eq!(o.tree.insert(key, step).unwrap(), before);
                assert_eq!(o.rb.insert(key, step).unwrap(), before);
            }
            4..=5 => {
                let before = model.remove(&key);
                assert_eq!(o.hash.remove(&key).unwrap(), before);
                assert_eq!(o.tree.remove(&key).unwrap(), before);
                assert_eq!(o.rb.remove(&key).unwrap(), before);
            }
            6 => {
                // Several changes in one transaction, some of them undone.
                let fail = random.below(2) == 0;
                let result = o.tx(|tx| {
                    for key in key..key + 5 {
                        o.hash.insert_in(tx, key, step)?;
                        o.tree.insert_in(tx, key, step)?;
                        o.rb.insert_in(tx, key, step)?;
                        assert_eq!(o.hash.get(&key)?, Some(step), "visible at once");
                    }
                    o.hash.remove_in(tx, &(key + 1))?;
                    o.tree.remove_in(tx, &(key + 1))?;
                    o.rb.remove_in(tx, &(key + 1))?;
                    if fail { Err(Error::Aborted) } else { Ok(()) }
                });
                assert_eq!(result.is_err(), fail);
                if !fail {
                    model.extend((key..key + 5).map(|key| (key, step)));
                    model.remove(&(key + 1));
                }
            }
            _ => {
                let expected = model.get(&key).copied();
                assert_eq!(o.hash.get(&key).unwrap(), expected);
                assert_eq!(o.tree.get(&key).unwrap(), expected);
                assert_eq!(o.rb.get(&key).unwrap(), expected);
            }
        }
        if step % 64 == 0 {
            o.rb.check().unwrap();
        }
    }
    let entries: std::vec::Vec<_> = model.iter().map(|(k, v)| (*k, *v)).collect();
    assert_eq!(o.tree.iter().collect::<Result<std::vec::Vec<_>>>().unwrap(), entries);
    assert_eq!(o.rb.iter().collect::<Result<std::vec::Vec<_>>>().unwrap(), entries);
    let mut unordered: std::vec::Vec<_> = o.hash.iter().collect::<Result<_>>().unwrap();
    unordered.sort_unstable();
    assert_eq!(unordered, entries);
    let middle: std::vec::Vec<_> = o.tree.range(keys / 4..keys / 2).map(Result::unwrap).collect();
    assert_eq!(middle, model.range(keys / 4..keys / 2).map(|(k, v)| (*k, *v)).collect::<std::vec::Vec<_>>());
    assert_eq!(
        (o.hash.len(), o.tree.len(), o.rb.len()),
        (model.len() as u64, model.len() as u64, model.len() as u64)
    );
}

#[test]
fn maps_agree_with_the_model() {
    maps_agree(usize::MAX, 50, 1500);
    maps_agree(usize::MAX, 5000, 6000);
}

#[test]
fn maps_cross_objects_when_one_is_full() {
    maps_agree(32 << 10, 2000, 3000);
}

#[test]
fn ordered_inserts_make_a_deep_tree() {
    let o = root(usize::MAX);
    for key in 0..3000_u64 {
        o.tree.insert(key, key * 2).unwrap();
    }
    for key in 0..3000 {
        assert_eq!(o.tree.get(&key).unwrap(), Some(key * 2));
    }
    assert!(o.tree.iter().map(Result::unwrap).eq((0..3000).map(|key| (key, key * 2))));
    assert_eq!(o.tree.first_key_value().unwrap(), Some((0, 0)));
}

#[test]
fn sequences_agree_with_the_model() {
    for data_bytes in [usize::MAX, 8 << 10] {
        let o = root(data_bytes);
        let (mut list, mut vec, mut ring) = (VecDeque::new(), std::vec::Vec::new(), VecDeque::new());
        let mut random = Random(77);
        for step in 0..1500 {
            match random.below(9) {
                0..=1 => {
                    list.push_front(step);
                    o.list.push_front(step).unwrap();
                }
                2..=3 => {
                    list.push_back(step);
                    o.list.push_back(step).unwrap();
                    vec.push(step);
                    o.vec.push(step).unwrap();
                }
                4 => assert_eq!(o.list.pop_front().unwrap(), list.pop_front()),
                5 => assert_eq!(o.list.pop_back().unwrap(), list.pop_back()),
                6 => {
                    assert_eq!(
                        o.ring.push_back(step).unwrap(),
                        if ring.len() == 16 { ring.pop_front() } else { None }
                    );
                    ring.push_back(step);
                }
                7 if !vec.is_empty() => {
                    let index = random.below(vec.len() as u64);
                    let removed = vec.swap_remove(usize::try_from(index).unwrap());
                    assert_eq!(o.vec.swap_remove(index).unwrap(), Some(removed));
                }
                _ => {
                    assert_eq!(o.ring.pop_front().unwrap(), ring.pop_front());
                    assert_eq!(o.vec.pop().unwrap(), vec.pop());
                }
            }
        }
        assert_eq!(o.list.iter().collect::<Result<VecDeque<_>>>().unwrap(), list);
        assert_eq!(o.vec.iter().collect::<Result<std::vec::Vec<_>>>().unwrap(), vec);
        assert_eq!(o.ring.iter().collect::<Result<VecDeque<_>>>().unwrap(), ring);
    }
}

#[test]
fn a_vector_outgrows_its_object() {
    let o = root(8 << 10);
    for i in 0..3000 {
        o.tx(|tx| o.vec.push_in(tx, i))
            .or_else(|e| if let Error::TooLarge { .. } = e { Ok(()) } else { Err(e) })
            .unwrap();
    }
    assert!(!o.overflow().unwrap().is_null());
    assert!(o.vec.iter().map(Result::unwrap).eq(0..o.vec.len()));
    o.vec.clear().unwrap();
    assert!(o.vec.is_empty() && o.vec.iter().next().is_none());
    o.vec.push(1).unwrap();
    assert_eq!(o.vec.last().unwrap(), Some(1));
}

#[test]
fn text_grows_and_shrinks() {
    let o = root(usize::MAX);
    o.text.set("grüß").unwrap();
    o.text.push_str(" dich, Welt; and a tail that needs a larger block").unwrap();
    assert_eq!(o.text.get().unwrap(), "grüß dich, Welt; and a tail that needs a larger block");
    let result = o.tx(|tx| o.text.set_in(tx, "other").and(Err::<(), _>(Error::Aborted)));
    assert!(result.is_err());
    assert!(o.text.get().unwrap().starts_with("grüß"));
    o.text.set("").unwrap();
    assert!(o.text.is_empty() && o.text.get().unwrap().is_empty());
}

#[test]
fn damage_is_an_error_and_ends() {
    for seed in 1..120 {
        let o = root(usize::MAX);
        for i in 0..60_u64 {
            o.hash.insert(i, i).unwrap();
            o.tree.insert(i, i).unwrap();
            o.rb.insert(i, i).unwrap();
            o.list.push_back(i).unwrap();
            o.vec.push(i).unwrap();
        }
        o.text.set("some text").unwrap();
        let mut random = Random(seed * 7919);
        let base = core::ptr::from_ref(o.base()).addr() & 0x3fff_ffff;
        let bytes = size_of::<Root>() as u64 + (16 << 10) + 4096;
        for _ in 0..40 {
            let at = base + usize::try_from(random.below(bytes)).unwrap() / 8 * 8;
            // The allocator and the log have damage tests of their own.
            let in_root = at < base + size_of::<Root>();
            let in_blocks = at > base + size_of::<Root>() + (8 << 10) + 128 + 4096 + 1024;
            if in_root || in_blocks {
                let value = match random.below(4) {
                    0 => 0,
                    1 => random.below(1 << 30),
                    2 => random.below(100),
                    _ => random.below(u64::MAX),
                };
                o.window().store(at, value);
            }
        }
        // Whatever comes out is a value or an error; nothing panics, hangs or leaves the object.
        let _ = o.hash.iter().take(10_000).filter(Result::is_ok).count();
        let _ = o.tree.iter().take(10_000).filter(Result::is_ok).count();
        let _ = o.rb.iter().take(10_000).filter(Result::is_ok).count();
        let _ = o.list.iter().take(10_000).filter(Result::is_ok).count();
        let _ = o.vec.iter().take(10_000).filter(Result::is_ok).count();
        let _ = o.ring.iter().count();
        let _ = o.text.get();
        for key in 0..70 {
            let _ = o.hash.get(&key);
            let _ = o.tree.get(&key);
            let _ = o.rb.get(&key);
            let _ = o.hash.insert(key + 1000, 1);
            let _ = o.tree.insert(key + 1000, 1);
            let _ = o.rb.insert(key + 1000, 1);
            let _ = o.hash.remove(&key);
            let _ = o.rb.remove(&key);
            let _ = o.list.pop_front();
            let _ = o.vec.push(4);
            let _ = o.ring.push_back(4);
        }
        let _ = o.text.set("another");
    }
}

#[test]
fn nothing_leaks_when_a_collection_is_emptied() {
    let o = root(usize::MAX);
    for i in 0..200_u64 {
        o.list.push_back(i).unwrap();
        o.rb.insert(i, i).unwrap();
    }
    while o.list.pop_back().unwrap().is_some() {}
    for i in 0..200_u64 {
        assert_eq!(o.rb.remove(&i).unwrap(), Some(i));
        o.rb.check().unwrap();
    }
    let census = o.census().unwrap();
    assert_eq!(census.bytes, census.free_bytes, "{census:?}");
}

#[test]
fn cleared_collections_leave_nothing() {
    #[derive(Invariant)]
    #[repr(C)]
    struct All {
        hash: HashMap<u64, u64>,
        tree: BTreeMap<u64, [u64; 2]>,
        rb: RbTree<u64, u64>,
        list: List<u64>,
    }
    let all = All { hash: HashMap::new(), tree: BTreeMap::new(), rb: RbTree::new(), list: List::new() };
    let o = ObjectBuilder::new().build(all).unwrap();
    let clear = |tx: &Tx| {
        o.hash.clear_in(tx)?;
        o.tree.clear_in(tx)?;
        o.rb.clear_in(tx)?;
        o.list.clear_in(tx)
    };
    let used = || {
        let census = o.census().unwrap();
        census.bytes - census.free_bytes
    };
    for round in 0..3_u64 {
        for i in 0..700 {
            let key = i * 7919 % 2003;
            o.hash.insert(key, i).unwrap();
            o.tree.insert(key, [i; 2]).unwrap();
            o.rb.insert(key, i).unwrap();
            o.list.push_back(i).unwrap();
        }
        let before = used();
        assert_eq!(o.tx(|tx| clear(tx).and(Err::<(), _>(Error::Aborted))), Err(Error::Aborted));
        assert_eq!(used(), before, "all or nothing");
        let lengths = [o.hash.len(), o.tree.len(), o.rb.len(), o.list.len()];
        assert_eq!(lengths, [700; 4]);
        assert_eq!(o.tree.iter().count(), 700);
        o.rb.check().unwrap();
        if round == 1 {
            o.tx(clear).unwrap();
        } else {
            o.hash.clear().unwrap();
            o.tree.clear().unwrap();
            o.rb.clear().unwrap();
            o.list.clear().unwrap();
        }
        assert_eq!(used(), 0, "round {round}");
        let left =
            o.hash.iter().count() + o.tree.iter().count() + o.rb.iter().count() + o.list.iter().count();
        assert_eq!((left, o.hash.len() + o.tree.len() + o.rb.len() + o.list.len()), (0, 0));
    }
    // Nothing in them, and one leaf only.
    o.tx(clear).unwrap();
    o.tree.insert(1, [1; 2]).unwrap();
    o.tree.clear().unwrap();
    assert_eq!((used(), o.tree.get(&1)), (0, Ok(None)));
}

/// The empty leaves behind the smallest key are given back, so a map that moves on stays as large as it is.
#[test]
fn a_map_whose_keys_rise_stays_small() {
    let o = ObjectBuilder::new().build(BTreeMap::<u64, u64>::new()).unwrap();
    o.extend((0..100).map(|key| (key, key))).unwrap();
    for key in 100..100_100 {
        o.insert(key, key).unwrap();
        assert_eq!(o.pop_first().unwrap(), Some((key - 100, key - 100)));
    }
    assert!(o.iter().map(Result::unwrap).eq((100_000..100_100).map(|key| (key, key))));
    let census = o.census().unwrap();
    // 13 half-full leaves and their parents need 5 KiB; a leaf is taken before one is given back.
    assert!(census.bytes < 16 << 10, "{census:?}");
    // The other way round, and until nothing is left.
    for key in (0..100_000).rev() {
        o.insert(key, key).unwrap();
        assert_eq!(o.pop_last().unwrap(), Some((key + 100, key + 100)));
    }
    assert!(o.census().unwrap().bytes < 16 << 10);
    while o.pop_last().unwrap().is_some() {}
    let census = o.census().unwrap();
    assert!(census.bytes - census.free_bytes <= 320, "at most one leaf: {census:?}");
    o.clear().unwrap();
    assert_eq!(o.census().unwrap().free_bytes, census.bytes);
}

/// A map grows by a segment that was given back, in a transaction that fails: what the free list keeps in the segment comes back.
#[test]
fn a_failed_growth_leaves_the_free_list() {
    let o = ObjectBuilder::new().build([HashMap::<u64, u64>::new(), HashMap::new()]).unwrap();
    let [one, two] = o.base();
    one.insert(1, 1).unwrap();
    two.insert(1, 1).unwrap();
    one.clear().unwrap();
    two.clear().unwrap();
    let before = o.census().unwrap();
    assert_eq!(o.tx(|tx| one.insert_in(tx, 2, 2).and(Err::<(), _>(Error::Aborted))), Err(Error::Aborted));
    assert_eq!(o.census().unwrap(), before);
}

/// A type that is all cells: a text, another collection, a pointer.
#[derive(Default, Invariant)]
#[repr(C)]
struct Entry {
    name: String,
    tags: Vec<u64>,
    friend: InvPtr<PCell<u64>>,
}

impl Entry {
    fn fill(&self, tx: &Tx, number: u64) -> Result<()> {
        self.name.set_in(tx, &format!("entry {number}"))?;
        self.tags.extend_in(tx, 0..number)?;
        tx.point(&self.friend, Some(tx.alloc(PCell::new(number))?))
    }

    fn is(&self, number: u64) -> bool {
        self.name == *format!("entry {number}").as_str()
            && self.tags.iter().map(Result::unwrap).eq(0..number)
            && self.friend.resolve().unwrap().get() == number
    }

    fn release(&self, tx: &Tx) -> Result<()> {
        self.name.release(tx)?;
        self.tags.clear_in(tx)?;
        // SAFETY: allocated by `fill`, and nothing else leads to it.
        unsafe { tx.free(self.friend.resolve()?) }
    }
}

#[test]
fn collections_hold_texts_pointers_and_collections() {
    #[derive(Default, Invariant)]
    #[repr(C)]
    struct All {
        vec: Vec<Entry>,
        list: List<Entry>,
        tree: RbTree<u64, Entry>,
    }
    // Small enough that what they hold crosses into other objects.
    let o = ObjectBuilder::new().data_bytes(24 << 10).build(All::default()).unwrap();
    let count = 40;
    let fill = |tx: &Tx, number: u64| {
        o.vec.push_default_in(tx)?.fill(tx, number)?;
        o.list.push_back_default_in(tx)?.fill(tx, number)?;
        o.tree.insert_default_in(tx, number * 7 % count)?.fill(tx, number)
    };
    for number in 0..count {
        assert_eq!(o.tx(|tx| fill(tx, number).and(Err::<(), _>(Error::Aborted))), Err(Error::Aborted));
        o.tx(|tx| fill(tx, number)).unwrap();
    }
    assert!(!o.overflow().unwrap().is_null());
    let whole = |from: u64| {
        assert!(o.vec.iter_ref().zip(0..).all(|(entry, number)| entry.unwrap().is(number)));
        assert!(o.list.iter_ref().zip(0..).all(|(entry, number)| entry.unwrap().is(number)));
        for number in from..count {
            assert!(o.tree.get_ref(&(number * 7 % count)).unwrap().unwrap().is(number), "{number}");
        }
        o.tree.check().unwrap();
    };
    whole(0);
    // Nodes with two children go, too: what stays keeps its place.
    for number in 0..count / 2 {
        let key = number * 7 % count;
        o.tx(|tx| {
            o.tree.get_ref(&key)?.map_or(Ok(()), |entry| entry.release(tx))?;
            o.tree.remove_key_in(tx, &key).map(|removed| assert!(removed))
        })
        .unwrap();
        whole(number + 1);
    }
    o.tx(|tx| {
        o.vec.iter_ref().chain(o.list.iter_ref()).try_for_each(|entry| entry?.release(tx))?;
        o.tree.iter_ref().try_for_each(|entry| entry?.1.release(tx))?;
        o.vec.clear_in(tx)?;
        o.list.clear_in(tx)?;
        o.tree.clear_in(tx)
    })
    .unwrap();
    let census = o.census().unwrap();
    assert_eq!(census.bytes, census.free_bytes);
}

/// Keys, values and elements of all sizes, of which many do not fill the words of a node or bucket.
#[test]
fn what_is_stored_may_have_any_size() {
    fn maps<K, V>(key: impl Fn(u32) -> K, value: impl Fn(u32) -> V)
    where
        K: Invariant + Copy + Ord + core::fmt::Debug,
        V: Invariant + Copy + PartialEq + core::fmt::Debug,
    {
        let hash = ObjectBuilder::new().build(HashMap::<K, V>::new()).unwrap();
        let tree = ObjectBuilder::new().build(BTreeMap::<K, V>::new()).unwrap();
        let rb = ObjectBuilder::new().build(RbTree::<K, V>::new()).unwrap();
        for i in 0..200 {
            assert_eq!(hash.insert(key(i), value(i)).unwrap(), None);
            assert_eq!(tree.insert(key(i), value(i)).unwrap(), None);
            assert_eq!(rb.insert(key(i), value(i)).unwrap(), None);
        }
        for i in 0..200 {
            let expected = Some(value(i));
            assert_eq!([hash.get(&key(i)), tree.get(&key(i)), rb.get(&key(i))], [Ok(expected); 3]);
            let removed = [hash.remove(&key(i)), tree.remove(&key(i)), rb.remove(&key(i))];
            assert_eq!(removed, [Ok(expected); 3]);
        }
        assert_eq!(hash.iter().count() + tree.iter().count() + rb.iter().count(), 0);
    }
    fn elements<T: Invariant + Copy + PartialEq + core::fmt::Debug>(element: impl Fn(u32) -> T) {
        let list = ObjectBuilder::new().build(List::<T>::new()).unwrap();
        let vec = ObjectBuilder::new().build(Vec::<T>::new()).unwrap();
        for i in 0..50 {
            list.push_front(element(i)).unwrap();
            vec.push(element(i)).unwrap();
        }
        assert!(list.iter().rev().map(Result::unwrap).eq((0..50).map(&element)));
        assert!(vec.iter().map(Result::unwrap).eq((0..50).map(&element)));
        list.clear().unwrap();
        let census = list.census().unwrap();
        assert_eq!(census.bytes, census.free_bytes);
    }
    let byte = |i: u32| i.to_le_bytes()[0];
    maps(|i| i, u64::from);
    maps(u64::from, byte);
    maps(byte, |i| [byte(i); 3]);
    maps(|i| [byte(i); 3], |i| [u64::from(i); 12]);
    maps(|i| i, |_| ());
    maps(|i| [i; 3], |i| [u128::from(i)]);
    elements(byte);
    elements(|i| i);
    elements(|i| [byte(i); 13]);
    elements(|i| [i; 40]);
    elements(u128::from);
}
