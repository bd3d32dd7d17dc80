//! The bytes of a pool, version 1. The tables are in `docs/formats/pool.md`; change both together.
//!
//! # Contract
//! - Everything is little-endian. All of it is read as a claim: nothing here trusts a byte before its check.
//! - Metadata is made of *checked words* (8 bytes that carry their own check) and of *records* (a commit word that
//!   carries the check of the whole record). Both checks cover the place and the pool, so that bytes left over from
//!   another place or pool are never taken for metadata.
//! - A record exists, changes and ends by one 8-byte store of its commit word.

pub(crate) mod records;
pub(crate) mod superblock;

/// Bytes in a page, the unit of allocation.
pub(crate) const PAGE: u64 = twz_abi::PAGE_SIZE;
/// Bytes in a segment: the reach of a huge second-stage entry.
pub(crate) const SEGMENT: u64 = 2 << 20;
/// Pages in a segment; entries in a map node or block table.
pub(crate) const SEGMENT_PAGES: u64 = SEGMENT / PAGE;
/// Pages in the offset space of an object.
pub(crate) const OBJECT_PAGES: u64 = twz_abi::object::MAX_SIZE / PAGE;
/// Smallest pool: 16 MiB.
pub(crate) const MIN_SIZE: u64 = 16 << 20;
/// Largest pool: page numbers have 36 bits.
pub(crate) const MAX_SIZE: u64 = PAGE << VALUE_BITS;

/// Page of a metadata segment that holds a copy of the superblock (in segment 0; reserved in others).
pub(crate) const SUPERBLOCK_PAGES: [u64; 2] = [0, 256];
/// Page of a metadata segment that holds its block table.
pub(crate) const TABLE_PAGE: u64 = 1;
/// Word of the block table that links to the next metadata segment.
pub(crate) const TABLE_LINK: u64 = 0;
/// Word of the block table that says that this is one, and which.
pub(crate) const TABLE_IDENTITY: u64 = 1;

const VALUE_BITS: u32 = 36;
const KIND_BITS: u32 = 4;
const CHECK_SHIFT: u32 = VALUE_BITS + KIND_BITS;

/// What a checked word says. The numbers are on the medium and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Map node: nothing is mapped here.
    Absent = 1,
    /// Leaf: this page is at pool page `value`.
    Page = 2,
    /// Root: this chunk is the 512 pool pages from `value` on.
    Run = 3,
    /// Root: this chunk is described by the leaf at pool page `value`.
    Leaf = 4,
    /// Block table: the block holds a map node or nothing.
    Loose = 5,
    /// Block table: the block holds object records.
    Objects = 6,
    /// Block table: the block holds name records.
    Names = 7,
    /// Block table: the block holds tie records.
    Ties = 8,
    /// Block table, link: this is the last metadata segment.
    End = 9,
    /// Block table, link: segment `value` is the next one.
    Next = 10,
    /// Block table, identity: metadata segment, itself segment `value`.
    Identity = 11,
    /// Block table: the block is a superblock copy, this table, or kept for one.
    Reserved = 12,
}

impl Kind {
    fn from_bits(bits: u64) -> Option<Self> {
        Some(match bits {
            1 => Self::Absent,
            2 => Self::Page,
            3 => Self::Run,
            4 => Self::Leaf,
            5 => Self::Loose,
            6 => Self::Objects,
            7 => Self::Names,
            8 => Self::Ties,
            9 => Self::End,
            10 => Self::Next,
            11 => Self::Identity,
            12 => Self::Reserved,
            _ => return None,
        })
    }
}

/// What makes the checks of one pool its own: the low half of its UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal(pub(crate) u64);

impl Seal {
    /// The checked word for byte offset `at`.
    pub(crate) fn word(self, at: u64, kind: Kind, value: u64) -> u64 {
        debug_assert!(value >> VALUE_BITS == 0, "value has {VALUE_BITS} bits");
        let body = (kind as u64) << VALUE_BITS | value;
        body | self.check(at, body) << CHECK_SHIFT
    }

    /// What the word found at byte offset `at` says; `None` if its check is wrong.
    #[inline]
    pub(crate) fn open(self, at: u64, word: u64) -> Option<(Kind, u64)> {
        let body = word & ((1 << CHECK_SHIFT) - 1);
        if word >> CHECK_SHIFT != self.check(at, body) {
            return None;
        }
        Some((Kind::from_bits(body >> VALUE_BITS)?, body & ((1 << VALUE_BITS) - 1)))
    }

    #[inline]
    fn check(self, at: u64, body: u64) -> u64 {
        self.mix(at, body) >> CHECK_SHIFT
    }

    /// Scatters place, pool and `body` over 64 bits (the finalizer of splitmix64).
    #[inline]
    pub(crate) fn mix(self, at: u64, body: u64) -> u64 {
        let mut x = body ^ self.0 ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }
}

/// A `u64` that counts bytes, pages or records of this process's memory, as an index.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "x86-64: usize is 64 bits")]
pub(crate) const fn index(value: u64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_open_only_where_they_were_sealed() {
        let seal = Seal(42);
        let word = seal.word(64, Kind::Leaf, 0xf_ffff_ffff);
        assert_eq!(seal.open(64, word), Some((Kind::Leaf, 0xf_ffff_ffff)));
        assert_eq!(seal.open(72, word), None);
        assert_eq!(Seal(43).open(64, word), None);
        for bit in 0..64 {
            assert_eq!(seal.open(64, word ^ 1 << bit), None, "bit {bit}");
        }
        assert_eq!(seal.open(64, 0), None, "zeros are damage, not absence");
    }
}
