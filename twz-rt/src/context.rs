//! Security contexts: holding several, running in one, and calling gates of others; see
//! [`ContextAttach`](twz_abi::syscall::Syscall::ContextAttach) and those after it.

use crate::syscall::make;
use twz_abi::program::TEXT_SLOT;
use twz_abi::sec::{PublicKeyObject, RawCap, RawRevocation};
use twz_abi::syscall::calls;
use twz_abi::view::SLOT_SIZE;
use twz_abi::{ErrorCode, ObjectId, Rights};

/// The context that this thread runs in.
///
/// # Errors
/// None today.
pub fn current() -> Result<ObjectId, ErrorCode> {
    make(calls::context_self())
}

/// Lets this thread hold `context`; returns its [`twz_abi::sec::context_flags`].
///
/// # Errors
/// [`ErrorCode::NotPermitted`], [`ErrorCode::BadContext`], [`ErrorCode::NoObject`]; [`ErrorCode::Busy`] when it holds too many.
pub fn attach(context: ObjectId) -> Result<u64, ErrorCode> {
    make(calls::context_attach(context))
}

/// Lets this thread hold `context` no more.
///
/// # Errors
/// [`ErrorCode::BadContext`] if it does not, [`ErrorCode::Busy`] if it runs in it, [`ErrorCode::NotPermitted`] if it is undetachable.
pub fn detach(context: ObjectId) -> Result<(), ErrorCode> {
    make(calls::context_detach(context))
}

/// Goes on in a context that this thread holds. Everything that the thread uses from here on, its code and its stack included, must be
/// within that context's rights.
///
/// # Errors
/// [`ErrorCode::NotPermitted`] if the thread does not hold it, or the context has no right to the view.
pub fn activate(context: ObjectId) -> Result<(), ErrorCode> {
    make(calls::context_activate(context))
}

/// Calls gate `number` of `context` with three words; returns the callee's two.
///
/// # Errors
/// [`ErrorCode::NotPermitted`], [`ErrorCode::BadContext`], [`ErrorCode::Busy`] when all stacks of the gate are in use or calls are nested too
/// deeply, [`ErrorCode::CalleeFailed`] when the callee ended without returning.
pub fn gate_call(context: ObjectId, number: u32, words: [u64; 3]) -> Result<(u64, u64), ErrorCode> {
    let [first, second, third] = words;
    make(calls::gate_call(context, number.into(), first, second, third))
}

/// Returns from a gate.
///
/// Outside of a gate there is nothing to return to: the thread ends with status 255.
pub fn gate_return(first: u64, second: u64) -> ! {
    // Comes back only if there was no caller.
    let _ = make(calls::gate_return(first, second));
    crate::syscall::thread_exit(255)
}

/// Inside of a gate: what the caller's context may do with `object`. A callee that touches an object for its caller asks this first, so that
/// it is no deputy that can be confused.
///
/// # Errors
/// [`ErrorCode::BadArgument`] outside of a gate.
pub fn caller_rights(object: ObjectId) -> Result<Rights, ErrorCode> {
    make(calls::caller_rights(object))
}

/// What a gate's entry is given: three words, the caller's context (low half, high half), the gate's number. It ends with [`gate_return`].
pub type GateFn = extern "C" fn(u64, u64, u64, u64, u64, u64) -> !;

/// Offset of a gate's entry in the program object, for [`twz_abi::sec::GateEntry::entry`]; `None` for code that lies elsewhere.
#[must_use]
pub fn entry_offset(entry: GateFn) -> Option<u32> {
    let offset = (entry as usize as u64).checked_sub(TEXT_SLOT * SLOT_SIZE)?;
    u32::try_from(offset).ok().filter(|&offset| u64::from(offset) < SLOT_SIZE)
}

/// Takes rights back. `capability` is the one that ends, if its signer takes it back and not the object's key.
///
/// # Errors
/// [`ErrorCode::NotPermitted`] for a signature that does not allow it, [`ErrorCode::NoObject`], [`ErrorCode::Medium`].
pub fn revoke(revocation: &RawRevocation, capability: Option<&RawCap>) -> Result<(), ErrorCode> {
    make(calls::revoke(revocation, capability))
}

/// Makes the object of a key, or finds the one that there is.
///
/// # Errors
/// [`ErrorCode::BadArgument`] for what is no key, [`ErrorCode::PoolFull`].
pub fn key_create(public: &PublicKeyObject) -> Result<ObjectId, ErrorCode> {
    make(calls::key_create(public))
}
