//! Recorded sequences that random ones hardly reach: maps that are trees, and objects that get a name before they stay.

use crate::model::{Looks, Probes, Snapshot};
use crate::workload::Recorded;
use pmem::sim::Sim;
use pool::{Access, ObjectSpec, Pool};
use twz_abi::ObjectId;
use zerocopy::{FromZeros, IntoBytes};

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// A step of a script, and what it is called.
type Step<'a> = (&'a str, &'a dyn Fn(&Pool<&Sim>, &[ObjectId]));

/// Records `script` on a pool that `setup` prepared. Both get the objects that `setup` made.
fn record(offsets: Vec<u64>, setup: impl Fn(&Pool<&Sim>) -> Vec<ObjectId>, script: &[Step<'_>]) -> Recorded {
    let sim = Sim::new(16 * MIB);
    for at in (2 * MIB..2 * MIB + 64 * PAGE).step_by(8) {
        pmem::Pmem::store(&sim, at, 0xdead_dead_dead_dead);
    }
    let pool = Pool::format(&sim, 16 * MIB, PAGE).unwrap();
    let ids = setup(&pool);
    let probes = Probes { offsets, looks: Looks::Everything };
    let mut snapshots = vec![Snapshot::take(&pool, &probes).unwrap()];
    sim.start_recording();
    for (number, (what, step)) in (0..).zip(script) {
        sim.mark(number * 2);
        step(&pool, &ids);
        sim.mark(number * 2 + 1);
        assert_eq!(Pool::load(&sim).unwrap().fingerprint(), pool.fingerprint(), "{what}");
        snapshots.push(Snapshot::take(&pool, &probes).unwrap());
    }
    drop(pool);
    let (trace, sites) = (sim.take_trace(), sim.take_sites());
    sim.rewind(&trace);
    let operations = script.iter().map(|(what, _)| (*what).to_owned()).collect();
    Recorded { sim, trace, sites, operations, snapshots, probes }
}

fn write(pool: &Pool<&Sim>, id: ObjectId, page: u64, value: u64) {
    pool.open_object(id).unwrap().write(page * PAGE, &value.to_le_bytes()).unwrap();
}

fn touch(pool: &Pool<&Sim>, id: ObjectId, page: u64) {
    pool.open_object(id).unwrap().touch(page * PAGE, 8, Access::Write).unwrap();
}

/// Every way in which a tree changes: in place, a new leaf, leaf and root shared, several pages in one step.
pub(crate) fn trees() -> Recorded {
    let pages = [0, 2, 4, 6, 8, 10, 30, 32, 600, 700];
    let setup = |pool: &Pool<&Sim>| {
        let make = |number: u8| {
            let spec = ObjectSpec { nonce: Some([number; 16]), ..ObjectSpec::default() };
            pool.create_object(&spec).unwrap()
        };
        let (tree, plain) = (make(1), make(2));
        // A page for the metadata and the table, so that retargeting has something to replace.
        let mut meta = twz_abi::object::ObjectMeta::new_zeroed();
        (meta.magic, meta.version, meta.fot_len) =
            (twz_abi::object::META_MAGIC, twz_abi::object::META_VERSION, 2);
        let object = pool.open_object(tree).unwrap();
        object.write(twz_abi::object::META_OFFSET, meta.as_bytes()).unwrap();
        let entry = twz_abi::object::FotEntry { target: plain, flags: 1, rights: 1, generation: 0 };
        object.write(twz_abi::object::META_OFFSET - 32, entry.as_bytes()).unwrap();
        for (number, page) in pages[..6].iter().enumerate() {
            write(pool, tree, *page, 100 + number as u64);
        }
        let copied = ObjectSpec { nonce: Some([3; 16]), copy_of: Some(tree), ..ObjectSpec::default() };
        let copy = pool.create_object(&copied).unwrap();
        touch(pool, plain, 4);
        write(pool, plain, 4, 7);
        vec![tree, plain, copy]
    };
    let copy_range = |pool: &Pool<&Sim>, ids: &[ObjectId]| {
        let (from, to) = (pool.open_object(ids[1]).unwrap(), pool.open_object(ids[0]).unwrap());
        pool.copy_range(&from, 4 * PAGE, &to, 6 * PAGE, 3 * PAGE).unwrap();
    };
    record(
        pages.iter().map(|page| page * PAGE).collect(),
        setup,
        &[
            ("unshare under a shared root", &|pool, ids| touch(pool, ids[2], 2)),
            ("write there", &|pool, ids| write(pool, ids[2], 2, 1)),
            ("unshare the other's", &|pool, ids| touch(pool, ids[0], 2)),
            ("write there too", &|pool, ids| write(pool, ids[0], 2, 2)),
            ("touch in place", &|pool, ids| touch(pool, ids[0], 30)),
            ("write", &|pool, ids| write(pool, ids[0], 30, 3)),
            ("touch in a new chunk", &|pool, ids| touch(pool, ids[0], 600)),
            ("write in the new chunk", &|pool, ids| write(pool, ids[0], 600, 4)),
            ("copy pages in one step", &copy_range),
            ("retarget", &|pool, ids| assert_eq!(pool.retarget(ids[0], ids[1], ids[2]).unwrap(), 1)),
            ("delete the copy", &|pool, ids| pool.delete_object(ids[2]).unwrap()),
            ("touch after it", &|pool, ids| touch(pool, ids[0], 700)),
            ("write after it", &|pool, ids| write(pool, ids[0], 700, 5)),
        ],
    )
}

/// What is deleted and kept by a tie gets a name and stays, both in one step; in use and not.
pub(crate) fn names() -> Recorded {
    let long = "a longer name, which reaches into the second line of its record";
    let make = |pool: &Pool<&Sim>, number: u8, ties: &[ObjectId]| {
        let doomed = !ties.is_empty();
        let spec = ObjectSpec { nonce: Some([number; 16]), ties, doomed, ..ObjectSpec::default() };
        pool.create_object(&spec).unwrap()
    };
    let setup = |pool: &Pool<&Sim>| {
        let holder = make(pool, 1, &[]);
        let mut ids = vec![holder];
        ids.extend((2..6).map(|number| make(pool, number, &[holder])));
        pool.name_new("taken", holder).unwrap();
        ids
    };
    record(
        vec![0],
        setup,
        &[
            ("new name of a doomed one", &|pool, ids| pool.name_new("a", ids[1]).unwrap()),
            ("new name of one in use", &|pool, ids| {
                let _use = pool.open_object(ids[2]).unwrap();
                pool.name_new(long, ids[2]).unwrap();
            }),
            ("a name that is taken", &|pool, ids| assert!(pool.name_new("taken", ids[3]).is_err())),
            ("keep", &|pool, ids| pool.keep_object(ids[3]).unwrap()),
            ("keep again", &|pool, ids| pool.keep_object(ids[3]).unwrap()),
            ("new name of one that stays", &|pool, ids| pool.name_new("c", ids[3]).unwrap()),
            // What was made to stay does not go with the holder; the one that was not does.
            ("delete the holder", &|pool, ids| {
                pool.delete_object(ids[0]).unwrap();
                let left: Vec<bool> = ids.iter().map(|id| pool.contains(*id)).collect();
                assert_eq!(left, [false, true, true, true, false]);
            }),
            ("delete one with its name", &|pool, ids| pool.delete_object(ids[2]).unwrap()),
            ("make another doomed one", &|pool, ids| {
                make(pool, 9, &ids[1..2]);
            }),
            ("its name, in the freed record", &|pool, ids| {
                let id = pool.ties(ids[1]).1[0];
                pool.name_new(long, id).unwrap();
            }),
            ("delete what keeps it", &|pool, ids| pool.delete_object(ids[1]).unwrap()),
        ],
    )
}
