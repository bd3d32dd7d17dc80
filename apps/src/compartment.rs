//! Compartments: contexts of the owner's with a view, data and stacks of their own, whose gates or threads run this program's code.

use crate::context_object::{ContextObject, NewContext};
use crate::keys;
use crate::mapped::{BOTH, Mapped, volatile_object};
use sec::{Grant, KeyPair};
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::{DATA_SLOT, FREE_SLOT, TEXT_SLOT};
use twz_rt::abi::sec::{GateEntry, RawCap, gate_flags};
use twz_rt::abi::syscall::{CreateSpec, create_flags};
use twz_rt::abi::thread::{PRIORITY_DEFAULT, ThreadSpec};
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::context::{GateFn, entry_offset};
use twz_rt::view::View;
use twz_rt::{context, fault, syscall};

/// Stacks of each compartment, and bytes of each.
pub const STACKS: u32 = 4;
const STACK_BYTES: u32 = 0x8000;
/// Slots for capabilities at first, as few as there may be: most compartments are given little, and those that are given more try how
/// tables grow.
const SLOTS: u32 = 16;
/// Slot of a compartment's stacks in its view.
pub const STACKS_SLOT: u64 = FREE_SLOT - 1;
/// Where the stack of a thread started in a compartment begins, above those of its gates.
const THREAD_STACK: u64 = STACKS_SLOT * SLOT_SIZE + DATA_OFFSET + 0x10_0000 - 8;

/// The owner: this program, in the first context.
pub struct World {
    /// The key that the first boot made.
    pub owner: KeyPair,
    /// The context that this program runs in.
    pub me: ObjectId,
    text: ObjectId,
    data: ObjectId,
}

impl World {
    /// Finds the owner's key.
    ///
    /// # Errors
    /// As [`keys::pair`].
    pub fn new() -> Result<Self, ErrorCode> {
        Self::with_key(keys::pair("owner")?)
    }

    /// With another key in the owner's place.
    ///
    /// # Errors
    /// None today.
    pub fn with_key(owner: KeyPair) -> Result<Self, ErrorCode> {
        let own = View::current();
        let of = |slot| own.get(slot).map(|(id, _)| id).ok_or(ErrorCode::NoObject);
        Ok(Self { owner, me: context::current()?, text: of(TEXT_SLOT)?, data: of(DATA_SLOT)? })
    }

    /// A volatile context of the owner's with these gates.
    ///
    /// # Errors
    /// What creating its objects says.
    pub fn compartment(&self, shared: bool, gates: &[GateFn]) -> Result<Compartment, ErrorCode> {
        let new = NewContext {
            key: self.owner.id(),
            flags: create_flags::VOLATILE,
            undetachable: false,
            shared,
            slots: SLOTS,
        };
        let made = self.furnish(ContextObject::create(&new)?)?;
        for (number, gate) in (0..).zip(gates) {
            made.set_gate(number, *gate)?;
        }
        Ok(made)
    }

    /// Gives a context of the owner's a view with this program's code, data and stacks, all volatile.
    ///
    /// # Errors
    /// What creating its objects says; [`ErrorCode::PoolFull`] when the context's table is full.
    pub fn furnish(&self, context: ContextObject) -> Result<Compartment, ErrorCode> {
        let key = self.owner.id();
        let (view_id, stacks_id) = (volatile_object(key)?, volatile_object(key)?);
        let data_id = syscall::object_create(&CreateSpec {
            source: self.data,
            key,
            flags: create_flags::VOLATILE,
            ..CreateSpec::default()
        })?;
        // SAFETY: the slot maps a new object, which becomes a view.
        let view = unsafe { View::at(Mapped::of(view_id)?.0) };
        view.initialise();
        let _ = view.map(TEXT_SLOT, self.text, Rights::READ | Rights::EXEC);
        let _ = view.map(DATA_SLOT, data_id, BOTH);
        let _ = view.map(STACKS_SLOT, stacks_id, BOTH);
        let stacks = Mapped::of(stacks_id)?;
        let id = context.id;
        let made =
            Compartment { id, object: context, text: self.text, view_id, view, stacks_id, data_id, stacks };
        for (target, rights) in [(view_id, Rights::READ), (stacks_id, BOTH), (data_id, BOTH)] {
            made.hand_over(&self.owner.grant(&Grant::new(target, id, rights)))?;
        }
        Ok(made)
    }
}

/// A context with its view and stacks.
pub struct Compartment {
    /// The context.
    pub id: ObjectId,
    /// Its object.
    pub object: ContextObject,
    text: ObjectId,
    /// The view that its gates run in.
    pub view_id: ObjectId,
    /// That view, mapped here.
    pub view: View,
    /// The object with its stacks.
    pub stacks_id: ObjectId,
    /// The object with its data.
    pub data_id: ObjectId,
    /// Its stacks, mapped here.
    pub stacks: Mapped,
}

impl Compartment {
    /// Puts a capability into the context's table, as any writer of it can.
    ///
    /// # Errors
    /// As [`ContextObject::add`].
    pub fn hand_over(&self, capability: &RawCap) -> Result<(), ErrorCode> {
        self.object.add(capability)
    }

    /// Makes `gate` the context's gate `number`.
    ///
    /// # Errors
    /// As [`ContextObject::set_gate`].
    pub fn set_gate(&self, number: u32, gate: GateFn) -> Result<(), ErrorCode> {
        let entry = GateEntry {
            flags: gate_flags::VALID,
            entry: entry_offset(gate).ok_or(ErrorCode::BadOffset)?,
            code: self.text,
            view: self.view_id,
            stacks: self.stacks_id,
            stack_bytes: STACK_BYTES,
            stack_count: STACKS,
        };
        self.object.set_gate(number, &entry)
    }

    /// Makes its view map `object` in `slot`, asking for everything; returns the address.
    #[allow(clippy::must_use_candidate, reason = "mapping is what it is for")]
    pub fn map(&self, slot: u64, object: ObjectId) -> u64 {
        let _ = self.view.map(slot, object, Rights::all());
        slot * SLOT_SIZE
    }

    /// Has its threads' faults handled as ours are: by the handler that was set when it was furnished.
    pub fn handle_faults(&self) {
        // SAFETY: the same program runs there, with a copy of the data in which the handler is named.
        unsafe { self.view.set_fault_handler(fault::entry_address()) };
    }

    /// Starts a thread of the usual priority in it; one at a time, since they share a stack.
    ///
    /// # Errors
    /// As [`syscall::thread_spawn`].
    pub fn start(&self, entry: extern "C" fn(u64) -> !, argument: u64) -> Result<u64, ErrorCode> {
        self.start_with(PRIORITY_DEFAULT, entry, argument)
    }

    /// The same with another priority.
    ///
    /// # Errors
    /// As [`syscall::thread_spawn`].
    pub fn start_with(
        &self,
        priority: u32,
        entry: extern "C" fn(u64) -> !,
        argument: u64,
    ) -> Result<u64, ErrorCode> {
        let spec = ThreadSpec {
            view: self.view_id,
            context: self.id,
            entry: entry as usize as u64,
            stack: THREAD_STACK,
            argument,
            priority,
            ..ThreadSpec::default()
        };
        // SAFETY: entry and stack are good in the compartment's view; it shares no memory with us but what the argument leads to.
        unsafe { syscall::thread_spawn(&spec) }
    }
}
