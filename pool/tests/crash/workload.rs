//! Random sequences of operations on a small pool, recorded.

use crate::model::{Looks, Probes, Snapshot};
use pmem::Pmem;
use pmem::sim::{Event, Sim, Site};
use pool::{Access, CopyRange, ObjectRef, ObjectSpec, Pool};
use twz_abi::ObjectId;
use twz_abi::object::META_OFFSET;

/// A sequence that ran.
pub(crate) struct Recorded {
    pub(crate) sim: Sim,
    pub(crate) trace: Vec<Event>,
    pub(crate) sites: Vec<Site>,
    pub(crate) operations: Vec<String>,
    /// Before the first operation, and after each.
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) probes: Probes,
}

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// Operations at the end of a sequence that use freed slots again.
const REUSES: u64 = 10;
const POOL: u64 = 16 * MIB;
const NAMES: [&str; 3] = ["a", "b", "a longer name, which reaches into the second line of its record"];

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Runs `count` random operations on a new pool whose free space is full of old bytes.
pub(crate) fn record(seed: u64, count: usize, looks: Looks) -> Recorded {
    let sim = Sim::new(POOL);
    for at in (2 * MIB..2 * MIB + 128 * PAGE).step_by(8) {
        sim.store(at, 0xdead_dead_dead_dead);
    }
    let pool = Pool::format(&sim, POOL, PAGE).unwrap();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let probes =
        Probes { offsets: vec![0, 8 * PAGE, 8 * PAGE + 64, 9 * PAGE, 600 * PAGE, META_OFFSET], looks };
    let mut recorded = Recorded {
        sim: Sim::new(1),
        trace: Vec::new(),
        sites: Vec::new(),
        operations: Vec::new(),
        snapshots: Vec::new(),
        probes,
    };
    let mut next = 0;
    let mut used = None;
    // Some life before the recording, so that freed slots and pages are used again.
    for _ in 0..random.below(12) {
        operate(&pool, &mut random, &mut next, &mut used, &recorded.probes);
    }
    sim.start_recording();
    recorded.snapshots.push(Snapshot::take(&pool, &recorded.probes).unwrap());
    for number in 0..count as u64 {
        sim.mark(number * 2);
        let what = operate(&pool, &mut random, &mut next, &mut used, &recorded.probes);
        sim.mark(number * 2 + 1);
        if used.is_none() {
            // What the running pool counts as used is what the next open finds: nothing leaked.
            assert_eq!(
                Pool::load(&sim).unwrap().fingerprint(),
                pool.fingerprint(),
                "sequence {seed}: {what}"
            );
        }
        recorded.operations.push(what);
        recorded.snapshots.push(Snapshot::take(&pool, &recorded.probes).unwrap());
    }
    // At the end, deleted IDs and freed slots and pages are used again, or a missing step of the freeing would show nowhere.
    for number in count as u64..count as u64 + REUSES {
        sim.mark(number * 2);
        recorded.operations.push(if number % 2 == 0 { create_again(&pool) } else { reuse(&pool, number) });
        sim.mark(number * 2 + 1);
        recorded.snapshots.push(Snapshot::take(&pool, &recorded.probes).unwrap());
    }
    drop(used);
    drop(pool);
    recorded.trace = sim.take_trace();
    recorded.sites = sim.take_sites();
    sim.rewind(&recorded.trace);
    recorded.sim = sim;
    recorded
}

/// Creates the first object of the sequence that does not exist any more.
fn create_again(pool: &Pool<&Sim>) -> String {
    let made = (1..).find_map(|number: u64| {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        pool.create_object(&ObjectSpec { nonce: Some(nonce), ..ObjectSpec::default() }).ok()
    });
    format!("create again: {made:?}")
}

/// Copies an object that has pages, so that the record's map is not empty, and ties the copy to the object.
fn reuse(pool: &Pool<&Sim>, number: u64) -> String {
    let mut ids = pool.object_ids();
    ids.retain(|id| pool.stat_object(*id).is_ok_and(|stat| !stat.doomed));
    ids.sort_by_key(|id| (pool.open_object(*id).map_or(0, |object| object.extents().unwrap().len()), *id));
    let Some(&source) = ids.last() else { return "nothing to copy".to_owned() };
    let mut nonce = [2; 16];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    let ties = [source];
    let spec = ObjectSpec { nonce: Some(nonce), copy_of: Some(source), ties: &ties, ..ObjectSpec::default() };
    format!("copy {source}: {:?}", pool.create_object(&spec))
}

/// Gives an object pages in a range where it has some, perhaps, and others not.
fn reserve(pool: &Pool<&Sim>, random: &mut Random, id: ObjectId) -> String {
    let (from, pages) = (PAGE * random.below(10), 1 + random.below(5));
    let result = pool.open_object(id).and_then(|object| pool.reserve_range(&object, from, pages * PAGE));
    format!("reserve {pages} pages at {from:#x} of {id}: {result:?}")
}

/// Creates an object from ranges of two others and pages of its own, perhaps one that only its tie keeps.
fn compose(pool: &Pool<&Sim>, random: &mut Random, number: u64, sources: [ObjectId; 2]) -> String {
    let mut nonce = [3; 16];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    let range = |source, source_offset, target_offset| {
        let len = 2 * PAGE;
        CopyRange { source, source_offset, target_offset, len }
    };
    // Where the probes look, in part one behind the other, and far away.
    let ranges = [
        range(sources[0], 8 * PAGE, 8 * PAGE),
        range(sources[1], PAGE * random.below(9), 600 * PAGE),
        range(sources[0], 600 * PAGE, 0),
    ];
    let spec = ObjectSpec {
        nonce: Some(nonce),
        size: PAGE * 5 * random.below(3),
        ranges: &ranges[..random.below(4) as usize],
        ties: &sources[..1],
        doomed: random.below(3) == 0,
        ..ObjectSpec::default()
    };
    format!("compose {spec:?}: {:?}", pool.create_object(&spec))
}

/// Makes an object stay, and in two cases of three gives it a name in the same step.
fn stay(pool: &Pool<&Sim>, random: &mut Random, id: ObjectId) -> String {
    match random.below(3) {
        0 => format!("keep {id}: {:?}", pool.keep_object(id)),
        _ => format!("new name of {id}: {:?}", pool.name_new(NAMES[random.below(3) as usize], id)),
    }
}

/// One random operation; refused ones (no such object, ...) are operations too: they change nothing.
fn operate<'a>(
    pool: &Pool<&'a Sim>,
    random: &mut Random,
    next: &mut u64,
    used: &mut Option<ObjectRef<&'a Sim>>,
    probes: &Probes,
) -> String {
    if used.take().is_some() {
        return "end the use of a deleted object".to_owned();
    }
    let mut ids = pool.object_ids();
    ids.retain(|id| pool.contains(*id));
    ids.sort_unstable();
    let pick = |random: &mut Random| ids.get(random.below(ids.len().max(1) as u64) as usize).copied();
    let kind = if ids.len() > 5 { 7 + random.below(2) } else { random.below(23) };
    let (first, second) = (pick(random), pick(random));
    let (Some(first), Some(second), 2..) = (first, second, kind) else {
        *next += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&next.to_le_bytes());
        let ties: Vec<ObjectId> = first.into_iter().filter(|_| kind == 1).collect();
        let size = if random.below(3) == 0 { PAGE * random.below(3) } else { 0 };
        let spec = ObjectSpec { nonce: Some(nonce), ties: &ties, size, ..ObjectSpec::default() };
        let made = pool.create_object(&spec);
        return format!("create {size} bytes, ties {ties:?}: {made:?}");
    };
    let offset = probes.offsets[random.below(probes.offsets.len() as u64) as usize];
    match kind {
        2..=5 => {
            let object = pool.open_object(first).unwrap();
            if object.lookup(offset).unwrap().is_none_or(|extent| extent.shared) {
                // An operation of its own, or the write's fence would hide a missing one of the touch.
                let result = object.touch(offset, 8, Access::Write);
                return format!("touch {first} at {offset:#x} to write: {result:?}");
            }
            // One word: its store is the whole of the change that a probe sees.
            let result = object.write(offset, &random.below(u64::MAX).to_le_bytes());
            format!("write {first} at {offset:#x}: {result:?}")
        }
        6 => {
            let result = pool.open_object(first).and_then(|object| object.touch(offset, PAGE, Access::Write));
            format!("touch {first} at {offset:#x}: {result:?}")
        }
        7 => format!("delete {first}: {:?}", pool.delete_object(first)),
        8 if pool.ties(first) == (Vec::new(), Vec::new()) && used.is_none() => {
            *used = pool.open_object(first).ok();
            format!("delete {first} in use: {:?}", pool.delete_object(first))
        }
        8 => format!("delete {second}: {:?}", pool.delete_object(second)),
        9 => {
            *next += 1;
            let mut nonce = [1; 16];
            nonce[..8].copy_from_slice(&next.to_le_bytes());
            let spec = ObjectSpec { nonce: Some(nonce), copy_of: Some(first), ..ObjectSpec::default() };
            format!("copy {first}: {:?}", pool.create_object(&spec))
        }
        10 => {
            let (from, to) = (8 * PAGE, 600 * PAGE * random.below(2));
            let result = pool.open_object(first).and_then(|source| {
                let target = pool.open_object(second)?;
                pool.copy_range(&source, from, &target, to, 2 * PAGE)
            });
            format!("copy range {from:#x} of {first} to {to:#x} of {second}: {result:?}")
        }
        11 => format!("tie {first} to {second}: {:?}", pool.tie(first, second)),
        12 => format!("untie {first} from {second}: {:?}", pool.untie(first, second)),
        13 | 14 => {
            let name = NAMES[random.below(3) as usize];
            format!("name {first}: {:?}", pool.name_set(name, first))
        }
        15 => format!("unname: {:?}", pool.name_remove(NAMES[random.below(3) as usize])),
        16 => reserve(pool, random, first),
        17 | 18 => {
            *next += 1;
            compose(pool, random, *next, [first, second])
        }
        19..=21 => {
            // Rather one that was deleted, and is there by its tie.
            let doomed = ids.iter().copied().find(|id| pool.stat_object(*id).is_ok_and(|stat| stat.doomed));
            stay(pool, random, doomed.unwrap_or(first))
        }
        _ => format!("root: {:?}", pool.root_set("root", random.below(u64::MAX).into())),
    }
}
