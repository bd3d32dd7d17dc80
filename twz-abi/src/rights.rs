//! What may be done with an object.

use bitflags::bitflags;

bitflags! {
    /// Rights to an object, or a request for them; the same bits in FOT entries, view entries and capabilities.
    ///
    /// Read and write are enforced by the second stage, execute by the first (DESIGN.md, "Who enforces what").
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Rights: u32 {
        /// Load from it.
        const READ = 1 << 0;
        /// Store to it.
        const WRITE = 1 << 1;
        /// Fetch instructions from it.
        const EXEC = 1 << 2;
        /// Use it as what it is: attach a security context, sign with a key.
        const USE = 1 << 3;
        /// Delete it.
        const DELETE = 1 << 4;
    }
}

impl Rights {
    /// The rights that a memory access can need.
    pub const ACCESS: Self = Self::READ.union(Self::WRITE).union(Self::EXEC);

    /// Short text for listings: `rwxud` with a dash for each right that is missing.
    #[must_use]
    pub fn letters(self) -> [u8; 5] {
        let letter = |right, character| if self.contains(right) { character } else { b'-' };
        [
            letter(Self::READ, b'r'),
            letter(Self::WRITE, b'w'),
            letter(Self::EXEC, b'x'),
            letter(Self::USE, b'u'),
            letter(Self::DELETE, b'd'),
        ]
    }
}
