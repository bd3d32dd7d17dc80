//! The processor's instructions for durability, chosen at run time.
//!
//! CPUID is asked once per process or guest: under virtualization it is an exit.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, _mm_clflush, _mm_sfence};
use core::sync::atomic::{AtomicU8, Ordering};

/// The instruction that writes a cache line back to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlushInstruction {
    /// `clflush`: evicts, and waits for each line; every x86-64 has it.
    Clflush = 1,
    /// `clflushopt`: evicts, ordered by the fence only.
    Clflushopt = 2,
    /// `clwb`: writes back and may keep the line, ordered by the fence only.
    Clwb = 3,
}

/// CPUID.7.0:EBX bit of `clflushopt` (SDM vol. 2, CPUID).
const EBX_CLFLUSHOPT: u32 = 1 << 23;
/// CPUID.7.0:EBX bit of `clwb`.
const EBX_CLWB: u32 = 1 << 24;
/// CPUID leaf of the structured extended features.
const LEAF_EXTENDED_FEATURES: u32 = 7;

/// The chosen instruction as its discriminant; 0 until the first use.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

/// The best flush instruction of this processor.
#[inline]
#[must_use]
pub fn flush_instruction() -> FlushInstruction {
    match CHOSEN.load(Ordering::Relaxed) {
        3 => FlushInstruction::Clwb,
        2 => FlushInstruction::Clflushopt,
        1 => FlushInstruction::Clflush,
        _ => detect(),
    }
}

#[cold]
fn detect() -> FlushInstruction {
    let features = if __cpuid(0).eax >= LEAF_EXTENDED_FEATURES {
        __cpuid_count(LEAF_EXTENDED_FEATURES, 0).ebx
    } else {
        0
    };
    let best = if features & EBX_CLWB != 0 {
        FlushInstruction::Clwb
    } else if features & EBX_CLFLUSHOPT != 0 {
        FlushInstruction::Clflushopt
    } else {
        FlushInstruction::Clflush
    };
    CHOSEN.store(best as u8, Ordering::Relaxed);
    best
}

/// Starts writing back the line that holds `address`.
///
/// # Safety
/// `address` must be readable, and the processor must have `instruction`.
#[inline]
pub(crate) unsafe fn flush_line(address: *const u8, instruction: FlushInstruction) {
    match instruction {
        FlushInstruction::Clwb => {
            // SAFETY: the caller promises a readable address and the instruction; memory is not changed.
            unsafe { asm!("clwb [{}]", in(reg) address, options(nostack, preserves_flags)) }
        }
        FlushInstruction::Clflushopt => {
            // SAFETY: as above.
            unsafe { asm!("clflushopt [{}]", in(reg) address, options(nostack, preserves_flags)) }
        }
        FlushInstruction::Clflush => {
            // SAFETY: as above; every x86-64 has clflush.
            unsafe { _mm_clflush(address) }
        }
    }
}

/// Stores `value` around the cache.
///
/// # Safety
/// `address` must be writable and 8-byte aligned, and shared only with atomic accesses.
#[inline]
pub(crate) unsafe fn store_nt(address: *mut u64, value: u64) {
    // SAFETY: the caller promises a writable aligned address; movnti is baseline x86-64.
    unsafe { asm!("movnti [{}], {}", in(reg) address, in(reg) value, options(nostack, preserves_flags)) }
}

/// Waits for flushes and stores around the cache of this processor.
#[inline]
pub(crate) fn fence() {
    // The asm blocks above lack `nomem`, so the compiler keeps them and all stores before this call.
    // SAFETY: sfence is baseline x86-64 and has no operands.
    unsafe { _mm_sfence() }
}
