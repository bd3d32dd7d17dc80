//! What runs in the other contexts.

use core::arch::asm;
use twz_rt::abi::ObjectId;
use twz_rt::abi::thread::ThreadProperty;
use twz_rt::context::{self, gate_return};
use twz_rt::syscall;

/// Loads the word at `address`.
pub(crate) const LOAD: u64 = 0;
/// Stores a word there.
pub(crate) const STORE: u64 = 1;
/// Calls what is there.
pub(crate) const CALL: u64 = 2;
/// Ends the thread.
pub(crate) const EXIT: u64 = 3;

/// Gate 0: touches `address` as `what` says. A refused access ends the call, not the thread.
pub(crate) extern "C" fn probe(what: u64, address: u64, value: u64, _: u64, _: u64, _: u64) -> ! {
    let word = address as *mut u64;
    match what {
        // SAFETY: whether this may be read is what the caller wants to know; nothing depends on the value.
        LOAD => gate_return(unsafe { word.read_volatile() }, 0),
        STORE => {
            // SAFETY: as above; the caller gives words that nobody has references to.
            unsafe { word.write_volatile(value) };
            gate_return(0, 0)
        }
        CALL => {
            // SAFETY: as above; what stands there, if it can be executed, is a RET.
            unsafe { asm!("call {}", in(reg) address, clobber_abi("C")) };
            gate_return(0, 0)
        }
        _ => syscall::thread_exit(7),
    }
}

/// Gate 1: who called, as the kernel says.
pub(crate) extern "C" fn who(_: u64, _: u64, _: u64, low: u64, high: u64, _: u64) -> ! {
    gate_return(low, high)
}

/// Gate 2: everything that the caller's registers let through: RAX, RBX, RBP, R10 to R15 and all vector registers, ORed together.
#[unsafe(naked)]
pub(crate) extern "C" fn leftovers(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> ! {
    core::arch::naked_asm!(
        "or rax, rbx",
        "or rax, rbp",
        "or rax, r10",
        "or rax, r11",
        "or rax, r12",
        "or rax, r13",
        "or rax, r14",
        "or rax, r15",
        "por xmm0, xmm1",
        "por xmm0, xmm2",
        "por xmm0, xmm3",
        "por xmm0, xmm4",
        "por xmm0, xmm5",
        "por xmm0, xmm6",
        "por xmm0, xmm7",
        "por xmm0, xmm8",
        "por xmm0, xmm9",
        "por xmm0, xmm10",
        "por xmm0, xmm11",
        "por xmm0, xmm12",
        "por xmm0, xmm13",
        "por xmm0, xmm14",
        "por xmm0, xmm15",
        "movq rdi, xmm0",
        "psrldq xmm0, 8",
        "movq rsi, xmm0",
        "or rsi, rdi",
        "mov rdi, rax",
        "jmp {go_back}",
        go_back = sym go_back,
    )
}

extern "C" fn go_back(first: u64, second: u64) -> ! {
    gate_return(first, second)
}

/// Gate 4: what changing its caller's thread for good says: its priority, and the harts that it may run on.
pub(crate) extern "C" fn meddle(_: u64, _: u64, _: u64, _: u64, _: u64, _: u64) -> ! {
    let change =
        |property, value| syscall::thread_set(0, property, value).map_or_else(|error| error as u64, |()| 0);
    gate_return(change(ThreadProperty::Priority, 1), change(ThreadProperty::Affinity, 1))
}

/// Gate 3: calls gate 3 of the context (low, high) `depth` times, one in the other; returns the error that ended it and how many levels
/// there were.
pub(crate) extern "C" fn nest(low: u64, high: u64, depth: u64, _: u64, _: u64, _: u64) -> ! {
    if depth == 0 {
        gate_return(0, 1);
    }
    match context::gate_call(ObjectId { lo: low, hi: high }, 3, [low, high, depth - 1]) {
        Ok((error, levels)) => gate_return(error, levels + 1),
        Err(error) => gate_return(error as u64, 1),
    }
}
