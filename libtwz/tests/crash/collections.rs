//! The allocator and the collections.

use crate::scenario::{How, expect, scenario, text};
use crate::world::begin;
use libtwz::collections::{BTreeMap, HashMap, List, RbTree, Ring, String as PString, Vec as PVec};
use libtwz::prelude::*;

#[derive(Invariant)]
#[repr(C)]
struct Lists {
    list: List<u64>,
    vec: PVec<u64>,
}

pub(crate) fn nothing_leaks_and_lists_stay_whole(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(Lists { list: List::new(), vec: PVec::new() }).unwrap();
    let id = o.id();
    let model = |k: u64| -> Vec<u64> {
        let mut list = std::collections::VecDeque::new();
        for step in 0..k {
            if step % 4 == 3 {
                list.pop_front();
            } else {
                list.push_back(step);
            }
        }
        list.into()
    };
    scenario(
        "allocator, list, vector",
        &[o.window()],
        &world,
        &mut |step| {
            o.tx(|tx| {
                if step % 4 == 3 {
                    o.list.pop_front_in(tx).map(drop)
                } else {
                    o.list.push_back_in(tx, step)
                }?;
                o.vec.push_in(tx, step)
            })
            .unwrap();
            step < 11
        },
        &|k| {
            let o = text(Object::<Lists>::open(id))?;
            let list: Vec<u64> = text(o.list.iter().collect())?;
            expect("list", list.clone(), model(k))?;
            let vec: Vec<u64> = text(o.vec.iter().collect())?;
            expect("vector", vec, (0..k).collect())?;
            let census = text(o.census())?;
            // Nodes are 32 bytes; the vector has a segment of 64 and, past 8 elements, one of 128.
            let used = list.len() * 32
                + if k > 8 {
                    192
                } else if k > 0 {
                    64
                } else {
                    0
                };
            expect("bytes in use", census.bytes - census.free_bytes, used)
        },
        how,
    );
}

#[derive(Invariant)]
#[repr(C)]
struct Maps {
    hash: HashMap<u64, u64>,
    tree: BTreeMap<u64, u64>,
    rb: RbTree<u64, u64>,
}

pub(crate) fn maps_survive(how: &mut How<'_>) {
    let (_one, world) = begin();
    let maps = Maps { hash: HashMap::new(), tree: BTreeMap::new(), rb: RbTree::new() };
    let o = ObjectBuilder::new().build(maps).unwrap();
    let id = o.id();
    let key = |step: u64| step * 7919 % 101;
    let model = |k: u64, which: u64| -> Vec<(u64, u64)> {
        // Each step changes the three maps one after the other; only the step that is running may be between.
        let mut map = std::collections::BTreeMap::new();
        for step in 0..k {
            if step % 3 != which {
                continue;
            }
            if step % 12 >= 9 {
                map.remove(&key(step - 6));
            } else {
                map.insert(key(step), step);
            }
        }
        map.into_iter().collect()
    };
    // Enough before the recording that buckets and leaves split in it.
    for step in 0..45 {
        maps_step(&o, step, key);
    }
    libtwz::tx::checkpoint(o.window()).unwrap(); // a short log is recovered faster, a hundred thousand times
    scenario(
        "maps",
        &[o.window()],
        &world,
        &mut |step| {
            maps_step(&o, step + 45, key);
            if step == 4 {
                libtwz::tx::checkpoint(o.window()).unwrap(); // from here on, what stands in place must be whole without the log
            }
            step < 5
        },
        &|k| {
            let o = text(Object::<Maps>::open(id))?;
            let mut hash: Vec<(u64, u64)> = text(o.hash.iter().collect())?;
            hash.sort_unstable();
            expect("hash map", hash, model(k + 45, 0))?;
            expect("tree", text(o.tree.iter().collect())?, model(k + 45, 1))?;
            text(o.rb.check())?;
            expect("red-black tree", text(o.rb.iter().collect())?, model(k + 45, 2))
        },
        how,
    );
}

fn maps_step(o: &Object<Maps>, step: u64, key: impl Fn(u64) -> u64) {
    let remove = step % 12 >= 9;
    let victim = if remove { key(step - 6) } else { key(step) };
    match (step % 3, remove) {
        (0, false) => o.hash.insert(victim, step),
        (0, true) => o.hash.remove(&victim),
        (1, false) => o.tree.insert(victim, step),
        (1, true) => o.tree.remove(&victim),
        (_, false) => o.rb.insert(victim, step),
        (_, true) => o.rb.remove(&victim),
    }
    .unwrap();
}

/// A node's block may be of a list of free ones, which its first word links up to the commit: nodes are stored to before it.
pub(crate) fn nodes_are_used_again(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(RbTree::<u64, u64>::new()).unwrap();
    let id = o.id();
    for key in 0..6 {
        o.insert(key, key).unwrap();
    }
    for key in [1, 4, 2] {
        o.remove(&key).unwrap();
    }
    libtwz::tx::checkpoint(o.window()).unwrap();
    scenario(
        "nodes",
        &[o.window()],
        &world,
        &mut |step| {
            o.insert(10 + step, step).unwrap();
            step < 3
        },
        &|k| {
            let o = text(Object::<RbTree<u64, u64>>::open(id))?;
            text(o.check())?;
            let model =
                [0, 3, 5].map(|key| (key, key)).into_iter().chain((0..k).map(|step| (10 + step, step)));
            let found = text(o.iter().collect::<Result<Vec<_>>>())?;
            expect("the tree", &found, &model.collect())?;
            expect("entries", o.len(), found.len() as u64)?;
            let census = text(o.census())?;
            expect("bytes in use", census.bytes - census.free_bytes, found.len() * 48)
        },
        how,
    );
}

/// The log still tells of what was in the blocks of one map when another gets them for its buckets.
pub(crate) fn a_map_gets_the_blocks_of_another(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build([HashMap::<u64, u64>::new(), HashMap::new()]).unwrap();
    let id = o.id();
    let fill = |map: usize, keys: core::ops::Range<u64>| {
        keys.for_each(|key| assert_eq!(o[map].insert(key, key * 7 + map as u64).unwrap(), None));
    };
    // From 64 keys on there is one more segment, of which two buckets are used at once, and the next two from 72 on.
    fill(0, 0..60);
    fill(1, 0..60);
    libtwz::tx::checkpoint(o.window()).unwrap();
    fill(0, 60..96);
    o[0].clear().unwrap();
    fill(1, 60..63);
    scenario(
        "blocks of another map",
        &[o.window()],
        &world,
        &mut |step| {
            fill(1, 63 + step..64 + step);
            step < 12
        },
        &|k| {
            let o = text(Object::<[HashMap<u64, u64>; 2]>::open(id))?;
            expect("the emptied map", o[0].len(), 0)?;
            let mut found: Vec<(u64, u64)> = text(o[1].iter().collect())?;
            found.sort_unstable();
            expect("the other", found, (0..63 + k).map(|key| (key, key * 7 + 1)).collect())
        },
        how,
    );
}

#[derive(Invariant)]
#[repr(C)]
struct Blocks {
    slots: [InvPtr<[u64; 6]>; 3],
    done: PCell<u64>,
}

/// Blocks that are taken, filled at once, given back, and taken again.
pub(crate) fn blocks_are_used_again(how: &mut How<'_>) {
    let (_one, world) = begin();
    let blank = Blocks { slots: [const { InvPtr::null() }; 3], done: PCell::new(0) };
    let o = ObjectBuilder::new().build(blank).unwrap();
    let id = o.id();
    scenario(
        "blocks",
        &[o.window()],
        &world,
        &mut |step| {
            let slot = &o.slots[usize::try_from(step % 3).unwrap()];
            o.tx(|tx| {
                let new = tx.alloc([step + 1; 6])?;
                if let Some(old) = slot.get()? {
                    // SAFETY: allocated here in an earlier step; the pointer changes in this transaction.
                    unsafe { tx.free(old) }?;
                }
                tx.point(slot, Some(new))?;
                tx.put(&o.done, step + 1)
            })
            .unwrap();
            if step == 5 {
                // An aborted one takes a block of the free list, and fills it.
                let _ = o.tx(|tx| tx.alloc([77; 6]).and(Err::<(), _>(Error::Aborted)));
            }
            step < 9
        },
        &|k| {
            let o = text(Object::<Blocks>::open(id))?;
            expect("steps", o.done.get(), k)?;
            for (i, slot) in o.slots.iter().enumerate() {
                let last = (0..k).rev().find(|step| step % 3 == i as u64);
                expect("block", text(slot.get())?.copied(), last.map(|step| [step + 1; 6]))?;
            }
            let census = text(o.census())?;
            let used = usize::try_from(k.min(3)).unwrap() * 48;
            expect("bytes in use", census.bytes - census.free_bytes, used)
        },
        how,
    );
}

#[derive(Invariant)]
#[repr(C)]
struct Texts {
    text: PString,
    ring: Ring<u64, 3>,
}

pub(crate) fn strings_and_rings_stay_whole(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(Texts { text: PString::new(), ring: Ring::new() }).unwrap();
    let id = o.id();
    let word = |k: u64| "0123456789".repeat(usize::try_from(k * 7 % 5).unwrap());
    scenario(
        "string, ring",
        &[o.window()],
        &world,
        &mut |step| {
            o.tx(|tx| {
                o.text.set_in(tx, &word(step + 1))?;
                if step % 4 == 3 {
                    o.ring.pop_front_in(tx).map(drop)?;
                }
                o.ring.push_back_in(tx, step).map(drop)
            })
            .unwrap();
            if step == 5 {
                libtwz::tx::checkpoint(o.window()).unwrap();
            }
            step < 9
        },
        &|k| {
            let o = text(Object::<Texts>::open(id))?;
            expect("text", text(o.text.get())?, word(k))?;
            let mut model = std::collections::VecDeque::new();
            for step in 0..k {
                if step % 4 == 3 {
                    model.pop_front();
                }
                if model.len() == 3 {
                    model.pop_front();
                }
                model.push_back(step);
            }
            expect("ring", text(o.ring.iter().collect::<Result<Vec<_>>>())?, Vec::from(model))
        },
        how,
    );
}
