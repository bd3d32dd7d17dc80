//! The check of a batch, which tells a whole one from a torn one; no defence against whoever may write the log.

const CHECK_A: u64 = 0x9e37_79b9_7f4a_7c15;
const CHECK_B: u64 = 0xd6e8_feb8_6659_fd93;

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

    /// Words of a batch, of which the first is its `first`-th.
    #[inline(always)]
    pub(super) fn add_all(&mut self, first: usize, words: &[u64]) {
        let (eights, rest) = words.as_chunks::<8>();
        for eight in eights {
            for (i, word) in eight.iter().enumerate() {
                self.add(first + i, *word);
            }
        }
        for (i, word) in rest.iter().enumerate() {
            self.add(first + i, *word);
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
