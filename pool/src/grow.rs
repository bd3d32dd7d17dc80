//! Growing a pool that nobody has open.

use crate::core::Pool;
use crate::error::{Error, Result};
use crate::format::superblock::Superblock;
use crate::format::{MAX_SIZE, SEGMENT};
use crate::medium::{Mapped, OpenOptions};
use pmem::Pmem;
use std::path::Path;

/// Makes the pool at `path` larger: a file to `size` bytes, a device to all of it (`size` 0) or to `size`. Returns the new size.
///
/// The file grows first, then the copies of the superblock say so, one after the other with a fence between; before that the pool
/// is the old one. A size that is not larger than what is there changes nothing.
///
/// # Errors
/// As [`Pool::open`]; [`Error::TooLarge`], [`Error::Io`] (disk full among others).
pub fn grow(path: &Path, size: u64, options: &OpenOptions) -> Result<u64> {
    let mapped = Mapped::open(path, options)?;
    let (before, _) = Superblock::find(&mapped)?;
    let is_device = mapped.is_device();
    let size = if size == 0 && is_device { mapped.len() } else { size };
    let size = size - size % SEGMENT;
    if size <= before.size {
        return Ok(before.size);
    }
    let most = if is_device { mapped.len() } else { MAX_SIZE };
    if size > most {
        return Err(Error::TooLarge { size, most });
    }
    if mapped.len() < size {
        mapped.extend(size)?;
    }
    drop(mapped);
    let mapped = Mapped::open(path, options)?;
    extend_superblock(&mapped, size)?;
    mapped.sync()?;
    Ok(Pool::load(mapped)?.usage().size)
}

/// **Commit point**: the first copy that is stored.
fn extend_superblock(pmem: &impl Pmem, size: u64) -> Result<()> {
    let (mut superblock, _) = Superblock::find(pmem)?;
    superblock.size = size;
    superblock.sequence += 1;
    superblock.store(pmem, 1);
    superblock.store(pmem, 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pmem::sim::{Config, Sim, explore};

    const MIB: u64 = 1 << 20;

    /// At each crash the pool opens with the old or the new size.
    #[test]
    fn a_crash_leaves_the_old_or_the_new_size() {
        let sim = Sim::new(32 * MIB);
        drop(Pool::format(&sim, 16 * MIB, 4096));
        sim.start_recording();
        extend_superblock(&sim, 32 * MIB).unwrap();
        sim.mark(1);
        let trace = sim.take_trace();
        sim.rewind(&trace);
        let mut sizes = std::collections::BTreeSet::new();
        let report = explore(&sim, &trace, &Config::default(), &mut |sim, crash| {
            let size = Pool::load(sim).map_err(|error| error.to_string())?.usage().size;
            sizes.insert(size);
            let right = size == 32 * MIB || (size == 16 * MIB && crash.mark == 0);
            if right { Ok(()) } else { Err(format!("{size} bytes")) }
        });
        assert!(report.unwrap().states > 10);
        assert_eq!(sizes, [16 * MIB, 32 * MIB].into());
    }
}
