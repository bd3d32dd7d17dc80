//! Changes of the collections that move several elements: all of them or none.

use crate::scenario::{How, expect, scenario, text};
use crate::world::begin;
use libtwz::collections::{
    BTreeMap, BTreeSet, HashMap, List, RbTree, Ring, String as PString, Vec as PVec, owned,
};
use libtwz::prelude::*;
use std::collections::BTreeMap as Ordered;
use std::collections::VecDeque;

#[derive(Invariant)]
#[repr(C)]
struct Sequences {
    vec: PVec<u64>,
    other: PVec<u64>,
    list: List<u64>,
    others: List<u64>,
    ring: Ring<u64, 5>,
    text: PString,
}

/// What the sequences are to be.
#[derive(Debug, Default, PartialEq)]
struct Model {
    vec: Vec<u64>,
    list: VecDeque<u64>,
    ring: VecDeque<u64>,
    text: String,
}

const LONG: &str = "a text that is longer than what goes to a new block by way of the log: ";

impl Model {
    /// What the first `k` steps make.
    fn after(k: u64) -> Self {
        let mut model = Self::default();
        (0..k).for_each(|step| model.step(step));
        model
    }

    fn step(&mut self, step: u64) {
        match step {
            0 => self.vec.extend(0..12),
            1 => self.vec.insert(3, 77),
            2 => drop(self.vec.drain(1..6)),
            3 => self.vec.retain(|element| element % 2 == 0),
            4 => self.vec.extend([5, 6, 7]),
            5 => self.list.extend([1, 2]),
            6 => self.list.retain(|element| element % 2 == 0),
            7 => self.list.extend([8, 9]),
            8 => drop(self.list.remove(1)),
            9 => {
                self.ring.extend(0..7);
                self.ring.drain(..2);
            }
            10 => self.text.push_str("héllo"),
            11 => self.text.insert_str(1, "ey, h"),
            12 => self.text.push_str(&LONG.repeat(8)),
            13 => self.text.truncate(6),
            14 => self.vec.sort_by_key(|element| element % 5),
            15 => self.vec.reverse(),
            16 => self.vec.retain_mut(|element| {
                *element += 1;
                *element != 6
            }),
            17 => self.vec.clear(),
            _ => {}
        }
    }
}

fn sequence_step(o: &Object<Sequences>, step: u64) -> Result<()> {
    match step {
        0 => o.vec.extend(0..12),
        1 => o.vec.insert(3, 77).map(drop),
        2 => o.vec.drain(1..6).map(drop),
        3 => o.vec.retain(|element| element % 2 == 0),
        4 => o.tx(|tx| {
            o.other.extend_in(tx, [5, 6, 7])?;
            o.vec.append_in(tx, &o.other)
        }),
        5 => o.list.extend([1, 2]),
        6 => o.list.retain(|element| element % 2 == 0),
        7 => o.tx(|tx| {
            o.others.extend_in(tx, [8, 9])?;
            o.list.append_in(tx, &o.others)
        }),
        8 => match o.list.places().nth(1) {
            Some(place) => o.list.remove_at(place?).map(drop),
            None => Ok(()),
        },
        9 => o.ring.extend(0..7),
        10 => o.text.push_str("héllo"),
        11 => o.text.insert_str(1, "ey, h").map(drop),
        12 => o.text.push_str(&LONG.repeat(8)),
        13 => o.text.truncate(6).map(drop),
        14 => o.vec.sort_by_key(|element| element % 5),
        15 => o.tx(|tx| {
            o.vec.split_off_in(tx, 2, &o.other)?;
            o.vec.append_in(tx, &o.other)?;
            o.vec.reverse_in(tx)
        }),
        16 => o.vec.retain_mut(|element| {
            *element += 1;
            *element != 6
        }),
        _ => o.vec.clear(),
    }
}

pub(crate) fn sequences_move_at_once(how: &mut How<'_>) {
    let (_one, world) = begin();
    let blank = Sequences {
        vec: PVec::new(),
        other: PVec::new(),
        list: List::new(),
        others: List::new(),
        ring: Ring::new(),
        text: PString::new(),
    };
    let o = ObjectBuilder::new().build(blank).unwrap();
    let id = o.id();
    scenario(
        "sequences that move",
        &[o.window()],
        &world,
        &mut |step| {
            sequence_step(&o, step).unwrap();
            if step % 5 == 4 {
                libtwz::tx::checkpoint(o.window()).unwrap();
            }
            step < 17
        },
        &|k| {
            let o = text(Object::<Sequences>::open(id))?;
            let found = Model {
                vec: text(o.vec.to_vec())?,
                list: text(o.list.iter().collect())?,
                ring: text(o.ring.iter().collect())?,
                text: text(o.text.get())?,
            };
            expect("sequences", found, Model::after(k))?;
            let back: VecDeque<u64> = text(o.list.iter().rev().collect())?;
            expect("list from behind", back.into_iter().rev().collect(), Model::after(k).list)?;
            expect("the others", (o.other.len(), o.others.len()), (0, 0))?;
            text(o.census()).map(drop)
        },
        how,
    );
}

#[derive(Invariant)]
#[repr(C)]
struct Maps {
    hash: [HashMap<u64, u64>; 2],
    tree: [BTreeMap<u64, u64>; 2],
    rb: [RbTree<u64, u64>; 2],
}

pub(crate) fn maps_move_at_once(how: &mut How<'_>) {
    let (_one, world) = begin();
    let maps = Maps {
        hash: [HashMap::new(), HashMap::new()],
        tree: [BTreeMap::new(), BTreeMap::new()],
        rb: [RbTree::new(), RbTree::new()],
    };
    let o = ObjectBuilder::new().build(maps).unwrap();
    let id = o.id();
    let entries = |from: u64| (from..from + 2).map(|key| (key * 7 % 31, key));
    for map in 0..2 {
        let from = map as u64 * 2;
        o.hash[map].extend(entries(from)).unwrap();
        o.tree[map].extend((from..from + 15).map(|key| (key, key))).unwrap();
        o.rb[map].extend(entries(from)).unwrap();
    }
    libtwz::tx::checkpoint(o.window()).unwrap();
    let model = |done: bool, of: &[(u64, u64)], both: &[(u64, u64)]| -> [Vec<(u64, u64)>; 2] {
        let (mut one, mut two): (Ordered<u64, u64>, Ordered<u64, u64>) =
            (of.iter().copied().collect(), both.iter().copied().collect());
        if done {
            one.append(&mut two);
        }
        [one, two].map(|map| map.into_iter().collect())
    };
    let few = [entries(0).collect::<Vec<_>>(), entries(2).collect()];
    let many = [0, 2].map(|from| (from..from + 15).map(|key| (key, key)).collect::<Vec<_>>());
    scenario(
        "maps that move",
        &[o.window()],
        &world,
        &mut |step| {
            match step {
                0 => o.hash[0].append(&o.hash[1]),
                1 => o.rb[0].append(&o.rb[1]),
                2 => o.tree[0].append(&o.tree[1]),
                _ => o.tree[0].split_off(&15, &o.tree[1]),
            }
            .unwrap();
            if step == 1 {
                libtwz::tx::checkpoint(o.window()).unwrap();
            }
            step < 3
        },
        &|k| {
            let o = text(Object::<Maps>::open(id))?;
            let mut hash: [Vec<(u64, u64)>; 2] =
                [text(o.hash[0].iter().collect())?, text(o.hash[1].iter().collect())?];
            hash.iter_mut().for_each(|map| map.sort_unstable());
            expect("hash maps", hash, model(k > 0, &few[0], &few[1]))?;
            for tree in &o.rb {
                text(tree.check())?;
            }
            let rb = [text(o.rb[0].iter().collect())?, text(o.rb[1].iter().collect())?];
            expect("trees", rb, model(k > 1, &few[0], &few[1]))?;
            let tree = [text(o.tree[0].iter().collect())?, text(o.tree[1].iter().collect())?];
            let mut expected = model(k > 2, &many[0], &many[1]);
            if k > 3 {
                expected[1] = expected[0].split_off(15);
            }
            expect("ordered maps", tree, expected)?;
            text(o.census()).map(drop)
        },
        how,
    );
}

#[derive(Default, Invariant)]
#[repr(C)]
struct Entries {
    numbers: HashMap<u32, u64>,
    list: List<u8>,
    rb: RbTree<u32, u8>,
    texts: owned::BTreeMap<PString, PString>,
    set: BTreeSet<u64>,
    names: owned::HashSet<PString>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct EntryModel {
    numbers: Ordered<u32, u64>,
    list: VecDeque<u8>,
    rb: Ordered<u32, u8>,
    texts: Ordered<String, String>,
    set: std::collections::BTreeSet<u64>,
    names: std::collections::BTreeSet<String>,
}

/// The same on both.
macro_rules! entry_step {
    ($on:expr, $step:expr, $text:expr, $name:expr $(, $unwrap:ident)?) => {{
        let (on, add) = ($on, |text: &mut String| text.push_str(&LONG.repeat(1 + $step / 6)));
        match $step {
            0 => drop(on.numbers.entry(1).or_insert(5)$(.$unwrap())?),
            1 => drop(on.numbers.entry(1).and_modify(|n| *n *= 2).or_default()$(.$unwrap())?),
            2 => drop(on.texts.entry($text("a")).or_insert("one".into())$(.$unwrap())?),
            3 => drop(on.texts.entry($text("a")).and_modify(add).or_default()$(.$unwrap())?),
            4 => drop(on.set.extend([3, 1, 2])$(.$unwrap())?),
            5 => drop(on.names.insert($name("x"))$(.$unwrap())?),
            6 => drop(on.numbers.retain(|_, n| { *n += 1; true })$(.$unwrap())?),
            7 => drop(on.texts.retain(|_, text| { add(text); true })$(.$unwrap())?),
            8 => drop(on.set.retain(|element| *element != 1)$(.$unwrap())?),
            9 => drop(on.list.push_back(3)$(.$unwrap())?),
            10 => drop(on.list.push_front(4)$(.$unwrap())?),
            11 => drop(on.rb.insert(5, 6)$(.$unwrap())?),
            12 => drop(on.rb.insert(4, 7)$(.$unwrap())?),
            _ => drop(on.names.remove("x")$(.$unwrap())?),
        }
    }};
}

/// Entries that are made or changed, sets, and what does not fill the words of a node or bucket.
pub(crate) fn entries_change_at_once(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(Entries::default()).unwrap();
    let id = o.id();
    let run = |o: &Entries, step: usize| entry_step!(o, step, |t| t, |n| n, unwrap);
    let mut models = vec![EntryModel::default()];
    for step in 0..14 {
        let mut next = models[step].clone();
        entry_step!(&mut next, step, |t: &str| t.to_owned(), |n: &str| n.to_owned());
        models.push(next);
    }
    scenario(
        "entries",
        &[o.window()],
        &world,
        &mut |step| {
            run(&o, usize::try_from(step).unwrap());
            if step == 4 {
                libtwz::tx::checkpoint(o.window()).unwrap();
            }
            step < 13
        },
        &|k| {
            let o = text(Object::<Entries>::open(id))?;
            let found = EntryModel {
                numbers: text(o.numbers.iter().collect())?,
                list: text(o.list.iter().collect())?,
                rb: text(o.rb.iter().collect())?,
                texts: text(o.texts.iter().collect())?,
                set: text(o.set.iter().collect())?,
                names: text(o.names.iter().collect())?,
            };
            let after = usize::try_from(k).unwrap().min(models.len() - 1);
            expect("entries", found, models[after].clone())?;
            text(o.census()).map(drop)
        },
        how,
    );
}

/// Leaves of an ordered map that become empty, inner nodes with them, until the root has one child; then new ones.
pub(crate) fn leaves_go_and_come(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(BTreeMap::<u64, u64>::new()).unwrap();
    let id = o.id();
    // Leaves of 8 and a last one; two levels of inner nodes.
    o.extend((0..150).map(|key| (key, key))).unwrap();
    let kept = |key: &u64| [0, 6, 7, 62, 63, 64, 71, 72, 149].contains(key);
    o.retain(|key, _| kept(key)).unwrap();
    libtwz::tx::checkpoint(o.window()).unwrap();
    let removed = [7, 62, 63, 149, 0, 6, 72, 64, 71];
    let model = |k: u64| {
        let mut model: Ordered<u64, u64> = (0..150).filter(kept).map(|key| (key, key)).collect();
        for step in 0..k {
            match removed.get(usize::try_from(step).unwrap()) {
                Some(key) => drop(model.remove(key)),
                None => drop(model.insert(step, step)),
            }
        }
        model.into_iter().collect::<Vec<_>>()
    };
    scenario(
        "leaves that go",
        &[o.window()],
        &world,
        &mut |step| {
            match removed.get(usize::try_from(step).unwrap()) {
                Some(key) => drop(o.remove(key).unwrap()),
                None => drop(o.insert(step, step).unwrap()),
            }
            if step == 4 {
                libtwz::tx::checkpoint(o.window()).unwrap();
            }
            step < 10
        },
        &|k| {
            let o = text(Object::<BTreeMap<u64, u64>>::open(id))?;
            expect("ordered map", text(o.iter().collect())?, model(k))?;
            let back: Vec<(u64, u64)> = text(o.iter().rev().collect())?;
            expect("from behind", back.into_iter().rev().collect(), model(k))?;
            for (key, value) in model(k) {
                expect("entry", text(o.get(&key))?, Some(value))?;
            }
            text(o.census()).map(drop)
        },
        how,
    );
}
