//! Maps that own their keys and values, against std's.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::collections::owned::{BTreeMap, BTreeSet, HashMap, HashSet, Release};
use libtwz::collections::{String as PString, Vec as PVec};
use libtwz::prelude::*;
use std::collections::BTreeMap as Model;

#[derive(Default, Invariant)]
#[repr(C)]
struct Root {
    hash: HashMap<PString, u64>,
    tree: BTreeMap<PString, u64>,
    texts: BTreeMap<PVec<u8>, PString>,
    vectors: HashMap<i32, PVec<u16>>,
    people: BTreeMap<PString, Person>,
    empty: BTreeMap<u64, ()>,
}

#[derive(Default, Invariant)]
#[repr(C)]
struct Person {
    age: PCell<u64>,
    name: PString,
    nicknames: PVec<PString>,
    friends: HashMap<PString, PString>,
}

impl Release for Person {
    fn release(&self, tx: &Tx) -> Result<()> {
        self.name.release(tx)?;
        self.nicknames.release(tx)?;
        self.friends.release(tx)
    }
}

fn root(data_bytes: usize) -> Object<Root> {
    ObjectBuilder::new().data_bytes(data_bytes).build(Root::default()).unwrap()
}

impl Root {
    fn clear(&self, tx: &Tx) -> Result<()> {
        self.hash.clear_in(tx)?;
        self.tree.clear_in(tx)?;
        self.texts.clear_in(tx)?;
        self.vectors.clear_in(tx)?;
        self.people.clear_in(tx)?;
        self.empty.clear_in(tx)
    }
}

/// Bytes in use in the object and those chained to it.
fn used<T: Invariant>(o: &Object<T>) -> usize {
    let census = o.census().unwrap();
    census.bytes - census.free_bytes
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

/// Keys of all lengths, with beginnings of all lengths in common; some of them are beginnings of others.
fn key(number: u64) -> String {
    let long = "/usr/share/doc/a directory of that name/and one more/with";
    let start = usize::try_from(number * 7 % 60).unwrap().min(long.len());
    match number % 5 {
        0 => long[..start].into(),
        1 => format!("{}\0", &long[..start]),
        2 => format!("{number}"),
        3 => format!("{}{number}", &long[..start]),
        _ => format!("{}{number}", "x".repeat(usize::try_from(number * 13 % 700).unwrap())),
    }
}

fn all<T>(from: impl IntoIterator<Item = Result<T>>) -> Vec<T> {
    from.into_iter().map(Result::unwrap).collect()
}

fn agree(data_bytes: usize, keys: u64, steps: u64) {
    let o = root(data_bytes);
    let mut random = Random(88_172_645_463_325_252);
    let mut model: Model<String, u64> = Model::new();
    for step in 0..steps {
        let key = key(random.below(keys));
        let (k, bytes) = (key.as_str(), key.as_bytes());
        let number = i32::try_from(step % 1000).unwrap() - 500;
        if random.below(8) == 0 {
            let undone: Result<()> = o.tx(|tx| {
                o.hash.insert_in(tx, k, 0)?;
                o.tree.remove_in(tx, k)?;
                o.texts.insert_in(tx, bytes, "undone")?;
                Err(Error::Aborted)
            });
            assert_eq!(undone, Err(Error::Aborted));
        }
        if random.below(3) == 0 {
            let before = model.remove(k);
            assert_eq!(o.hash.remove(k).unwrap(), before);
            assert_eq!(o.tree.remove(k).unwrap(), before);
            assert_eq!(o.texts.remove(bytes).unwrap(), before.map(|before| format!("{k} {before}")));
            assert_eq!(o.vectors.remove_key(&number), Ok(false));
        } else {
            let before = model.insert(key.clone(), step);
            assert_eq!(o.hash.insert(k, step).unwrap(), before);
            assert_eq!(o.tree.insert(k, step).unwrap(), before);
            let text = format!("{k} {step}");
            assert_eq!(o.texts.insert(bytes, &text).unwrap(), before.map(|before| format!("{k} {before}")));
            assert_eq!(o.vectors.insert(&number, &[1, 2, 3]).unwrap(), None);
            assert_eq!(o.vectors.insert(&number, &[5; 20]).unwrap(), Some(vec![1, 2, 3]));
            assert_eq!(o.vectors.remove(&number).unwrap(), Some(vec![5; 20]));
        }
        let other = self::key(random.below(keys));
        assert_eq!(o.hash.get(&other).unwrap(), model.get(&other).copied());
        assert_eq!(o.tree.get(&other).unwrap(), model.get(&other).copied());
        assert_eq!(o.texts.contains_key(other.as_bytes()).unwrap(), model.contains_key(&other));
        if step % 64 == 63 {
            check(&o, &model, &other, k);
        }
    }
    check(&o, &model, "", "x");
    o.tx(|tx| o.clear(tx)).unwrap();
    assert_eq!((o.hash.len(), o.tree.len(), all(o.tree.iter()).len()), (0, 0, 0));
    assert_eq!(used(&o), 0);
}

fn check(o: &Object<Root>, model: &Model<String, u64>, from: &str, to: &str) {
    let expected: Vec<(String, u64)> = model.iter().map(|(key, value)| (key.clone(), *value)).collect();
    assert_eq!([o.hash.len(), o.tree.len(), o.texts.len()], [model.len() as u64; 3]);
    let mut hash = all(o.hash.iter());
    hash.sort();
    assert_eq!(hash, expected);
    assert_eq!(all(o.tree.iter()), expected);
    assert_eq!(all(o.tree.iter().rev()), expected.iter().rev().cloned().collect::<Vec<_>>());
    assert!(all(o.texts.keys()).iter().eq(model.keys().map(String::as_bytes)));
    let (low, high) = if from < to { (from, to) } else { (to, from) };
    let within = |low_too: bool, high_too: bool| -> Vec<(String, u64)> {
        let is_in =
            |key: &str| (key > low || low_too && key == low) && (key < high || high_too && key == high);
        expected.iter().filter(|entry| is_in(&entry.0)).cloned().collect()
    };
    assert_eq!(all(o.tree.range(low..high)), within(true, false));
    assert_eq!(all(o.tree.range(low..=high)), within(true, true));
    assert_eq!(all(o.tree.range(low..=high).rev()), within(true, true).into_iter().rev().collect::<Vec<_>>());
    use core::ops::Bound::Excluded;
    assert_eq!(all(o.tree.range((Excluded(low), Excluded(high)))), within(false, false));
    assert_eq!(o.tree.first_key_value().unwrap(), expected.first().cloned());
    assert_eq!(o.tree.last_key_value().unwrap(), expected.last().cloned());
    // Both ends in turns meet.
    let (mut both, mut seen) = (o.tree.iter(), 0);
    while let Some(entry) = if seen % 3 == 0 { both.next_back() } else { both.next() } {
        entry.unwrap();
        seen += 1;
    }
    assert_eq!(seen, expected.len());
}

#[test]
fn owned_maps_agree_with_the_model() {
    agree(usize::MAX, 300, 3000);
}

#[test]
fn owned_maps_cross_objects_when_one_is_full() {
    let o = root(48 << 10);
    let model: Model<String, u64> = (0..400).map(|number| (key(number), number)).collect();
    for (k, value) in &model {
        o.tx(|tx| {
            o.hash.insert_in(tx, k, *value)?;
            o.tree.insert_in(tx, k, *value)?;
            o.texts.insert_in(tx, k.as_bytes(), k)
        })
        .unwrap();
    }
    assert!(!o.overflow().unwrap().is_null());
    check(&o, &model, "/usr/share", "x");
    for k in model.keys() {
        assert_eq!(o.texts.get(k.as_bytes()).unwrap().as_ref(), Some(k));
        assert!(o.hash.remove(k).unwrap().is_some() && o.tree.remove_key(k).unwrap());
        assert_eq!(o.texts.remove_entry(k.as_bytes()).unwrap(), Some((k.clone().into_bytes(), k.clone())));
    }
    o.tx(|tx| o.clear(tx)).unwrap();
    assert_eq!(used(&o), 0);
}

#[test]
fn structs_are_used_in_place_and_given_back_whole() {
    let o = root(usize::MAX);
    let meet = |tx: &Tx, who: &str, age: u64| -> Result<()> {
        let person = o.people.insert_default_in(tx, who)?;
        tx.set(&person.age, age)?;
        person.name.set_in(tx, &format!("{who}, aged {age}"))?;
        for i in 0..age % 12 {
            person.nicknames.push_default_in(tx)?.set_in(tx, &format!("nickname {i}"))?;
            person.friends.insert_in(tx, &format!("friend {i}"), "a good one").map(drop)?;
        }
        Ok(())
    };
    for number in 0..60 {
        assert_eq!(
            o.tx(|tx| meet(tx, &key(number), number).and(Err::<(), _>(Error::Aborted))),
            Err(Error::Aborted)
        );
        o.tx(|tx| meet(tx, &key(number), number)).unwrap();
    }
    let first = o.people.get_ref(&key(23)).unwrap().unwrap();
    let place = core::ptr::from_ref(first);
    let expected: Model<String, u64> = (0..60).map(|number| (key(number), number)).collect();
    for (entry, (k, number)) in o.people.iter_ref().zip(&expected) {
        let (found, person) = entry.unwrap();
        assert_eq!((&found, person.age.get()), (k, *number));
        assert!(person.name == *format!("{k}, aged {number}"));
    }
    for number in 0..60 {
        if number == 23 {
            continue;
        }
        // What is taken out can be read before it is given back.
        o.tx(|tx| {
            let k = key(number);
            if let Some(person) = o.people.get_ref(&k)? {
                assert!(person.nicknames.len() == number % 12 && person.friends.len() == number % 12);
                assert!(o.people.remove_key_in(tx, &k)?);
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(o.people.get_ref(&key(number)).unwrap().map(|_| ()), None);
    }
    let left = o.people.get_ref(&key(23)).unwrap().unwrap();
    assert!(core::ptr::eq(left, place), "an entry keeps its place");
    assert_eq!(left.friends.get("friend 3").unwrap().unwrap(), "a good one");
    assert_eq!(o.people.len(), 1);
    o.people.clear().unwrap();
    assert_eq!(used(&o), 0);
}

#[test]
fn owned_maps_have_what_std_has() {
    let o = root(usize::MAX);
    let (hash, tree) = (&o.hash, &o.tree);
    hash.extend([("a", 1), ("b", 2), ("c", 3)]).unwrap();
    o.tx(|tx| tree.extend_in(tx, [(String::from("b"), 20), (String::from("d"), 40)])).unwrap();
    assert_eq!(hash.update("a", |before| before.map(|n| n + 10)).unwrap(), Some(11));
    assert_eq!(hash.update("e", |before| before.or(Some(5))).unwrap(), Some(5));
    assert_eq!(hash.update("b", |_| None).unwrap(), None);
    assert_eq!(hash.get_or_insert_with("c", || unreachable!()).unwrap(), 3);
    assert_eq!(hash.get_or_insert_with("f", || 6).unwrap(), 6);
    hash.retain(|key, value| key != "e" && *value != 3).unwrap();
    let mut keys = all(hash.keys());
    keys.sort();
    assert_eq!(keys, ["a", "f"]);
    assert_eq!(all(tree.values()), [20, 40]);
    let other = root(usize::MAX);
    other.tree.extend([("b", 21), ("z", 99)]).unwrap();
    tree.append(&other.tree).unwrap();
    tree.append(tree).unwrap();
    assert_eq!(all(tree.into_iter()), [("b".into(), 21), ("d".into(), 40), ("z".into(), 99)]);
    assert!(other.tree.is_empty() && other.tree.iter().next().is_none());
    tree.split_off("c", &other.tree).unwrap();
    assert_eq!(
        (all(tree.keys()), all(other.tree.keys())),
        (vec!["b".into()], vec!["d".into(), String::from("z")])
    );
    assert_eq!(other.tree.pop_last().unwrap(), Some(("z".into(), 99)));
    assert_eq!(other.tree.pop_first().unwrap(), Some(("d".into(), 40)));
    assert_eq!(other.tree.pop_first().unwrap(), None);
    let mut drained = hash.drain().unwrap();
    drained.sort();
    assert_eq!(drained, [("a".into(), 11), ("f".into(), 6)]);
    o.vectors.insert(&-3, &[]).unwrap();
    assert_eq!(
        o.vectors
            .update(&-3, |before| before.map(|mut v| {
                v.push(7);
                v
            }))
            .unwrap(),
        Some(vec![7])
    );
    o.empty.extend([(3, ()), (1 << 60, ()), (3, ())]).unwrap();
    assert_eq!((o.empty.len(), all(o.empty.keys())), (2, vec![3, 1 << 60]));
    assert_eq!(all(o.empty.range(&4..)), [(1 << 60, ())]);
    o.tx(|tx| o.clear(tx)).unwrap();
    other.tree.clear().unwrap();
    assert_eq!((used(&o), used(&other)), (0, 0));
}

#[test]
fn entries_are_made_or_changed() {
    let o = root(usize::MAX);
    for word in ["to", "be", "to"] {
        o.hash.entry(word).and_modify(|n| *n += 1).or_insert(1).unwrap();
        o.tx(|tx| o.tree.entry_in(tx, word).and_modify(|n| *n += 1).or_insert_with(|| 1)).unwrap();
        o.texts.entry(word.as_bytes()).and_modify(|text| text.push('!')).or_default().unwrap();
    }
    assert_eq!((o.hash.get("to").unwrap(), o.hash.get("be").unwrap()), (Some(2), Some(1)));
    assert_eq!(all(o.texts.values()), ["", "!"]);
    assert_eq!(format!("{:?} {:?}", o.tree, o.empty), "{\"be\": 1, \"to\": 2} {}");
    // `retain` may change what it keeps.
    o.tree
        .retain(|key, n| {
            *n += 10;
            key != "be"
        })
        .unwrap();
    o.texts.retain(|_, text| !text.is_empty()).unwrap();
    o.texts
        .retain(|_, text| {
            text.push('?');
            true
        })
        .unwrap();
    assert_eq!((all(o.tree.iter()), all(o.texts.values())), (vec![("to".into(), 12)], vec!["!?".into()]));
    o.vectors.insert(&5, &[1, 2]).unwrap();
    o.vectors
        .retain(|_, v| {
            v.retain(|n| *n > 1);
            true
        })
        .unwrap();
    assert_eq!(o.vectors.get(&5).unwrap(), Some(vec![2]));
    // In place: by range, from both ends, and out of the map.
    for (age, name) in [(30, "a"), (40, "b"), (50, "c"), (60, "d")] {
        o.tx(|tx| {
            let person = o.people.insert_default_in(tx, name)?;
            tx.set(&person.age, age)?;
            person.name.set_in(tx, name)
        })
        .unwrap();
    }
    let ages = |range: [&str; 2]| all(o.people.range_ref(range[0]..range[1]).map(|e| Ok(e?.1.age.get())));
    assert_eq!((ages(["b", "d"]), ages(["", "b"]), ages(["x", "z"])), (vec![40, 50], vec![30], vec![]));
    assert_eq!(o.people.iter_ref().next_back().unwrap().unwrap().0, "d");
    assert_eq!(all(o.people.keys().rev()), ["d", "c", "b", "a"]);
    o.people.retain_ref(|name, person| name == "a" || person.age.get() > 50).unwrap();
    assert_eq!(all(o.people.keys()), ["a", "d"]);
    o.tx(|tx| o.clear(tx)).unwrap();
    assert_eq!(used(&o), 0);
}

#[derive(Default, Invariant)]
#[repr(C)]
struct Sets {
    hash: HashSet<PString>,
    tree: BTreeSet<PString>,
    other: BTreeSet<PString>,
    bytes: HashMap<u64, BTreeSet<PVec<u8>>>,
}

#[test]
fn sets_own_their_elements() {
    let o = ObjectBuilder::new().build(Sets::default()).unwrap();
    assert!(o.hash.insert("a").unwrap() && !o.hash.insert("a").unwrap());
    o.tx(|tx| {
        o.hash
            .extend_in(tx, ["b", "c"])
            .and(o.tree.extend_in(tx, [String::from("x"), "b".into(), "y".into()]))
    })
    .unwrap();
    o.other.extend(["y", "z", "b"]).unwrap();
    assert_eq!(format!("{:?} {:?}", o.tree, o.other), r#"{"b", "x", "y"} {"b", "y", "z"}"#);
    assert_eq!(
        (all(o.tree.intersection(&o.other)), all(o.tree.difference(&o.other))),
        (vec!["b".into(), "y".into()], vec![String::from("x")])
    );
    assert_eq!(all(o.tree.range("c"..).rev()), ["y", "x"]);
    assert_eq!((o.tree.first().unwrap(), o.tree.last().unwrap()), (Some("b".into()), Some("y".into())));
    assert!(!o.tree.is_subset(&o.other).unwrap() && !o.tree.is_disjoint(&o.other).unwrap());
    o.other.append(&o.tree).unwrap();
    assert_eq!(all(&o.other).len(), 4);
    o.other.split_off("y", &o.tree).unwrap();
    assert_eq!(
        (all(&o.other), all(&o.tree)),
        (vec!["b".into(), String::from("x")], vec!["y".into(), String::from("z")])
    );
    assert_eq!(
        (o.tree.pop_first().unwrap(), o.tree.pop_last().unwrap(), o.tree.pop_last().unwrap()),
        (Some("y".into()), Some("z".into()), None)
    );
    o.hash.retain(|element| element != "c").unwrap();
    assert!(o.hash.contains("b").unwrap() && !o.hash.contains("c").unwrap() && o.hash.remove("b").unwrap());
    assert_eq!((o.hash.len(), o.hash.drain().unwrap()), (1, vec!["a".into()]));
    o.bytes.insert_default(&7).unwrap().insert(b"in another").unwrap();
    assert!(o.bytes.get_ref(&7).unwrap().unwrap().contains(b"in another").unwrap());
    o.bytes.clear().unwrap();
    o.other.clear().unwrap();
    o.tree.clear().unwrap();
    assert_eq!(used(&o), 0);
}

#[test]
fn keys_that_begin_alike_for_long_are_told_apart() {
    let o = root(usize::MAX);
    let long = "prefix".repeat(5000);
    for end in ["", "a", "b", "ab"] {
        assert_eq!(o.tree.insert(&format!("{long}{end}"), end.len() as u64).unwrap(), None);
    }
    assert_eq!(all(o.tree.values()), [0, 1, 2, 1]);
    assert_eq!(o.tree.get(&format!("{long}ab")).unwrap(), Some(2));
    assert_eq!(o.tree.get(&long[..60]).unwrap(), None);
    for end in ["a", "", "ab"] {
        assert!(o.tree.remove_key(&format!("{long}{end}")).unwrap());
    }
    assert_eq!(all(o.tree.values()), [1]);
    assert!(o.tree.remove_key(&format!("{long}b")).unwrap());
    let left = used(&o);
    assert!(left < 1000, "layers are given back: {left}");
    o.tree.clear().unwrap();
    assert_eq!(used(&o), 0);
}

#[test]
fn a_type_of_other_keys_or_values_is_another() {
    use libtwz::invariant::fingerprint;
    let own = fingerprint::<HashMap<PString, u64>>();
    assert_ne!(own, fingerprint::<HashMap<PVec<u8>, u64>>());
    assert_ne!(own, fingerprint::<HashMap<PString, u32>>());
    assert_ne!(own, fingerprint::<BTreeMap<PString, u64>>());
    assert_ne!(fingerprint::<BTreeMap<i64, ()>>(), fingerprint::<BTreeMap<u64, ()>>());
}
