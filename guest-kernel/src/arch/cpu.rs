//! Control registers, MSRs, CPUID, and what was chosen from them at boot.

use super::{entry, fpu, tables};
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use twz_abi::boot::{BootInfo, boot_flags};

const MSR_EFER: u32 = 0xc000_0080;
const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_SFMASK: u32 = 0xc000_0084;
const MSR_FS_BASE: u32 = 0xc000_0100;
const MSR_GS_BASE: u32 = 0xc000_0101;
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
const EFER_SCE: u64 = 1 << 0;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
/// Flags that SYSCALL clears: trap, interrupt, direction, IOPL, nested task, alignment check.
const SYSCALL_MASK: u64 = 0x4_7700;
/// Flags that a program may choose: CF PF AF ZF SF TF DF OF AC ID.
const USER_FLAGS: u64 = 0x24_0dd5;
/// Interrupts on, and the bit that is always one.
const FORCED_FLAGS: u64 = 0x202;

/// In a value for CR3: keep the translations of the PCID in its low bits.
pub(crate) const CR3_KEEP: u64 = 1 << 63;

static PCID: AtomicBool = AtomicBool::new(false);
static SMAP: AtomicBool = AtomicBool::new(false);
static FSGSBASE: AtomicBool = AtomicBool::new(false);

/// Makes any 64 bits that a program chose into flags that ring 3 may have: IOPL 0, interrupts on.
pub(crate) const fn sanitise_flags(flags: u64) -> u64 {
    flags & USER_FLAGS | FORCED_FLAGS
}

/// Whether ring 0 must open SMAP to touch program memory.
pub(crate) fn has_smap() -> bool {
    SMAP.load(Ordering::Relaxed)
}

/// Whether translations carry an address-space identifier.
pub(crate) fn has_pcid() -> bool {
    PCID.load(Ordering::Relaxed)
}

/// Sets this hart's control registers and MSRs up. Features that KVM only promises by CPUID but cannot interpret are
/// left alone unless ring 0 runs on the CPU.
pub(crate) fn init(boot: &BootInfo, tables: &tables::HartTables) {
    let native = boot.flags & boot_flags::RING0_NATIVE != 0;
    let features = __cpuid_count(1, 0);
    let extended = __cpuid_count(7, 0);
    let has = |register: u32, bit: u32| register >> bit & 1 == 1;
    let mut cr4 = read_cr4();
    if has(extended.ebx, 0) {
        cr4 |= CR4_FSGSBASE;
        FSGSBASE.store(true, Ordering::Relaxed);
    }
    if native && has(extended.ebx, 7) {
        cr4 |= CR4_SMEP;
    }
    if native && has(extended.ebx, 20) {
        cr4 |= CR4_SMAP;
        SMAP.store(true, Ordering::Relaxed);
    }
    if native && has(features.ecx, 17) {
        cr4 |= CR4_PCIDE;
        PCID.store(true, Ordering::Relaxed);
    }
    if boot.flags & boot_flags::VECTORS_BY_CALL != 0 {
        fpu::use_calls();
    }
    let xsave = native && has(features.ecx, 26);
    if xsave {
        cr4 |= CR4_OSXSAVE;
    }
    // SAFETY: each bit is one that CPUID reports; none changes how the running code is translated.
    unsafe { asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags)) };
    if xsave && !fpu::enable_xsave() {
        // SAFETY: as above; programs then see by CPUID that they have no XSAVE.
        unsafe { asm!("mov cr4, {}", in(reg) cr4 & !CR4_OSXSAVE, options(nostack, preserves_flags)) };
    }
    // SAFETY: EFER exists on every 64-bit CPU.
    let efer = unsafe { read_msr(MSR_EFER) };
    let registers = [
        (MSR_EFER, efer | EFER_SCE),
        (MSR_STAR, tables::STAR),
        (MSR_LSTAR, lstar()),
        (MSR_SFMASK, SYSCALL_MASK),
        (MSR_KERNEL_GS_BASE, tables.scratch_address()),
    ];
    for (register, value) in registers {
        // SAFETY: all exist on every 64-bit CPU; SYSCALL leads to its entry with interrupts off, which is what that entry expects.
        unsafe { write_msr(register, value) };
    }
}

/// What was chosen at boot, for the log.
pub(crate) struct Features;

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let features = [(&PCID, "PCID"), (&SMAP, "SMAP"), (&FSGSBASE, "FSGSBASE")];
        for (_, name) in features.iter().filter(|(is_on, _)| is_on.load(Ordering::Relaxed)) {
            write!(f, "{name}, ")?;
        }
        write!(f, "vector state by {}", fpu::method())
    }
}

/// Address of the SYSCALL entry.
pub(crate) fn lstar() -> u64 {
    entry::syscall_entry as *const () as u64
}

fn read_cr4() -> u64 {
    let value;
    // SAFETY: reading a control register changes nothing.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// The address of the last page fault.
pub(crate) fn fault_address() -> u64 {
    let value;
    // SAFETY: reading a control register changes nothing.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Guest-physical address of the top-level table in use.
pub(crate) fn page_table() -> u64 {
    let value: u64;
    // SAFETY: reading a control register changes nothing.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value & !0xfff
}

/// Loads the top-level table at guest-physical `root`.
///
/// # Safety
/// The table's kernel half must be the kernel's.
pub(crate) unsafe fn load_page_table(root: u64) {
    // SAFETY: the kernel's own mappings stay as they are (caller's promise).
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Drops this hart's translation of one page of the current space.
pub(crate) fn invalidate_page(address: u64) {
    // SAFETY: dropping a cached translation is always allowed.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Bases of FS and GS that a thread has while it runs in ring 3.
pub(crate) fn segment_bases() -> (u64, u64) {
    if FSGSBASE.load(Ordering::Relaxed) {
        let (fs, gs);
        // SAFETY: CR4.FSGSBASE is set.
        unsafe { asm!("rdfsbase {}", out(reg) fs, options(nomem, nostack, preserves_flags)) };
        // SAFETY: as above; GS is the program's outside of the SYSCALL entry's first instructions.
        unsafe { asm!("rdgsbase {}", out(reg) gs, options(nomem, nostack, preserves_flags)) };
        (fs, gs)
    } else {
        // SAFETY: the MSR exists on every 64-bit CPU.
        let fs = unsafe { read_msr(MSR_FS_BASE) };
        // SAFETY: as above.
        (fs, unsafe { read_msr(MSR_GS_BASE) })
    }
}

/// Gives ring 3 these bases; both must be canonical.
pub(crate) fn set_segment_bases(fs: u64, gs: u64) {
    debug_assert!(is_user_address(fs) && is_user_address(gs));
    if FSGSBASE.load(Ordering::Relaxed) {
        // SAFETY: CR4.FSGSBASE is set; the kernel uses neither base.
        unsafe { asm!("wrfsbase {}", in(reg) fs, options(nomem, nostack, preserves_flags)) };
        // SAFETY: as above.
        unsafe { asm!("wrgsbase {}", in(reg) gs, options(nomem, nostack, preserves_flags)) };
    } else {
        // SAFETY: the MSR exists on every 64-bit CPU, and the base is canonical.
        unsafe { write_msr(MSR_FS_BASE, fs) };
        // SAFETY: as above.
        unsafe { write_msr(MSR_GS_BASE, gs) };
    }
}

/// Whether `address` lies in the half that belongs to programs.
pub(crate) const fn is_user_address(address: u64) -> bool {
    address < 1 << 47
}

/// Reads a model-specific register.
///
/// # Safety
/// The register must exist.
unsafe fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: it exists (caller's promise).
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The register must exist and the kernel must be prepared for the value.
#[allow(clippy::cast_possible_truncation, reason = "the instruction takes the two halves")]
unsafe fn write_msr(register: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") low, in("edx") high, options(nostack, preserves_flags))
    };
}

/// Sleeps until `twzvmm` has a reason to run this hart. Interrupts stay off: it returns by being entered again.
pub(crate) fn halt() {
    // SAFETY: HLT exits to `twzvmm`, which resumes after it; no memory is touched.
    unsafe { asm!("hlt", options(nostack, preserves_flags)) };
}
