//! Takes the kernel's memory until it refuses, with threads, with views and with sleepers, and gives it back; for machines with little.
//!
//! Each call that is refused is refused with `NoMemory`; another thread goes on meanwhile; and what was given back is enough for as many again.
//! All threads stay on one hart, and those that only take memory have a priority at which they run when they are let: so nothing is given
//! back before the kernel has refused.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use twz_rt::abi::program::VIEW_SLOT;
use twz_rt::abi::sync::{SYNC_OPS_MAX, SyncOp};
use twz_rt::abi::syscall::{CreateSpec, Syscall, create_flags};
use twz_rt::abi::thread::{PRIORITY_DEFAULT, ThreadProperty, ThreadSpec};
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::sync::{sleep_op, wake_op};
use twz_rt::view::View;
use twz_rt::{Args, println, syscall, thread};

twz_rt::entry!(main);

/// The one hart that is used.
const HART: u64 = 1;
/// Frames of memory that are left for the attempts: what is more is taken by sleepers first, so that they end soon.
const FRAMES: u64 = 800;
/// More threads than any machine that this is for has room for.
const MANY: u64 = 100_000;

/// Raised by a thread that does nothing else, its number, and whether there were enough.
static BEATS: AtomicU64 = AtomicU64::new(0);
static BEATING: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicU32 = AtomicU32::new(0);
/// What the sleepers sleep on.
static WORDS: [AtomicU32; SYNC_OPS_MAX] = [const { AtomicU32::new(0) }; SYNC_OPS_MAX];
/// What those sleep on that only take memory, and how many they are.
static BALLAST: AtomicU32 = AtomicU32::new(0);
static BALLAST_THREADS: AtomicU64 = AtomicU64::new(0);
/// Sleepers that were refused for want of memory, and for another reason.
static REFUSED: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

fn main(_: Args) -> u8 {
    match starve() {
        Ok(()) => 0,
        Err(why) => {
            println!("starve: {why}");
            1
        }
    }
}

fn starve() -> Result<(), String> {
    set(ThreadProperty::Affinity, HART)?;
    let beating = thread::spawn(beat).map_err(failed("spawning"))?;
    syscall::thread_set(beating.thread(), ThreadProperty::Affinity, HART).map_err(failed("affinity"))?;
    BEATING.store(beating.thread(), Ordering::SeqCst);
    take_ballast()?;
    // What is kept for later uses, such as places for threads, is made by the first turn.
    threads()?;
    views()?;
    let first = threads()?;
    let second = threads()?;
    as_many("threads", first, second)?;
    let (views, again) = (views()?, views()?);
    as_many("views", views, again)?;
    let asleep = sleepers(first * 9 / 10)?;
    let last = threads()?;
    as_many("threads", first, last)?;
    STOP.store(1, Ordering::SeqCst);
    beating.join().map_err(|ended| format!("the thread that went on: {ended}"))?;
    println!("starve: room for {first} threads, {views} views, {asleep} of {} sleepers", first * 9 / 10);
    Ok(())
}

/// What was given back is enough for as many again, but for a frame here and there that is kept for what comes next.
fn as_many(what: &str, first: u64, again: u64) -> Result<(), String> {
    let enough = again + first / 50 >= first;
    if enough { Ok(()) } else { Err(format!("room for {first} {what}, and later for {again}")) }
}

/// Takes what is more than [`FRAMES`].
fn take_ballast() -> Result<(), String> {
    let operation: &SyncOp = Box::leak(Box::new(sleep_op(&BALLAST, 0)));
    loop {
        let before = syscall::counters().map_err(failed("counters"))?;
        if before.frames_free <= FRAMES {
            return Ok(());
        }
        // One takes a frame or two.
        let count = (before.frames_free - FRAMES).div_ceil(2).min(200);
        for _ in 0..count {
            start(sleep_on_one as *const () as u64, core::ptr::from_ref(operation) as u64, ObjectId::NULL)
                .map_err(failed("ballast"))?;
        }
        BALLAST_THREADS.fetch_add(count, Ordering::SeqCst);
        let_others_run(true)?;
        while syscall::counters().map_err(failed("counters"))?.sleeps < before.sleeps + count {
            syscall::thread_yield();
        }
        let_others_run(false)?;
    }
}

/// Goes on until there were enough.
fn beat() {
    while STOP.load(Ordering::SeqCst) == 0 {
        BEATS.fetch_add(1, Ordering::SeqCst);
        syscall::thread_yield();
    }
}

/// Starts threads until the kernel refuses; returns how many it took.
fn threads() -> Result<u64, String> {
    let count = until_refused(|| Ok(ObjectId::NULL))?;
    drain()?;
    Ok(count)
}

/// Starts a thread in a new view each until the kernel refuses; returns how many it took.
fn views() -> Result<u64, String> {
    let (source, _) = View::current().get(VIEW_SLOT).ok_or("no view")?;
    // Its memory is touched now: when the kernel has none left, this program may not grow.
    let mut made = Vec::from([ObjectId::NULL; 4096]);
    made.clear();
    let spec = CreateSpec {
        source,
        default_rights: (Rights::READ | Rights::WRITE | Rights::DELETE).bits(),
        flags: create_flags::VOLATILE,
        ..CreateSpec::default()
    };
    let count = until_refused(|| {
        let view = syscall::object_create(&spec).map_err(failed("copying the view"))?;
        made.push(view);
        Ok(view)
    })?;
    drain()?;
    made.into_iter().try_for_each(syscall::object_delete).map_err(failed("deleting views"))?;
    Ok(count)
}

fn until_refused(mut view: impl FnMut() -> Result<ObjectId, String>) -> Result<u64, String> {
    for count in 0..MANY {
        match start(end as *const () as u64, 0, view()?) {
            Ok(_) => {}
            Err(ErrorCode::NoMemory) if count > 0 => return goes_on().map(|()| count),
            Err(error) => return Err(format!("thread {count}: {error}")),
        }
    }
    Err(format!("{MANY} threads and no end"))
}

/// Starts threads that sleep on many words each, and lets them; returns how many could.
fn sleepers(count: u64) -> Result<u64, String> {
    REFUSED.store(0, Ordering::SeqCst);
    WRONG.store(0, Ordering::SeqCst);
    let operations: Box<[SyncOp]> = WORDS.iter().map(|word| sleep_op(word, 0)).collect();
    let before = syscall::counters().map_err(failed("counters"))?;
    for number in 0..count {
        start(sleep_on_all as *const () as u64, operations.as_ptr() as u64, ObjectId::NULL)
            .map_err(|error| format!("sleeper {number}: {error}"))?;
    }
    let_others_run(true)?;
    let tried = || -> Result<u64, String> {
        let now = syscall::counters().map_err(failed("counters"))?;
        Ok(now.sleeps - before.sleeps + REFUSED.load(Ordering::SeqCst) + WRONG.load(Ordering::SeqCst))
    };
    while tried()? < count {
        syscall::thread_yield();
    }
    goes_on()?;
    let (refused, wrong) = (REFUSED.load(Ordering::SeqCst), WRONG.load(Ordering::SeqCst));
    if refused == 0 || wrong > 0 {
        return Err(format!(
            "{refused} sleepers were refused for want of memory, {wrong} for another reason"
        ));
    }
    WORDS[0].store(1, Ordering::SeqCst);
    let wake = [wake_op(&WORDS[0], u64::MAX)];
    let woken = syscall::thread_sync(&wake, 0).map_err(failed("waking"))?;
    WORDS[0].store(0, Ordering::SeqCst);
    drain()?;
    if woken + refused != count {
        return Err(format!("{woken} sleepers were woken and {refused} refused of {count}"));
    }
    Ok(woken)
}

/// Another thread and this one's calls go on.
fn goes_on() -> Result<(), String> {
    let before = BEATS.load(Ordering::SeqCst);
    (0..100).for_each(|_| syscall::thread_yield());
    syscall::clock().map_err(failed("the clock"))?;
    let beats = BEATS.load(Ordering::SeqCst) - before;
    if beats > 0 { Ok(()) } else { Err("another thread stands still".into()) }
}

/// Lets all other threads run to their end, but for the one that goes on and those that only take memory.
fn drain() -> Result<(), String> {
    let_others_run(true)?;
    loop {
        let now = syscall::counters().map_err(failed("counters"))?;
        if now.threads_started - now.threads_ended == 2 + BALLAST_THREADS.load(Ordering::SeqCst) {
            return let_others_run(false);
        }
        syscall::thread_yield();
    }
}

/// Whether this thread, and the one that goes on, take turns with those that only take memory, or go before them.
fn let_others_run(turns: bool) -> Result<(), String> {
    let (priority, beating) = (if turns { 0 } else { PRIORITY_DEFAULT }, BEATING.load(Ordering::SeqCst));
    // The other one never stands above this one, or this one would not come to its next line.
    for thread in if turns { [beating, 0] } else { [0, beating] } {
        syscall::thread_set(thread, ThreadProperty::Priority, priority.into())
            .map_err(failed("a priority"))?;
    }
    Ok(())
}

fn start(entry: u64, argument: u64, view: ObjectId) -> Result<u64, ErrorCode> {
    let spec = ThreadSpec { view, entry, argument, affinity: HART, ..ThreadSpec::default() };
    // SAFETY: the code below uses no stack and no memory but what is shared.
    unsafe { syscall::thread_spawn(&spec) }
}

fn set(property: ThreadProperty, value: u64) -> Result<(), String> {
    syscall::thread_set(0, property, value).map_err(failed("a property of this thread"))
}

fn failed(what: &'static str) -> impl Fn(ErrorCode) -> String {
    move |error| format!("{what}: {error}")
}

/// Ends its thread.
#[unsafe(naked)]
unsafe extern "C" fn end() -> ! {
    core::arch::naked_asm!("xor edi, edi", "mov eax, {exit}", "syscall", "ud2", exit = const Syscall::ThreadExit as u64)
}

/// Sleeps with the operation at RDI.
#[unsafe(naked)]
unsafe extern "C" fn sleep_on_one() -> ! {
    core::arch::naked_asm!("mov esi, 1", "jmp {}", sym sleep)
}

/// Sleeps with all operations at RDI.
#[unsafe(naked)]
unsafe extern "C" fn sleep_on_all() -> ! {
    core::arch::naked_asm!("mov esi, {}", "jmp {}", const SYNC_OPS_MAX, sym sleep)
}

/// Sleeps with as many operations at RDI as RSI says, counts a refusal, and ends its thread.
#[unsafe(naked)]
unsafe extern "C" fn sleep() -> ! {
    core::arch::naked_asm!(
        "mov rdx, -1",
        "mov eax, {sync}",
        "syscall",
        "test rax, rax",
        "jz 3f",
        "cmp rax, {no_memory}",
        "jne 2f",
        "lock inc qword ptr [rip + {refused}]",
        "jmp 3f",
        "2: lock inc qword ptr [rip + {wrong}]",
        "3: xor edi, edi",
        "mov eax, {exit}",
        "syscall",
        "ud2",
        sync = const Syscall::ThreadSync as u64,
        exit = const Syscall::ThreadExit as u64,
        no_memory = const ErrorCode::NoMemory as u64,
        refused = sym REFUSED,
        wrong = sym WRONG,
    )
}
