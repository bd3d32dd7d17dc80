//! The primitives of `sync` through all interleavings of a few threads that have at most two preemptions (one, where a lock is held for
//! long): the very algorithms, on loom's atomics.

#![allow(clippy::unwrap_used, reason = "tests")]

use libtwz::io::EventSet;
use libtwz::sync::{Barrier, Condvar, Counter, Once, Passage, RawMutex, RawRwLock, Taken, Turns, Word};
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
/// A thread that has ended; there is none of a larger number.
const ENDED: u64 = 9;

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
    fn store(&self, new: u64) {
        self.word.store(new, Ordering::Release);
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
    fn lives(&self, thread: u64) -> bool {
        thread < ENDED
    }
}

impl Counter for LoomWord {
    fn get(&self, order: std::sync::atomic::Ordering) -> u64 {
        self.word.load(order)
    }
    fn set(&self, value: u64, order: std::sync::atomic::Ordering) {
        self.word.store(value, order);
    }
    fn claim(&self, current: u64, new: u64) -> Result<u64, u64> {
        self.word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }
    fn count(&self, order: std::sync::atomic::Ordering) {
        self.word.fetch_add(1, order);
    }
}

fn spawn(number: u64, body: impl FnOnce() + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        ME.with(|me| me.set(number));
        body();
    })
}

fn model(body: impl Fn() + Sync + Send + 'static) {
    model_with(2, body);
}

fn model_with(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
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

/// That whoever sleeps is not forgotten is the nap's affair (`tests/sync.rs`): here nobody sleeps.
#[test]
fn a_mutex_that_is_freed_ahead_excludes() {
    model(|| {
        let shared = Arc::new((RawMutex::on(LoomWord::new(3 << 32 | 5)), UnsafeCell::new(0_u32)));
        let add = |shared: &Arc<(RawMutex<LoomWord>, UnsafeCell<u32>)>| {
            let mut added = 0;
            for _ in 0..3 {
                if shared.0.try_lock() {
                    // SAFETY: loom checks that nobody else is here.
                    shared.1.with_mut(|value| unsafe { *value += 1 });
                    shared.0.unlock_ahead();
                    added += 1;
                }
            }
            added
        };
        let (other, theirs) = (Arc::clone(&shared), Arc::new(LoomMutex::new(0)));
        let said = Arc::clone(&theirs);
        let thread = spawn(2, move || *said.lock().unwrap() = add(&other));
        let mine = add(&shared);
        thread.join().unwrap();
        let all = mine + *theirs.lock().unwrap();
        // SAFETY: the other thread has ended.
        shared.1.with(|value| assert_eq!(unsafe { *value }, all));
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
    let taken = shared.0.take_unrecovered();
    if taken == Taken::Again {
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
    // Whoever tries again knows that somebody did before.
    assert_eq!(taken, if tries == 1 { Taken::First } else { Taken::Unrecovered });
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

/// Of those who find that the holder has ended, one takes the lock, and the others wait until what it left is recovered.
#[test]
fn a_lock_is_taken_once_from_a_thread_that_ended() {
    model(|| {
        let shared = Arc::new((RawMutex::on(LoomWord::new(GENERATION | ENDED)), UnsafeCell::new(0_u32)));
        let recover = |shared: &(RawMutex<LoomWord>, UnsafeCell<u32>)| {
            let taken = shared.0.take_unrecovered();
            if taken != Taken::Again {
                assert_eq!(taken, Taken::FromEnded);
                // SAFETY: loom checks that nobody else is here.
                shared.1.with_mut(|times| unsafe { *times += 1 });
                shared.0.set_recovered();
                shared.0.unlock();
            }
            // SAFETY: loom checks that nobody writes.
            shared.1.with(|times| assert_eq!(unsafe { *times }, 1));
        };
        let other = Arc::clone(&shared);
        let thread = spawn(2, move || recover(&other));
        recover(&shared);
        thread.join().unwrap();
    });
}

/// A channel with one place: counters and message, which the lock guards.
struct Channel {
    lock: RawMutex<LoomWord>,
    not_empty: Condvar<LoomWord>,
    not_full: Condvar<LoomWord>,
    /// Messages ever sent and received, and the last one.
    state: UnsafeCell<[u64; 3]>,
}

impl Channel {
    fn new() -> Self {
        let condvar = || Condvar::on(LoomWord::new(0));
        let lock = RawMutex::on(LoomWord::new(0));
        Self { lock, not_empty: condvar(), not_full: condvar(), state: UnsafeCell::new([0; 3]) }
    }

    fn passage(&self) -> Passage<'_, LoomWord> {
        Passage { lock: &self.lock, not_empty: &self.not_empty, not_full: &self.not_full }
    }

    fn waiting(&self) -> u64 {
        // SAFETY: the lock is held; loom checks that nobody writes.
        let [sent, received, _] = self.state.with(|state| unsafe { *state });
        sent - received
    }

    fn send(&self, message: u64) {
        let put = || {
            // SAFETY: the lock is held; loom checks that nobody else is here.
            let state = self.state.with_mut(|state| unsafe { &mut *state });
            (state[0], state[2]) = (state[0] + 1, message);
            Ok(())
        };
        self.passage().send(|| Ok(self.waiting() == 1), put).unwrap();
    }

    fn receive(&self) -> u64 {
        let take = || {
            // SAFETY: as above.
            let state = self.state.with_mut(|state| unsafe { &mut *state });
            state[1] += 1;
            Ok(state[2])
        };
        self.passage().receive(|| Ok(self.waiting() == 0), take).unwrap()
    }
}

#[test]
fn a_receiver_is_woken_by_a_message() {
    model_with(1, || {
        let shared = Arc::new(Channel::new());
        let other = Arc::clone(&shared);
        let sender = spawn(2, move || other.send(7));
        assert_eq!(shared.receive(), 7);
        sender.join().unwrap();
        assert_eq!(shared.waiting(), 0);
    });
}

#[test]
fn a_sender_is_woken_by_a_place() {
    model_with(1, || {
        let shared = Arc::new(Channel::new());
        shared.send(7);
        let other = Arc::clone(&shared);
        let sender = spawn(2, move || other.send(8));
        assert_eq!(shared.receive(), 7);
        sender.join().unwrap();
        assert_eq!((shared.waiting(), shared.receive()), (1, 8));
    });
}

/// A queue of two places.
struct Queue {
    words: [LoomWord; 3],
    sequences: [LoomWord; 2],
    places: [UnsafeCell<u64>; 2],
}

impl Queue {
    fn new() -> Self {
        Self {
            words: [(); 3].map(|()| LoomWord::new(0)),
            sequences: [0, 1].map(LoomWord::new),
            places: [(); 2].map(|()| UnsafeCell::new(0)),
        }
    }

    fn turns(&self) -> Turns<'_, LoomWord> {
        let [tail, head, arrived] = &self.words;
        Turns { tail, head, arrived, sequences: &self.sequences }
    }

    fn submit(&self, entry: u64) -> libtwz::Result<()> {
        // SAFETY: loom checks that nobody else uses the place.
        self.turns().submit(|at| self.places[at].with_mut(|place| unsafe { *place = entry }))
    }

    fn read(&self, at: usize) -> u64 {
        // SAFETY: loom checks that nobody writes.
        self.places[at].with(|place| unsafe { *place })
    }
}

#[test]
fn a_queue_passes_each_entry_once() {
    model(|| {
        let shared = Arc::new(Queue::new());
        let senders = [2, 3].map(|number| {
            let other = Arc::clone(&shared);
            spawn(number, move || other.submit(number).unwrap())
        });
        let turns = shared.turns();
        assert_eq!(
            turns.take(|at| shared.read(at), None).unwrap() + turns.take(|at| shared.read(at), None).unwrap(),
            5
        );
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert!(turns.try_take(|_| ()).is_err(), "no entry comes twice");
    });
}

/// Of two takers each gets an entry, though the later turn may be filled first and wake the wrong one, or one of them too early.
#[test]
fn no_taker_sleeps_while_there_is_an_entry() {
    model_with(1, || {
        let shared = Arc::new(Queue::new());
        let senders = [2, 3].map(|number| {
            let other = Arc::clone(&shared);
            spawn(number, move || other.submit(number).unwrap())
        });
        let other = Arc::clone(&shared);
        let taker = spawn(4, move || assert!(other.turns().take(|at| other.read(at), None).is_ok()));
        shared.turns().take(|at| shared.read(at), None).unwrap();
        taker.join().unwrap();
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert!(shared.turns().try_take(|_| ()).is_err());
    });
}

#[test]
fn places_of_a_queue_are_used_again() {
    model(|| {
        let shared = Arc::new(Queue::new());
        shared.submit(1).unwrap();
        shared.submit(2).unwrap();
        let other = Arc::clone(&shared);
        // It fills the place that the other thread empties, if that was in time.
        let sender = thread::spawn(move || {
            ME.with(|me| me.set(2));
            other.submit(3).is_ok()
        });
        assert_eq!(shared.turns().take(|at| shared.read(at), None).unwrap(), 1);
        let sent = sender.join().unwrap();
        assert_eq!(shared.turns().take(|at| shared.read(at), None).unwrap(), 2);
        assert_eq!(shared.turns().try_take(|at| shared.read(at)).ok(), sent.then_some(3));
    });
}

#[test]
fn an_event_wakes_who_waits_for_it() {
    model(|| {
        let shared = Arc::new((EventSet::on(LoomWord::new(0)), UnsafeCell::new(0)));
        let senders = [(2, 3), (3, 5)].map(|(number, event)| {
            let other = Arc::clone(&shared);
            spawn(number, move || {
                if event == 3 {
                    // SAFETY: loom checks that nobody else is here.
                    other.1.with_mut(|value| unsafe { *value = 7 });
                }
                other.0.signal(event);
            })
        });
        // Both come, whichever is first; each is taken once.
        let mut seen = 0;
        while seen != 1 << 3 | 1 << 5 {
            let found = shared.0.wait(1 << 3 | 1 << 5, None).unwrap();
            assert!(found != 0 && found & seen == 0, "{found:#x} after {seen:#x}");
            seen |= found;
            if found & 1 << 3 != 0 {
                // SAFETY: it was written before the event was signalled; loom checks that.
                shared.1.with(|value| assert_eq!(unsafe { *value }, 7));
            }
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert_eq!(shared.0.take(u32::MAX), 0);
    });
}
