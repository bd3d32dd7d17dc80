//! What KVM itself counts of a vCPU: exits that never reach us, instructions that it interpreted, faults that it settled.
//!
//! `KVM_GET_STATS_FD` gives a file that describes itself (Linux's Documentation/virt/kvm/api.rst, §4.134):
//! ```text
//! header       flags u32, name_size u32, num_desc u32, id_offset u32, desc_offset u32, data_offset u32
//! descriptors  flags u32, exponent i16, size u16, offset u32, bucket_size u32, name [name_size], num_desc times
//! data         `size` words of 64 bits for each descriptor, at data_offset + offset
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_GET_STATS_FD, 0xAE, 0xce);

/// Most of a statistics file that is read; KVM's have a few KiB.
const FILE_LIMIT: usize = 1 << 16;
/// Bytes of a descriptor before its name.
const DESCRIPTOR_BYTES: usize = 16;

/// The statistics of one vCPU.
#[derive(Debug)]
struct KvmStats {
    file: File,
    /// Name and offset in the file of each plain counter.
    counters: Vec<(String, u64)>,
}

impl KvmStats {
    /// Opens the statistics of a vCPU; `None` where KVM has none.
    fn of(vcpu: &impl AsRawFd) -> Option<Self> {
        // SAFETY: the ioctl takes no argument and returns a new descriptor.
        let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
        if fd < 0 {
            return None;
        }
        // SAFETY: the descriptor is new and ours.
        let file = unsafe { File::from_raw_fd(fd) };
        let mut bytes = vec![0; FILE_LIMIT];
        let length = file.read_at(&mut bytes, 0).ok()?;
        let counters = parse(bytes.get(..length)?)?;
        Some(Self { file, counters })
    }

    /// The counters now.
    fn read(&self) -> BTreeMap<String, u64> {
        let value = |(name, offset): &(String, u64)| {
            let mut word = [0; 8];
            self.file.read_exact_at(&mut word, *offset).ok()?;
            Some((name.clone(), u64::from_le_bytes(word)))
        };
        self.counters.iter().filter_map(value).collect()
    }
}

/// vCPUs whose statistics are kept open at a time, a descriptor each: more than a measurement uses.
pub(super) const OPEN_MAX: usize = 64;

/// The statistics of all vCPUs of a machine, whatever root they are in, those that are gone included.
#[derive(Debug, Default)]
pub(super) struct KvmTotals(Mutex<Totals>);

#[derive(Debug, Default)]
struct Totals {
    /// Root and hart of each.
    open: Vec<(u64, u32, KvmStats)>,
    /// Most of them.
    open_max: usize,
    ended: BTreeMap<String, u64>,
}

impl KvmTotals {
    /// At most so many statistics are open at a time; none before.
    pub(super) fn allow(&self, open_max: usize) {
        self.lock().open_max = open_max;
    }

    /// Counts a new vCPU in; those beyond what is allowed are left out.
    pub(super) fn add(&self, root: u64, hart: u32, vcpu: &impl AsRawFd) {
        let mut totals = self.lock();
        if totals.open.len() < totals.open_max
            && let Some(stats) = KvmStats::of(vcpu)
        {
            totals.open.push((root, hart, stats));
        }
    }

    /// A vCPU is about to go: takes its counts down. Open statistics would keep its virtual machine.
    pub(super) fn end(&self, root: u64, hart: u32) {
        let mut totals = self.lock();
        if let Some(at) = totals.open.iter().position(|open| (open.0, open.1) == (root, hart)) {
            let (.., stats) = totals.open.swap_remove(at);
            sum_up(&mut totals.ended, stats.read());
        }
    }

    /// The sums now.
    pub(super) fn read(&self) -> BTreeMap<String, u64> {
        let totals = self.lock();
        let mut sums = totals.ended.clone();
        totals.open.iter().for_each(|(.., stats)| sum_up(&mut sums, stats.read()));
        sums
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sum_up(sums: &mut BTreeMap<String, u64>, counts: BTreeMap<String, u64>) {
    for (name, count) in counts {
        *sums.entry(name).or_default() += count;
    }
}

/// Names and offsets of the counters that are a single word.
fn parse(file: &[u8]) -> Option<Vec<(String, u64)>> {
    let word = |at: usize| Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?));
    let (name_size, count) = (word(4)? as usize, word(8)? as usize);
    let (descriptors, data) = (word(16)? as usize, u64::from(word(20)?));
    let mut counters = Vec::new();
    for number in 0..count {
        let at = number.checked_mul(DESCRIPTOR_BYTES + name_size)?.checked_add(descriptors)?;
        let name = file.get(at + DESCRIPTOR_BYTES..at + DESCRIPTOR_BYTES + name_size)?;
        let size = u16::from_le_bytes(file.get(at + 6..at + 8)?.try_into().ok()?);
        if size == 1 {
            let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
            counters
                .push((String::from_utf8_lossy(&name[..end]).into_owned(), data + u64::from(word(at + 8)?)));
        }
    }
    Some(counters)
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn file() -> Vec<u8> {
        let mut file = Vec::new();
        for word in [0_u32, 8, 2, 24, 24, 24 + 2 * 24] {
            file.extend(word.to_le_bytes());
        }
        for (size, offset, name) in [(1_u16, 0_u32, b"exits\0\0\0"), (4, 8, b"hist\0\0\0\0")] {
            file.extend([0; 6]);
            file.extend(size.to_le_bytes());
            file.extend(offset.to_le_bytes());
            file.extend([0; 4]);
            file.extend(name);
        }
        file
    }

    #[test]
    fn finds_plain_counters() {
        assert_eq!(parse(&file()), Some(vec![("exits".to_string(), 72)]));
    }

    #[test]
    fn a_cut_file_is_none() {
        let whole = file();
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "{length} bytes");
        }
    }
}
