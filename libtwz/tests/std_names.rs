//! The collections' methods against std's of the same name: random sequences of calls, each in a transaction of its own or as a part of one,
//! of which some are undone.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::collections::{BTreeMap, BTreeSet, HashMap, HashSet, List, RbTree, Ring, String, Vec};
use libtwz::prelude::*;
use proptest::prelude::*;
use std::collections::{BTreeMap as Ordered, VecDeque};

fn object<T: Invariant>(root: T) -> Object<T> {
    ObjectBuilder::new().build(root).unwrap()
}

fn all<T>(from: impl Iterator<Item = Result<T>>) -> std::vec::Vec<T> {
    from.map(Result::unwrap).collect()
}

/// Runs a change: `how` 0 durably, 1 as a part of a transaction, 2 as a part of one that is undone before it is run in earnest.
macro_rules! run {
    ($how:expr, $object:expr, $on:expr, $name:ident / $name_in:ident($($argument:expr),*)) => {{
        if $how == 2 {
            let undone = $object.tx(|tx| $on.$name_in(tx, $($argument),*).and(Err::<(), _>(Error::Aborted)));
            assert_eq!(undone, Err(Error::Aborted));
        }
        if $how == 0 {
            $on.$name($($argument),*).unwrap()
        } else {
            $object.tx(|tx| $on.$name_in(tx, $($argument),*)).unwrap()
        }
    }};
}

type Step = (u8, u64, u64, u8);

fn steps(kinds: u8, keys: u64, count: usize) -> impl Strategy<Value = std::vec::Vec<Step>> {
    proptest::collection::vec((0..kinds, 0..keys, 0..1000_u64, 0..3_u8), 1..count)
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn at(index: u64) -> usize {
    usize::try_from(index).unwrap()
}

#[derive(Invariant)]
#[repr(C)]
struct Vecs {
    vec: Vec<u64>,
    other: Vec<u64>,
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn vectors(steps in steps(26, 40, 60)) {
        let o = object(Vecs { vec: Vec::new(), other: Vec::new() });
        let vec = &o.vec;
        let mut model: std::vec::Vec<u64> = std::vec::Vec::new();
        for (kind, index, value, how) in steps {
            let len = model.len() as u64;
            let i = at(index);
            match kind {
                0 => {
                    run!(how, o, vec, push / push_in(value));
                    model.push(value);
                }
                1 => prop_assert_eq!(run!(how, o, vec, pop / pop_in()), model.pop()),
                2 => {
                    run!(how, o, vec, truncate / truncate_in(index));
                    model.truncate(i);
                }
                3 => {
                    run!(how, o, o.other, extend / extend_in([value, index]));
                    run!(how, o, vec, append / append_in(&o.other));
                    prop_assert!(o.other.is_empty());
                    run!(how, o, vec, append / append_in(vec));
                    model.extend([value, index]);
                }
                4 => {
                    run!(how, o, vec, extend / extend_in((0..index).map(|i| i * value)));
                    model.extend((0..index).map(|i| i * value));
                }
                5 => {
                    run!(how, o, vec, extend_from_slice / extend_from_slice_in(&[value; 3]));
                    model.extend_from_slice(&[value; 3]);
                }
                6 => {
                    prop_assert_eq!(run!(how, o, vec, insert / insert_in(index, value)), index <= len);
                    if index <= len {
                        model.insert(i, value);
                    }
                }
                7 => {
                    let removed = (index < len).then(|| model.remove(i));
                    prop_assert_eq!(run!(how, o, vec, remove / remove_in(index)), removed);
                }
                8 => {
                    run!(how, o, vec, retain / retain_in(|element| element % 3 != value % 3));
                    model.retain(|element| element % 3 != value % 3);
                }
                9 => {
                    let range = index.min(len)..(index + value % 8).min(len);
                    let drained: std::vec::Vec<u64> = model.drain(at(range.start)..at(range.end)).collect();
                    prop_assert_eq!(run!(how, o, vec, drain / drain_in(index..index + value % 8)), drained);
                }
                10 => {
                    run!(how, o, vec, resize / resize_in(index, value));
                    model.resize(i, value);
                }
                11 => run!(how, o, vec, reserve / reserve_in(index)),
                18 => {
                    run!(how, o, vec, sort / sort_in());
                    model.sort();
                    prop_assert_eq!(vec.partition_point(|element| *element < value).unwrap(), model.partition_point(|e| *e < value) as u64);
                    let by_key = vec.binary_search_by_key(&(value / 2), |element| element / 2).unwrap();
                    prop_assert_eq!(by_key.is_ok(), model.iter().any(|element| element / 2 == value / 2));
                }
                19 => {
                    run!(how, o, vec, sort_by_key / sort_by_key_in(|element| element % 7));
                    model.sort_by_key(|element| element % 7);
                }
                20 => {
                    run!(how, o, vec, sort_by / sort_by_in(|a, b| (b / 3).cmp(&(a / 3))));
                    model.sort_by_key(|element| core::cmp::Reverse(element / 3));
                }
                21 => {
                    run!(how, o, vec, reverse / reverse_in());
                    model.reverse();
                }
                22 => {
                    run!(how, o, vec, dedup / dedup_in());
                    model.dedup();
                    run!(how, o, vec, dedup_by_key / dedup_by_key_in(|element| *element % 4));
                    model.dedup_by_key(|element| *element % 4);
                }
                23 => {
                    let keep = |element: &mut u64| {
                        *element += value % 2;
                        *element % 3 != index % 3
                    };
                    run!(how, o, vec, retain_mut / retain_mut_in(keep));
                    model.retain_mut(keep);
                }
                24 => {
                    run!(how, o, vec, fill / fill_in(value % 3));
                    model.fill(value % 3);
                }
                25 => {
                    let fits = index <= len;
                    prop_assert_eq!(run!(how, o, vec, split_off / split_off_in(index, &o.other)), fits);
                    prop_assert_eq!(vec.split_off(0, vec).unwrap(), false);
                    let behind = if fits { model.split_off(i) } else { std::vec::Vec::new() };
                    prop_assert_eq!(o.other.to_vec().unwrap(), behind);
                    o.other.clear().unwrap();
                }
                12 => {
                    let swapped = index < len && value % 20 < len;
                    prop_assert_eq!(run!(how, o, vec, swap / swap_in(index, value % 20)), swapped);
                    if swapped {
                        model.swap(i, at(value % 20));
                    }
                }
                13 => {
                    prop_assert_eq!(vec.contains(&value).unwrap(), model.contains(&value));
                    prop_assert_eq!(vec.first().unwrap(), model.first().copied());
                    prop_assert_eq!(vec.last().unwrap(), model.last().copied());
                }
                14 => {
                    let mut sorted = vec.to_vec().unwrap();
                    sorted.sort_unstable();
                    sorted.dedup();
                    run!(how, o, vec, clear / clear_in());
                    run!(how, o, vec, extend_from_slice / extend_from_slice_in(&sorted));
                    model.sort_unstable();
                    model.dedup();
                    let found = model.binary_search(&value);
                    prop_assert_eq!(
                        vec.binary_search(&value).unwrap(),
                        found.map(|i| i as u64).map_err(|i| i as u64)
                    );
                }
                15 => {
                    let removed = (index < len).then(|| model.swap_remove(i));
                    prop_assert_eq!(run!(how, o, vec, swap_remove / swap_remove_in(index)), removed);
                }
                16 => {
                    let before = model.get_mut(i).map(|place| core::mem::replace(place, value));
                    prop_assert_eq!(run!(how, o, vec, set / set_in(index, value)), before);
                }
                _ => {
                    run!(how, o, vec, clear / clear_in());
                    model.clear();
                }
            }
            prop_assert_eq!(&all(vec.into_iter()), &model);
            prop_assert_eq!(all(vec.iter().rev()), model.iter().rev().copied().collect::<std::vec::Vec<_>>());
            prop_assert_eq!(vec.get(model.len() as u64).unwrap(), None);
        }
        vec.clear().unwrap();
        o.other.clear().unwrap();
        let census = o.census().unwrap();
        prop_assert_eq!(census.bytes, census.free_bytes);
    }

    #[test]
    fn texts(steps in proptest::collection::vec((0..12_u8, 0..40_usize, "[a-dßé€𝄞]{0,9}", 0..3_u8), 1..60)) {
        let o = object(String::new());
        let text = o.base();
        let mut model = std::string::String::new();
        for (kind, index, piece, how) in steps {
            let fits = model.is_char_boundary(index);
            match kind {
                0 | 1 => {
                    run!(how, o, text, push_str / push_str_in(&piece));
                    model.push_str(&piece);
                }
                2 => {
                    let character = piece.chars().next().unwrap_or('x');
                    run!(how, o, text, push / push_in(character));
                    model.push(character);
                }
                3 => prop_assert_eq!(run!(how, o, text, pop / pop_in()), model.pop()),
                4 => {
                    let cut = run!(how, o, text, truncate / truncate_in(index));
                    prop_assert_eq!(cut, fits || index >= model.len());
                    if cut {
                        model.truncate(index);
                    }
                }
                5 | 6 => {
                    prop_assert_eq!(run!(how, o, text, insert_str / insert_str_in(index, &piece)), fits);
                    if fits {
                        model.insert_str(index, &piece);
                    }
                }
                7 => {
                    prop_assert_eq!(run!(how, o, text, insert / insert_in(index, '€')), fits);
                    if fits {
                        model.insert(index, '€');
                    }
                }
                8 => {
                    let removed = (fits && index < model.len()).then(|| model.remove(index));
                    prop_assert_eq!(run!(how, o, text, remove / remove_in(index)), removed);
                }
                9 => {
                    run!(how, o, text, reserve / reserve_in(index * 40));
                    prop_assert!(text.capacity() >= model.len() + index * 40);
                }
                10 => {
                    run!(how, o, text, extend / extend_in([piece.as_str(); 30]));
                    model.extend([piece.as_str(); 30]);
                }
                _ if index < 8 => {
                    run!(how, o, text, clear / clear_in());
                    model.clear();
                }
                _ => {
                    run!(how, o, text, set / set_in(&piece));
                    model.clone_from(&piece);
                }
            }
            prop_assert_eq!(&text.get().unwrap(), &model);
            prop_assert_eq!(text.to_string(), model.as_str());
            prop_assert_eq!(format!("{text:?}"), format!("{model:?}"));
            prop_assert!(*text == *model.as_str() && *text != "nothing of that kind");
            prop_assert_eq!(text.len(), model.len());
        }
        o.tx(|tx| text.release(tx)).unwrap();
        let census = o.census().unwrap();
        prop_assert_eq!(census.bytes, census.free_bytes);
    }

    #[test]
    fn rings(steps in steps(7, 40, 60)) {
        let o = object(Ring::<u64, 21>::new());
        let ring = o.base();
        let mut model = VecDeque::new();
        let push = |model: &mut VecDeque<u64>, value| {
            let lost = if model.len() == 21 { model.pop_front() } else { None };
            model.push_back(value);
            lost
        };
        for (kind, index, value, how) in steps {
            match kind {
                0 | 1 => {
                    let lost = run!(how, o, ring, push_back / push_back_in(value));
                    prop_assert_eq!(lost, push(&mut model, value));
                }
                2 => prop_assert_eq!(run!(how, o, ring, pop_front / pop_front_in()), model.pop_front()),
                3 => {
                    run!(how, o, ring, extend / extend_in((0..index).map(|i| i * value)));
                    for i in 0..index {
                        push(&mut model, i * value);
                    }
                }
                4 => {
                    prop_assert_eq!(ring.contains(&value).unwrap(), model.contains(&value));
                    prop_assert_eq!(ring.get(index).unwrap(), model.get(at(index)).copied());
                }
                5 => {
                    prop_assert_eq!(ring.front().unwrap(), model.front().copied());
                    prop_assert_eq!(ring.back().unwrap(), model.back().copied());
                }
                _ => {
                    run!(how, o, ring, clear / clear_in());
                    model.clear();
                }
            }
            prop_assert_eq!(all(ring.into_iter()), model.iter().copied().collect::<std::vec::Vec<_>>());
            prop_assert_eq!(all(ring.iter().rev()), model.iter().rev().copied().collect::<std::vec::Vec<_>>());
            prop_assert_eq!(format!("{ring:?}"), format!("{model:?}"));
            prop_assert_eq!((ring.len(), ring.is_empty()), (model.len() as u64, model.is_empty()));
        }
    }

    #[test]
    fn lists(steps in steps(15, 12, 60)) {
        #[derive(Invariant)]
        #[repr(C)]
        struct Lists {
            list: List<u64>,
            other: List<u64>,
        }
        let o = object(Lists { list: List::new(), other: List::new() });
        let list = &o.list;
        let mut model = VecDeque::new();
        for (kind, index, value, how) in steps {
            let place = list.places().nth(at(index)).map(Result::unwrap);
            let here = place.map(|_| at(index));
            match (kind, place) {
                (0, _) => {
                    run!(how, o, list, push_front / push_front_in(value));
                    let place = list.front_place().unwrap().unwrap();
                    prop_assert_eq!(list.get_at(place).unwrap(), Some(value));
                    model.push_front(value);
                }
                (1, _) => {
                    run!(how, o, list, push_back / push_back_in(value));
                    let place = list.back_place().unwrap().unwrap();
                    prop_assert_eq!(list.get_at(place).unwrap(), Some(value));
                    model.push_back(value);
                }
                (2, _) => prop_assert_eq!(run!(how, o, list, pop_front / pop_front_in()), model.pop_front()),
                (3, _) => prop_assert_eq!(run!(how, o, list, pop_back / pop_back_in()), model.pop_back()),
                (4, _) => {
                    run!(how, o, list, extend / extend_in([value, index, value]));
                    model.extend([value, index, value]);
                }
                (5, _) => {
                    run!(how, o, list, retain / retain_in(|element| element % 3 != value % 3));
                    model.retain(|element| element % 3 != value % 3);
                }
                (6, _) => {
                    run!(how, o, o.other, extend / extend_in((0..index).map(|i| i + value)));
                    run!(how, o, list, append / append_in(&o.other));
                    run!(how, o, list, append / append_in(list));
                    prop_assert!(o.other.is_empty() && o.other.front().unwrap().is_none());
                    model.extend((0..index).map(|i| i + value));
                }
                (7, Some(place)) => {
                    let before = core::mem::replace(&mut model[at(index)], value);
                    prop_assert_eq!(run!(how, o, list, set_at / set_at_in(place, value)), Some(before));
                }
                (8 | 9, Some(place)) => {
                    prop_assert_eq!(run!(how, o, list, remove_at / remove_at_in(place)), model.remove(at(index)));
                    // The node's first word links the free list now: nobody beside it knows it any more.
                    prop_assert_eq!(list.get_at(place).unwrap(), None);
                    prop_assert_eq!(run!(how, o, list, remove_at / remove_at_in(place)), None);
                }
                (10, Some(place)) => {
                    run!(how, o, list, insert_before / insert_before_in(place, value)).unwrap();
                    model.insert(here.unwrap(), value);
                    prop_assert_eq!(list.get_at(place).unwrap(), model.get(at(index) + 1).copied());
                }
                (11, Some(place)) => {
                    run!(how, o, list, insert_after / insert_after_in(place, value)).unwrap();
                    model.insert(here.unwrap() + 1, value);
                }
                (12, _) => {
                    prop_assert_eq!(list.contains(&value).unwrap(), model.contains(&value));
                    prop_assert_eq!(list.front().unwrap(), model.front().copied());
                    prop_assert_eq!(list.back().unwrap(), model.back().copied());
                }
                (13, _) if value < 200 => {
                    run!(how, o, list, clear / clear_in());
                    model.clear();
                }
                _ => {}
            }
            prop_assert_eq!(all(list.into_iter()), model.iter().copied().collect::<std::vec::Vec<_>>());
            prop_assert_eq!(all(list.iter().rev()), model.iter().rev().copied().collect::<std::vec::Vec<_>>());
            let (mut ours, mut theirs) = (list.iter(), model.iter());
            for turn in 0..model.len() + 2 {
                let (a, b) = if (turn as u64 + value).is_multiple_of(3) {
                    (ours.next(), theirs.next())
                } else {
                    (ours.next_back(), theirs.next_back())
                };
                prop_assert_eq!(a.map(Result::unwrap), b.copied());
            }
            prop_assert_eq!(format!("{list:?}"), format!("{model:?}"));
            prop_assert_eq!(list.len(), model.len() as u64);
        }
        list.clear().unwrap();
        let census = o.census().unwrap();
        prop_assert_eq!(census.bytes, census.free_bytes);
    }
}

/// What all maps have.
macro_rules! map_step {
    ($kind:expr, $key:expr, $value:expr, $how:expr, $o:expr, $map:expr, $other:expr, $model:expr) => {{
        let (key, value, how, o, map) = ($key, $value, $how, $o, $map);
        match $kind {
            0 | 1 => {
                prop_assert_eq!(run!(how, o, map, insert / insert_in(key, value)), $model.insert(key, value))
            }
            2 => prop_assert_eq!(run!(how, o, map, remove / remove_in(&key)), $model.remove(&key)),
            3 => prop_assert_eq!(
                run!(how, o, map, remove_entry / remove_entry_in(&key)),
                $model.remove_entry(&key)
            ),
            4 => {
                let change = |before: Option<u64>| match (before, value % 4) {
                    (_, 0) | (None, 1) => None,
                    (Some(before), _) => Some(before + value),
                    (None, _) => Some(value),
                };
                let after = change($model.get(&key).copied());
                match after {
                    Some(value) => $model.insert(key, value),
                    None => $model.remove(&key),
                };
                prop_assert_eq!(run!(how, o, map, update / update_in(key, change)), after);
            }
            5 => {
                let got = run!(how, o, map, get_or_insert_with / get_or_insert_with_in(key, || value));
                prop_assert_eq!(got, *$model.entry(key).or_insert(value));
                let mut got =
                    if how == 0 { map.entry(key + 1) } else { map.entry(key + 2) }.or_insert(value).unwrap();
                let other = if how == 0 { key + 1 } else { key + 2 };
                prop_assert_eq!(got, *$model.entry(other).or_insert(value));
                got = o
                    .tx(|tx| {
                        map.entry_in(tx, other).and_modify(|n| *n += 1).and_modify(|n| *n *= 2).or_insert(7)
                    })
                    .unwrap();
                prop_assert_eq!(got, *$model.entry(other).and_modify(|n| *n = (*n + 1) * 2).or_insert(7));
                got = map.entry(value).and_modify(|n| *n += 1).or_default().unwrap();
                prop_assert_eq!(got, *$model.entry(value).and_modify(|n| *n += 1).or_default());
            }
            6 => {
                let entries = (0..value % 40).map(|i| (key + i, value + i));
                run!(how, o, map, extend / extend_in(entries.clone()));
                $model.extend(entries);
            }
            7 => {
                let keep = |key: &u64, now: &mut u64| {
                    *now += value % 2 * (key % 3);
                    key % 4 != value % 4
                };
                run!(how, o, map, retain / retain_in(keep));
                $model.retain(keep);
            }
            8 => {
                let entries = (0..value % 20).map(|i| (key + 2 * i, value + i));
                run!(how, o, $other, extend / extend_in(entries.clone()));
                run!(how, o, map, append / append_in($other));
                run!(how, o, map, append / append_in(map));
                prop_assert!($other.is_empty() && $other.iter().next().is_none());
                $model.extend(entries);
            }
            _ if value < 200 => {
                run!(how, o, map, clear / clear_in());
                $model.clear();
            }
            _ => prop_assert_eq!(map.contains_key(&key).unwrap(), $model.contains_key(&key)),
        }
        prop_assert_eq!(map.get(&key).unwrap(), $model.get(&key).copied());
        prop_assert_eq!(map.len(), $model.len() as u64);
    }};
}

/// What maps in order have.
macro_rules! ordered_step {
    ($kind:expr, $key:expr, $value:expr, $how:expr, $o:expr, $map:expr, $other:expr, $model:expr) => {{
        let (key, value, how, o, map) = ($key, $value, $how, $o, $map);
        match $kind {
            0 => prop_assert_eq!(run!(how, o, map, pop_first / pop_first_in()), $model.pop_first()),
            1 => prop_assert_eq!(run!(how, o, map, pop_last / pop_last_in()), $model.pop_last()),
            2 => {
                let upper = $model.split_off(&key);
                run!(how, o, map, split_off / split_off_in(&key, $other));
                prop_assert!(all($other.into_iter()).into_iter().eq(upper));
                $other.clear().unwrap();
            }
            3 => {
                let (from, to) = (key.min(value), key.max(value));
                let expected: std::vec::Vec<_> = $model.range(from..=to).map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(&all(map.range(from..=to)), &expected);
                prop_assert!(all(map.range(from..=to).rev()).iter().eq(expected.iter().rev()));
                prop_assert_eq!(map.range(to..from).next(), None);
                // From both ends in turn.
                let (mut ours, mut theirs) = (map.range(from..), $model.range(from..));
                for turn in 0..$model.len() + 2 {
                    let (a, b) = if (turn as u64 + value) % 3 == 0 {
                        (ours.next(), theirs.next())
                    } else {
                        (ours.next_back(), theirs.next_back())
                    };
                    prop_assert_eq!(a.map(Result::unwrap), b.map(|(k, v)| (*k, *v)));
                }
            }
            _ => {
                let pair = |entry: (&u64, &u64)| (*entry.0, *entry.1);
                prop_assert_eq!(map.first_key_value().unwrap(), $model.first_key_value().map(pair));
                prop_assert_eq!(map.last_key_value().unwrap(), $model.last_key_value().map(pair));
                prop_assert!(all(map.keys()).iter().eq($model.keys()));
                prop_assert!(all(map.values()).iter().eq($model.values()));
                prop_assert!(all(map.keys().rev()).iter().eq($model.keys().rev()));
                prop_assert!(all(map.values().rev()).iter().eq($model.values().rev()));
                prop_assert_eq!(format!("{map:?}"), format!("{:?}", $model));
            }
        }
    }};
}

fn is_empty_of_blocks<T: Invariant>(o: &Object<T>) -> bool {
    let census = o.census().unwrap();
    census.bytes == census.free_bytes
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn hash_maps(steps in steps(10, 120, 80)) {
        let o = object([HashMap::<u64, u64>::new(), HashMap::new()]);
        let [map, other] = o.base();
        let mut model = Ordered::new();
        for (kind, key, value, how) in steps {
            map_step!(kind, key, value, how, o, map, other, model);
            let sorted = |mut list: std::vec::Vec<u64>| {
                list.sort_unstable();
                list
            };
            prop_assert!(sorted(all(map.keys())).iter().eq(model.keys()));
            prop_assert_eq!(sorted(all(map.values())), sorted(model.values().copied().collect()));
        }
        let mut drained = map.drain().unwrap();
        drained.sort_unstable();
        prop_assert!(drained.into_iter().eq(model));
        prop_assert!(map.is_empty() && map.into_iter().next().is_none());
        other.clear().unwrap();
        prop_assert!(is_empty_of_blocks(&o));
    }

    #[test]
    fn ordered_maps(steps in steps(15, 400, 120)) {
        let o = object([BTreeMap::<u64, u64>::new(), BTreeMap::new()]);
        let [map, other] = o.base();
        let mut model = Ordered::new();
        for (kind, key, value, how) in steps {
            match kind.checked_sub(10) {
                None => map_step!(kind, key, value, how, o, map, other, model),
                Some(kind) => ordered_step!(kind, key, value, how, o, map, other, model),
            }
            prop_assert!(all(map.into_iter()).into_iter().eq(model.iter().map(|(k, v)| (*k, *v))));
        }
        map.clear().unwrap();
        other.clear().unwrap();
        prop_assert!(is_empty_of_blocks(&o));
    }

    #[test]
    fn trees(steps in steps(15, 60, 60)) {
        let o = object([RbTree::<u64, u64>::new(), RbTree::new()]);
        let [map, other] = o.base();
        let mut model = Ordered::new();
        for (kind, key, value, how) in steps {
            match kind.checked_sub(10) {
                None => map_step!(kind, key, value, how, o, map, other, model),
                Some(kind) => ordered_step!(kind, key, value, how, o, map, other, model),
            }
            map.check().unwrap();
            prop_assert!(all(map.into_iter()).into_iter().eq(model.iter().map(|(k, v)| (*k, *v))));
        }
        map.clear().unwrap();
        other.clear().unwrap();
        prop_assert!(is_empty_of_blocks(&o));
    }

    #[test]
    fn sets(steps in steps(14, 60, 60)) {
        #[derive(Invariant)]
        #[repr(C)]
        struct Sets {
            hash: [HashSet<u64>; 2],
            tree: [BTreeSet<u64>; 2],
        }
        let o = object(Sets {
            hash: [HashSet::new(), HashSet::new()],
            tree: [BTreeSet::new(), BTreeSet::new()],
        });
        let (hash, tree) = (&o.hash[0], &o.tree[0]);
        let mut model = std::collections::BTreeSet::new();
        for (kind, key, value, how) in steps {
            let more = (0..value % 9).map(|i| key + i * 5);
            match kind {
                0..=2 => {
                    let new = model.insert(key);
                    prop_assert_eq!(run!(how, o, hash, insert / insert_in(key)), new);
                    prop_assert_eq!(run!(how, o, tree, insert / insert_in(key)), new);
                }
                3 => {
                    let there = model.remove(&key);
                    prop_assert_eq!(run!(how, o, hash, remove / remove_in(&key)), there);
                    prop_assert_eq!(run!(how, o, tree, remove / remove_in(&key)), there);
                }
                4 | 5 => {
                    run!(how, o, hash, extend / extend_in(more.clone()));
                    run!(how, o, tree, extend / extend_in(more.clone()));
                    model.extend(more);
                }
                6 => {
                    run!(how, o, hash, retain / retain_in(|key| key % 4 != value % 4));
                    run!(how, o, tree, retain / retain_in(|key| key % 4 != value % 4));
                    model.retain(|key| key % 4 != value % 4);
                }
                7 => {
                    run!(how, o, o.hash[1], extend / extend_in(more.clone()));
                    run!(how, o, o.tree[1], extend / extend_in(more.clone()));
                    run!(how, o, hash, append / append_in(&o.hash[1]));
                    run!(how, o, tree, append / append_in(&o.tree[1]));
                    prop_assert!(o.hash[1].is_empty() && o.tree[1].is_empty());
                    model.extend(more);
                }
                8 => prop_assert_eq!(run!(how, o, tree, pop_first / pop_first_in()), model.pop_first()),
                9 => prop_assert_eq!(run!(how, o, tree, pop_last / pop_last_in()), model.pop_last()),
                10 => {
                    run!(how, o, tree, split_off / split_off_in(&key, &o.tree[1]));
                    prop_assert!(all(o.tree[1].iter()).into_iter().eq(model.split_off(&key)));
                    o.tree[1].clear().unwrap();
                }
                11 => {
                    o.hash[1].extend(more.clone()).unwrap();
                    o.tree[1].extend(more.clone()).unwrap();
                    let other: std::collections::BTreeSet<u64> = more.collect();
                    prop_assert!(all(tree.intersection(&o.tree[1])).iter().eq(model.intersection(&other)));
                    prop_assert!(all(tree.difference(&o.tree[1]).rev()).iter().eq(model.difference(&other).collect::<std::vec::Vec<_>>().into_iter().rev()));
                    prop_assert_eq!(tree.is_subset(&o.tree[1]).unwrap(), model.is_subset(&other));
                    prop_assert_eq!(tree.is_superset(&o.tree[1]).unwrap(), model.is_superset(&other));
                    prop_assert_eq!(tree.is_disjoint(&o.tree[1]).unwrap(), model.is_disjoint(&other));
                    prop_assert_eq!(hash.is_subset(&o.hash[1]).unwrap(), all(hash.iter()).iter().all(|key| other.contains(key)));
                    o.hash[1].clear().unwrap();
                    o.tree[1].clear().unwrap();
                }
                12 => {
                    let (from, to) = (key.min(value), key.max(value));
                    prop_assert!(all(tree.range(from..to)).iter().eq(model.range(from..to)));
                    prop_assert!(all(tree.range(from..to).rev()).iter().eq(model.range(from..to).rev()));
                    prop_assert_eq!(tree.first().unwrap(), model.first().copied());
                    prop_assert_eq!(tree.last().unwrap(), model.last().copied());
                }
                _ => {
                    run!(how, o, hash, clear / clear_in());
                    run!(how, o, tree, clear / clear_in());
                    model.clear();
                }
            }
            if (8..=10).contains(&kind) {
                hash.retain(|key| model.contains(key)).unwrap();
            }
            prop_assert_eq!(tree.contains(&key).unwrap(), model.contains(&key));
            prop_assert_eq!(hash.contains(&key).unwrap(), model.contains(&key));
            prop_assert_eq!((hash.len(), tree.len(), tree.is_empty()), (model.len() as u64, model.len() as u64, model.is_empty()));
            prop_assert!(all(tree.into_iter()).iter().eq(&model));
            let mut found = all(hash.into_iter());
            found.sort_unstable();
            prop_assert!(found.iter().eq(&model));
            prop_assert_eq!(format!("{tree:?}"), format!("{model:?}"));
        }
        let mut drained = hash.drain().unwrap();
        drained.sort_unstable();
        prop_assert!(drained.into_iter().eq(model));
        prop_assert!(hash.is_empty());
        tree.clear().unwrap();
        prop_assert!(is_empty_of_blocks(&o));
    }
}
