//! Vector and floating-point state across switches.

use crate::{Outcome, Test, check, failed, harts, same};
use alloc::format;
use alloc::vec::Vec;
use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, Ordering};
use twz_rt::abi::syscall::Syscall;
use twz_rt::thread::Builder;
use twz_rt::{fault, syscall};

pub(crate) const TESTS: &[Test] = &[("vector-sse", sse), ("vector-avx", avx), ("vector-control", control)];

/// Component of XCR0: the upper halves of the 256-bit registers.
const AVX: u64 = 1 << 2;
/// Bytes of all sixteen registers, 256 bits each.
const BYTES: usize = 512;

/// Loads xmm0–15 from RDI, makes RDX calls of `ThreadYield` and then spins ECX times without, stores them at RSI. The patterns stay in the
/// registers all the time.
#[unsafe(naked)]
unsafe extern "C" fn hold_xmm(from: *const u8, to: *mut u8, yields: u64, spins: u64) {
    naked_asm!(
        "push rbx", "push r12", "push r13",
        "mov rbx, rsi", "mov r12, rdx", "mov r13, rcx",
        "movdqu xmm0, [rdi]", "movdqu xmm1, [rdi + 16]", "movdqu xmm2, [rdi + 32]", "movdqu xmm3, [rdi + 48]",
        "movdqu xmm4, [rdi + 64]", "movdqu xmm5, [rdi + 80]", "movdqu xmm6, [rdi + 96]", "movdqu xmm7, [rdi + 112]",
        "movdqu xmm8, [rdi + 128]", "movdqu xmm9, [rdi + 144]", "movdqu xmm10, [rdi + 160]", "movdqu xmm11, [rdi + 176]",
        "movdqu xmm12, [rdi + 192]", "movdqu xmm13, [rdi + 208]", "movdqu xmm14, [rdi + 224]", "movdqu xmm15, [rdi + 240]",
        "2: test r12, r12", "jz 3f", "mov eax, {thread_yield}", "syscall", "dec r12", "jmp 2b",
        "3: test r13, r13", "jz 4f", "pause", "dec r13", "jmp 3b",
        "4: movdqu [rbx], xmm0", "movdqu [rbx + 16], xmm1", "movdqu [rbx + 32], xmm2", "movdqu [rbx + 48], xmm3",
        "movdqu [rbx + 64], xmm4", "movdqu [rbx + 80], xmm5", "movdqu [rbx + 96], xmm6", "movdqu [rbx + 112], xmm7",
        "movdqu [rbx + 128], xmm8", "movdqu [rbx + 144], xmm9", "movdqu [rbx + 160], xmm10", "movdqu [rbx + 176], xmm11",
        "movdqu [rbx + 192], xmm12", "movdqu [rbx + 208], xmm13", "movdqu [rbx + 224], xmm14", "movdqu [rbx + 240], xmm15",
        "pop r13", "pop r12", "pop rbx", "ret",
        thread_yield = const Syscall::ThreadYield as u64,
    )
}

/// As [`hold_xmm`] with ymm0–15.
#[unsafe(naked)]
unsafe extern "C" fn hold_ymm(from: *const u8, to: *mut u8, yields: u64, spins: u64) {
    naked_asm!(
        "push rbx", "push r12", "push r13",
        "mov rbx, rsi", "mov r12, rdx", "mov r13, rcx",
        "vmovdqu ymm0, [rdi]", "vmovdqu ymm1, [rdi + 32]", "vmovdqu ymm2, [rdi + 64]", "vmovdqu ymm3, [rdi + 96]",
        "vmovdqu ymm4, [rdi + 128]", "vmovdqu ymm5, [rdi + 160]", "vmovdqu ymm6, [rdi + 192]", "vmovdqu ymm7, [rdi + 224]",
        "vmovdqu ymm8, [rdi + 256]", "vmovdqu ymm9, [rdi + 288]", "vmovdqu ymm10, [rdi + 320]", "vmovdqu ymm11, [rdi + 352]",
        "vmovdqu ymm12, [rdi + 384]", "vmovdqu ymm13, [rdi + 416]", "vmovdqu ymm14, [rdi + 448]", "vmovdqu ymm15, [rdi + 480]",
        "2: test r12, r12", "jz 3f", "mov eax, {thread_yield}", "syscall", "dec r12", "jmp 2b",
        "3: test r13, r13", "jz 4f", "pause", "dec r13", "jmp 3b",
        "4: vmovdqu [rbx], ymm0", "vmovdqu [rbx + 32], ymm1", "vmovdqu [rbx + 64], ymm2", "vmovdqu [rbx + 96], ymm3",
        "vmovdqu [rbx + 128], ymm4", "vmovdqu [rbx + 160], ymm5", "vmovdqu [rbx + 192], ymm6", "vmovdqu [rbx + 224], ymm7",
        "vmovdqu [rbx + 256], ymm8", "vmovdqu [rbx + 288], ymm9", "vmovdqu [rbx + 320], ymm10", "vmovdqu [rbx + 352], ymm11",
        "vmovdqu [rbx + 384], ymm12", "vmovdqu [rbx + 416], ymm13", "vmovdqu [rbx + 448], ymm14", "vmovdqu [rbx + 480], ymm15",
        "vzeroupper",
        "pop r13", "pop r12", "pop rbx", "ret",
        thread_yield = const Syscall::ThreadYield as u64,
    )
}

type Hold = unsafe extern "C" fn(*const u8, *mut u8, u64, u64);

/// Runs three threads on each hart that hold distinct patterns; returns when none lost one.
fn crowd(hold: Hold, bytes: usize) -> Outcome {
    let harts = harts();
    let mut threads = Vec::new();
    for number in 0..harts * 3 {
        let thread = Builder::new().affinity(1 << (number % harts)).spawn(move || {
            let mut lost = 0;
            for round in 0..60_u64 {
                let mut from = [0_u8; BYTES];
                let mut seed = number * 7919 + round * 104_729 + 1;
                for byte in &mut from {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *byte = seed.to_le_bytes()[7];
                }
                let mut to = [0_u8; BYTES];
                // SAFETY: both buffers have the bytes that the function moves; it keeps what its caller expects.
                unsafe { hold(from.as_ptr(), to.as_mut_ptr(), 3 + round % 3, (round % 4) * 20_000) };
                lost += u64::from(from[..bytes] != to[..bytes]);
            }
            lost
        });
        threads.push(thread.map_err(failed("spawning"))?);
    }
    for (number, thread) in threads.into_iter().enumerate() {
        let lost = thread.join().map_err(|ended| format!("thread {number}: {ended}"))?;
        same!(lost, 0, "rounds in which thread {number} found another's registers");
    }
    Ok(())
}

fn sse() -> Outcome {
    crowd(hold_xmm, 256)
}

fn avx() -> Outcome {
    match fault::xsave_components() {
        Some((components, _)) if components & AVX != 0 => crowd(hold_ymm, BYTES),
        // The kernel has not enabled it, so programs cannot use it: nothing can be lost.
        _ => Ok(()),
    }
}

fn control() -> Outcome {
    // MXCSR and the x87 control word belong to the thread, too; a new thread begins with the defaults.
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::SeqCst);
    let read = || {
        let (mut mxcsr, mut x87) = (0_u32, 0_u16);
        // SAFETY: stores two control words into variables.
        unsafe {
            core::arch::asm!("stmxcsr [{}]", "fnstcw [{}]", in(reg) &raw mut mxcsr, in(reg) &raw mut x87)
        };
        (mxcsr & !0x3f, x87)
    };
    let write = |mxcsr: u32, x87: u16| {
        // SAFETY: changes the rounding of this thread, which computes nothing.
        unsafe {
            core::arch::asm!("ldmxcsr [{}]", "fldcw [{}]", in(reg) &raw const mxcsr, in(reg) &raw const x87)
        };
    };
    let noisy = Builder::new().affinity(1).spawn(move || {
        write(0x7f80, 0xf7f);
        let mut kept = true;
        while !STOP.load(Ordering::Relaxed) {
            syscall::thread_yield();
            kept &= read() == (0x7f80, 0xf7f);
        }
        kept
    });
    let noisy = noisy.map_err(failed("spawning"))?;
    let quiet = Builder::new().affinity(1).spawn(move || {
        let fresh = read();
        (
            fresh,
            (0..100).all(|_| {
                syscall::thread_yield();
                read() == fresh
            }),
        )
    });
    let quiet = quiet.map_err(failed("spawning"))?.join().map_err(|ended| format!("{ended}"));
    STOP.store(true, Ordering::Relaxed);
    let kept = noisy.join().map_err(|ended| format!("{ended}"))?;
    same!(quiet?, ((0x1f80, 0x37f), true), "the control words of a new thread, and that it keeps them");
    check!(kept, "a thread found another's control words");
    Ok(())
}
