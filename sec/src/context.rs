//! Security context objects: reading one that anybody may have written, and finding room in one.
//!
//! # Contract
//! - Every structure is copied once and then looked at; what changes meanwhile changes nothing that was decided.
//! - At most [`CAP_PROBE`] slots are read for a target, whatever the table claims.

use crate::cap::Digest;
use alloc::vec::Vec;
use thiserror::Error;
use twz_abi::object::{DATA_END, DATA_OFFSET, META_OFFSET};
use twz_abi::sec::{
    CAP_MAGIC, CAP_PROBE, CAP_SIZE, CAP_SLOTS_MAX, CAP_SLOTS_MIN, CAPS_OFFSET, CONTEXT_MAGIC, CONTEXT_OFFSET,
    ContextHeader, GATE_MAX, GateEntry, RawCap, SEC_VERSION, cap_slot_offset, context_flags, gate_flags,
    gate_offset,
};
use twz_abi::{ObjectId, PAGE_SIZE, Rights};
use zerocopy::{FromZeros, IntoBytes};

/// The bytes of an object.
pub trait ObjectBytes {
    /// Copies `into.len()` bytes from `offset`; false if they are not all there. Each byte is read once.
    fn read(&self, offset: u64, into: &mut [u8]) -> bool;
}

/// An object is no security context, or a part of it is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ContextError {
    /// The object ends before.
    #[error("the object is too short for a security context")]
    TooShort,
    /// Magic or version.
    #[error("not a security context of a known version")]
    NotAContext,
    /// Flags or reserved fields that do not exist.
    #[error("the security context has flags that do not exist")]
    UnknownFlags,
    /// A slot count that is none.
    #[error("the security context's table has no valid size")]
    BadTable,
    /// No gate of this number.
    #[error("the security context has no gate {number}")]
    NoGate {
        /// The number.
        number: u32,
    },
    /// The gate's fields make no sense.
    #[error("gate {number} of the security context is not valid")]
    BadGate {
        /// The number.
        number: u32,
    },
}

/// No slot for a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SlotError {
    /// All slots of the target are in use.
    #[error("the security context has no room for another capability to this object: remove one")]
    Crowded,
    /// The object ends before the table does.
    #[error("the object is too short for its table")]
    TooShort,
}

/// What the header of a security context says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// A thread that attached it keeps it.
    pub undetachable: bool,
    /// Placement `shared`; else `own`.
    pub shared: bool,
    /// Rights that the context may have at all.
    pub mask: Rights,
    /// Raised by its writer after each change.
    pub generation: u64,
    slot_count: u32,
    gate_count: u32,
}

/// A place to enter a context, checked for sense but not for rights: that its code may be executed there and its
/// stacks written is for the context's own capabilities to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Object with the code.
    pub code: ObjectId,
    /// Entry point in it.
    pub entry: u32,
    /// View to run in; `None`: the caller's.
    pub view: Option<ObjectId>,
    /// Object with the stacks.
    pub stacks: ObjectId,
    /// Bytes of each stack: a multiple of the page size.
    pub stack_bytes: u32,
    /// How many there are.
    pub stack_count: u32,
}

impl Context {
    /// The header of a new security context object: the rest of the object is zero.
    ///
    /// `slot_count` is brought to a power of two in range; half of the slots or fewer should ever be in use.
    #[must_use]
    pub fn new_header(undetachable: bool, shared: bool, mask: Rights, slot_count: u32) -> ContextHeader {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        ContextHeader {
            magic: CONTEXT_MAGIC,
            version: SEC_VERSION,
            flags: flag(undetachable, context_flags::UNDETACHABLE) | flag(shared, context_flags::SHARED),
            global_mask: mask.bits(),
            slot_count: slot_count.clamp(CAP_SLOTS_MIN, CAP_SLOTS_MAX).next_power_of_two(),
            generation: 1,
            gate_count: 0,
            reserved0: 0,
            reserved1: [0; 3],
        }
    }

    /// Reads the header.
    ///
    /// # Errors
    /// [`ContextError`]: it is no context.
    pub fn read(bytes: &dyn ObjectBytes) -> Result<Self, ContextError> {
        let header: ContextHeader = read_at(bytes, CONTEXT_OFFSET).ok_or(ContextError::TooShort)?;
        if header.magic != CONTEXT_MAGIC || header.version != SEC_VERSION {
            return Err(ContextError::NotAContext);
        }
        if header.flags & !context_flags::ALL != 0 || header.reserved0 != 0 || header.reserved1 != [0; 3] {
            return Err(ContextError::UnknownFlags);
        }
        let slots = header.slot_count;
        let valid = slots.is_power_of_two() && (CAP_SLOTS_MIN..=CAP_SLOTS_MAX).contains(&slots);
        if !valid || header.gate_count > GATE_MAX {
            return Err(ContextError::BadTable);
        }
        Ok(Self {
            undetachable: header.flags & context_flags::UNDETACHABLE != 0,
            shared: header.flags & context_flags::SHARED != 0,
            mask: Rights::from_bits_truncate(header.global_mask),
            generation: header.generation,
            slot_count: slots,
            gate_count: header.gate_count,
        })
    }

    /// Copies of all capabilities to `target` that stand where they may: at most [`CAP_PROBE`], form unchecked.
    #[must_use]
    pub fn candidates(&self, bytes: &dyn ObjectBytes, target: ObjectId) -> Vec<RawCap> {
        let slots = self.slots(bytes, target).filter_map(|(_, raw)| raw);
        slots.filter(|raw| raw.magic == CAP_MAGIC && raw.target == target).collect()
    }

    /// Offset at which to store `capability`: of a free slot, or of the one in which it stands already.
    ///
    /// The writer stores all but the first word, makes that durable, stores the first word, makes that durable, and raises
    /// [`ContextHeader::generation`].
    ///
    /// # Errors
    /// [`SlotError`]: there is none.
    pub fn slot_for(&self, bytes: &dyn ObjectBytes, capability: &RawCap) -> Result<u64, SlotError> {
        let digest = Digest::of(capability);
        let mut free = None;
        for (offset, raw) in self.slots(bytes, capability.target) {
            let raw = raw.ok_or(SlotError::TooShort)?;
            if raw.magic != CAP_MAGIC {
                free = free.or(Some(offset));
            } else if Digest::of(&raw) == digest {
                return Ok(offset);
            }
        }
        free.ok_or(SlotError::Crowded)
    }

    /// Gate `number`.
    ///
    /// # Errors
    /// [`ContextError::NoGate`], [`ContextError::BadGate`], [`ContextError::TooShort`].
    pub fn gate(&self, bytes: &dyn ObjectBytes, number: u32) -> Result<Gate, ContextError> {
        let offset = gate_offset(number).filter(|_| number < self.gate_count);
        let offset = offset.ok_or(ContextError::NoGate { number })?;
        let raw: GateEntry = read_at(bytes, offset).ok_or(ContextError::TooShort)?;
        if raw.flags & gate_flags::VALID == 0 {
            return Err(ContextError::NoGate { number });
        }
        let in_data = (DATA_OFFSET..META_OFFSET).contains(&u64::from(raw.entry));
        let stack = u64::from(raw.stack_bytes);
        let stacks_bytes = stack.saturating_mul(u64::from(raw.stack_count));
        let valid = raw.flags & !gate_flags::ALL == 0
            && in_data
            && !raw.code.is_null()
            && !raw.stacks.is_null()
            && stacks_bytes > 0
            && stack.is_multiple_of(PAGE_SIZE)
            && stacks_bytes <= DATA_END - DATA_OFFSET;
        if !valid {
            return Err(ContextError::BadGate { number });
        }
        Ok(Gate {
            code: raw.code,
            entry: raw.entry,
            view: (!raw.view.is_null()).then_some(raw.view),
            stacks: raw.stacks,
            stack_bytes: raw.stack_bytes,
            stack_count: raw.stack_count,
        })
    }

    /// Every slot in use, with its offset: form and signatures unchecked. Reads the whole table, for listings; decisions use
    /// [`Context::candidates`].
    pub fn capabilities<'a>(
        &'a self,
        bytes: &'a dyn ObjectBytes,
    ) -> impl Iterator<Item = (u64, RawCap)> + 'a {
        let offsets = (0..u64::from(self.slot_count)).map(|slot| CAPS_OFFSET + slot * CAP_SIZE);
        offsets.filter_map(|offset| {
            let magic: u64 = read_at(bytes, offset).filter(|&magic| magic == CAP_MAGIC)?;
            let raw: RawCap = read_at(bytes, offset)?;
            (raw.magic == magic).then_some((offset, raw))
        })
    }

    /// Slots of its table.
    #[must_use]
    pub fn slot_count(&self) -> u32 {
        self.slot_count
    }

    /// Gates below this may exist.
    #[must_use]
    pub fn gate_count(&self) -> u32 {
        self.gate_count
    }

    /// Each slot of `target` with its bytes, if they are there.
    fn slots<'a>(
        &'a self,
        bytes: &'a dyn ObjectBytes,
        target: ObjectId,
    ) -> impl Iterator<Item = (u64, Option<RawCap>)> + 'a {
        (0..CAP_PROBE)
            .filter_map(move |probe| cap_slot_offset(target, probe, self.slot_count))
            .map(move |offset| (offset, read_at(bytes, offset)))
    }
}

/// One copy of a structure of plain bytes.
fn read_at<T: FromZeros + zerocopy::FromBytes + IntoBytes>(
    bytes: &dyn ObjectBytes,
    offset: u64,
) -> Option<T> {
    let mut value = T::new_zeroed();
    bytes.read(offset, value.as_mut_bytes()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cap::Grant;
    use crate::key::KeyPair;
    use crate::test_world::Bytes;
    use proptest::prelude::*;

    fn header() -> ContextHeader {
        Context::new_header(false, true, Rights::all(), 16)
    }

    fn with_header(header: ContextHeader) -> Bytes {
        let mut bytes = Bytes::new();
        bytes.write(CONTEXT_OFFSET, header.as_bytes());
        bytes
    }

    #[test]
    fn a_new_header_reads_back() {
        let context = Context::read(&with_header(header())).unwrap();
        assert!(context.shared && !context.undetachable);
        assert_eq!((context.mask, context.slot_count), (Rights::all(), 16));
        for (asked, given) in [(0, 16), (17, 32), (u32::MAX, CAP_SLOTS_MAX)] {
            assert_eq!(Context::new_header(true, false, Rights::READ, asked).slot_count, given);
        }
    }

    #[test]
    fn nonsense_is_no_context() {
        let read = |header| Context::read(&with_header(header)).err();
        assert_eq!(read(ContextHeader { magic: 0, ..header() }), Some(ContextError::NotAContext));
        assert_eq!(read(ContextHeader { version: 2, ..header() }), Some(ContextError::NotAContext));
        assert_eq!(read(ContextHeader { flags: 4, ..header() }), Some(ContextError::UnknownFlags));
        assert_eq!(read(ContextHeader { reserved0: 4, ..header() }), Some(ContextError::UnknownFlags));
        assert_eq!(
            read(ContextHeader { reserved1: [0, 0, 1], ..header() }),
            Some(ContextError::UnknownFlags)
        );
        for slot_count in [0, 8, 17, CAP_SLOTS_MAX * 2] {
            assert_eq!(read(ContextHeader { slot_count, ..header() }), Some(ContextError::BadTable));
        }
        assert_eq!(read(ContextHeader { gate_count: 257, ..header() }), Some(ContextError::BadTable));
        assert_eq!(Context::read(&Bytes::of_length(0)).err(), Some(ContextError::TooShort));
    }

    #[test]
    fn a_target_has_sixteen_slots_and_no_more() {
        let key = KeyPair::new(&[1; 32]);
        let target = ObjectId::from_u128(u128::MAX - 3); // so that the window wraps
        let mut bytes = with_header(header());
        let context = Context::read(&bytes).unwrap();
        let cap = |serial| {
            let grant = Grant::new(target, ObjectId::from_u128(5), Rights::READ);
            key.grant(&Grant { serial, ..grant })
        };
        for serial in 0..16 {
            let offset = context.slot_for(&bytes, &cap(serial)).unwrap();
            bytes.write(offset, cap(serial).as_bytes());
        }
        assert_eq!(context.candidates(&bytes, target).len(), 16);
        assert_eq!(context.slot_for(&bytes, &cap(16)), Err(SlotError::Crowded));
        let again = context.slot_for(&bytes, &cap(7)).unwrap();
        let mut magic = [0; 8];
        assert!(bytes.read(again, &mut magic));
        bytes.write(again, &[0; 8]); // removed
        assert_eq!(context.candidates(&bytes, target).len(), 15);
        assert_eq!(context.slot_for(&bytes, &cap(16)), Ok(again));
        // Others' capabilities in the same slots are not this target's.
        assert!(context.candidates(&bytes, ObjectId::from_u128(1)).is_empty());
    }

    #[test]
    fn a_table_past_the_end_of_the_object_is_no_room() {
        let mut bytes = Bytes::of_length(0x2000);
        bytes.write(CONTEXT_OFFSET, header().as_bytes());
        let context = Context::read(&bytes).unwrap();
        let target = ObjectId::from_u128(1);
        assert!(context.candidates(&bytes, target).is_empty());
        let cap = KeyPair::new(&[1; 32]).grant(&Grant::new(target, target, Rights::READ));
        assert_eq!(context.slot_for(&bytes, &cap), Err(SlotError::TooShort));
    }

    #[test]
    fn gates_are_checked_for_sense() {
        let id = ObjectId::from_u128(9);
        let good = GateEntry {
            flags: gate_flags::VALID,
            entry: 0x1040,
            code: id,
            view: ObjectId::NULL,
            stacks: id,
            stack_bytes: 0x4000,
            stack_count: 8,
        };
        let gate = |entry: GateEntry| {
            let mut bytes = with_header(ContextHeader { gate_count: 1, ..header() });
            bytes.write(gate_offset(0).unwrap(), entry.as_bytes());
            Context::read(&bytes).unwrap().gate(&bytes, 0)
        };
        assert_eq!(gate(good).unwrap().entry, 0x1040);
        let free = GateEntry { flags: 0, ..good };
        assert_eq!(gate(free), Err(ContextError::NoGate { number: 0 }));
        let bad = [
            GateEntry { flags: 3, ..good },
            GateEntry { entry: 0xfff, ..good },
            GateEntry { entry: 0x3fff_f000, ..good },
            GateEntry { code: ObjectId::NULL, ..good },
            GateEntry { stacks: ObjectId::NULL, ..good },
            GateEntry { stack_bytes: 0, ..good },
            GateEntry { stack_bytes: 0x4001, ..good },
            GateEntry { stack_count: 0, ..good },
            GateEntry { stack_count: u32::MAX, stack_bytes: 0xffff_f000, ..good },
        ];
        for entry in bad {
            assert_eq!(gate(entry), Err(ContextError::BadGate { number: 0 }), "{entry:?}");
        }
        // A good entry past the count is none.
        let mut bytes = with_header(header());
        bytes.write(gate_offset(0).unwrap(), good.as_bytes());
        let context = Context::read(&bytes).unwrap();
        assert_eq!(context.gate(&bytes, 0), Err(ContextError::NoGate { number: 0 }));
        assert_eq!(context.gate(&bytes, u32::MAX), Err(ContextError::NoGate { number: u32::MAX }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            junk in proptest::collection::vec(any::<u8>(), 0..512), target: u128, number: u32,
        ) {
            let mut bytes = Bytes::new();
            bytes.write(CONTEXT_OFFSET, header().as_bytes());
            bytes.write(CONTEXT_OFFSET + 12, &junk);
            if let Ok(context) = Context::read(&bytes) {
                prop_assert!(context.candidates(&bytes, ObjectId::from_u128(target)).len() <= 16);
                let _ = context.gate(&bytes, number);
            }
        }
    }
}
