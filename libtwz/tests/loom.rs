//! The primitives of `sync` through all interleavings of a few threads that have at most two preemptions: the very algorithms, on loom's
//! atomics.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::sync::{Barrier, Condvar, Once, RawMutex, RawRwLock, Word};
use libtwz::sys::Woken;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Condvar as LoomCondvar, Mutex as LoomMutex};
use loom::thread;
use std::time::Duration;

loom::thread_local! {
    static ME: std::cell::Cell<u64> = std::cell::Cell::new(1);
}

/// A word on loom's atomics; sleeping as a futex does it.
struct LoomWord {
    word: AtomicU64,
    sleepers: LoomMutex<()>,
    woken: LoomCondvar,
}

impl LoomWord {
    fn new(value: u64) -> Self {
        Self { word: AtomicU64::new(value), sleepers: LoomMutex::new(()), woken: LoomCondvar::new() }
    }
}

const GENERATION: u64 = 7 << 32;

impl Word for LoomWord {
    fn load(&self) -> u64 {
        self.word.load(Ordering::Acquire)
    }
    fn replace(&self, current: u64, new: u64) -> bool {
        self.word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
    fn swap(&self, new: u64) -> u64 {
        self.word.swap(new, Ordering::AcqRel)
    }
    fn wait(&self, expected: u32, _limit: Option<Duration>) -> Woken {
        let guard = self.sleepers.lock().unwrap();
        if self.word.load(Ordering::SeqCst) & 0xffff_ffff == u64::from(expected) {
            drop(self.woken.wait(guard).unwrap());
        }
        Woken::LookAgain
    }
    fn wake(&self, count: u32) {
        let _guard = self.sleepers.lock().unwrap();
        if count == 1 {
            self.woken.notify_one();
        } else {
            self.woken.notify_all();
        }
    }
    fn generation(&self) -> u64 {
        GENERATION
    }
    fn me(&self) -> u64 {
        ME.with(std::cell::Cell::get)
    }
}

fn spawn(number: u64, body: impl FnOnce() + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        ME.with(|me| me.set(number));
        body();
    })
}

fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(body);
}

#[test]
fn a_mutex_excludes_and_never_loses_a_wake_up() {
    model(|| {
        // The word is of an earlier boot and says "held": that holder died.
        let shared = Arc::new((RawMutex::on(LoomWord::new(3 << 32 | 5)), UnsafeCell::new(0)));
        let add = |shared: &Arc<(RawMutex<LoomWord>, UnsafeCell<u64>)>| {
            shared.0.lock().unwrap();
            // SAFETY: loom checks that nobody else is here.
            shared.1.with_mut(|value| unsafe { *value += 1 });
            shared.0.unlock();
        };
        let other = Arc::clone(&shared);
        let thread = spawn(2, move || add(&other));
        add(&shared);
        thread.join().unwrap();
        // SAFETY: the other thread has ended.
        shared.1.with(|value| assert_eq!(unsafe { *value }, 2));
    });
}

#[test]
fn a_writer_excludes_readers() {
    model(|| {
        let shared = Arc::new((RawRwLock::on(LoomWord::new(0)), UnsafeCell::new(0)));
        let other = Arc::clone(&shared);
        let writer = spawn(2, move || {
            other.0.write();
            // SAFETY: loom checks that nobody else is here.
            other.1.with_mut(|value| unsafe { *value = 1 });
            other.0.unlock_write();
        });
        shared.0.read();
        // SAFETY: loom checks that nobody writes.
        shared.1.with(|value| assert!(unsafe { *value } < 2));
        shared.0.unlock_read();
        writer.join().unwrap();
        shared.0.write();
        // SAFETY: as above.
        shared.1.with(|value| assert_eq!(unsafe { *value }, 1));
        shared.0.unlock_write();
    });
}

#[test]
fn a_condition_is_never_missed() {
    model(|| {
        let shared =
            Arc::new((RawMutex::on(LoomWord::new(0)), Condvar::on(LoomWord::new(0)), UnsafeCell::new(false)));
        let other = Arc::clone(&shared);
        let thread = spawn(2, move || {
            other.0.lock().unwrap();
            // SAFETY: the lock is held.
            other.2.with_mut(|ready| unsafe { *ready = true });
            other.0.unlock();
            other.1.notify_one();
        });
        shared.0.lock().unwrap();
        // SAFETY: the lock is held.
        while !shared.2.with(|ready| unsafe { *ready }) {
            shared.1.wait_on(&shared.0, None).unwrap();
        }
        shared.0.unlock();
        thread.join().unwrap();
    });
}

#[test]
fn once_is_once() {
    model(|| {
        let shared = Arc::new((Once::on(LoomWord::new(0)), UnsafeCell::new(0)));
        let run = |shared: &Arc<(Once<LoomWord>, UnsafeCell<u64>)>| {
            shared
                .0
                .call_once(|| {
                    // SAFETY: loom checks that nobody else is here.
                    shared.1.with_mut(|value| unsafe { *value += 1 });
                    Ok(())
                })
                .unwrap();
            // SAFETY: it is done, so nobody writes any more.
            shared.1.with(|value| assert_eq!(unsafe { *value }, 1));
        };
        let other = Arc::clone(&shared);
        let thread = spawn(2, move || run(&other));
        run(&shared);
        thread.join().unwrap();
    });
}

#[test]
fn a_barrier_lets_one_lead() {
    model(|| {
        let shared = Arc::new((Barrier::on(LoomWord::new(0), 2), AtomicU64::new(0)));
        let other = Arc::clone(&shared);
        let thread = spawn(2, move || {
            if other.0.wait() {
                other.1.fetch_add(1, Ordering::SeqCst);
            }
        });
        if shared.0.wait() {
            shared.1.fetch_add(1, Ordering::SeqCst);
        }
        thread.join().unwrap();
        assert_eq!(shared.1.load(Ordering::SeqCst), 1);
    });
}

/// Whether it is recovered; the first try is in vain.
fn recover(shared: &(RawMutex<LoomWord>, UnsafeCell<u64>)) -> bool {
    if !shared.0.take_unrecovered() {
        // SAFETY: loom checks that nobody writes.
        shared.1.with(|tries| assert_eq!(unsafe { *tries }, 2));
        return true;
    }
    let tries = shared.1.with_mut(|tries| {
        // SAFETY: loom checks that nobody else is here.
        let tries = unsafe { &mut *tries };
        *tries += 1;
        *tries
    });
    if tries == 1 {
        shared.0.unlock_unrecovered();
        return false;
    }
    shared.0.set_recovered();
    assert!(shared.0.is_mine());
    shared.0.unlock();
    true
}

#[test]
fn a_recovery_is_waited_for_and_tried_again() {
    model(|| {
        let shared = Arc::new((RawMutex::on(LoomWord::new(3 << 32 | 5)), UnsafeCell::new(0)));
        let other = Arc::clone(&shared);
        let thread = spawn(2, move || while !recover(&other) {});
        while !recover(&shared) {}
        thread.join().unwrap();
    });
}
