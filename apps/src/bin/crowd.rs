//! Thousands of persistent security contexts, of which only a few can have tables at a time.
//!
//! `crowd [--own] make COUNT` makes them, with `--own` each with a root of its own, each with an object that it alone may read; `crowd use COUNT`, on another day and with [`GROUPS`] threads if `--together` is there and behind a line of input if `--typed` is, calls each of the first COUNT
//! and sees that it reads its own object, that it has no right to its neighbour's, and, for every [`SAMPLE`]th, that it can neither load from
//! that nor store to its own. They share a view, the stacks of their group and code, so that a context is two objects. Exit status 1 if one got more or less.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use apps::context_object::{ContextObject, NewContext};
use apps::keys;
use apps::mapped::{BOTH, Mapped};
use apps::options::Options;
use core::sync::atomic::{AtomicU64, Ordering};
use libtwz::gate::gate;
use sec::{Grant, KeyPair};
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::{DATA_SLOT, FREE_SLOT, TEXT_SLOT};
use twz_rt::abi::sec::{GateEntry, gate_flags};
use twz_rt::abi::syscall::CreateSpec;
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::context::{GateFn, entry_offset};
use twz_rt::thread::{self, JoinHandle};
use twz_rt::view::{self, View};
use twz_rt::{Args, println, syscall};

twz_rt::entry!(main);

/// Name of the object that lists the contexts: their number, then the ID of each and of its object.
const LIST: &str = "crowd";
const ENTRIES: u64 = DATA_OFFSET + 64;
const ENTRY_BYTES: u64 = 32;
/// Contexts that share stacks: those with the same remainder. A thread calls those of one group only, so that a stack has one user at a time.
const GROUPS: u64 = 4;
/// Slot of the first group's stacks in the common view, a low one because the kernel looks for it from 0 on; each context's object has a slot of its own
/// from [`FREE_SLOT`] on.
const STACKS_SLOT: u64 = DATA_SLOT + 1;
const STACK_BYTES: u32 = 0x8000;
/// One context of so many has a root of its own; the others are in the shared one.
const OWN: u64 = 32;
/// One context of so many tries what it may not.
const SAMPLE: u64 = 64;
/// What the first context's object holds.
const FIRST_WORD: u64 = 0xc0de_0000_0000;

fn main(args: Args) -> Result<u8, ErrorCode> {
    let mut options = Options::new(args);
    let (own, together, typed) = (options.flag("--own"), options.flag("--together"), options.flag("--typed"));
    let (verb, count) = (options.word(), options.word().and_then(|word| word.parse().ok()));
    match (verb, count) {
        (Some("make"), Some(count)) => make(count, own).map(|()| 0),
        (Some("use"), Some(count)) => use_all(count, if together { GROUPS } else { 1 }, typed),
        _ => {
            println!("crowd [--own] make COUNT | [--together] [--typed] use COUNT");
            Ok(2)
        }
    }
}

/// In a context: the word in `slot`, and the rights that it has to `other`.
#[gate(number = 0)]
fn look(slot: u64, other: ObjectId) -> [u64; 2] {
    let rights = syscall::object_stat(other).map_or(0, |stat| u64::from(stat.granted().bits()));
    [Mapped((slot * SLOT_SIZE) as *mut u8).word(DATA_OFFSET), rights]
}

/// In a context: stores to `slot`.
#[gate(number = 1)]
fn spoil(slot: u64) {
    Mapped((slot * SLOT_SIZE) as *mut u8).set_word(DATA_OFFSET, 0);
}

/// What all contexts have in common.
struct Common {
    key: KeyPair,
    view: View,
    /// Of each group.
    gates: Vec<[GateEntry; 2]>,
    /// Every context has a root of its own.
    own: bool,
}

impl Common {
    fn new(own_roots: bool) -> Result<Self, ErrorCode> {
        let key = keys::pair("owner")?;
        let own = View::current();
        let of = |slot| own.get(slot).map(|(id, _)| id).ok_or(ErrorCode::NoObject);
        let create = |source, rights: Rights| {
            let default_rights = rights.bits();
            syscall::object_create(&CreateSpec {
                source,
                key: key.id(),
                default_rights,
                ..CreateSpec::default()
            })
        };
        let view_id = create(ObjectId::NULL, Rights::READ)?;
        let data = create(of(DATA_SLOT)?, Rights::READ)?;
        // SAFETY: the slot maps a new object, which becomes a view.
        let view = unsafe { View::at(Mapped::of(view_id)?.0) };
        view.initialise();
        let code = of(TEXT_SLOT)?;
        let _ = view.map(TEXT_SLOT, code, Rights::READ | Rights::EXEC);
        let _ = view.map(DATA_SLOT, data, Rights::READ);
        let gate = |entry: GateFn, stacks| -> Result<GateEntry, ErrorCode> {
            Ok(GateEntry {
                flags: gate_flags::VALID,
                entry: entry_offset(entry).ok_or(ErrorCode::BadOffset)?,
                code,
                view: view_id,
                stacks,
                stack_bytes: STACK_BYTES,
                stack_count: 1,
            })
        };
        let mut gates = Vec::new();
        for group in 0..GROUPS {
            let stacks = create(ObjectId::NULL, BOTH)?;
            let _ = view.map(STACKS_SLOT + group, stacks, BOTH);
            gates.push([gate(look::ENTRY, stacks)?, gate(spoil::ENTRY, stacks)?]);
        }
        Ok(Self { key, view, gates, own: own_roots })
    }

    /// Context `number` and its object.
    fn make(&self, number: u64) -> Result<[ObjectId; 2], ErrorCode> {
        let key = self.key.id();
        let object = syscall::object_create(&CreateSpec { key, ..CreateSpec::default() })?;
        let bytes = Mapped::of(object)?;
        bytes.write_durably(DATA_OFFSET, &(FIRST_WORD + number).to_le_bytes());
        let shared = !self.own && !number.is_multiple_of(OWN);
        let new = NewContext { key, flags: 0, undetachable: false, shared, slots: 16 };
        let context = ContextObject::create(&new)?;
        let group = usize::try_from(number % GROUPS).unwrap_or(0);
        for (gate, entry) in (0..).zip(&self.gates[group]) {
            context.set_gate(gate, entry)?;
        }
        context.add(&self.key.grant(&Grant::new(object, context.id, Rights::READ)))?;
        let _ = self.view.map(FREE_SLOT + number, object, Rights::all());
        for mapped in [bytes, context.bytes] {
            // SAFETY: nothing uses either mapping any more.
            unsafe { view::unmap(mapped.0 as u64 / SLOT_SIZE) }?;
        }
        Ok([context.id, object])
    }
}

fn make(count: u64, own: bool) -> Result<(), ErrorCode> {
    let common = Common::new(own)?;
    let list_id = syscall::object_create(&CreateSpec { key: common.key.id(), ..CreateSpec::default() })?;
    let list = Mapped::of(list_id)?;
    let mut bytes = 0;
    for number in 0..count {
        for (at, id) in (ENTRIES + number * ENTRY_BYTES..).step_by(16).zip(common.make(number)?) {
            list.set_word(at, id.lo);
            list.set_word(at + 8, id.hi);
            bytes += syscall::object_stat(id)?.allocated_bytes;
        }
    }
    list.write_durably(DATA_OFFSET, &count.to_le_bytes());
    syscall::name_set(list_id, LIST)?;
    println!("crowd: made {count}, {} bytes each with its object", bytes / count.max(1));
    Ok(())
}

/// What came of the calls.
#[derive(Default)]
struct Outcome {
    /// Contexts that had their right and no other.
    good: AtomicU64,
    /// Attempts at more.
    tried: AtomicU64,
    /// Of these, those that were refused.
    refused: AtomicU64,
}

fn use_all(count: u64, threads: u64, typed: bool) -> Result<u8, ErrorCode> {
    let list = Mapped::of(syscall::name_get(LIST)?)?;
    let made = list.word(DATA_OFFSET);
    let count = count.min(made);
    if typed {
        println!("crowd: waits for a line");
        let mut line = [0; 16];
        syscall::console_read(&mut line)?;
    }
    let all = Arc::new(Outcome::default());
    let mut running = Vec::new();
    for thread in 1..threads {
        let all = Arc::clone(&all);
        running.push(thread::spawn(move || {
            (0..count)
                .filter(|number| number % threads == thread)
                .for_each(|number| call(list, number, &all));
        })?);
    }
    (0..count).filter(|number| number.is_multiple_of(threads)).for_each(|number| call(list, number, &all));
    let ended = running.into_iter().map(JoinHandle::join).filter(Result::is_err).count();
    let sum = |count: &AtomicU64| count.load(Ordering::Acquire);
    let (good, tried, refused) = (sum(&all.good), sum(&all.tried), sum(&all.refused));
    println!(
        "crowd: {good} of {count} contexts have their right and no other; {refused} of {tried} attempts refused"
    );
    Ok(u8::from(good != count || refused != tried || ended > 0))
}

/// Calls context `number` of the list.
fn call(list: Mapped, number: u64, all: &Outcome) {
    let made = list.word(DATA_OFFSET);
    let id = |number: u64, which: u64| {
        let at = ENTRIES + (number % made) * ENTRY_BYTES + which * 16;
        ObjectId { lo: list.word(at), hi: list.word(at + 8) }
    };
    let (context, own) = (id(number, 0), FREE_SLOT + number);
    let neighbour = FREE_SLOT + (number + 1) % made;
    let found = look::call(context, own, id(number + 1, 1));
    if found == Ok([FIRST_WORD + number, 0]) {
        all.good.fetch_add(1, Ordering::AcqRel);
    } else {
        println!("crowd: context {number} should find {:x}, found {found:x?}", FIRST_WORD + number);
    }
    if number.is_multiple_of(SAMPLE) {
        let load = look::call(context, neighbour, id(number, 1)).map(drop);
        for attempt in [load, spoil::call(context, own)] {
            all.tried.fetch_add(1, Ordering::AcqRel);
            all.refused.fetch_add(u64::from(attempt == Err(ErrorCode::CalleeFailed)), Ordering::AcqRel);
        }
    }
}
