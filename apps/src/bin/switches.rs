//! Measures what it costs to go to another security context: call and return through a gate, and one-way switches by activation, between two
//! contexts with roots of their own (`own`) and between two in the shared root (`shared`).
//!
//! Prints one JSON object a line: `{"name": …, "ns": median of the rounds, "count": operations in a round, "root_switches": all together}`.
//! A root switch is one exit; the host's `twzvmm stats` counts all others.
#![no_std]
#![no_main]

extern crate alloc;

use apps::compartment::World;
use apps::mapped::{BOTH, Mapped, volatile_object as object};
use sec::Grant;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::FREE_SLOT;
use twz_rt::abi::thread::PRIORITY_DEFAULT;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::context::{self, gate_call, gate_return};
use twz_rt::{Args, println, syscall};

twz_rt::entry!(main);

/// Rounds of which the median is taken.
const ROUNDS: usize = 5;
/// What a round does.
const GATE: u64 = 0;
const ACTIVATE: u64 = 1;

/// Words of the board that caller and measuring thread share.
#[derive(Clone, Copy)]
enum Word {
    What = 0,
    Low = 1,
    High = 2,
    Count = 3,
    Nanoseconds = 4,
    RootSwitches = 5,
    Error = 6,
    Done = 7,
}

const fn at(word: Word) -> u64 {
    DATA_OFFSET + word as u64 * 8
}

fn main(mut args: Args) -> Result<(), ErrorCode> {
    let count = args.nth(1).and_then(|text| text.parse().ok()).unwrap_or(2000_u64).max(2);
    let world = World::new()?;
    for (shared, gate, switch) in
        [(true, "gate_call_shared", "switch_shared"), (false, "gate_call_own", "switch_own")]
    {
        measure(&world, shared, GATE, gate, count)?;
        measure(&world, shared, ACTIVATE, switch, count)?;
    }
    Ok(())
}

extern "C" fn nothing(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> ! {
    gate_return(0, 0)
}

/// Runs rounds in a thread of one compartment against another of the same placement.
fn measure(world: &World, shared: bool, what: u64, name: &str, count: u64) -> Result<(), ErrorCode> {
    let from = world.compartment(shared, &[nothing])?;
    let into = world.compartment(shared, &[nothing])?;
    let board_id = object(world.owner.id())?;
    let board = Mapped::of(board_id)?;
    let owner = &world.owner;
    // Each may enter the other; for activation the other also needs what the thread uses: view, stacks, data, board.
    from.hand_over(&owner.grant(&Grant::new(into.id, from.id, Rights::USE)))?;
    from.hand_over(&owner.grant(&Grant::new(board_id, from.id, BOTH)))?;
    for shared_object in [from.view_id, from.stacks_id, from.data_id, board_id] {
        into.hand_over(&owner.grant(&Grant::new(shared_object, into.id, BOTH)))?;
    }
    let address = from.map(FREE_SLOT, board_id);
    let mut nanoseconds = [0; ROUNDS];
    let mut root_switches = 0;
    for round in &mut nanoseconds {
        for (word, value) in [
            (Word::What, what),
            (Word::Low, into.id.lo),
            (Word::High, into.id.hi),
            (Word::Count, count),
            (Word::Done, 0),
        ] {
            board.write(at(word), &value.to_le_bytes());
        }
        from.start_with(PRIORITY_DEFAULT + 1, rounds, address)?;
        while board.word(at(Word::Done)) == 0 {
            syscall::thread_yield();
        }
        if let Ok(error) = ErrorCode::try_from(u32::try_from(board.word(at(Word::Error))).unwrap_or(0)) {
            return Err(error);
        }
        *round = board.word(at(Word::Nanoseconds));
        root_switches += board.word(at(Word::RootSwitches));
    }
    nanoseconds.sort_unstable();
    let each = nanoseconds[ROUNDS / 2] / count;
    println!(
        "{{\"name\": \"{name}\", \"ns\": {each}, \"count\": {count}, \"rounds\": {ROUNDS}, \"root_switches\": {root_switches}}}"
    );
    Ok(())
}

/// One round, in a compartment: as the board says.
extern "C" fn rounds(argument: u64) -> ! {
    let board = Mapped(argument as *mut u8);
    let word = |word| board.word(at(word));
    let other = ObjectId { lo: word(Word::Low), hi: word(Word::High) };
    let done = run(word(Word::What), other, word(Word::Count));
    let (nanoseconds, switches, error) = match done {
        Ok((nanoseconds, switches)) => (nanoseconds, switches, 0),
        Err(error) => (0, 0, error as u64),
    };
    for (word, value) in [
        (Word::Nanoseconds, nanoseconds),
        (Word::RootSwitches, switches),
        (Word::Error, error),
        (Word::Done, 1),
    ] {
        board.write(at(word), &value.to_le_bytes());
    }
    syscall::thread_exit(0)
}

fn run(what: u64, other: ObjectId, count: u64) -> Result<(u64, u64), ErrorCode> {
    let home = context::current()?;
    if what == ACTIVATE {
        context::attach(other)?;
        // Both spaces are made, and both contexts' tables filled, before the clock starts.
        context::activate(other)?;
        context::activate(home)?;
    }
    gate_call(other, 0, [0; 3])?;
    let before = syscall::counters()?.root_switches;
    let began = syscall::clock()?.0;
    if what == ACTIVATE {
        for _ in 0..count / 2 {
            context::activate(other)?;
            context::activate(home)?;
        }
    } else {
        for _ in 0..count {
            gate_call(other, 0, [0; 3])?;
        }
    }
    let ended = syscall::clock()?.0;
    Ok((ended - began, syscall::counters()?.root_switches - before))
}
