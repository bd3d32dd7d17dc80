//! What must hold over restarts of the machine: each round checks what the one before left, and leaves it again.
//!
//! A round ends with a transaction that is open and locks that are held: by itself, or, with `hold`, only when somebody cuts the power.

use libtwz::collections::{BTreeMap, HashMap};
use libtwz::names::Namespace;
use libtwz::prelude::*;
use libtwz::sync::{Mutex, RwLock};

#[derive(Invariant)]
#[repr(C)]
struct Root {
    rounds: PCell<u64>,
    unfinished: PCell<u64>,
    hash: HashMap<u64, u64>,
    ordered: BTreeMap<u64, u64>,
    lock: Mutex<PCell<u64>>,
    rwlock: RwLock<PCell<u64>>,
    other: InvPtr<PCell<u64>>,
}

fn new() -> Root {
    Root {
        rounds: PCell::new(0),
        unfinished: PCell::new(7),
        hash: HashMap::new(),
        ordered: BTreeMap::new(),
        lock: Mutex::new(PCell::new(0)),
        rwlock: RwLock::new(PCell::new(0)),
        other: InvPtr::null(),
    }
}

/// Keys that each round adds.
const KEYS: u64 = 100;

/// Runs round `round`, counted from 0; with `hold` it does not end by itself.
pub(crate) fn run(round: u64, hold: bool) -> Result<()> {
    let names = Namespace::root()?;
    let root = Object::<Root>::named("/libtest", new)?;

    // 1. All of every round before, and nothing unfinished.
    assert_eq!(root.rounds.get(), round, "rounds that were finished");
    assert_eq!(root.unfinished.get(), 7, "the open transaction of the last round was undone");
    assert_eq!((root.hash.len(), root.ordered.len()), (round * KEYS, round * KEYS));
    for key in 0..round * KEYS {
        assert_eq!((root.hash.get(&key)?, root.ordered.get(&key)?), (Some(key * 3), Some(key * 5)));
    }

    // 2. Locks that the last round held are free.
    let held = root.lock.try_lock()?;
    let written = root.rwlock.try_write()?;
    assert_eq!((held.get(), written.get()), (round, round));
    held.set_without_log(round + 1);
    written.set_without_log(round + 1);
    libtwz::persist::persist(core::ptr::from_ref(&*held).addr(), 8);
    libtwz::persist::persist(core::ptr::from_ref(&*written).addr(), 8);

    // 3. The pointer into another object still leads there; its name, too.
    match root.other.get()? {
        Some(other) => {
            assert_eq!(other.get(), round);
            assert_eq!(names.lookup("/libtest-other")?, GlobalPtr::to(other)?.id());
        }
        None => {
            let other = Object::<PCell<u64>>::named("/libtest-other", || PCell::new(0))?;
            root.tx(|tx| tx.point(&root.other, Some(other.base())))?;
        }
    }

    // 4. One round more.
    let other = root.other.resolve()?;
    root.tx(|tx| {
        for key in round * KEYS..(round + 1) * KEYS {
            root.hash.insert_in(tx, key, key * 3)?;
            root.ordered.insert_in(tx, key, key * 5)?;
        }
        tx.set(other, round + 1)?;
        tx.set(&root.rounds, round + 1)
    })?;

    // 5. The end, in the middle of things.
    let open = root.begin()?;
    open.set(&root.unfinished, 1000 + round)?;
    core::mem::forget((open, held, written));
    println!("libtest: round {round} done");
    if hold {
        loop {
            libtwz::thread::sleep(libtwz::time::Duration::from_secs(1));
        }
    }
    Ok(())
}
