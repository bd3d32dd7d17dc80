//! Capabilities and security contexts: who may do what to which object, decided from signed bytes.
//!
//! # Contract
//! - Pure logic: no clock, no I/O, no unsafe code. Time, epochs and the facts that the monitor keeps of objects are
//!   arguments; the bytes of contexts, capabilities, keys and revocations are claims.
//! - **S1 total**: no input makes anything here panic, and the work is bounded: at most [`abi::CAP_PROBE`]
//!   capabilities are read for a decision, at most [`abi::CHAIN_MAX`] links followed for each.
//! - **S2 nothing from nothing**: a right that no valid signature, default or record of creation gives is never in a
//!   [`Decision`]. Every refusal has its own [`Refusal`], and every check its own attack in the tests.
//! - **S3 only less**: a delegated capability gives at most what each link above it gives, for at most as long.
//! - **S4 fresh**: a cached decision is used only in the revocation epoch, context generation and time that it holds for.
//!
//! # How a right comes about
//! ```text
//! ObjectFacts (monitor) ──┐ default rights, creator        ContextHeader ─ global mask ┐
//!                         ├─> decide() = (defaults ∪ creation ∪ Σ verify(chain)) ∩ masks ┴─> Decision ─> GrantCache
//! RawCap[] (context)  ────┘ chains of capabilities ─> verify() <─ Keys, Revocations, now
//! ```
//! The monitor asks [`Authority`], which puts these together. A program makes capabilities with [`KeyPair::grant`] and passes
//! parts of them on with [`KeyPair::delegate`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod authority;
mod cache;
mod cap;
mod context;
mod creation;
mod decide;
mod gates;
mod key;
mod object;
mod refusal;
mod revoke;
mod verify;

#[cfg(test)]
mod test_world;

pub use authority::{Authority, AuthorityError, Objects};
pub use cache::{CacheKey, Freshness, GrantCache};
pub use cap::{Cap, Digest, Grant, Validity};
pub use context::{Context, ContextError, Gate, ObjectBytes, SlotError};
pub use creation::{creation_nonce, is_creator};
pub use decide::{Decision, Standing, decide};
pub use gates::GateSet;
pub use key::{KeyError, KeyFacts, KeyPair, Keys, PublicKey, key_nonce, public_key_from_bytes};
pub use object::ObjectFacts;
pub use object_id::{Nonce, object_id};
pub use refusal::{CapError, Refusal};
pub use revoke::{REVOKED_MAX, Revocation, RevocationError, Revocations};
pub use twz_abi::sec as abi;
pub use verify::{Request, Verified, verify};
