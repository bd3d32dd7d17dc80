//! Sleeping on words and waking.

use crate::views::other_view;
use crate::{Mapped, Outcome, READ_WRITE, Test, check, failed, now, same, sleep};
use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use twz_rt::abi::ErrorCode;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::STACK_TOP;
use twz_rt::abi::sync::{SYNC_OPS_MAX, SyncKind, SyncOp};
use twz_rt::abi::syscall::Syscall;
use twz_rt::abi::thread::{ThreadPhase, ThreadSpec};
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::sync::{FOREVER, sleep_op, wake_op};
use twz_rt::{sync, syscall, thread, view};

pub(crate) const TESTS: &[Test] = &[
    ("sync-timeout", timeout),
    ("sync-timeout-after-an-early-wake", timeout_after_an_early_wake),
    ("sync-changed-word", changed_word),
    ("sync-wake-counts", wake_counts),
    ("sync-64-bit", wide_words),
    ("sync-many-words", many_words),
    ("sync-wake-and-sleep", wake_and_sleep),
    ("sync-ping-pong", ping_pong),
    ("sync-operations-change", operations_change),
    ("sync-one-word-many-times", one_word_many_times),
    ("sync-object-and-offset", object_and_offset),
    ("sync-between-views", between_views),
    ("sync-lock", lock),
    ("sync-bad-arguments", bad_arguments),
];

const MILLISECOND: u64 = 1_000_000;

fn timeout() -> Outcome {
    let word = AtomicU32::new(5);
    for wanted in [0, 1, 20 * MILLISECOND, 60 * MILLISECOND] {
        let begun = now();
        let result = sync::wait(&word, 5, wanted);
        let took = now() - begun;
        same!(result, Err(ErrorCode::TimedOut), "after {wanted} ns");
        check!(took >= wanted, "{wanted} ns were over after {took}");
        check!(took < wanted + 5_000 * MILLISECOND, "{wanted} ns took {took}");
    }
    // The sleeper with the later time does not delay the one with the earlier.
    let late = thread::spawn(|| {
        sleep(400 * MILLISECOND);
        now()
    });
    let late = late.map_err(failed("spawning"))?;
    let early = thread::spawn(|| {
        sleep(20 * MILLISECOND);
        now()
    });
    let early = early.map_err(failed("spawning"))?.join().map_err(|ended| format!("{ended}"))?;
    let late = late.join().map_err(|ended| format!("{ended}"))?;
    check!(early < late, "20 ms ended at {early}, 400 ms at {late}");
    Ok(())
}

/// The alarm of a sleeper that was woken before its time rings for nobody; who sleeps next has an alarm of its own.
fn timeout_after_an_early_wake() -> Outcome {
    GATE.store(0, Ordering::SeqCst);
    let before = sleeps()?;
    let begun = now();
    let woken = thread::spawn(|| sync::wait(&GATE, 0, 100 * MILLISECOND)).map_err(failed("spawning"))?;
    wait_for_sleepers(before, 1)?;
    let count = sync::wake(&GATE, 1);
    let result = woken.join().map_err(|ended| format!("{ended}"))?;
    // On a slow host the time may have been over first, and there is nothing to see.
    same!(count == Ok(1), result == Ok(()), "{count:?}, {result:?}");
    while now() < begun + 200 * MILLISECOND {
        core::hint::spin_loop();
    }
    let word = AtomicU32::new(5);
    same!(sync::wait(&word, 5, 20 * MILLISECOND), Err(ErrorCode::TimedOut), "the next sleeper");
    Ok(())
}

fn changed_word() -> Outcome {
    let word = AtomicU32::new(5);
    let begun = now();
    let result = sync::wait(&word, 6, FOREVER);
    check!(matches!(result, Ok(()) | Err(ErrorCode::WouldBlock)), "{result:?}");
    // A word is 32 bits: what stands beside it does not count.
    let pair = [AtomicU32::new(1), AtomicU32::new(77)];
    same!(sync::wait(&pair[0], 1, MILLISECOND), Err(ErrorCode::TimedOut), "a word beside another");
    check!(now() - begun < 10_000 * MILLISECOND);
    Ok(())
}

static GATE: AtomicU32 = AtomicU32::new(0);
static ASLEEP: AtomicU64 = AtomicU64::new(0);

/// Waits until `count` more threads sleep than when the kernel had counted `before`.
fn wait_for_sleepers(before: u64, count: u64) -> Outcome {
    let until = now() + 20_000 * MILLISECOND;
    loop {
        // The waiting below is by yielding, so this thread adds no sleep.
        if syscall::counters().map_err(failed("counters"))?.sleeps >= before + count {
            return Ok(());
        }
        check!(now() < until, "the threads did not go to sleep");
        syscall::thread_yield();
    }
}

fn sleeps() -> Result<u64, alloc::string::String> {
    Ok(syscall::counters().map_err(failed("counters"))?.sleeps)
}

fn wake_counts() -> Outcome {
    const COUNT: u64 = 10;
    GATE.store(0, Ordering::SeqCst);
    ASLEEP.store(0, Ordering::SeqCst);
    let before = sleeps()?;
    let sleeper = || {
        thread::spawn(|| {
            let result = sync::wait(&GATE, 0, FOREVER);
            ASLEEP.fetch_add(1, Ordering::SeqCst);
            result
        })
    };
    let threads: Result<Vec<_>, _> = (0..COUNT).map(|_| sleeper()).collect();
    let threads = threads.map_err(failed("spawning"))?;
    wait_for_sleepers(before, COUNT)?;
    same!(sync::wake(&GATE, 0), Ok(0), "waking nobody");
    let elsewhere = AtomicU32::new(0);
    same!(sync::wake(&elsewhere, 100), Ok(0), "waking on another word");
    same!(sync::wake(&GATE, 3), Ok(3), "waking three");
    let until = now() + 10_000 * MILLISECOND;
    while ASLEEP.load(Ordering::SeqCst) < 3 && now() < until {
        syscall::thread_yield();
    }
    sleep(20 * MILLISECOND);
    same!(ASLEEP.load(Ordering::SeqCst), 3, "awake");
    same!(sync::wake(&GATE, u64::MAX), Ok(COUNT - 3), "waking the rest");
    for thread in threads {
        same!(thread.join().map_err(|ended| format!("{ended}"))?, Ok(()), "what a sleeper was told");
    }
    same!(sync::wake(&GATE, u64::MAX), Ok(0), "waking when nobody sleeps");
    Ok(())
}

fn wide_words() -> Outcome {
    static WIDE: AtomicU64 = AtomicU64::new(1 << 40 | 7);
    let op =
        |value| SyncOp { address: WIDE.as_ptr() as u64, value, kind: SyncKind::Sleep64 as u32, reserved: 0 };
    // The low halves are equal, the words are not.
    let begun = now();
    let result = syscall::thread_sync(&[op(7)], 2_000 * MILLISECOND);
    check!(matches!(result, Ok(_) | Err(ErrorCode::WouldBlock)), "{result:?}");
    check!(now() - begun < 1_500 * MILLISECOND, "slept on a word with another value");
    same!(syscall::thread_sync(&[op(1 << 40 | 7)], MILLISECOND), Err(ErrorCode::TimedOut), "the same value");
    let before = sleeps()?;
    let sleeper = thread::spawn(move || syscall::thread_sync(&[op(1 << 40 | 7)], FOREVER))
        .map_err(failed("spawning"))?;
    wait_for_sleepers(before, 1)?;
    let wake = SyncOp { value: 9, kind: SyncKind::Wake as u32, ..op(0) };
    same!(syscall::thread_sync(&[wake], 0), Ok(1), "waking");
    sleeper.join().map_err(|ended| format!("{ended}"))?.map_err(failed("sleeping"))?;
    Ok(())
}

fn many_words() -> Outcome {
    static WORDS: [AtomicU32; 64] = [const { AtomicU32::new(3) }; 64];
    for woken in [0, 1, 31, 63] {
        let before = sleeps()?;
        let sleeper = thread::spawn(|| {
            let ops: Vec<SyncOp> = WORDS.iter().map(|word| sleep_op(word, 3)).collect();
            syscall::thread_sync(&ops, FOREVER)
        });
        let sleeper = sleeper.map_err(failed("spawning"))?;
        wait_for_sleepers(before, 1)?;
        same!(sync::wake(&WORDS[woken], 5), Ok(1), "sleepers on word {woken}");
        sleeper.join().map_err(|ended| format!("{ended}"))?.map_err(failed("sleeping"))?;
        // It has left the other words, too.
        let left: u64 = WORDS.iter().filter_map(|word| sync::wake(word, 5).ok()).sum();
        same!(left, 0, "sleepers that are left behind");
    }
    // One of many with another value: no sleep.
    WORDS[40].store(4, Ordering::SeqCst);
    let ops: Vec<SyncOp> = WORDS.iter().map(|word| sleep_op(word, 3)).collect();
    let begun = now();
    let result = syscall::thread_sync(&ops, 5_000 * MILLISECOND);
    WORDS[40].store(3, Ordering::SeqCst);
    check!(matches!(result, Ok(_) | Err(ErrorCode::WouldBlock)), "{result:?}");
    check!(now() - begun < 4_000 * MILLISECOND, "slept though a word had another value");
    let left: u64 = WORDS.iter().filter_map(|word| sync::wake(word, 5).ok()).sum();
    same!(left, 0, "sleepers that are left behind");
    Ok(())
}

fn wake_and_sleep() -> Outcome {
    // In one call: the wakes come first, whatever their place.
    let word = AtomicU32::new(1);
    let ops = [sleep_op(&word, 1), wake_op(&word, 8)];
    same!(
        syscall::thread_sync(&ops, MILLISECOND),
        Err(ErrorCode::TimedOut),
        "waking oneself before the sleep"
    );
    Ok(())
}

/// Threads that sleep on one word with all of their operations, with and without a time, are woken once each, in the order in which they came.
fn one_word_many_times() -> Outcome {
    const COUNT: u64 = 6;
    static WOKEN: AtomicU64 = AtomicU64::new(0);
    GATE.store(0, Ordering::SeqCst);
    WOKEN.store(0, Ordering::SeqCst);
    let mut sleepers = Vec::new();
    for number in 0..COUNT {
        let before = sleeps()?;
        let time = if number % 2 == 0 { FOREVER } else { 3_600_000 * MILLISECOND };
        let sleeper = thread::spawn(move || {
            let operations: Vec<SyncOp> = (0..SYNC_OPS_MAX).map(|_| sleep_op(&GATE, 0)).collect();
            let result = syscall::thread_sync(&operations, time);
            (result, WOKEN.fetch_add(1, Ordering::SeqCst))
        });
        sleepers.push(sleeper.map_err(failed("spawning"))?);
        wait_for_sleepers(before, 1)?;
    }
    for limit in [1, 2, u64::MAX] {
        let before = WOKEN.load(Ordering::SeqCst);
        let count = sync::wake(&GATE, limit).map_err(failed("waking"))?;
        same!(count, limit.min(COUNT - before), "woken by a wake of {limit}");
        while WOKEN.load(Ordering::SeqCst) < before + count {
            syscall::thread_yield();
        }
    }
    for (number, sleeper) in (0..COUNT).zip(sleepers) {
        let (result, place) = sleeper.join().map_err(|ended| format!("{ended}"))?;
        same!(result, Ok(0), "sleeper {number}");
        let wanted = match number {
            0 => 0..1,
            1 | 2 => 1..3,
            _ => 3..COUNT,
        };
        check!(wanted.contains(&place), "sleeper {number} came as number {place}");
    }
    Ok(())
}

/// Another thread turns an operation from a sleep into a wake and back while calls read it. Whatever a call reads, it returns at once: the word
/// never has the value to sleep on, and there is nobody to wake.
fn operations_change() -> Outcome {
    const CALLS: u32 = 1000;
    static STOP: AtomicU32 = AtomicU32::new(0);
    STOP.store(0, Ordering::SeqCst);
    let word = AtomicU32::new(1);
    let operation = Mapped::new()?;
    operation.set(0, word.as_ptr() as u64);
    operation.set(1, 2);
    operation.set(2, SyncKind::Sleep32 as u64);
    let address = operation.address(2);
    let changing = thread::spawn(move || {
        while STOP.load(Ordering::SeqCst) == 0 {
            for kind in [SyncKind::Wake, SyncKind::Sleep32] {
                // SAFETY: the object is this test's, and stays mapped until the thread has ended.
                unsafe { (address as *mut u64).write_volatile(kind as u64) };
            }
        }
    });
    let changing = changing.map_err(failed("spawning"))?;
    let arguments = [operation.address(0), 1, 50 * MILLISECOND, 0, 0, 0];
    // SAFETY: the operation stands in an object that is used by address only.
    let calls = || unsafe { syscall::raw(Syscall::ThreadSync, arguments) };
    let slept = (0..CALLS).map(|_| calls()).filter(|result| result.is_err()).count();
    STOP.store(1, Ordering::SeqCst);
    changing.join().map_err(|ended| format!("{ended}"))?;
    same!(slept, 0, "calls that slept on no word");
    Ok(())
}

fn ping_pong() -> Outcome {
    const ROUNDS: u32 = 1000;
    static BALL: AtomicU32 = AtomicU32::new(0);
    BALL.store(0, Ordering::SeqCst);
    let play = |mine: u32| {
        for round in 0..ROUNDS {
            let turn = round * 2 + mine;
            loop {
                let seen = BALL.load(Ordering::SeqCst);
                if seen == turn {
                    break;
                }
                let _ = sync::wait(&BALL, seen, FOREVER);
            }
            BALL.store(turn + 1, Ordering::SeqCst);
            let _ = sync::wake(&BALL, 1);
        }
    };
    let other = thread::spawn(move || play(1)).map_err(failed("spawning"))?;
    play(0);
    other.join().map_err(|ended| format!("{ended}"))?;
    same!(BALL.load(Ordering::SeqCst), ROUNDS * 2, "the ball");
    Ok(())
}

fn op_at(address: u64, value: u64, kind: SyncKind) -> SyncOp {
    SyncOp { address, value, kind: kind as u32, reserved: 0 }
}

fn object_and_offset() -> Outcome {
    let first = Mapped::new()?;
    let second = Mapped::of(first.id, READ_WRITE)?;
    let other = Mapped::new()?;
    for mapped in [&first, &other] {
        mapped.set(4, 0);
    }
    let before = sleeps()?;
    let address = first.address(4);
    let sleeper =
        thread::spawn(move || syscall::thread_sync(&[op_at(address, 0, SyncKind::Sleep32)], FOREVER));
    let sleeper = sleeper.map_err(failed("spawning"))?;
    wait_for_sleepers(before, 1)?;
    let wake = |address| syscall::thread_sync(&[op_at(address, 10, SyncKind::Wake)], 0);
    same!(wake(other.address(4)), Ok(0), "the same offset in another object");
    same!(wake(second.address(5)), Ok(0), "another offset in the object");
    // The sleep survives that its slot is unmapped.
    let id = first.id;
    // SAFETY: the sleeper does not touch the word any more.
    unsafe { view::unmap(first.slot) }.map_err(failed("unmapping"))?;
    same!(wake(second.address(4)), Ok(1), "the same word through another slot");
    sleeper.join().map_err(|ended| format!("{ended}"))?.map_err(failed("sleeping"))?;
    core::mem::forget(first);
    drop(second);
    // The second handle has deleted the object.
    same!(syscall::object_stat(id).err(), Some(ErrorCode::NoObject), "the object");
    Ok(())
}

/// A thread in another view sleeps on a word of an object that it maps in another slot than we do; each side wakes the other.
fn between_views() -> Outcome {
    static SLOT: AtomicU64 = AtomicU64::new(0);
    extern "C" fn sleeper(_: u64) -> ! {
        let base = SLOT.load(Ordering::SeqCst) * SLOT_SIZE + DATA_OFFSET;
        let asleep = syscall::thread_sync(&[op_at(base, 0, SyncKind::Sleep32)], FOREVER);
        let woke = syscall::thread_sync(&[op_at(base + 8, u64::MAX, SyncKind::Wake)], 0);
        syscall::thread_exit(match (asleep, woke) {
            (Ok(_), Ok(1)) => 42,
            (Err(_), _) => 1,
            _ => 2,
        });
    }
    let (stack, shared) = (Mapped::new()?, Mapped::new()?);
    (0..2).for_each(|word| shared.set(word, 0));
    let other = other_view(stack.slot)?;
    // SAFETY: mapped by `other_view`.
    let view = unsafe { view::View::at((other.slot * SLOT_SIZE) as *mut u8) };
    // Empty here, so only the other view leads to the object through it.
    let slot = twz_rt::slots::allocate().ok_or("no free slot")?;
    let _ = view.map(slot, shared.id, READ_WRITE);
    SLOT.store(slot, Ordering::SeqCst);
    let before = sleeps()?;
    let top = stack.slot * SLOT_SIZE + STACK_TOP;
    let spec = ThreadSpec {
        view: other.id,
        entry: sleeper as *const () as u64,
        stack: top - 8,
        state: top,
        priority: 16,
        ..ThreadSpec::default()
    };
    // SAFETY: the stack is the new thread's alone.
    unsafe { syscall::thread_spawn(&spec) }.map_err(failed("spawning in another view"))?;
    wait_for_sleepers(before, 1)?;
    // The other direction: this thread sleeps, and the one that it has woken wakes it.
    let waker = thread::spawn({
        let address = shared.address(0);
        move || -> Result<u64, ErrorCode> {
            // When main sleeps on the second word; its sleep is the second that is counted.
            while syscall::counters()?.sleeps < before + 2 {
                syscall::thread_yield();
            }
            syscall::thread_sync(&[op_at(address, 5, SyncKind::Wake)], 0)
        }
    });
    let waker = waker.map_err(failed("spawning"))?;
    let slept = syscall::thread_sync(&[op_at(shared.address(1), 0, SyncKind::Sleep32)], 30_000 * MILLISECOND);
    slept.map_err(failed("sleeping on a word that a thread in another view wakes"))?;
    same!(waker.join().map_err(|ended| format!("{ended}"))?, Ok(1), "sleepers in the other view");
    let until = now() + 20_000 * MILLISECOND;
    // SAFETY: the state stands in the stack object, which is mapped here in the same slot.
    let state = unsafe { &*(top as *const [AtomicU32; 2]) };
    while state[0].load(Ordering::SeqCst) < ThreadPhase::Exited as u32 {
        check!(now() < until, "the thread in the other view does not end");
        syscall::thread_yield();
    }
    same!(state[1].load(Ordering::SeqCst), 42, "what the thread in the other view saw");
    twz_rt::slots::free(slot);
    Ok(())
}

fn lock() -> Outcome {
    static LOCK: sync::Lock<u64> = sync::Lock::new(0);
    *LOCK.lock() = 0;
    let threads: Result<Vec<_>, _> = (0..8)
        .map(|_| {
            thread::spawn(|| {
                for _ in 0..500 {
                    let mut guard = LOCK.lock();
                    let seen = *guard;
                    if seen.is_multiple_of(64) {
                        syscall::thread_yield();
                    }
                    *guard = seen + 1;
                }
            })
        })
        .collect();
    for thread in threads.map_err(failed("spawning"))? {
        thread.join().map_err(|ended| format!("{ended}"))?;
    }
    same!(*LOCK.lock(), 4000, "the guarded count");
    Ok(())
}

fn bad_arguments() -> Outcome {
    let word = AtomicU32::new(0);
    let good = sleep_op(&word, 0);
    same!(syscall::thread_sync(&[], 0), Err(ErrorCode::BadArgument), "no operations");
    same!(syscall::thread_sync(&[good; 65], 0), Err(ErrorCode::BadArgument), "65 operations");
    let aligned = word.as_ptr() as u64;
    for (op, error) in [
        (SyncOp { kind: 0, ..good }, ErrorCode::BadArgument),
        (SyncOp { kind: 4, ..good }, ErrorCode::BadArgument),
        (SyncOp { reserved: 1, ..good }, ErrorCode::BadArgument),
        (SyncOp { address: aligned + 1, ..good }, ErrorCode::BadArgument),
        (SyncOp { address: 0x8, ..good }, ErrorCode::BadAddress),
        (SyncOp { address: 1 << 47, ..good }, ErrorCode::BadAddress),
        (SyncOp { address: 0xffff_8000_0000_1000, ..good }, ErrorCode::BadAddress),
        (SyncOp { address: 0x7777_0000_1000, ..good }, ErrorCode::BadAddress),
    ] {
        same!(syscall::thread_sync(&[op], 0), Err(error), "{op:x?}");
    }
    // A bad one among good ones leaves nobody asleep.
    let bad = SyncOp { address: 0x8, ..good };
    same!(
        syscall::thread_sync(&[good, bad], FOREVER),
        Err(ErrorCode::BadAddress),
        "a bad one behind a good one"
    );
    same!(sync::wake(&word, 9), Ok(0), "sleepers left behind");
    Ok(())
}
