//! What happens over time: rights that end, callees that do not, contexts that come and go, windows that are full.

use crate::callee::{self, LOAD, STORE};
use crate::{SECRET, expect, intrude, intruder, is_refused, load, secret};
use alloc::vec::Vec;
use apps::compartment::{Compartment, STACKS, World};
use apps::mapped::{BOTH, Mapped, volatile_object};
use sec::{GateSet, Grant, Validity};
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::FREE_SLOT;
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::context::{self, gate_call, gate_return};
use twz_rt::{println, syscall, thread};

/// Words of the board that a thread in another context shares with us.
const WHO: u64 = DATA_OFFSET;
const GATE: u64 = DATA_OFFSET + 16;
const GO_ON: u64 = DATA_OFFSET + 24;
const INSIDE: u64 = DATA_OFFSET + 32;
const RESULT: u64 = DATA_OFFSET + 40;
const SEEN: u64 = DATA_OFFSET + 48;
/// A word for each call that is in the gate of [`busy`].
const ROOM: u64 = DATA_OFFSET + 64;
/// [`RESULT`] of a call that came back; others are error codes.
const RETURNED: u64 = 1000;
/// How often a right is taken and given again.
const REGAINS: u64 = 6;
/// How long a right lasts that is to end in use.
const LASTS_NS: u64 = 400_000_000;
/// Bytes of a chunk of object space, and how many of an object's are touched.
const CHUNK: u64 = 2 << 20;
const CHUNKS: u64 = 300;

pub(crate) fn life(world: &World, shared: bool) -> Result<(), ErrorCode> {
    regained(world, shared)?;
    expiry(world, shared)?;
    expired_gate(world, shared)?;
    deleted(world, shared)?;
    endless(world, shared)?;
    busy(world, shared)?;
    recycled(world, shared)?;
    // A window of its own is larger than what a test should fill.
    if shared { full_window(world, shared) } else { Ok(()) }
}

/// A board that a compartment sees at the address returned.
fn board(world: &World, compartment: &Compartment) -> Result<(Mapped, u64), ErrorCode> {
    let id = volatile_object(world.owner.id())?;
    compartment.hand_over(&world.owner.grant(&Grant::new(id, compartment.id, BOTH)))?;
    Ok((Mapped::of(id)?, compartment.map(FREE_SLOT, id)))
}

/// A right that is given again while a thread lives on in the context, so that what the kernel knew of the first one is still there.
fn regained(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let callee = world.compartment(shared, &[callee::probe])?;
    let (board, address) = board(world, &callee)?;
    let (target, _) = secret(world)?;
    let give = |epoch, rights| {
        callee.hand_over(&world.owner.grant(&Grant { epoch, ..Grant::new(target, callee.id, rights) }))
    };
    give(0, BOTH)?;
    callee.map(FREE_SLOT + 1, target);
    callee.start(witness, address)?;
    while board.word(SEEN) != SECRET {
        syscall::thread_yield();
    }
    let (mut kept, mut regained, mut more) = (0, 0, 0);
    for epoch in 1..=REGAINS {
        context::revoke(&world.owner.revoke_object(target, epoch), None)?;
        // In the slot that was in use, in one that was not, and in both again.
        let slots = [FREE_SLOT + 1, FREE_SLOT + 1 + epoch];
        let all = || slots.iter().map(|&slot| load(&callee, slot, target));
        kept += u32::from(!all().all(is_refused));
        give(epoch, Rights::READ)?;
        regained += u64::from(all().all(|result| result == Ok(SECRET)));
        let store = slots.map(|slot| gate_call(callee.id, 0, [STORE, slot * SLOT_SIZE + DATA_OFFSET, 1]));
        more += u32::from(!store.into_iter().all(|result| is_refused(result.map(|(value, _)| value))));
    }
    expect("revoked under a thread that lives on", kept == 0);
    expect("a right given again to a context with a thread in it works", regained == REGAINS);
    expect("and is no more than was given", more == 0);
    board.set_word(GO_ON, 1);
    Ok(())
}

/// Reads the object in the slot behind the board's once, and then waits.
extern "C" fn witness(argument: u64) -> ! {
    let board = Mapped(argument as *mut u8);
    board.set_word(SEEN, Mapped((argument + SLOT_SIZE) as *mut u8).word(DATA_OFFSET));
    while board.word(GO_ON) == 0 {
        syscall::thread_yield();
    }
    syscall::thread_exit(0)
}

/// A right that ends while a thread uses it.
fn expiry(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let callee = world.compartment(shared, &[callee::probe])?;
    let (board, address) = board(world, &callee)?;
    let (target, here) = secret(world)?;
    let until = syscall::clock()?.1 + LASTS_NS;
    let grant =
        Grant { validity: Validity { from: 0, until }, ..Grant::new(target, callee.id, Rights::READ) };
    callee.hand_over(&world.owner.grant(&grant))?;
    callee.map(FREE_SLOT + 1, target);
    callee.start(reader, address)?;
    let mut worked = false;
    while syscall::clock()?.1 < until + LASTS_NS / 4 {
        worked |= board.word(SEEN) == SECRET;
        syscall::thread_yield();
    }
    here.set_word(DATA_OFFSET, 1);
    for _ in 0..300 {
        syscall::thread_yield();
    }
    expect("a right that has not ended yet works", worked);
    expect("no access after it has ended, in use", board.word(SEEN) == SECRET);
    Ok(())
}

/// A right to a gate that ends after it was used: the kernel remembers that it was permitted.
fn expired_gate(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let from = world.compartment(shared, &[callee::probe])?;
    let into = world.compartment(shared, &[callee::probe])?;
    let until = syscall::clock()?.1 + 2 * LASTS_NS;
    let gates = GateSet::one(0).ok_or(ErrorCode::BadArgument)?;
    let validity = Validity { from: 0, until };
    let grant = Grant { gates, validity, ..Grant::new(into.id, from.id, Rights::empty()) };
    from.hand_over(&world.owner.grant(&grant))?;
    let said = intrude(world, &from, FREE_SLOT, into.id, intruder)?;
    // On a slow host it may have ended before it was used.
    let is_late = syscall::clock()?.1 >= until;
    expect("a right to a gate works until it ends", is_late || said[2] == ErrorCode::CalleeFailed as u64);
    while syscall::clock()?.1 < until + LASTS_NS / 4 {
        syscall::thread_yield();
    }
    let said = intrude(world, &from, FREE_SLOT + 1, into.id, intruder)?;
    expect("calling a gate after the right to it has ended", said[2] == ErrorCode::NotPermitted as u64);
    Ok(())
}

/// Reads the object in the slot behind the board's for ever.
extern "C" fn reader(argument: u64) -> ! {
    let board = Mapped(argument as *mut u8);
    loop {
        board.set_word(SEEN, Mapped((argument + SLOT_SIZE) as *mut u8).word(DATA_OFFSET));
    }
}

/// Calls the gate that the board names, and says what came of it.
extern "C" fn caller(argument: u64) -> ! {
    let board = Mapped(argument as *mut u8);
    let callee = ObjectId { lo: board.word(WHO), hi: board.word(WHO + 8) };
    let number = u32::try_from(board.word(GATE)).unwrap_or(u32::MAX);
    let result = gate_call(callee, number, [argument, 0, 0]);
    board.set_word(RESULT, result.map_or_else(|error| error as u64, |_| RETURNED));
    syscall::thread_exit(0)
}

/// A callee that returns when the board says so.
extern "C" fn patient(argument: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> ! {
    let board = Mapped(argument as *mut u8);
    board.set_word(INSIDE, 1);
    while board.word(GO_ON) == 0 {
        syscall::thread_yield();
    }
    gate_return(0, 0)
}

/// A callee that never returns.
extern "C" fn endless_gate(argument: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> ! {
    Mapped(argument as *mut u8).set_word(INSIDE, 1);
    loop {
        core::hint::spin_loop();
    }
}

/// A thread of another context is in gate `number` of a compartment with these gates.
fn call_in_progress(world: &World, shared: bool, number: u64) -> Result<(Compartment, Mapped), ErrorCode> {
    let callee = world.compartment(shared, &[patient, endless_gate])?;
    let from = world.compartment(shared, &[])?;
    let id = volatile_object(world.owner.id())?;
    for compartment in [&callee, &from] {
        compartment.hand_over(&world.owner.grant(&Grant::new(id, compartment.id, BOTH)))?;
        compartment.map(FREE_SLOT, id);
    }
    from.hand_over(&world.owner.grant(&Grant::new(callee.id, from.id, Rights::USE)))?;
    let board = Mapped::of(id)?;
    for (word, value) in [(WHO, callee.id.lo), (WHO + 8, callee.id.hi), (GATE, number)] {
        board.set_word(word, value);
    }
    from.start(caller, FREE_SLOT * SLOT_SIZE)?;
    while board.word(INSIDE) == 0 {
        syscall::thread_yield();
    }
    Ok((callee, board))
}

fn result(board: Mapped) -> u64 {
    while board.word(RESULT) == 0 {
        syscall::thread_yield();
    }
    board.word(RESULT)
}

/// The callee's context is deleted while a call is in it.
fn deleted(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let (callee, board) = call_in_progress(world, shared, 0)?;
    syscall::object_delete(callee.id)?;
    let late = gate_call(callee.id, 0, [0; 3]);
    expect("a gate of a context that was deleted", late == Err(ErrorCode::NoObject));
    board.set_word(GO_ON, 1);
    let ended = result(board);
    println!("   the call that was in it: {ended}");
    expect("a call into it comes to its end", ended == RETURNED || ended == ErrorCode::CalleeFailed as u64);
    Ok(())
}

/// A callee that does not return: its caller is out as soon as somebody takes the callee's rights away.
fn endless(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let (callee, board) = call_in_progress(world, shared, 1)?;
    for _ in 0..100 {
        syscall::thread_yield();
    }
    expect("a callee that never returns stops nobody else", board.word(RESULT) == 0);
    context::revoke(&world.owner.revoke_context(callee.id), None)?;
    expect("revoking it gives its caller the thread back", result(board) == ErrorCode::CalleeFailed as u64);
    Ok(())
}

/// A callee that comes back at once if its third argument is 1, else when the board says so; it tells the board that it is in.
extern "C" fn stay(argument: u64, place: u64, at_once: u64, _: u64, _: u64, _: u64) -> ! {
    let board = Mapped(argument as *mut u8);
    board.set_word(ROOM + place * 8, 1);
    while at_once != 1 && board.word(GO_ON) == 0 {
        syscall::thread_yield();
    }
    gate_return(place, 0)
}

/// More calls of a gate at a time than it has stacks: the one too many is refused, and gets nobody's stack.
fn busy(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let callee = world.compartment(shared, &[stay])?;
    let (board, address) = board(world, &callee)?;
    let id = callee.id;
    let calls: Result<Vec<_>, _> = (0..u64::from(STACKS))
        .map(|place| thread::spawn(move || gate_call(id, 0, [address, place, 0])))
        .collect();
    let calls = calls?;
    let is_in = |place| board.word(ROOM + place * 8) == 1;
    while !(0..u64::from(STACKS)).all(is_in) {
        syscall::thread_yield();
    }
    let late = u64::from(STACKS);
    expect(
        "a gate whose stacks are all in use",
        gate_call(id, 0, [address, late, 1]) == Err(ErrorCode::Busy),
    );
    expect("nobody comes in then", !is_in(late));
    board.set_word(GO_ON, 1);
    let came_back = (0..).zip(calls).filter_map(|(place, call)| Some(call.join().ok()? == Ok((place, 0))));
    expect("those that were in come back", came_back.filter(|back| *back).count() == STACKS as usize);
    expect("and there is room again", gate_call(id, 0, [address, late, 1]) == Ok((late, 0)));
    Ok(())
}

/// Contexts that come and go: none finds what its predecessor in the same place could reach.
fn recycled(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let (mut reached, mut leaked) = (0, 0);
    let rounds = 6;
    for _ in 0..rounds {
        let (target, _) = secret(world)?;
        let old = world.compartment(shared, &[callee::probe])?;
        old.hand_over(&world.owner.grant(&Grant::new(target, old.id, BOTH)))?;
        reached += u32::from(load(&old, FREE_SLOT, target) == Ok(SECRET));
        syscall::object_delete(old.id)?;
        let new = world.compartment(shared, &[callee::probe])?;
        leaked += u32::from(!is_refused(load(&new, FREE_SLOT, target)));
        // The old one's capability does not become the new one's by standing in its table.
        new.hand_over(&world.owner.grant(&Grant::new(target, old.id, BOTH)))?;
        leaked += u32::from(!is_refused(load(&new, FREE_SLOT + 1, target)));
    }
    expect("each of a row of contexts reaches its own object", reached == rounds);
    expect("and nothing of the one before it", leaked == 0);
    Ok(())
}

/// More chunks than a small window has: what was shown first is taken away, and comes back when it is touched.
fn full_window(world: &World, shared: bool) -> Result<(), ErrorCode> {
    let callee = world.compartment(shared, &[callee::probe, fill])?;
    for slot in 0..2 {
        let id = volatile_object(world.owner.id())?;
        callee.hand_over(&world.owner.grant(&Grant::new(id, callee.id, BOTH)))?;
        callee.map(FREE_SLOT + slot, id);
    }
    let before = syscall::counters()?;
    let wrong = gate_call(callee.id, 1, [FREE_SLOT * SLOT_SIZE, 2, 0]).map(|(wrong, _)| wrong);
    let after = syscall::counters()?;
    expect("a window is emptied when it is full, and nothing is lost", wrong == Ok(0));
    let address = FREE_SLOT * SLOT_SIZE + DATA_OFFSET;
    let first = gate_call(callee.id, 0, [LOAD, address, 0]).map(|(value, _)| value);
    expect("its first page is there", first == Ok(1));
    // Chunks that were touched twice, half of them at least, were taken away in between, and their tables with them: their frames must not
    // be used for anything else before every hart has dropped what it knew of them. No memory that a program sees can show that this
    // happened; the kernel's counters do.
    let again = after.touches - before.touches > 3 * CHUNKS;
    expect("emptying a window reaches every hart", !again || after.shootdowns > before.shootdowns);
    Ok(())
}

/// Stores into [`CHUNKS`] chunks of each of `count` objects, and returns how many of them hold something else afterwards.
extern "C" fn fill(first: u64, count: u64, _: u64, _: u64, _: u64, _: u64) -> ! {
    let all = || (0..count).flat_map(|object| (0..CHUNKS).map(move |chunk| (object, chunk)));
    let at = |(object, chunk)| Mapped((first + object * SLOT_SIZE + chunk * CHUNK) as *mut u8);
    for place in all() {
        at(place).set_word(DATA_OFFSET, place.0 * CHUNKS + place.1 + 1);
    }
    let wrong = all().filter(|place| at(*place).word(DATA_OFFSET) != place.0 * CHUNKS + place.1 + 1);
    gate_return(wrong.count() as u64, 0)
}
