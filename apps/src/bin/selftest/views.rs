//! Views: entries are stores, changes are seen when invalidated, garbage harms nobody.

use crate::{Mapped, Outcome, READ_WRITE, Test, check, failed, harts, object, same, skip};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use apps::probe;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use twz_rt::abi::fault::{FaultCause, FaultFrame};
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::{ARGS_SLOT, DATA_SLOT, HEAP_SLOT, STACK_SLOT, STACK_TOP, TEXT_SLOT, VIEW_SLOT};
use twz_rt::abi::syscall::{CreateSpec, create_flags};
use twz_rt::abi::thread::{ThreadPhase, ThreadSpec};
use twz_rt::abi::view::{SLOT_COUNT, SLOT_SIZE, SlotRange, entry_flags, entry_offset};
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::thread::Builder;
use twz_rt::view::{self, View};
use twz_rt::{fault, println, slots, sync, syscall};

pub(crate) const TESTS: &[Test] = &[
    ("view-entry-without-call", entry_without_call),
    ("view-same-object-twice", same_object_twice),
    ("view-unmap", unmap),
    ("view-remap", remap),
    ("view-invalidate-ranges", invalidate_ranges),
    ("view-invalidate-harts", invalidate_harts),
    ("view-on-demand", on_demand),
    ("view-garbage", garbage),
    ("view-vanishing", vanishing),
    ("view-set", set),
    ("view-thread-in-another", thread_in_another),
    ("view-memory-bounded", memory_bounded),
    ("view-large-pages", large_pages),
];

fn recovering(frame: &mut FaultFrame) {
    if !probe::recover(frame) {
        syscall::thread_exit(99);
    }
}

fn recover_faults() {
    // SAFETY: the handler takes no lock and changes only what a probe expects.
    unsafe { fault::set_handler(recovering) };
}

fn cause_at(address: u64) -> Option<FaultCause> {
    probe::load(address).err().and_then(|fault| FaultCause::try_from(fault.cause).ok())
}

fn entry_without_call() -> Outcome {
    let id = object(READ_WRITE)?;
    let slot = slots::allocate().ok_or("no free slot")?;
    let before = syscall::counters().map_err(failed("counters"))?;
    let base = view::map(slot, id, READ_WRITE).ok_or("no such slot")? as u64;
    // SAFETY: the slot now maps an object of this test.
    unsafe { ((base + 0x1000) as *mut u64).write_volatile(77) };
    let after = syscall::counters().map_err(failed("counters"))?;
    same!(after.syscalls - before.syscalls, 1, "calls (one is the counting itself)");
    same!(after.slots_mapped - before.slots_mapped, 1, "slots that the kernel installed");
    let again = Mapped::of(id, READ_WRITE)?;
    same!(again.get(0), 77, "the word through another slot");
    // SAFETY: nothing uses the slot any more.
    unsafe { view::unmap(slot) }.map_err(failed("unmapping"))
}

fn same_object_twice() -> Outcome {
    let first = Mapped::new()?;
    let second = Mapped::of(first.id, READ_WRITE)?;
    let read_only = Mapped::of(first.id, Rights::READ)?;
    recover_faults();
    for round in 0..64 {
        first.set(round * 700, round);
        same!(second.get(round * 700), round, "round {round}");
        second.set(round * 700, round + 1);
        same!(first.get(round * 700), round + 1, "round {round}, the other way");
        same!(read_only.get(round * 700), round + 1, "round {round}, read-only");
    }
    // SAFETY: an object of this test.
    check!(unsafe { probe::store(read_only.address(0), 1) }.is_err(), "written through a read-only slot");
    Ok(())
}

fn unmap() -> Outcome {
    recover_faults();
    let mapped = Mapped::new()?;
    mapped.set(3, 9);
    View::current().clear(mapped.slot);
    view::invalidate(&[SlotRange { first: mapped.slot, count: 1 }]).map_err(failed("invalidating"))?;
    same!(cause_at(mapped.address(3)), Some(FaultCause::Unmapped), "reading an unmapped slot");
    let _ = view::map(mapped.slot, mapped.id, READ_WRITE);
    same!(mapped.get(3), 9, "the word after mapping it again");
    Ok(())
}

fn remap() -> Outcome {
    let (first, second) = (Mapped::new()?, Mapped::new()?);
    first.set(0, 1);
    second.set(0, 2);
    let slot = slots::allocate().ok_or("no free slot")?;
    let address = (slot * SLOT_SIZE + 0x1000) as *const u64;
    for round in 0..100_u64 {
        let which = if round % 2 == 0 { &first } else { &second };
        let _ = view::map(slot, which.id, READ_WRITE);
        view::invalidate(&[SlotRange { first: slot, count: 1 }]).map_err(failed("invalidating"))?;
        // SAFETY: the slot maps one of two objects of this test.
        same!(unsafe { address.read_volatile() }, 1 + round % 2, "round {round}");
    }
    // SAFETY: nothing uses the slot any more.
    unsafe { view::unmap(slot) }.map_err(failed("unmapping"))
}

fn invalidate_ranges() -> Outcome {
    recover_faults();
    let mapped: Result<alloc::vec::Vec<Mapped>, String> = (0..12).map(|_| Mapped::new()).collect();
    let mapped = mapped?;
    mapped.iter().for_each(|one| one.set(0, 1));
    let view = View::current();
    mapped.iter().for_each(|one| view.clear(one.slot));
    // Eleven of twelve, in one call: ranges of one, and one that covers nothing that is mapped.
    let mut ranges: alloc::vec::Vec<SlotRange> =
        mapped[1..].iter().map(|one| SlotRange { first: one.slot, count: 1 }).collect();
    ranges.push(SlotRange { first: SLOT_COUNT - 10, count: 1 });
    view::invalidate(&ranges).map_err(failed("invalidating"))?;
    for one in &mapped[1..] {
        same!(cause_at(one.address(0)), Some(FaultCause::Unmapped), "slot {}", one.slot);
    }
    // A range of everything is one call, too.
    view::invalidate(&[SlotRange { first: 0, count: SLOT_COUNT }]).map_err(failed("invalidating all"))?;
    same!(cause_at(mapped[0].address(0)), Some(FaultCause::Unmapped), "the twelfth slot");
    same!(view::invalidate(&[]), Err(ErrorCode::BadArgument), "no ranges");
    same!(view::invalidate(&[SlotRange::default(); 65]), Err(ErrorCode::BadArgument), "65 ranges");
    for (first, count) in [(SLOT_COUNT, 1), (SLOT_COUNT - 1, 2), (1, u64::MAX), (u64::MAX, u64::MAX)] {
        let result = view::invalidate(&[SlotRange { first, count }]);
        same!(result, Err(ErrorCode::BadArgument), "slots {first:#x} + {count:#x}");
    }
    Ok(())
}

fn invalidate_harts() -> Outcome {
    static SLOT: AtomicU64 = AtomicU64::new(0);
    static ROUND: AtomicU64 = AtomicU64::new(0);
    static SEEN: AtomicU64 = AtomicU64::new(0);
    const ROUNDS: u64 = 50;
    let slot = slots::allocate().ok_or("no free slot")?;
    SLOT.store(slot, Ordering::SeqCst);
    ROUND.store(0, Ordering::SeqCst);
    SEEN.store(0, Ordering::SeqCst);
    let (first, second) = (Mapped::new()?, Mapped::new()?);
    first.set(0, 0);
    second.set(0, 1);
    let _ = view::map(slot, first.id, Rights::READ);
    let harts = harts();
    let mut readers = alloc::vec::Vec::new();
    for hart in 0..harts {
        // Each has the slot in its hart's translations, and looks again when told that it changed.
        let reader = Builder::new().affinity(1 << hart).spawn(move || {
            let address = (SLOT.load(Ordering::SeqCst) * SLOT_SIZE + 0x1000) as *const u64;
            let mut wrong = 0_u64;
            for round in 1..=ROUNDS {
                // SAFETY: the slot maps one of the test's objects at any time.
                let _ = unsafe { address.read_volatile() };
                SEEN.fetch_add(1, Ordering::SeqCst);
                while ROUND.load(Ordering::SeqCst) < round {
                    syscall::thread_yield();
                }
                // SAFETY: as above.
                wrong += u64::from(unsafe { address.read_volatile() } != round % 2);
            }
            wrong
        });
        readers.push(reader.map_err(failed("starting a reader"))?);
    }
    for round in 1..=ROUNDS {
        while SEEN.load(Ordering::SeqCst) < round * harts {
            syscall::thread_yield();
        }
        let id = if round % 2 == 0 { first.id } else { second.id };
        // One word changes at a time, so the entry is never empty; both objects' IDs differ in both halves, and a mixture names nobody.
        View::current().clear(slot);
        let _ = view::map(slot, id, Rights::READ);
        view::invalidate(&[SlotRange { first: slot, count: 1 }]).map_err(failed("invalidating"))?;
        ROUND.store(round, Ordering::SeqCst);
    }
    for reader in readers {
        let wrong = reader.join().map_err(|ended| format!("a reader: {ended}"))?;
        same!(wrong, 0, "stale reads of one hart in {ROUNDS} rounds");
    }
    // SAFETY: nobody uses the slot any more.
    unsafe { view::unmap(slot) }.map_err(failed("unmapping"))
}

static DEMANDED: AtomicU64 = AtomicU64::new(0);
static DEMAND_ID: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

fn fills_slots(frame: &mut FaultFrame) {
    if frame.info.cause == FaultCause::OnDemand as u32 {
        DEMANDED.fetch_add(1, Ordering::Relaxed);
        let id =
            ObjectId { lo: DEMAND_ID[0].load(Ordering::Relaxed), hi: DEMAND_ID[1].load(Ordering::Relaxed) };
        let _ = view::map(frame.info.address / SLOT_SIZE, id, READ_WRITE);
    } else if !probe::recover(frame) {
        syscall::thread_exit(99);
    }
}

fn on_demand() -> Outcome {
    let source = Mapped::new()?;
    source.set(5, 55);
    DEMANDED.store(0, Ordering::Relaxed);
    DEMAND_ID[0].store(source.id.lo, Ordering::Relaxed);
    DEMAND_ID[1].store(source.id.hi, Ordering::Relaxed);
    // SAFETY: the handler takes no lock.
    unsafe { fault::set_handler(fills_slots) };
    let slot = slots::allocate().ok_or("no free slot")?;
    let _ = View::current().set(slot, ObjectId::NULL, Rights::empty(), entry_flags::ON_DEMAND);
    same!(probe::load(slot * SLOT_SIZE + 0x1028), Ok(55), "the word after the handler filled the slot");
    same!(DEMANDED.load(Ordering::Relaxed), 1, "faults on demand");
    // SAFETY: nothing uses the slot any more.
    unsafe { view::unmap(slot) }.map_err(failed("unmapping"))
}

fn garbage() -> Outcome {
    recover_faults();
    let mapped = Mapped::new()?;
    mapped.set(0, 4);
    let slot = slots::allocate().ok_or("no free slot")?;
    let (address, view) = (slot * SLOT_SIZE + 0x1000, View::current());
    let nobody = ObjectId { lo: 0xdead_beef, hi: 0xfeed_f00d };
    let all = Rights::from_bits_retain(u32::MAX);
    let cases = [
        (nobody, READ_WRITE, entry_flags::VALID, Err(FaultCause::NoObject)),
        (ObjectId::NULL, READ_WRITE, entry_flags::VALID, Err(FaultCause::Unmapped)),
        (mapped.id, READ_WRITE, 0, Err(FaultCause::Unmapped)),
        (mapped.id, Rights::empty(), entry_flags::VALID, Err(FaultCause::Rights)),
        (mapped.id, Rights::from_bits_retain(0xffff_ff00), entry_flags::VALID, Err(FaultCause::Rights)),
        (mapped.id, all, entry_flags::VALID, Ok(4)),
        (mapped.id, READ_WRITE, !entry_flags::ON_DEMAND, Ok(4)),
    ];
    for (id, rights, flags, wanted) in cases {
        let _ = view.set(slot, id, rights, flags);
        let found = probe::load(address).map_err(|fault| FaultCause::try_from(fault.cause));
        same!(found, wanted.map_err(Ok), "entry {id} {rights:?} {flags:#x}");
        view.clear(slot);
        view::invalidate(&[SlotRange { first: slot, count: 1 }]).map_err(failed("invalidating"))?;
    }
    slots::free(slot);
    Ok(())
}

fn vanishing() -> Outcome {
    static STOP: AtomicBool = AtomicBool::new(false);
    static SLOT: AtomicU64 = AtomicU64::new(0);
    recover_faults();
    let mapped = Mapped::new()?;
    mapped.set(0, 4);
    let slot = slots::allocate().ok_or("no free slot")?;
    SLOT.store(slot, Ordering::SeqCst);
    STOP.store(false, Ordering::SeqCst);
    let id = mapped.id;
    // Writes the entry word by word, in any order, while it is being read.
    let writer = twz_rt::thread::spawn(move || {
        let entry = VIEW_SLOT * SLOT_SIZE + entry_offset(SLOT.load(Ordering::SeqCst)).unwrap_or(0);
        let word = |index: u64| {
            // SAFETY: an entry of the current view, which is mapped, writable; shared with the kernel, hence atomics.
            unsafe { &*((entry + index * 8) as *const AtomicU64) }
        };
        let mut random = 88172645463325252_u64;
        let mut writes = 0_u64;
        while !STOP.load(Ordering::Relaxed) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            match random % 6 {
                0 => word(0).store(id.lo, Ordering::Relaxed),
                1 => word(1).store(id.hi, Ordering::Relaxed),
                2 => word(2).store(random >> 20, Ordering::Relaxed),
                3 => word(2).store(0x3_0000_0001, Ordering::Relaxed),
                4 => word(random >> 8 & 1).store(random, Ordering::Relaxed),
                _ => word(2).store(0, Ordering::Relaxed),
            }
            writes += 1;
            if writes.is_multiple_of(256) {
                syscall::thread_yield();
            }
        }
        writes
    });
    let writer = writer.map_err(failed("starting the writer"))?;
    let (mut read, mut faults) = (0, 0);
    let mut wrong = None;
    for _ in 0..1500 {
        match probe::load(slot * SLOT_SIZE + 0x1000) {
            Ok(4) => read += 1,
            Ok(value) => wrong = Some(value),
            Err(_) => faults += 1,
        }
        view::invalidate(&[SlotRange { first: slot, count: 1 }]).map_err(failed("invalidating"))?;
        syscall::thread_yield();
    }
    STOP.store(true, Ordering::Relaxed);
    let writes = writer.join().map_err(|ended| format!("the writer: {ended}"))?;
    // SAFETY: nobody uses the slot any more.
    unsafe { view::unmap(slot) }.map_err(failed("unmapping"))?;
    same!(wrong, None, "a value that stands nowhere");
    check!(faults > 0 && writes > 1000, "{read} reads, {faults} faults, {writes} writes: nothing was tried");
    Ok(())
}

/// Makes a view with what a thread of this program needs, and with `stack` as its stack.
pub(crate) fn other_view(stack_slot: u64) -> Result<Mapped, String> {
    let other = Mapped::new()?;
    // SAFETY: the object was just mapped there.
    let view = unsafe { View::at((other.slot * SLOT_SIZE) as *mut u8) };
    view.initialise();
    for slot in [TEXT_SLOT, DATA_SLOT, STACK_SLOT, ARGS_SLOT, HEAP_SLOT, stack_slot] {
        let (id, _) = View::current().get(slot).ok_or("no such slot")?;
        let rights = if slot == TEXT_SLOT { Rights::READ | Rights::EXEC } else { READ_WRITE };
        let _ = view.map(slot, id, rights);
    }
    let _ = view.map(VIEW_SLOT, other.id, READ_WRITE);
    Ok(other)
}

/// What threads leave behind that change views: values in the program's data, which all views map.
static TRAVEL: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static HOME: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static PLACE: AtomicU64 = AtomicU64::new(0);

fn read_place() -> u64 {
    let address = PLACE.load(Ordering::SeqCst) as *const u64;
    // SAFETY: both views map an object in this slot.
    unsafe { address.read_volatile() }
}

fn stack_pointer() -> u64 {
    let value;
    // SAFETY: reading RSP changes nothing.
    unsafe { core::arch::asm!("mov {}, rsp", out(reg) value, options(nomem, nostack)) };
    value
}

extern "C" fn abroad(argument: u64) -> ! {
    TRAVEL[1].store(argument, Ordering::SeqCst);
    TRAVEL[2].store(read_place(), Ordering::SeqCst);
    let home = ObjectId { lo: HOME[0].load(Ordering::SeqCst), hi: HOME[1].load(Ordering::SeqCst) };
    let stack = (stack_pointer() & !15) - 4096 - 8;
    // SAFETY: the first view has the same code and stack.
    let error = unsafe { syscall::view_set(home, at_home as *const () as u64, stack, 0) };
    syscall::thread_exit(error as u8);
}

extern "C" fn at_home(_: u64) -> ! {
    TRAVEL[3].store(read_place(), Ordering::SeqCst);
    syscall::thread_exit(42);
}

fn set() -> Outcome {
    let (here, there) = (Mapped::new()?, Mapped::new()?);
    here.set(0, 111);
    there.set(0, 222);
    let slot = slots::allocate().ok_or("no free slot")?;
    let _ = view::map(slot, here.id, READ_WRITE);
    PLACE.store(slot * SLOT_SIZE + 0x1000, Ordering::SeqCst);
    TRAVEL.iter().for_each(|word| word.store(0, Ordering::SeqCst));
    let (home, _) = View::current().get(VIEW_SLOT).ok_or("no view")?;
    HOME[0].store(home.lo, Ordering::SeqCst);
    HOME[1].store(home.hi, Ordering::SeqCst);
    let (there_id, other_slot) = (there.id, slot);
    let traveller = twz_rt::thread::spawn(move || -> Result<(), String> {
        let other = other_view(stack_pointer() / SLOT_SIZE)?;
        // SAFETY: mapped by `other_view`.
        let view = unsafe { View::at((other.slot * SLOT_SIZE) as *mut u8) };
        let _ = view.map(other_slot, there_id, READ_WRITE);
        TRAVEL[0].store(read_place(), Ordering::SeqCst);
        let stack = (stack_pointer() & !15) - 4096 - 8;
        // SAFETY: the other view has the same code and stack.
        let error = unsafe { syscall::view_set(other.id, abroad as *const () as u64, stack, 333) };
        Err(format!("view_set came back: {error}"))
    });
    let traveller = traveller.map_err(failed("starting a thread"))?;
    let ended = match traveller.join() {
        Ok(Err(reason)) => return Err(reason),
        Ok(Ok(())) => return Err("view_set came back".into()),
        Err(ended) => ended,
    };
    same!(ended.status, 42, "the exit status ({ended})");
    let seen: alloc::vec::Vec<u64> = TRAVEL.iter().map(|word| word.load(Ordering::SeqCst)).collect();
    same!(seen, [111, 333, 222, 111], "here, argument, there, here again");
    let nobody = ObjectId { lo: 3, hi: 3 };
    same!(
        // SAFETY: refused.
        unsafe { syscall::view_set(nobody, 0x1000, 0x1000, 0) },
        ErrorCode::NoObject,
        "a view that does not exist"
    );
    // SAFETY: nobody uses the slot any more.
    unsafe { view::unmap(slot) }.map_err(failed("unmapping"))
}

extern "C" fn settler(word: u64) -> ! {
    // SAFETY: the creator passed the address of a word in the shared data.
    let word = unsafe { &*(word as *const AtomicU64) };
    word.store(read_place(), Ordering::SeqCst);
    syscall::thread_exit(7);
}

fn thread_in_another() -> Outcome {
    static RESULT: AtomicU64 = AtomicU64::new(0);
    let (stack, there) = (Mapped::new()?, Mapped::new()?);
    there.set(0, 444);
    let other = other_view(stack.slot)?;
    // SAFETY: mapped by `other_view`.
    let view = unsafe { View::at((other.slot * SLOT_SIZE) as *mut u8) };
    // A slot that is empty here.
    let slot = slots::allocate().ok_or("no free slot")?;
    let _ = view.map(slot, there.id, Rights::READ);
    PLACE.store(slot * SLOT_SIZE + 0x1000, Ordering::SeqCst);
    RESULT.store(0, Ordering::SeqCst);
    let top = stack.slot * SLOT_SIZE + STACK_TOP;
    let spec = ThreadSpec {
        view: other.id,
        entry: settler as *const () as u64,
        stack: top - 8,
        argument: RESULT.as_ptr() as u64,
        state: top,
        priority: 16,
        ..ThreadSpec::default()
    };
    // SAFETY: the stack is the new thread's alone.
    unsafe { syscall::thread_spawn(&spec) }.map_err(failed("spawning in another view"))?;
    // SAFETY: the state stands in the stack object, which is mapped here in the same slot.
    let phase = unsafe { &*(top as *const AtomicU32) };
    loop {
        let seen = phase.load(Ordering::Acquire);
        if seen >= ThreadPhase::Exited as u32 {
            same!(seen, ThreadPhase::Exited as u32, "the phase");
            break;
        }
        if let Err(error) = sync::wait(phase, seen, 5_000_000_000) {
            check!(error == ErrorCode::WouldBlock, "waiting for its end: {error}");
        }
    }
    same!(RESULT.load(Ordering::SeqCst), 444, "what the thread read in its view");
    slots::free(slot);
    Ok(())
}

fn memory_bounded() -> Outcome {
    // Different objects each time, so nothing that was mapped once may stay behind: tables, bindings, records.
    let turn = |slots: u64| -> Outcome {
        let all: Result<Vec<Mapped>, String> = (0..slots).map(|_| Mapped::new()).collect();
        all?.iter().for_each(|mapped| (0..4).for_each(|chunk| mapped.set(chunk << 19, chunk)));
        Ok(())
    };
    turn(50)?;
    let before = syscall::counters().map_err(failed("counters"))?;
    (0..40).try_for_each(|_| turn(10))?;
    let between = syscall::counters().map_err(failed("counters"))?;
    turn(50)?;
    let after = syscall::counters().map_err(failed("counters"))?;
    same!((between.binds - before.binds, between.unbinds - before.unbinds), (400, 400), "binds and unbinds");
    // A record's frame may stay for the next one, a table never.
    let grown = |later: u64| later.saturating_sub(before.frames_used);
    check!(
        grown(between.frames_used) <= 4 && grown(after.frames_used) <= 4,
        "frames in use: {} before, {} after 400 objects, {} after 50 at once",
        before.frames_used,
        between.frames_used,
        after.frames_used
    );
    Ok(())
}

/// A chunk that lies in the pool as a whole is mapped by one leaf of 2 MiB: no fault but the first, and no table.
fn large_pages() -> Outcome {
    const CHUNK_WORDS: u64 = (2 << 20) / 8;
    // The pool gives whole chunks to an object that asks for them at once, as long as it has any.
    let spec = CreateSpec {
        default_rights: (READ_WRITE | Rights::DELETE).bits(),
        flags: create_flags::VOLATILE,
        bytes: 10 << 20,
        ..CreateSpec::default()
    };
    let object = match syscall::object_create(&spec) {
        Err(ErrorCode::PoolFull) => return skip("the pool has no 10 MiB free"),
        made => made.map_err(failed("creating an object of whole chunks"))?,
    };
    let mapped = Mapped::of(object, READ_WRITE)?;
    let place = |chunk: u64, page: u64| chunk * CHUNK_WORDS - DATA_OFFSET / 8 + page * 512;
    let before = syscall::counters().map_err(failed("counters"))?;
    for chunk in 1..5 {
        (0..512).for_each(|page| mapped.set(place(chunk, page), chunk << 32 | page));
    }
    let after = syscall::counters().map_err(failed("counters"))?;
    for chunk in 1..5 {
        let wrong = (0..512).find(|&page| mapped.get(place(chunk, page)) != chunk << 32 | page);
        same!(wrong, None, "a page of chunk {chunk} that holds something else");
    }
    let (large, faults) = (after.large_pages - before.large_pages, after.page_faults - before.page_faults);
    println!("view-large-pages: 8 MiB by {large} large pages, {faults} faults");
    same!(large, 4, "large pages for four chunks");
    // One for the slot, one for each chunk; the stack may take one of its own.
    check!(faults <= 1 + 4 + 1, "{faults} faults with {large} large pages");
    Ok(())
}
