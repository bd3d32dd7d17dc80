//! Compartments to try things on: an owner's key, contexts with gates, objects that only a capability opens.

use sec::{Context, Grant, KeyPair, ObjectBytes};
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::program::{DATA_SLOT, FREE_SLOT, TEXT_SLOT};
use twz_rt::abi::sec::{
    CONTEXT_OFFSET, ContextHeader, GateEntry, PrivateKeyObject, RawCap, gate_flags, gate_offset,
};
use twz_rt::abi::syscall::{CreateSpec, create_flags};
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::context::{GateFn, entry_offset};
use twz_rt::view::{self, View};
use twz_rt::{context, syscall};
use zerocopy::{FromZeros, IntoBytes};

/// Read and write.
pub(crate) const BOTH: Rights = Rights::READ.union(Rights::WRITE);
/// Stacks of each compartment, and bytes of each.
pub(crate) const STACKS: u32 = 4;
const STACK_BYTES: u32 = 0x8000;
/// Slot of a compartment's stacks in its view.
pub(crate) const STACKS_SLOT: u64 = FREE_SLOT - 1;

/// An object that is mapped here, as bytes that others may change.
#[derive(Clone, Copy)]
pub(crate) struct Mapped(pub(crate) *mut u8);

impl Mapped {
    /// Maps `object` readable and writable.
    pub(crate) fn of(object: ObjectId) -> Result<Self, ErrorCode> {
        view::map_anywhere(object, BOTH).map(Self).ok_or(ErrorCode::NoMemory)
    }

    fn at(self, offset: u64) -> *mut u8 {
        // Offsets below 1 GiB fit.
        self.0.wrapping_add(usize::try_from(offset).unwrap_or_default())
    }

    /// Stores bytes.
    pub(crate) fn write(self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            // SAFETY: the slot maps an object of 1 GiB that this program made; offsets are constants of its layout.
            unsafe { self.at(at).write_volatile(*byte) };
        }
    }

    /// Loads the word at `offset`.
    pub(crate) fn word(self, offset: u64) -> u64 {
        // SAFETY: as in `write`; the offsets used are multiples of 8.
        unsafe { self.at(offset).cast::<u64>().read_volatile() }
    }
}

impl ObjectBytes for Mapped {
    fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        for (at, byte) in (offset..).zip(into) {
            // SAFETY: as in `write`.
            *byte = unsafe { self.at(at).read_volatile() };
        }
        true
    }
}

/// Creates a volatile object of the owner's, with no default rights.
pub(crate) fn object(key: ObjectId) -> Result<ObjectId, ErrorCode> {
    syscall::object_create(&CreateSpec { key, flags: create_flags::VOLATILE, ..CreateSpec::default() })
}

/// The owner: this program, in the first context.
pub(crate) struct World {
    /// The key that the first boot made.
    pub(crate) owner: KeyPair,
    /// The context that this program runs in.
    pub(crate) me: ObjectId,
    text: ObjectId,
    data: ObjectId,
}

impl World {
    /// Finds the owner's key.
    pub(crate) fn new() -> Result<Self, ErrorCode> {
        let secret = Mapped::of(syscall::name_get("key/owner.secret")?)?;
        let mut bytes = PrivateKeyObject::new_zeroed();
        secret.read(DATA_OFFSET, bytes.as_mut_bytes());
        let owner = KeyPair::from_private_object(bytes.as_bytes()).map_err(|_| ErrorCode::BadArgument)?;
        let own = View::current();
        let of = |slot| own.get(slot).map(|(id, _)| id).ok_or(ErrorCode::NoObject);
        Ok(Self { owner, me: context::current()?, text: of(TEXT_SLOT)?, data: of(DATA_SLOT)? })
    }

    /// A context of the owner's with these gates, and a view, data and stacks of its own.
    pub(crate) fn compartment(&self, shared: bool, gates: &[GateFn]) -> Result<Compartment, ErrorCode> {
        let key = self.owner.id();
        let id = object(key)?;
        let bytes = Mapped::of(id)?;
        let header = Context::new_header(false, shared, Rights::all(), 64);
        let (view_id, stacks) = (object(key)?, object(key)?);
        let data = syscall::object_create(&CreateSpec {
            source: self.data,
            key,
            flags: create_flags::VOLATILE,
            ..CreateSpec::default()
        })?;
        // SAFETY: the slot maps a new object, which becomes a view.
        let view = unsafe { View::at(Mapped::of(view_id)?.0) };
        view.initialise();
        let _ = view.map(TEXT_SLOT, self.text, Rights::READ | Rights::EXEC);
        let _ = view.map(DATA_SLOT, data, BOTH);
        let _ = view.map(STACKS_SLOT, stacks, BOTH);
        for (number, gate) in (0..).zip(gates) {
            let entry = GateEntry {
                flags: gate_flags::VALID,
                entry: entry_offset(*gate).ok_or(ErrorCode::BadOffset)?,
                code: self.text,
                view: view_id,
                stacks,
                stack_bytes: STACK_BYTES,
                stack_count: STACKS,
            };
            bytes.write(gate_offset(number).ok_or(ErrorCode::BadOffset)?, entry.as_bytes());
        }
        let gate_count = u32::try_from(gates.len()).map_err(|_| ErrorCode::BadArgument)?;
        bytes.write(CONTEXT_OFFSET, ContextHeader { gate_count, ..header }.as_bytes());
        let stacks_here = Mapped::of(stacks)?;
        let mut made = Compartment {
            id,
            bytes,
            view_id,
            view,
            stacks_id: stacks,
            data_id: data,
            stacks: stacks_here,
            header,
            gate_count,
        };
        for (target, rights) in [(view_id, Rights::READ), (stacks, BOTH), (data, BOTH)] {
            made.hand_over(&self.owner.grant(&Grant::new(target, id, rights)))?;
        }
        Ok(made)
    }
}

/// A context with its view and stacks.
pub(crate) struct Compartment {
    /// The context.
    pub(crate) id: ObjectId,
    bytes: Mapped,
    /// The view that its gates run in.
    pub(crate) view_id: ObjectId,
    /// That view, mapped here.
    pub(crate) view: View,
    /// The object with its stacks.
    pub(crate) stacks_id: ObjectId,
    /// The object with its data.
    pub(crate) data_id: ObjectId,
    /// Its stacks, mapped here.
    pub(crate) stacks: Mapped,
    header: ContextHeader,
    gate_count: u32,
}

impl Compartment {
    /// Puts a capability into the context's table, as any writer of it can.
    pub(crate) fn hand_over(&mut self, capability: &RawCap) -> Result<(), ErrorCode> {
        let read = Context::read(&self.bytes).map_err(|_| ErrorCode::BadContext)?;
        let slot = read.slot_for(&self.bytes, capability).map_err(|_| ErrorCode::PoolFull)?;
        self.bytes.write(slot, capability.as_bytes());
        let (generation, gate_count) = (read.generation + 1, self.gate_count);
        let header = ContextHeader { generation, gate_count, ..self.header };
        self.bytes.write(CONTEXT_OFFSET, header.as_bytes());
        Ok(())
    }

    /// Makes its view map `object` in `slot`, asking for everything; returns the address.
    pub(crate) fn map(&self, slot: u64, object: ObjectId) -> u64 {
        let _ = self.view.map(slot, object, Rights::all());
        slot * SLOT_SIZE
    }
}
