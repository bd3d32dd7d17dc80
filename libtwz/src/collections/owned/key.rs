//! What may be a key.

use crate::collections::{String, Vec};
use crate::invariant::Invariant;

/// Keys of the maps in [`super`]: what they are looked up by, and the bytes that an entry keeps of them.
///
/// A program may implement it for types of its own; one that is only named, as `struct ByOwnerAndName` with `Borrowed = (u64, str-like)`, will do.
pub trait Key: Invariant {
    /// What a key is looked up by.
    type Borrowed: ?Sized;
    /// A key in this program's memory, as iterators give it.
    type Owned;

    /// The bytes of a key: other bytes for other keys. Where order matters, they are in the keys' order, compared byte by byte.
    fn bytes(key: &Self::Borrowed) -> impl AsRef<[u8]>;

    /// The key with these bytes; `None` when there is none.
    fn from_bytes(bytes: alloc::vec::Vec<u8>) -> Option<Self::Owned>;
}

impl Key for String {
    type Borrowed = str;
    type Owned = alloc::string::String;

    fn bytes(key: &str) -> impl AsRef<[u8]> {
        key.as_bytes()
    }

    fn from_bytes(bytes: alloc::vec::Vec<u8>) -> Option<Self::Owned> {
        alloc::string::String::from_utf8(bytes).ok()
    }
}

impl Key for Vec<u8> {
    type Borrowed = [u8];
    type Owned = alloc::vec::Vec<u8>;

    fn bytes(key: &[u8]) -> impl AsRef<[u8]> {
        key
    }

    fn from_bytes(bytes: alloc::vec::Vec<u8>) -> Option<Self::Owned> {
        Some(bytes)
    }
}

impl<const N: usize> Key for [u8; N] {
    type Borrowed = Self;
    type Owned = Self;

    fn bytes(key: &Self) -> impl AsRef<[u8]> {
        key
    }

    fn from_bytes(bytes: alloc::vec::Vec<u8>) -> Option<Self> {
        bytes.try_into().ok()
    }
}

macro_rules! numbers {
    ($($type:ident, $smallest:expr;)*) => {$(
        impl Key for $type {
            type Borrowed = Self;
            type Owned = Self;

            fn bytes(key: &Self) -> impl AsRef<[u8]> {
                (key ^ $smallest).to_be_bytes() // the smallest becomes all zeros
            }

            fn from_bytes(bytes: alloc::vec::Vec<u8>) -> Option<Self> {
                Some(Self::from_be_bytes(bytes.try_into().ok()?) ^ $smallest)
            }
        }
    )*};
}
numbers! {
    u8, 0; u16, 0; u32, 0; u64, 0; u128, 0;
    i8, i8::MIN; i16, i16::MIN; i32, i32::MIN; i64, i64::MIN; i128, i128::MIN;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back<K: Key<Borrowed = K, Owned = K> + Copy + Ord + core::fmt::Debug>(sorted: &[K]) {
        let bytes = |key: &K| K::bytes(key).as_ref().to_vec();
        assert!(sorted.iter().all(|key| K::from_bytes(bytes(key)) == Some(*key)));
        assert!(sorted.is_sorted() && sorted.iter().map(bytes).is_sorted(), "{sorted:?}");
        assert_eq!(K::from_bytes(alloc::vec![0; 99]), None);
    }

    #[test]
    fn numbers_are_in_order_as_bytes() {
        there_and_back(&[0_u64, 1, 255, 256, 1 << 40, u64::MAX]);
        there_and_back(&[i32::MIN, -70_000, -1, 0, 1, 255, 256, i32::MAX]);
        there_and_back(&[*b"aa", *b"ab", *b"ba"]);
        assert_eq!(<String as Key>::from_bytes(alloc::vec![0xff]), None);
    }
}
