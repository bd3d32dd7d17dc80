//! Which of the 512 entries of a table are in use, so that nobody has to look at the others: an object mostly has two.

/// Words of the set.
const WORDS: usize = 8;

/// A set of numbers below 512. As an iterator it is emptied in ascending order.
pub(crate) struct ChunkSet([u64; WORDS]);

impl ChunkSet {
    /// No number.
    pub(crate) const EMPTY: Self = Self([0; WORDS]);

    /// Adds a number; one from 512 on is none of a table's.
    #[allow(clippy::cast_possible_truncation, reason = "below 2^64 / 64")]
    pub(crate) fn add(&mut self, chunk: u64) {
        if let Some(word) = self.0.get_mut((chunk / 64) as usize) {
            *word |= 1 << (chunk % 64);
        }
    }
}

impl Iterator for ChunkSet {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let (word, bits) = (0_u64..).zip(&mut self.0).find(|(_, bits)| **bits != 0)?;
        let bit = u64::from(bits.trailing_zeros());
        *bits &= *bits - 1;
        Some(word * 64 + bit)
    }
}

#[cfg(test)]
mod tests {
    use super::ChunkSet;

    #[test]
    fn gives_each_number_once() {
        let mut set = ChunkSet::EMPTY;
        for chunk in [511, 0, 63, 64, 0, 300, 512] {
            set.add(chunk);
        }
        assert!(set.by_ref().eq([0, 63, 64, 300, 511]));
        assert_eq!(set.next(), None);
    }
}
