//! Security contexts, capabilities, revocations and keys as bytes (the crate `sec` gives them meaning).
//!
//! A security context object:
//!
//! ```text
//! 0x0000_1000  ContextHeader, one page
//! 0x0000_2000  GateEntry[256], 64 bytes each: gate n is entry n
//! 0x0000_6000  RawCap[slot_count], 256 bytes each: a hash table by target, see [`cap_slot_offset`]
//! 0x0400_6000  end, with the most slots
//! ```
//! All of it is written by programs with plain stores, so all of it is a claim. Rights follow only from signatures; a
//! context's writer can take rights away from it or add capabilities signed for it, nothing else. Whoever
//! writes an entry stores its first word (`magic`, `flags`) last, when the rest is durable; a reader copies an entry once
//! and then looks at the copy. Any 64-bit word may be torn from its neighbours by a crash: a capability so torn
//! fails its signature.

use crate::PAGE_SIZE;
use crate::id::ObjectId;
use crate::object::DATA_OFFSET;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `ContextHeader::magic`: "TWZSCTX1" in memory order.
pub const CONTEXT_MAGIC: u64 = u64::from_le_bytes(*b"TWZSCTX1");
/// `RawCap::magic` of a slot in use: "TWZCAP01" in memory order.
pub const CAP_MAGIC: u64 = u64::from_le_bytes(*b"TWZCAP01");
/// `RawRevocation::magic`: "TWZREV01" in memory order.
pub const REVOCATION_MAGIC: u64 = u64::from_le_bytes(*b"TWZREV01");
/// `PublicKeyObject::magic`: "TWZPKEY1" in memory order.
pub const PUBLIC_KEY_MAGIC: u64 = u64::from_le_bytes(*b"TWZPKEY1");
/// `PrivateKeyObject::magic`: "TWZSKEY1" in memory order.
pub const PRIVATE_KEY_MAGIC: u64 = u64::from_le_bytes(*b"TWZSKEY1");
/// Version of every structure in this file.
pub const SEC_VERSION: u32 = 1;

/// Offset of [`ContextHeader`] in its object.
pub const CONTEXT_OFFSET: u64 = DATA_OFFSET;
/// Offset of the gate table in a security context object.
pub const GATES_OFFSET: u64 = DATA_OFFSET + PAGE_SIZE;
/// Most gates of a context.
pub const GATE_MAX: u32 = 256;
/// Bytes in a gate entry.
pub const GATE_SIZE: u64 = 64;
/// Offset of the capability table in a security context object.
pub const CAPS_OFFSET: u64 = GATES_OFFSET + GATE_MAX as u64 * GATE_SIZE;
/// Bytes in a capability.
pub const CAP_SIZE: u64 = 256;
/// Fewest slots of a capability table.
pub const CAP_SLOTS_MIN: u32 = 16;
/// Most slots of a capability table (64 MiB).
pub const CAP_SLOTS_MAX: u32 = 1 << 18;
/// Slots in which a target's capabilities may stand; the most that a verifier reads for one.
pub const CAP_PROBE: u32 = 16;
/// Most links of a chain of delegation, the first capability included.
pub const CHAIN_MAX: usize = 8;

/// Start of a security context object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ContextHeader {
    /// [`CONTEXT_MAGIC`].
    pub magic: u64,
    /// [`SEC_VERSION`].
    pub version: u32,
    /// [`context_flags`].
    pub flags: u32,
    /// [`crate::Rights`] bits that this context may have at all, whatever is granted.
    pub global_mask: u32,
    /// Slots of the capability table: a power of two from [`CAP_SLOTS_MIN`] to [`CAP_SLOTS_MAX`].
    pub slot_count: u32,
    /// Raised by the writer after each change, so that cached decisions are taken anew.
    pub generation: u64,
    /// Gates in use are below it; at most [`GATE_MAX`].
    pub gate_count: u32,
    /// Reserved, zero.
    pub reserved0: u32,
    /// Reserved, zero.
    pub reserved1: [u64; 3],
}
crate::assert_layout!(
    ContextHeader,
    size = 64,
    magic = 0,
    version = 8,
    flags = 12,
    global_mask = 16,
    slot_count = 20,
    generation = 24,
    gate_count = 32,
    reserved0 = 36,
    reserved1 = 40
);

/// Bits of [`ContextHeader::flags`].
pub mod context_flags {
    /// A thread that attached it keeps it for life.
    pub const UNDETACHABLE: u32 = 1 << 0;
    /// Placement `shared`: a window in a root with others. Without it `own`: a root to itself.
    pub const SHARED: u32 = 1 << 1;
    /// All that are defined.
    pub const ALL: u32 = UNDETACHABLE | SHARED;
}

/// One place where threads of other contexts may enter this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GateEntry {
    /// [`gate_flags`]; stored last.
    pub flags: u32,
    /// Entry point, in bytes from the start of `code`.
    pub entry: u32,
    /// Object that holds the code; the context must be able to execute it.
    pub code: ObjectId,
    /// View in which the callee runs; without one the gate is refused.
    pub view: ObjectId,
    /// Object that holds the callee's stacks.
    pub stacks: ObjectId,
    /// Bytes of each stack.
    pub stack_bytes: u32,
    /// Stacks in `stacks`, thus calls that can be in progress.
    pub stack_count: u32,
}
crate::assert_layout!(
    GateEntry,
    size = 64,
    flags = 0,
    entry = 4,
    code = 8,
    view = 24,
    stacks = 40,
    stack_bytes = 56,
    stack_count = 60
);

/// Bits of [`GateEntry::flags`].
pub mod gate_flags {
    /// The entry is complete and in use.
    pub const VALID: u32 = 1 << 0;
    /// All that are defined.
    pub const ALL: u32 = VALID;
}

/// Which gates of a context a capability opens: numbers `first`, `first + stride`, … below `first + length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RawGateSet {
    /// Lowest number.
    pub first: u32,
    /// Length of the range; 0: no gates (then the other two are 0 as well).
    pub length: u32,
    /// Distance between members; at least 1 if there are any.
    pub stride: u32,
    /// Reserved, zero.
    pub reserved: u32,
}
crate::assert_layout!(RawGateSet, size = 16, first = 0, length = 4, stride = 8, reserved = 12);

/// A signed statement: threads in context `accessor` have `rights` to `target`.
///
/// The signature covers bytes 0 to 192 (see `sec::cap`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RawCap {
    /// [`CAP_MAGIC`]; anything else: the slot is free.
    pub magic: u64,
    /// [`SEC_VERSION`].
    pub version: u32,
    /// Reserved, zero.
    pub flags: u32,
    /// Object that it gives rights to.
    pub target: ObjectId,
    /// Security context that gets them.
    pub accessor: ObjectId,
    /// [`crate::Rights`] bits.
    pub rights: u32,
    /// [`hash_kind`]: how the signed bytes and `parent` are hashed.
    pub hash: u16,
    /// [`signature_kind`].
    pub signature_kind: u16,
    /// Key object that signed it: the target's, or the parent's `delegate`.
    pub signer: ObjectId,
    /// Key object that may pass on a part of it; null: nobody.
    pub delegate: ObjectId,
    /// How many more links may follow this one.
    pub links_left: u32,
    /// Reserved, zero.
    pub reserved0: u32,
    /// First nanosecond since 1970 at which it holds.
    pub not_before: u64,
    /// First nanosecond since 1970 at which it no longer holds; `u64::MAX`: never.
    pub not_after: u64,
    /// The target's revocation epoch at the time of signing.
    pub epoch: u64,
    /// Free for the signer: makes two capabilities differ.
    pub serial: u64,
    /// Gates that it opens, if the target is a security context.
    pub gates: RawGateSet,
    /// Digest of the capability that it is a part of; zero for one signed by the target's key.
    pub parent: [u8; 32],
    /// Reserved, zero.
    pub reserved1: [u64; 2],
    /// The signature.
    pub signature: [u8; 64],
}
crate::assert_layout!(
    RawCap,
    size = 256,
    magic = 0,
    version = 8,
    flags = 12,
    target = 16,
    accessor = 32,
    rights = 48,
    hash = 52,
    signature_kind = 54,
    signer = 56,
    delegate = 72,
    links_left = 88,
    reserved0 = 92,
    not_before = 96,
    not_after = 104,
    epoch = 112,
    serial = 120,
    gates = 128,
    parent = 144,
    reserved1 = 176,
    signature = 192
);

/// Bytes of a [`RawCap`] that are signed, from its start.
pub const CAP_SIGNED_BYTES: usize = 192;

/// Values of `hash`.
pub mod hash_kind {
    /// BLAKE3 with 32 bytes of output.
    pub const BLAKE3: u16 = 1;
}

/// Values of `signature_kind` and of a key's `kind`.
pub mod signature_kind {
    /// Ed25519 (RFC 8032), verified strictly: no small-order keys, no second encodings.
    pub const ED25519: u16 = 1;
}

/// A signed statement that takes back what capabilities gave.
///
/// The signature covers bytes 0 to 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RawRevocation {
    /// [`REVOCATION_MAGIC`].
    pub magic: u64,
    /// [`SEC_VERSION`].
    pub version: u32,
    /// [`revocation_kind`].
    pub kind: u32,
    /// The object, or the security context, whose capabilities end.
    pub target: ObjectId,
    /// Kind `OBJECT`: the target's new epoch; else 0.
    pub epoch: u64,
    /// Kind `CAPABILITY`: digest of the capability that ends; else zero.
    pub digest: [u8; 32],
    /// Key object that signed it.
    pub signer: ObjectId,
    /// [`hash_kind`].
    pub hash: u16,
    /// [`signature_kind`].
    pub signature_kind: u16,
    /// Reserved, zero.
    pub reserved0: u32,
    /// Reserved, zero.
    pub reserved1: [u64; 4],
    /// The signature.
    pub signature: [u8; 64],
}
crate::assert_layout!(
    RawRevocation,
    size = 192,
    magic = 0,
    version = 8,
    kind = 12,
    target = 16,
    epoch = 32,
    digest = 40,
    signer = 72,
    hash = 88,
    signature_kind = 90,
    reserved0 = 92,
    reserved1 = 96,
    signature = 128
);

/// Bytes of a [`RawRevocation`] that are signed, from its start.
pub const REVOCATION_SIGNED_BYTES: usize = 128;

/// Values of [`RawRevocation::kind`].
pub mod revocation_kind {
    /// Every capability to `target` from before `epoch`; signed by the target's key.
    pub const OBJECT: u32 = 1;
    /// The capability `digest` to `target`, and all that was delegated from it; signed by the target's key or by the
    /// capability's signer.
    pub const CAPABILITY: u32 = 2;
    /// Everything that the security context `target` holds, for good; signed by its key.
    pub const CONTEXT: u32 = 3;
}

/// One line of what was taken back, as the monitor keeps it where no guest can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RevocationRecord {
    /// [`revocation_kind`]; 0: the record is free.
    pub kind: u32,
    /// Reserved, zero.
    pub reserved: u32,
    /// The object or the security context.
    pub target: ObjectId,
    /// Kind `OBJECT`: its epoch, at least 1; else 0.
    pub epoch: u64,
    /// Kind `CAPABILITY`: the digest; else zero.
    pub digest: [u8; 32],
}
crate::assert_layout!(
    RevocationRecord,
    size = 64,
    kind = 0,
    reserved = 4,
    target = 8,
    epoch = 24,
    digest = 32
);

/// The data of a key object: the part that everybody may read.
///
/// The object's nonce commits to `key`, so an object ID in a capability stands for one key for ever, whoever can write
/// the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PublicKeyObject {
    /// [`PUBLIC_KEY_MAGIC`].
    pub magic: u64,
    /// [`SEC_VERSION`].
    pub version: u32,
    /// [`signature_kind`].
    pub kind: u16,
    /// Reserved, zero.
    pub reserved: u16,
    /// The public key.
    pub key: [u8; 32],
}
crate::assert_layout!(PublicKeyObject, size = 48, magic = 0, version = 8, kind = 12, reserved = 14, key = 16);

/// The data of a private key object: default rights none, so that only its owner's context reads it.
///
/// Has no `Debug`, so that no log shows a secret by accident.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PrivateKeyObject {
    /// [`PRIVATE_KEY_MAGIC`].
    pub magic: u64,
    /// [`SEC_VERSION`].
    pub version: u32,
    /// [`signature_kind`].
    pub kind: u16,
    /// Reserved, zero.
    pub reserved: u16,
    /// The key object with the public part.
    pub public: ObjectId,
    /// The secret: an Ed25519 seed.
    pub seed: [u8; 32],
}
crate::assert_layout!(
    PrivateKeyObject,
    size = 64,
    magic = 0,
    version = 8,
    kind = 12,
    reserved = 14,
    public = 16,
    seed = 32
);

/// Offset in its object of the `probe`-th slot in which a capability to `target` may stand.
///
/// The table is open-addressed: slot `(low 32 bits of the ID + probe) mod slot_count`, for `probe` below
/// [`CAP_PROBE`]; IDs are hashes already. `None` for a probe or a slot count out of range.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "the low bits of the ID are what is wanted")]
pub const fn cap_slot_offset(target: ObjectId, probe: u32, slot_count: u32) -> Option<u64> {
    if probe >= CAP_PROBE
        || !slot_count.is_power_of_two()
        || slot_count < CAP_SLOTS_MIN
        || slot_count > CAP_SLOTS_MAX
    {
        return None;
    }
    let slot = (target.lo as u32).wrapping_add(probe) & (slot_count - 1);
    Some(CAPS_OFFSET + slot as u64 * CAP_SIZE)
}

/// Offset in its object of gate `number`; `None` past the last.
#[must_use]
pub const fn gate_offset(number: u32) -> Option<u64> {
    if number < GATE_MAX { Some(GATES_OFFSET + number as u64 * GATE_SIZE) } else { None }
}

const _: () = {
    assert!(core::mem::size_of::<RawCap>() as u64 == CAP_SIZE);
    assert!(core::mem::size_of::<GateEntry>() as u64 == GATE_SIZE);
    assert!(CAPS_OFFSET + CAP_SLOTS_MAX as u64 * CAP_SIZE <= crate::object::DATA_END);
};
