//! Measures what kernel operations cost a program; the bench driver on the host runs it and puts Linux's numbers beside.
//!
//! Prints one JSON object a line: `{"name": …, "ns": median of the rounds, "count": operations in a round}`. Time comes from the clock call
//! around long loops, because reading the time-stamp counter is itself dear on some hosts.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering};
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::{FREE_SLOT, VIEW_SLOT};
use twz_rt::abi::syscall::{CreateSpec, create_flags};
use twz_rt::abi::thread::ThreadProperty;
use twz_rt::abi::view::{SLOT_SIZE, SlotRange};
use twz_rt::abi::{ErrorCode, ObjectId, PAGE_SIZE, Rights};
use twz_rt::{Args, println, sync, syscall, thread, view};

twz_rt::entry!(main);

/// Rounds of which the median is taken.
const ROUNDS: usize = 7;
/// Slots far away from those that `twz_rt` hands out.
const SLOTS: u64 = 50_000;
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);

fn main(mut args: Args) -> Result<(), ErrorCode> {
    // How many operations a round has, in percent of the usual number: slow hosts take fewer.
    let percent = args.nth(1).and_then(|text| text.parse().ok()).unwrap_or(100_u64);
    let scale = |count: u64| (count * percent / 100).max(8);
    // One operation alone, a given number of times, so that the host can count what it takes.
    if let Some(name) = args.next() {
        return alone(name, args.next().and_then(|text| text.parse().ok()).unwrap_or(0));
    }

    measure("syscall", scale(20_000), |count| {
        for _ in 0..count {
            black_box(syscall::thread_self()?);
        }
        Ok(())
    })?;
    measure("name_in_view", scale(1_000_000), |count| {
        let object = ObjectId { lo: 1, hi: 2 };
        for number in 0..count {
            black_box(view::map(SLOTS + number % 1024, object, Rights::READ));
        }
        Ok(())
    })?;
    syscall::view_invalidate(&[SlotRange { first: SLOTS, count: 1024 }])?;
    measure_mapping(scale(500))?;
    measure_steps(scale(200))?;
    measure_growth(scale(2_000))?;
    measure("thread_create_join", scale(200), |count| {
        for _ in 0..count {
            thread::spawn(|| ())?.join().map_err(|_| ErrorCode::NoThread)?;
        }
        Ok(())
    })?;
    measure_wake(scale(1_000))?;
    measure_view_switch(scale(2_000))
}

/// Does an operation `count` times, and nothing else.
fn alone(name: &str, count: u64) -> Result<(), ErrorCode> {
    match name {
        "syscall" => (0..count).try_for_each(|_| syscall::thread_self().map(drop)),
        "page_fault" => {
            let object = scratch()?;
            let base = view::map(SLOTS, object, READ_WRITE).ok_or(ErrorCode::BadArgument)? as u64;
            for chunk in 0..count {
                // A page in each 2 MiB, so that nothing around it was backed before.
                let word = (base + DATA_OFFSET + chunk * (2 << 20)) as *mut u64;
                // SAFETY: as in `touch`.
                unsafe { word.write_volatile(1) };
            }
            Ok(())
        }
        "slot_fault" => {
            let object = scratch()?;
            (0..count).for_each(|slot| touch(view::map(SLOTS + slot, object, READ_WRITE)));
            Ok(())
        }
        "yield_switch" => {
            let stop = Arc::new(AtomicU32::new(0));
            let seen = Arc::clone(&stop);
            let partner = thread::spawn(move || {
                while seen.load(Ordering::SeqCst) == 0 {
                    syscall::thread_yield();
                }
            })?;
            (0..count).for_each(|_| syscall::thread_yield());
            stop.store(1, Ordering::SeqCst);
            partner.join().map_err(|_| ErrorCode::NoThread)
        }
        "view_switch" => between_views(|here, there| {
            switch_between(here, there, count);
            Ok(())
        }),
        "thread" => {
            (0..count).try_for_each(|_| thread::spawn(|| ())?.join().map_err(|_| ErrorCode::NoThread))
        }
        _ => Err(ErrorCode::BadArgument),
    }
}

/// Runs `work` for `count` operations in each round and prints the median time of one operation.
fn measure(
    name: &str,
    count: u64,
    mut work: impl FnMut(u64) -> Result<(), ErrorCode>,
) -> Result<(), ErrorCode> {
    let mut rounds = [0; ROUNDS];
    for round in &mut rounds {
        let (before, _) = syscall::clock()?;
        work(count)?;
        let (after, _) = syscall::clock()?;
        *round = after - before;
    }
    print(name, count, &mut rounds);
    Ok(())
}

/// The median time of an operation, of rounds of `count`.
fn print(name: &str, count: u64, rounds: &mut [u64; ROUNDS]) {
    rounds.sort_unstable();
    let tenths = rounds[ROUNDS / 2] * 10 / count;
    println!("{{\"name\":\"{name}\",\"ns\":{}.{},\"count\":{count}}}", tenths / 10, tenths % 10);
}

fn scratch() -> Result<ObjectId, ErrorCode> {
    let rights = READ_WRITE | Rights::DELETE;
    let spec =
        CreateSpec { default_rights: rights.bits(), flags: create_flags::VOLATILE, ..CreateSpec::default() };
    syscall::object_create(&spec)
}

/// First touch of an object that was just named in the view: fault, late binding, one page. Then the slot is dropped again.
fn measure_mapping(count: u64) -> Result<(), ErrorCode> {
    let object = scratch()?;
    // Another slot keeps it bound and backed, so that only the mapping is measured.
    touch(view::map(SLOTS - 1, object, READ_WRITE));
    measure("map_fault_unmap", count, |count| {
        for _ in 0..count {
            touch(view::map(SLOTS, object, READ_WRITE));
            view::View::current().clear(SLOTS);
            syscall::view_invalidate(&[SlotRange { first: SLOTS, count: 1 }])?;
        }
        Ok(())
    })?;
    view::View::current().clear(SLOTS - 1);
    syscall::view_invalidate(&[SlotRange { first: SLOTS - 1, count: 1 }])?;
    syscall::object_delete(object)
}

/// The steps of that one by one: the first touch of an object that is named in the view already, and taking it out again. An operation is
/// one of `count` slots that name the same object.
fn measure_steps(count: u64) -> Result<(), ErrorCode> {
    let object = scratch()?;
    touch(view::map(SLOTS - 1, object, READ_WRITE));
    let (mut touches, mut clears) = ([0; ROUNDS], [0; ROUNDS]);
    for (touching, clearing) in touches.iter_mut().zip(&mut clears) {
        let bases: Vec<_> = (SLOTS..SLOTS + count).map(|slot| view::map(slot, object, READ_WRITE)).collect();
        let (begun, _) = syscall::clock()?;
        bases.into_iter().for_each(touch);
        let (touched, _) = syscall::clock()?;
        for slot in SLOTS..SLOTS + count {
            view::View::current().clear(slot);
            syscall::view_invalidate(&[SlotRange { first: slot, count: 1 }])?;
        }
        let (cleared, _) = syscall::clock()?;
        (*touching, *clearing) = (touched - begun, cleared - touched);
    }
    print("touch_named", count, &mut touches);
    print("take_out", count, &mut clears);
    view::View::current().clear(SLOTS - 1);
    syscall::view_invalidate(&[SlotRange { first: SLOTS - 1, count: 1 }])?;
    syscall::object_delete(object)
}

fn touch(base: Option<*mut u8>) {
    let Some(base) = base else { return };
    let word = base.wrapping_add(0x1000).cast::<u64>();
    // SAFETY: the slot maps a scratch object that only this function uses.
    unsafe { word.write_volatile(1) };
}

/// Page by page through new memory.
fn measure_growth(pages: u64) -> Result<(), ErrorCode> {
    measure("touch_new_page", pages, |pages| {
        let object = scratch()?;
        let base = view::map(SLOTS, object, READ_WRITE).ok_or(ErrorCode::BadArgument)? as u64;
        for page in 0..pages {
            let word = (base + DATA_OFFSET + page * PAGE_SIZE) as *mut u64;
            // SAFETY: as in `touch`.
            unsafe { word.write_volatile(1) };
        }
        view::View::current().clear(SLOTS);
        syscall::view_invalidate(&[SlotRange { first: SLOTS, count: 1 }])?;
        syscall::object_delete(object)
    })
}

/// Two threads, each on a hart of its own if there are two, wake each other in turn; an operation is one wake-up.
fn measure_wake(count: u64) -> Result<(), ErrorCode> {
    let turn = Arc::new(AtomicU32::new(0));
    let has_two = syscall::thread_set(0, ThreadProperty::Affinity, 0b10).is_ok();
    syscall::thread_set(0, ThreadProperty::Affinity, 0b01)?;
    measure("wake_other_thread", count, |count| {
        turn.store(0, Ordering::SeqCst);
        let other = Arc::clone(&turn);
        let builder = thread::Builder::new().affinity(if has_two { 0b10 } else { 0b01 });
        let partner = builder.spawn(move || play(&other, 1, count / 2))?;
        play(&turn, 0, count / 2);
        partner.join().map_err(|_| ErrorCode::NoThread)
    })?;
    syscall::thread_set(0, ThreadProperty::Affinity, if has_two { 0b11 } else { 0b01 })
}

/// Waits for `turn` to be `mine`, hands it over, `rounds` times.
fn play(turn: &AtomicU32, mine: u32, rounds: u64) {
    for _ in 0..rounds {
        while turn.load(Ordering::SeqCst) != mine {
            // Another value, a wake-up, or neither: the loop looks again.
            let _ = sync::wait(turn, 1 - mine, sync::FOREVER);
        }
        turn.store(1 - mine, Ordering::SeqCst);
        // Nobody may be asleep; that is no error.
        let _ = sync::wake(turn, 1);
    }
}

/// To a copy of this view and back; an operation is one switch.
fn measure_view_switch(count: u64) -> Result<(), ErrorCode> {
    between_views(|here, there| {
        measure("view_switch", count, |count| {
            switch_between(here, there, count);
            Ok(())
        })
    })
}

fn switch_between(here: ObjectId, there: ObjectId, count: u64) {
    for _ in 0..count / 2 {
        switch_view(there);
        switch_view(here);
    }
}

/// Makes a copy of this view, with a thread that stays in this one so that its tables do, too, and does something with both.
fn between_views(work: impl FnOnce(ObjectId, ObjectId) -> Result<(), ErrorCode>) -> Result<(), ErrorCode> {
    let other = scratch()?;
    let base = view::map_anywhere(other, READ_WRITE).ok_or(ErrorCode::NoMemory)?;
    // SAFETY: the object was just made to be a view, and stays mapped.
    let copy = unsafe { view::View::at(base) };
    copy.initialise();
    let here = view::View::current();
    let mut entries: Vec<(u64, ObjectId)> = Vec::new();
    for slot in (0..FREE_SLOT + 64).chain([VIEW_SLOT]) {
        if let Some((object, flags)) = here.get(slot)
            && flags != 0
        {
            entries.push((slot, object));
        }
    }
    for &(slot, object) in &entries {
        let _ = copy.map(slot, object, READ_WRITE | Rights::EXEC);
    }
    let this = here.get(VIEW_SLOT).map_or(ObjectId::NULL, |(object, _)| object);
    let stop = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&stop);
    let keeper = thread::spawn(move || {
        while seen.load(Ordering::SeqCst) == 0 {
            let _ = sync::wait(&seen, 0, sync::FOREVER);
        }
    })?;
    work(this, other)?;
    stop.store(1, Ordering::SeqCst);
    sync::wake(&stop, 1)?;
    keeper.join().map_err(|_| ErrorCode::NoThread)
}

/// Changes to a view in which code and stack are mapped in the same slots.
fn switch_view(view: ObjectId) {
    // SAFETY: the other view maps code and stack where they are, so execution goes on behind the call, with the stack pointer that was
    // passed; everything that the call does not keep is declared lost.
    unsafe {
        core::arch::asm!(
            "push rbx",
            "push rbp",
            "lea rdx, [rip + 2f]",
            "mov r10, rsp",
            "syscall",
            "2:",
            "pop rbp",
            "pop rbx",
            inlateout("rax") twz_rt::abi::syscall::Syscall::ViewSet as u64 => _,
            inlateout("rdi") view.lo => _,
            inlateout("rsi") view.hi => _,
            out("rdx") _, out("rcx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
}

const _: () = assert!(SLOTS * SLOT_SIZE < VIEW_SLOT * SLOT_SIZE);
