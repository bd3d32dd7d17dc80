//! A line of memory as four of the processor's vectors hold it: what a compiler makes of eight words is sometimes twice as long.

use crate::window::Window;
use core::arch::x86_64::{
    __m128i, _mm_add_epi64, _mm_cvtsi128_si64, _mm_loadu_si128, _mm_mul_epu32, _mm_set_epi64x,
    _mm_shuffle_epi32, _mm_xor_si128,
};

/// Two words in a vector; operations on it are instructions of SSE2, which each x86-64 has.
#[derive(Clone, Copy)]
pub(crate) struct Pair(__m128i);

impl Pair {
    #[inline(always)]
    pub(crate) fn of([low, high]: [u64; 2]) -> Self {
        // SAFETY: each x86-64 has it.
        Self(unsafe { _mm_set_epi64x(high.cast_signed(), low.cast_signed()) })
    }

    #[inline(always)]
    pub(crate) fn words(self) -> [u64; 2] {
        // SAFETY: as in `of`.
        [self, self.swapped()].map(|pair| unsafe { _mm_cvtsi128_si64(pair.0) }.cast_unsigned())
    }

    /// The words in the other order.
    #[inline(always)]
    pub(crate) fn swapped(self) -> Self {
        // SAFETY: as in `of`.
        Self(unsafe { _mm_shuffle_epi32::<0b01_00_11_10>(self.0) })
    }

    /// Of each word the product of its halves.
    #[inline(always)]
    pub(crate) fn products(self) -> Self {
        // SAFETY: as in `of`.
        let high = unsafe { _mm_shuffle_epi32::<0b11_11_01_01>(self.0) };
        // SAFETY: as in `of`.
        Self(unsafe { _mm_mul_epu32(self.0, high) })
    }

    /// The sums, without carries out of them.
    #[inline(always)]
    pub(crate) fn plus(self, other: Self) -> Self {
        // SAFETY: as in `of`.
        Self(unsafe { _mm_add_epi64(self.0, other.0) })
    }

    #[inline(always)]
    pub(crate) fn xor(self, other: Self) -> Self {
        // SAFETY: as in `of`.
        Self(unsafe { _mm_xor_si128(self.0, other.0) })
    }
}

/// The eight words of a line.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    pairs: [Pair; 4],
}

impl Line {
    /// Of words that were stored long ago: two are loaded at once, which waits for their stores.
    #[inline(always)]
    pub(crate) fn old(words: &[u64; 8]) -> Self {
        let (pairs, _) = words.as_chunks::<2>();
        // SAFETY: sixteen bytes that are there, however they are aligned.
        Self { pairs: core::array::from_fn(|i| Pair(unsafe { _mm_loadu_si128(pairs[i].as_ptr().cast()) })) }
    }

    /// Of words that may have been stored just now: each is loaded on its own, of which the compiler may not make one load of two.
    #[inline(always)]
    pub(crate) fn new(words: &[u64; 8]) -> Self {
        // SAFETY: a word that is there.
        Self::of(|i| unsafe { core::ptr::from_ref(&words[i]).read_volatile() })
    }

    /// Of words that come one by one.
    #[inline(always)]
    pub(crate) fn of(word: impl Fn(usize) -> u64) -> Self {
        Self { pairs: core::array::from_fn(|i| Pair::of([word(i * 2), word(i * 2 + 1)])) }
    }

    /// Its words by twos.
    #[inline(always)]
    pub(crate) const fn pairs(&self) -> [Pair; 4] {
        self.pairs
    }

    /// Stores it around the cache at an offset, which is rounded down to a line.
    #[inline(always)]
    pub(crate) fn store_around(self, window: Window, offset: usize) {
        let [a, b, c, d] = self.pairs;
        // SAFETY: a line in the window, which is mapped or faults. One piece, so that the address is made once.
        unsafe {
            core::arch::asm!(
                "movntdq [{line}], {a}", "movntdq [{line} + 16], {b}", "movntdq [{line} + 32], {c}", "movntdq [{line} + 48], {d}",
                line = in(reg) window.line(offset).as_ptr(), a = in(xmm_reg) a.0, b = in(xmm_reg) b.0, c = in(xmm_reg) c.0, d = in(xmm_reg) d.0,
                options(nostack, preserves_flags)
            );
        }
    }
}
