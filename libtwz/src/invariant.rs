//! Which types may stand in a persistent object.
//!
//! # Contract
//! A type is [`Invariant`] when its bytes mean the same in every program, after every reboot and on every machine:
//! fixed layout, no padding, no addresses, and **every bit pattern is a value**. The last point is what lets a
//! program read an object that a hostile or damaged writer filled: it may read nonsense, never undefined behaviour.
//! So `bool`, `char` and enums are refused: store a number and convert it with `TryFrom`.

use twz_abi::{ObjectId, PersistentPtr};

pub use libtwz_derive::Invariant;

/// Types that may stand in an object; derive it with `#[derive(Invariant)]`.
///
/// # Safety
/// The layout is fixed (`repr(C)`), there is no padding, every bit pattern is a value, and no part of it is an
/// address or otherwise means something to one program only.
///
/// ```compile_fail
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct HasSize { n: usize } // differs between machines
/// ```
/// ```compile_fail
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct HasReference { n: &'static u64 } // an address
/// ```
/// ```compile_fail
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct HasBox { n: Box<u64> } // an address in this program's heap
/// ```
/// ```compile_fail
/// #[derive(libtwz::Invariant)]
/// struct AnyLayout { a: u64 } // no repr(C)
/// ```
/// ```compile_fail
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct Padded { a: u8, b: u64 }
/// ```
/// ```compile_fail
/// #[derive(libtwz::Invariant)]
/// #[repr(u8)]
/// enum Choice { A, B } // 2 is no value of it
/// ```
/// ```
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct Node { value: u64, next: libtwz::InvPtr<Node> }
/// assert_ne!(libtwz::invariant::fingerprint::<Node>(), 0);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` must not be stored in a persistent object",
    label = "not Invariant",
    note = "use fixed-width integers, arrays, InvPtr<T> or GlobalPtr<T>, and #[derive(Invariant)] on your structs; \
            references, Box, usize, bool, char and enums mean nothing to the next reader or have invalid bit patterns"
)]
pub unsafe trait Invariant: 'static {
    /// A hash of the type's names and layout, stored in the object and compared when it is opened.
    const FINGERPRINT: u64;
    /// Evaluated where a type is stored: fails to compile when the struct has padding.
    const NO_PADDING: () = ();
}

/// The fingerprint of `T`; does not compile for a type with padding.
#[must_use]
pub const fn fingerprint<T: Invariant>() -> u64 {
    let () = T::NO_PADDING;
    T::FINGERPRINT
}

/// Size of a field, and proof that it is [`Invariant`]; used by the derive.
#[doc(hidden)]
#[must_use]
pub const fn field<T: Invariant>() -> usize {
    let () = T::NO_PADDING;
    size_of::<T>()
}

/// Where fingerprints start (FNV-1a's offset basis).
#[doc(hidden)]
pub const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// One step of a fingerprint: mixes a word in.
#[doc(hidden)]
#[must_use]
pub const fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

/// One step of a fingerprint: mixes a text in.
#[doc(hidden)]
#[must_use]
pub const fn mix_text(mut hash: u64, text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        hash = mix(hash, bytes[i] as u64);
        i += 1;
    }
    mix(hash, bytes.len() as u64)
}

macro_rules! plain {
    ($($type:ty),*) => {$(
        // SAFETY: fixed width, no padding, every bit pattern is a value.
        unsafe impl Invariant for $type {
            const FINGERPRINT: u64 = mix_text(SEED, stringify!($type));
        }
    )*};
}
plain!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128, f32, f64, (), ObjectId, PersistentPtr);

// SAFETY: an array has its element's properties and no padding between elements.
unsafe impl<T: Invariant, const N: usize> Invariant for [T; N] {
    const FINGERPRINT: u64 = mix(mix_text(T::FINGERPRINT, "array"), N as u64);
    const NO_PADDING: () = T::NO_PADDING;
}

// SAFETY: no bytes at all.
unsafe impl<T: 'static> Invariant for core::marker::PhantomData<T> {
    const FINGERPRINT: u64 = SEED;
}

macro_rules! atomics {
    ($($type:ident),*) => {$(
        // SAFETY: same bytes as the integer it wraps.
        unsafe impl Invariant for core::sync::atomic::$type {
            const FINGERPRINT: u64 = mix_text(SEED, stringify!($type));
        }
    )*};
}
atomics!(AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicI8, AtomicI16, AtomicI32, AtomicI64);
