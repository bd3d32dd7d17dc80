//! The one probe that a VMM needs before its first guest instruction, on the vCPU that it has anyway.
//!
//! It times a short loop. A loop that is slow in each of three tries is interpreted; one that is fast once is confirmed
//! by `popcnt`, which KVM's emulator does not know. So "native" is never a guess, and the costly way to the answer
//! (an internal error takes KVM 1.5 ms on a host that interprets) is not taken.

use crate::lab::{DONE_PORT, Trouble};
use crate::watchdog::Watchdog;
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::time::{Duration, Instant};

/// Code for [`ring0_is_native`], the same in real and long mode:
/// `1: dec ecx; jnz 1b; out DONE_PORT, al; popcnt eax, eax; out DONE_PORT, al; hlt`.
pub const CODE: [u8; 13] =
    [0xff, 0xc9, 0x75, 0xfc, 0xe6, DONE_PORT, 0xf3, 0x0f, 0xb8, 0xc0, 0xe6, DONE_PORT, 0xf4];

/// Iterations of the timed loop, two instructions each.
const ITERATIONS: u64 = 200;
/// An instruction takes an emulator some 300 ns and an emulated CPU 10 ns.
const SLOW: Duration = Duration::from_nanos(100 * 2 * ITERATIONS);
/// Longest that all of it may take: only a host that fails takes so long, one whose CPUs are taken may well need 100 ms.
const LIMIT: Duration = Duration::from_secs(10);

/// Whether ring 0 runs on the CPU, tried on a vCPU fresh from `KVM_CREATE_VCPU` (still in real mode).
///
/// The caller has put [`CODE`] into guest RAM at guest-physical `code_at`, a multiple of 16 below 1 MiB. Registers are
/// afterwards what they were. Takes well below a millisecond.
///
/// # Errors
/// What the host refused or the guest did instead, in words; `code_at` outside its range.
pub fn ring0_is_native(vcpu: &mut VcpuFd, code_at: u64) -> Result<bool, String> {
    try_it(vcpu, code_at).map_err(|trouble| trouble.to_string())
}

fn try_it(vcpu: &mut VcpuFd, code_at: u64) -> Result<bool, Trouble> {
    let selector = match u16::try_from(code_at / 16) {
        Ok(selector) if code_at.is_multiple_of(16) => selector,
        _ => return Err(Trouble::Odd(format!("no real-mode segment starts at {code_at:#x}"))),
    };
    let old_sregs = vcpu.get_sregs().map_err(Trouble::kvm("KVM_GET_SREGS"))?;
    let old_regs = vcpu.get_regs().map_err(Trouble::kvm("KVM_GET_REGS"))?;
    let mut sregs = old_sregs;
    (sregs.cs.base, sregs.cs.selector) = (code_at, selector);
    vcpu.set_sregs(&sregs).map_err(Trouble::kvm("KVM_SET_SREGS"))?;
    let native = run(vcpu);
    vcpu.set_regs(&old_regs).map_err(Trouble::kvm("KVM_SET_REGS"))?;
    vcpu.set_sregs(&old_sregs).map_err(Trouble::kvm("KVM_SET_SREGS"))?;
    native
}

fn run(vcpu: &mut VcpuFd) -> Result<bool, Trouble> {
    let mut watchdog = Watchdog::new()?;
    watchdog.arm(LIMIT)?;
    let time = |vcpu: &mut VcpuFd, count| {
        let mut regs = vcpu.get_regs().map_err(Trouble::kvm("KVM_GET_REGS"))?;
        (regs.rip, regs.rflags, regs.rcx) = (0, 2, count);
        vcpu.set_regs(&regs).map_err(Trouble::kvm("KVM_SET_REGS"))?;
        let start = Instant::now();
        match to_port(vcpu, &watchdog)? {
            true => Ok(start.elapsed()),
            false => Err(Trouble::Odd("KVM does not know DEC, JNZ or OUT".into())),
        }
    };
    let exit = time(vcpu, 1)?;
    for _ in 0..3 {
        if time(vcpu, ITERATIONS)?.saturating_sub(exit) < SLOW {
            return to_port(vcpu, &watchdog);
        }
    }
    Ok(false)
}

/// Runs to the next port write: true; or to where KVM gives up: false.
fn to_port(vcpu: &mut VcpuFd, watchdog: &Watchdog) -> Result<bool, Trouble> {
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, _)) if port == u16::from(DONE_PORT) => break,
            Ok(VcpuExit::InternalError) => return Ok(false),
            Ok(exit) => return Err(Trouble::Odd(format!("a loop in ring 0 ended with {exit:?}"))),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) && !watchdog.expired() => {}
            Err(error) => return Err(Trouble::kvm("KVM_RUN")(error)),
        }
    }
    // The port write is complete only after the next entry: one that enters nothing.
    vcpu.set_kvm_immediate_exit(1);
    let completed = vcpu.run().map(drop);
    vcpu.set_kvm_immediate_exit(0);
    match completed {
        Err(error) if error.errno() != libc::EINTR => Err(Trouble::kvm("KVM_RUN")(error)),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::create_vm;
    use crate::mapping::{Mapping, Protection};
    use kvm_bindings::kvm_userspace_memory_region;
    use std::time::Instant;

    /// Says the same as the probe with its own machine, twice on one vCPU, and leaves the registers alone.
    #[test]
    fn agrees_with_the_long_probe() {
        let Some(kvm) = crate::testing::kvm() else { return };
        let mut ram = Mapping::anonymous(0x4000, Protection::ReadWrite).unwrap();
        ram.write(0x1000, &CODE).unwrap();
        let vm = create_vm(&kvm).unwrap();
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: 0x4000,
            userspace_addr: ram.address(),
        };
        // SAFETY: `ram` is dropped after `vm` and used by nobody else while the guest runs.
        unsafe { vm.set_user_memory_region(slot) }.unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        vcpu.set_cpuid2(&crate::lab::supported_cpuid(&kvm).unwrap()).unwrap();
        let before = (vcpu.get_regs().unwrap(), vcpu.get_sregs().unwrap());
        let expected = crate::ring0_is_native(&kvm);
        for _ in 0..2 {
            let start = Instant::now();
            assert_eq!(ring0_is_native(&mut vcpu, 0x1000), expected);
            println!("took {:?}", start.elapsed());
        }
        assert_eq!(before, (vcpu.get_regs().unwrap(), vcpu.get_sregs().unwrap()));
        assert!(ring0_is_native(&mut vcpu, 0x1001).is_err());
        assert!(ring0_is_native(&mut vcpu, 1 << 20).is_err());
        drop(vcpu);
    }
}
