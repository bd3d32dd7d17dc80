//! The state of a vCPU before its first instruction, and the ioctls that kvm-ioctls lacks.

use kvm_bindings::{
    CpuId, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_device_attr, kvm_interrupt, kvm_msr_entry,
    kvm_regs, kvm_segment, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use std::os::fd::AsRawFd;
use twz_abi::boot::{STACK_BASE, STACK_STRIDE};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_INTERRUPT, 0xAE, 0x86, kvm_interrupt);
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, 0xAE, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, 0xAE, 0xe2, kvm_device_attr);

/// PE, MP, ET, NE, WP, AM, PG.
const CR0: u64 = 0x8005_0033;
/// PAE, PGE, OSFXSR, OSXMMEXCPT; the kernel adds what it chooses.
const CR4: u64 = 0x6a0;
/// LME, LMA, NXE.
const EFER: u64 = 0xd00;
const KERNEL_CODE: u16 = 0x10;
const KERNEL_DATA: u16 = 0x18;

/// Gives a vCPU its CPUID, which KVM allows before its first instruction only.
///
/// # Errors
/// The ioctl's.
pub(crate) fn set_cpuid(vcpu: &VcpuFd, hart: u32, cpuid: &CpuId) -> Result<(), kvm_ioctls::Error> {
    vcpu.set_cpuid2(&for_hart(cpuid, hart))
}

/// Components of vector state that threads have where `twzvmm` exchanges it: x87, SSE, AVX, AVX-512. What else the CPU has (AMX) is left off, so
/// programs cannot use it and it cannot leak from one to another.
const EXCHANGED: u64 = 0b1110_0111;
/// x87 and SSE: what FXSAVE knows.
const LEGACY: u64 = 0b11;
const XSAVE_FEATURE: u32 = 1 << 26;
const CR4_OSXSAVE: u64 = 1 << 18;

/// Whether this CPU has vector registers that FXSAVE does not save. Where ring 3 runs on it under another kernel's XCR0, programs have them even
/// if KVM's CPUID denies it.
pub(super) fn has_more_than_fxsave() -> bool {
    std::arch::is_x86_feature_detected!("avx")
}

/// XCR0 for harts whose ring 0 cannot execute XSAVE; `None` where KVM offers no XSAVE, and leaves XCR0 as the host has it.
pub(super) fn exchanged_components(cpuid: &CpuId) -> Option<u64> {
    let leaf = |function| cpuid.as_slice().iter().find(|leaf| leaf.function == function && leaf.index == 0);
    leaf(1).filter(|leaf| leaf.ecx & XSAVE_FEATURE != 0)?;
    let supported = leaf(0xd).map_or(0, |leaf| u64::from(leaf.edx) << 32 | u64::from(leaf.eax));
    Some(supported & EXCHANGED).filter(|components| components & !LEGACY != 0)
}

/// Enables these components for programs.
///
/// # Errors
/// The ioctl that failed.
pub(super) fn enable_components(
    vcpu: &VcpuFd,
    components: u64,
) -> Result<(), (&'static str, kvm_ioctls::Error)> {
    let mut sregs = vcpu.get_sregs().map_err(|error| ("KVM_GET_SREGS", error))?;
    sregs.cr4 |= CR4_OSXSAVE;
    vcpu.set_sregs(&sregs).map_err(|error| ("KVM_SET_SREGS", error))?;
    let mut xcrs = vcpu.get_xcrs().map_err(|error| ("KVM_GET_XCRS", error))?;
    xcrs.nr_xcrs = 1;
    (xcrs.xcrs[0].xcr, xcrs.xcrs[0].value) = (0, components);
    vcpu.set_xcrs(&xcrs).map_err(|error| ("KVM_SET_XCRS", error))
}

/// Bytes of the vector state of a vCPU.
pub(super) const VECTOR_BYTES: usize = size_of::<kvm_xsave>();

/// The vector state of a vCPU that does not run, as an XSAVE area in the standard format.
///
/// # Errors
/// The ioctl's.
pub(super) fn vectors(vcpu: &VcpuFd) -> Result<[u8; VECTOR_BYTES], kvm_ioctls::Error> {
    let area = vcpu.get_xsave()?;
    let mut bytes = [0; VECTOR_BYTES];
    for (to, word) in bytes.chunks_exact_mut(4).zip(area.region) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    Ok(bytes)
}

/// Gives a vCPU that does not run this vector state.
///
/// # Errors
/// The ioctl's: KVM checks what it is given.
pub(super) fn set_vectors(vcpu: &VcpuFd, bytes: &[u8; VECTOR_BYTES]) -> Result<(), kvm_ioctls::Error> {
    let mut area = kvm_xsave::default();
    for (word, from) in area.region.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes([from[0], from[1], from[2], from[3]]);
    }
    // SAFETY: no component is beyond these 4096 bytes: `enable_components` left those off that would be.
    unsafe { vcpu.set_xsave(&area) }
}

/// Puts a fresh vCPU where the kernel begins: 64-bit mode, interrupts off, its own stack, the hart's number in RDI.
///
/// # Errors
/// The ioctl that failed.
pub(super) fn prepare(
    vcpu: &VcpuFd,
    hart: u32,
    entry: u64,
    page_table: u64,
) -> Result<(), (&'static str, kvm_ioctls::Error)> {
    let mut sregs = vcpu.get_sregs().map_err(|error| ("KVM_GET_SREGS", error))?;
    sregs.cs = segment(KERNEL_CODE, 0xb, true);
    for data in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *data = segment(KERNEL_DATA, 0x3, false);
    }
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0, page_table, CR4, EFER);
    vcpu.set_sregs(&sregs).map_err(|error| ("KVM_SET_SREGS", error))?;
    let stack = STACK_BASE + (u64::from(hart) + 1) * STACK_STRIDE;
    let regs = kvm_regs { rip: entry, rsp: stack, rdi: u64::from(hart), rflags: 2, ..kvm_regs::default() };
    vcpu.set_regs(&regs).map_err(|error| ("KVM_SET_REGS", error))
}

/// MSRs of a hart that the kernel sets once, for all of its vCPUs: STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE.
const COMMON_MSRS: [u32; 5] = [0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102];

/// Gives a fresh vCPU of another root the state of the hart's vCPU `model`, at the instruction `entry`. Vector state is the kernel's affair.
///
/// # Errors
/// The call that failed.
pub(super) fn imitate(
    vcpu: &VcpuFd,
    model: &VcpuFd,
    entry: u64,
) -> Result<(), (&'static str, kvm_ioctls::Error)> {
    let sregs = model.get_sregs().map_err(|error| ("KVM_GET_SREGS", error))?;
    vcpu.set_sregs(&sregs).map_err(|error| ("KVM_SET_SREGS", error))?;
    // Hosts without XSAVE have neither call, and nothing to copy.
    if let Ok(xcrs) = model.get_xcrs() {
        vcpu.set_xcrs(&xcrs).map_err(|error| ("KVM_SET_XCRS", error))?;
    }
    for index in COMMON_MSRS {
        let wanted = [kvm_msr_entry { index, ..kvm_msr_entry::default() }];
        let Ok(mut msrs) = Msrs::from_entries(&wanted) else { continue };
        if model.get_msrs(&mut msrs).map_err(|error| ("KVM_GET_MSRS", error))? == 1 {
            vcpu.set_msrs(&msrs).map_err(|error| ("KVM_SET_MSRS", error))?;
        }
    }
    let regs = model.get_regs().map_err(|error| ("KVM_GET_REGS", error))?;
    vcpu.set_regs(&kvm_regs { rip: entry, rflags: 2, ..regs }).map_err(|error| ("KVM_SET_REGS", error))?;
    // Time goes on as it was. A host without the attribute keeps the vCPUs of all VMs on its own TSC.
    if let Err(error) = copy_tsc_offset(vcpu, model) {
        tracing::debug!(%error, "the TSC offset cannot be copied");
    }
    Ok(())
}

fn copy_tsc_offset(to: &VcpuFd, from: &VcpuFd) -> std::io::Result<()> {
    let mut offset = 0_u64;
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: &raw mut offset as u64,
        flags: 0,
    };
    // SAFETY: `addr` is a u64 of ours, which the call writes.
    if unsafe { ioctl_with_ref(&Borrowed(from), KVM_GET_DEVICE_ATTR(), &attribute) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: as above; the call reads it.
    match unsafe { ioctl_with_ref(&Borrowed(to), KVM_SET_DEVICE_ATTR(), &attribute) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn segment(selector: u16, kind: u8, code: bool) -> kvm_segment {
    kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        s: 1,
        db: u8::from(!code),
        l: u8::from(code),
        g: 1,
        ..kvm_segment::default()
    }
}

/// CPUID as hart `hart` sees it: its own APIC ID, everything else as KVM supports it.
fn for_hart(cpuid: &CpuId, hart: u32) -> CpuId {
    let mut own = cpuid.clone();
    for entry in own.as_mut_slice() {
        match entry.function {
            1 => entry.ebx = entry.ebx & 0x00ff_ffff | hart << 24,
            0xb | 0x1f => entry.edx = hart,
            _ => {}
        }
    }
    own
}

/// Bits of a guest-physical address.
pub(super) fn address_bits(cpuid: &CpuId) -> u32 {
    let leaf = cpuid.as_slice().iter().find(|entry| entry.function == 0x8000_0008);
    leaf.map_or(36, |entry| entry.eax & 0xff)
}

/// Injects an external interrupt.
///
/// # Errors
/// The ioctl's.
pub(super) fn interrupt(vcpu: &VcpuFd, vector: u8) -> std::io::Result<()> {
    let argument = kvm_interrupt { irq: u32::from(vector) };
    // SAFETY: the vCPU is one of KVM's, and the ioctl reads one `kvm_interrupt`.
    match unsafe { ioctl_with_ref(&Borrowed(vcpu), KVM_INTERRUPT(), &argument) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

struct Borrowed<'a>(&'a VcpuFd);

impl AsRawFd for Borrowed<'_> {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}
