//! The superblock: what the pool is. Two copies; the valid one with the higher sequence counts.
//!
//! A copy is one line that is rewritten whole. A crash can tear it; then its check fails and the other copy stands,
//! since the copies are written one after the other with a fence between.

use super::{MAX_SIZE, MIN_SIZE, PAGE, SEGMENT, SUPERBLOCK_PAGES, Seal};
use crate::error::{Error, Result};
use pmem::Pmem;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// "TWZPOOL1" in memory order.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"TWZPOOL1");
/// Version of the whole format.
pub(crate) const VERSION: u32 = 1;

/// One copy of the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Superblock {
    /// [`MAGIC`].
    pub(crate) magic: u64,
    /// [`VERSION`].
    pub(crate) version: u32,
    /// log2 of the granule in bytes: 12 to 21.
    pub(crate) granule_log2: u32,
    /// Random, made at creation; its low half seals all other metadata.
    pub(crate) uuid: [u8; 16],
    /// Size of the pool in bytes, a multiple of [`SEGMENT`].
    pub(crate) size: u64,
    /// Raised by each rewrite.
    pub(crate) sequence: u64,
    /// Seconds since 1970 at creation.
    pub(crate) created: u64,
    /// CRC-32C of the 56 bytes before, in the low half; zero above.
    pub(crate) check: u64,
}
twz_abi::assert_layout!(
    Superblock,
    size = 64,
    magic = 0,
    version = 8,
    granule_log2 = 12,
    uuid = 16,
    size = 32,
    sequence = 40,
    created = 48,
    check = 56
);

impl Superblock {
    /// Where copy `number` starts.
    pub(crate) const fn offset(number: usize) -> u64 {
        SUPERBLOCK_PAGES[number] * PAGE
    }

    /// The seal of this pool's metadata.
    pub(crate) fn seal(&self) -> Seal {
        let mut low = [0; 8];
        low.copy_from_slice(&self.uuid[..8]);
        Seal(u64::from_le_bytes(low))
    }

    /// Bytes in a granule.
    pub(crate) const fn granule(&self) -> u64 {
        1 << self.granule_log2
    }

    fn right_check(&self) -> u64 {
        u64::from(crc32c::crc32c(&self.as_bytes()[..56]))
    }

    /// Reads copy `number` as it stands, unchecked.
    pub(crate) fn load(pmem: &impl Pmem, number: usize) -> Self {
        let mut bytes = [0; 64];
        pmem.read(Self::offset(number), &mut bytes);
        zerocopy::transmute!(bytes)
    }

    /// Writes copy `number` durably, with the right check.
    pub(crate) fn store(mut self, pmem: &impl Pmem, number: usize) {
        self.check = self.right_check();
        pmem.write(Self::offset(number), self.as_bytes());
        pmem.persist(Self::offset(number), 64);
    }

    /// The copy that counts, and the number of the other if that one has to be rewritten.
    ///
    /// # Errors
    /// When neither copy is good: not a pool, another version, or damaged; [`Error::Truncated`] when `pmem` ends
    /// before the pool does.
    pub(crate) fn find(pmem: &impl Pmem) -> Result<(Self, Option<usize>)> {
        if pmem.len() < MIN_SIZE {
            return Err(Error::TooSmall { size: pmem.len(), least: MIN_SIZE });
        }
        let copies = [Self::load(pmem, 0), Self::load(pmem, 1)];
        let good = |copy: &Self| copy.validate().is_ok();
        let (best, stale) = match (good(&copies[0]), good(&copies[1])) {
            (true, true) if copies[0] == copies[1] => (copies[0], None),
            (true, true) if copies[0].sequence >= copies[1].sequence => (copies[0], Some(1)),
            (true, false) => (copies[0], Some(1)),
            (_, true) => (copies[1], Some(0)),
            // The first copy names the trouble, unless only the second looks like a superblock at all.
            (false, false) if copies[0].magic != MAGIC && copies[1].magic == MAGIC => {
                return Err(copies[1].validate().err().unwrap_or(Error::NotAPool));
            }
            (false, false) => return Err(copies[0].validate().err().unwrap_or(Error::NotAPool)),
        };
        if best.size > pmem.len() {
            return Err(Error::Truncated { expected: best.size, found: pmem.len() });
        }
        Ok((best, stale))
    }

    fn validate(&self) -> Result<()> {
        if self.magic != MAGIC {
            return Err(Error::NotAPool);
        }
        if self.check != self.right_check() {
            return Err(Error::damaged(0, "superblock: wrong check"));
        }
        if self.version != VERSION {
            return Err(Error::Version { found: self.version, known: VERSION });
        }
        if !(12..=21).contains(&self.granule_log2) {
            return Err(Error::damaged(12, "superblock: granule is not 4 KiB to 2 MiB"));
        }
        if !(MIN_SIZE..=MAX_SIZE).contains(&self.size) || !self.size.is_multiple_of(SEGMENT) {
            return Err(Error::damaged(32, "superblock: impossible size"));
        }
        Ok(())
    }
}
