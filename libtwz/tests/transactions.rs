//! Transactions and the allocator, without power failures (those are in `crash/main.rs`).

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::collections::{BTreeMap, HashMap, List, RbTree, Vec as PVec};
use libtwz::prelude::*;
use libtwz::sys::{Platform, Seam};

#[derive(Invariant)]
#[repr(C)]
struct Root {
    a: PCell<u64>,
    b: PCell<u64>,
    many: [PCell<u64>; 4096],
    next: InvPtr<Root>,
}

#[derive(Invariant)]
#[repr(C)]
struct Empties {
    before: PCell<u64>,
    nothing: PCell<()>,
    after: PCell<u64>,
}

#[derive(Invariant)]
#[repr(C)]
struct Sets {
    tree: BTreeMap<u64, ()>,
    hash: HashMap<u64, ()>,
    rb: RbTree<u64, ()>,
    vec: PVec<()>,
    list: List<()>,
}

fn root() -> Object<Root> {
    let root = Root {
        a: PCell::new(1),
        b: PCell::new(2),
        many: [const { PCell::new(0) }; 4096],
        next: InvPtr::null(),
    };
    ObjectBuilder::new().build(root).unwrap()
}

/// In the machine nothing unwinds: the thread ends in the middle, and whoever comes next puts back what it had changed.
#[test]
fn a_panic_in_a_transaction_undoes_it() {
    // Where a panic ends the process there is nobody who comes next.
    if !cfg!(any(panic = "unwind", feature = "guest")) {
        return;
    }
    let (o, mine) = (root(), root());
    for as_second in [false, true] {
        let failing = std::thread::spawn(move || {
            o.tx(|tx| {
                tx.set(&o.a, 10)?;
                assert_eq!(o.a.get(), 1, "this panic is expected");
                Ok(())
            })
        });
        assert!(failing.join().is_err());
        let home = if as_second { mine } else { o };
        home.tx(|tx| tx.set(&home.a, 1).and_then(|()| tx.set(&o.b, 20))).unwrap();
        assert_eq!((o.a.get(), o.b.get()), (1, 20));
    }
}

/// Runs `body` on a thread, and returns when the platform knows that it has ended.
fn on_a_thread_that_ends(body: impl FnOnce() + Send + 'static) {
    let run = move || {
        body();
        Platform::thread_id()
    };
    let thread = std::thread::spawn(run).join().unwrap();
    while Platform::thread_lives(thread) {
        Platform::yield_now();
    }
}

/// A thread that ends in a transaction leaves both objects locked and half changed: who opens one, begins in it or joins it finds neither.
#[test]
fn a_thread_that_ends_in_a_transaction_is_undone_by_whoever_comes_next() {
    for how in 0..4 {
        let (home, other) = (root(), root());
        home.tx(|tx| tx.set(&home.b, 3).and_then(|()| tx.put(&other.b, 4))).unwrap();
        on_a_thread_that_ends(move || {
            let tx = home.begin().unwrap();
            tx.set(&home.a, 10).unwrap();
            tx.set(&other.a, 20).unwrap();
            tx.put(&other.b, 30).unwrap();
            tx.alloc_in(other.window(), [7_u64; 8]).unwrap();
            std::mem::forget(tx);
        });
        match how {
            0 => other.tx(|tx| tx.set(&other.many[0], 1)).unwrap(),
            1 => home.tx(|tx| tx.set(&home.many[0], 1)).unwrap(),
            2 => {
                Object::<Root>::open(other.id()).unwrap();
            }
            _ => {
                let third = root();
                third.tx(|tx| tx.set(&third.a, 1).and_then(|()| tx.set(&other.many[0], 1))).unwrap();
            }
        }
        Object::<Root>::open(home.id()).unwrap();
        assert_eq!([home.a.get(), home.b.get(), other.a.get(), other.b.get()], [1, 3, 1, 4], "{how}");
        assert_eq!(other.census().unwrap().bytes, 0);
        home.tx(|tx| tx.set(&home.a, 5).and_then(|()| tx.set(&other.a, 6))).unwrap();
        assert_eq!([home.a.get(), other.a.get()], [5, 6]);
    }
}

#[test]
fn an_error_puts_everything_back() {
    let o = root();
    let result: Result<()> = o.tx(|tx| {
        tx.set(&o.a, 10)?;
        tx.set(&o.b, 20)?;
        tx.set(&o.a, 30)?;
        assert_eq!(o.a.get(), 30, "visible at once");
        Err(Error::Aborted)
    });
    assert_eq!(result, Err(Error::Aborted));
    assert_eq!((o.a.get(), o.b.get()), (1, 2));
    o.tx(|tx| tx.set(&o.a, 11)).unwrap();
    assert_eq!(o.a.get(), 11);
}

#[test]
fn a_dropped_transaction_is_undone() {
    let o = root();
    let tx = o.begin().unwrap();
    tx.set(&o.a, 5).unwrap();
    drop(tx);
    assert_eq!(o.a.get(), 1);
    let tx = o.begin().unwrap();
    tx.set(&tx.base().a, 6).unwrap();
    tx.commit().unwrap();
    assert_eq!(o.a.get(), 6);
}

#[test]
fn a_nested_failure_undoes_its_part() {
    let o = root();
    o.tx(|tx| {
        tx.set(&o.a, 5)?;
        let inner = tx.nested(|tx| {
            tx.set(&o.a, 6)?;
            tx.set(&o.b, 7)?;
            tx.alloc([0_u64; 8])?;
            Err::<(), _>(Error::Aborted)
        });
        assert_eq!(inner, Err(Error::Aborted));
        assert_eq!((o.a.get(), o.b.get()), (5, 2));
        tx.set(&o.b, 8)
    })
    .unwrap();
    assert_eq!((o.a.get(), o.b.get()), (5, 8));
    assert_eq!(o.census().unwrap().bytes, 0, "the nested allocation is undone");
}

#[test]
fn a_nested_failure_puts_back_a_block_that_was_new() {
    let o = root();
    let block = o
        .tx(|tx| {
            let block = tx.alloc([const { PCell::new(0_u64) }; 8])?;
            tx.set(&block[0], 1)?;
            let failing = |tx: &Tx| {
                tx.set(&block[0], 2)?;
                tx.nested(|tx| tx.set(&block[1], 3))?;
                tx.set(&block[1], 4).and(Err::<(), _>(Error::Aborted))
            };
            assert_eq!(tx.nested(failing), Err(Error::Aborted));
            tx.set(&block[2], 5)?;
            tx.nested(|tx| tx.set(&block[3], 6))?;
            Ok(block)
        })
        .unwrap();
    assert_eq!([0, 1, 2, 3].map(|i| block[i].get()), [1, 0, 5, 6]);
}

#[test]
fn a_nested_failure_does_not_heal_what_failed_before() {
    let o = root();
    let result: Result<()> = o.tx(|tx| {
        tx.set(&o.a, 5)?;
        assert!(tx.record_range(8, 8).is_err(), "not in an object: the transaction has failed");
        let inner = tx.nested(|tx| tx.set(&o.b, 6));
        assert_eq!(inner, Err(Error::TransactionFailed));
        let healthy = tx.nested(|_| Ok(()));
        assert_eq!(healthy, Ok(()));
        assert_eq!(tx.set(&o.b, 7), Err(Error::TransactionFailed));
        Ok(())
    });
    assert_eq!(result, Err(Error::TransactionFailed));
    assert_eq!((o.a.get(), o.b.get()), (1, 2));
}

#[test]
fn an_abort_after_a_nested_failure_restores_the_start() {
    let o = root();
    let result: Result<()> = o.tx(|tx| {
        tx.set(&o.a, 5)?;
        let _ = tx.nested(|tx| tx.set(&o.a, 6).and(Err::<(), _>(Error::Aborted)));
        tx.set(&o.b, 8)?;
        tx.set(&o.a, 9)?;
        Err(Error::Aborted)
    });
    assert!(result.is_err());
    assert_eq!((o.a.get(), o.b.get()), (1, 2));
}

#[test]
fn the_log_grows_past_its_first_chunk() {
    let o = root();
    let fill = |base: u64, fail: bool| -> Result<()> {
        o.tx(|tx| {
            for round in 0..3_u64 {
                for (i, cell) in o.many.iter().enumerate() {
                    tx.record(cell)?;
                    tx.set_recorded(cell, base + round * 10_000 + i as u64)?;
                }
            }
            if fail { Err(Error::Aborted) } else { Ok(()) }
        })
    };
    fill(100, false).unwrap();
    assert!(o.many.iter().enumerate().all(|(i, c)| c.get() == 20_100 + i as u64));
    fill(500_000, true).unwrap_err();
    assert!(o.many.iter().enumerate().all(|(i, c)| c.get() == 20_100 + i as u64));
}

/// However many small transactions use it, it grows once; with large ones it grows until some dozens have room.
#[test]
fn the_log_is_as_long_as_transactions_are_large() {
    let taken = |words: usize| {
        let o = root();
        let meta = usize::try_from(twz_abi::object::META_OFFSET).unwrap();
        let log = usize::try_from(o.window().load(meta + 24)).unwrap();
        let before = o.window().load(log + 16);
        (0..3000)
            .for_each(|i| o.tx(|tx| o.many[..words].iter().try_for_each(|cell| tx.put(cell, i))).unwrap());
        (before - o.window().load(log + 16)) >> 10
    };
    assert_eq!([1, 20, 150, 600].map(taken), [64, 64, 64 + 128, 64 + 128 + 256]);
}

#[test]
fn records_side_by_side_are_put_back_each() {
    let o = root();
    let is_first = |count: usize| {
        o.many.iter().enumerate().all(|(i, cell)| cell.get() == if i < count { i as u64 + 1 } else { 0 })
    };
    let change = |tx: &Tx, from: usize, to: usize, value: u64| -> Result<()> {
        o.many[from..to].iter().try_for_each(|cell| tx.record(cell))?;
        (from..to).try_for_each(|i| tx.set_recorded(&o.many[i], value * (i as u64 + 1)))
    };
    // More of them than an entry of the log has room for.
    o.tx(|tx| change(tx, 0, 300, 1)).unwrap();
    assert!(is_first(300));
    o.tx(|tx| {
        change(tx, 0, 300, 2)?;
        Err::<(), _>(Error::Aborted)
    })
    .unwrap_err();
    assert!(is_first(300));
    // A nested transaction begins where the outer one's record ends; and records that wait for their change go on behind it.
    o.tx(|tx| {
        change(tx, 0, 8, 3)?;
        tx.nested(|tx| {
            change(tx, 8, 16, 4)?;
            Err::<(), _>(Error::Aborted)
        })
        .unwrap_err();
        assert_eq!((o.many[7].get(), o.many[8].get()), (24, 9));
        tx.record(&o.many[16])?;
        tx.nested(|tx| change(tx, 17, 24, 4).and(Err::<(), _>(Error::Aborted))).unwrap_err();
        tx.set_recorded(&o.many[16], 5)?;
        Err::<(), _>(Error::Aborted)
    })
    .unwrap_err();
    assert!(is_first(300));
}

#[test]
fn several_objects_change_together() {
    let (x, y) = (root(), root());
    let both = |fail: bool| -> Result<()> {
        x.tx(|tx| {
            tx.set(&x.a, x.a.get() + 1)?;
            tx.set(&y.a, y.a.get() + 1)?;
            if fail { Err(Error::Aborted) } else { Ok(()) }
        })
    };
    both(false).unwrap();
    assert_eq!((x.a.get(), y.a.get()), (2, 2));
    both(true).unwrap_err();
    assert_eq!((x.a.get(), y.a.get()), (2, 2));
    y.tx(|tx| tx.set(&y.a, 9)).unwrap();
    assert_eq!(y.a.get(), 9, "not undone by what it took part in before");
}

#[test]
fn the_same_object_twice_is_told() {
    let o = root();
    o.tx(|_| {
        assert!(matches!(o.tx(|_| Ok(())), Err(Error::Busy(_))));
        Ok(())
    })
    .unwrap();
    let other = root();
    let held = other.begin().unwrap();
    let result = std::thread::scope(|scope| {
        scope.spawn(|| o.tx(|tx| tx.set(&o.a, 3).and_then(|()| tx.set(&other.a, 3)))).join().unwrap()
    });
    assert_eq!(result, Err(Error::Busy(other.id())));
    assert_eq!(o.a.get(), 1, "all of it");
    drop(held);
}

#[test]
fn threads_take_turns() {
    let o = root();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    o.tx(|tx| {
                        tx.set(&o.a, o.a.get() + 1)?;
                        tx.set(&o.b, o.b.get() + 1)
                    })
                    .unwrap();
                }
            });
        }
    });
    assert_eq!((o.a.get(), o.b.get()), (2001, 2002));
}

#[test]
fn freed_blocks_are_used_again_and_nothing_leaks() {
    let o = root();
    let mut blocks: Vec<GlobalPtr<[u64; 6]>> = Vec::new();
    let mut seed = 1_u64;
    for _ in 0..2000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if blocks.len() < 50 || seed >> 63 == 0 {
            blocks.push(GlobalPtr::to(o.tx(|tx| tx.alloc([seed; 6])).unwrap()).unwrap());
        } else {
            let victim = blocks.swap_remove(usize::try_from(seed >> 40).unwrap() % blocks.len());
            let victim = victim.resolve(Rights::READ | Rights::WRITE).unwrap();
            // SAFETY: it was allocated here and is in no list any more.
            o.tx(|tx| unsafe { tx.free(victim) }).unwrap();
        }
        let census = o.census().unwrap();
        assert_eq!(census.bytes, census.free_bytes + blocks.len() * 48);
    }
}

#[test]
fn an_abort_gives_blocks_back_and_keeps_freed_ones() {
    let o = root();
    let kept = o.tx(|tx| tx.alloc([7_u64; 6])).unwrap();
    let before = o.census().unwrap();
    let result: Result<()> = o.tx(|tx| {
        // SAFETY: nobody else uses it; the transaction is undone.
        unsafe { tx.free(kept) }?;
        for size in 0..20 {
            tx.alloc_raw(tx.home(), 100 * size + 1, 64)?;
        }
        Err(Error::Aborted)
    });
    assert!(result.is_err());
    assert_eq!(o.census().unwrap(), before);
    assert_eq!(*kept, [7; 6]);
}

#[test]
fn what_does_not_fit_goes_to_the_next_object() {
    let o = ObjectBuilder::new().data_bytes(4096).build(PCell::new(0_u64)).unwrap();
    let mut homes = std::collections::BTreeSet::new();
    for i in 0..300_u64 {
        let block = o.tx(|tx| tx.alloc([i; 6])).unwrap();
        assert_eq!(*block, [i; 6]);
        homes.insert(GlobalPtr::to(block).unwrap().id());
    }
    assert_eq!(homes.len(), 300_usize.div_ceil(4096 / 48), "full ones are filled first");
}

#[test]
fn a_damaged_free_list_is_an_error() {
    let o = root();
    let block = o.tx(|tx| tx.alloc([1_u64; 6])).unwrap();
    let second = o.tx(|tx| tx.alloc([1_u64; 6])).unwrap();
    for block in [block, second] {
        // SAFETY: nobody else uses it.
        o.tx(|tx| unsafe { tx.free(block) }).unwrap();
    }
    let offset = core::ptr::from_ref(second).addr() - o.window().base();
    for bad in [1, 8, 0x3000_0000, u64::MAX, offset as u64 + 8] {
        o.window().store(offset, bad);
        assert!(matches!(o.tx(|tx| tx.alloc([1_u64; 6]).map(drop)), Err(Error::Damaged { .. })), "{bad:#x}");
        assert!(o.census().is_err());
    }
    o.window().store(offset, offset as u64);
    assert!(o.census().is_err(), "a cycle");
}

#[test]
fn garbage_in_the_log_is_survived() {
    let o = root();
    let meta = usize::try_from(twz_abi::object::META_OFFSET).unwrap();
    let log = usize::try_from(o.window().load(meta + 24)).unwrap();
    let mut seed = 99_u64;
    let mut written = std::collections::BTreeSet::from([1]);
    for round in 0..300 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // The set of dirty lines, and the batches behind it.
        let at = log + 128 + usize::try_from(seed >> 50).unwrap() % 8192 / 8 * 8;
        o.window().store(at, seed);
        o.tx(|tx| tx.set(&o.a, seed)).unwrap();
        assert_eq!(o.a.get(), seed);
        written.insert(seed);
        if round % 10 == 9 {
            // A lock of no boot, as after a power failure: opening recovers from what is left of the log.
            o.window().store(log + 64, 0);
            let again = Object::<Root>::open(o.id()).unwrap();
            assert!(written.contains(&again.a.get()), "what no transaction wrote: {:#x}", again.a.get());
            assert_eq!(again.b.get(), 2);
            o.tx(|tx| tx.set(&o.a, round)).unwrap();
            written.insert(round);
        }
    }
}

#[test]
fn what_is_mapped_for_reading_is_not_changed() {
    let o = ObjectBuilder::new().build(PVec::<u64>::new()).unwrap();
    o.push(1).unwrap();
    let reader = Object::<PVec<u64>>::open_with(o.id(), Rights::READ).unwrap();
    let refused = Error::NotPermitted(o.id());
    assert_eq!(reader.push(2), Err(refused), "as a home, from a collection");
    assert_eq!(reader.tx(|_| Ok(())), Err(refused), "as a home");
    assert_eq!(libtwz::tx::checkpoint(reader.window()), Err(refused));
    // As a participant.
    let home = ObjectBuilder::new().build(PCell::new(0_u64)).unwrap();
    let result = home.tx(|tx| tx.set(&home, 5).and_then(|()| reader.push_in(tx, 3)));
    assert_eq!((result, home.get()), (Err(refused), 0));
    assert_eq!(reader.iter().collect::<Result<Vec<_>>>(), Ok(vec![1]));
    o.push(2).unwrap();
    assert_eq!(reader.get(1), Ok(Some(2)));
}

#[test]
fn a_nested_failure_keeps_the_puts_from_before_it() {
    let o = root();
    o.tx(|tx| {
        tx.put(&o.a, 5)?;
        let inner = tx.nested(|tx| {
            tx.apply()?;
            assert_eq!(o.a.get(), 5);
            tx.put(&o.b, 6)?;
            tx.put(&o.many[0], 7)?;
            tx.put(&o.many[1], 7)?;
            Err::<(), _>(Error::Aborted)
        });
        assert_eq!((inner, o.a.get()), (Err(Error::Aborted), 1));
        tx.put(&o.many[2], 8)
    })
    .unwrap();
    assert_eq!((o.a.get(), o.b.get()), (5, 2), "what came before the failed part is committed");
    assert_eq!([0, 1, 2].map(|i| o.many[i].get()), [0, 0, 8]);
}

#[test]
fn values_without_bytes_are_stored_as_any_others() {
    let o = ObjectBuilder::new().build(Empties {
        before: PCell::new(0),
        nothing: PCell::new(()),
        after: PCell::new(0),
    });
    let o = o.unwrap();
    o.tx(|tx| {
        tx.put(&o.before, 1)?;
        tx.put(&o.nothing, ())?;
        tx.put(&o.after, 2)?;
        tx.set(&o.nothing, ())
    })
    .unwrap();
    assert_eq!((o.before.get(), o.after.get()), (1, 2));
    let sets = ObjectBuilder::new()
        .build(Sets {
            tree: BTreeMap::new(),
            hash: HashMap::new(),
            rb: RbTree::new(),
            vec: PVec::new(),
            list: List::new(),
        })
        .unwrap();
    for key in 0..100 {
        assert_eq!(sets.tree.insert(key, ()), Ok(None));
        assert_eq!(sets.hash.insert(key, ()), Ok(None));
        assert_eq!(sets.rb.insert(key, ()), Ok(None));
        sets.vec.push(()).unwrap();
        sets.list.push_back(()).unwrap();
    }
    for key in 0..100 {
        let found = [sets.tree.get(&key), sets.hash.get(&key), sets.rb.get(&key)];
        assert_eq!(found, [Ok(Some(())); 3], "key {key}");
    }
    assert_eq!(
        (sets.tree.len(), sets.hash.len(), sets.rb.len(), sets.vec.len(), sets.list.len()),
        (100, 100, 100, 100, 100)
    );
    assert_eq!(sets.tree.remove(&5), Ok(Some(())));
    assert_eq!((sets.tree.get(&5), sets.tree.iter().count()), (Ok(None), 99));
}

/// Half-words, and values whose last entry is one: `long` is an entry of the largest size, and four bytes more.
#[derive(Invariant)]
#[repr(C)]
struct HalvesRoot {
    low: PCell<u32>,
    high: PCell<u32>,
    long: PCell<[u32; 257]>,
    odd: [PCell<[u8; 3]>; 4],
    last: PCell<u32>,
}

#[test]
fn half_words_change_alone() {
    let root = HalvesRoot {
        low: PCell::new(1),
        high: PCell::new(2),
        long: PCell::new([3; 257]),
        odd: [const { PCell::new([4; 3]) }; 4],
        last: PCell::new(5),
    };
    let o = ObjectBuilder::new().build(root).unwrap();
    let now = || (o.low.get(), o.high.get(), o.long.get(), o.odd.each_ref().map(PCell::get), o.last.get());
    let [first, second] = [(1, 2, [3; 257], [[4; 3]; 4], 5), (11, 12, [13; 257], [[14; 3]; 4], 15)];
    let put = |tx: &Tx, to: (u32, u32, [u32; 257], [[u8; 3]; 4], u32)| {
        tx.put(&o.low, to.0)?;
        tx.put(&o.high, to.1)?;
        tx.put(&o.long, to.2)?;
        o.odd.iter().zip(to.3).try_for_each(|(cell, value)| tx.put(cell, value))?;
        tx.put(&o.last, to.4)
    };
    for applied in [false, true] {
        let undone: Result<()> = o.tx(|tx| {
            put(tx, second)?;
            if applied {
                tx.apply()?;
                assert_eq!(now(), second);
            }
            Err(Error::Aborted)
        });
        assert_eq!(undone, Err(Error::Aborted));
        assert_eq!(now(), first);
        o.tx(|tx| {
            put(tx, second)?;
            if applied { tx.apply() } else { Ok(()) }
        })
        .unwrap();
        assert_eq!(now(), second);
        let undone: Result<()> = o.tx(|tx| {
            tx.set(&o.high, 22)?;
            tx.set(&o.last, 25)?;
            tx.set(&o.odd[1], [24; 3])?;
            Err(Error::Aborted)
        });
        assert_eq!(undone, Err(Error::Aborted));
        assert_eq!(now(), second);
        o.tx(|tx| put(tx, first)).unwrap();
        assert_eq!(now(), first);
    }
}
