//! An attack on the kernel and the VMM, for a bounded time: `hostile [SECONDS [SEED [ATTACK…]]]`; `hostile --list` names the attacks, and
//! `--without INSTRUCTION` leaves one of `privileged` out. `hostile --use-up [RESOURCE…]` uses resources up (see `exhaust`), and
//! `hostile --threads COUNT` has so many threads alive at once.
//!
//! # Contract
//! - Workers run attacks, several at once, chosen by a generator that begins at SEED. A worker may end as it likes: by a fault, by running
//!   into garbage, or well.
//! - Two guards run beside them ([`apps::guard`]): one in this program, whose object no attack knows, and the program `guard` in a context
//!   of its own, whose object the attacks know and must not reach. **The attack fails** (status 1) if a guard's data changed, if a guard did
//!   not get its time, if an attack reached the other program's object, or if a worker that must come back does not.
//! - Kernel memory comes back: a second round of all attacks needs hardly more frames than the first. **The attack fails** if it does.
//! - The totals are the kernel's own counts. Attacks leave alone what a program may rightly do to itself: its heap, its data, the machine's
//!   end.
#![no_std]
#![no_main]

extern crate alloc;

mod calls;
mod cpu;
mod exhaust;
mod memory;
mod ward;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use apps::guard::{Guard, Watch};
use apps::mapped::{BOTH, Mapped};
use apps::options::Options;
use apps::probe;
use core::sync::atomic::{AtomicBool, Ordering};
use twz_rt::abi::ErrorCode;
use twz_rt::abi::counters::Counters;
use twz_rt::abi::fault::{FaultCause, FaultFrame};
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::syscall::{CreateSpec, create_flags};
use twz_rt::abi::thread::ThreadPhase;
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ObjectId, Rights};
use twz_rt::fault::register;
use twz_rt::thread::{Builder, JoinHandle};
use twz_rt::{Args, fault, println, slots, sync, syscall, view};
use ward::Ward;

twz_rt::entry!(main);

/// One turn of an attack, with a generator of its own. It may end its thread.
type Attack = fn(&mut Random, &Sandbox);

/// An attack: name, what it does, and whether a worker may fail to come back from it (it runs code that may loop).
struct Kind {
    name: &'static str,
    run: Attack,
    may_loop: bool,
}

const fn kind(name: &'static str, run: Attack) -> Kind {
    Kind { name, run, may_loop: false }
}

static ATTACKS: &[Kind] = &[
    kind("random-calls", calls::random_calls),
    kind("bad-pointers", calls::bad_pointers),
    kind("vanishing-pointers", calls::vanishing_pointers),
    kind("thread-specs", calls::thread_specs),
    kind("fault-returns", calls::fault_returns),
    kind("low-calls", calls::low_calls),
    kind("sync-storm", calls::sync_storm),
    kind("view-rewrites", memory::view_rewrites),
    kind("slot-edges", memory::slot_edges),
    kind("object-exhaustion", memory::object_exhaustion),
    kind("memory-exhaustion", memory::memory_exhaustion),
    kind("thread-exhaustion", memory::thread_exhaustion),
    kind("stack-overflow", memory::stack_overflow),
    kind("copies-under-fire", memory::copies_under_fire),
    kind("foreign-objects", calls::foreign_objects),
    kind("handler-faults", cpu::handler_faults),
    kind("non-canonical", cpu::non_canonical),
    kind("flags", cpu::flags),
    kind("privileged", cpu::privileged),
    kind("syscall-at-the-end", cpu::syscall_at_the_end),
    Kind { name: "random-code", run: cpu::random_code, may_loop: true },
];

/// Workers that attack at the same time.
const WORKERS: usize = 3;
/// Turns of an attack that a worker makes, if it lives so long.
const TURNS: u32 = 4;
/// How long a worker may take; what is attacked is slow where ring 0 is interpreted or emulated.
const PATIENCE: u64 = 120_000_000_000;
/// How long one that may loop gets, and how many of those are left running.
const LOOP_PATIENCE: u64 = 300_000_000;
const LOOPS_MAX: usize = 2;
/// Longest wait of the guard for a turn.
const GAP_MAX: u64 = 30_000_000_000;
/// How long threads that nobody waits for may take to end.
const SETTLING: u64 = 20_000_000_000;
/// Frames that the second round may need beyond the first: tables of parts of the sandboxes that it touches first, threads left looping.
const FRAMES_LEFT: u64 = 96;
/// How long `settle` sleeps between two looks.
const PAUSE: u64 = 50_000_000;
/// In R14: the fault handler is to fault itself.
const NEST: u64 = 0x6e65_7374_6e65_7374;

/// A generator of numbers (xorshift64*), so that a run can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let index = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        from[index]
    }
}

static STOP_GUARD: AtomicBool = AtomicBool::new(false);

/// What a worker may ruin.
#[derive(Clone, Copy)]
struct Sandbox {
    /// An object, mapped for reading, writing and execution.
    object: ObjectId,
    slot: u64,
    /// A slot whose entry changes all the time.
    wild: u64,
}

impl Sandbox {
    fn new() -> Result<Self, ErrorCode> {
        let object = volatile(Rights::ACCESS | Rights::DELETE)?;
        let slot = slots::allocate().ok_or(ErrorCode::NoMemory)?;
        let wild = slots::allocate().ok_or(ErrorCode::NoMemory)?;
        let _ = view::map(slot, object, Rights::ACCESS);
        Ok(Self { object, slot, wild })
    }

    fn base(&self) -> u64 {
        self.slot * SLOT_SIZE + DATA_OFFSET
    }

    /// Stores a word in the sandbox's object.
    fn set(&self, offset: u64, value: u64) {
        // SAFETY: the sandbox is there to be ruined.
        let _ = unsafe { probe::store(self.base() + offset, value) };
    }
}

/// A new volatile object.
fn volatile(rights: Rights) -> Result<ObjectId, ErrorCode> {
    let (default_rights, flags) = (rights.bits(), create_flags::VOLATILE);
    syscall::object_create(&CreateSpec { default_rights, flags, ..CreateSpec::default() })
}

/// Faults of all workers: probes go on, steps are taken off, the rest ends its thread.
fn on_fault(frame: &mut FaultFrame) {
    const TRAP: u64 = 1 << 8;
    const ALIGNMENT: u64 = 1 << 18;
    if frame.registers[register::R8 + 6] == NEST {
        // SAFETY: faults, which is the purpose.
        unsafe { core::arch::asm!("ud2") };
    }
    let is_flag = [FaultCause::Breakpoint as u32, FaultCause::Alignment as u32].contains(&frame.info.cause);
    if is_flag && frame.rflags & (TRAP | ALIGNMENT) != 0 {
        frame.rflags &= !(TRAP | ALIGNMENT);
    } else if !probe::recover(frame) {
        syscall::thread_exit(55);
    }
}

/// A guard in this program, in a thread that attacks could hit.
fn guard(object: Mapped) -> Watch {
    let mut guard = Guard::new(object);
    loop {
        let watch = guard.look();
        if STOP_GUARD.load(Ordering::Relaxed) {
            return watch;
        }
    }
}

fn now() -> u64 {
    syscall::clock().map_or(0, |(since_start, _)| since_start)
}

fn main(args: Args) -> u8 {
    let mut options = Options::new(args);
    if options.flag("--list") {
        ATTACKS.iter().for_each(|attack| println!("{}", attack.name));
        return 0;
    }
    let plan = match plan(&mut options) {
        Ok(plan) => plan,
        Err(reason) => {
            println!("hostile: {reason}\nhostile [--without INSTRUCTION]... [SECONDS [SEED [ATTACK...]]]");
            println!("hostile --use-up [RESOURCE...] | --threads COUNT | --list");
            return 2;
        }
    };
    match beside_guards(args, plan) {
        Ok(()) => 0,
        Err(reason) => {
            println!("hostile: FAILED: {reason}");
            1
        }
    }
}

/// What is to be done.
enum Plan {
    /// Attacks, for so many seconds, from this seed on.
    Attack { seconds: u64, seed: u64, attacks: Vec<&'static Kind> },
    /// These resources are used up; all, if none is named.
    UseUp(Vec<&'static str>),
    /// So many threads live at once.
    Threads(u64),
}

fn plan(options: &mut Options) -> Result<Plan, String> {
    let missing = |name| format!("{name} needs a value");
    let number = |word: &str| word.parse::<u64>().map_err(|_| format!("{word} is no number"));
    let mut plan = None;
    if options.flag("--use-up") {
        let names: Vec<_> = core::iter::from_fn(|| options.word()).collect();
        if let Some(name) = names.iter().find(|name| !exhaust::RESOURCES.iter().any(|r| r.name == **name)) {
            return Err(format!("no resource {name}"));
        }
        plan = Some(Plan::UseUp(names));
    } else if let Some(count) = options.value("--threads").map_err(missing)? {
        plan = Some(Plan::Threads(number(count)?));
    }
    while let Some(name) = options.value("--without").map_err(missing)? {
        cpu::leave_out(name)?;
    }
    if let Some(plan) = plan {
        return options.rest().map_or(Ok(plan), |word| Err(format!("what is {word}?")));
    }
    let (seconds, seed) = (number(options.word().unwrap_or("5"))?, number(options.word().unwrap_or("1"))?);
    let names: Vec<_> = core::iter::from_fn(|| options.word()).collect();
    if let Some(name) = names.iter().find(|name| !ATTACKS.iter().any(|attack| attack.name == **name)) {
        return Err(format!("no attack {name}"));
    }
    let attacks = ATTACKS.iter().filter(|attack| names.is_empty() || names.contains(&attack.name)).collect();
    options.rest().map_or(Ok(Plan::Attack { seconds, seed, attacks }), |word| Err(format!("what is {word}?")))
}

/// Does what is planned beside two guards: one in this program, one that is another program in another context.
fn beside_guards(ours: Args, plan: Plan) -> Result<(), String> {
    let failed = |what: &'static str| move |error: ErrorCode| format!("{what}: {error}");
    // Above the workers, so that what ends the run does not wait for those that loop.
    syscall::thread_set(0, twz_rt::abi::thread::ThreadProperty::Priority, 20).map_err(failed("priority"))?;
    // SAFETY: the handler takes no lock.
    unsafe { fault::set_handler(on_fault) };
    let ward = Ward::start(ours).map_err(failed("the other program"))?;
    let guarded = volatile(BOTH).map_err(failed("the guard's object"))?;
    let guarded = Mapped::of(guarded).map_err(failed("the guard's object"))?;
    let watch = Builder::new().name("guard").spawn(move || guard(guarded)).map_err(failed("the guard"))?;

    let looks = ward.checks();
    let done = match plan {
        Plan::Attack { seconds, seed, attacks } => attack(seconds, seed, &attacks),
        Plan::UseUp(names) => exhaust::run(&names),
        Plan::Threads(count) => threads(count),
    };
    let turns = ward.checks() - looks;
    STOP_GUARD.store(true, Ordering::Relaxed);
    let watch = watch.join().map_err(|ended| format!("the guard was hit: {ended}"))?;
    let other = ward.end()?;
    for (who, watch) in [("guard", watch), ("other program", other)] {
        println!(
            "hostile: {who} checked {} times, {} words changed, longest wait for a turn {} ms",
            watch.checks,
            watch.changed_words,
            watch.longest_gap / 1_000_000,
        );
        if watch.changed_words > 0 {
            return Err(format!("the {who}'s data changed"));
        }
        if watch.checks == 0 || watch.longest_gap > GAP_MAX {
            return Err(format!("the {who} did not get its time"));
        }
    }
    if turns == 0 {
        return Err("the other program had no turn during the attack".into());
    }
    done
}

/// So many threads alive at once.
fn threads(count: u64) -> Result<(), String> {
    let (alive, refused) = exhaust::crowd(count)?;
    if let Some(error) = refused {
        return Err(format!("{alive} threads, then: {error}"));
    }
    println!("hostile: {alive} threads alive at once, each ran to its end");
    Ok(())
}

fn attack(seconds: u64, seed: u64, attacks: &[&'static Kind]) -> Result<(), String> {
    let failed = |what: &'static str| move |error: ErrorCode| format!("{what}: {error}");
    let boxes: Result<Vec<Sandbox>, ErrorCode> = (0..WORKERS).map(|_| Sandbox::new()).collect();
    let boxes = boxes.map_err(failed("sandboxes"))?;

    let mut siege = Siege {
        boxes,
        random: Random(seed | 1 << 63),
        runs: attacks.iter().map(|_| 0).collect(),
        refused: 0,
        loops: 0,
    };
    let before = syscall::counters().map_err(failed("counters"))?;
    // Each attack at least once, twice over: what the first round has used for good, the second has no need to.
    siege.rage(attacks, now())?;
    let settled = siege.settle(before.threads_started - before.threads_ended)?;
    siege.runs.fill(0);
    siege.rage(attacks, now() + seconds * 1_000_000_000)?;
    let after = siege.settle(before.threads_started - before.threads_ended)?;
    let Siege { runs, refused, loops, .. } = siege;

    for (kind, count) in attacks.iter().zip(&runs) {
        println!("hostile: {:<20} {count} runs", kind.name);
    }
    println!(
        "hostile: seed {seed}, {} calls made, {} page faults, {} faults handled, {} threads ended by faults, {} threads started, {} refusals, {refused} workers refused, {loops} left looping",
        after.syscalls - before.syscalls,
        after.page_faults - before.page_faults,
        after.handled_faults - before.handled_faults,
        after.fatal_faults - before.fatal_faults,
        after.threads_started - before.threads_started,
        after.refusals - before.refusals,
    );
    println!(
        "hostile: {} frames used before, {} after the first round, {} after the second",
        before.frames_used, settled.frames_used, after.frames_used,
    );
    if after.frames_used > settled.frames_used + FRAMES_LEFT {
        return Err("the kernel's memory does not come back".into());
    }
    Ok(())
}

/// What a run consists of.
struct Siege {
    boxes: Vec<Sandbox>,
    random: Random,
    /// Of each attack.
    runs: Vec<u64>,
    /// Workers that could not be started.
    refused: u64,
    /// Workers that were left looping.
    loops: usize,
}

impl Siege {
    /// Attacks until `end`, and until each attack has run once.
    fn rage(&mut self, attacks: &[&'static Kind], end: u64) -> Result<(), String> {
        while now() < end || self.runs.contains(&0) {
            let mut working: Vec<(usize, JoinHandle<()>)> = Vec::new();
            for &sandbox in &self.boxes {
                let unused = self.runs.iter().position(|&count| count == 0);
                let chosen = self.random.below(attacks.len() as u64);
                let index = unused.unwrap_or_else(|| usize::try_from(chosen).unwrap_or(0));
                self.runs[index] += 1;
                let kind = attacks[index];
                if kind.may_loop && self.loops >= LOOPS_MAX {
                    continue;
                }
                let mut own = Random(self.random.next() | 1 << 63);
                let priority = if kind.may_loop { 1 } else { 16 };
                let worker = Builder::new().name(kind.name).priority(priority).spawn(move || {
                    (0..TURNS).for_each(|_| (kind.run)(&mut own, &sandbox));
                });
                match worker {
                    Ok(worker) => working.push((index, worker)),
                    // Another attack has just used everything up.
                    Err(_) => self.refused += 1,
                }
            }
            for (index, worker) in working {
                let kind = attacks[index];
                if came_back(&worker, if kind.may_loop { LOOP_PATIENCE } else { PATIENCE }) {
                    // How it ended is its own affair.
                    let _ = worker.join();
                } else if kind.may_loop {
                    self.loops += 1;
                } else {
                    return Err(format!("a worker did not come back from {}", kind.name));
                }
            }
        }
        Ok(())
    }

    /// Waits until no more than `threads` threads are there, and those left looping, and gives stacks back; then counts.
    fn settle(&self, threads: u64) -> Result<Counters, String> {
        let until = now() + SETTLING;
        loop {
            twz_rt::thread::release_stacks();
            let counted = syscall::counters().map_err(|error| format!("counters: {error}"))?;
            let left = counted.threads_started - counted.threads_ended;
            if left <= threads + self.loops as u64 || now() >= until {
                return Ok(counted);
            }
            let word = core::sync::atomic::AtomicU32::new(0);
            // Times out.
            let _ = sync::wait(&word, 0, PAUSE);
        }
    }
}

/// Waits for a worker's end, at most so long.
fn came_back(worker: &JoinHandle<()>, patience: u64) -> bool {
    let until = now() + patience;
    // SAFETY: the state stays mapped; the kernel writes it, hence an atomic.
    let phase = unsafe { &*(worker.state_address() as *const core::sync::atomic::AtomicU32) };
    loop {
        let seen = phase.load(Ordering::Acquire);
        if seen >= ThreadPhase::Exited as u32 {
            return true;
        }
        let here = now();
        if here >= until {
            return false;
        }
        // Looks again, whatever it says.
        let _ = sync::wait(phase, seen, until - here);
    }
}
