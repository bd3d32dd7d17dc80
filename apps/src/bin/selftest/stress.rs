//! Invalidation against running threads, with exact counts.

use crate::{Mapped, Outcome, Test, check, failed, harts, same};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use apps::probe;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use twz_rt::abi::Rights;
use twz_rt::abi::fault::{FaultCause, FaultFrame};
use twz_rt::abi::view::{SLOT_SIZE, SlotRange};
use twz_rt::thread::Builder;
use twz_rt::{fault, println, slots, syscall, view};

pub(crate) const TESTS: &[Test] = &[("stress-invalidate", invalidate)];

/// Changes of the slot; each is one invalidation.
const EPOCHS: u64 = 400;
/// Objects that take turns in the slot.
const OBJECTS: u64 = 4;

/// The epoch whose object the slot maps, and which all harts must see.
static EPOCH: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);
static SLOT: AtomicU64 = AtomicU64::new(0);
static RETRIED: AtomicU64 = AtomicU64::new(0);

/// The slot is empty for a moment between two objects: try again.
fn tries_again(frame: &mut FaultFrame) {
    let in_slot = frame.info.address / SLOT_SIZE == SLOT.load(Ordering::Relaxed);
    if in_slot && frame.info.cause == FaultCause::Unmapped as u32 {
        RETRIED.fetch_add(1, Ordering::Relaxed);
        syscall::thread_yield();
    } else if !probe::recover(frame) {
        syscall::thread_exit(99);
    }
}

/// Reads the slot until told to stop; returns (reads, stale reads, reads from the future).
fn reader() -> (u64, u64, u64) {
    let address = (SLOT.load(Ordering::SeqCst) * SLOT_SIZE + 0x1000) as *const u64;
    let (mut reads, mut stale, mut early) = (0, 0, 0);
    while !STOP.load(Ordering::Relaxed) {
        let before = EPOCH.load(Ordering::SeqCst);
        // SAFETY: the slot maps one of the test's objects, or the handler tries again.
        let seen = unsafe { address.read_volatile() };
        let after = EPOCH.load(Ordering::SeqCst);
        reads += 1;
        // `before` was complete on every hart before this read began; `after + 1` may be in the slot already.
        stale += u64::from(seen < before);
        early += u64::from(seen > after + 1);
    }
    (reads, stale, early)
}

fn invalidate() -> Outcome {
    EPOCH.store(0, Ordering::SeqCst);
    STOP.store(false, Ordering::SeqCst);
    RETRIED.store(0, Ordering::SeqCst);
    let objects: Result<Vec<Mapped>, String> = (0..OBJECTS).map(|_| Mapped::new()).collect();
    let objects = objects?;
    let slot = slots::allocate().ok_or("no free slot")?;
    SLOT.store(slot, Ordering::SeqCst);
    // SAFETY: the handler takes no lock.
    unsafe { fault::set_handler(tries_again) };
    objects[0].set(0, 0);
    let _ = view::map(slot, objects[0].id, Rights::READ);
    let harts = harts();
    let mut readers = Vec::new();
    for number in 0..harts * 2 {
        let reader = Builder::new().affinity(1 << (number % harts)).spawn(reader);
        readers.push(reader.map_err(failed("starting a reader"))?);
    }
    let before = syscall::counters().map_err(failed("counters"))?;
    for epoch in 1..=EPOCHS {
        let next = &objects[usize::try_from(epoch % OBJECTS).unwrap_or(0)];
        next.set(0, epoch);
        let range = [SlotRange { first: slot, count: 1 }];
        if epoch.is_multiple_of(5) {
            // Nothing there for a while: readers fault, and repeat their load until there is.
            view::View::current().clear(slot);
            view::invalidate(&range).map_err(failed("invalidating"))?;
            syscall::thread_yield();
        }
        let _ = view::map(slot, next.id, Rights::READ);
        view::invalidate(&range).map_err(failed("invalidating"))?;
        // From here on no hart may reach an older object through the slot.
        EPOCH.store(epoch, Ordering::SeqCst);
        if epoch.is_multiple_of(8) {
            syscall::thread_yield();
        }
    }
    let after = syscall::counters().map_err(failed("counters"))?;
    STOP.store(true, Ordering::SeqCst);
    let mut sums = (0, 0, 0);
    for reader in readers {
        let (reads, stale, early) = reader.join().map_err(|ended| format!("a reader: {ended}"))?;
        check!(reads > 0, "a reader read nothing");
        sums = (sums.0 + reads, sums.1 + stale, sums.2 + early);
    }
    println!(
        "stress-invalidate: {EPOCHS} changes under {} readers on {harts} harts: {} reads, {} stale, {} early, {} repeated after a fault, {} shootdowns",
        harts * 2,
        sums.0,
        sums.1,
        sums.2,
        RETRIED.load(Ordering::Relaxed),
        after.shootdowns - before.shootdowns
    );
    // SAFETY: nobody uses the slot any more.
    unsafe { view::unmap(slot) }.map_err(failed("unmapping"))?;
    same!((sums.1, sums.2), (0, 0), "stale and early reads");
    check!(RETRIED.load(Ordering::Relaxed) > 0, "no reader ever met the empty slot");
    Ok(())
}
