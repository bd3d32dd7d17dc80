//! Thousands of persistent security contexts, of which only a few can have tables at a time.
//!
//! `crowd make COUNT` makes them, each with an object that it alone may read; `crowd use COUNT`, on another day, calls each of the first COUNT
//! and sees that it reads its own object, that it has no right to its neighbour's, and, for every [`SAMPLE`]th, that it can neither load from
//! that nor store to its own. They share a view, stacks and code, so that a context is two objects. Exit status 1 if one got more or less.
#![no_std]
#![no_main]

extern crate alloc;

use apps::context_object::{ContextObject, NewContext};
use apps::keys;
use apps::mapped::{BOTH, Mapped};
use apps::options::Options;
use libtwz::gate::gate;
use sec::{Grant, KeyPair};
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::{DATA_SLOT, FREE_SLOT, TEXT_SLOT};
use twz_rt::abi::sec::{GateEntry, gate_flags};
use twz_rt::abi::syscall::CreateSpec;
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::context::{GateFn, entry_offset};
use twz_rt::view::{self, View};
use twz_rt::{Args, println, syscall};

twz_rt::entry!(main);

/// Name of the object that lists the contexts: their number, then the ID of each and of its object.
const LIST: &str = "crowd";
const ENTRIES: u64 = DATA_OFFSET + 64;
const ENTRY_BYTES: u64 = 32;
/// Slot of the stacks in the common view, a low one because the kernel looks for it from 0 on; each context's object has a slot of its own
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
    let (verb, count) = (options.word(), options.word().and_then(|word| word.parse().ok()));
    match (verb, count) {
        (Some("make"), Some(count)) => make(count).map(|()| 0),
        (Some("use"), Some(count)) => use_all(count),
        _ => {
            println!("crowd make COUNT | use COUNT");
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
    gates: [GateEntry; 2],
}

impl Common {
    fn new() -> Result<Self, ErrorCode> {
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
        let (view_id, stacks) = (create(ObjectId::NULL, Rights::READ)?, create(ObjectId::NULL, BOTH)?);
        let data = create(of(DATA_SLOT)?, Rights::READ)?;
        // SAFETY: the slot maps a new object, which becomes a view.
        let view = unsafe { View::at(Mapped::of(view_id)?.0) };
        view.initialise();
        let code = of(TEXT_SLOT)?;
        let _ = view.map(TEXT_SLOT, code, Rights::READ | Rights::EXEC);
        let _ = view.map(DATA_SLOT, data, Rights::READ);
        let _ = view.map(STACKS_SLOT, stacks, BOTH);
        let gate = |entry: GateFn| -> Result<GateEntry, ErrorCode> {
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
        let gates = [gate(look::ENTRY)?, gate(spoil::ENTRY)?];
        Ok(Self { key, view, gates })
    }

    /// Context `number` and its object.
    fn make(&self, number: u64) -> Result<[ObjectId; 2], ErrorCode> {
        let key = self.key.id();
        let object = syscall::object_create(&CreateSpec { key, ..CreateSpec::default() })?;
        let bytes = Mapped::of(object)?;
        bytes.write_durably(DATA_OFFSET, &(FIRST_WORD + number).to_le_bytes());
        let new =
            NewContext { key, flags: 0, undetachable: false, shared: !number.is_multiple_of(OWN), slots: 16 };
        let context = ContextObject::create(&new)?;
        for (number, entry) in (0..).zip(&self.gates) {
            context.set_gate(number, entry)?;
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

fn make(count: u64) -> Result<(), ErrorCode> {
    let common = Common::new()?;
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

fn use_all(count: u64) -> Result<u8, ErrorCode> {
    let list = Mapped::of(syscall::name_get(LIST)?)?;
    let made = list.word(DATA_OFFSET);
    let id = |number: u64, which: u64| {
        let at = ENTRIES + (number % made) * ENTRY_BYTES + which * 16;
        ObjectId { lo: list.word(at), hi: list.word(at + 8) }
    };
    let (mut good, mut tried, mut refused) = (0, 0, 0);
    for number in 0..count.min(made) {
        let (context, own) = (id(number, 0), FREE_SLOT + number);
        let neighbour = FREE_SLOT + (number + 1) % made;
        let found = look::call(context, own, id(number + 1, 1));
        if found == Ok([FIRST_WORD + number, 0]) {
            good += 1;
        } else {
            println!("crowd: context {number} should find {:x}, found {found:x?}", FIRST_WORD + number);
        }
        if number.is_multiple_of(SAMPLE) {
            tried += 2;
            let load = look::call(context, neighbour, id(number, 1)).map(drop);
            for attempt in [load, spoil::call(context, own)] {
                refused += u64::from(attempt == Err(ErrorCode::CalleeFailed));
            }
        }
    }
    println!(
        "crowd: {good} of {} contexts have their right and no other; {refused} of {tried} attempts refused",
        count.min(made)
    );
    Ok(u8::from(good != count.min(made) || refused != tried))
}
