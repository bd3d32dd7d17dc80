//! Threads, thread-local values, clocks, random numbers and the environment: std's shape, on every platform.

#![allow(clippy::unwrap_used, reason = "tests")]

use core::hint::black_box;
use libtwz::prelude::*;
use libtwz::thread::{self, thread_local};
use libtwz::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use libtwz::{env, random};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn scoped_threads_borrow_and_are_waited_for() {
    let mut numbers: Vec<u64> = (0..100).collect();
    let sum = AtomicU64::new(0);
    let returned = thread::scope(|scope| {
        for half in numbers.chunks_mut(50) {
            // The handle is dropped: the scope waits.
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(5));
                half.iter_mut().for_each(|number| *number += 1);
                scope.spawn(|| sum.fetch_add(half.iter().sum(), Ordering::Relaxed));
            });
        }
        scope.spawn(|| 17).join().unwrap()
    });
    assert_eq!(returned, 17);
    assert_eq!(sum.load(Ordering::Relaxed), (1..=100).sum());
    assert_eq!(numbers.last(), Some(&100));
}

#[test]
fn a_parked_thread_waits_for_its_token() {
    let steps = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&steps);
    let sleeper = thread::spawn(move || {
        for _ in 0..20 {
            while theirs.load(Ordering::Acquire).is_multiple_of(2) {
                thread::park();
            }
            theirs.fetch_add(1, Ordering::AcqRel);
        }
    });
    for step in 0..20 {
        while steps.load(Ordering::Acquire) != step * 2 {
            thread::yield_now();
        }
        steps.fetch_add(1, Ordering::AcqRel);
        sleeper.thread().unpark();
    }
    sleeper.join().unwrap();
    assert_eq!(steps.load(Ordering::Acquire), 40);
    // A token that was given before is taken at once; without one the time runs out.
    thread::current().unpark();
    let begun = Instant::now();
    thread::park_timeout(Duration::from_secs(20));
    thread::park_timeout(Duration::from_millis(10));
    assert!(begun.elapsed() < Duration::from_secs(15));
}

struct CountsDrops(Arc<AtomicU64>);

impl Drop for CountsDrops {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

thread_local! {
    static NUMBER: Cell<u64> = const { Cell::new(5) };
    static KEPT: RefCell<Vec<CountsDrops>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn each_thread_has_its_own_values_and_drops_them() {
    let drops = Arc::new(AtomicU64::new(0));
    NUMBER.set(6);
    let threads: Vec<_> = (0..4)
        .map(|i| {
            let drops = Arc::clone(&drops);
            thread::spawn(move || {
                assert_eq!(NUMBER.get(), 5, "not the other threads'");
                NUMBER.set(i);
                KEPT.with_borrow_mut(|kept| kept.push(CountsDrops(drops)));
                thread::yield_now();
                NUMBER.get()
            })
        })
        .collect();
    let seen: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(seen, [0, 1, 2, 3]);
    assert_eq!(drops.load(Ordering::Acquire), 4, "dropped at each thread's end");
    assert_eq!(NUMBER.get(), 6);
}

#[test]
fn threads_have_names_and_numbers_of_their_own() {
    let named = thread::Builder::new()
        .name("worker".into())
        .spawn(|| (thread::current().id(), thread::current().name().map(str::to_owned)));
    let named = named.unwrap();
    let known = named.thread().id();
    assert_eq!(named.join().unwrap(), (known, Some("worker".to_owned())));
    assert_ne!(known, thread::current().id());
    assert_eq!(thread::spawn(|| thread::current().name().map(str::to_owned)).join().unwrap(), None);
}

#[test]
fn whoever_joins_is_told_of_a_panic() {
    // Where a panic ends the process there is nobody to tell.
    if cfg!(any(panic = "unwind", feature = "guest")) {
        let failing = thread::spawn(|| assert_eq!(NUMBER.get(), 4, "this panic is expected"));
        assert!(failing.join().is_err());
        let scoped: Vec<bool> = thread::scope(|scope| {
            let failing = scope.spawn(|| assert_eq!(NUMBER.get(), 4, "this panic is expected"));
            let fine = scope.spawn(|| assert_eq!(NUMBER.get(), 5));
            vec![failing.join().is_ok(), fine.join().is_ok()]
        });
        assert_eq!(scoped, [false, true]);
    }
}

#[test]
fn what_scoped_threads_borrow_stays_when_the_scope_s_own_thread_panics() {
    if !cfg!(any(panic = "unwind", feature = "guest")) {
        return; // The panic ends the process.
    }
    const WORD: u64 = 0x5a5a;
    static IS_SAME: AtomicU64 = AtomicU64::new(2);
    let owner = thread::spawn(|| {
        let borrowed = black_box([WORD; 512]);
        thread::scope(|scope| {
            scope.spawn(|| {
                let begun = Instant::now();
                let mut same = true;
                while begun.elapsed() < Duration::from_millis(200) {
                    same &= black_box(&borrowed).iter().all(|word| *word == WORD);
                    thread::sleep(Duration::from_millis(1));
                }
                IS_SAME.store(u64::from(same), Ordering::Release);
            });
            panic!("this panic is expected");
        })
    });
    assert!(owner.join().is_err());
    for _ in 0..4 {
        // Not on the stack that is borrowed from.
        thread::spawn(|| {
            black_box([7_u64; 4096]);
        })
        .join()
        .unwrap();
    }
    while IS_SAME.load(Ordering::Acquire) == 2 {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(IS_SAME.load(Ordering::Acquire), 1, "a scoped thread saw what it borrows change");
}

#[test]
fn who_joins_a_scope_s_own_thread_waits_for_those_that_it_lent_to() {
    static HAS_ENDED: AtomicU64 = AtomicU64::new(0);
    if cfg!(any(panic = "unwind", feature = "guest")) {
        let outer = black_box([3_u64; 64]);
        thread::scope(|scope| {
            let owner = scope.spawn(|| {
                thread::scope(|inner| {
                    inner.spawn(|| {
                        thread::sleep(Duration::from_millis(100));
                        HAS_ENDED.store(black_box(&outer).iter().sum(), Ordering::Release);
                    });
                    panic!("this panic is expected");
                })
            });
            assert!(owner.join().is_err());
            assert_eq!(HAS_ENDED.load(Ordering::Acquire), 192);
        });
    }
}

#[test]
fn a_scope_s_own_thread_can_be_joined_when_all_of_its_threads_panic() {
    if cfg!(any(panic = "unwind", feature = "guest")) {
        let owner = thread::spawn(|| {
            thread::scope(|scope| {
                scope.spawn(|| panic!("this panic is expected"));
                scope.spawn(|| thread::sleep(Duration::from_millis(20)));
                panic!("this panic is expected");
            })
        });
        assert!(owner.join().is_err());
    }
}

#[test]
fn the_machine_says_how_many_threads_run_at_once() {
    let harts = thread::available_parallelism().unwrap().get();
    assert!((1..=4096).contains(&harts), "{harts}");
    assert_eq!(thread::available_parallelism().unwrap().get(), harts);
}

#[test]
fn clocks_go_forward() {
    let (instant, calendar) = (Instant::now(), SystemTime::now());
    thread::sleep(Duration::from_millis(20));
    assert!(instant.elapsed() >= Duration::from_millis(20));
    assert!(Instant::now() - instant >= Duration::from_millis(20));
    assert!(calendar.elapsed().unwrap() >= Duration::from_millis(10));
    // 2024; a clock that starts at 0 is not set.
    assert!(calendar.duration_since(UNIX_EPOCH).unwrap() > Duration::from_secs(1_704_067_200));
    assert!(UNIX_EPOCH.duration_since(calendar).is_err());
}

#[test]
fn random_numbers_differ() {
    let mut bytes = [[0; 300]; 2];
    bytes.iter_mut().for_each(|bytes| random::fill(bytes));
    assert_ne!(bytes[0], bytes[1]);
    assert!(bytes.iter().all(|bytes| bytes[..150] != bytes[150..]));
    assert_ne!(random::number(), random::number());
}

#[test]
fn a_program_has_a_name_and_an_environment() {
    assert!(env::args().next().is_some_and(|name| !name.is_empty()));
    assert!(env::var("A_VARIABLE_THAT_NOBODY_SETS").is_err());
    for (name, value) in env::vars() {
        assert_eq!(env::var(&name), Ok(value));
    }
}
