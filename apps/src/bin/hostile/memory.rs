//! Attacks by memory: entries, edges, and using everything up.

use crate::{Random, Sandbox, volatile};
use alloc::vec::Vec;
use apps::probe;
use core::sync::atomic::{AtomicU64, Ordering};
use twz_rt::abi::program::VIEW_SLOT;
use twz_rt::abi::syscall::CopySpec;
use twz_rt::abi::thread::ThreadSpec;
use twz_rt::abi::view::{SLOT_SIZE, SlotRange, entry_offset};
use twz_rt::abi::{ObjectId, Rights};
use twz_rt::view::{self, View};
use twz_rt::{slots, syscall};

const BOTH: Rights = Rights::READ.union(Rights::WRITE);

/// Rewrites an entry word by word from another thread while the slot is used.
pub(crate) fn view_rewrites(random: &mut Random, sandbox: &Sandbox) {
    let (wild, object, seed) = (sandbox.wild, sandbox.object, random.next());
    let writer = twz_rt::thread::spawn(move || {
        let entry = VIEW_SLOT * SLOT_SIZE + entry_offset(wild).unwrap_or(0);
        let mut random = Random(seed | 1);
        for _ in 0..400 {
            let index = random.below(4);
            let value = match random.below(4) {
                0 => random.next(),
                1 => object.lo,
                2 => object.hi,
                _ => 0x7_0000_0001,
            };
            // SAFETY: an entry of the current view, which only this attack uses; shared with the kernel, hence atomics.
            unsafe { &*((entry + index * 8) as *const AtomicU64) }.store(value, Ordering::Relaxed);
        }
    });
    for _ in 0..15 {
        let at = wild * SLOT_SIZE + random.pick(&[0, 0xff8, 0x1000, 0x20_0000, SLOT_SIZE - 8]);
        let _ = probe::load(at);
        // SAFETY: it maps the sandbox's object, or nothing.
        let _ = unsafe { probe::store(at, random.next()) };
        let _ = view::invalidate(&[SlotRange { first: wild, count: random.below(3) }]);
    }
    if let Ok(writer) = writer {
        let _ = writer.join();
    }
    View::current().clear(wild);
    let _ = view::invalidate(&[SlotRange { first: wild, count: 1 }]);
}

/// Misaligned and locked accesses across the ends of pages, chunks and slots.
pub(crate) fn slot_edges(random: &mut Random, sandbox: &Sandbox) {
    let start = sandbox.slot * SLOT_SIZE;
    let edges = [start, start + 0x1000, start + 0x2000, start + 0x20_0000, start + SLOT_SIZE];
    for _ in 0..20 {
        let at = random.pick(&edges).wrapping_sub(random.below(9));
        let _ = probe::load(at);
        // SAFETY: the sandbox's object, or nothing: neighbours of its slot are empty, or other sandboxes.
        let _ = unsafe { probe::add(at, random.next()) };
        // SAFETY: as above.
        let _ = unsafe { probe::store(at, random.next()) };
        // SAFETY: as above; what is called faults, or is the zeros of an empty object, which fault soon.
        let _ = unsafe { probe::call(start + SLOT_SIZE + random.below(16)) };
    }
}

/// Objects, bindings and slots until something runs out, at most a few hundred.
pub(crate) fn object_exhaustion(random: &mut Random, _: &Sandbox) {
    let mut made: Vec<(u64, ObjectId)> = Vec::new();
    for _ in 0..20 + random.below(30) {
        let Ok(object) = volatile(BOTH | Rights::DELETE) else { break };
        let Some(slot) = slots::allocate() else { break };
        let _ = view::map(slot, object, BOTH);
        made.push((slot, object));
        // SAFETY: a new object.
        if unsafe { probe::store(slot * SLOT_SIZE + 0x1000 + random.below(256) * 0x20_0000, 1) }.is_err() {
            break;
        }
    }
    for (slot, object) in made {
        // Sometimes deleted while mapped.
        let early = random.below(2) == 0;
        if early {
            let _ = syscall::object_delete(object);
        }
        // SAFETY: nobody uses the slot any more.
        let _ = unsafe { view::unmap(slot) };
        if !early {
            let _ = syscall::object_delete(object);
        }
    }
}

/// Pages until the pool is full, at most 128 MiB.
pub(crate) fn memory_exhaustion(random: &mut Random, _: &Sandbox) {
    let Ok(object) = volatile(BOTH | Rights::DELETE) else { return };
    let Some(slot) = slots::allocate() else { return };
    let _ = view::map(slot, object, BOTH);
    let step = random.pick(&[0x1_0000, 0x20_0000, 0x20_1000]);
    for index in 0..40 {
        let offset = (0x1000 + index * step) % SLOT_SIZE;
        // SAFETY: a new object.
        if unsafe { probe::store(slot * SLOT_SIZE + offset.max(0x1000), 1) }.is_err() {
            break;
        }
    }
    // SAFETY: nobody looks at it any more.
    let _ = unsafe { syscall::object_trim(object, 0x20_0000, 64 << 20) };
    // SAFETY: as above.
    let _ = unsafe { view::unmap(slot) };
    let _ = syscall::object_delete(object);
}

/// Hundreds of threads that fault at once, without waiting for any.
pub(crate) fn thread_exhaustion(random: &mut Random, sandbox: &Sandbox) {
    for index in 0..60 {
        let spec = ThreadSpec {
            entry: random.pick(&[0x1000, sandbox.base() + 0x10_0000, 1 << 46]),
            stack: sandbox.base() + 0x20_0000 + index * 0x1000,
            priority: random.below(20).try_into().unwrap_or(0),
            fault_stack: random.pick(&[0, 1 << 46]),
            ..ThreadSpec::default()
        };
        // SAFETY: it faults with its first instruction, on a stack in the sandbox.
        if unsafe { syscall::thread_spawn(&spec) }.is_err() {
            break;
        }
    }
    syscall::thread_yield();
}

/// Runs off a stack, upwards or downwards.
pub(crate) fn stack_overflow(random: &mut Random, _: &Sandbox) {
    let upwards = random.below(2) == 0;
    let thread = twz_rt::thread::spawn(move || {
        if upwards {
            // SAFETY: pops until the slot ends, or a fault; nothing after it runs.
            unsafe { core::arch::asm!("2: pop rax", "add rsp, 0x4000000", "jmp 2b", options(noreturn)) }
        }
        // SAFETY: as above, the other way, from near the stack's end: in steps that cannot miss the null page and reach another slot.
        unsafe {
            core::arch::asm!(
                "and rsp, {slot}", "add rsp, 0x9000", "2: push rax", "sub rsp, 0x7f8", "jmp 2b",
                slot = in(reg) !(SLOT_SIZE - 1), options(noreturn)
            )
        }
    });
    if let Ok(thread) = thread {
        let _ = thread.join();
    }
}

/// Copies over, trims and reads a range from two sides.
pub(crate) fn copies_under_fire(random: &mut Random, sandbox: &Sandbox) {
    let Ok(source) = volatile(BOTH | Rights::DELETE) else { return };
    let (target, base) = (sandbox.object, sandbox.base());
    let reader = twz_rt::thread::spawn(move || {
        for step in 0..200_u64 {
            let _ = probe::load(base + 0x40_0000 + (step % 4) * 0x1000);
            // SAFETY: the sandbox is there to be ruined.
            let _ = unsafe { probe::store(base + 0x40_0000 + (step % 4) * 0x1000, step) };
        }
    });
    for _ in 0..10 {
        let spec = CopySpec {
            source: if random.below(2) == 0 { source } else { target },
            target,
            source_offset: random.pick(&[0, 0x1000, 0x20_0000, 1 << 30, u64::MAX - 0xfff]),
            target_offset: random.pick(&[0x40_1000, 0x40_1000, 0x40_3000, 1, 1 << 30]),
            bytes: random.pick(&[0, 1, 0x1000, 0x4000, u64::MAX]),
        };
        // SAFETY: the sandbox is there to be ruined.
        let _ = unsafe { syscall::object_copy(&spec) };
        // SAFETY: as above.
        let _ = unsafe { syscall::object_trim(target, spec.target_offset, spec.bytes) };
        let _ = syscall::object_tie(source, target);
    }
    if let Ok(reader) = reader {
        let _ = reader.join();
    }
    let _ = syscall::object_delete(source);
}
