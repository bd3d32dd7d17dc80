//! Collections that outgrow their object while the power fails: what did not fit is in another object, whole or not at all, and no object
//! is left that nothing leads to.

use crate::scenario::{How, Result, expect, scenario, text};
use crate::world::{World, begin};
use libtwz::Window;
use libtwz::collections::{BTreeMap, HashMap, List, RbTree, Ring, String as PString, Vec as PVec};
use libtwz::names::{Directory, Entry, Namespace};
use libtwz::prelude::*;
use std::collections::VecDeque;
use std::rc::Rc;

#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
const META: usize = twz_abi::object::META_OFFSET as usize;

/// Takes all that is left in the arena of an object, without another being made.
fn fill(o: Window) {
    let (log, arena) = (word(o, META + 24), word(o, META + 32));
    let end = word(o, arena + 24).min(word(o, log + 16));
    let mut size = 512 << 20;
    while size >= 16 {
        let bump = word(o, arena + 8);
        if bump.next_multiple_of(size.min(4096)) + size <= end {
            Tx::run(o, |tx| tx.alloc_raw(o, size, 16)).unwrap();
        } else {
            size /= 2;
        }
    }
    // What alignment left over.
    let is_free = || (0..96).any(|class| word(o, arena + 64 + class * 8) != 0);
    while is_free() {
        Tx::run(o, |tx| tx.alloc_raw(o, 16, 16)).unwrap();
    }
    libtwz::tx::checkpoint(o).unwrap();
}

fn word(o: Window, at: usize) -> usize {
    usize::try_from(o.load(at)).unwrap()
}

/// Where an object goes on; NULL for one that is not full.
fn next_of(o: Window) -> ObjectId {
    let at = word(o, META + 32) + 32;
    ObjectId { lo: o.load(at), hi: o.load(at + 8) }
}

/// Runs `first` operations, fills the object, and runs the others while the power fails: the collection goes on in another object.
fn outgrow<T: Invariant>(
    name: &str,
    o: &Object<T>,
    world: &Rc<World>,
    [first, more]: [u64; 2],
    operate: impl Fn(u64),
    check: impl Fn(&Object<T>, u64) -> Result<(), String>,
    how: &mut How<'_>,
) {
    (0..first).for_each(&operate);
    fill(o.window());
    assert!(next_of(o.window()).is_null());
    let id = o.id();
    // All that is new happens in the first ones, and what is there is what mutants are told by.
    let is_mutant = matches!(how, How::Mutate(_));
    let more = if is_mutant { 2 } else { more };
    scenario(
        name,
        &[o.window()],
        world,
        &mut |step| {
            // One that is undone takes its object with it; the next one makes another.
            if step == 0 {
                let undone = o.tx(|tx| tx.alloc([7_u64; 4]).and(Err::<(), _>(Error::Aborted)));
                assert_eq!((undone, next_of(o.window())), (Err(Error::Aborted), ObjectId::NULL));
            }
            operate(first + step);
            if step + 1 == more {
                assert!(!next_of(o.window()).is_null(), "{name} has outgrown its object");
                libtwz::tx::checkpoint(o.window()).unwrap();
            }
            step + 1 < more
        },
        &|k| {
            let o = text(Object::<T>::open(id))?;
            check(&o, first + k)?;
            expect("objects that nothing leads to", world.stray(), vec![])?;
            if next_of(o.window()).is_null() || is_mutant {
                return Ok(());
            }
            // Also where the link was stored, and the other object is gone: it can go on.
            let undone = o.tx(|tx| tx.alloc([7_u64; 4]).and(Err::<(), _>(Error::Aborted)));
            expect("what goes on", undone, Err(Error::Aborted))?;
            check(&o, first + k)?;
            expect("objects that nothing leads to", world.stray(), vec![])
        },
        how,
    );
}

pub(crate) fn a_vector_outgrows_its_object(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(PVec::<u64>::new()).unwrap();
    outgrow(
        "vector outgrows",
        &o,
        &world,
        [7, 4],
        |step| o.push(step * 3).unwrap(),
        |o, k| expect("vector", text(o.iter().collect())?, (0..k).map(|i| i * 3).collect::<Vec<_>>()),
        how,
    );
}

pub(crate) fn a_text_outgrows_its_object(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(PString::new()).unwrap();
    outgrow(
        "string outgrows",
        &o,
        &world,
        [1, 4],
        |_| o.push_str("eleven char").unwrap(),
        |o, k| expect("text", text(o.get())?, "eleven char".repeat(usize::try_from(k).unwrap())),
        how,
    );
}

pub(crate) fn a_ring_outgrows_its_object(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(Ring::<u64, 11>::new()).unwrap();
    let model = |k: u64| {
        let mut model = VecDeque::new();
        for step in 0..k {
            if step % 5 == 4 {
                model.pop_front();
            }
            if model.len() == 11 {
                model.pop_front();
            }
            model.push_back(step);
        }
        Vec::from(model)
    };
    outgrow(
        "ring outgrows",
        &o,
        &world,
        [7, 10],
        |step| {
            o.tx(|tx| {
                if step % 5 == 4 {
                    o.pop_front_in(tx)?;
                }
                o.push_back_in(tx, step).map(drop)
            })
            .unwrap();
        },
        |o, k| expect("ring", text(o.iter().collect::<libtwz::Result<Vec<_>>>())?, model(k)),
        how,
    );
}

pub(crate) fn a_list_outgrows_its_object(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(List::<u64>::new()).unwrap();
    let model = |k: u64| {
        let mut model = VecDeque::new();
        for step in 0..k {
            match step % 3 {
                2 => drop(model.pop_front()),
                1 => model.push_front(step),
                _ => model.push_back(step),
            }
        }
        Vec::from(model)
    };
    outgrow(
        "list outgrows",
        &o,
        &world,
        [3, 6],
        |step| {
            match step % 3 {
                2 => o.pop_front().map(drop),
                1 => o.push_front(step),
                _ => o.push_back(step),
            }
            .unwrap();
        },
        |o, k| expect("list", text(o.iter().collect())?, model(k)),
        how,
    );
}

/// Pairs of a map after `k` steps: mostly new keys, now and then one goes.
fn pairs(k: u64) -> Vec<(u64, u64)> {
    let mut model = std::collections::BTreeMap::new();
    for step in 0..k {
        if is_removal(step) {
            model.remove(&key(step - 3));
        } else {
            model.insert(key(step), step);
        }
    }
    model.into_iter().collect()
}

fn is_removal(step: u64) -> bool {
    step % 7 == 6
}

fn key(step: u64) -> u64 {
    step * 7919 % 1009
}

pub(crate) fn a_hash_map_outgrows_its_object(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(HashMap::<u64, u64>::new()).unwrap();
    outgrow(
        "hash map outgrows",
        &o,
        &world,
        [20, 6], // the seventeenth entry, at step 22, makes the fifth bucket: whatever the seed, it needs another segment
        |step| {
            let result = if is_removal(step) { o.remove(&key(step - 3)) } else { o.insert(key(step), step) };
            result.unwrap();
        },
        |o, k| {
            let mut found: Vec<_> = text(o.iter().collect())?;
            found.sort_unstable();
            expect("hash map", found, pairs(k))
        },
        how,
    );
}

pub(crate) fn an_ordered_map_outgrows_its_object(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(BTreeMap::<u64, u64>::new()).unwrap();
    outgrow(
        "ordered map outgrows",
        &o,
        &world,
        [15, 10],
        |step| {
            let result = if is_removal(step) { o.remove(&key(step - 3)) } else { o.insert(key(step), step) };
            result.unwrap();
        },
        |o, k| expect("ordered map", text(o.iter().collect())?, pairs(k)),
        how,
    );
}

pub(crate) fn a_tree_outgrows_its_object(how: &mut How<'_>) {
    let (_one, world) = begin();
    let o = ObjectBuilder::new().build(RbTree::<u64, u64>::new()).unwrap();
    outgrow(
        "red-black tree outgrows",
        &o,
        &world,
        [5, 4],
        |step| {
            let result = if is_removal(step) { o.remove(&key(step - 3)) } else { o.insert(key(step), step) };
            result.unwrap();
        },
        |o, k| {
            text(o.check())?;
            expect("red-black tree", text(o.iter().collect())?, pairs(k))
        },
        how,
    );
}

pub(crate) fn names_outgrow_their_object(how: &mut How<'_>) {
    let (_one, world) = begin();
    let names = Namespace::create(Rights::READ).unwrap();
    let o = Object::<Directory>::open(names.id()).unwrap();
    let name = |step: u64| format!("/name{step}");
    let model = |k: u64| {
        let mut model = std::collections::BTreeMap::new();
        for step in 0..k {
            if step % 3 == 2 {
                model.remove(&name(step - 1)[1..]);
            } else {
                model.insert(
                    name(step)[1..].to_owned(),
                    Entry::Object(ObjectId::from_u128(77 + u128::from(step))),
                );
            }
        }
        model.into_iter().collect::<Vec<_>>()
    };
    outgrow(
        "names outgrow",
        &o,
        &world,
        [2, 4],
        |step| {
            if step % 3 == 2 {
                names.unbind(&name(step - 1)).map(drop)
            } else {
                names.bind(&name(step), ObjectId::from_u128(77 + u128::from(step)))
            }
            .unwrap();
        },
        |o, k| expect("names", text(Namespace::at(o.id()).list("/"))?, model(k)),
        how,
    );
}
