//! Maps that own their keys and values.

use crate::scenario::{How, expect, scenario, text};
use crate::world::begin;
use libtwz::collections::String as PString;
use libtwz::collections::owned::{BTreeMap, HashMap};
use libtwz::prelude::*;

#[derive(Default, Invariant)]
#[repr(C)]
struct Maps {
    hash: HashMap<PString, PString>,
    tree: BTreeMap<PString, PString>,
}

type Model = [std::collections::BTreeMap<String, String>; 2];

/// Steps before the recorded ones.
const BEFORE: u64 = 6;
const STEPS: u64 = 14;

/// New keys, longer values, keys that begin alike (layers come and go), one whose block is not logged, removals, all at once.
fn step(o: &Object<Maps>, [hash, tree]: &mut Model, step: u64) {
    let long = |end: &str| format!("a long beginning{end}");
    let huge = "k".repeat(520);
    match step {
        0..=2 => {
            o.hash.insert(&format!("key {step}"), "a text").unwrap();
            hash.insert(format!("key {step}"), "a text".into());
        }
        3 | 4 => {
            o.tree.insert(&long(&step.to_string()), "a text").unwrap();
            tree.insert(long(&step.to_string()), "a text".into());
        }
        5 => {
            // Blocks on the free lists, of what comes later.
            o.tree.insert(&long("free"), "a text").unwrap();
            o.tree.remove(&long("free")).unwrap();
            o.hash.insert("free", "a text that is longer").unwrap();
            o.hash.remove("free").unwrap();
        }
        6 => {
            o.hash.insert("new", "a text").unwrap();
            hash.insert("new".into(), "a text".into());
        }
        7 => {
            o.hash.insert("key 1", "a text that is longer").unwrap();
            hash.insert("key 1".into(), "a text that is longer".into());
        }
        8 => {
            o.tree.insert("another", "").unwrap();
            tree.insert("another".into(), String::new());
        }
        9 => assert_eq!(o.hash.remove("key 2").unwrap(), hash.remove("key 2")),
        10 => {
            o.tx(|tx| o.tree.insert_default_in(tx, &huge)?.set_in(tx, "x")).unwrap();
            tree.insert(huge, "x".into());
        }
        11 => assert_eq!(o.tree.remove(&long("3")).unwrap(), tree.remove(&long("3"))),
        12 => {
            // The last of its layer, after an undone one.
            let undone = o.tx(|tx| o.hash.clear_in(tx).and(Err::<(), _>(Error::Aborted)));
            assert_eq!(undone, Err(Error::Aborted));
            assert_eq!(o.tree.remove_key(&long("4")).unwrap(), tree.remove(&long("4")).is_some());
        }
        _ => {
            o.tx(|tx| o.hash.clear_in(tx).and(o.tree.clear_in(tx))).unwrap();
            hash.clear();
            tree.clear();
        }
    }
}

pub(crate) fn owned_maps_survive(how: &mut How<'_>) {
    let (_one, world) = begin();
    // What the models are after each step, and how much memory is in use, from a run before the recorded one.
    let scratch = ObjectBuilder::new().build(Maps::default()).unwrap();
    let (mut models, mut used) = (vec![Model::default()], vec![0]);
    for number in 0..STEPS {
        let mut model = models.last().cloned().unwrap_or_default();
        step(&scratch, &mut model, number);
        models.push(model);
        let census = scratch.census().unwrap();
        used.push(census.bytes - census.free_bytes);
    }
    let o = ObjectBuilder::new().build(Maps::default()).unwrap();
    let id = o.id();
    let run = |number: u64| step(&o, &mut models[at(number)].clone(), number);
    (0..BEFORE).for_each(run);
    libtwz::tx::checkpoint(o.window()).unwrap(); // a short log is recovered faster, a hundred thousand times
    scenario(
        "owned maps",
        &[o.window()],
        &world,
        &mut |number| {
            run(BEFORE + number);
            if number == 3 {
                libtwz::tx::checkpoint(o.window()).unwrap(); // from here on, what stands in place must be whole without the log
            }
            BEFORE + number + 1 < STEPS
        },
        &|k| {
            let o = text(Object::<Maps>::open(id))?;
            let after = at(BEFORE + k).min(models.len() - 1);
            let [hash, tree] = &models[after];
            let mut found: Vec<(String, String)> = text(o.hash.iter().collect())?;
            found.sort_unstable();
            expect("hash map", found, hash.clone().into_iter().collect())?;
            let found: Vec<(String, String)> = text(o.tree.iter().collect())?;
            expect("ordered map", found, tree.clone().into_iter().collect())?;
            let census = text(o.census())?;
            expect("bytes in use", census.bytes - census.free_bytes, used[after])
        },
        how,
    );
}

fn at(number: u64) -> usize {
    usize::try_from(number).unwrap()
}
