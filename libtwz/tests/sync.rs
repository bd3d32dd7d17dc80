//! The primitives in objects, between threads of this process.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::prelude::*;
use libtwz::sync::{Barrier, Channel, Condvar, Mutex, Once, RawMutex, RwLock, Version, Word};
use libtwz::sys::Woken;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[derive(Invariant)]
#[repr(C)]
struct Shared {
    mutex: Mutex<PCell<u64>>,
    rwlock: RwLock<[PCell<u64>; 2]>,
    condvar: Condvar,
    once: Once,
    barrier: Barrier,
    version: Version,
    pair: [PCell<u64>; 2],
    channel: Channel<u64, 8>,
}

fn shared() -> Object<Shared> {
    let shared = Shared {
        mutex: Mutex::new(PCell::new(0)),
        rwlock: RwLock::new([PCell::new(0), PCell::new(0)]),
        condvar: Condvar::new(),
        once: Once::new(),
        barrier: Barrier::new(4),
        version: Version::new(),
        pair: [PCell::new(0), PCell::new(0)],
        channel: Channel::new(0),
    };
    ObjectBuilder::new().build(shared).unwrap()
}

#[test]
fn nothing_is_lost_under_locks() {
    let o = shared();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let value = o.mutex.lock().unwrap();
                    value.set_without_log(value.get() + 1);
                    drop(value);
                    let pair = o.rwlock.write();
                    pair[0].set_without_log(pair[0].get() + 1);
                    pair[1].set_without_log(pair[1].get() + 1);
                    drop(pair);
                    let pair = o.rwlock.read();
                    assert_eq!(pair[0].get(), pair[1].get());
                }
            });
        }
    });
    assert_eq!(o.mutex.lock().unwrap().get(), 8000);
    assert_eq!(o.rwlock.read()[0].get(), 8000);
}

#[test]
fn a_lock_is_not_taken_twice() {
    let o = shared();
    let held = o.mutex.lock().unwrap();
    assert_eq!(o.mutex.lock().map(drop).unwrap_err(), Error::WouldBlock);
    let waited = std::thread::scope(|scope| {
        scope.spawn(|| o.mutex.lock_for(Duration::from_millis(20)).map(drop)).join().unwrap()
    });
    assert_eq!(waited, Err(Error::TimedOut));
    assert_eq!(o.condvar.wait_for(&held, Duration::from_millis(5)), Err(Error::TimedOut));
    let reader = o.rwlock.read();
    assert!(o.rwlock.try_write().is_err());
    assert!(o.rwlock.try_read().is_ok());
    drop(reader);
    assert!(o.rwlock.try_write().is_ok());
}

/// Nobody frees it in this boot: who waits is told, for however long it would, and a holder that lives is none of those.
#[test]
fn a_lock_whose_holder_has_ended_is_said() {
    let o = shared();
    std::thread::scope(|scope| {
        scope.spawn(|| std::mem::forget(o.mutex.lock().unwrap()));
    });
    let waited = o.mutex.lock_for(Duration::from_secs(20)).map(drop);
    assert!(matches!(waited, Err(Error::HolderEnded { .. })), "{waited:?}");
    for _ in 0..2 {
        let refused = o.mutex.lock().map(drop).unwrap_err();
        let Error::HolderEnded { object, offset } = refused else { panic!("{refused}") };
        assert_eq!(object, o.id());
        assert_eq!(o.window().base() + offset as usize, (&raw const o.mutex).addr());
    }
    // Whoever knows what to do about what it guards takes it.
    let held = o.mutex.take_over().unwrap();
    assert_eq!(o.mutex.take_over().map(drop).unwrap_err(), Error::WouldBlock);
    drop(held);
    assert_eq!(o.mutex.take_over().map(drop).unwrap_err(), Error::WouldBlock, "nobody has it");
    drop(o.mutex.lock().unwrap());
}

/// The one that waits is told, and has the lock: so it frees its own, and not what somebody else has.
#[test]
fn who_ended_while_another_waited_for_a_condition_is_said() {
    let o = shared();
    std::thread::scope(|scope| {
        let held = o.mutex.lock().unwrap();
        scope.spawn(|| {
            std::mem::forget(o.mutex.lock().unwrap()); // when the other one waits
            o.condvar.notify_one();
        });
        let woken = o.condvar.wait(&held);
        assert!(matches!(woken, Err(Error::HolderEnded { .. })), "{woken:?}");
        scope
            .spawn(|| assert_eq!(o.mutex.try_lock().map(drop).unwrap_err(), Error::WouldBlock))
            .join()
            .unwrap();
        drop(held);
        drop(o.mutex.lock().unwrap());
    });
}

#[test]
fn messages_arrive_once_and_in_order() {
    let o = shared();
    let received: Vec<u64> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..2_u64)
            .map(|s| scope.spawn(move || (0..150).for_each(|i| o.channel.send(s * 1000 + i).unwrap())))
            .collect();
        let receiver = scope.spawn(|| std::iter::from_fn(|| o.channel.receive().ok()).collect());
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        o.channel.close().unwrap();
        receiver.join().unwrap()
    });
    for s in 0..2 {
        assert!(received.iter().copied().filter(|m| m / 1000 == s).eq(s * 1000..s * 1000 + 150));
    }
    assert_eq!(o.channel.send(1), Err(Error::Closed));
    assert_eq!(o.channel.try_receive(), Err(Error::Closed));
}

#[test]
fn once_retries_after_a_failure() {
    let o = shared();
    assert_eq!(o.once.call_once(|| Err(Error::Aborted)), Err(Error::Aborted));
    assert!(!o.once.is_done());
    o.once.call_once(|| Ok(())).unwrap();
    o.once.call_once(|| Err(Error::Aborted)).unwrap();
    assert!(o.once.is_done());
}

#[test]
fn a_barrier_lets_all_through_at_once() {
    let o = shared();
    let leaders: usize = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..50).filter(|_| o.barrier.wait()).count())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(leaders, 50);
}

#[test]
fn readers_of_a_version_see_no_half() {
    let o = shared();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..20_000 {
                o.version.write(|| o.pair.iter().for_each(|cell| cell.set_without_log(i)));
            }
        });
        for _ in 0..2000 {
            let (a, b) = o.version.read(|| Ok((o.pair[0].get(), o.pair[1].get()))).unwrap();
            assert_eq!(a, b);
        }
    });
}

/// A word of which a thread does not see that others wait: it looked before they did.
struct Forgetful(AtomicU64);

impl Word for Forgetful {
    fn load(&self) -> u64 {
        let word = Word::load(&self.0);
        if word & 0x3fff_ffff == self.me() { word & !(1 << 31) } else { word }
    }
    fn replace(&self, current: u64, new: u64) -> bool {
        self.0.replace(current, new)
    }
    fn swap(&self, new: u64) -> u64 {
        Word::swap(&self.0, new)
    }
    fn store(&self, new: u64) {
        Word::store(&self.0, new);
    }
    fn wait(&self, expected: u32, limit: Option<Duration>) -> Woken {
        self.0.wait(expected, limit)
    }
    fn wake(&self, count: u32) {
        self.0.wake(count);
    }
    fn generation(&self) -> u64 {
        self.0.generation()
    }
    fn me(&self) -> u64 {
        self.0.me()
    }
    fn lives(&self, thread: u64) -> bool {
        self.0.lives(thread)
    }
}

#[test]
fn who_is_missed_when_a_lock_is_freed_ahead_looks_again() {
    let lock = RawMutex::on(Forgetful(AtomicU64::new(0)));
    let count = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            lock.lock().unwrap();
            let waiter = scope.spawn(|| {
                lock.lock().unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                lock.unlock();
            });
            std::thread::sleep(Duration::from_millis(2)); // it sleeps by now, as a rule
            lock.unlock_ahead();
            waiter.join().unwrap();
        }
    });
    assert_eq!(count.into_inner(), 20);
}
