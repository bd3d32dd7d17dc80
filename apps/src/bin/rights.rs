//! Measures what rights cost: binding, first touches, unbinding, revocation, and how these grow with contexts and objects.
//!
//! Prints one JSON object a line: `{"name": …, "samples": [nanoseconds an operation, …]}`, or `{"name": …, "count": …}` for what is counted.
//! `rights [--growth SAMPLES] ROUNDS [CONTEXTS]`, with two revocations a round, and SAMPLES (or none) of each point of growth; with two harts a thread on the other one reads what is being revoked. With
//! CONTEXTS it only makes so many contexts and ends, for the host to see what they take.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use apps::compartment::{Compartment, World};
use apps::mapped::{BOTH, Mapped, volatile_object};
use apps::options::Options;
use apps::probe;
use libtwz::gate::gate;
use sec::Grant;
use twz_rt::abi::fault::FaultFrame;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::FREE_SLOT;
use twz_rt::abi::syscall::{CreateSpec, create_flags};
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::{Args, context, fault, println, syscall, view};

twz_rt::entry!(main);

/// Objects of one sample of binding, touching and unbinding.
const BATCH: u64 = 32;
/// Samples of each point of growth, if not said.
const GROWTH_ROUNDS: u64 = 5;
/// Objects of each.
const GROWTH_BATCH: u64 = 4;
/// Bytes to a chunk that no earlier touch has shown.
const FURTHER: u64 = 16 << 20;
/// First slot of the objects that fill a compartment.
const FILL_SLOT: u64 = FREE_SLOT + 64;

/// Words of the board that the reading thread shares with us.
const ADDRESS: u64 = DATA_OFFSET;
const SEEN: u64 = DATA_OFFSET + 8;
const REFUSED: u64 = DATA_OFFSET + 16;

fn main(args: Args) -> Result<(), ErrorCode> {
    let mut options = Options::new(args);
    let samples = options.value("--growth").map_err(|_| ErrorCode::BadArgument)?;
    let samples = samples.and_then(|text| text.parse().ok()).unwrap_or(GROWTH_ROUNDS);
    let mut number = || options.word().and_then(|word| word.parse::<u64>().ok());
    let (rounds, contexts) = (number().unwrap_or(20), number());
    // SAFETY: the handler takes no lock.
    unsafe { fault::set_handler(handle) };
    let world = World::new()?;
    if let Some(contexts) = contexts {
        return occupy(&world, contexts);
    }
    binding(rounds)?;
    revoking(&world, rounds * 2)?;
    if samples == 0 {
        return Ok(());
    }
    for contexts in [1, 4, 16] {
        growth(&world, contexts, 0, samples)?.print(&format!("bound in {contexts} contexts"));
    }
    for objects in [16, 64, 256] {
        growth(&world, 1, objects, samples)?.print(&format!("{objects} other objects bound"));
    }
    Ok(())
}

fn handle(frame: &mut FaultFrame) {
    if !probe::recover(frame) {
        syscall::thread_exit(3);
    }
}

fn print_samples(name: &str, samples: &[u64]) {
    let list: Vec<String> = samples.iter().map(|sample| format!("{sample}")).collect();
    println!("{{\"name\": \"{name}\", \"samples\": [{}]}}", list.join(", "));
}

fn now() -> Result<u64, ErrorCode> {
    syscall::clock().map(|(since_start, _)| since_start)
}

/// Nanoseconds that `work` takes.
fn timed(work: impl FnOnce() -> Result<(), ErrorCode>) -> Result<u64, ErrorCode> {
    let began = now()?;
    work()?;
    Ok(now()? - began)
}

/// First touch of objects (bind, back a page), touch of a further page, and unbinding.
fn binding(rounds: u64) -> Result<(), ErrorCode> {
    let (mut bound, mut touched, mut unbound) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut objects = Vec::new();
        for _ in 0..BATCH {
            let spec = CreateSpec { flags: create_flags::VOLATILE, ..CreateSpec::default() };
            let address = view::map_anywhere(syscall::object_create(&spec)?, BOTH);
            objects.push(Mapped(address.ok_or(ErrorCode::NoMemory)?));
        }
        let store = |offset: u64| {
            objects.iter().for_each(|object| object.set_word(offset, 1));
            Ok(())
        };
        bound.push(timed(|| store(DATA_OFFSET))? / BATCH);
        // Far enough that no earlier touch has shown it.
        touched.push(timed(|| store(DATA_OFFSET + FURTHER))? / BATCH);
        let unmap = || {
            objects.iter().try_for_each(|object| {
                // SAFETY: nothing uses the slot any more.
                unsafe { view::unmap(object.0 as u64 / SLOT_SIZE) }
            })
        };
        unbound.push(timed(unmap)? / BATCH);
    }
    print_samples("bind and first touch", &bound);
    print_samples("touch of a further chunk", &touched);
    print_samples("unmap and unbind", &unbound);
    Ok(())
}

/// An object that holds `word`, which `compartment` gets the right to read, in `slot` of its view.
fn target(
    world: &World,
    compartment: &Compartment,
    slot: u64,
    word: u64,
) -> Result<(ObjectId, Mapped), ErrorCode> {
    let id = volatile_object(world.owner.id())?;
    let mapped = Mapped::of(id)?;
    mapped.set_word(DATA_OFFSET, word);
    compartment.hand_over(&world.owner.grant(&Grant::new(id, compartment.id, Rights::READ)))?;
    compartment.map(slot, id);
    Ok((id, mapped))
}

/// Revokes what a thread of another context reads without pause, and counts what it still read afterwards.
fn revoking(world: &World, rounds: u64) -> Result<(), ErrorCode> {
    let compartment = world.compartment(false, &[])?;
    compartment.handle_faults();
    let board_id = volatile_object(world.owner.id())?;
    let board = Mapped::of(board_id)?;
    compartment.hand_over(&world.owner.grant(&Grant::new(board_id, compartment.id, BOTH)))?;
    compartment.start(reader, compartment.map(FREE_SLOT, board_id))?;
    let (mut samples, mut late) = (Vec::new(), 0_u64);
    for round in 1..=rounds {
        let (slot, word) = (FREE_SLOT + round, round * 2);
        let (id, mapped) = target(world, &compartment, slot, word)?;
        board.set_word(ADDRESS, slot * SLOT_SIZE + DATA_OFFSET);
        while board.word(SEEN) != word {
            syscall::thread_yield();
        }
        let revocation = world.owner.revoke_object(id, 1);
        samples.push(timed(|| context::revoke(&revocation, None))?);
        // What the reader sees from here on it must not see.
        mapped.set_word(DATA_OFFSET, word + 1);
        while board.word(REFUSED) != slot * SLOT_SIZE + DATA_OFFSET {
            syscall::thread_yield();
        }
        late += u64::from(board.word(SEEN) != word);
        // Room for the next ones.
        compartment.object.remove_all(id)?;
    }
    board.set_word(ADDRESS, u64::MAX);
    print_samples("revoke while another thread reads", &samples);
    println!("{{\"name\": \"accesses after a revocation\", \"count\": {late}}}");
    Ok(())
}

/// In the other context: reads what the board names, without pause.
extern "C" fn reader(argument: u64) -> ! {
    let board = Mapped(argument as *mut u8);
    loop {
        match board.word(ADDRESS) {
            0 => syscall::thread_yield(),
            u64::MAX => syscall::thread_exit(0),
            address => match probe::load(address) {
                Ok(word) => board.set_word(SEEN, word),
                Err(_) => {
                    board.set_word(REFUSED, address);
                    syscall::thread_yield();
                }
            },
        }
    }
}

/// Loads a word in each of `count` slots from `first` on.
#[gate(number = 0)]
fn touch(first: u64, count: u64) -> u64 {
    let load = |slot| Mapped((slot * SLOT_SIZE) as *mut u8).word(DATA_OFFSET);
    (first..first.saturating_add(count)).map(load).sum()
}

/// Stores to the word `offset` bytes behind the first one in each of `count` slots from `first` on; nanoseconds that one takes.
#[gate(number = 1)]
fn store(first: u64, count: u64, offset: u64) -> u64 {
    let stores = || {
        let slots = first..first.saturating_add(count);
        slots.for_each(|slot| Mapped((slot * SLOT_SIZE) as *mut u8).set_word(DATA_OFFSET + offset, 1));
        Ok(())
    };
    timed(stores).map_or(u64::MAX, |all| all / count.max(1))
}

/// Nanoseconds an operation, for each round.
#[derive(Default)]
struct Growth {
    bound: Vec<u64>,
    touched: Vec<u64>,
    revoked: Vec<u64>,
}

impl Growth {
    fn print(&self, point: &str) {
        print_samples(&format!("bind and first touch, {point}"), &self.bound);
        print_samples(&format!("touch of a further chunk, {point}"), &self.touched);
        print_samples(&format!("revoke, {point}"), &self.revoked);
    }
}

/// What it takes to bind, to touch and to revoke objects that are bound in so many contexts, each with so many other objects bound. Binding
/// and touching are those of the last context, when all others have them.
fn growth(world: &World, contexts: u64, others: u64, rounds: u64) -> Result<Growth, ErrorCode> {
    let fill: Vec<ObjectId> = (0..others).map(|_| readable_by_all()).collect::<Result<_, _>>()?;
    let mut all = Vec::new();
    for _ in 0..contexts {
        let compartment = world.compartment(false, &[touch::ENTRY, store::ENTRY])?;
        for (slot, id) in (FILL_SLOT..).zip(&fill) {
            compartment.map(slot, *id);
        }
        touch::call(compartment.id, FILL_SLOT, others)?;
        all.push(compartment);
    }
    let mut samples = Growth::default();
    for round in 0..rounds {
        let first = FREE_SLOT + round * GROWTH_BATCH;
        let mut targets = Vec::new();
        for _ in 0..GROWTH_BATCH {
            let id = volatile_object(world.owner.id())?;
            // Here first, so that binding and touching find the pages there.
            let here = Mapped::of(id)?;
            here.set_word(DATA_OFFSET, 1);
            here.set_word(DATA_OFFSET + FURTHER, 1);
            targets.push(id);
        }
        let (mut bound, mut touched) = (0, 0);
        for compartment in &all {
            for (slot, id) in (first..).zip(&targets) {
                let grant = Grant::new(*id, compartment.id, BOTH);
                compartment.hand_over(&world.owner.grant(&grant))?;
                compartment.map(slot, *id);
            }
            bound = store::call(compartment.id, first, GROWTH_BATCH, 0)?;
            touched = store::call(compartment.id, first, GROWTH_BATCH, FURTHER)?;
        }
        samples.bound.push(bound);
        samples.touched.push(touched);
        let revocations: Vec<_> = targets.iter().map(|id| world.owner.revoke_object(*id, 1)).collect();
        let revoke = || revocations.iter().try_for_each(|one| context::revoke(one, None));
        samples.revoked.push(timed(revoke)? / GROWTH_BATCH);
    }
    Ok(samples)
}

/// An object whose default rights let everybody read.
fn readable_by_all() -> Result<ObjectId, ErrorCode> {
    let id = syscall::object_create(&CreateSpec {
        default_rights: Rights::READ.bits(),
        flags: create_flags::VOLATILE,
        ..CreateSpec::default()
    })?;
    Mapped::of(id)?.set_word(DATA_OFFSET, 1);
    Ok(id)
}

/// Makes contexts that are all in use: a gate of each was called.
fn occupy(world: &World, contexts: u64) -> Result<(), ErrorCode> {
    let before = syscall::counters()?.frames_used;
    let mut made = Vec::new();
    for _ in 0..contexts {
        let compartment = world.compartment(false, &[touch::ENTRY])?;
        touch::call(compartment.id, 0, 0)?;
        made.push(compartment.id);
    }
    // Again: those that lost their tables meanwhile get them back.
    for id in &made {
        touch::call(*id, 0, 0)?;
    }
    println!("{{\"name\": \"contexts called twice\", \"count\": {}}}", made.len());
    let frames = syscall::counters()?.frames_used - before;
    println!("{{\"name\": \"kernel frames\", \"count\": {frames}}}");
    Ok(())
}
