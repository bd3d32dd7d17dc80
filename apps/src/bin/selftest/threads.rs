//! Threads: many, ended, placed, preempted.

use crate::small::Crowd;
use crate::{Mapped, Outcome, Test, check, failed, harts, now, same, sleep};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use twz_rt::abi::thread::{
    PRIORITY_DEFAULT, PRIORITY_MAX, THREAD_INDEX_BITS, ThreadPhase, ThreadProperty, ThreadSpec, ThreadState,
};
use twz_rt::abi::{ErrorCode, ObjectId};
use twz_rt::thread::Builder;
use twz_rt::{sync, syscall};

pub(crate) const TESTS: &[Test] = &[
    ("thread-join", join),
    ("thread-status", status),
    ("thread-state", state),
    ("thread-thousands", thousands),
    ("thread-affinity", affinity),
    ("thread-preemption", preemption),
    ("thread-priorities", priorities),
    ("thread-priorities-bounded", nobody_rises),
    ("thread-idle-wakes", idle_wakes),
    ("thread-bad-arguments", bad_arguments),
    ("thread-memory-bounded", memory_bounded),
];

const MILLISECOND: u64 = 1_000_000;

fn join() -> Outcome {
    let threads: Result<Vec<_>, _> = (0..20_u64).map(|i| twz_rt::thread::spawn(move || i * i)).collect();
    for (i, thread) in (0..).zip(threads.map_err(failed("spawning"))?) {
        let square = thread.join().map_err(|ended| format!("thread {i}: {ended}"))?;
        same!(square, i * i, "what thread {i} returned");
    }
    Ok(())
}

fn status() -> Outcome {
    for status in [0_u8, 1, 42, 127, 255] {
        let thread = twz_rt::thread::spawn(move || -> () { syscall::thread_exit(status) });
        let ended = thread.map_err(failed("spawning"))?.join().err().ok_or("it came back")?;
        same!((ended.status, ended.fault.is_none()), (u32::from(status), true), "status");
    }
    Ok(())
}

fn state() -> Outcome {
    static GO: AtomicU32 = AtomicU32::new(0);
    GO.store(0, Ordering::SeqCst);
    let thread = twz_rt::thread::spawn(|| {
        while GO.load(Ordering::SeqCst) == 0 {
            let _ = sync::wait(&GO, 0, sync::FOREVER);
        }
        syscall::thread_self().map_or(0, |running| running.thread)
    });
    let thread = thread.map_err(failed("spawning"))?;
    let (number, address) = (thread.thread(), thread.state_address());
    // SAFETY: the state stays mapped; the kernel may write it, hence volatile.
    let read = || unsafe { (address as *const ThreadState).read_volatile() };
    let alive = read();
    same!((alive.phase, alive.thread), (ThreadPhase::Started as u32, number), "the state of a live thread");
    check!(!thread.is_finished());
    let found = || syscall::thread_find(number % (1 << THREAD_INDEX_BITS));
    same!(found(), Ok(number), "a live thread by the low bits of its number");
    same!(syscall::thread_find(number), Err(ErrorCode::NoThread), "by more of them");
    GO.store(1, Ordering::SeqCst);
    sync::wake(&GO, 1).map_err(failed("waking"))?;
    let own = thread.join().map_err(|ended| format!("{ended}"))?;
    same!(own, number, "its number by itself and by its creator");
    let ended = read();
    same!(
        (ended.phase, ended.status, ended.thread),
        (ThreadPhase::Exited as u32, 0, number),
        "the state at the end"
    );
    check!(found() != Ok(number), "an ended thread is found");
    check!(syscall::thread_self().map_err(failed("self"))?.thread != number, "two threads of one number");
    Ok(())
}

static ARRIVED: AtomicU64 = AtomicU64::new(0);
static GATE: AtomicU32 = AtomicU32::new(0);

extern "C" fn waits_at_gate(index: u64) -> ! {
    ARRIVED.fetch_add(1, Ordering::SeqCst);
    while GATE.load(Ordering::SeqCst) == 0 {
        // Looks again whatever it says.
        let _ = sync::wait(&GATE, 0, sync::FOREVER);
    }
    syscall::thread_exit((index % 200) as u8)
}

fn thousands() -> Outcome {
    const COUNT: u64 = 3000;
    ARRIVED.store(0, Ordering::SeqCst);
    GATE.store(0, Ordering::SeqCst);
    let before = syscall::counters().map_err(failed("counters"))?;
    let crowd = Crowd::start(COUNT, waits_at_gate).inspect_err(|_| GATE.store(1, Ordering::SeqCst))?;
    while ARRIVED.load(Ordering::SeqCst) < COUNT {
        sleep(MILLISECOND);
    }
    // All at once: every one is there, and none has ended.
    let between = syscall::counters().map_err(failed("counters"))?;
    same!(between.threads_started - before.threads_started, COUNT, "threads started");
    same!(between.threads_ended - before.threads_ended, 0, "threads ended while the gate is shut");
    GATE.store(1, Ordering::SeqCst);
    sync::wake(&GATE, u64::MAX).map_err(failed("waking"))?;
    let sum = crowd.wait()?;
    same!(sum, (0..COUNT).map(|index| index % 200).sum::<u64>(), "the sum of all exit statuses");
    Ok(())
}

fn affinity() -> Outcome {
    let harts = harts();
    let mut threads = Vec::new();
    for number in 0..harts * 3 {
        let hart = number % harts;
        let thread = Builder::new().affinity(1 << hart).spawn(move || {
            (0..100).all(|_| {
                syscall::thread_yield();
                syscall::thread_self().is_ok_and(|running| running.hart == hart)
            })
        });
        threads.push(thread.map_err(failed("spawning"))?);
    }
    for thread in threads {
        check!(thread.join().map_err(|ended| format!("{ended}"))?, "a thread ran on another hart");
    }
    // A running thread moves itself.
    for hart in 0..harts {
        syscall::thread_set(0, ThreadProperty::Affinity, 1 << hart).map_err(failed("moving"))?;
        same!(syscall::thread_self().map_err(failed("self"))?.hart, hart, "the hart after moving");
    }
    syscall::thread_set(0, ThreadProperty::Affinity, u64::MAX).map_err(failed("any hart"))?;
    for bad in [0, 1 << 40, 1 << 63] {
        let result = syscall::thread_set(0, ThreadProperty::Affinity, bad);
        same!(result, Err(ErrorCode::BadArgument), "affinity {bad:#x}");
    }
    Ok(())
}

/// Counts as fast as it can until told to stop; never calls the kernel.
fn spin(count: &'static AtomicU64, stop: &'static AtomicBool) -> u64 {
    while !stop.load(Ordering::Relaxed) {
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
    count.load(Ordering::Relaxed)
}

fn preemption() -> Outcome {
    static COUNTS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::SeqCst);
    COUNTS.iter().for_each(|count| count.store(0, Ordering::SeqCst));
    let mut threads = Vec::new();
    for count in &COUNTS {
        let thread = Builder::new().affinity(1).spawn(move || spin(count, &STOP));
        threads.push(thread.map_err(failed("spawning"))?);
    }
    // Three on one hart, which never give it up by themselves. Until each had several turns.
    let until = now() + 20_000 * MILLISECOND;
    let mut turns = [0_u32; 3];
    let mut last = [0_u64; 3];
    while turns.iter().any(|&turns| turns < 4) && now() < until {
        sleep(5 * MILLISECOND);
        for (index, count) in COUNTS.iter().enumerate() {
            let seen = count.load(Ordering::Relaxed);
            turns[index] += u32::from(seen != last[index]);
            last[index] = seen;
        }
    }
    STOP.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.join().map_err(|ended| format!("{ended}"))?;
    }
    check!(turns.iter().all(|&turns| turns >= 4), "turns of three equals on one hart: {turns:?}");
    Ok(())
}

fn priorities() -> Outcome {
    static COUNTS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::SeqCst);
    COUNTS.iter().for_each(|count| count.store(0, Ordering::SeqCst));
    // On hart 0: this thread above both, one in the middle, one below, which must not run as long as the one in the middle does.
    syscall::thread_set(0, ThreadProperty::Affinity, 1).map_err(failed("affinity"))?;
    syscall::thread_set(0, ThreadProperty::Priority, 20).map_err(failed("priority"))?;
    let start =
        |priority, count| Builder::new().affinity(1).priority(priority).spawn(move || spin(count, &STOP));
    let middle = start(12, &COUNTS[0]).map_err(failed("spawning"))?;
    let low = start(4, &COUNTS[1]).map_err(failed("spawning"))?;
    sleep(60 * MILLISECOND);
    let seen = [COUNTS[0].load(Ordering::SeqCst), COUNTS[1].load(Ordering::SeqCst)];
    // Now the other way round.
    let changed = syscall::thread_set(low.thread(), ThreadProperty::Priority, 14);
    sleep(60 * MILLISECOND);
    let low_ran = COUNTS[1].load(Ordering::SeqCst);
    STOP.store(true, Ordering::SeqCst);
    let joined = (middle.join().is_ok(), low.join().is_ok());
    syscall::thread_set(0, ThreadProperty::Priority, 16).map_err(failed("priority"))?;
    syscall::thread_set(0, ThreadProperty::Affinity, u64::MAX).map_err(failed("affinity"))?;
    same!(joined, (true, true), "both came back");
    changed.map_err(failed("changing the priority of another thread"))?;
    check!(seen[0] > 0, "the more important thread did not run");
    same!(seen[1], 0, "what the less important one counted meanwhile");
    check!(low_ran > 0, "the raised thread did not run");
    Ok(())
}

/// What other programs have their time by.
fn nobody_rises() -> Outcome {
    let refused = Err(ErrorCode::NotPermitted);
    let risen = Builder::new().spawn(move || -> Result<_, String> {
        let high = Builder::new().priority(PRIORITY_DEFAULT + 1).spawn(|| ()).map(drop);
        let low = Builder::new().priority(1).spawn(|| ()).map_err(failed("spawning"))?;
        low.join().map_err(|ended| format!("{ended}"))?;
        let set = |priority| syscall::thread_set(0, ThreadProperty::Priority, priority);
        let above = set(u64::from(PRIORITY_DEFAULT) + 1);
        let down_and_up = set(3).and_then(|()| set(u64::from(PRIORITY_DEFAULT)));
        Ok((high, above, down_and_up))
    });
    let risen = risen.map_err(failed("spawning"))?.join().map_err(|ended| format!("{ended}"))?;
    same!(risen, Ok((refused, refused, Ok(()))), "starting a thread above, rising, going down and up again");
    Ok(())
}

fn idle_wakes() -> Outcome {
    // Every hart is idle but this one; a thread confined to it starts at once and the sleep of this thread ends in time.
    let harts = harts();
    let mut worst = 0;
    for round in 0..20 {
        let begun = now();
        let thread = Builder::new().affinity(1 << (round % harts)).spawn(now).map_err(failed("spawning"))?;
        let ran = thread.join().map_err(|ended| format!("{ended}"))?;
        check!(ran >= begun, "it ran before it was started");
        worst = worst.max(ran - begun);
    }
    check!(worst < 5_000 * MILLISECOND, "a thread on an idle hart began after {worst} ns");
    Ok(())
}

fn bad_arguments() -> Outcome {
    let good = ThreadSpec { entry: 0x4000_2000, stack: 0x1_0000_0000, priority: 16, ..ThreadSpec::default() };
    let nobody = ObjectId { lo: 5, hi: 6 };
    let cases = [
        (ThreadSpec { priority: PRIORITY_MAX + 1, ..good }, ErrorCode::BadArgument),
        (ThreadSpec { affinity: 1 << 50, ..good }, ErrorCode::BadArgument),
        (ThreadSpec { entry: 1 << 47, ..good }, ErrorCode::BadArgument),
        (ThreadSpec { tls: 0xffff_8000_0000_0000, ..good }, ErrorCode::BadArgument),
        (ThreadSpec { reserved: 1, ..good }, ErrorCode::BadArgument),
        (ThreadSpec { state: 0x1_0000_0004, ..good }, ErrorCode::BadArgument),
        (ThreadSpec { view: nobody, ..good }, ErrorCode::NoObject),
        (ThreadSpec { context: nobody, ..good }, ErrorCode::NoObject),
    ];
    for (spec, error) in cases {
        // SAFETY: refused; if one started after all, it would end by a fault.
        same!(unsafe { syscall::thread_spawn(&spec) }, Err(error), "{spec:x?}");
    }
    for (thread, property, value, error) in [
        (0, ThreadProperty::Priority, u64::from(PRIORITY_MAX) + 1, ErrorCode::BadArgument),
        (0xffff_ffff_ffff, ThreadProperty::Priority, 1, ErrorCode::NoThread),
        (u64::MAX, ThreadProperty::Priority, 1, ErrorCode::NoThread),
    ] {
        same!(syscall::thread_set(thread, property, value), Err(error), "{thread:#x} {property:?} {value}");
    }
    let ended = twz_rt::thread::spawn(|| ()).map_err(failed("spawning"))?;
    let number = ended.thread();
    ended.join().map_err(|ended| format!("{ended}"))?;
    let result = syscall::thread_set(number, ThreadProperty::Priority, 1);
    same!(result, Err(ErrorCode::NoThread), "a thread that has ended");
    Ok(())
}

fn memory_bounded() -> Outcome {
    let turn = || -> Outcome {
        let stack = Mapped::new()?;
        let thread =
            Builder::new().fault_stack(stack.address(500)).spawn(|| 5).map_err(failed("spawning"))?;
        same!(thread.join().map_err(|ended| format!("{ended}"))?, 5, "what it returned");
        Ok(())
    };
    (0..20).try_for_each(|_| turn())?;
    let before = syscall::counters().map_err(failed("counters"))?;
    (0..300).try_for_each(|_| turn())?;
    let after = syscall::counters().map_err(failed("counters"))?;
    let grown = after.frames_used.saturating_sub(before.frames_used);
    check!(grown < 32, "300 threads cost {grown} frames for good");
    same!(
        after.threads_started - after.threads_ended,
        before.threads_started - before.threads_ended,
        "threads"
    );
    Ok(())
}
