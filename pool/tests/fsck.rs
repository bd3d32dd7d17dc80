//! What `fsck` says and mends, one kind of damage at a time.

#![allow(clippy::unwrap_used, reason = "tests")]

use pmem::Pmem;
use pmem::sim::Sim;
use pool::{Error, ObjectSpec, Pool, fsck};
use twz_abi::ObjectId;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// The first block of records: block 2 of segment 0, which holds objects.
const FIRST_OBJECT: u64 = 2 * PAGE;

fn quiet(_: u64, _: u64) {}

fn make() -> (Sim, Vec<ObjectId>) {
    let sim = Sim::new(16 * MIB);
    let pool = Pool::format(&sim, 16 * MIB, PAGE).unwrap();
    let ids: Vec<ObjectId> = (0..3)
        .map(|_| pool.create_object(&ObjectSpec { size: 8192, ..ObjectSpec::default() }).unwrap())
        .collect();
    pool.name_set("name", ids[1]).unwrap();
    drop(pool);
    (sim, ids)
}

#[test]
fn a_good_pool_is_clean() {
    let (sim, _) = make();
    let report = fsck(&&sim, false, &mut quiet).unwrap();
    assert!(report.clean && report.problems.is_empty(), "{report:?}");
    assert_eq!((report.objects, report.names), (3, 1));
    assert_eq!(report.used, Pool::load(&sim).unwrap().usage().used);
}

#[test]
fn a_damaged_superblock_is_copied_from_the_other() {
    let (sim, _) = make();
    for at in [0, 256 * PAGE] {
        sim.store(at + 32, 12345);
        let report = fsck(&&sim, false, &mut quiet).unwrap();
        assert_eq!((report.problems.len(), report.clean), (1, false));
        assert!(fsck(&&sim, true, &mut quiet).unwrap().clean);
        assert!(fsck(&&sim, false, &mut quiet).unwrap().clean);
    }
    sim.store(32, 1);
    sim.store(256 * PAGE + 32, 1);
    assert!(matches!(fsck(&&sim, true, &mut quiet), Err(Error::Damaged { .. })));
}

#[test]
fn only_the_damaged_record_is_lost_and_it_is_named() {
    let (sim, ids) = make();
    // The map of the second object: its check fails.
    sim.store(FIRST_OBJECT + 256 + 80, 99);
    assert!(matches!(Pool::load(&sim), Err(Error::Damaged { .. })));
    let report = fsck(&&sim, false, &mut quiet).unwrap();
    assert!(!report.clean);
    assert_eq!(report.problems[0].object, Some(ids[1]));
    assert!(fsck(&&sim, true, &mut quiet).unwrap().clean);
    let pool = Pool::load(&sim).unwrap();
    assert!(pool.contains(ids[0]) && !pool.contains(ids[1]) && pool.contains(ids[2]));
    assert_eq!(pool.names(), [], "the name of the lost object is gone too");
}

#[test]
fn damaged_state_bits_are_restored() {
    let (sim, ids) = make();
    sim.store(FIRST_OBJECT, sim.load(FIRST_OBJECT) ^ 0x10);
    assert!(Pool::load(&sim).is_err());
    assert!(fsck(&&sim, true, &mut quiet).unwrap().clean);
    assert!(ids.iter().all(|&id| Pool::load(&sim).unwrap().contains(id)));
}

#[test]
fn a_damaged_block_table_is_guessed_from_the_records() {
    let (sim, ids) = make();
    (0..8).for_each(|word| sim.store(PAGE + word * 8, 0));
    assert!(Pool::load(&sim).is_err());
    assert!(fsck(&&sim, true, &mut quiet).unwrap().clean);
    let pool = Pool::load(&sim).unwrap();
    assert!(ids.iter().all(|&id| pool.contains(id)));
    assert_eq!(pool.name_get("name"), Some(ids[1]));
}

/// A chain of several metadata segments, cut: what was behind the cut is found again.
#[test]
fn a_cut_chain_is_mended() {
    let sim = Sim::new(64 * MIB);
    let pool = Pool::format(&sim, 64 * MIB, PAGE).unwrap();
    let ids: Vec<ObjectId> =
        (0..20_000).map(|_| pool.create_object(&ObjectSpec::default()).unwrap()).collect();
    assert!(pool.usage().metadata >= 6 * MIB);
    drop(pool);
    sim.store(PAGE, 77);
    assert!(Pool::load(&sim).is_err());
    assert!(fsck(&&sim, true, &mut quiet).unwrap().clean);
    let pool = Pool::load(&sim).unwrap();
    assert!(ids.iter().all(|&id| pool.contains(id)));
}

/// A bad word in a map costs a page, not the object.
#[test]
fn a_damaged_leaf_costs_a_page() {
    let sim = Sim::new(16 * MIB);
    let pool = Pool::format(&sim, 16 * MIB, PAGE).unwrap();
    let id = pool.create_object(&ObjectSpec::default()).unwrap();
    let object = pool.open_object(id).unwrap();
    for page in 0..20u64 {
        object.write(page * 3 * PAGE, &page.to_le_bytes()).unwrap();
    }
    drop(object);
    drop(pool);
    let clean = fsck(&&sim, false, &mut quiet).unwrap();
    assert!(clean.clean);
    // Find a word of the leaf: of all words of the first segment, some make exactly one page's difference.
    let mut found = false;
    for block in 3..6 {
        let at = block * PAGE + 6 * 8;
        let before = sim.load(at);
        sim.store(at, before ^ 1 << 50);
        let report = fsck(&&sim, false, &mut quiet).unwrap();
        if report.problems.len() == 1 && report.problems[0].object == Some(id) {
            assert!(fsck(&&sim, true, &mut quiet).unwrap().clean);
            let pool = Pool::load(&sim).unwrap();
            let object = pool.open_object(id).unwrap();
            let lost = (0..20u64).filter(|page| {
                let mut word = [0; 8];
                object.read(page * 3 * PAGE, &mut word).unwrap();
                word != page.to_le_bytes()
            });
            assert!(lost.count() <= 1);
            found = true;
            break;
        }
        sim.store(at, before);
    }
    assert!(found);
}
