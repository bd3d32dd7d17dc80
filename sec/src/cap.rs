//! Capabilities: their form, their digest, and how they are made.
//!
//! ```text
//! digest    = BLAKE3("twizzler capability v1\0" ‖ bytes 0..192)
//! signature = Ed25519("twizzler sign capability v1\0" ‖ digest)
//! ```
//! The digest leaves the signature out: signing the same statement again makes no other capability, so one that was
//! revoked cannot come back that way.

use crate::gates::GateSet;
use crate::key::KeyPair;
use crate::object::hash;
use crate::refusal::{CapError, Refusal, require};
use core::fmt;
use twz_abi::sec::{CAP_MAGIC, CAP_SIGNED_BYTES, RawCap, SEC_VERSION, hash_kind, signature_kind};
use twz_abi::{ObjectId, Rights};
use zerocopy::IntoBytes;

const DIGEST_DOMAIN: &[u8] = b"twizzler capability v1\0";
const SIGN_DOMAIN: &[u8; 28] = b"twizzler sign capability v1\0";

/// What identifies a capability.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of none: the parent of a capability that has no parent.
    pub const NONE: Self = Self([0; 32]);

    /// The digest of a capability's signed bytes.
    #[must_use]
    pub fn of(raw: &RawCap) -> Self {
        let signed = raw.as_bytes().get(..CAP_SIGNED_BYTES).unwrap_or_default();
        Self(hash(DIGEST_DOMAIN, &[signed]))
    }

    /// What a signer signs.
    pub(crate) fn message(self) -> [u8; 60] {
        let mut message = [0; 60];
        message[..28].copy_from_slice(SIGN_DOMAIN);
        message[28..].copy_from_slice(&self.0);
        message
    }
}

impl fmt::Display for Digest {
    /// 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// When something holds: from `from` until before `until`, nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub from: u64,
    /// First moment after; `u64::MAX`: never ends.
    pub until: u64,
}

impl Validity {
    /// Always.
    pub const ALWAYS: Self = Self { from: 0, until: u64::MAX };

    /// Whether `now` is in it. Nothing that never ends ends at `u64::MAX`.
    #[must_use]
    pub fn has_begun(self, now: u64) -> bool {
        self.from <= now
    }

    /// Whether `now` is after it.
    #[must_use]
    pub fn is_over(self, now: u64) -> bool {
        self.until != u64::MAX && self.until <= now
    }

    /// The time in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), until: self.until.min(other.until) }
    }
}

/// A capability whose form is right. Says nothing of its signature: that is [`crate::verify`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    /// Object that it gives rights to.
    pub target: ObjectId,
    /// Context that gets them.
    pub accessor: ObjectId,
    /// The rights.
    pub rights: Rights,
    /// Gates that it opens.
    pub gates: GateSet,
    /// When it holds.
    pub validity: Validity,
    /// The target's epoch when it was signed.
    pub epoch: u64,
    /// Key object that it says has signed it.
    pub signer: ObjectId,
    /// Key object that may pass on a part; null: nobody.
    pub delegate: ObjectId,
    /// Links that may follow.
    pub links_left: u32,
    /// Capability that it is a part of; [`Digest::NONE`]: of none.
    pub parent: Digest,
    /// Its own digest.
    pub digest: Digest,
    /// Its signature, unchecked.
    pub signature: [u8; 64],
}

impl Cap {
    /// Reads a capability that stands at `link` of a chain.
    ///
    /// # Errors
    /// The first rule of the form that it breaks.
    pub fn parse(raw: &RawCap, link: usize) -> Result<Self, CapError> {
        let require = |why, holds| require(link, why, holds);
        require(Refusal::BadMagic, raw.magic == CAP_MAGIC)?;
        require(Refusal::BadVersion, raw.version == SEC_VERSION)?;
        let reserved = u64::from(raw.flags) | u64::from(raw.reserved0) | raw.reserved1[0] | raw.reserved1[1];
        require(Refusal::ReservedSet, reserved == 0)?;
        require(Refusal::UnknownHash, raw.hash == hash_kind::BLAKE3)?;
        require(Refusal::UnknownSignature, raw.signature_kind == signature_kind::ED25519)?;
        let rights = Rights::from_bits(raw.rights);
        require(Refusal::UnknownRights, rights.is_some())?;
        let rights = rights.unwrap_or(Rights::from_bits_truncate(raw.rights));
        let gates = GateSet::from_raw(&raw.gates);
        require(Refusal::BadGates, gates.is_some())?;
        let gates = gates.unwrap_or_default();
        let null = raw.target.is_null() || raw.accessor.is_null() || raw.signer.is_null();
        require(Refusal::NullId, !null)?;
        require(Refusal::GivesNothing, !rights.is_empty() || !gates.is_empty())?;
        Ok(Self {
            target: raw.target,
            accessor: raw.accessor,
            rights,
            gates,
            validity: Validity { from: raw.not_before, until: raw.not_after },
            epoch: raw.epoch,
            signer: raw.signer,
            delegate: raw.delegate,
            links_left: raw.links_left,
            parent: Digest(raw.parent),
            digest: Digest::of(raw),
            signature: raw.signature,
        })
    }
}

/// What a capability shall say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Object to give rights to.
    pub target: ObjectId,
    /// Context that gets them.
    pub accessor: ObjectId,
    /// The rights.
    pub rights: Rights,
    /// Gates to open, if the target is a context.
    pub gates: GateSet,
    /// When it holds.
    pub validity: Validity,
    /// The target's current revocation epoch.
    pub epoch: u64,
    /// Makes it differ from others that say the same.
    pub serial: u64,
    /// Key object that may pass on a part; null: nobody.
    pub delegate: ObjectId,
    /// How many links may follow.
    pub links_left: u32,
}

impl Grant {
    /// `rights` to `target` for threads in `accessor`: always, in epoch 0, without gates, not to be passed on.
    #[must_use]
    pub fn new(target: ObjectId, accessor: ObjectId, rights: Rights) -> Self {
        Self {
            target,
            accessor,
            rights,
            gates: GateSet::NONE,
            validity: Validity::ALWAYS,
            epoch: 0,
            serial: 0,
            delegate: ObjectId::NULL,
            links_left: 0,
        }
    }

    /// May be passed on, in part, by the holder of `delegate`, in at most `links` steps.
    #[must_use]
    pub fn delegable(self, delegate: ObjectId, links: u32) -> Self {
        Self { delegate, links_left: links, ..self }
    }
}

impl KeyPair {
    /// Signs a capability. It holds if this is the key object of the target.
    #[must_use]
    pub fn grant(&self, grant: &Grant) -> RawCap {
        self.sign_cap(grant, Digest::NONE)
    }

    /// Passes on a part of `parent`. It holds if this is the parent's delegate.
    ///
    /// # Errors
    /// The rule of delegation that it would break, at link 0; or the parent's form, at link 1.
    pub fn delegate(&self, parent: &RawCap, grant: &Grant) -> Result<RawCap, CapError> {
        let parent = Cap::parse(parent, 1)?;
        require(0, Refusal::WrongTarget, grant.target == parent.target)?;
        let raw = self.sign_cap(grant, parent.digest);
        crate::verify::require_part(&Cap::parse(&raw, 0)?, &parent, 0)?;
        Ok(raw)
    }

    /// Signs whatever `grant` says as a part of `parent`, by the rules of delegation or against them: for tests of who verifies.
    #[must_use]
    pub fn sign_cap(&self, grant: &Grant, parent: Digest) -> RawCap {
        let unsigned = RawCap {
            magic: CAP_MAGIC,
            version: SEC_VERSION,
            flags: 0,
            target: grant.target,
            accessor: grant.accessor,
            rights: grant.rights.bits(),
            hash: hash_kind::BLAKE3,
            signature_kind: signature_kind::ED25519,
            signer: self.id(),
            delegate: grant.delegate,
            links_left: grant.links_left,
            reserved0: 0,
            not_before: grant.validity.from,
            not_after: grant.validity.until,
            epoch: grant.epoch,
            serial: grant.serial,
            gates: grant.gates.to_raw(),
            parent: parent.0,
            reserved1: [0; 2],
            signature: [0; 64],
        };
        self.sign_raw(unsigned)
    }

    /// Signs the bytes as they are, sense or nonsense.
    pub(crate) fn sign_raw(&self, raw: RawCap) -> RawCap {
        RawCap { signature: self.sign(&Digest::of(&raw).message()), ..raw }
    }
}
