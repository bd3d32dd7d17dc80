//! What a run cost: written as JSON by `twzvmm --report FILE`, for benchmarks and for the curious.

use crate::control::{ContextList, Stats};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// A run of a machine in numbers.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Nanoseconds from the start of the process to the first instruction of ring 3; absent if there was none.
    pub startup_ns: Option<u64>,
    /// Resident bytes of the process by what they are for, when the machine had ended.
    pub memory: Memory,
    /// What was counted.
    pub stats: Stats,
    /// Security contexts with tables at the end, and what was counted of all.
    pub contexts: ContextList,
}

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Guest RAM that was touched.
    pub guest_ram: u64,
    /// Pages of the pool, in all mappings together.
    pub pool: u64,
    /// Everything else: what the VMM itself costs, its own code included.
    pub overhead: u64,
}

impl Memory {
    /// Sorts the resident pages of this process: those in guest RAM (an address range), those of the pool's file, the rest.
    #[must_use]
    pub(super) fn measure(ram: std::ops::Range<u64>, pool: &Path) -> Self {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let pool = std::fs::canonicalize(pool).unwrap_or_default();
        Self::sort(&maps, &ram, &pool.to_string_lossy())
    }

    /// Sorts the mappings that `smaps` (proc(5)) lists.
    fn sort(smaps: &str, ram: &std::ops::Range<u64>, pool: &str) -> Self {
        let mut memory = Self::default();
        let mut start = 0;
        let mut path = "";
        for line in smaps.lines() {
            if let Some(resident) = line.strip_prefix("Rss:") {
                let kilobytes =
                    resident.trim().strip_suffix("kB").and_then(|text| text.trim().parse::<u64>().ok());
                let bytes = kilobytes.unwrap_or(0) * 1024;
                let sum = if ram.contains(&start) {
                    &mut memory.guest_ram
                } else if !pool.is_empty() && path == pool {
                    &mut memory.pool
                } else {
                    &mut memory.overhead
                };
                *sum += bytes;
            } else if let Some((addresses, rest)) = line.split_once(' ')
                && let Some((first, _)) = addresses.split_once('-')
                && let Ok(first) = u64::from_str_radix(first, 16)
            {
                start = first;
                // perms offset dev inode path
                path = rest.splitn(5, ' ').nth(4).unwrap_or("").trim();
            }
        }
        memory
    }
}

/// Nanoseconds, for a report.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Memory;

    #[test]
    fn sorts_mappings() {
        let smaps = "\
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Size:             262144 kB
Rss:                 100 kB
7f0020000000-7f0024000000 rw-s 00000000 fe:00 42                         /tmp/a pool.img
Rss:                  20 kB
7f0030000000-7f0034000000 rw-s 00200000 fe:00 42                         /tmp/a pool.img
Rss:                   8 kB
7f0040000000-7f0040001000 r-xp 00000000 fe:00 7                          /usr/bin/twzvmm
Rss:                   4 kB
VmFlags: rd ex mr mw me
";
        let memory = Memory::sort(smaps, &(0x7f00_0000_0000..0x7f00_1000_0000), "/tmp/a pool.img");
        assert_eq!(memory, Memory { guest_ram: 100 << 10, pool: 28 << 10, overhead: 4 << 10 });
    }
}
