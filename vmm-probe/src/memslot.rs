//! What a window costs: time and kernel memory of a large, empty memslot.

use crate::host::Host;
use crate::lab::{Trouble, create_vm, last_errno};
use crate::mapping::{Mapping, Protection};
use crate::report::MemslotCost;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::Kvm;
use std::time::Instant;

/// Largest window that is ever worth having.
pub const LARGEST_WINDOW: u64 = 512 << 30;
/// Smallest window that is of any use: four whole objects.
pub const SMALLEST_WINDOW: u64 = 4 << 30;
/// Windows of a `shared` root that must fit in guest-physical space besides RAM.
const WINDOWS_PER_ROOT: u64 = 4;
/// Kernel memory that one window's memslot may take.
const MEMORY_BUDGET_BYTES: u64 = 32 << 20;
/// Time that making one window may take.
const TIME_BUDGET_NS: u64 = 20_000_000;
/// Memslot that is measured, where the address space has room for it.
const MEASURED_BYTES: u64 = 64 << 30;
/// Where it starts: above the 32-bit holes.
const START: u64 = 4 << 30;

/// Registers a 64 GiB memslot (smaller where addresses are short) and says what it took.
///
/// The kernel's part is seen in `VmallocUsed`, which other programs move too; the median of three tells.
pub(crate) fn measure(kvm: &Kvm, host: &Host, physical_bits: u8) -> Result<MemslotCost, Trouble> {
    let space = 1u64.checked_shl(physical_bits.into()).unwrap_or(u64::MAX);
    let bytes = MEASURED_BYTES.min(space / 2);
    let length = usize::try_from(bytes).map_err(|_| Trouble::Odd("64 GiB do not fit in usize".into()))?;
    let mapping = Mapping::anonymous(length, Protection::None)?;
    let vmalloc = || host.meminfo_bytes("VmallocUsed");
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let vm = create_vm(kvm)?;
        let before = vmalloc();
        let start = Instant::now();
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: START,
            memory_size: bytes,
            userspace_addr: mapping.address(),
        };
        // SAFETY: the mapping outlives the VM and is never accessible, to the guest or to us.
        unsafe { vm.set_user_memory_region(slot) }
            .map_err(|_| Trouble::Call { what: "KVM_SET_USER_MEMORY_REGION", errno: last_errno() })?;
        times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        if let (Some(before), Some(after)) = (before, vmalloc()) {
            memory.push(after.saturating_sub(before));
        }
    }
    times.sort_unstable();
    memory.sort_unstable();
    Ok(MemslotCost {
        bytes,
        time_ns: times.get(1).copied().unwrap_or(u64::MAX),
        kernel_bytes: memory.get(memory.len() / 2).copied(),
    })
}

/// The largest power of two, from [`SMALLEST_WINDOW`] to [`LARGEST_WINDOW`], of which a few fit in guest-physical
/// space and whose memslot stays within the budgets of memory (32 MiB) and time (20 ms). Costs grow linearly.
pub(crate) fn recommend(physical_bits: u8, cost: Option<&MemslotCost>) -> u64 {
    let space = 1u128 << physical_bits.min(64);
    let fits = |window: u64| {
        // One share more than the windows: RAM, and the hole below 4 GiB.
        let in_space = u128::from(window) * u128::from(WINDOWS_PER_ROOT + 1) <= space;
        let scaled =
            |measured: u64, of: u64| u128::from(measured) * u128::from(window) / u128::from(of.max(1));
        let in_budget = cost.is_some_and(|cost| {
            let memory = cost.kernel_bytes.map_or(0, |bytes| scaled(bytes, cost.bytes));
            memory <= MEMORY_BUDGET_BYTES.into() && scaled(cost.time_ns, cost.bytes) <= TIME_BUDGET_NS.into()
        });
        in_space && in_budget
    };
    let mut window = LARGEST_WINDOW;
    while window > SMALLEST_WINDOW && !fits(window) {
        window /= 2;
    }
    window
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(kernel_bytes: u64, time_ns: u64) -> MemslotCost {
        MemslotCost { bytes: 64 << 30, time_ns, kernel_bytes: Some(kernel_bytes) }
    }

    #[test]
    fn cheap_memslots_and_long_addresses_give_the_largest_window() {
        assert_eq!(recommend(46, Some(&cost(128 << 10, 250_000))), LARGEST_WINDOW);
    }

    #[test]
    fn short_addresses_limit_it() {
        assert_eq!(recommend(40, Some(&cost(128 << 10, 250_000))), 128 << 30);
        assert_eq!(recommend(36, Some(&cost(0, 0))), 8 << 30);
    }

    #[test]
    fn eight_bytes_a_page_limit_it() {
        // 64 GiB are 16 Mi pages, thus 128 MiB: a quarter of it is the budget.
        assert_eq!(recommend(46, Some(&cost(128 << 20, 1_000))), 16 << 30);
    }

    #[test]
    fn slow_memslots_limit_it_but_never_below_the_least() {
        assert_eq!(recommend(46, Some(&cost(0, 40_000_000))), 32 << 30);
        assert_eq!(recommend(46, Some(&cost(u64::MAX, u64::MAX))), SMALLEST_WINDOW);
        assert_eq!(recommend(46, None), SMALLEST_WINDOW);
        assert_eq!(recommend(255, Some(&cost(0, 0))), LARGEST_WINDOW);
        assert_eq!(recommend(0, Some(&cost(0, 0))), SMALLEST_WINDOW);
    }
}
