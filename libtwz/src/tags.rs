//! Eight tags in a word, compared at once.

use core::arch::x86_64::{_mm_cmpeq_epi8, _mm_cvtsi64_si128, _mm_movemask_epi8};

/// Which bytes of `word` are `byte`: bit n for byte n, the least significant first.
///
/// Three instructions after the word is there, so that a loop of look-ups that wait for memory fits many of them into the
/// processor's scheduler.
#[inline(always)]
#[must_use]
pub fn equal_bytes(word: u64, byte: u8) -> u8 {
    let eight = u64::from(byte) * 0x0101_0101_0101_0101; // while the word comes; without SSSE3 fewer instructions than a broadcast
    // SAFETY: every x86-64 has SSE2; the same for the next three.
    let tags = unsafe { _mm_cvtsi64_si128(word.cast_signed()) };
    // SAFETY: as above.
    let wanted = unsafe { _mm_cvtsi64_si128(eight.cast_signed()) };
    // SAFETY: as above.
    let equal = unsafe { _mm_cmpeq_epi8(tags, wanted) };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the low eight of sixteen bits"
    )]
    // SAFETY: as above.
    let bits = unsafe { _mm_movemask_epi8(equal) } as u8;
    bits
}

#[cfg(test)]
mod tests {
    use super::equal_bytes;

    #[test]
    fn every_byte_is_compared() {
        let mut state = 88_172_645_463_325_252_u64;
        for _ in 0..1000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let word = state & 0x0303_0303_0303_0303;
            for byte in 0..5 {
                let bits =
                    word.to_le_bytes().iter().rev().fold(0, |bits, b| bits << 1 | u8::from(*b == byte));
                assert_eq!(equal_bytes(word, byte), bits, "{word:#x} {byte}");
            }
        }
        assert_eq!(equal_bytes(0x80ff_0000_0000_ff80, 0xff), 0b0100_0010);
    }
}
