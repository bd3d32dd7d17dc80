//! Power failures: every memory that one can leave is recovered and compared with what was acknowledged.
//!
//! The store's stores, flushes and fences go into the pool's simulator (`pmem::sim`). After each operation there is a mark: a memory left
//! after mark k must hold the pairs after k operations, or k + 1 if the failure was inside the next one. Recovery is cut off, too. Mutants –
//! the same run without a flush, a fence or a store – show that the check would notice.

#![allow(clippy::unwrap_used, reason = "tests")]

use kv::{Options, Store};
use libtwz::prelude::ObjectId;
use libtwz::simulate;
use pmem::Pmem;
use pmem::sim::{Config, Crash, Sim, explore, mutants};
use std::collections::BTreeMap;

/// The simulator's copy of the objects, as `libtwz`'s own crash tests have it.
#[allow(dead_code, reason = "these tests know less of the objects, and record from the start")]
#[path = "../../../libtwz/tests/crash/world.rs"]
mod world;

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// One operation on a store and on the model of it.
fn operate(step: u64, store: Option<&Store>, model: &mut Pairs) {
    let mut key = vec![b'k'; usize::try_from(step % 5).unwrap() + 1];
    let mut size = [10, 40, 0, 100, 20, 70][usize::try_from(step % 6).unwrap()];
    let stays = step % 5 == 4; // something that is never deleted
    if stays {
        (key, size) = (step.to_le_bytes().to_vec(), 150);
    }
    let value = vec![u8::try_from(step % 251).unwrap() + 1; size];
    if step % 4 == 3 && !stays {
        if let Some(store) = store {
            store.delete(&key).unwrap();
        }
        model.remove(&key);
    } else {
        if let Some(store) = store {
            store.put(&key, &value).unwrap();
        }
        model.insert(key, value);
    }
}

fn model_after(operations: u64) -> Pairs {
    let mut model = Pairs::new();
    (0..operations).for_each(|step| operate(step, None, &mut model));
    model
}

/// Opens what a failure left and compares; then uses it, since a wrong allocator shows only then.
fn check(id: ObjectId, operations: u64) -> Result<(), String> {
    let model = model_after(operations);
    let said = |error: kv::Error| error.to_string();
    let store = Store::open(id).map_err(said)?;
    let mut found = Pairs::new();
    let result = store.scan(|value| {
        found.insert(value.key()?, value.to_vec()?);
        Ok(())
    });
    let compared = result.map_err(said).and_then(|_| {
        for (key, value) in &model {
            if store.read(key).map_err(said)?.as_ref() != Some(value) {
                return Err(format!("a wrong value for a key of {} bytes", key.len()));
            }
        }
        found.remove(&b"new"[..]); // of a check that was cut off
        if found != model {
            return Err(format!("{} pairs instead of {}", found.len(), model.len()));
        }
        store.put(b"new", &[1; 64]).map_err(said)?;
        for (key, value) in &model {
            if store.read(key).map_err(said)?.as_ref() != Some(value) {
                return Err(format!("a put changed the value for a key of {} bytes", key.len()));
            }
        }
        Ok(())
    });
    std::mem::forget(store); // its close is not what is tested here
    compared
}

/// How much to explore: `TWZ_CRASH_EFFORT=10` takes minutes, the default seconds.
fn effort() -> u64 {
    std::env::var("TWZ_CRASH_EFFORT").ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// Flushes and fences: dropped or moved, they make the mutants. Most stores are the index's, which may be lost anyway.
fn is_ordering(event: &pmem::sim::Event) -> bool {
    matches!(event, pmem::sim::Event::Flush(_) | pmem::sim::Event::Fence)
}

#[test]
fn what_was_acknowledged_survives() {
    let (_one, world) = world::begin();
    let options = Options { data_bytes: 64 << 10, index_segments: 2, ..Options::default() };
    // All of the store's making goes into the simulator, too.
    let id = world.on(|| {
        let store = Store::create(&options).unwrap();
        let id = store.id();
        // A large block, freed: small records do not fit its class, so the run begins with making another object.
        store.put(b"large", &[9; 64_000]).unwrap();
        store.delete(b"large").unwrap();
        store.close().unwrap();
        world.sim.fence();
        world.record();
        let mut store = Store::open(id).unwrap();
        for step in 0..9 {
            world.mark(step);
            operate(step, Some(&store), &mut Pairs::new());
            if step == 4 {
                store.close().unwrap();
                store = Store::open(id).unwrap();
            }
        }
        assert!(store.stats().unwrap().data_objects > 1, "the run grows past one object");
        store.close().unwrap();
        id
    });
    let (trace, _) = world.take();
    println!("{} events", trace.len());
    let accept = &mut |_: &Sim, crash: Crash| {
        world.load();
        simulate::reboot();
        let first = world.on(|| check(id, crash.mark));
        if crash.at_mark || first.is_ok() {
            return first;
        }
        world.load();
        simulate::reboot();
        world.on(|| check(id, crash.mark + 1)).map_err(|second| {
            format!("neither before ({}) nor after ({second}) the operation", first.unwrap_err())
        })
    };
    let effort = effort();
    let samples = effort;
    let config = Config { exhaustive: 2 * effort, samples, depth: 1, track_reads: false, seed: 1, from: 0 };
    let mut report =
        explore(&world.sim, &trace, &config, accept).unwrap_or_else(|failure| panic!("{failure}"));
    let nested =
        Config { exhaustive: 2, samples: 1, depth: 2, from: trace.len().saturating_sub(3), ..config };
    report.add(&explore(&world.sim, &trace, &nested, accept).unwrap_or_else(|failure| panic!("{failure}")));
    let (mut killed, mut made) = (0, 0);
    let mut wrong: Vec<_> =
        mutants(&trace, |event| is_ordering(&trace[event])).into_iter().filter(|m| !m.equivalent).collect();
    let stride = (wrong.len() / (24 * usize::try_from(effort).unwrap())).max(1);
    for mutant in wrong.iter_mut().step_by(stride) {
        mutant.trace.truncate(mutant.event + 120);
        let near = Config { exhaustive: 4, samples: 4, from: mutant.event.saturating_sub(2), ..config };
        made += 1;
        killed += usize::from(explore(&world.sim, &mutant.trace, &near, accept).is_err());
    }
    println!(
        "{} events, {} points, {} states, {} recovered and checked, {} after a cut-off recovery; {killed} of {made} mutants killed",
        trace.len(),
        report.points,
        report.states,
        report.checked,
        report.nested_states
    );
    assert!(report.states > 300 && report.nested_states > 0, "explored too little");
    assert!(killed >= 3, "the check notices too little: {killed} of {made}");
}
