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
/// # What is refused
/// With the compiler's error, or the derive's own words, once and at the field (`tests/refused.rs` compares them):
/// ```compile_fail,E0277
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct HasSize { n: usize } // differs between machines
/// ```
/// ```compile_fail,E0277
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct HasReference { n: &'static u64 } // an address
/// ```
/// ```compile_fail,E0277
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct HasBox { n: Box<u64> } // an address in this program's heap
/// ```
/// ```compile_fail,E0277
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct HasBool { n: bool } // 2 is no value of it
/// ```
/// ```compile_fail,E0277
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct HasChar { n: char } // nor is u32::MAX of this
/// ```
/// ```compile_fail,E0277
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct LeadsToSize { n: libtwz::InvPtr<usize> } // what a pointer leads to is stored, too
/// ```
/// ```compile_fail,E0277
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct LeadsToBox { n: libtwz::InvPtr<Box<u64>> }
/// ```
/// ```compile_fail,E0277
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct LeadsFarToBox { n: libtwz::GlobalPtr<Box<u64>> }
/// ```
/// ```compile_fail,E0080
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct Padded { a: u8, b: u64 }
/// ```
/// ```compile_fail,E0080
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct Pair<A, B> { a: A, b: B } // padded only for some A and B: refused where it is stored
/// libtwz::invariant::fingerprint::<Pair<u8, u64>>();
/// ```
/// ```compile_fail,E0507
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct Node { value: u64, next: libtwz::InvPtr<Node> }
/// fn take(node: &Node) -> libtwz::InvPtr<Node> { node.next } // it means something where it stands only
/// ```
/// ```compile_fail
/// #[derive(libtwz::Invariant)]
/// struct AnyLayout { a: u64 } // no repr(C)
/// ```
/// ```compile_fail
/// #[derive(libtwz::Invariant)]
/// #[repr(C, packed)]
/// struct Packed { a: u8, b: u64 }
/// ```
/// ```compile_fail
/// #[derive(libtwz::Invariant)]
/// #[repr(u8)]
/// enum Choice { A, B } // 2 is no value of it
/// ```
/// ```compile_fail
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// union Either { a: u64, b: u32 }
/// ```
/// ```compile_fail
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct Borrows<'a> { n: core::marker::PhantomData<&'a u64> }
/// ```
/// # What is not
/// ```
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct Node { value: u64, next: libtwz::InvPtr<Node> }
/// assert_ne!(libtwz::invariant::fingerprint::<Node>(), 0);
///
/// #[derive(libtwz::Invariant)]
/// #[repr(C)]
/// struct Pair<A, B> { a: A, b: B }
/// assert_ne!(libtwz::invariant::fingerprint::<Pair<u64, u64>>(), libtwz::invariant::fingerprint::<Pair<u32, u32>>());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` must not be stored in a persistent object",
    label = "not Invariant: it means nothing to the next reader, or not all of its bit patterns are values",
    note = "for `usize` and `isize` store u64 and i64, for `bool` a u8, for `char` a u32, for an enum a number, and convert it with TryFrom",
    note = "for `&T`, `Box<T>`, `Rc<T>`, `Option` of these and raw pointers store an InvPtr<T> or a GlobalPtr<T>, which may be null",
    note = "for std's `String`, `Vec`, maps and sets store those of libtwz::collections",
    note = "for tuples, `Option` and types of your own store a struct with #[derive(Invariant)] and #[repr(C)]"
)]
pub unsafe trait Invariant: 'static {
    /// A hash of the type's names and layout, and of what its pointers lead to ([`Invariant::SHALLOW`]); stored in the object and compared
    /// when it is opened.
    const FINGERPRINT: u64;
    /// The same without what its pointers lead to: types may contain pointers to themselves.
    const SHALLOW: u64 = Self::FINGERPRINT;
    /// Whether all of it is cells, atomics, persistent pointers, or made of such: then it may change under a `&Self`. Part of the safety
    /// contract.
    const CELLS: bool = false;
    /// Evaluated where a type is stored: fails to compile when the struct has padding.
    const NO_PADDING: () = ();
}

/// The fingerprint of `T`; does not compile for a type with padding.
#[must_use]
pub const fn fingerprint<T: Invariant>() -> u64 {
    let () = T::NO_PADDING;
    T::FINGERPRINT
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
    const SHALLOW: u64 = mix(mix_text(T::SHALLOW, "array"), N as u64);
    const CELLS: bool = T::CELLS;
    const NO_PADDING: () = T::NO_PADDING;
}

// SAFETY: no bytes at all.
unsafe impl<T: 'static> Invariant for core::marker::PhantomData<T> {
    const FINGERPRINT: u64 = SEED;
    const CELLS: bool = true;
}

macro_rules! atomics {
    ($($type:ident),*) => {$(
        // SAFETY: same bytes as the integer it wraps.
        unsafe impl Invariant for core::sync::atomic::$type {
            const FINGERPRINT: u64 = mix_text(SEED, stringify!($type));
            const CELLS: bool = true;
        }
    )*};
}
atomics!(AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicI8, AtomicI16, AtomicI32, AtomicI64);

#[cfg(test)]
mod tests {
    use super::{Invariant, fingerprint};
    use crate::cell::PCell;
    use crate::ptr::{GlobalPtr, InvPtr};

    macro_rules! list_of {
        ($name:ident: $($field:ident: $type:ty),*) => {
            mod $name {
                use super::*;

                #[derive(Invariant)]
                #[repr(C)]
                pub(super) struct Node {
                    $($field: $type,)*
                    next: InvPtr<Node>,
                }

                #[derive(Invariant)]
                #[repr(C)]
                pub(super) struct Root {
                    first: InvPtr<Node>,
                    far: [GlobalPtr<Node>; 2],
                }
            }
        };
    }
    list_of!(one: value: PCell<u64>);
    list_of!(same: value: PCell<u64>);
    list_of!(halves: value: PCell<u32>, more: PCell<u32>);
    list_of!(renamed: weight: PCell<u64>);
    list_of!(fixed: value: u64);

    #[test]
    fn a_fingerprint_knows_what_pointers_lead_to() {
        let one = fingerprint::<one::Root>();
        assert_eq!(one, fingerprint::<same::Root>());
        for other in
            [fingerprint::<halves::Root>(), fingerprint::<renamed::Root>(), fingerprint::<fixed::Root>()]
        {
            assert_ne!(one, other);
        }
        assert_ne!(fingerprint::<InvPtr<u64>>(), fingerprint::<InvPtr<u32>>());
        assert_ne!(fingerprint::<InvPtr<u64>>(), fingerprint::<GlobalPtr<u64>>());
    }

    #[test]
    fn cells_are_what_may_change_under_a_reference() {
        const { assert!(one::Node::CELLS && <[InvPtr<u64>; 3]>::CELLS) };
        const { assert!(!fixed::Node::CELLS && !one::Root::CELLS && !<[u64; 3]>::CELLS) };
    }
}
