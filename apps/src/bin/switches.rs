//! Measures what it costs to go to another security context: call and return through a gate, and one-way switches by activation, between two
//! contexts with roots of their own (`own`) and between two in the shared root (`shared`).
//!
//! Prints one JSON object a line: `{"name": …, "samples": [nanoseconds an operation, for each round], "count": operations in a round,
//! "root_switches": …, "page_faults": …}`, the last two of all rounds together. A root switch is one exit; the host's `twzvmm stats` counts all
//! others. `switches COUNT [ROUNDS [NAME]]`; with a name only that measurement is made.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::vec::Vec;
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

/// Rounds if no number is given.
const ROUNDS: usize = 7;
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
    PageFaults = 8,
}

const fn at(word: Word) -> u64 {
    DATA_OFFSET + word as u64 * 8
}

fn main(mut args: Args) -> Result<(), ErrorCode> {
    let count = args.nth(1).and_then(|text| text.parse().ok()).unwrap_or(2000_u64).max(2);
    let rounds = args.next().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let only = args.next();
    let world = World::new()?;
    for (shared, what, name) in [
        (true, GATE, "gate_call_shared"),
        (true, ACTIVATE, "switch_shared"),
        (false, GATE, "gate_call_own"),
        (false, ACTIVATE, "switch_own"),
    ] {
        if only.is_none_or(|only| only == name) {
            measure(&world, shared, what, name, (count, rounds))?;
        }
    }
    Ok(())
}

extern "C" fn nothing(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> ! {
    gate_return(0, 0)
}

/// Runs rounds in a thread of one compartment against another of the same placement.
fn measure(
    world: &World,
    shared: bool,
    what: u64,
    name: &str,
    (count, rounds): (u64, usize),
) -> Result<(), ErrorCode> {
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
    let mut samples = Vec::new();
    let (mut root_switches, mut page_faults) = (0, 0);
    for _ in 0..rounds {
        for (word, value) in [
            (Word::What, what),
            (Word::Low, into.id.lo),
            (Word::High, into.id.hi),
            (Word::Count, count),
            (Word::Done, 0),
        ] {
            board.write(at(word), &value.to_le_bytes());
        }
        from.start_with(PRIORITY_DEFAULT + 1, one_round, address)?;
        while board.word(at(Word::Done)) == 0 {
            syscall::thread_yield();
        }
        if let Ok(error) = ErrorCode::try_from(u32::try_from(board.word(at(Word::Error))).unwrap_or(0)) {
            return Err(error);
        }
        samples.push(format!("{}", board.word(at(Word::Nanoseconds)) / count));
        root_switches += board.word(at(Word::RootSwitches));
        page_faults += board.word(at(Word::PageFaults));
    }
    println!(
        "{{\"name\": \"{name}\", \"samples\": [{}], \"count\": {count}, \"root_switches\": {root_switches}, \"page_faults\": {page_faults}}}",
        samples.join(", ")
    );
    Ok(())
}

/// One round, in a compartment: as the board says.
extern "C" fn one_round(argument: u64) -> ! {
    let board = Mapped(argument as *mut u8);
    let word = |word| board.word(at(word));
    let other = ObjectId { lo: word(Word::Low), hi: word(Word::High) };
    let done = run(word(Word::What), other, word(Word::Count));
    let ([nanoseconds, switches, faults], error) = match done {
        Ok(counts) => (counts, 0),
        Err(error) => ([0; 3], error as u64),
    };
    for (word, value) in [
        (Word::Nanoseconds, nanoseconds),
        (Word::RootSwitches, switches),
        (Word::PageFaults, faults),
        (Word::Error, error),
        (Word::Done, 1),
    ] {
        board.write(at(word), &value.to_le_bytes());
    }
    syscall::thread_exit(0)
}

fn run(what: u64, other: ObjectId, count: u64) -> Result<[u64; 3], ErrorCode> {
    let home = context::current()?;
    if what == ACTIVATE {
        context::attach(other)?;
        // Both spaces are made, and both contexts' tables filled, before the clock starts.
        context::activate(other)?;
        context::activate(home)?;
    }
    gate_call(other, 0, [0; 3])?;
    let before = syscall::counters()?;
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
    let after = syscall::counters()?;
    Ok([ended - began, after.root_switches - before.root_switches, after.page_faults - before.page_faults])
}
