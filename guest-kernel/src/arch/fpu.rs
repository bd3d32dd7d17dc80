//! Vector and floating-point state of threads: XSAVE where ring 0 runs on the CPU and has it, else FXSAVE.

use crate::memory::frames::{Frame, Frames};
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicU64, Ordering};
use twz_abi::PAGE_BYTES;

/// x87, SSE, AVX, AVX-512: what is saved. AMX tiles are not offered; their 8 KiB would not fit a thread's page.
const WANTED: u64 = 0b1110_0111;
/// Bytes of the largest image: AVX-512's upper registers end here (CPUID leaf 0xD).
const AREA_BYTES: usize = 2688 + 8;

/// Components in use; 0 while FXSAVE is.
static XSAVE_MASK: AtomicU64 = AtomicU64::new(0);

/// A thread's saved state, in a frame of its own: going to a gate and back exchanges it without copying.
pub(crate) struct FpuPage(Frame);

const _: () = assert!(AREA_BYTES <= PAGE_BYTES);

impl FpuPage {
    /// The state of a thread that has not run: x87 and MXCSR defaults, all registers zero.
    pub(crate) fn allocate(frames: &mut Frames) -> Option<Self> {
        let frame = frames.allocate()?;
        let page = frame.pointer::<u8>();
        // SAFETY: the frame is ours, full of zeros and aligned: the control word stands at byte 0 of the image.
        unsafe { page.cast::<u16>().write(0x37f) };
        // SAFETY: as above; MXCSR stands at byte 24.
        unsafe { page.wrapping_add(24).cast::<u32>().write(0x1f80) };
        Some(Self(frame))
    }

    /// Gives the frame back.
    pub(crate) fn free(self, frames: &mut Frames) {
        frames.free(self.0);
    }

    /// Saves the CPU's state here.
    pub(crate) fn save(&mut self) {
        let (area, mask) = (self.0.pointer::<u8>(), XSAVE_MASK.load(Ordering::Relaxed));
        if mask == 0 {
            // SAFETY: the area is a frame: 64-byte aligned and longer than 512 bytes.
            unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
        } else {
            // SAFETY: `enable_xsave` checked that the enabled components fit the area.
            unsafe {
                asm!("xsave64 [{}]", in(reg) area, in("eax") low(mask), in("edx") 0, options(nostack, preserves_flags));
            }
        }
    }

    /// Makes this the CPU's state.
    pub(crate) fn restore(&self) {
        let (area, mask) = (self.0.pointer::<u8>(), XSAVE_MASK.load(Ordering::Relaxed));
        if mask == 0 {
            // SAFETY: the area holds what `allocate` or `save` wrote; no program can reach it.
            unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(readonly, nostack, preserves_flags)) };
        } else {
            // SAFETY: as above.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") low(mask), in("edx") 0,
                    options(readonly, nostack, preserves_flags));
            }
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "all wanted components are below bit 32")]
fn low(mask: u64) -> u32 {
    mask as u32
}

/// Turns on the components that the CPU has and whose image fits; CR4.OSXSAVE must be set. `false` if they do not stay on: XSAVE is of no
/// use then.
pub(crate) fn enable_xsave() -> bool {
    let supported = __cpuid_count(0xd, 0);
    let mask = WANTED & (u64::from(supported.edx) << 32 | u64::from(supported.eax));
    // SAFETY: x87 and SSE are always among `mask`; each other bit is one that the CPU supports.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") low(mask), in("edx") 0, options(nomem, nostack, preserves_flags));
    }
    // EBX counts what is enabled now. A CPU that lays AVX-512 out beyond our area keeps x87, SSE and AVX only.
    let mask = if __cpuid_count(0xd, 0).ebx as usize > AREA_BYTES { mask & 0b111 } else { mask };
    // SAFETY: a subset of the above.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") low(mask), in("edx") 0, options(nomem, nostack, preserves_flags));
    }
    // CPUID makes an exit. KVM puts its own idea of XCR0 back on the way in, which is another one where the CPU does not tell it of
    // XSETBV: QEMU's emulation of SVM. Vector registers would be lost at every switch.
    let _ = __cpuid_count(0, 0);
    let (kept, kept_high): (u32, u32);
    // SAFETY: CR4.OSXSAVE is set (caller's promise), so XGETBV exists.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") kept, out("edx") kept_high, options(nomem, nostack)) };
    let stays = (kept, kept_high) == (low(mask), 0);
    XSAVE_MASK.store(if stays { mask } else { 0 }, Ordering::Relaxed);
    stays
}
