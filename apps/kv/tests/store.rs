//! The store beside std's `HashMap`, with threads, growth, regions, secondary indexes and restarts.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use kv::{By, Error, Options, Region, Scanned, Secondary, Store};
use libtwz::Rights;
use libtwz::simulate::reboot;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Model = HashMap<Vec<u8>, Vec<u8>>;

/// Restarts are the whole process's: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Objects so small that everything grows past one.
fn small() -> Options {
    Options { data_bytes: 128 << 10, index_segments: 2, ..Options::default() }
}

fn contents(store: &Store) -> Model {
    let mut all = Model::new();
    let count = store
        .scan(|value| {
            assert!(all.insert(value.key()?, value.to_vec()?).is_none(), "a key twice");
            Ok(())
        })
        .unwrap();
    assert_eq!(count, Scanned { pairs: all.len() as u64, hidden: 0 });
    all
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, usize, u8),
    Delete(u8),
    Load(u8, u8),
    /// An orderly end and a start.
    Restart,
    /// A start without an end before.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![8 => 0..200_usize, 1 => 3_000..9_000_usize, 1 => Just(100_000_usize)];
    prop_oneof![
        8 => (any::<u8>(), size, any::<u8>()).prop_map(|(key, size, fill)| Step::Put(key, size, fill)),
        4 => any::<u8>().prop_map(Step::Delete),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(key, count)| Step::Load(key, count)),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

/// Keys of different lengths, the empty one among them.
fn key_of(number: u8) -> Vec<u8> {
    vec![number; usize::from(number) % 40]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn behaves_as_a_hash_map(steps in prop::collection::vec(step(), 1..120)) {
        let _alone = alone();
        let mut store = Store::create(&small()).unwrap();
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Put(key, size, fill) => {
                    let had = store.put(&key_of(key), &vec![fill; size]).unwrap();
                    prop_assert_eq!(had, model.insert(key_of(key), vec![fill; size]).is_some());
                }
                Step::Delete(key) => {
                    let was = store.delete(&key_of(key)).unwrap();
                    prop_assert_eq!(was, model.remove(&key_of(key)).is_some());
                }
                Step::Load(key, count) => {
                    let pairs: Vec<_> = (0..count).map(|i| (key_of(key.wrapping_add(i)), vec![i; 50])).collect();
                    store.load(Region(0), pairs.iter().map(|(k, v)| (&k[..], &v[..]))).unwrap();
                    model.extend(pairs);
                }
                Step::Restart => {
                    let id = store.id();
                    store.close().unwrap();
                    reboot();
                    prop_assert_eq!(contents(&Store::open_to_read(id).unwrap()), model.clone());
                    store = Store::open(id).unwrap();
                }
                Step::Crash => {
                    let id = store.id();
                    std::mem::forget(store);
                    reboot();
                    prop_assert_eq!(Store::open_to_read(id).err(), Some(Error::NeedsRecovery));
                    store = Store::open(id).unwrap();
                }
            }
            for key in [0, 1, 77, 255] {
                prop_assert_eq!(store.read(&key_of(key)).unwrap(), model.get(&key_of(key)).cloned());
            }
        }
        prop_assert_eq!(contents(&store), model);
    }
}

#[test]
fn grows_past_one_object_and_finds_everything_again() {
    let _alone = alone();
    let store = Store::create(&small()).unwrap();
    let count = 20_000_u32;
    for number in 0..count {
        assert!(!store.put(&number.to_le_bytes(), &(number * 3).to_le_bytes()).unwrap());
    }
    let stats = store.stats().unwrap();
    assert_eq!(stats.keys, u64::from(count));
    assert!(stats.data_objects > 4, "{stats:?}");
    assert!(stats.slots > 8 * 2048, "more than two objects of segments: {stats:?}");
    let id = store.id();
    store.close().unwrap();
    for crash in [false, true] {
        if crash {
            std::mem::forget(Store::open(id).unwrap());
        }
        reboot();
        let store = Store::open(id).unwrap();
        assert_eq!(store.stats().unwrap().recoveries, u64::from(crash));
        for number in 0..count {
            let value = store.get(&number.to_le_bytes()).unwrap().unwrap();
            assert_eq!((value.len(), value.word(0)), (4, u64::from(number * 3)));
        }
        assert!(store.get(&count.to_le_bytes()).unwrap().is_none());
        store.close().unwrap();
        if !crash {
            continue;
        }
        let store = Store::open(id).unwrap();
        assert!((0..count).all(|number| store.delete(&number.to_le_bytes()).unwrap()));
        assert_eq!(store.stats().unwrap().keys, 0);
    }
}

#[test]
fn freed_places_are_used_again() {
    let _alone = alone();
    let store = Store::create(&small()).unwrap();
    for round in 0..40_u8 {
        for key in 0..50_u8 {
            store.put(&[key], &vec![round; 1000]).unwrap();
        }
        for key in (0..50).step_by(3) {
            store.delete(&[key]).unwrap();
        }
    }
    let stats = store.stats().unwrap();
    assert_eq!(stats.data_objects, 1, "50 KB are in use at most: {stats:?}");
    // The lists are void after a start: the free blocks are found when the object is full.
    let id = store.id();
    store.close().unwrap();
    reboot();
    let store = Store::open(id).unwrap();
    for round in 0..200_u8 {
        store.put(&[200], &vec![round; 1000]).unwrap();
    }
    assert_eq!(store.stats().unwrap().data_objects, 1, "{:?}", store.stats().unwrap());
}

/// Threads put, replace, delete and read the same keys; every value read is one that some thread put whole.
#[test]
fn threads_see_whole_values() {
    let _alone = alone();
    let store =
        Store::create(&Options { data_bytes: 4 << 20, index_segments: 2, ..Options::default() }).unwrap();
    let value = |key: u32, round: u32| [key ^ round << 16; 40].map(u32::to_le_bytes).concat();
    std::thread::scope(|scope| {
        for thread in 0..3_u32 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..30_u32 {
                    for key in 0..400_u32 {
                        let shared = key % 40;
                        if (key + round) % 7 == thread {
                            store.delete(&shared.to_le_bytes()).unwrap();
                        }
                        store.put(&shared.to_le_bytes(), &value(shared, round)).unwrap();
                        let own = 1000 + thread * 1000 + key;
                        store.put(&own.to_le_bytes(), &value(own, round)).unwrap();
                    }
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                for turn in 0..20_000_u32 {
                    let key = turn % 40;
                    let Some(bytes) = store.read(&key.to_le_bytes()).unwrap() else { continue };
                    let words: Vec<u32> =
                        bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
                    assert_eq!(words.len(), 40, "a torn length");
                    assert!(words.iter().all(|word| *word == words[0] && *word & 0xffff == key), "{words:?}");
                }
            });
        }
    });
    for thread in 0..3_u32 {
        for key in 0..400_u32 {
            let own = 1000 + thread * 1000 + key;
            assert_eq!(store.read(&own.to_le_bytes()).unwrap(), Some(value(own, 29)));
        }
    }
    assert!(store.stats().unwrap().keys >= 1200);
}

#[test]
fn the_caller_chooses_where_a_value_goes() {
    let _alone = alone();
    let store = Store::create(&small()).unwrap();
    let secret = store.add_region(Rights::empty()).unwrap();
    store.put(b"public", b"for all").unwrap();
    store.put_in(secret, b"private", b"for few").unwrap();
    let place = |key: &[u8]| store.get(key).unwrap().unwrap().as_ptr() as usize >> 30;
    assert_ne!(place(b"public"), place(b"private"), "different objects");
    assert_ne!(store.objects(Region(0)).unwrap(), store.objects(secret).unwrap());
    // A key moves with its value.
    store.put(b"private", b"not any more").unwrap();
    assert_eq!(place(b"public"), place(b"private"));
    assert_eq!(store.put_in(Region(9), b"k", b"v").err(), Some(Error::NoRegion(9)));
}

#[test]
fn values_have_direct_pointers() {
    let _alone = alone();
    let store = Store::create(&small()).unwrap();
    store.put(b"k", b"0123456789").unwrap();
    let value = store.get(b"k").unwrap().unwrap();
    assert!((value.as_ptr() as usize).is_multiple_of(8) && value.is_current());
    assert_eq!(value.word(0), u64::from_le_bytes(*b"01234567"));
    assert_eq!((value.word(1), value.word(2), value.word(usize::MAX)), (0x3938, 0, 0));
    store.put(b"k", b"other").unwrap();
    assert!(!value.is_current());
    assert_eq!(value.to_vec(), Err(Error::Changed));
}

#[test]
fn too_large_values_and_readers_are_refused() {
    let _alone = alone();
    let store = Store::create(&small()).unwrap();
    assert!(matches!(store.put(b"k", &vec![0; 1 << 20]), Err(Error::TooLarge { .. })));
    assert!(store.get(b"k").unwrap().is_none());
    let reader = Store::open_to_read(store.id()).unwrap();
    assert_eq!(reader.put(b"k", b"v"), Err(Error::ReadOnly));
    assert_eq!(reader.delete(b"k"), Err(Error::ReadOnly));
    store.put(b"k", b"v").unwrap();
    assert_eq!(reader.read(b"k").unwrap().unwrap(), b"v");
}

fn keys(secondary: &Secondary, from: &str, to: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let [from, to] = secondary.by().range_of(from.as_bytes(), to.as_bytes()).unwrap();
    let scanned = secondary.range(from, to, |_, value| {
        keys.push(String::from_utf8(value.key()?).unwrap());
        Ok(())
    });
    assert_eq!(scanned, Ok(Scanned { pairs: keys.len() as u64, hidden: 0 }));
    keys
}

#[test]
fn secondary_indexes_follow() {
    let _alone = alone();
    let store = Store::create(&small()).unwrap();
    store.put(b"before", b"m, put before").unwrap();
    let text = store.add_secondary(By::Text, Rights::READ).unwrap();
    let number = store.add_secondary(By::Number, Rights::READ).unwrap();
    assert_eq!(store.secondary_ids().unwrap(), [text.id(), number.id()]);
    store.put(b"one", b"a").unwrap();
    store.put(b"two", b"c").unwrap();
    store.put(b"three", b"b").unwrap();
    store.put(b"empty", b"").unwrap();
    store.load(Region(0), [(&b"ten"[..], &b"10 of them"[..]), (&b"nine"[..], &b"9"[..])]).unwrap();
    assert_eq!(keys(&text, "a", "z"), ["one", "three", "two", "before"]);
    assert_eq!(keys(&number, "0", "18446744073709551615"), ["nine", "ten"]);
    store.put(b"one", b"x").unwrap();
    store.put(b"nine", b"11, now").unwrap();
    store.delete(b"three").unwrap();
    assert_eq!(keys(&text, "a", "z"), ["two", "before", "one"]);
    assert_eq!(keys(&text, "d", "p"), ["before"]);
    assert_eq!(keys(&number, "0", "11"), ["ten", "nine"]);
    // Whoever opens the store keeps them, without having been told of them.
    let (id, index) = (store.id(), text.id());
    store.close().unwrap();
    let store = Store::open(id).unwrap();
    store.put(b"later", b"l").unwrap();
    assert_eq!(keys(&text, "d", "p"), ["later", "before"]);
    // Across an orderly end, and a recovery.
    store.close().unwrap();
    reboot();
    assert_eq!(keys(&Secondary::open(index).unwrap(), "d", "p"), ["later", "before"]);
    let store = Store::open(id).unwrap();
    store.put(b"last", b"k").unwrap();
    std::mem::forget(store);
    reboot();
    assert_eq!(Secondary::open(index).err(), Some(Error::NeedsRecovery));
    let store = Store::open(id).unwrap();
    assert_eq!(keys(&Secondary::open(index).unwrap(), "d", "p"), ["last", "later", "before"]);
    store.delete(b"last").unwrap();
    assert_eq!(keys(&Secondary::open(index).unwrap(), "d", "p"), ["later", "before"]);
    for _ in 2..8 {
        store.add_secondary(By::Text, Rights::READ).unwrap();
    }
    assert_eq!(store.add_secondary(By::Text, Rights::READ).err(), Some(Error::Full));
    let reader = Store::open_to_read(id).unwrap();
    assert_eq!(reader.add_secondary(By::Text, Rights::READ).err(), Some(Error::ReadOnly));
}

/// Another writer, that opened the store before there was a secondary index, keeps it all the same.
#[test]
fn writers_that_are_there_already_keep_a_new_secondary_index() {
    let _alone = alone();
    let store = Store::create(&small()).unwrap();
    let other = Store::open(store.id()).unwrap();
    let index = store.add_secondary(By::Number, Rights::READ).unwrap();
    other.put(b"k", b"5").unwrap();
    assert_eq!(keys(&index, "0", "9"), ["k"]);
    other.put(b"k", b"7").unwrap();
    assert_eq!(keys(&index, "0", "6"), Vec::<String>::new());
    store.close().unwrap();
    other.delete(b"k").unwrap();
    assert_eq!(keys(&index, "0", "9"), Vec::<String>::new());
    let id = other.id();
    other.close().unwrap();
    reboot();
    let store = Store::open(id).unwrap();
    assert_eq!(store.stats().unwrap().recoveries, 0, "both ended in order");
}

/// What is read through a secondary index while others write is whole (K3), and of the number that it was found by; what nobody changes is
/// found, and found once (S3).
#[test]
fn values_of_a_secondary_index_are_whole_while_others_write() {
    let _alone = alone();
    let store =
        Store::create(&Options { data_bytes: 4 << 20, index_segments: 2, ..Options::default() }).unwrap();
    let value = |key: u32, round: u32| format!("{key} {}", format!("{round:04} ").repeat(40)).into_bytes();
    // Sizes that go into the same places.
    for key in 0..8_u32 {
        store.put(&key.to_le_bytes(), &value(key, 0)).unwrap();
    }
    const STAY: u32 = 200;
    for number in 0..STAY {
        store
            .put(format!("stays {number}").as_bytes(), format!("{} and stays", number % 8).as_bytes())
            .unwrap();
    }
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2_u32)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    for round in 1..400_u32 {
                        for key in (0..8_u32).filter(|key| key % 2 == thread) {
                            if round % 5 == 0 {
                                store.delete(&key.to_le_bytes()).unwrap();
                            }
                            store.put(&key.to_le_bytes(), &value(key, round)).unwrap();
                        }
                    }
                })
            })
            .collect();
        // Made while they write.
        let index = store.add_secondary(By::Number, Rights::READ).unwrap();
        let mut rounds = 0;
        while rounds < 3 || !writers.iter().all(|writer| writer.is_finished()) {
            rounds += 1;
            let mut stayed = 0;
            let read = index.range(0, 7, |number, value| {
                let (key, bytes) = (value.key()?, value.to_vec()?);
                let text = String::from_utf8(bytes).unwrap();
                let mut words = text.split_whitespace();
                assert_eq!(words.next(), Some(number.to_string().as_str()), "{text}");
                if key.starts_with(b"stays") {
                    stayed += 1;
                } else {
                    assert_eq!(u64::from(key[0]), number);
                    let first = words.next().unwrap();
                    assert!(text.len() == 202 && words.all(|word| word == first), "a mixture: {text}");
                }
                Ok(())
            });
            match read {
                Ok(_) => assert_eq!(stayed, STAY),
                // They left it alone at no time.
                Err(error) => assert_eq!(error, Error::Object(libtwz::Error::TimedOut)),
            }
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let mut found = Vec::new();
        index
            .range(0, 7, |number, value| {
                found.push((number, value.key()?));
                Ok(())
            })
            .unwrap();
        assert_eq!(found.len() as u32, STAY + 8, "each once: {found:?}");
    });
}

#[test]
fn values_of_a_secondary_index_say_when_they_left() {
    let _alone = alone();
    let store = Store::create(&small()).unwrap();
    let index = store.add_secondary(By::Number, Rights::READ).unwrap();
    store.put(b"k", b"1 first").unwrap();
    let mut held = None;
    index
        .range(0, 9, |_, value| {
            held = Some(value);
            Ok(())
        })
        .unwrap();
    let held = held.unwrap();
    assert!(held.is_current());
    store.put(b"k", b"2 other").unwrap();
    store.put(b"l", b"3 third").unwrap(); // goes to the place of the first
    assert!(!held.is_current());
    assert_eq!(held.to_vec(), Err(Error::Changed));
}

/// Buckets run over, split, and lose keys again: the guests of each must be found as long as they are there.
#[test]
fn keys_that_went_to_other_buckets_are_found() {
    let _alone = alone();
    let store = Store::create(&Options::default()).unwrap();
    let (mut model, mut random) = (HashMap::new(), 88_172_645_463_325_252_u64);
    for step in 0..60_000_u32 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let key = (random % 9000) as u32;
        if step % 3 == 2 {
            assert_eq!(store.delete(&key.to_le_bytes()).unwrap(), model.remove(&key).is_some());
        } else {
            assert_eq!(
                store.put(&key.to_le_bytes(), &step.to_le_bytes()).unwrap(),
                model.insert(key, step).is_some()
            );
        }
        if step % 10_000 == 9_999 {
            let mut asked = 0..9100_u32;
            let one = |key: &u32| store.get(&key.to_le_bytes()).unwrap().map(|value| value.word(0) as u32);
            assert!(asked.clone().all(|key| one(&key) == model.get(&key).copied()));
            // Many at once, in the same order.
            let keys = (0..9100_u32).map(u32::to_le_bytes);
            store
                .get_many(keys, |key, value| {
                    let key = u32::from_le_bytes(key);
                    assert_eq!(Some(key), asked.next());
                    assert_eq!(value.map(|value| value.word(0) as u32), model.get(&key).copied());
                    Ok(())
                })
                .unwrap();
            assert_eq!(asked.next(), None);
        }
    }
    assert!(store.get_many([b"none"], |_, _| Err(Error::Full)).is_err(), "what the caller says is passed on");
}

/// What an unflushed index holds after a power failure does not matter, whatever it is.
#[test]
fn a_damaged_index_is_rebuilt_and_damaged_data_is_no_danger() {
    let _alone = alone();
    let store = Store::create(&small()).unwrap();
    for number in 0..3000_u32 {
        store.put(&number.to_le_bytes(), &[7; 20]).unwrap();
    }
    let (id, data) = (store.id(), store.objects(Region(0)).unwrap());
    std::mem::forget(store);
    let window = libtwz::view::map(id, Rights::READ | Rights::WRITE).unwrap();
    let mut random = 1_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random >> 16
    };
    // The heap with the segments lies above the arena's header; leave root and metadata alone.
    for at in (700 << 10..(1 << 20)).step_by(8) {
        window.store(at, next());
    }
    reboot();
    let store = Store::open(id).unwrap();
    assert_eq!(store.stats().unwrap().keys, 3000);
    assert_eq!(store.read(&9_u32.to_le_bytes()).unwrap().unwrap(), [7; 20]);
    // Garbage in data: fewer records or errors, no panic, no access astray.
    let heap = libtwz::view::map(data[0], Rights::READ | Rights::WRITE).unwrap();
    for _ in 0..2000 {
        let at = (4096 + next() as usize % (900 << 10)) & !7;
        if heap.load(at) != 0 && at > 600 << 10 {
            heap.store(at, next());
        }
    }
    std::mem::forget(store);
    reboot();
    if let Ok(store) = Store::open(id) {
        for number in 0..3000_u32 {
            let _ = store.read(&number.to_le_bytes());
            let _ = store.put(&number.to_le_bytes(), &[8; 20]);
            let _ = store.delete(&number.to_le_bytes());
        }
        let _ = store.scan(|value| value.to_vec().map(drop));
    }
}
