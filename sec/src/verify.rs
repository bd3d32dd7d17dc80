//! Whether a chain of capabilities gives a context rights to an object.
//!
//! A chain is leaf first: link 0 is the capability that the context uses, the last link is signed by the target's key, and
//! every other link is a part of the one after it, passed on by its delegate:
//!
//! ```text
//! link 0            link 1                    link n-1
//! accessor: asks    accessor: who passed on   accessor: …
//! signer ─────────> delegate                  signer ──> key object in the target's facts
//! parent ─────────> digest                    parent: none
//! ```
//! Cheap checks of all links come before the first signature, so that junk costs no arithmetic.

use crate::cap::{Cap, Digest, Validity};
use crate::gates::GateSet;
use crate::key::{Keys, PublicKey, is_well_formed, key_nonce};
use crate::object::ObjectFacts;
use crate::refusal::{CapError, Refusal, check, require};
use crate::revoke::Revocations;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use twz_abi::sec::{CHAIN_MAX, RawCap};
use twz_abi::{ObjectId, Rights};

/// Who asks for what, and when.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The monitor's facts of the object that is to be accessed.
    pub target: &'a ObjectFacts,
    /// The security context of the thread that accesses; from the monitor, never from the thread.
    pub accessor: ObjectId,
    /// Nanoseconds since 1970.
    pub now: u64,
    /// Where key objects are found.
    pub keys: &'a dyn Keys,
    /// What was taken back.
    pub revocations: &'a Revocations,
}

/// What a chain gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Rights: those of link 0, which are at most those of every other link.
    pub rights: Rights,
    /// Gates, likewise.
    pub gates: GateSet,
    /// When all links hold.
    pub validity: Validity,
    /// Link 0.
    pub digest: Digest,
}

/// Verifies `chain`, leaf first.
///
/// # Errors
/// The first check that fails, and at which link. Every error means: this chain gives nothing.
pub fn verify(chain: &[RawCap], request: &Request<'_>) -> Result<Verified, CapError> {
    verify_remembering(chain, request, &mut Signatures::default())
}

/// Signatures checked before, so that chains with common links cost one check for each link.
#[derive(Default)]
pub(crate) struct Signatures(BTreeMap<(Digest, [u8; 64]), Result<(), Refusal>>);

impl Signatures {
    fn require(&mut self, cap: &Cap, keys: &dyn Keys, link: usize) -> Result<(), CapError> {
        let checked = self.0.entry((cap.digest, cap.signature));
        let result = *checked.or_insert_with(|| require_signature(cap, keys));
        result.map_err(|why| CapError { link, why })
    }
}

/// As [`verify`], with signatures remembered by the caller for one decision.
pub(crate) fn verify_remembering(
    chain: &[RawCap],
    request: &Request<'_>,
    signatures: &mut Signatures,
) -> Result<Verified, CapError> {
    // 1. The target is what its ID says, so its key is the one that may grant.
    require(0, Refusal::ChainTooLong, chain.len() <= CHAIN_MAX)?;
    require(0, Refusal::MetadataAltered, request.target.is_consistent())?;
    // 2. Every link has the right form.
    let links = chain.iter().enumerate().map(|(link, raw)| Cap::parse(raw, link));
    let links = links.collect::<Result<Vec<_>, _>>()?;
    let (Some(leaf), Some(root)) = (links.first(), links.last()) else {
        return Err(CapError { link: 0, why: Refusal::NoCapability });
    };
    // 3. It is for this context.
    require(0, Refusal::WrongAccessor, leaf.accessor == request.accessor)?;
    // 4. Every link is for this object, and holds now.
    for (link, cap) in links.iter().enumerate() {
        require_current(cap, request, link)?;
    }
    // 5. The last link comes from the target's key.
    let root_link = links.len() - 1;
    let no_key = request.target.key.is_null();
    let wrong = if no_key { Refusal::TargetWithoutKey } else { Refusal::WrongKey };
    require(root_link, Refusal::MissingParent, root.parent == Digest::NONE)?;
    require(root_link, wrong, root.signer == request.target.key)?;
    // 6. Every other link is a part of the next.
    for (link, (cap, parent)) in links.iter().zip(links.iter().skip(1)).enumerate() {
        require_part(cap, parent, link)?;
    }
    // 7. Every link was signed by whom it says.
    for (link, cap) in links.iter().enumerate() {
        signatures.require(cap, request.keys, link)?;
    }
    let validity = links.iter().fold(Validity::ALWAYS, |all, cap| all.and(cap.validity));
    Ok(Verified { rights: leaf.rights, gates: leaf.gates, validity, digest: leaf.digest })
}

fn require_current(cap: &Cap, request: &Request<'_>, link: usize) -> Result<(), CapError> {
    let require = |why, holds| require(link, why, holds);
    let revocations = request.revocations;
    let epoch = revocations.object_epoch(request.target.id);
    require(Refusal::WrongTarget, cap.target == request.target.id)?;
    require(Refusal::NotYetValid, cap.validity.has_begun(request.now))?;
    require(Refusal::Expired, !cap.validity.is_over(request.now))?;
    require(Refusal::RevokedWithObject, cap.epoch >= epoch)?;
    require(Refusal::FromTheFuture, cap.epoch <= epoch)?;
    require(Refusal::RevokedItself, !revocations.has_capability(cap.target, cap.digest))?;
    require(Refusal::RevokedContext, !revocations.has_context(cap.accessor))
}

/// Whether `cap` is a legitimate part of `parent`. Does not look at signatures.
pub(crate) fn require_part(cap: &Cap, parent: &Cap, link: usize) -> Result<(), CapError> {
    let require = |why, holds| require(link, why, holds);
    let closed = parent.delegate.is_null();
    let wrong = if closed { Refusal::NotDelegable } else { Refusal::NotTheHolder };
    require(wrong, cap.signer == parent.delegate)?;
    require(Refusal::WrongParent, cap.parent == parent.digest)?;
    require(Refusal::TooManyLinks, cap.links_left < parent.links_left)?;
    require(Refusal::WidensRights, parent.rights.contains(cap.rights))?;
    require(Refusal::WidensGates, cap.gates.is_subset_of(parent.gates))
}

/// The signer names its key in the signed bytes, so digest and signature say all that the answer depends on.
fn require_signature(cap: &Cap, keys: &dyn Keys) -> Result<(), Refusal> {
    signed_by(cap.signer, keys, &cap.digest.message(), &cap.signature)
}

/// Whether `signature` on `message` is that of the key object `signer`.
pub(crate) fn signed_by(
    signer: ObjectId,
    keys: &dyn Keys,
    message: &[u8],
    signature: &[u8; 64],
) -> Result<(), Refusal> {
    let found = keys.key(signer).ok_or(Refusal::UnknownKey)?;
    check(Refusal::UnknownKey, found.facts.id == signer)?;
    check(Refusal::KeyMetadataAltered, found.facts.is_consistent())?;
    let object = &found.object;
    check(Refusal::KeyReplaced, key_nonce(object.kind, &object.key) == found.facts.nonce)?;
    check(Refusal::BadKey, is_well_formed(object))?;
    let key = PublicKey::decode(&object.key).ok_or(Refusal::BadKey)?;
    check(Refusal::BadSignature, key.has_signed(message, signature))
}

#[cfg(test)]
mod tests;
