//! Stores of which a program may not have everything. A program is a mapping of the same objects with rights of its own: what it may not read
//! cannot be mapped, and what it may not write faults (which ends this process, so no test could pass).

#![allow(clippy::unwrap_used, reason = "tests")]

use kv::{By, Error, Options, Region, Scanned, Secondary, Store};
use libtwz::prelude::ObjectId;
use libtwz::sys::hosted::{self, MemoryStore, Piece, use_store};
use libtwz::sys::{CreateSpec, Durability, Stat};
use libtwz::{Error as Objects, Rights};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);

/// The objects of all programs.
struct Machine {
    memory: MemoryStore,
    boot: Mutex<u32>,
}

/// The objects as one program has them: all, but for what is said of some.
struct Program {
    machine: Arc<Machine>,
    granted: HashMap<ObjectId, Rights>,
}

impl hosted::Store for Program {
    fn create(&self, spec: &CreateSpec) -> libtwz::Result<ObjectId> {
        self.machine.memory.create(spec)
    }
    fn delete(&self, id: ObjectId) -> libtwz::Result<()> {
        self.machine.memory.delete(id)
    }
    fn copy(&self, source: ObjectId, spec: &CreateSpec) -> libtwz::Result<ObjectId> {
        self.machine.memory.copy(source, spec)
    }
    fn tie(&self, object: ObjectId, keeper: ObjectId) -> libtwz::Result<()> {
        self.machine.memory.tie(object, keeper)
    }
    fn keep(&self, id: ObjectId) -> libtwz::Result<()> {
        self.machine.memory.keep(id)
    }
    fn trim(&self, id: ObjectId, range: std::ops::Range<u64>) -> libtwz::Result<()> {
        self.machine.memory.trim(id, range)
    }
    fn stat(&self, id: ObjectId) -> libtwz::Result<Stat> {
        match self.granted.get(&id) {
            Some(granted) if granted.is_empty() => Err(Objects::NotPermitted(id)),
            Some(&granted) => Ok(Stat { granted, ..self.machine.memory.stat(id)? }),
            None => self.machine.memory.stat(id),
        }
    }
    fn piece(&self, id: ObjectId, offset: u64) -> libtwz::Result<Piece> {
        self.machine.memory.piece(id, offset)
    }
    fn root(&self) -> Option<ObjectId> {
        None
    }
    fn set_root(&self, _id: ObjectId) -> libtwz::Result<()> {
        Ok(())
    }
    fn durability(&self) -> Durability {
        Durability::Program
    }
    fn boot_generation(&self) -> u32 {
        *self.machine.boot.lock().unwrap()
    }
}

impl Machine {
    /// Runs a program that has `granted` of some objects and all of the others, to its end: what it did not close stays as it is.
    fn run<R>(self: &Arc<Self>, granted: &[(ObjectId, Rights)], body: impl FnOnce() -> R) -> R {
        let program = Program { machine: Arc::clone(self), granted: granted.iter().copied().collect() };
        use_store(Arc::new(program)).unwrap();
        let result = body();
        // SAFETY: stores are closed or forgotten, and one test runs at a time, in one thread.
        unsafe { hosted::shut_down() };
        result
    }

    /// The machine fails, and starts. What was stored stays.
    fn start_again(&self) {
        *self.boot.lock().unwrap() += 1;
    }
}

/// A store with region 0 and one more, and the objects of both.
struct Made {
    machine: Arc<Machine>,
    store: ObjectId,
    objects: [ObjectId; 2],
    /// A process has one set of mappings.
    _one: MutexGuard<'static, ()>,
}

const OTHER: Region = Region(1);

fn made() -> Made {
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let machine = Arc::new(Machine { memory: MemoryStore::new().unwrap(), boot: Mutex::new(1) });
    let (store, objects) = machine.run(&[], || {
        let options = Options { data_bytes: 128 << 10, index_segments: 2, ..Options::default() };
        let store = Store::create(&options).unwrap();
        assert_eq!(store.add_region(Rights::empty()), Ok(OTHER));
        store.put(b"mine", b"1").unwrap();
        store.put_in(OTHER, b"theirs", b"2").unwrap();
        let objects = [Region(0), OTHER].map(|region| store.objects(region).unwrap()[0]);
        let id = store.id();
        store.close().unwrap();
        (id, objects)
    });
    Made { machine, store, objects, _one: one }
}

/// What a program says that has these rights on region 1.
fn refused<T>(made: &Made) -> Result<T, Error> {
    Err(Error::Object(Objects::NotPermitted(made.objects[1])))
}

fn value(store: &Store, key: &[u8]) -> Option<Vec<u8>> {
    store.read(key).unwrap()
}

#[test]
fn a_writer_needs_rights_only_where_it_writes() {
    let made = made();
    for rights in [Rights::empty(), Rights::READ] {
        for next_boot in [false, true] {
            if next_boot {
                made.machine.start_again();
            }
            made.machine.run(&[(made.objects[1], rights)], || {
                let store = Store::open(made.store).unwrap();
                assert_eq!(store.put(b"mine", b"3"), Ok(true));
                assert_eq!(store.put(b"new", b"4"), Ok(false));
                assert_eq!(store.delete(b"new"), Ok(true));
                assert_eq!(store.put_in(OTHER, b"new", b"5"), refused(&made), "to put there");
                assert_eq!(store.put_in(OTHER, b"mine", b"5"), refused(&made));
                assert_eq!(store.get(b"new").unwrap().map(|_| ()), None);
                assert_eq!(value(&store, b"mine").unwrap(), b"3");
                store.close().unwrap();
            });
        }
    }
    // It was closed in order by somebody who had not all of it.
    made.machine.start_again();
    made.machine.run(&[], || {
        let store = Store::open(made.store).unwrap();
        assert_eq!(store.stats().unwrap().recoveries, 0);
        assert_eq!(
            (value(&store, b"mine").unwrap(), value(&store, b"theirs").unwrap()),
            (b"3".into(), b"2".into())
        );
        assert_eq!(store.stats().unwrap().keys, 2);
    });
}

#[test]
fn what_may_not_be_read_is_skipped_and_counted() {
    let made = made();
    let rights = [(made.objects[1], Rights::empty())];
    for next_boot in [false, true] {
        if next_boot {
            made.machine.start_again();
        }
        made.machine.run(&rights, || {
            for store in [Store::open(made.store).unwrap(), Store::open_to_read(made.store).unwrap()] {
                let mut seen = Vec::new();
                let scanned = store.scan(|value| {
                    seen.push(value.key()?);
                    Ok(())
                });
                assert_eq!(scanned, Ok(Scanned { pairs: 1, hidden: 1 }));
                assert_eq!(seen, [b"mine"]);
                let stats = store.stats().unwrap();
                assert_eq!((stats.keys, stats.data_objects, stats.hidden_objects), (2, 2, 1));
                assert_eq!(stats.data_capacity, 128 << 10);
                assert_eq!(store.read(b"theirs"), refused(&made));
                store.close().unwrap();
            }
        });
    }
}

/// A put or delete over a record that may not be written is refused, leaves no lock held and no record behind.
#[test]
fn what_is_refused_changes_nothing() {
    let made = made();
    for rights in [Rights::READ, Rights::empty()] {
        made.machine.run(&[(made.objects[1], rights)], || {
            let store = Store::open(made.store).unwrap();
            let spare = || store.stats().unwrap().data_spare;
            for _ in 0..2 {
                let before = spare();
                assert_eq!(store.put(b"theirs", b"no"), refused(&made));
                assert_eq!(store.delete(b"theirs"), refused(&made));
                let pairs = [(&b"theirs"[..], &b"no"[..]), (b"more", b"no")];
                assert_eq!(store.load(Region(0), pairs), refused(&made));
                assert_eq!(spare(), before, "nothing was appended, not even to be taken back");
                assert_eq!(store.put(b"mine", b"yes"), Ok(true), "no lock is held");
            }
            std::mem::forget(store); // found by walking, if it is there
        });
        made.machine.start_again();
        made.machine.run(&[], || {
            let store = Store::open(made.store).unwrap();
            assert_eq!(value(&store, b"theirs").unwrap(), b"2");
            assert_eq!(value(&store, b"mine").unwrap(), b"yes");
            assert_eq!(value(&store, b"more"), None);
            assert_eq!(store.put_in(OTHER, b"theirs", b"2"), Ok(true), "no lock is held");
            store.close().unwrap();
        });
    }
}

/// What was appended before an error is taken back: a power failure does not bring it.
#[test]
fn what_fails_after_it_was_appended_is_taken_back() {
    let made = made();
    made.machine.run(&[], || {
        let store = Store::open(made.store).unwrap();
        let large = vec![0; 1 << 20];
        let pairs = [(&b"mine"[..], &b"no"[..]), (b"more", b"no"), (b"large", &large)];
        assert!(matches!(store.load(Region(0), pairs), Err(Error::TooLarge { .. })));
        std::mem::forget(store);
    });
    made.machine.start_again();
    made.machine.run(&[], || {
        let store = Store::open(made.store).unwrap();
        assert_eq!(store.stats().unwrap().recoveries, 1);
        assert_eq!((value(&store, b"mine").unwrap(), value(&store, b"more")), (b"1".into(), None));
    });
}

/// After a failure somebody who may not read everything gets to know what is missing; and who has it, puts the store in order.
#[test]
fn a_recovery_names_what_it_needs() {
    let made = made();
    made.machine.run(&[], || {
        let store = Store::open(made.store).unwrap();
        store.put_in(OTHER, b"late", b"6").unwrap();
        std::mem::forget(store);
    });
    made.machine.start_again();
    for _ in 0..2 {
        made.machine.run(&[(made.objects[1], Rights::empty())], || {
            assert_eq!(Store::open(made.store).err(), Some(Error::CannotRecover(made.objects[1])));
            assert_eq!(Store::open_to_read(made.store).err(), Some(Error::NeedsRecovery));
        });
    }
    let text = Error::CannotRecover(made.objects[1]).to_string();
    assert!(text.contains(&made.objects[1].to_string()), "{text}");
    // To read all of it is enough where nothing is to be made free.
    made.machine.run(&[(made.objects[1], Rights::READ)], || {
        let store = Store::open(made.store).unwrap();
        assert_eq!(value(&store, b"late").unwrap(), b"6");
        assert_eq!(store.put(b"mine", b"7"), Ok(true));
        assert_eq!(store.put_in(OTHER, b"mine", b"7"), refused(&made));
        store.close().unwrap();
    });
    // The ends of chunks were left for somebody who may write there.
    made.machine.run(&[], || {
        let store = Store::open(made.store).unwrap();
        assert_eq!(store.put_in(OTHER, b"later", b"8"), Ok(false));
        store.close().unwrap();
    });
    made.machine.start_again();
    made.machine.run(&[], || {
        let store = Store::open(made.store).unwrap();
        assert_eq!(store.stats().unwrap().recoveries, 1);
        for (key, is) in [(&b"late"[..], b"6"), (b"later", b"8"), (b"mine", b"7"), (b"theirs", b"2")] {
            assert_eq!(value(&store, key).unwrap(), is);
        }
    });
}

/// An index that may only be read is an error, and no fault.
#[test]
fn who_may_not_write_the_index_is_told() {
    let made = made();
    made.machine.run(&[(made.store, Rights::READ)], || {
        let refused = Some(Error::Object(Objects::NotPermitted(made.store)));
        assert_eq!(Store::open(made.store).err(), refused);
        assert_eq!(value(&Store::open_to_read(made.store).unwrap(), b"mine").unwrap(), b"1");
    });
}

#[test]
fn a_secondary_index_has_rights_of_its_own() {
    let made = made();
    let index = made.machine.run(&[], || {
        let store = Store::open(made.store).unwrap();
        let index = store.add_secondary(By::Number, Rights::READ).unwrap().id();
        store.close().unwrap();
        index
    });
    let found = || {
        let mut found = Vec::new();
        let scanned = Secondary::open(index).unwrap().range(0, 9, |number, value| {
            assert_eq!(value.word(0), u64::from(b'0') + number);
            found.push(value.key()?);
            Ok(())
        });
        (found, scanned.unwrap().hidden)
    };
    // A reader of it and of one region, not of the primary index.
    let granted = [(made.store, Rights::empty()), (made.objects[1], Rights::empty()), (index, Rights::READ)];
    made.machine.run(&granted, || {
        assert!(Store::open_to_read(made.store).is_err());
        assert_eq!(found(), (vec![b"mine".to_vec()], 1));
    });
    made.machine.run(&[(made.store, Rights::empty()), (index, Rights::READ)], || {
        assert_eq!(found(), (vec![b"mine".to_vec(), b"theirs".to_vec()], 0));
    });
    // No writer goes past it.
    made.machine.run(&[(index, Rights::READ)], || {
        let refused = Some(Error::Object(Objects::NotPermitted(index)));
        assert_eq!(Store::open(made.store).err(), refused);
    });
    // One that cannot be filled is not the store's.
    made.machine.run(&[(made.objects[1], Rights::empty())], || {
        let store = Store::open(made.store).unwrap();
        assert_eq!(store.add_secondary(By::Text, Rights::READ).err(), refused::<()>(&made).err());
        assert_eq!(store.secondary_ids(), Ok(vec![index]));
        assert_eq!(store.put(b"mine", b"5"), Ok(true));
        store.close().unwrap();
    });
    made.machine.run(&[(index, READ_WRITE)], || assert_eq!(found().0, [b"theirs", &b"mine"[..]]));
}
