//! Eight tags in a word, compared at once.

use core::arch::asm;
use core::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_cvtsi64_si128, _mm_movemask_epi8};
use core::marker::PhantomData;
use core::num::NonZero;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::PCell;

/// Which bytes of `word` are `byte`: bit n for byte n, the least significant first.
///
/// Three instructions after the word is there, so that a loop of look-ups that wait for memory fits many of them into the
/// processor's scheduler.
#[inline(always)]
#[must_use]
pub fn equal_bytes(word: u64, byte: u8) -> u8 {
    // SAFETY: every x86-64 has SSE2.
    let tags = unsafe { _mm_cvtsi64_si128(word.cast_signed()) };
    #[allow(clippy::cast_possible_truncation, reason = "the low eight of sixteen bits")]
    let bits = equal_in(tags, byte) as u8;
    bits
}

/// The same of the low half of `tags`; the bits above the low eight are set.
#[inline(always)]
fn equal_in(tags: __m128i, byte: u8) -> u32 {
    let eight = u64::from(byte) * 0x0101_0101_0101_0101; // while the tags come; without SSSE3 fewer instructions than a broadcast
    // SAFETY: every x86-64 has SSE2; the same for the next two.
    let wanted = unsafe { _mm_cvtsi64_si128(eight.cast_signed()) };
    // SAFETY: as above.
    let equal = unsafe { _mm_cmpeq_epi8(tags, wanted) };
    // SAFETY: as above.
    unsafe { _mm_movemask_epi8(equal) }.cast_unsigned()
}

/// A line of memory that others may store to: a word of tags, then a word for each tag but the first. It is `AHEAD` after an address, as a part of
/// the instructions that load from it.
#[derive(Clone, Copy, Debug)]
pub struct TaggedLine<'a, const AHEAD: usize> {
    /// **L1** what is `AHEAD` after it is a line that may be read for `'a`, or a load from it faults.
    before: usize,
    line: PhantomData<&'a [PCell<u64>; 8]>,
}

impl<'a> TaggedLine<'a, 0> {
    /// The line of these words.
    #[inline(always)]
    #[must_use]
    pub fn of(words: &'a [PCell<u64>; 8]) -> Self {
        Self::at(core::ptr::from_ref(words).expose_provenance())
    }
}

impl<const AHEAD: usize> TaggedLine<'_, AHEAD> {
    /// The caller warrants **L1**.
    #[inline(always)]
    pub(crate) const fn at(before: usize) -> Self {
        Self { before, line: PhantomData }
    }

    /// The word of the first tag that is `byte`. In as few instructions as there can be, for loops of look-ups that wait for memory.
    #[inline(always)]
    #[must_use]
    pub fn first_with(self, byte: u8) -> Option<u64> {
        if cfg!(miri) {
            let words = core::ptr::with_exposed_provenance::<AtomicU64>(self.before + AHEAD);
            // SAFETY: L1; all accesses to the line are atomic.
            let word = |place: usize| unsafe { &*words.wrapping_add(place) }.load(Ordering::Relaxed);
            let bits = equal_bytes(word(0), byte);
            return Some(word(NonZero::new(bits)?.trailing_zeros() as usize));
        }
        let tags: __m128i;
        // SAFETY: L1: a load of eight bytes by the processor, of which the compiler assumes nothing, is no data race.
        unsafe {
            asm!("movq {}, qword ptr [{} + {}]", out(xmm_reg) tags, in(reg) self.before, const AHEAD,
                options(nostack, preserves_flags, readonly));
        }
        let bits = equal_in(tags, byte);
        if bits & 0xff == 0 {
            return None;
        }
        let place = u64::from(NonZero::new(bits)?.trailing_zeros()); // of the low eight: one of them is set
        let word;
        // SAFETY: as above; the number is below eight, so it is a word of the line.
        unsafe {
            asm!("mov {}, [{} + 8*{} + {}]", out(reg) word, in(reg) self.before, in(reg) place, const AHEAD,
                options(nostack, preserves_flags, readonly));
        }
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::{TaggedLine, equal_bytes};
    use crate::PCell;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_byte_is_compared(bytes in prop::array::uniform8(prop_oneof![0..5_u8, any::<u8>()]), byte in 0..5_u8) {
            let bits = bytes.iter().rev().fold(0, |bits, b| bits << 1 | u8::from(*b == byte));
            prop_assert_eq!(equal_bytes(u64::from_le_bytes(bytes), byte), bits);
        }

        #[test]
        fn the_first_tag_leads_to_its_word(tags in prop::array::uniform8(0..5_u8), byte in 0..5_u8) {
            let word_of = |place| if place == 0 { u64::from_le_bytes(tags) } else { place as u64 };
            let words: [PCell<u64>; 8] = core::array::from_fn(|place| PCell::new(word_of(place)));
            let first = tags.iter().position(|tag| *tag == byte);
            prop_assert_eq!(TaggedLine::of(&words).first_with(byte), first.map(word_of));
        }
    }

    #[test]
    fn high_bytes_are_compared() {
        assert_eq!(equal_bytes(0x80ff_0000_0000_ff80, 0xff), 0b0100_0010);
    }
}
