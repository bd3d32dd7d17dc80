//! An example of gates: a vault that keeps a balance and a secret, in a security context of its own, for callers in other contexts.
//!
//! The functions below run in the vault's context, on its stack, with its data: `BALANCE` there is not `BALANCE` here. They are called like
//! functions, and they believe nothing: who calls is told by the kernel, and what a caller names it must be allowed to use itself.
#![no_std]
#![no_main]

extern crate alloc;

use apps::compartment::{Compartment, World};
use apps::mapped::{Mapped, volatile_object};
use core::sync::atomic::{AtomicU64, Ordering};
use libtwz::gate::{Caller, gate};
use sec::Grant;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::FREE_SLOT;
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::context::gate_call;
use twz_rt::{Args, println};
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

twz_rt::entry!(main);

/// Why the vault gives nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(u8)]
enum Refusal {
    NotEnough = 1,
    NotYours = 2,
    NoSuchThing = 3,
}

/// What the vault has; each context has its own.
static BALANCE: AtomicU64 = AtomicU64::new(0);
/// The halves of the IDs of the two objects that the vault can read, in the slots from [`FREE_SLOT`] on.
static THINGS: [[AtomicU64; 2]; 2] = [const { [const { AtomicU64::new(0) }; 2] }; 2];

#[gate(number = 0)]
fn deposit(amount: u32, twice: bool) -> u64 {
    let amount = u64::from(amount) * if twice { 2 } else { 1 };
    BALANCE.fetch_add(amount, Ordering::Relaxed) + amount
}

#[gate(number = 1)]
fn withdraw(amount: u64) -> Result<u64, Refusal> {
    let taken = BALANCE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |has| has.checked_sub(amount));
    taken.map(|before| before - amount).map_err(|_| Refusal::NotEnough)
}

/// Reads one of the vault's things for a caller who may read it, too.
#[gate(number = 2)]
fn fetch(caller: Caller, thing: u32) -> Result<u64, Refusal> {
    let Some([lo, hi]) = THINGS.get(thing as usize) else { return Err(Refusal::NoSuchThing) };
    let id = ObjectId { lo: lo.load(Ordering::Relaxed), hi: hi.load(Ordering::Relaxed) };
    if !caller.may(id, Rights::READ) {
        return Err(Refusal::NotYours);
    }
    let slot = (FREE_SLOT + u64::from(thing)) * SLOT_SIZE;
    Ok(Mapped(slot as *mut u8).word(DATA_OFFSET))
}

#[gate(number = 3)]
fn who(caller: Caller) -> ObjectId {
    caller.context()
}

#[gate(number = 4)]
fn break_down(index: u32) {
    let nothing: [u8; 0] = [];
    // Out of bounds for every caller: a panic in the callee is the callee's.
    core::hint::black_box(nothing[core::hint::black_box(index as usize)]);
}

fn main(_: Args) -> Result<u8, ErrorCode> {
    let world = World::new()?;
    let mut status = 0;
    for shared in [true, false] {
        println!("vault with placement {}", if shared { "shared" } else { "own" });
        status |= visit(&world, shared)?;
    }
    Ok(status)
}

/// Makes the vault's things and the vault. The first thing is the vault's alone, the second this program may read, too.
fn open(world: &World, shared: bool) -> Result<Compartment, ErrorCode> {
    let things = [volatile_object(world.owner.id())?, volatile_object(world.owner.id())?];
    for ((words, id), value) in THINGS.iter().zip(things).zip([0x5ec2e7, 0x0b1ec7]) {
        words[0].store(id.lo, Ordering::Relaxed);
        words[1].store(id.hi, Ordering::Relaxed);
        Mapped::of(id)?.set_word(DATA_OFFSET, value);
    }
    let gates = [deposit::ENTRY, withdraw::ENTRY, fetch::ENTRY, who::ENTRY, break_down::ENTRY];
    let vault = world.compartment(shared, &gates)?;
    for (slot, id) in (FREE_SLOT..).zip(things) {
        vault.hand_over(&world.owner.grant(&Grant::new(id, vault.id, Rights::READ)))?;
        vault.map(slot, id);
    }
    Ok(vault)
}

fn visit(world: &World, shared: bool) -> Result<u8, ErrorCode> {
    let vault = open(world, shared)?;
    let mut wrong = 0;
    let mut expect = |what: &str, holds: bool| {
        println!("{}: {what}", if holds { "yes" } else { "NO" });
        wrong |= u8::from(!holds);
    };
    let id = vault.id;
    expect("40 go in", deposit::call(id, 40, false) == Ok(40));
    expect("1 goes in twice", deposit::call(id, 1, true) == Ok(42));
    expect("the vault's balance is not ours", BALANCE.load(Ordering::Relaxed) == 0);
    expect("2 come out", withdraw::call(id, 2) == Ok(Ok(40)));
    expect("more than there is does not", withdraw::call(id, 41) == Ok(Err(Refusal::NotEnough)));
    expect("the vault knows who calls", who::call(id) == Ok(world.me));
    expect("it reads for us what we may read", fetch::call(id, 1) == Ok(Ok(0x0b1ec7)));
    expect("a thing that is not there", fetch::call(id, 2) == Ok(Err(Refusal::NoSuchThing)));
    let broken = break_down::call(id, 7);
    expect("its panic is not ours", broken == Err(ErrorCode::CalleeFailed));
    // A bool that is none, and bytes behind the arguments.
    for words in [[1 | 2 << 32, 0, 0], [1, 0, 1]] {
        let refused = gate_call(id, deposit::NUMBER, words) == Err(ErrorCode::CalleeFailed);
        expect("bytes that are no arguments", refused);
    }
    expect("the balance is as it was", deposit::call(id, 0, false) == Ok(40));
    expect("a caller without the right", deputy(world, &vault, shared)? == Refusal::NotYours as u64);
    Ok(wrong)
}

/// Has a third context, which may call the vault but not read its first thing, ask for that thing.
fn deputy(world: &World, vault: &Compartment, shared: bool) -> Result<u64, ErrorCode> {
    let asker = world.compartment(shared, &[ask::ENTRY])?;
    asker.hand_over(&world.owner.grant(&Grant::new(vault.id, asker.id, Rights::USE)))?;
    ask::call(asker.id, vault.id, 0)
}

/// In the third context: what the vault answers.
#[gate(number = 0)]
fn ask(vault: ObjectId, thing: u32) -> u64 {
    match fetch::call(vault, thing) {
        Ok(Ok(value)) => value,
        Ok(Err(refusal)) => refusal as u64,
        Err(_) => u64::MAX,
    }
}
