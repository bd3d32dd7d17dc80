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

/// Slots for each capability in a table that is still made larger.
const SPARSE: u64 = 256;

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
    /// Other targets' capabilities stand in the target's slots: a larger table has room, see [`Context::upper_half`].
    #[error("the security context's table is too small for another capability to this object")]
    Crowded,
    /// All slots of the target hold capabilities to it, or the table is not made larger ([`Context::upper_half`]).
    #[error("the security context has no slot left for capabilities to this object: remove one")]
    Full,
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
        let mut own = 0;
        for (offset, raw) in self.slots(bytes, capability.target) {
            let raw = raw.ok_or(SlotError::TooShort)?;
            if raw.magic != CAP_MAGIC || !self.may_stand(offset, raw.target) {
                free = free.or(Some(offset));
            } else if Digest::of(&raw) == digest {
                return Ok(offset);
            } else if raw.target == capability.target {
                own += 1;
            }
        }
        free.ok_or(if own == CAP_PROBE { SlotError::Full } else { SlotError::Crowded })
    }

    /// Whether the slot at `offset` is one in which a capability to `target` is looked for. One that stands elsewhere was
    /// left behind when the table grew, and its slot is free.
    fn may_stand(&self, offset: u64, target: ObjectId) -> bool {
        (0..CAP_PROBE).any(|probe| cap_slot_offset(target, probe, self.slot_count) == Some(offset))
    }

    /// The table's size after the next growth, and what its upper half must hold by then, slot by slot: `None` for a free one.
    ///
    /// A slot is `(target + probe) mod slots`, so that each capability stays or goes as far up as the table was long, and none
    /// meets another. The writer stores the upper half, makes it durable, and changes [`ContextHeader::slot_count`] by one
    /// durable store: whenever the power fails, one of the two tables is whole.
    ///
    /// # Errors
    /// [`SlotError::Full`] at [`CAP_SLOTS_MAX`], and for a table with fewer capabilities than one in [`SPARSE`] slots: then it is no chance that
    /// they meet. Whoever makes objects can try until their IDs are alike, and is not to make others' tables as large as there may be.
    pub fn upper_half<'a>(
        &'a self,
        bytes: &'a dyn ObjectBytes,
    ) -> Result<(u32, impl Iterator<Item = (u64, Option<RawCap>)> + 'a), SlotError> {
        let grown = Self { slot_count: self.slot_count * 2, ..*self };
        let used = self.capabilities(bytes).count() as u64;
        if grown.slot_count > CAP_SLOTS_MAX || used * SPARSE < u64::from(self.slot_count) {
            return Err(SlotError::Full);
        }
        let half = u64::from(self.slot_count) * CAP_SIZE;
        let moved = move |slot: u32| {
            let lower = CAPS_OFFSET + u64::from(slot) * CAP_SIZE;
            let raw: Option<RawCap> = read_at(bytes, lower);
            // What stands where nobody looks for it stands so in the larger table, too.
            let goes = |raw: &RawCap| raw.magic == CAP_MAGIC && grown.may_stand(lower + half, raw.target);
            (lower + half, raw.filter(goes))
        };
        Ok((grown.slot_count, (0..self.slot_count).map(moved)))
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

    /// Every slot in use, with its offset: form and signatures unchecked, those that growth left behind not among them. Reads the whole table, for listings; decisions use
    /// [`Context::candidates`].
    pub fn capabilities<'a>(
        &'a self,
        bytes: &'a dyn ObjectBytes,
    ) -> impl Iterator<Item = (u64, RawCap)> + 'a {
        let offsets = (0..u64::from(self.slot_count)).map(|slot| CAPS_OFFSET + slot * CAP_SIZE);
        offsets.filter_map(|offset| {
            let magic: u64 = read_at(bytes, offset).filter(|&magic| magic == CAP_MAGIC)?;
            let raw: RawCap = read_at(bytes, offset)?;
            (raw.magic == magic && self.may_stand(offset, raw.target)).then_some((offset, raw))
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
        assert_eq!(context.slot_for(&bytes, &cap(16)), Err(SlotError::Full));
        let again = context.slot_for(&bytes, &cap(7)).unwrap();
        let mut magic = [0; 8];
        assert!(bytes.read(again, &mut magic));
        bytes.write(again, &[0; 8]); // removed
        assert_eq!(context.candidates(&bytes, target).len(), 15);
        assert_eq!(context.slot_for(&bytes, &cap(16)), Ok(again));
        // Others' capabilities in the same slots are not this target's.
        assert!(context.candidates(&bytes, ObjectId::from_u128(1)).is_empty());
    }

    fn cap_to(target: u128) -> RawCap {
        let (target, accessor) = (ObjectId::from_u128(target), ObjectId::from_u128(5));
        RawCap { magic: CAP_MAGIC, target, accessor, ..RawCap::new_zeroed() }
    }

    /// Makes the table larger, as its writer does; not all of it if the power fails before the `stop`-th slot is written.
    fn grow(bytes: &mut Bytes, stop: Option<usize>) {
        let context = Context::read(bytes).unwrap();
        let (slot_count, upper) = context.upper_half(bytes).unwrap();
        let upper: Vec<_> = upper.take(stop.unwrap_or(usize::MAX)).collect();
        for (offset, capability) in upper {
            match capability {
                Some(capability) => bytes.write(offset, capability.as_bytes()),
                None => bytes.write(offset, &[0; 8]),
            }
        }
        if stop.is_none() {
            bytes.write(CONTEXT_OFFSET, ContextHeader { slot_count, ..header() }.as_bytes());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Every capability has its slot in the grown table, none that was removed comes back, and as many more fit as promised.
        #[test]
        fn a_table_grows_when_it_is_crowded(
            targets in proptest::collection::btree_set(1..u128::from(u64::MAX), 1..40),
            near in any::<bool>(),
            stop in 0_usize..40,
            leaves in any::<prop::sample::Index>(),
        ) {
            // Near each other, or anywhere; at the table's end they wrap.
            let targets: Vec<u128> = targets.into_iter().map(|id| if near { id % 64 + 0xffe0 } else { id }).collect();
            let mut bytes = with_header(header());
            let mut held = std::collections::BTreeSet::new();
            for (number, &target) in targets.iter().enumerate() {
                let slot = loop {
                    let context = Context::read(&bytes).unwrap();
                    match context.slot_for(&bytes, &cap_to(target)) {
                        Ok(slot) => break slot,
                        Err(error) => prop_assert_eq!(error, SlotError::Crowded),
                    }
                    // A growth that the power ended; a removal; a growth.
                    grow(&mut bytes, Some(stop));
                    let gone = *leaves.get(&targets[..number]);
                    let slots: Vec<_> = context.capabilities(&bytes).collect();
                    for (slot, _) in slots.iter().filter(|(_, cap)| cap.target.as_u128() == gone) {
                        bytes.write(*slot, &[0; 8]);
                    }
                    held.remove(&gone);
                    grow(&mut bytes, None);
                };
                bytes.write(slot, cap_to(target).as_bytes());
                held.insert(target);
                let context = Context::read(&bytes).unwrap();
                for &target in &targets[..=number] {
                    let found = context.candidates(&bytes, ObjectId::from_u128(target)).len();
                    prop_assert_eq!(found, usize::from(held.contains(&target)), "{:x} of {:?}", target, context);
                }
            }
            let context = Context::read(&bytes).unwrap();
            let mut listed: Vec<_> = context.capabilities(&bytes).map(|(_, cap)| cap.target.as_u128()).collect();
            listed.sort_unstable();
            prop_assert_eq!(listed, held.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_growth_leaves_behind_takes_no_room() {
        let mut bytes = with_header(header());
        let put = |bytes: &mut Bytes, target: u128| {
            let slot = Context::read(bytes).unwrap().slot_for(bytes, &cap_to(target))?;
            bytes.write(slot, cap_to(target).as_bytes());
            Ok(slot)
        };
        // The first slot of all of these is slot 16 of 32, that of the others slot 0.
        for target in (0..16).map(|number| 16 + 32 * number) {
            put(&mut bytes, target).unwrap();
        }
        assert_eq!(put(&mut bytes, 32), Err(SlotError::Crowded));
        grow(&mut bytes, None);
        for (number, target) in (0..16).map(|number| (number, 32 + 32 * number)) {
            assert_eq!(put(&mut bytes, target as u128), Ok(CAPS_OFFSET + number * CAP_SIZE));
        }
    }

    #[test]
    fn targets_that_are_made_alike_do_not_make_a_table_large() {
        let mut bytes = with_header(header());
        for target in (0..16).map(|number| 7 + (number << 32)) {
            let slot = Context::read(&bytes).unwrap().slot_for(&bytes, &cap_to(target)).unwrap();
            bytes.write(slot, cap_to(target).as_bytes());
        }
        while Context::read(&bytes).unwrap().upper_half(&bytes).is_ok() {
            let crowded = Context::read(&bytes).unwrap().slot_for(&bytes, &cap_to(7 + (16 << 32)));
            assert_eq!(crowded, Err(SlotError::Crowded));
            grow(&mut bytes, None);
        }
        assert_eq!(Context::read(&bytes).unwrap().slot_count(), 8192);
    }

    #[test]
    fn the_largest_table_does_not_grow() {
        for slots in [CAP_SLOTS_MAX / 2, CAP_SLOTS_MAX] {
            let mut bytes = with_header(Context::new_header(false, true, Rights::all(), slots));
            let context = Context::read(&bytes).unwrap();
            // As many capabilities as a table needs that is made larger.
            for target in (1..=u64::from(slots) / SPARSE).map(|number| u128::from(number * SPARSE)) {
                let slot = context.slot_for(&bytes, &cap_to(target)).unwrap();
                bytes.write(slot, cap_to(target).as_bytes());
            }
            assert_eq!(context.upper_half(&bytes).err(), (slots == CAP_SLOTS_MAX).then_some(SlotError::Full));
        }
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
