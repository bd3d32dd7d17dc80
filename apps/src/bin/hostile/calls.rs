//! Attacks by calls: arguments that are wrong in every way.

use crate::{Random, Sandbox, ward};
use apps::probe;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use twz_rt::abi::program::{ARGS_SLOT, TEXT_SLOT, VIEW_SLOT};
use twz_rt::abi::sync::SyncOp;
use twz_rt::abi::syscall::{CopySpec, CreateSpec, Syscall};
use twz_rt::abi::thread::ThreadSpec;
use twz_rt::abi::view::{SLOT_COUNT, SLOT_SIZE, SlotRange, entry_flags};
use twz_rt::abi::{ObjectId, Rights};
use twz_rt::view::{self, View};
use twz_rt::{context, sync, syscall};

/// Makes any call.
fn raw(number: u64, a: [u64; 6]) {
    // SAFETY: pointers lead to the sandbox or to where the kernel must not write; the results are dropped.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => _, in("rdi") a[0], in("rsi") a[1], inlateout("rdx") a[2] => _,
            in("r10") a[3], inlateout("r8") a[4] => _, in("r9") a[5], out("rcx") _, out("r11") _,
        );
    }
}

/// A number at an edge, or any.
fn number(random: &mut Random) -> u64 {
    let edges = [
        0,
        1,
        7,
        63,
        64,
        65,
        255,
        256,
        257,
        0xfff,
        0x1000,
        0x1001,
        1 << 21,
        1 << 30,
        (1 << 30) - 1,
        1 << 32,
        SLOT_COUNT,
        1 << 47,
        (1 << 47) - 1,
        1 << 63,
        i64::MAX as u64,
        u64::MAX - 1,
        u64::MAX,
    ];
    if random.below(3) == 0 { random.next() } else { random.pick(&edges) }
}

/// A pointer that is bad, or leads to the sandbox or the wild slot.
fn pointer(random: &mut Random, sandbox: &Sandbox) -> u64 {
    let (base, wild) = (sandbox.base(), sandbox.wild * SLOT_SIZE);
    let end = sandbox.slot * SLOT_SIZE + SLOT_SIZE;
    let places = [
        0,
        8,
        0xffc,
        base,
        base + 1,
        base + 0xff4,
        base - 8,
        end - 8,
        end - 1,
        end,
        wild + 0x1000,
        wild + 0x1ffc,
        TEXT_SLOT * SLOT_SIZE + 0x2000,
        ARGS_SLOT * SLOT_SIZE + 0x1000,
        (VIEW_SLOT + 1) * SLOT_SIZE + 0x1000,
        (1 << 47) - 8,
        (1 << 47) - 1,
        1 << 47,
        0xffff_7fff_ffff_ffff,
        0xffff_8000_0000_0000,
        0xffff_8000_0001_0000,
        0xffff_c000_0000_2000,
        0xffff_ff00_0000_f000,
        0xffff_ffff_8010_0000,
        u64::MAX - 15,
        u64::MAX,
    ];
    if random.below(8) == 0 { random.next() } else { random.pick(&places) }
}

fn argument(random: &mut Random, sandbox: &Sandbox) -> u64 {
    match random.below(5) {
        0 | 1 => pointer(random, sandbox),
        2 => random.pick(&[sandbox.object.lo, sandbox.object.hi]),
        _ => number(random),
    }
}

/// Whether the call, with these arguments, would do what a program may rightly do to itself or to the run.
fn is_own_affair(call: u64, a: &mut [u64; 6]) -> bool {
    match Syscall::try_from(call) {
        // The machine's end; and input that nobody types.
        Ok(Syscall::Shutdown | Syscall::ConsoleRead) => true,
        // It would run garbage as code, which may loop; it has an attack of its own.
        Ok(Syscall::FaultReturn) => a[0] < 1 << 47,
        // Garbage on the console helps nobody; bad pointers still get there.
        Ok(Syscall::ConsoleWrite) => {
            if a[0] < 1 << 47 {
                a[1] = 0;
            }
            false
        }
        // No sleep without an end.
        Ok(Syscall::ThreadSync) => {
            a[2] = a[2].min(1_000_000);
            false
        }
        _ => false,
    }
}

pub(crate) fn random_calls(random: &mut Random, sandbox: &Sandbox) {
    for word in 0..64 {
        let value = argument(random, sandbox);
        sandbox.set(word * 8, value);
    }
    for _ in 0..20 {
        let call = match random.below(4) {
            0 => number(random),
            _ => random.pick(Syscall::ALL) as u64,
        };
        // Numbers below ours have their own attack; ending the worker is the rarest choice.
        if call < 0x1000 || (call == Syscall::ThreadExit as u64 && random.below(20) > 0) {
            continue;
        }
        let mut a: [u64; 6] = core::array::from_fn(|_| argument(random, sandbox));
        if !is_own_affair(call, &mut a) {
            raw(call, a);
        }
    }
}

pub(crate) fn bad_pointers(random: &mut Random, sandbox: &Sandbox) {
    let length = random.pick(&[0, 1, 8, 24, 56, 255, 256, 3072, 4096, 1 << 20, u64::MAX]);
    let at = pointer(random, sandbox);
    let mut calls = [
        (Syscall::ThreadSpawn, [at, 0, 0, 0, 0, 0]),
        (Syscall::ThreadSync, [at, length, 0, 0, 0, 0]),
        (Syscall::FaultReturn, [0xffff_8000_0000_1000 | at, 0, 0, 0, 0, 0]),
        (Syscall::ConsoleWrite, [at, length, 0, 0, 0, 0]),
        (Syscall::Random, [at, length, 0, 0, 0, 0]),
        (Syscall::Counters, [at, length, 0, 0, 0, 0]),
        (Syscall::ObjectCreate, [at, 0, 0, 0, 0, 0]),
        (Syscall::ObjectStat, [sandbox.object.lo, sandbox.object.hi, at, 0, 0, 0]),
        (Syscall::ObjectCopy, [at, 0, 0, 0, 0, 0]),
        (Syscall::ViewInvalidate, [at, length, 0, 0, 0, 0]),
        (Syscall::NameGet, [at, length, 0, 0, 0, 0]),
        (Syscall::NameSet, [sandbox.object.lo, sandbox.object.hi, at, length, 0, 0]),
        (Syscall::NameRemove, [at, length, 0, 0, 0, 0]),
    ];
    for (call, a) in &mut calls {
        if !is_own_affair(*call as u64, a) {
            raw(*call as u64, *a);
        }
    }
}

/// Makes calls with pointers into a slot that another thread fills and empties meanwhile.
pub(crate) fn vanishing_pointers(random: &mut Random, sandbox: &Sandbox) {
    let stop = AtomicBool::new(false);
    let (flag, object, wild) = (stop.as_ptr() as u64, sandbox.object, sandbox.wild);
    let flipper = twz_rt::thread::spawn(move || {
        // SAFETY: the spawner waits for this thread before the flag goes.
        let stop = unsafe { &*(flag as *const AtomicBool) };
        let view = View::current();
        while !stop.load(Ordering::Relaxed) {
            let _ = view.map(wild, object, Rights::READ | Rights::WRITE);
            view.clear(wild);
            // It may fail; the next one does it.
            let _ = view::invalidate(&[SlotRange { first: wild, count: 1 }]);
        }
    });
    let Ok(flipper) = flipper else { return };
    let at = wild * SLOT_SIZE + random.pick(&[0x1000, 0x1ff8, 0x3000]);
    for _ in 0..4 {
        raw(Syscall::Random as u64, [at, 64, 0, 0, 0, 0]);
        raw(Syscall::Counters as u64, [at, 4096, 0, 0, 0, 0]);
        raw(Syscall::ThreadSync as u64, [at, 2, 1000, 0, 0, 0]);
        raw(Syscall::ObjectStat as u64, [object.lo, object.hi, at, 0, 0, 0]);
        raw(Syscall::NameGet as u64, [at, 100, 0, 0, 0, 0]);
        let op = SyncOp {
            address: at,
            value: random.below(3),
            kind: 1 + (random.next() & 1) as u32 * 2,
            reserved: 0,
        };
        let _ = syscall::thread_sync(&[op], 1000);
    }
    stop.store(true, Ordering::Relaxed);
    // It always ends by itself.
    let _ = flipper.join();
}

/// Threads whose entry, stack, state, segment or fault stack is somewhere else.
pub(crate) fn thread_specs(random: &mut Random, sandbox: &Sandbox) {
    for _ in 0..6 {
        for word in 0..14 {
            let value = match word {
                // View and context: this one, or nobody's.
                0..4 => random.pick(&[0, 0, 0, 5]),
                // Entry: nothing that could be code which runs on.
                4 => random.pick(&[
                    0,
                    0x1000,
                    sandbox.base() + 0x8000,
                    1 << 46,
                    (1 << 47) - 1,
                    1 << 47,
                    u64::MAX,
                ]),
                11 => random.pick(&[0, 1, 31, 32, u64::MAX]),
                _ => {
                    let anywhere = pointer(random, sandbox);
                    random.pick(&[0, 8, sandbox.base() + 0x4000, anywhere])
                }
            };
            sandbox.set(word * 8, value);
        }
        raw(Syscall::ThreadSpawn as u64, [sandbox.base(), 0, 0, 0, 0, 0]);
    }
}

/// Frames that no kernel ever pushed. Loading one moves this thread anywhere, so each is tried by a thread of its own.
pub(crate) fn fault_returns(random: &mut Random, sandbox: &Sandbox) {
    for word in 0..24 {
        let value = argument(random, sandbox);
        sandbox.set(word * 8, value);
    }
    // RIP, flags, RSP: never code that could run on.
    let rip = random.pick(&[0, 0x1000, 1 << 46, (1 << 47) - 1, 1 << 47, 0xffff_ffff_8010_0000, u64::MAX]);
    sandbox.set(21 * 8, rip);
    sandbox.set(22 * 8, random.next());
    let frame = sandbox.base();
    if let Ok(thread) =
        twz_rt::thread::spawn(move || raw(Syscall::FaultReturn as u64, [frame, 0, 0, 0, 0, 0]))
    {
        // It faults, which is the purpose.
        let _ = thread.join();
    }
}

/// Numbers below ours, with a handler that is none.
pub(crate) fn low_calls(random: &mut Random, sandbox: &Sandbox) {
    let handler = random.pick(&[0, 1, 0x1000, sandbox.base() + 0x8000, 1 << 46, 1 << 47, u64::MAX]);
    let call = random.below(0x1000);
    // SAFETY: no other attack makes low calls, and the thread below is to fault.
    unsafe { View::current().set_low_syscall_handler(handler) };
    if let Ok(thread) = twz_rt::thread::spawn(move || raw(call, [0; 6])) {
        let _ = thread.join();
    }
}

/// Sleeping and waking on the same words by several threads, whose slot vanishes now and then.
pub(crate) fn sync_storm(random: &mut Random, sandbox: &Sandbox) {
    static WORDS: [AtomicU32; 8] = [const { AtomicU32::new(0) }; 8];
    static WOKEN: AtomicU64 = AtomicU64::new(0);
    let seed = random.next();
    let other = twz_rt::thread::spawn(move || {
        let mut random = Random(seed | 1);
        for _ in 0..8 {
            let word = random.pick(&[0, 1, 2, 3, 4, 5, 6, 7]);
            let _ = sync::wait(&WORDS[word], 0, random.below(300_000));
        }
    });
    for _ in 0..8 {
        let word = random.pick(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let ops = [sync::wake_op(&WORDS[word], random.next()), sync::sleep_op(&WORDS[7 - word], 0)];
        WOKEN.fetch_add(syscall::thread_sync(&ops, random.below(200_000)).unwrap_or(0), Ordering::Relaxed);
        let nobody = ObjectId { lo: random.next(), hi: random.next() };
        let _ = View::current().set(sandbox.wild, nobody, Rights::READ, entry_flags::VALID);
    }
    if let Ok(other) = other {
        let _ = other.join();
    }
}

/// Everything that can be done to an object of another context's whose ID is known.
pub(crate) fn foreign_objects(random: &mut Random, sandbox: &Sandbox) {
    let (foreign, own) = (ward::object(), sandbox.object);
    for _ in 0..4 {
        for (source, target) in [(foreign, own), (own, foreign), (foreign, foreign)] {
            let offset = random.pick(&[0x1000, 0x2000, 0x20_0000]);
            let spec =
                CopySpec { source, target, source_offset: offset, target_offset: 0x1000, bytes: 0x1000 };
            // SAFETY: the sandbox is there to be ruined; the other object must not be reached.
            ward::note(unsafe { syscall::object_copy(&spec) });
        }
        // SAFETY: as above.
        ward::note(unsafe { syscall::object_trim(foreign, 0x1000, random.pick(&[0x1000, 1 << 21])) });
        ward::note(syscall::object_tie(foreign, own));
        ward::note(syscall::object_delete(foreign));
        ward::note(syscall::name_set(foreign, "stolen"));
        ward::note(syscall::object_create(&CreateSpec { source: foreign, ..CreateSpec::default() }));
        // A thread whose view it is, and one whose context.
        for spec in [
            ThreadSpec { view: foreign, entry: 0x1000, ..ThreadSpec::default() },
            ThreadSpec { context: foreign, entry: 0x1000, ..ThreadSpec::default() },
        ] {
            // SAFETY: it faults with its first instruction.
            ward::note(unsafe { syscall::thread_spawn(&spec) });
        }
        ward::note(context::attach(foreign));
        ward::note(context::gate_call(foreign, 0, [0; 3]));
        let view = View::current();
        let _ = view.map(sandbox.wild, foreign, Rights::all());
        let at = sandbox.wild * SLOT_SIZE + 0x1000 + random.below(8) * 8;
        ward::note(probe::load(at));
        // SAFETY: it must not be reached.
        ward::note(unsafe { probe::store(at, random.next()) });
        // SAFETY: as above.
        ward::note(unsafe { probe::add(at, 1) });
        view.clear(sandbox.wild);
        let _ = view::invalidate(&[SlotRange { first: sandbox.wild, count: 1 }]);
    }
}
