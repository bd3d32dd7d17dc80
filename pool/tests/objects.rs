//! What a pool promises to those who use it, on simulated memory and on real files.

#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "tests")]

use pmem::sim::Sim;
use pool::{Access, CopyRange, CreateOptions, Durability, Error, ObjectSpec, OpenOptions, Pool};
use twz_abi::object::{MAX_SIZE, META_OFFSET};
use twz_abi::{ObjectId, Rights};

const MIB: u64 = 1 << 20;

fn sim() -> Sim {
    Sim::new(64 * MIB)
}

fn make(sim: &Sim) -> Pool<&Sim> {
    Pool::format(sim, sim_len(sim), 4096).unwrap()
}

fn sim_len(sim: &Sim) -> u64 {
    pmem::Pmem::len(sim)
}

/// What a running pool believes to be in use is what the next open finds.
fn check(pool: &Pool<&Sim>) {
    let again = Pool::load(*pool.medium()).unwrap();
    assert_eq!(again.fingerprint(), pool.fingerprint());
    assert_eq!(again.usage(), pool.usage());
    let sorted = |pool: &Pool<&Sim>| {
        let mut ids = pool.object_ids();
        ids.sort_unstable();
        ids
    };
    assert_eq!(sorted(&again), sorted(pool));
    assert_eq!(again.names(), pool.names());
}

fn read(pool: &Pool<&Sim>, id: ObjectId, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    pool.open_object(id).unwrap().read(offset, &mut bytes).unwrap();
    bytes
}

#[test]
fn objects_keep_what_is_written_across_opens() {
    let sim = sim();
    let id;
    {
        let pool = make(&sim);
        id = pool.create_object(&ObjectSpec { rights: Rights::READ, ..ObjectSpec::default() }).unwrap();
        let object = pool.open_object(id).unwrap();
        object.write(0x1000, b"hello").unwrap();
        object.write(META_OFFSET, b"meta").unwrap();
        object.write(0x1ffe, b"across").unwrap();
        drop(object);
        check(&pool);
    }
    let pool = Pool::load(&sim).unwrap();
    assert_eq!(read(&pool, id, 0x1000, 5), b"hello");
    assert_eq!(read(&pool, id, META_OFFSET, 4), b"meta");
    assert_eq!(read(&pool, id, 0x1ffe, 6), b"across");
    assert_eq!(read(&pool, id, 0x0500_0000, 3), [0, 0, 0]);
    assert_eq!(pool.stat_object(id).unwrap().rights, Rights::READ);
    pool.delete_object(id).unwrap();
    assert!(matches!(pool.open_object(id), Err(Error::NoSuchObject(_))));
    assert_eq!(pool.usage().objects, 0);
    assert_eq!(pool.usage().used, pool.usage().metadata);
    check(&pool);
}

#[test]
fn ids_are_given_by_nonce_key_and_rights() {
    let sim = sim();
    let pool = make(&sim);
    let spec = ObjectSpec { nonce: Some([1; 16]), rights: Rights::READ, ..ObjectSpec::default() };
    let id = pool.create_object(&spec).unwrap();
    assert_eq!(id, pool::object_id(&[1; 16], ObjectId::NULL, Rights::READ));
    assert!(matches!(pool.create_object(&spec), Err(Error::Exists(other)) if other == id));
    pool.delete_object(id).unwrap();
    assert_eq!(pool.create_object(&spec).unwrap(), id);
}

#[test]
fn a_deleted_object_lives_until_its_last_use_ends() {
    let sim = sim();
    let pool = make(&sim);
    let id = pool.create_object(&ObjectSpec::default()).unwrap();
    pool.name_set("it", id).unwrap();
    let (first, second) = (pool.open_object(id).unwrap(), pool.open_object(id).unwrap());
    first.write(0x1000, b"still here").unwrap();
    pool.delete_object(id).unwrap();
    assert!(matches!(pool.delete_object(id), Err(Error::NoSuchObject(_))));
    assert!(matches!(pool.open_object(id), Err(Error::NoSuchObject(_))));
    assert_eq!(pool.name_get("it"), None);
    let place = second.lookup(0x1000).unwrap().unwrap();
    drop(first);
    second.write(0x3000, b"and growing").unwrap();
    // Nobody gets its pages meanwhile.
    for _ in 0..20 {
        let other = pool.create_object(&ObjectSpec { size: MIB, ..ObjectSpec::default() }).unwrap();
        let other = pool.open_object(other).unwrap();
        for extent in other.extents().unwrap() {
            let apart = extent.pool_offset + extent.len <= place.pool_offset
                || place.pool_offset + place.len <= extent.pool_offset;
            assert!(apart);
        }
    }
    let used = pool.usage().used;
    drop(second);
    assert!(pool.usage().used < used);
    check(&pool);
    // After a crash there are no uses.
    let id = pool.create_object(&ObjectSpec::default()).unwrap();
    let object = pool.open_object(id).unwrap();
    object.write(0, b"x").unwrap();
    pool.delete_object(id).unwrap();
    let after_crash = Pool::load(&sim).unwrap();
    assert!(!after_crash.object_ids().contains(&id));
}

#[test]
fn ties_keep_deleted_objects() {
    let sim = sim();
    let pool = make(&sim);
    let holder = pool.create_object(&ObjectSpec::default()).unwrap();
    let ties = [holder];
    let tied = pool.create_object(&ObjectSpec { ties: &ties, ..ObjectSpec::default() }).unwrap();
    let third = pool.create_object(&ObjectSpec::default()).unwrap();
    pool.tie(third, tied).unwrap();
    pool.delete_object(third).unwrap();
    pool.delete_object(tied).unwrap();
    check(&pool);
    let pool = Pool::load(&sim).unwrap();
    assert!(pool.contains(tied) && pool.contains(third));
    let used = pool.open_object(tied).unwrap();
    pool.delete_object(holder).unwrap();
    assert!(!pool.contains(tied));
    assert_eq!(pool.usage().objects, 2, "in use, so both stay");
    drop(used);
    assert_eq!((pool.usage().objects, pool.usage().ties), (0, 0));
    check(&pool);
    // Two deleted objects that hold each other are both gone.
    let one = pool.create_object(&ObjectSpec::default()).unwrap();
    let two = pool.create_object(&ObjectSpec::default()).unwrap();
    pool.tie(one, two).unwrap();
    pool.tie(two, one).unwrap();
    pool.delete_object(one).unwrap();
    pool.delete_object(two).unwrap();
    assert_eq!((pool.usage().objects, pool.usage().ties), (0, 0));
    assert!(pool.untie(one, two).is_ok_and(|cut| !cut));
    // An object lives as long as itself: nothing to write down.
    let one = pool.create_object(&ObjectSpec::default()).unwrap();
    pool.tie(one, one).unwrap();
    assert_eq!(pool.usage().ties, 0);
    pool.delete_object(one).unwrap();
    assert_eq!(pool.usage().objects, 0);
}

#[test]
fn copies_share_until_written() {
    let sim = sim();
    let pool = make(&sim);
    let id = pool.create_object(&ObjectSpec { size: 8 * MIB, ..ObjectSpec::default() }).unwrap();
    let original = pool.open_object(id).unwrap();
    original.write(0x1000, b"original").unwrap();
    let used = pool.usage().used;
    let copy_id = pool.copy_object(id).unwrap();
    assert_eq!(pool.usage().used, used);
    let copy = pool.open_object(copy_id).unwrap();
    let (a, b) = (original.lookup(0x1000).unwrap().unwrap(), copy.lookup(0x1000).unwrap().unwrap());
    assert_eq!(a, b);
    assert!(a.shared);
    let old = copy.lookup(0x1000).unwrap().unwrap();
    copy.write(0x1000, b"the copy").unwrap();
    let own = copy.touch(0x1000, 0, Access::Write).unwrap();
    assert!(!own.shared && own.pool_offset != old.pool_offset);
    assert_eq!(read(&pool, id, 0x1000, 8), b"original");
    assert_eq!(read(&pool, copy_id, 0x1000, 8), b"the copy");
    // Random writes to both, through many extents into a tree, and a copy of that.
    let third_id = {
        for page in (0..2048).step_by(37) {
            copy.write(page * 4096 + 8, &page.to_le_bytes()).unwrap();
            original.write(page * 4096 + 16, &page.to_le_bytes()).unwrap();
        }
        pool.copy_object(copy_id).unwrap()
    };
    let third = pool.open_object(third_id).unwrap();
    for page in (0..2048).step_by(41) {
        third.write(page * 4096 + 8, &7u64.to_le_bytes()).unwrap();
    }
    for page in 0..2048u64 {
        let expected = if page % 37 == 0 { page } else { 0 };
        assert_eq!(read(&pool, copy_id, page * 4096 + 8, 8), expected.to_le_bytes(), "copy, page {page}");
        assert_eq!(read(&pool, id, page * 4096 + 16, 8), expected.to_le_bytes(), "original, page {page}");
        let expected = if page % 41 == 0 { 7 } else { expected };
        assert_eq!(read(&pool, third_id, page * 4096 + 8, 8), expected.to_le_bytes(), "third, page {page}");
    }
    [&original, &copy, &third].into_iter().for_each(pool::ObjectRef::release_replaced);
    check(&pool);
    pool.delete_object(copy_id).unwrap();
    drop(copy);
    check(&pool);
    assert_eq!(read(&pool, third_id, 37 * 4096 + 8, 8), 37u64.to_le_bytes());
    drop((original, third));
    pool.delete_object(id).unwrap();
    pool.delete_object(third_id).unwrap();
    assert_eq!(pool.usage().used, pool.usage().metadata);
    assert_eq!(pool.usage().map_pages, 0);
    check(&pool);
}

#[test]
fn ranges_are_copied_with_their_holes() {
    let sim = sim();
    let pool = make(&sim);
    let from = pool.create_object(&ObjectSpec::default()).unwrap();
    let to = pool.create_object(&ObjectSpec { size: 64 * 4096, ..ObjectSpec::default() }).unwrap();
    let (source, target) = (pool.open_object(from).unwrap(), pool.open_object(to).unwrap());
    for page in [1u64, 2, 5] {
        source.write(page * 4096, &[page as u8; 16]).unwrap();
    }
    for page in 0..64u64 {
        target.write(page * 4096, &[0xaa; 16]).unwrap();
    }
    pool.copy_range(&source, 0, &target, 10 * 4096, 8 * 4096).unwrap();
    for page in 0..64u64 {
        let expected = match page {
            11 => 1,
            12 => 2,
            15 => 5,
            10..18 => 0,
            _ => 0xaa,
        };
        assert_eq!(read(&pool, to, page * 4096, 16), [expected; 16], "page {page}");
    }
    pool.copy_range(&target, 10 * 4096, &target, 30 * 4096, 8 * 4096).unwrap();
    assert_eq!(read(&pool, to, 31 * 4096, 16), [1; 16]);
    assert!(pool.copy_range(&target, 0, &target, 4096, 8192).is_err());
    assert!(pool.copy_range(&source, 1, &target, 0, 4096).is_err());
    target.release_replaced();
    check(&pool);
}

#[test]
fn big_objects_come_in_huge_runs_and_small_ones_together() {
    let sim = sim();
    let pool = make(&sim);
    let big = pool.create_object(&ObjectSpec::default()).unwrap();
    let object = pool.open_object(big).unwrap();
    for offset in (0..16 * MIB).step_by(4096) {
        object.touch(offset, 0, Access::Write).unwrap();
    }
    let extents: Vec<_> = (1..8).map(|chunk| object.lookup(chunk * 2 * MIB).unwrap().unwrap()).collect();
    assert!(extents.iter().all(pool::Extent::is_huge), "{extents:?}");
    assert!(object.extents().unwrap().len() <= 10, "{:?}", object.extents());
    let small: Vec<_> = (0..50)
        .map(|_| {
            let id = pool.create_object(&ObjectSpec::default()).unwrap();
            pool.open_object(id).unwrap().touch(0x1000, 0, Access::Write).unwrap().pool_offset
        })
        .collect();
    let (low, high) = (small.iter().min().unwrap(), small.iter().max().unwrap());
    assert!(high - low < 2 * MIB);
    check(&pool);
}

#[test]
fn the_end_of_an_object_grows_down() {
    let sim = sim();
    let pool = make(&sim);
    let id = pool.create_object(&ObjectSpec::default()).unwrap();
    let object = pool.open_object(id).unwrap();
    object.touch(META_OFFSET, 0, Access::Write).unwrap();
    for page in 1..40 {
        let extent = object.touch(META_OFFSET - page * 4096, 0, Access::Write).unwrap();
        assert!(extent.object_offset + extent.len <= MAX_SIZE);
    }
    assert!(object.extents().unwrap().len() <= 8, "{:?}", object.extents());
    check(&pool);
}

#[test]
fn a_full_pool_fails_whole() {
    let sim = Sim::new(16 * MIB);
    let pool = make(&sim);
    let before = pool.fingerprint();
    let spec = ObjectSpec { size: 32 * MIB, ..ObjectSpec::default() };
    assert!(matches!(pool.create_object(&spec), Err(Error::Full { .. })));
    assert_eq!(pool.fingerprint(), before);
    let id = pool.create_object(&ObjectSpec { size: 13 * MIB, ..ObjectSpec::default() }).unwrap();
    let copy = pool.copy_object(id).unwrap();
    let object = pool.open_object(copy).unwrap();
    let mut written = 0;
    let full = loop {
        match object.write(written * 4096, &[1]) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Full { .. }), "{full}");
    assert!(written > 100);
    object.release_replaced();
    check(&pool);
    assert_eq!(read(&pool, copy, 0, 1), [1]);
    assert_eq!(read(&pool, id, 0, 1), [0]);
    while pool.create_object(&ObjectSpec::default()).is_ok() {}
    check(&pool);
}

#[test]
fn what_is_kept_by_a_tie_can_be_made_to_stay() {
    let sim = sim();
    let pool = make(&sim);
    let session = pool.create_object(&ObjectSpec::default()).unwrap();
    let volatile = ObjectSpec { doomed: true, ties: &[session], ..ObjectSpec::default() };
    let [kept, named, loser, gone] = [(); 4].map(|()| pool.create_object(&volatile).unwrap());
    assert!(pool.name_set("first", named).is_err(), "it may go at any time");
    // In use and not, with a name and without.
    let opened = pool.open_object(named).unwrap();
    pool.name_new("first", named).unwrap();
    assert!(matches!(pool.name_new("first", loser), Err(Error::NameTaken(_))));
    assert!(matches!(pool.name_new("", loser), Err(Error::BadName(0))));
    pool.keep_object(kept).unwrap();
    pool.keep_object(kept).unwrap();
    assert!([kept, named].iter().all(|&id| !pool.stat_object(id).unwrap().doomed));
    assert!([loser, gone].iter().all(|&id| pool.stat_object(id).unwrap().doomed));
    drop(opened);
    pool.delete_object(session).unwrap();
    for id in [loser, gone] {
        assert!(!pool.contains(id));
        assert!(matches!(pool.keep_object(id), Err(Error::NoSuchObject(_))));
        assert!(matches!(pool.name_new("second", id), Err(Error::NoSuchObject(_))));
    }
    check(&pool);
    let again = Pool::load(&sim).unwrap();
    assert_eq!(
        (again.name_get("first"), again.contains(kept), again.object_ids().len()),
        (Some(named), true, 2)
    );
    pool.delete_object(named).unwrap();
    assert_eq!(pool.name_get("first"), None);
}

#[test]
fn names_and_roots() {
    let sim = sim();
    let pool = make(&sim);
    let (a, b) = (
        pool.create_object(&ObjectSpec::default()).unwrap(),
        pool.create_object(&ObjectSpec::default()).unwrap(),
    );
    let long = "é".repeat(127);
    for name in ["x", "a name that does not fit into the first line of its record", &long] {
        pool.name_set(name, a).unwrap();
        assert_eq!(Pool::load(&sim).unwrap().name_get(name), Some(a));
        pool.name_set(name, b).unwrap();
        assert_eq!(Pool::load(&sim).unwrap().name_get(name), Some(b));
    }
    assert!(matches!(pool.name_set("", a), Err(Error::BadName(0))));
    assert!(matches!(pool.name_set(&"x".repeat(256), a), Err(Error::BadName(256))));
    assert!(pool.name_set("nobody", ObjectId::from_u128(5)).is_err());
    pool.root_set("x", 17).unwrap();
    assert_eq!((pool.root_get("x"), pool.name_get("x")), (Some(17), Some(b)));
    pool.delete_object(b).unwrap();
    assert_eq!(pool.names(), []);
    assert_eq!(Pool::load(&sim).unwrap().roots(), [("x".to_owned(), 17)]);
    pool.root_remove("x").unwrap();
    assert!(matches!(pool.root_remove("x"), Err(Error::NoSuchName(_))));
    check(&pool);
}

#[test]
fn who_is_about_to_let_go_of_a_pool_is_waited_for() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("a.pool");
    let pool = Pool::create(&path, 32 * MIB, &CreateOptions::default()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            drop(pool);
        });
        assert!(Pool::open(&path, &OpenOptions::default()).is_ok());
    });
}

#[test]
fn files_are_locked_checked_and_kept() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("a.pool");
    let id = {
        let pool = Pool::create(&path, 32 * MIB, &CreateOptions::default()).unwrap();
        assert_eq!(pool.durability(), Durability::Volatile);
        assert!(matches!(Pool::open(&path, &OpenOptions::default()), Err(Error::Locked { .. })));
        let id = pool.create_object(&ObjectSpec::default()).unwrap();
        pool.open_object(id).unwrap().write(0x1000, b"in a file").unwrap();
        pool.sync().unwrap();
        id
    };
    let again = Pool::create(&path, 32 * MIB, &CreateOptions::default());
    assert!(matches!(again, Err(Error::AlreadyAPool { .. })));
    {
        let pool = Pool::open(&path, &OpenOptions::default()).unwrap();
        let mut bytes = [0; 9];
        pool.open_object(id).unwrap().read(0x1000, &mut bytes).unwrap();
        assert_eq!(&bytes, b"in a file");
        assert_eq!((pool.backing().size, pool.backing().granule), (32 * MIB, 4096));
    }
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    for len in [30 * MIB, 10 * MIB] {
        file.set_len(len).unwrap();
        let opened = Pool::open(&path, &OpenOptions::default());
        assert!(matches!(opened, Err(Error::Truncated { .. })), "{opened:?}");
    }
    std::fs::write(&path, vec![0; 16 << 20]).unwrap();
    assert!(matches!(Pool::open(&path, &OpenOptions::default()), Err(Error::NotAPool)));
    std::fs::write(&path, b"text").unwrap();
    assert!(matches!(Pool::open(&path, &OpenOptions::default()), Err(Error::NotAPool)));
}

#[test]
fn disk_files_are_written_by_each_operation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pool");
    let pool = Pool::create(&path, 16 * MIB, &CreateOptions::default()).unwrap();
    let id = pool.create_object(&ObjectSpec::default()).unwrap();
    pool.open_object(id).unwrap().write(0x1000, b"x").unwrap();
    drop(pool);
    let pool = Pool::open(&path, &OpenOptions { relaxed: true }).unwrap();
    assert!(pool.contains(id));
}

/// On a device whose mappings come in 2 MiB steps, every piece of an object is such a step.
#[test]
fn large_granules() {
    const GRANULE: u64 = 2 * MIB;
    let sim = sim();
    let pool = Pool::format(&sim, sim_len(&sim), GRANULE).unwrap();
    let id = pool.create_object(&ObjectSpec::default()).unwrap();
    let object = pool.open_object(id).unwrap();
    for offset in [0x1000, 5 * MIB, META_OFFSET - 32, META_OFFSET] {
        object.write(offset, &offset.to_le_bytes()).unwrap();
    }
    let copy = pool.copy_object(id).unwrap();
    let copied = pool.open_object(copy).unwrap();
    copied.write(0x2000, b"own").unwrap();
    pool.copy_range(&object, 0, &copied, 8 * MIB, GRANULE).unwrap();
    assert!(pool.copy_range(&object, 0, &copied, 4096, 4096).is_err());
    for extent in object.extents().unwrap().into_iter().chain(copied.extents().unwrap()) {
        let aligned = [extent.object_offset, extent.pool_offset, extent.len].map(|value| value % GRANULE);
        assert_eq!(aligned, [0; 3], "{extent:?}");
    }
    assert_eq!(read(&pool, copy, 8 * MIB + 0x1000, 8), 0x1000u64.to_le_bytes());
    assert_eq!(read(&pool, id, 0x2000, 3), [0; 3]);
    assert!(object.lookup(META_OFFSET).unwrap().unwrap().is_huge());
    copied.release_replaced();
    check(&pool);
    assert!(Pool::format(&sim, sim_len(&sim), 4 * MIB).is_err());
}

/// The hook runs before pages change their meaning, and can refuse.
#[test]
fn copies_ask_the_hook() {
    use std::sync::{Arc, Mutex};
    #[derive(Debug, Default)]
    struct Hook {
        calls: Mutex<Vec<(&'static str, ObjectId, u64, u64)>>,
        refuse: std::sync::atomic::AtomicBool,
    }
    impl Hook {
        fn note(&self, what: &'static str, id: ObjectId, offset: u64, len: u64) -> Result<(), Box<str>> {
            self.calls.lock().unwrap().push((what, id, offset, len));
            if self.refuse.load(std::sync::atomic::Ordering::Relaxed) { Err("busy".into()) } else { Ok(()) }
        }
    }
    impl pool::ShareHook for Hook {
        fn before_share(&self, id: ObjectId, offset: u64, len: u64) -> Result<(), Box<str>> {
            self.note("share", id, offset, len)
        }
        fn before_replace(&self, id: ObjectId, offset: u64, len: u64) -> Result<(), Box<str>> {
            self.note("replace", id, offset, len)
        }
    }
    let sim = sim();
    let pool = make(&sim);
    let id = pool.create_object(&ObjectSpec { size: 8 * 4096, ..ObjectSpec::default() }).unwrap();
    let hook = Arc::new(Hook::default());
    pool.set_share_hook(Some(hook.clone()));
    let copy = pool.copy_object(id).unwrap();
    let (source, target) = (pool.open_object(id).unwrap(), pool.open_object(copy).unwrap());
    pool.copy_range(&source, 0, &target, 4096, 4096).unwrap();
    let calls = std::mem::take(&mut *hook.calls.lock().unwrap());
    assert_eq!(calls, [("share", id, 0, MAX_SIZE), ("share", id, 0, 4096), ("replace", copy, 4096, 4096)]);
    // Making a shared page writable replaces it under all other mappings of the object.
    source.touch(0, 0, Access::Read).unwrap();
    assert_eq!(*hook.calls.lock().unwrap(), []);
    source.touch(0, 0, Access::Write).unwrap();
    source.touch(0, 0, Access::Write).unwrap();
    assert_eq!(std::mem::take(&mut *hook.calls.lock().unwrap()), [("replace", id, 0, 4096)]);
    hook.refuse.store(true, std::sync::atomic::Ordering::Relaxed);
    let before = pool.fingerprint();
    assert!(matches!(source.touch(3 * 4096, 0, Access::Write), Err(Error::NotShared(..))));
    assert!(matches!(pool.copy_object(id), Err(Error::NotShared(..))));
    assert!(pool.copy_range(&source, 0, &target, 4096, 4096).is_err());
    assert_eq!(pool.fingerprint(), before);
}

#[test]
fn several_threads_at_once() {
    let sim = sim();
    let pool = make(&sim);
    let shared = pool.create_object(&ObjectSpec { size: MIB, ..ObjectSpec::default() }).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let pool = pool.clone();
            scope.spawn(move || {
                for round in 0..60u64 {
                    let copy = pool.copy_object(shared).unwrap();
                    let object = pool.open_object(copy).unwrap();
                    for page in 0..8 {
                        object.write(page * 65536 + thread * 8, &round.to_le_bytes()).unwrap();
                    }
                    let mut bytes = [0; 8];
                    object.read(65536 + thread * 8, &mut bytes).unwrap();
                    assert_eq!(bytes, round.to_le_bytes());
                    pool.delete_object(copy).unwrap();
                }
            });
        }
    });
    assert_eq!(pool.usage().objects, 1);
    check(&pool);
}

/// An object whose page n, for the first `pages`, holds bytes `mark + n`.
fn marked(pool: &Pool<&Sim>, pages: u64, mark: u8) -> ObjectId {
    let id = pool.create_object(&ObjectSpec::default()).unwrap();
    let object = pool.open_object(id).unwrap();
    for page in 0..pages {
        object.write(page * 4096, &[mark + page as u8; 4096]).unwrap();
    }
    id
}

const fn range(source: ObjectId, source_page: u64, target_page: u64, pages: u64) -> CopyRange {
    CopyRange {
        source,
        source_offset: source_page * 4096,
        target_offset: target_page * 4096,
        len: pages * 4096,
    }
}

#[test]
fn an_object_begins_with_ranges_of_others_and_room_of_its_own() {
    let sim = sim();
    let pool = make(&sim);
    let (first, second) = (marked(&pool, 8, 10), marked(&pool, 8, 50));
    let before = pool.usage().used;
    // Not ascending, with a hole of the source at its end, the same source twice.
    let ranges = [range(second, 2, 700, 2), range(first, 1, 4, 3), range(first, 7, 9, 2)];
    let spec = ObjectSpec { ranges: &ranges, size: 8 * 4096 + 1, ..ObjectSpec::default() };
    let id = pool.create_object(&spec).unwrap();
    let byte = |id, page: u64| read(&pool, id, page * 4096, 1)[0];
    let wanted = [(0, 0), (3, 0), (4, 11), (5, 12), (6, 13), (7, 0), (8, 0), (9, 17), (10, 0)];
    for (page, value) in wanted.into_iter().chain([(699, 0), (700, 52), (701, 53), (702, 0)]) {
        assert_eq!(byte(id, page), value, "page {page}");
    }
    let object = pool.open_object(id).unwrap();
    let present: Vec<u64> = (0..720).filter(|page| object.lookup(page * 4096).unwrap().is_some()).collect();
    assert_eq!(present, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 700, 701], "pages of the size, and of the ranges");
    // Pages 0 to 3, 7 and 8 are its own, the six of the ranges are shared; more than five extents need nodes.
    let grown = (pool.usage().used - before) / 4096;
    assert!((6..=9).contains(&grown), "{grown} pages were taken");
    // Either side writes by itself.
    object.write(5 * 4096, &[99; 4096]).unwrap();
    pool.open_object(first).unwrap().write(3 * 4096, &[98; 4096]).unwrap();
    assert_eq!((byte(id, 5), byte(first, 2)), (99, 12));
    assert_eq!((byte(id, 6), byte(first, 3)), (13, 98));
    drop(object);
    check(&pool);
    pool.delete_object(id).unwrap();
    check(&pool);
}

#[test]
fn bad_parts_make_no_object() {
    let sim = sim();
    let pool = make(&sim);
    let (id, gone) = (marked(&pool, 4, 10), ObjectId { lo: 1, hi: 2 });
    let (before, print) = (pool.object_ids().len(), pool.fingerprint());
    let mut odd = range(id, 0, 0, 1);
    odd.len = 100;
    let refused: [&[CopyRange]; 6] = [
        &[range(id, 0, 0, 2), range(id, 2, 1, 1)],
        &[odd],
        &[range(id, 0, 262_144, 1)],
        &[range(id, 262_143, 0, 2)],
        &[range(id, u64::MAX / 4096, 0, 1)],
        &[range(id, 0, 0, 1), range(gone, 0, 1, 1)],
    ];
    for ranges in refused {
        let made = pool.create_object(&ObjectSpec { ranges, ..ObjectSpec::default() });
        assert!(matches!(made, Err(Error::BadRange { .. } | Error::NoSuchObject(_))), "{ranges:?}: {made:?}");
    }
    let with_whole = ObjectSpec { copy_of: Some(id), ranges: &[range(id, 0, 0, 1)], ..ObjectSpec::default() };
    assert!(matches!(pool.create_object(&with_whole), Err(Error::BadRange { .. })));
    let too_large = ObjectSpec { size: MAX_SIZE + 1, ..ObjectSpec::default() };
    assert!(matches!(pool.create_object(&too_large), Err(Error::BadRange { .. })));
    // More than the pool has, behind ranges that it has.
    let ranges = [range(id, 0, 0, 4)];
    let too_much = ObjectSpec { size: 60 * MIB, ranges: &ranges, ..ObjectSpec::default() };
    while let Ok(filler) = pool.create_object(&ObjectSpec { size: 8 * MIB, ..ObjectSpec::default() }) {
        assert!(!filler.is_null());
    }
    let (full, used) = (pool.fingerprint(), pool.usage().used);
    assert!(matches!(pool.create_object(&too_much), Err(Error::Full { .. })));
    assert_eq!((pool.fingerprint(), pool.usage().used), (full.clone(), used));
    assert_ne!(print, full);
    assert!(pool.object_ids().len() > before);
    check(&pool);
}

#[test]
fn reserved_pages_are_there_when_the_pool_is_full() {
    let sim = sim();
    let pool = make(&sim);
    let id = marked(&pool, 3, 10);
    let object = pool.open_object(id).unwrap();
    // Around what is there, over a chunk's edge, and in pieces if no whole chunk is left.
    pool.reserve_range(&object, 4096, 3 * MIB).unwrap();
    pool.reserve_range(&object, 4096, 3 * MIB).unwrap();
    let other = pool.open_object(marked(&pool, 1, 1)).unwrap();
    let mut taken = 0;
    while pool.reserve_range(&other, (1 + taken) * 4096, 4096).is_ok() {
        taken += 1;
    }
    let (full, used) = (pool.fingerprint(), pool.usage().used);
    let refused = pool.reserve_range(&other, 512 * MIB, 5 * 4096);
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    assert_eq!((pool.fingerprint(), pool.usage().used), (full, used), "a refused reservation left something");
    for page in 1..=768 {
        object.touch(page * 4096, 8, Access::Write).unwrap();
    }
    assert_eq!(read(&pool, id, 2 * 4096, 1), [12], "what was there before");
    assert_eq!(read(&pool, id, 3 * 4096, 2), [0, 0]);
    assert!(matches!(object.touch(900 * 4096, 8, Access::Write), Err(Error::Full { .. })));
    for (offset, len) in [(1, 4096), (4096, 1), (MAX_SIZE, 4096), (u64::MAX - 4095, 4096)] {
        let result = pool.reserve_range(&object, offset, len);
        assert!(matches!(result, Err(Error::BadRange { .. })), "{offset:#x} {len}: {result:?}");
    }
    drop((object, other));
    check(&pool);
}

#[test]
fn a_doomed_object_lives_by_its_tie_alone() {
    let sim = sim();
    let pool = make(&sim);
    let holder = marked(&pool, 1, 1);
    let spec = ObjectSpec { ties: &[holder], doomed: true, ..ObjectSpec::default() };
    let id = pool.create_object(&spec).unwrap();
    assert!(pool.contains(id) && pool.stat_object(id).unwrap().doomed);
    check(&pool);
    assert!(Pool::load(&sim).unwrap().contains(id), "the tie keeps it over an open");
    pool.delete_object(holder).unwrap();
    assert!(!pool.contains(id));
    check(&pool);
}

/// Data fills the pool, and half of it is deleted in small pieces: what is left is no whole segment, but tables have room for the nodes of an
/// object whose pages lie far apart.
#[test]
fn tables_find_room_when_what_is_free_lies_scattered() {
    const MOST: u64 = 400;
    let sim = Sim::new(16 * MIB);
    let pool = make(&sim);
    let far_apart = |pages: u64| -> u64 {
        let object = pool.open_object(pool.create_object(&ObjectSpec::default()).unwrap()).unwrap();
        (1..=pages).take_while(|page| object.touch(page * 2 * MIB, 8, Access::Write).is_ok()).count() as u64
    };
    // A node for each page: half of the first segment's blocks are used.
    assert_eq!(far_apart(300), 300);
    let mut small = Vec::new();
    while let Ok(id) = pool.create_object(&ObjectSpec { size: 16 * 4096, ..ObjectSpec::default() }) {
        small.push(id);
    }
    assert!(small.len() > 150, "{} objects", small.len());
    small.iter().step_by(2).for_each(|id| pool.delete_object(*id).unwrap());
    assert_eq!(far_apart(MOST), MOST);
    check(&pool);
}
