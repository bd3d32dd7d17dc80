//! Security context objects, mapped and written as their owners do it.

use crate::mapped::Mapped;
use core::mem::offset_of;
use sec::Context;
use twz_rt::abi::sec::{CONTEXT_OFFSET, ContextHeader, GateEntry, RawCap, context_flags, gate_offset};
use twz_rt::abi::syscall::CreateSpec;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::syscall;
use zerocopy::IntoBytes;

const GENERATION: u64 = CONTEXT_OFFSET + offset_of!(ContextHeader, generation) as u64;
/// The word whose upper half are the flags.
const FLAGS: u64 = CONTEXT_OFFSET + offset_of!(ContextHeader, version) as u64;
const GATE_COUNT: u64 = CONTEXT_OFFSET + offset_of!(ContextHeader, gate_count) as u64;

/// A security context that is mapped here, writable.
#[derive(Clone, Copy, Debug)]
pub struct ContextObject {
    /// Its ID.
    pub id: ObjectId,
    /// Its bytes.
    pub bytes: Mapped,
}

/// What a new context is to be.
#[derive(Clone, Copy, Debug)]
pub struct NewContext {
    /// Key object that may grant rights to it.
    pub key: ObjectId,
    /// [`twz_rt::abi::syscall::create_flags`].
    pub flags: u32,
    /// A thread that attached it keeps it.
    pub undetachable: bool,
    /// Placement `shared`; else `own`.
    pub shared: bool,
    /// Slots of its table; see [`Context::new_header`].
    pub slots: u32,
}

impl ContextObject {
    /// Creates one without capabilities and gates.
    ///
    /// # Errors
    /// As [`syscall::object_create`].
    pub fn create(new: &NewContext) -> Result<Self, ErrorCode> {
        let spec = CreateSpec { key: new.key, flags: new.flags, ..CreateSpec::default() };
        let id = syscall::object_create(&spec)?;
        let bytes = Mapped::of(id)?;
        let header = Context::new_header(new.undetachable, new.shared, Rights::all(), new.slots);
        bytes.write_durably(CONTEXT_OFFSET, header.as_bytes());
        Ok(Self { id, bytes })
    }

    /// One that exists.
    ///
    /// # Errors
    /// [`ErrorCode::NotPermitted`] without the rights to read and write it, [`ErrorCode::BadContext`] for an object that is none.
    pub fn open(id: ObjectId, needed: Rights) -> Result<Self, ErrorCode> {
        if !syscall::object_stat(id)?.granted().contains(needed) {
            return Err(ErrorCode::NotPermitted);
        }
        let opened = Self { id, bytes: Mapped::of(id)? };
        opened.read().map(|_| opened)
    }

    /// Its header now.
    ///
    /// # Errors
    /// [`ErrorCode::BadContext`].
    pub fn read(&self) -> Result<Context, ErrorCode> {
        Context::read(&self.bytes).map_err(|_| ErrorCode::BadContext)
    }

    /// Puts a capability into its table, as any writer of it can.
    ///
    /// # Errors
    /// [`ErrorCode::PoolFull`] when all slots of the target are in use, [`ErrorCode::BadContext`].
    pub fn add(&self, capability: &RawCap) -> Result<(), ErrorCode> {
        let slot = self.read()?.slot_for(&self.bytes, capability).map_err(|_| ErrorCode::PoolFull)?;
        self.bytes.write_durably(slot, capability.as_bytes());
        self.changed()
    }

    /// Takes every capability out of its table whose object is gone.
    ///
    /// # Errors
    /// [`ErrorCode::BadContext`].
    pub fn remove_dead(&self) -> Result<(), ErrorCode> {
        self.remove(|target| matches!(syscall::object_stat(target), Err(ErrorCode::NoObject)))
    }

    /// Takes every capability to `target` out of its table.
    ///
    /// # Errors
    /// [`ErrorCode::BadContext`].
    pub fn remove_all(&self, target: ObjectId) -> Result<(), ErrorCode> {
        self.remove(|other| other == target)
    }

    fn remove(&self, is_wanted: impl Fn(ObjectId) -> bool) -> Result<(), ErrorCode> {
        let read = self.read()?;
        for (offset, capability) in read.capabilities(&self.bytes) {
            if is_wanted(capability.target) {
                self.bytes.write_durably(offset, 0_u64.as_bytes());
            }
        }
        self.changed()
    }

    /// Sets gate `number` and makes the gates up to it count.
    ///
    /// # Errors
    /// [`ErrorCode::BadOffset`] past the last gate, [`ErrorCode::BadContext`].
    pub fn set_gate(&self, number: u32, entry: &GateEntry) -> Result<(), ErrorCode> {
        let offset = gate_offset(number).ok_or(ErrorCode::BadOffset)?;
        self.bytes.write_durably(offset, entry.as_bytes());
        let count = self.read()?.gate_count().max(number + 1);
        self.bytes.write_durably(GATE_COUNT, u64::from(count).as_bytes());
        self.changed()
    }

    /// Makes no gate count any more.
    ///
    /// # Errors
    /// [`ErrorCode::BadContext`].
    pub fn close_gates(&self) -> Result<(), ErrorCode> {
        self.bytes.write_durably(GATE_COUNT, 0_u64.as_bytes());
        self.changed()
    }

    /// Chooses the placement: `shared`, or a root to itself. In force when the context is next entered while nobody is in it.
    ///
    /// # Errors
    /// [`ErrorCode::BadContext`].
    pub fn place(&self, shared: bool) -> Result<(), ErrorCode> {
        let was = self.read()?.shared;
        if was != shared {
            let word = self.bytes.word(FLAGS) ^ u64::from(context_flags::SHARED) << 32;
            self.bytes.write_durably(FLAGS, word.as_bytes());
        }
        self.changed()
    }

    /// Raises the generation, so that nobody uses what was decided before.
    fn changed(&self) -> Result<(), ErrorCode> {
        let generation = self.read()?.generation.wrapping_add(1);
        self.bytes.write_durably(GENERATION, generation.as_bytes());
        Ok(())
    }
}
