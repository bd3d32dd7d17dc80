//! Vector and floating-point state across switches.

use crate::{Outcome, Test, check, failed, harts, same, skip};
use alloc::format;
use alloc::vec::Vec;
use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, Ordering};
use twz_rt::abi::fault::{FaultCause, FaultFrame};
use twz_rt::abi::syscall::Syscall;
use twz_rt::thread::Builder;
use twz_rt::{fault, syscall};

pub(crate) const TESTS: &[Test] =
    &[("vector-sse", sse), ("vector-avx", avx), ("vector-fresh", fresh), ("vector-control", control)];

/// Bytes of all sixteen registers, 256 bits each.
const BYTES: usize = 512;

/// Loads the sixteen registers from RDI, makes RDX calls of `ThreadYield` and then spins ECX times without, stores them at RSI. The patterns
/// stay in the registers all the time.
macro_rules! holds {
    ($name:ident, $load_store:literal, $register:literal, $bytes:literal) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(from: *const u8, to: *mut u8, yields: u64, spins: u64) {
            naked_asm!(
                "push rbx", "push r12", "push r13",
                "mov rbx, rsi", "mov r12, rdx", "mov r13, rcx",
                ".irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                concat!($load_store, " ", $register, "\\number, [rdi + \\number * ", $bytes, "]"),
                ".endr",
                "2: test r12, r12", "jz 3f", "mov eax, {thread_yield}", "syscall", "dec r12", "jmp 2b",
                "3: test r13, r13", "jz 4f", "pause", "dec r13", "jmp 3b",
                "4:",
                ".irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                concat!($load_store, " [rbx + \\number * ", $bytes, "], ", $register, "\\number"),
                ".endr",
                "pop r13", "pop r12", "pop rbx", "ret",
                thread_yield = const Syscall::ThreadYield as u64,
            )
        }
    };
}

holds!(hold_xmm, "movdqu", "xmm", "16");
holds!(hold_ymm, "vmovdqu", "ymm", "32");

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

/// Whether AVX instructions work, which CPUID does not say everywhere: it may deny what ring 3 has all the same.
fn has_avx() -> bool {
    const VZEROUPPER_BYTES: u64 = 3;
    fn undefined(frame: &mut FaultFrame) {
        if frame.info.cause == FaultCause::BadInstruction as u32 {
            frame.registers[fault::register::RAX] = 0;
            frame.rip += VZEROUPPER_BYTES;
        } else {
            syscall::thread_exit(99);
        }
    }
    // SAFETY: the handler takes no lock, and skips the one instruction below.
    unsafe { fault::set_handler(undefined) };
    let works: u64;
    // SAFETY: clears halves of registers that compiled code does not use, or faults and is skipped.
    unsafe { core::arch::asm!("mov eax, 1", "vzeroupper", out("rax") works) };
    fault::clear_handler();
    works == 1
}

fn avx() -> Outcome {
    if has_avx() { crowd(hold_ymm, BYTES) } else { skip("AVX instructions are undefined") }
}

/// A fresh thread finds no register of another in its own, whoever ran before it on the hart.
fn fresh() -> Outcome {
    let has_avx = has_avx();
    let dirty = Builder::new().affinity(1).spawn(move || {
        let from = [0xa5_u8; BYTES];
        let mut to = [0_u8; BYTES];
        let hold = if has_avx { hold_ymm } else { hold_xmm };
        // SAFETY: as in `crowd`.
        unsafe { hold(from.as_ptr(), to.as_mut_ptr(), 40, 0) };
    });
    let dirty = dirty.map_err(failed("spawning"))?;
    for _ in 0..8 {
        let clean = Builder::new().affinity(1).spawn(move || {
            let mut found = [0_u8; BYTES];
            let at = found.as_mut_ptr();
            // Registers that little compiled code uses, and that with moves of zeros and of the program's own data.
            if has_avx {
                // SAFETY: stores two registers into a buffer that holds them.
                unsafe { core::arch::asm!("vmovdqu [{0}], ymm14", "vmovdqu [{0} + 32], ymm15", in(reg) at) };
            } else {
                // SAFETY: as above.
                unsafe { core::arch::asm!("movdqu [{0}], xmm14", "movdqu [{0} + 32], xmm15", in(reg) at) };
            }
            found.iter().filter(|&&byte| byte == 0xa5).count()
        });
        let seen = clean.map_err(failed("spawning"))?.join().map_err(|ended| format!("{ended}"))?;
        same!(seen, 0, "bytes of another thread in a fresh one's registers");
    }
    dirty.join().map_err(|ended| format!("{ended}"))
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
