//! Vector and floating-point state of threads: saved by XSAVE where ring 0 runs on the CPU and has it; exchanged by `twzvmm` where ring 0
//! cannot execute it but programs have more registers than FXSAVE knows; else by FXSAVE.
//!
//! Each thread has a page for its state. One that was not saved yet is *fresh*: it stands for the state that every thread begins with, so a
//! page that had another owner is never cleared, and never loaded either.

use crate::mailbox::Mailbox;
use crate::memory::frames::{Frame, Frames};
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use twz_abi::PAGE_BYTES;

/// x87, SSE, AVX, AVX-512: what is saved. AMX tiles are not offered; their 8 KiB would not fit a thread's page.
const WANTED: u64 = 0b1110_0111;
/// Bytes of the largest image: AVX-512's upper registers end here (CPUID leaf 0xD).
const AREA_BYTES: usize = 2688 + 8;
const _: () = assert!(AREA_BYTES <= PAGE_BYTES);
/// Offset of the word in an image that says which components it holds; here x87 and SSE.
const COMPONENTS_OFFSET: usize = 512;
const X87_AND_SSE: u64 = 0b11;
/// Pages that are kept for the next thread or call.
const SPARES_MAX: u32 = 64;

/// Components in use; 0 while FXSAVE is.
static XSAVE_MASK: AtomicU64 = AtomicU64::new(0);
/// `twzvmm` exchanges the state.
static BY_CALL: AtomicBool = AtomicBool::new(false);

/// A thread's saved state.
pub(crate) struct FpuPage {
    frame: Frame,
    /// Nothing was saved yet.
    is_fresh: bool,
}

/// Pages for states.
pub(crate) struct FpuPages {
    /// What a thread begins with: x87 and MXCSR defaults, all registers zero.
    initial: Option<Frame>,
    /// Chained through their first words.
    spare: Option<Frame>,
    spare_count: u32,
}

impl FpuPages {
    /// No pages; [`FpuPages::prepare`] comes first.
    pub(crate) const EMPTY: Self = Self { initial: None, spare: None, spare_count: 0 };

    /// Makes the initial state; `false` without memory.
    pub(crate) fn prepare(&mut self, frames: &mut Frames) -> bool {
        self.initial = frames.allocate();
        let Some(frame) = self.initial else { return false };
        let page = frame.pointer::<u8>();
        // SAFETY: the frame is ours, full of zeros and aligned: the control word stands at byte 0 of the image.
        unsafe { page.cast::<u16>().write(0x37f) };
        // SAFETY: as above; MXCSR stands at byte 24.
        unsafe { page.wrapping_add(24).cast::<u32>().write(0x1f80) };
        // SAFETY: as above; FXRSTOR does not look there.
        unsafe { page.wrapping_add(COMPONENTS_OFFSET).cast::<u64>().write(X87_AND_SSE) };
        true
    }

    /// A fresh page; `None` without memory.
    pub(crate) fn allocate(&mut self, frames: &mut Frames) -> Option<FpuPage> {
        let frame = match self.spare {
            Some(frame) => {
                // SAFETY: a spare page is ours; its first word is the next one's address, or 0.
                let next = unsafe { frame.pointer::<u64>().read() };
                // SAFETY: `free` wrote it.
                self.spare = unsafe { Frame::from_address(next) };
                self.spare_count -= 1;
                frame
            }
            // Full of zeros, as the reserved words of an image must be.
            None => frames.allocate()?,
        };
        Some(FpuPage { frame, is_fresh: true })
    }

    /// Takes a page back.
    pub(crate) fn free(&mut self, frames: &mut Frames, page: FpuPage) {
        if self.spare_count == SPARES_MAX {
            frames.free(page.frame);
            return;
        }
        let next = self.spare.map_or(0, Frame::address);
        // SAFETY: the page is ours now. The word belongs to the x87 image, which is written anew before it is loaded.
        unsafe { page.frame.pointer::<u64>().write(next) };
        self.spare = Some(page.frame);
        self.spare_count += 1;
    }

    /// Where the state stands that is to be loaded for `page`.
    pub(crate) fn source(&self, page: &FpuPage) -> Option<Frame> {
        if page.is_fresh { self.initial } else { Some(page.frame) }
    }
}

impl FpuPage {
    /// Where to save to; it then counts as saved.
    pub(crate) fn target(&mut self) -> Frame {
        self.is_fresh = false;
        self.frame
    }
}

/// Saves the CPU's state to one page and loads it from another, as far as they are given.
pub(crate) fn exchange(mailbox: Mailbox, to: Option<Frame>, from: Option<Frame>) {
    if BY_CALL.load(Ordering::Relaxed) {
        if to.is_some() || from.is_some() {
            mailbox.exchange_vectors(to.map_or(0, Frame::address), from.map_or(0, Frame::address));
        }
        return;
    }
    let mask = XSAVE_MASK.load(Ordering::Relaxed);
    if let Some(area) = to.map(Frame::pointer::<u8>) {
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
    if let Some(area) = from.map(Frame::pointer::<u8>) {
        if mask == 0 {
            // SAFETY: the area holds what `prepare` or this function wrote; no program can reach it.
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

/// How state is saved, for the log.
pub(crate) fn method() -> &'static str {
    match (BY_CALL.load(Ordering::Relaxed), XSAVE_MASK.load(Ordering::Relaxed)) {
        (true, _) => "hypercall",
        (false, 0) => "FXSAVE",
        (false, _) => "XSAVE",
    }
}

/// From now on `twzvmm` exchanges the state.
pub(crate) fn use_calls() {
    BY_CALL.store(true, Ordering::Relaxed);
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
    // CPUID makes an exit. After it QEMU's emulated SVM has shown XCR0 with x87 alone, and vector registers were lost at every switch; probably
    // KVM did not see XSETBV there and put its own value back. Whatever the cause, a value that does not stay cannot be used.
    let _ = __cpuid_count(0, 0);
    let (kept, kept_high): (u32, u32);
    // SAFETY: CR4.OSXSAVE is set (caller's promise), so XGETBV exists.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") kept, out("edx") kept_high, options(nomem, nostack)) };
    let stays = (kept, kept_high) == (low(mask), 0);
    XSAVE_MASK.store(if stays { mask } else { 0 }, Ordering::Relaxed);
    stays
}
