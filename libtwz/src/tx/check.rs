//! The check of a batch, which tells a whole one from a torn one; no defence against whoever may write the log.
//!
//! The words of a batch's first line go through four lanes one by one, since most batches are of that line alone. The lines behind it go through
//! eight lanes at once, in vectors, and what comes out goes through the four.

use crate::line::{Line, Pair};

const CHECK_A: u64 = 0x9e37_79b9_7f4a_7c15;
const CHECK_B: u64 = 0xd6e8_feb8_6659_fd93;
/// What the eight lanes begin with: the hexadecimal digits of pi.
const LANES: [u64; 8] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
    0x4528_21e6_38d0_1377,
    0xbe54_66cf_34e9_0c6c,
    0xc0ac_29b7_c97c_50dd,
    0x3f84_d5b5_b547_0917,
];

/// The check of a batch: four lanes, since one is a chain of multiplications.
pub(super) struct Check {
    lanes: [u64; 4],
}

impl Check {
    #[inline]
    pub(super) fn new(epoch: u64, head: u64) -> Self {
        let seed = epoch.wrapping_mul(CHECK_B) ^ CHECK_A;
        Self { lanes: [mix(seed, head), seed ^ 1, seed ^ 2, seed ^ 3] }
    }

    #[inline]
    pub(super) fn add(&mut self, i: usize, word: u64) {
        let lane = &mut self.lanes[i % 4];
        *lane = mix(*lane, word);
    }

    /// The words of the first line.
    #[inline(always)]
    pub(super) fn add_first(&mut self, words: &[u64]) {
        for (i, word) in words.iter().enumerate() {
            self.add(i, *word);
        }
    }

    /// What the lines behind it came to.
    #[inline(always)]
    pub(super) fn add_lines(&mut self, lines: &Lines) {
        for (i, word) in lines.end().into_iter().enumerate() {
            self.add(i, word);
        }
    }

    /// Never 0, so that zeroed memory holds no batch.
    #[inline]
    pub(super) fn end(&self) -> u64 {
        let [a, b, c, d] = self.lanes;
        // One multiplication deep: it stands between the last word and the store that everything waits for.
        let all = a ^ b.rotate_left(16) ^ c.rotate_left(32) ^ d.rotate_left(48);
        (all ^ all >> 29).wrapping_mul(CHECK_B) | 1
    }
}

#[inline]
fn mix(check: u64, word: u64) -> u64 {
    let mixed = (check ^ word).wrapping_mul(CHECK_A);
    mixed ^ mixed >> 32
}

/// The lines of a batch behind its first.
pub(super) struct Lines {
    lanes: [Pair; 4],
}

impl Lines {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self { lanes: Line::of(|i| LANES[i]).pairs() }
    }

    /// The next line: what it does depends on those before.
    #[inline(always)]
    pub(super) fn add(&mut self, line: &Line) {
        for (lanes, words) in self.lanes.iter_mut().zip(line.pairs()) {
            *lanes = stir(lanes.xor(words));
        }
    }

    fn end(&self) -> [u64; 2] {
        let [a, b, c, d] = self.lanes;
        let (ab, cd) = (stir(a).xor(b), stir(c).xor(d));
        stir(ab).xor(cd).words()
    }
}

/// Each of two words becomes the other one and the product of its own halves.
#[inline(always)]
fn stir(words: Pair) -> Pair {
    words.swapped().plus(words.products())
}
