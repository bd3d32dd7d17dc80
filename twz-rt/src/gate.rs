//! Gates as typed functions: what `#[gate]` (crate `libtwz-derive`) is made of.
//!
//! ```text
//! caller: NAME::call(context, a, b) ─ bytes of a, b in three words ─> callee: NAME::ENTRY takes a, b out again, checks them, runs the function
//!         Result<R, ErrorCode>      <─ bytes of R in two words ─────          a panic, a fault, or bytes that are no values: CalleeFailed
//! ```
//! # Contract
//! - Arguments are values: types of plain bytes ([`Value`]), at most [`ARGUMENT_BYTES`] together, results at most [`RESULT_BYTES`]; more is
//!   shared through an object. What is too large does not compile.
//! - Neither side believes the other: bytes that are no value of the type, or are left over, end the call.
//! - Who calls is the kernel's word ([`Caller`]), never an argument.

use crate::context::{self, gate_call, gate_return};
use twz_abi::{ErrorCode, ObjectId, Rights};
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

pub use crate::context::GateFn;
pub use twz_abi::ErrorCode as GateError;
pub use twz_abi::ObjectId as ContextId;

/// Bytes that all arguments of a gate take together: three words.
pub const ARGUMENT_BYTES: usize = 24;
/// Bytes that a gate's result takes: two words.
pub const RESULT_BYTES: usize = 16;
/// Exit status of a callee that got bytes which are no arguments of its function; its caller gets [`ErrorCode::CalleeFailed`].
const REFUSED_STATUS: u8 = 103;

/// What may go through a gate: plain bytes without padding, of which not all need to be values (`bool`, enums with a `repr`).
pub trait Value: TryFromBytes + IntoBytes + Immutable + KnownLayout + Copy {}

impl<T: TryFromBytes + IntoBytes + Immutable + KnownLayout + Copy> Value for T {}

/// The context that called a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller(ObjectId);

impl Caller {
    /// As the kernel told the gate's entry.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(lo: u64, hi: u64) -> Self {
        Self(ObjectId { lo, hi })
    }

    /// Its ID.
    #[must_use]
    pub const fn context(self) -> ObjectId {
        self.0
    }

    /// Whether the caller itself has these rights to `object`: to be asked before anything is done with an object that the caller named.
    #[must_use]
    pub fn may(self, object: ObjectId, rights: Rights) -> bool {
        context::caller_rights(object).is_ok_and(|granted| granted.contains(rights))
    }
}

/// Values one behind the other, without padding, in `N` bytes; the rest is zero.
#[derive(Clone, Copy, Debug)]
pub struct Packed<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Default for Packed<N> {
    fn default() -> Self {
        Self { bytes: [0; N], at: 0 }
    }
}

impl<const N: usize> Packed<N> {
    /// Bytes that came through a gate.
    #[must_use]
    pub fn from_words(words: &[u64]) -> Self {
        let mut packed = Self::default();
        for (bytes, word) in packed.bytes.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        packed
    }

    /// Word `index`.
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes[index * 8..index * 8 + 8]);
        u64::from_le_bytes(word)
    }

    /// Adds a value. That all fit was asserted where the gate was declared.
    #[must_use]
    pub fn with<T: Value>(mut self, value: T) -> Self {
        let end = self.at + size_of::<T>();
        self.bytes[self.at..end].copy_from_slice(value.as_bytes());
        self.at = end;
        self
    }

    /// Takes the next value; `None` if the bytes are none of the type.
    pub fn take<T: Value>(&mut self) -> Option<T> {
        let bytes = self.bytes.get(self.at..self.at + size_of::<T>())?;
        self.at += size_of::<T>();
        T::try_read_from_bytes(bytes).ok()
    }

    /// Whether nothing is left behind the values that were taken.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.bytes[self.at..].iter().all(|&byte| byte == 0)
    }
}

/// What a gate's function may return: a [`Value`] through [`Plain`], or a `Result` of two.
pub trait Reply: Sized {
    /// Its bytes.
    fn pack(self) -> Packed<RESULT_BYTES>;
    /// The reply that these bytes are, if they are one.
    fn unpack(packed: Packed<RESULT_BYTES>) -> Option<Self>;
}

/// A reply that is a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain<T>(pub T);

impl<T: Value> Reply for Plain<T> {
    fn pack(self) -> Packed<RESULT_BYTES> {
        Packed::default().with(self.0)
    }

    fn unpack(mut packed: Packed<RESULT_BYTES>) -> Option<Self> {
        packed.take().filter(|_| packed.is_used_up()).map(Self)
    }
}

impl<T: Value, E: Value> Reply for Result<T, E> {
    fn pack(self) -> Packed<RESULT_BYTES> {
        match self {
            Ok(value) => Packed::default().with(true).with(value),
            Err(error) => Packed::default().with(false).with(error),
        }
    }

    fn unpack(mut packed: Packed<RESULT_BYTES>) -> Option<Self> {
        let result = if packed.take()? { Ok(packed.take()?) } else { Err(packed.take()?) };
        packed.is_used_up().then_some(result)
    }
}

/// Calls a gate.
///
/// # Errors
/// As [`gate_call`]; [`ErrorCode::CalleeFailed`] also for an answer that is no reply of the type.
pub fn call<R: Reply>(
    context: ObjectId,
    number: u32,
    arguments: Packed<ARGUMENT_BYTES>,
) -> Result<R, ErrorCode> {
    let words = [arguments.word(0), arguments.word(1), arguments.word(2)];
    let (first, second) = gate_call(context, number, words)?;
    R::unpack(Packed::from_words(&[first, second])).ok_or(ErrorCode::CalleeFailed)
}

/// Ends a call with the function's result, or without one if the arguments were none.
pub fn finish(reply: Option<impl Reply>) -> ! {
    match reply.map(Reply::pack) {
        Some(packed) => gate_return(packed.word(0), packed.word(1)),
        None => crate::syscall::thread_exit(REFUSED_STATUS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_out_as_they_went_in() {
        let packed = Packed::<24>::default().with(7_u32).with(true).with([1_u8, 2, 3]).with(u64::MAX);
        let words = [packed.word(0), packed.word(1), packed.word(2)];
        let mut packed = Packed::<24>::from_words(&words);
        assert_eq!(packed.take(), Some(7_u32));
        assert_eq!(packed.take(), Some(true));
        assert_eq!(packed.take(), Some([1_u8, 2, 3]));
        assert!(!packed.is_used_up());
        assert_eq!(packed.take(), Some(u64::MAX));
        assert!(packed.is_used_up());
    }

    #[test]
    fn bytes_that_are_no_value_are_refused() {
        assert_eq!(Packed::<8>::from_words(&[2]).take::<bool>(), None);
        assert_eq!(Packed::<8>::from_words(&[2]).take::<[u64; 2]>(), None, "past the end");
        assert_eq!(Plain::<u32>::unpack(Packed::from_words(&[1 << 32, 0])), None, "something left over");
        assert_eq!(Plain::<u32>::unpack(Packed::from_words(&[1, 0])), Some(Plain(1)));
        assert_eq!(Result::<u8, u8>::unpack(Packed::from_words(&[0x0502, 0])), None, "neither Ok nor Err");
    }

    #[test]
    fn results_come_out_as_they_went_in() {
        for result in [Ok(5_u64), Err(true)] {
            let packed = Reply::pack(result);
            let words = [packed.word(0), packed.word(1)];
            assert_eq!(Result::<u64, bool>::unpack(Packed::from_words(&words)), Some(result));
        }
    }
}
