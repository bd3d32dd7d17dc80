//! References, their retargeting, graphs, export and import, growing.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use pmem::sim::{Config, Sim, explore};
use pool::{CreateOptions, Error, ObjectSpec, OpenOptions, Pool, Target, TransferError, grow};
use std::io::Cursor;
use twz_abi::object::{
    FotEntry, META_MAGIC, META_OFFSET, META_VERSION, ObjectMeta, fot_entry_offset, fot_flags,
};
use twz_abi::{ObjectId, Rights};
use zerocopy::{FromZeros, IntoBytes};

const MIB: u64 = 1 << 20;

fn make(sim: &Sim) -> Pool<&Sim> {
    Pool::format(sim, 16 * MIB, 4096).unwrap()
}

/// An object with this table, as `libtwz` would write it.
fn object(pool: &Pool<&Sim>, entries: &[FotEntry]) -> ObjectId {
    let id = pool.create_object(&ObjectSpec { rights: Rights::READ, ..ObjectSpec::default() }).unwrap();
    write_table(pool, id, entries);
    id
}

fn write_table(pool: &Pool<&Sim>, id: ObjectId, entries: &[FotEntry]) {
    let object = pool.open_object(id).unwrap();
    let mut meta = ObjectMeta::new_zeroed();
    (meta.magic, meta.version, meta.fot_len) = (META_MAGIC, META_VERSION, entries.len() as u32 + 1);
    object.write(META_OFFSET, meta.as_bytes()).unwrap();
    for (number, entry) in entries.iter().enumerate() {
        object.write(fot_entry_offset(number as u32 + 1).unwrap(), entry.as_bytes()).unwrap();
    }
}

fn to(target: ObjectId) -> FotEntry {
    FotEntry { target, flags: fot_flags::VALID, rights: 1, generation: 5 }
}

fn targets(pool: &Pool<&Sim>, id: ObjectId) -> Vec<Target> {
    let references = pool.open_object(id).unwrap().references().unwrap();
    references.into_iter().map(|reference| reference.target).collect()
}

#[test]
fn tables_are_read_and_nonsense_is_no_table() {
    let sim = Sim::new(16 * MIB);
    let pool = make(&sim);
    let a = object(&pool, &[]);
    let by_name = FotEntry {
        target: ObjectId { lo: 0x2000, hi: 0 },
        flags: fot_flags::VALID | fot_flags::NAME,
        rights: 0,
        generation: 0,
    };
    let b = object(&pool, &[to(a), FotEntry::default(), by_name, to(ObjectId::from_u128(77))]);
    let held = pool.open_object(b).unwrap();
    held.write(0x2000, &4u64.to_le_bytes()).unwrap();
    held.write(0x2008, b"name").unwrap();
    let references = held.references().unwrap();
    assert_eq!(references.iter().map(|reference| reference.index).collect::<Vec<_>>(), [1, 3, 4]);
    assert_eq!(references[1].target, Target::Name(Some("name".to_owned())));
    // A name that is too long, or out of the object, is unreadable; no harm done.
    held.write(0x2000, &u64::MAX.to_le_bytes()).unwrap();
    assert_eq!(held.references().unwrap()[1].target, Target::Name(None));
    // A length beyond every bound is cut at the largest table.
    held.write(META_OFFSET + 12, &u32::MAX.to_le_bytes()).unwrap();
    assert_eq!(held.references().unwrap().len(), 3);
    held.write(META_OFFSET, &[0]).unwrap();
    assert_eq!((held.meta().unwrap(), held.references().unwrap()), (None, Vec::new()));
}

#[test]
fn retargeting_is_one_step_at_every_crash() {
    let sim = Sim::new(16 * MIB);
    let pool = make(&sim);
    let (a, b, other) = (object(&pool, &[]), object(&pool, &[]), object(&pool, &[]));
    // Two pages of table, with references to `a` in both.
    let entries: Vec<FotEntry> = (0..140).map(|number| to(if number % 3 == 0 { a } else { other })).collect();
    let id = object(&pool, &entries);
    sim.start_recording();
    assert_eq!(pool.retarget(id, a, b).unwrap(), 47);
    sim.mark(1);
    drop(pool);
    let trace = sim.take_trace();
    sim.rewind(&trace);
    let count = |pool: &Pool<&Sim>, of| {
        targets(pool, id).into_iter().filter(|target| *target == Target::Id(of)).count()
    };
    let mut outcomes = std::collections::BTreeSet::new();
    let report = explore(&sim, &trace, &Config { exhaustive: 64, ..Config::default() }, &mut |sim, crash| {
        let pool = Pool::load(sim).map_err(|error| error.to_string())?;
        let found = (count(&pool, a), count(&pool, b), count(&pool, other));
        outcomes.insert(found);
        let right = found == (0, 47, 93) || (found == (47, 0, 93) && crash.mark == 0);
        if right { Ok(()) } else { Err(format!("{found:?}")) }
    });
    report.unwrap();
    assert_eq!(outcomes.len(), 2, "before and after were both seen");
    let pool = Pool::load(&sim).unwrap();
    pool.retarget(id, a, b).unwrap();
    let references = pool.open_object(id).unwrap().references().unwrap();
    assert_eq!((references[0].entry.generation, references[1].entry.generation), (6, 5));
    assert_eq!(pool.retarget(id, a, b).unwrap(), 0);
    let fresh = Pool::load(&sim).unwrap();
    assert_eq!(fresh.fingerprint(), pool.fingerprint());
}

#[test]
fn exported_objects_keep_their_references_in_another_pool() {
    let sim = Sim::new(16 * MIB);
    let pool = make(&sim);
    let leaf = object(&pool, &[]);
    let middle = object(&pool, &[to(leaf), to(ObjectId::from_u128(5))]);
    let root = object(&pool, &[to(middle)]);
    write_table(&pool, leaf, &[to(root)]);
    let far = pool.open_object(leaf).unwrap();
    for page in [1u64, 2, 3, 9, 700, 1000, 5000, 90_000] {
        far.write(page * 4096 + 100, &page.to_le_bytes()).unwrap();
    }
    assert_eq!(pool.closure(&[root]).unwrap(), [root, middle, leaf]);
    let mut file = Vec::new();
    pool.export(&pool.closure(&[root]).unwrap(), &mut file, &mut |_| {}).unwrap();

    let second = Sim::new(16 * MIB);
    let other = make(&second);
    let ids = other.import(&mut Cursor::new(&file), false, &mut |_| {}).unwrap();
    assert_eq!(ids, [root, middle, leaf]);
    for id in ids {
        assert_eq!(targets(&other, id), targets(&pool, id));
        assert_eq!(other.stat_object(id).unwrap().rights, Rights::READ);
    }
    let mut word = [0; 8];
    other.open_object(leaf).unwrap().read(90_000 * 4096 + 100, &mut word).unwrap();
    assert_eq!(word, 90_000u64.to_le_bytes());
    assert_eq!(Pool::load(&second).unwrap().fingerprint(), other.fingerprint());

    // Again: refused whole, or skipped.
    other.delete_object(root).unwrap();
    let again = other.import(&mut Cursor::new(&file), false, &mut |_| {});
    assert!(matches!(again, Err(TransferError::Pool(Error::Exists(id))) if id == middle), "{again:?}");
    assert!(!other.contains(root), "all or none");
    other.import(&mut Cursor::new(&file), true, &mut |_| {}).unwrap();
    assert!(other.contains(root));

    // Any changed byte is noticed, and nothing comes of it.
    let third = Sim::new(16 * MIB);
    let empty = make(&third);
    for at in (0..file.len()).step_by(97) {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        assert!(empty.import(&mut Cursor::new(&damaged), false, &mut |_| {}).is_err(), "byte {at}");
        assert!(empty.import(&mut Cursor::new(&file[..at]), false, &mut |_| {}).is_err(), "cut at {at}");
    }
    assert_eq!(empty.usage().objects, 0);
}

#[test]
fn graphs_are_drawn() {
    let sim = Sim::new(16 * MIB);
    let pool = make(&sim);
    let leaf = object(&pool, &[]);
    let ring = object(&pool, &[]);
    write_table(&pool, ring, &[to(ring)]);
    let root = object(&pool, &[to(leaf), to(ObjectId::from_u128(5))]);
    pool.name_set("<root>", root).unwrap();
    let graph = pool.graph().unwrap();
    assert_eq!((graph.nodes.len(), graph.edges.len(), graph.dangling.len()), (3, 2, 1));
    assert!(graph.to_dot().contains("<root>"));
    let svg = graph.to_svg();
    assert!(
        svg.contains("&lt;root&gt;") && svg.matches("<rect").count() == 3 && svg.contains("stroke=\"red\"")
    );
}

#[test]
fn files_grow_and_keep_what_they_hold() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("a.pool");
    let pool = Pool::create(&path, 16 * MIB, &CreateOptions::default()).unwrap();
    let id = pool.create_object(&ObjectSpec { size: 8 * MIB, ..ObjectSpec::default() }).unwrap();
    let spec = ObjectSpec { size: 20 * MIB, ..ObjectSpec::default() };
    assert!(matches!(pool.create_object(&spec), Err(Error::Full { .. })));
    assert!(matches!(grow(&path, 64 * MIB, &OpenOptions::default()), Err(Error::Locked { .. })));
    drop(pool);
    assert_eq!(grow(&path, 64 * MIB, &OpenOptions::default()).unwrap(), 64 * MIB);
    assert_eq!(grow(&path, 32 * MIB, &OpenOptions::default()).unwrap(), 64 * MIB);
    let pool = Pool::open(&path, &OpenOptions::default()).unwrap();
    assert!(pool.contains(id));
    pool.create_object(&spec).unwrap();
}
