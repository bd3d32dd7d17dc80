//! What operations cost in fences and lines of memory, counted exactly; `bench/libtwz/costs.json` must say the same, and the bench shows it.
//!
//! Whether a batch goes through the cache or around it is the processor's matter and moves no line from one to the other kind of memory: both are
//! counted, and the file says what goes around when everything of the log does.
//!
//! `TWZ_WRITE_COSTS=1` writes that file anew.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::collections::owned;
use libtwz::collections::{BTreeMap, HashMap, List, RbTree, Vec as PVec};
use libtwz::prelude::*;
use libtwz::simulate::{self, Event};
use libtwz::sys::Durability;
use libtwz::sys::hosted::{MemoryStore, use_store};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

static FENCES: AtomicU64 = AtomicU64::new(0);
static AROUND: AtomicU64 = AtomicU64::new(0);
static FLUSHED: AtomicU64 = AtomicU64::new(0);

#[derive(Invariant)]
#[repr(C)]
struct Root {
    words: [PCell<u64>; 2048],
    owner: InvPtr<[u64; 6]>,
    hash: HashMap<u64, [u64; 2]>,
    tree: BTreeMap<u64, [u64; 2]>,
    rb: RbTree<u64, [u64; 2]>,
    own_hash: owned::HashMap<u64, [u64; 2]>,
    own_tree: owned::BTreeMap<u64, [u64; 2]>,
    list: List<u64>,
    vec: PVec<u64>,
}

fn lines(address: usize, bytes: usize) -> u64 {
    ((address + bytes).div_ceil(64) - address / 64) as u64
}

/// Averages over `count` runs of an operation: fences, lines around the cache, lines flushed. Checkpoints of the log are among them.
fn cost(count: u64, mut operation: impl FnMut(u64)) -> [f64; 3] {
    let counters = [&FENCES, &AROUND, &FLUSHED];
    let before = counters.map(|counter| counter.load(Ordering::Relaxed));
    (0..count).for_each(&mut operation);
    let mut average = [0.0; 3];
    for (i, counter) in counters.iter().enumerate() {
        #[allow(clippy::cast_precision_loss, reason = "small counts")]
        let each = (counter.load(Ordering::Relaxed) - before[i]) as f64 / count as f64;
        average[i] = (each * 100.0).round() / 100.0;
    }
    average
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn costs_are_what_the_bench_shows() {
    assert!(simulate::record_with(|event, _| {
        match event {
            Event::Fence => FENCES.fetch_add(1, Ordering::Relaxed),
            Event::Around { address, bytes } => AROUND.fetch_add(lines(address, bytes), Ordering::Relaxed),
            Event::Flush { address, bytes } => FLUSHED.fetch_add(lines(address, bytes), Ordering::Relaxed),
            Event::Stored { .. } => 0,
        };
    }));
    use_store(Arc::new(MemoryStore::with_durability(Durability::Power).unwrap())).unwrap();
    simulate::set_by_cache(256);
    let by_cache = costs();
    simulate::set_by_cache(0);
    let costs = costs();
    for ((name, by_cache), (_, around)) in by_cache.iter().zip(&costs) {
        assert!(is_near(by_cache[0], around[0]), "{name}: {by_cache:?} by the cache, {around:?} around it");
        assert!(
            is_near(by_cache[1] + by_cache[2], around[1] + around[2]),
            "{name}: {by_cache:?} by the cache, {around:?} around it"
        );
    }
    // What the contract promises, whatever the file says: one fence for puts, two for records; the rest is checkpoints.
    for (name, [fences, _, _]) in &costs {
        let most =
            if name.contains("put") || name.contains("map") || name.contains("push") { 1.3 } else { 2.3 };
        assert!(*fences < most || name.contains("alloc") || name.contains("red"), "{name}: {fences} fences");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/libtwz/costs.json");
    let text: Vec<String> = costs
        .iter()
        .map(|(name, [fences, around, flushed])| {
            format!("  {{\"name\": \"{name}\", \"fences\": {fences}, \"log_lines\": {around}, \"flushed_lines\": {flushed}}}")
        })
        .collect();
    let text = format!("[\n{}\n]\n", text.join(",\n"));
    if std::env::var_os("TWZ_WRITE_COSTS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    print!("{text}");
    let numbers = |text: &str| {
        text.split(|c: char| !c.is_ascii_digit() && c != '.')
            .filter_map(|word| word.parse::<f64>().ok())
            .collect::<Vec<_>>()
    };
    let (counted, written) = (numbers(&text), numbers(&std::fs::read_to_string(path).unwrap()));
    assert_eq!(counted.len(), written.len(), "TWZ_WRITE_COSTS=1 writes bench/libtwz/costs.json anew");
    for (counted, written) in counted.iter().zip(&written) {
        assert!(is_near(*counted, *written), "{counted} counted, {written} in costs.json");
    }
}

/// The maps' keys collide differently in each run (the hash has a seed): their averages may move a little.
fn is_near(counted: f64, written: f64) -> bool {
    (counted - written).abs() <= 0.05 + 0.04 * written
}

/// What each operation costs, on average.
fn costs() -> Vec<(&'static str, [f64; 3])> {
    let o = ObjectBuilder::new()
        .build(Root {
            words: [const { PCell::new(0) }; 2048],
            owner: InvPtr::null(),
            hash: HashMap::new(),
            tree: BTreeMap::new(),
            rb: RbTree::new(),
            own_hash: owned::HashMap::new(),
            own_tree: owned::BTreeMap::new(),
            list: List::new(),
            vec: PVec::new(),
        })
        .unwrap();
    // The log has grown to what much used objects have.
    (0..3000).for_each(|i| o.tx(|tx| tx.put(&o.words[0], i)).unwrap());
    let first = |words: usize, i: u64| {
        o.tx(|tx| {
            o.words.iter().step_by(8).take(words).try_for_each(|cell| tx.record(cell))?;
            o.words.iter().step_by(8).take(words).try_for_each(|cell| tx.set_recorded(cell, i))
        })
        .unwrap();
    };
    let mut state = 88_172_645_463_325_252;
    let mut costs = vec![
        ("TX of 1 x 8 B, put", cost(2000, |i| o.tx(|tx| tx.put(&o.words[0], i)).unwrap())),
        ("TX of 1 x 8 B, set", cost(2000, |i| o.tx(|tx| tx.set(&o.words[0], i)).unwrap())),
        (
            "TX of 16 x 8 B, put",
            cost(2000, |i| {
                o.tx(|tx| o.words.iter().step_by(8).take(16).try_for_each(|cell| tx.put(cell, i))).unwrap();
            }),
        ),
        ("TX of 16 x 8 B, record-first", cost(2000, |i| first(16, i))),
        ("TX of 256 x 8 B, record-first", cost(500, |i| first(256, i))),
        (
            "transactional alloc, 48 B",
            cost(2000, |i| o.tx(|tx| tx.point(&o.owner, Some(tx.alloc([i; 6])?))).unwrap()),
        ),
        ("vector, push", cost(2000, |i| o.vec.push(i).unwrap())),
        ("list, push", cost(2000, |i| o.list.push_back(i).unwrap())),
    ];
    let mut key = || random(&mut state) | 1;
    costs.push((
        "hash map, insert",
        cost(20_000, |i| assert!(o.hash.insert(key(), [i; 2]).unwrap().is_none())),
    ));
    costs.push((
        "ordered map, insert",
        cost(20_000, |i| assert!(o.tree.insert(key(), [i; 2]).unwrap().is_none())),
    ));
    costs.push((
        "red-black tree, insert",
        cost(5000, |i| assert!(o.rb.insert(key(), [i; 2]).unwrap().is_none())),
    ));
    costs.push((
        "owned hash map, insert",
        cost(5000, |i| assert!(o.own_hash.insert(&key(), [i; 2]).unwrap().is_none())),
    ));
    costs.push((
        "owned ordered map, insert",
        cost(5000, |i| assert!(o.own_tree.insert(&key(), [i; 2]).unwrap().is_none())),
    ));
    costs
}
