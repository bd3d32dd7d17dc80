//! One damaged pool: opened, used, checked, repaired. Shared by the tests and the fuzz targets.

use pmem::sim::Sim;
use pool::hostile::{Damage, damage};
use pool::{ObjectSpec, Pool, fsck};
use std::collections::HashMap;
use twz_abi::ObjectId;
use twz_abi::object::META_OFFSET;

const MIB: u64 = 1 << 20;
const PAGE: usize = 4096;

/// A pool with something of everything, and what its objects hold.
pub(crate) struct Specimen {
    sim: Sim,
    contents: HashMap<ObjectId, HashMap<u64, Vec<u8>>>,
}

impl Specimen {
    /// Makes the pool: small objects, a tree with shared leaves, names, roots, ties, a deleted object that is tied.
    pub(crate) fn new() -> Self {
        let sim = Sim::new(16 * MIB);
        let contents = {
            let pool = Pool::format(&sim, 16 * MIB, PAGE as u64).expect("a new pool");
            let make = |number: u8, ties: &[ObjectId]| {
                let spec = ObjectSpec { nonce: Some([number; 16]), ties, ..ObjectSpec::default() };
                pool.create_object(&spec).expect("room for an object")
            };
            let plain: Vec<ObjectId> = (0..5).map(|number| make(number, &[])).collect();
            for (number, &id) in plain.iter().enumerate() {
                let object = pool.open_object(id).expect("just made");
                let text = format!("object {number}");
                object.write(0x1000, text.as_bytes()).expect("room");
                object.write(META_OFFSET, text.as_bytes()).expect("room");
            }
            let tree = pool.open_object(plain[0]).expect("just made");
            for page in (0..2000u64).step_by(173) {
                tree.write(page * PAGE as u64, &page.to_le_bytes()).expect("room");
            }
            let copy = pool.copy_object(plain[0]).expect("room");
            let object = pool.open_object(copy).expect("just made");
            object.write(173 * PAGE as u64, b"copied and changed").expect("room");
            let tied = make(9, &plain[1..3]);
            pool.name_set("a", plain[1]).expect("room");
            pool.name_set(&"a long name ".repeat(20), tied).expect("room");
            pool.root_set("root", 7).expect("room");
            drop((tree, object));
            pool.delete_object(tied).expect("it exists");
            let ids = pool.object_ids();
            ids.into_iter().map(|id| (id, pages(&pool, id))).collect()
        };
        Self { sim, contents }
    }

    /// Damages the pool as `bytes` say, and panics if it is then handled wrongly. Puts it back.
    pub(crate) fn try_damage(&self, bytes: &[u8]) {
        self.sim.start_recording();
        let done = damage(&self.sim, bytes);
        let damaged = self.sim.take_trace();
        for step in [Self::open_and_use, Self::check_only, Self::repair] {
            self.sim.start_recording();
            step(self, &done);
            let trace = self.sim.take_trace();
            self.sim.rewind(&trace);
        }
        self.sim.rewind(&damaged);
    }

    fn open_and_use(&self, done: &Damage) {
        let Ok(pool) = Pool::load(&self.sim) else { return };
        self.compare(&pool, done, false);
        let used = pool.usage();
        assert!(used.used <= used.size, "{used:?}");
        let _ = pool.create_object(&ObjectSpec { size: MIB, ..ObjectSpec::default() });
        for id in pool.object_ids() {
            if let Ok(object) = pool.open_object(id) {
                let _ = object.write(0x1000, b"written after the damage");
            }
            let _ = pool.copy_object(id);
            let _ = pool.delete_object(id);
        }
        let _ = (pool.names(), pool.roots(), pool.segments());
    }

    fn check_only(&self, _: &Damage) {
        let report = fsck(&&self.sim, false, &mut |_, _| {});
        assert!(self.sim.take_trace().is_empty(), "a check stores nothing");
        self.sim.start_recording();
        let opens = Pool::load(&self.sim).is_ok();
        if let Ok(report) = report {
            assert!(opens || !report.clean, "clean, but does not open");
        }
    }

    fn repair(&self, done: &Damage) {
        let Ok(report) = fsck(&&self.sim, true, &mut |_, _| {}) else { return };
        assert!(report.clean, "not repaired: {:#?}", report.problems);
        let pool = Pool::load(&self.sim).expect("a repaired pool opens");
        self.compare(&pool, done, true);
        let again = fsck(&&self.sim, true, &mut |_, _| {}).expect("repaired");
        assert!(again.problems.is_empty(), "repaired again: {:#?}", again.problems);
    }

    /// Every object that can be read holds what it held, or zeros where a repair cut something out.
    fn compare(&self, pool: &Pool<&Sim>, done: &Damage, repaired: bool) {
        for id in pool.object_ids() {
            let found = pages(pool, id);
            if done.sealed {
                continue;
            }
            let before = self.contents.get(&id).expect("no object appears from nowhere");
            for (page, bytes) in &found {
                assert!(before.get(page) == Some(bytes), "object {id}, page {page}: not what was written");
            }
            assert!(repaired || found.len() == before.len(), "object {id} lost pages without a word");
        }
    }
}

/// The first pages of each piece of an object.
fn pages(pool: &Pool<&Sim>, id: ObjectId) -> HashMap<u64, Vec<u8>> {
    let mut found = HashMap::new();
    let Ok(object) = pool.open_object(id) else { return found };
    for extent in object.extents().unwrap_or_default().iter().take(64) {
        for page in 0..(extent.len / PAGE as u64).min(16) {
            let offset = extent.object_offset + page * PAGE as u64;
            let mut bytes = vec![0; PAGE];
            if object.read(offset, &mut bytes).is_ok() {
                found.insert(offset / PAGE as u64, bytes);
            }
        }
    }
    found
}
