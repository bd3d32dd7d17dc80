//! Security context objects, mapped and written as their owners do it.

use crate::mapped::Mapped;
use core::mem::offset_of;
use sec::{Context, SlotError};
use twz_rt::abi::sec::{
    CAP_SIZE, CAPS_OFFSET, CONTEXT_OFFSET, ContextHeader, GateEntry, RawCap, context_flags, gate_offset,
};
use twz_rt::abi::syscall::CreateSpec;
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::syscall;
use zerocopy::IntoBytes;

const GENERATION: u64 = CONTEXT_OFFSET + offset_of!(ContextHeader, generation) as u64;
/// The word whose upper half are the flags.
const FLAGS: u64 = CONTEXT_OFFSET + offset_of!(ContextHeader, version) as u64;
/// The word whose upper half is the number of slots.
const MASK: u64 = CONTEXT_OFFSET + offset_of!(ContextHeader, global_mask) as u64;
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

    /// Puts a capability into its table, as any writer of it can; makes the table larger where it is too crowded.
    ///
    /// # Errors
    /// [`ErrorCode::TableFull`] when all slots of the target are in use and a larger table is no help, [`ErrorCode::PoolFull`], [`ErrorCode::BadContext`].
    pub fn add(&self, capability: &RawCap) -> Result<(), ErrorCode> {
        while !self.put(capability)? {
            self.grow()?;
        }
        self.changed()
    }

    /// The same for a context whose objects come and go, and are all known here: takes those out that are gone before the
    /// table is made larger.
    ///
    /// # Errors
    /// As [`ContextObject::add`].
    pub fn add_replacing_dead(&self, capability: &RawCap) -> Result<(), ErrorCode> {
        if !self.put(capability)? {
            self.remove_dead()?;
        }
        self.add(capability)
    }

    /// Puts a capability into the table if there is room.
    fn put(&self, capability: &RawCap) -> Result<bool, ErrorCode> {
        match self.read()?.slot_for(&self.bytes, capability) {
            Ok(slot) => self.bytes.write_durably(slot, capability.as_bytes()),
            Err(SlotError::Crowded) => return Ok(false),
            Err(SlotError::Full) => return Err(ErrorCode::TableFull),
            Err(SlotError::TooShort) => return Err(ErrorCode::BadContext),
        }
        Ok(true)
    }

    /// Makes the table twice as large. A capability is in force all the while.
    fn grow(&self) -> Result<(), ErrorCode> {
        let read = self.read()?;
        let (slots, upper) = read.upper_half(&self.bytes).map_err(|_| ErrorCode::TableFull)?;
        let half = u64::from(read.slot_count()) * CAP_SIZE;
        syscall::object_reserve(self.id, CAPS_OFFSET + half, half)?;
        for (offset, capability) in upper {
            match capability {
                Some(capability) => self.bytes.write_durably(offset, capability.as_bytes()),
                // Left by a growth that the power ended.
                None if self.bytes.word(offset) != 0 => self.bytes.write_durably(offset, 0_u64.as_bytes()),
                None => {}
            }
        }
        let mask = self.bytes.word(MASK) & u64::from(u32::MAX);
        self.bytes.write_durably(MASK, (mask | u64::from(slots) << 32).as_bytes());
        Ok(())
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
