//! Why a capability gives nothing: one name for each check.
//!
//! Checks are made through [`require`], so that the tests can switch off one at a time and see its attack succeed.

use thiserror::Error;

/// Makes an enum of checks with a list of all.
macro_rules! checks {
    ($(#[$meta:meta])* $type:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
        pub enum $type { $($(#[$doc])* $name,)* }

        impl $type {
            /// Every check.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }

        impl $crate::refusal::Check for $type {
            #[cfg(test)]
            fn name(self) -> &'static str {
                match self { $(Self::$name => concat!(stringify!($type), "::", stringify!($name)),)* }
            }
        }
    };
}
pub(crate) use checks;

/// A check, which the tests can name.
pub(crate) trait Check: Copy {
    /// Type and variant.
    #[cfg(test)]
    fn name(self) -> &'static str;
}

checks! {
/// A check that a capability failed.
Refusal {
    /// A chain without links.
    #[error("there is no capability")]
    NoCapability,
    /// More links than [`crate::abi::CHAIN_MAX`].
    #[error("the chain of delegation is too long")]
    ChainTooLong,
    /// The target's facts do not hash to its ID.
    #[error("the target's metadata is not what its ID was made of")]
    MetadataAltered,
    /// The target has no key object: nobody can grant rights to it.
    #[error("the target names no key object")]
    TargetWithoutKey,
    /// No `RawCap::magic`.
    #[error("not a capability")]
    BadMagic,
    /// Another version.
    #[error("of a version that this monitor does not know")]
    BadVersion,
    /// A reserved field is not zero.
    #[error("a reserved field is not zero")]
    ReservedSet,
    /// Unknown hash.
    #[error("hashed in a way that this monitor does not know")]
    UnknownHash,
    /// Unknown signature.
    #[error("signed in a way that this monitor does not know")]
    UnknownSignature,
    /// Rights that do not exist.
    #[error("names rights that do not exist")]
    UnknownRights,
    /// Gates that are no set.
    #[error("its gates are not a valid set")]
    BadGates,
    /// No target, accessor or signer.
    #[error("names no target, accessor or signer")]
    NullId,
    /// Neither rights nor gates.
    #[error("gives nothing")]
    GivesNothing,
    /// For another object.
    #[error("it is for another object")]
    WrongTarget,
    /// For another context.
    #[error("it is for another security context")]
    WrongAccessor,
    /// Not yet.
    #[error("it is not valid yet")]
    NotYetValid,
    /// No more.
    #[error("it has expired")]
    Expired,
    /// Signed before the target's rights were revoked.
    #[error("all capabilities to the target from its time were revoked")]
    RevokedWithObject,
    /// Signed for an epoch that has not come.
    #[error("it claims a revocation epoch that has not come")]
    FromTheFuture,
    /// Revoked by its digest.
    #[error("it was revoked")]
    RevokedItself,
    /// Its accessor was revoked.
    #[error("the security context that it is for was revoked")]
    RevokedContext,
    /// The first link is not signed by the target's key.
    #[error("not signed by the target's key object")]
    WrongKey,
    /// A later link is not signed by the delegate of the link above.
    #[error("passed on by somebody who does not hold it")]
    NotTheHolder,
    /// The link above may not be passed on.
    #[error("the capability above may not be passed on")]
    NotDelegable,
    /// The link above may not be passed on as often.
    #[error("passed on more often than allowed")]
    TooManyLinks,
    /// Not the part of the link above that it says.
    #[error("it is not a part of the capability above")]
    WrongParent,
    /// The first link says that there is one above it.
    #[error("the capability that it is a part of is missing")]
    MissingParent,
    /// More rights than the link above.
    #[error("has more rights than the capability above")]
    WidensRights,
    /// More gates than the link above.
    #[error("opens more gates than the capability above")]
    WidensGates,
    /// The signer is no key object that the monitor knows.
    #[error("its key object does not exist")]
    UnknownKey,
    /// The key object's facts do not hash to its ID.
    #[error("the key object's metadata is not what its ID was made of")]
    KeyMetadataAltered,
    /// The key object does not hold the key that its ID stands for.
    #[error("the key object holds another key than the one it was made for")]
    KeyReplaced,
    /// The bytes are no key of the kind.
    #[error("the key object holds no valid key")]
    BadKey,
    /// The signature is not the signer's on these bytes.
    #[error("the signature is wrong")]
    BadSignature,
}
}

/// A capability was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("capability refused at link {link}: {why}")]
pub struct CapError {
    /// Which link of the chain: 0 is the capability that was used, the last the one signed by the target's key.
    pub link: usize,
    /// The check that failed.
    pub why: Refusal,
}

/// Goes on only if `holds`, else fails with the check that `link` did not pass.
pub(crate) fn require(link: usize, why: Refusal, holds: bool) -> Result<(), CapError> {
    check(why, holds).map_err(|why| CapError { link, why })
}

/// Goes on only if `holds`.
pub(crate) fn check<C: Check>(why: C, holds: bool) -> Result<(), C> {
    #[cfg(test)]
    if mutation::is_off(why.name()) {
        return Ok(());
    }
    if holds { Ok(()) } else { Err(why) }
}

/// Switches checks off, one at a time, on the test's own thread.
#[cfg(test)]
pub(crate) mod mutation {
    use super::Check;
    use std::cell::Cell;

    std::thread_local! {
        static OFF: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Whether the check of this name is switched off.
    pub(crate) fn is_off(name: &str) -> bool {
        OFF.get() == Some(name)
    }

    /// Runs `action` with `check` switched off.
    pub(crate) fn without<T>(check: impl Check, action: impl FnOnce() -> T) -> T {
        OFF.set(Some(check.name()));
        let result = action();
        OFF.set(None);
        result
    }
}
