//! Clock, random, counters, console, numbers that are no calls.

use crate::{Mapped, Outcome, Test, check, failed, now, same};
use core::arch::{asm, naked_asm};
use twz_rt::abi::ErrorCode;
use twz_rt::abi::counters::Counters;
use twz_rt::abi::syscall::Syscall;
use twz_rt::abi::thread::ThreadProperty;
use twz_rt::syscall;
use twz_rt::view::View;

pub(crate) const TESTS: &[Test] = &[
    ("clock", clock),
    ("random", random),
    ("counters", counters),
    ("unknown-call", unknown_call),
    ("bad-pointers", bad_pointers),
    ("registers", registers),
    ("low-syscall", low_syscall),
    ("tls", tls),
];

fn clock() -> Outcome {
    let (mut last, mut last_wall) = syscall::clock().map_err(failed("clock"))?;
    check!(last_wall > 1_600_000_000_000_000_000, "the year is before 2020: {last_wall}");
    let (first, first_wall) = (last, last_wall);
    for _ in 0..200 {
        let (next, wall) = syscall::clock().map_err(failed("clock"))?;
        check!(next > last, "{next} after {last}");
        (last, last_wall) = (next, wall);
    }
    let drift = (last - first).abs_diff(last_wall.saturating_sub(first_wall));
    check!(drift < 100_000_000, "the two clocks drifted by {drift} ns");
    Ok(())
}

fn random() -> Outcome {
    let (mut first, mut second) = ([0_u8; 256], [0_u8; 256]);
    syscall::random(&mut first).map_err(failed("random"))?;
    syscall::random(&mut second).map_err(failed("random"))?;
    check!(first != second, "twice the same bytes");
    check!(first[128..].iter().any(|&byte| byte != 0) && first[..128].iter().any(|&byte| byte != 0));
    let mut short = [7_u8; 16];
    syscall::random(&mut short[..8]).map_err(failed("random"))?;
    same!(short[8..], [7; 8], "bytes behind the buffer");
    same!(syscall::random(&mut [0; 257]), Err(ErrorCode::BadArgument), "257 bytes");
    Ok(())
}

fn counters() -> Outcome {
    let before = syscall::counters().map_err(failed("counters"))?;
    for _ in 0..50 {
        syscall::thread_yield();
    }
    let mapped = Mapped::new()?; // create: 1 call
    mapped.set(0, 1);
    let after = syscall::counters().map_err(failed("counters"))?;
    same!(after.syscalls - before.syscalls, 52, "calls");
    check!(after.page_faults > before.page_faults, "no page fault was counted");
    same!(after.slots_mapped - before.slots_mapped, 1, "slots");
    same!(after.binds - before.binds, 1, "binds");
    check!(after.frames_free > 0 && after.frames_used > 0);
    // A short buffer gets the first counters and no more.
    let mut words = [u64::MAX; 3];
    // SAFETY: the buffer has 16 bytes of the 24.
    let copied = unsafe { syscall::raw(Syscall::Counters, [words.as_mut_ptr() as u64, 16, 0, 0, 0, 0]) };
    same!(copied, Ok((16, 0)), "bytes copied");
    check!(words[0] != u64::MAX && words[1] != u64::MAX && words[2] == u64::MAX, "{words:?}");
    check!(size_of::<Counters>() == Counters::NAMES.len() * 8);
    Ok(())
}

/// A call by its number.
fn by_number(number: u64) -> u64 {
    let status;
    // SAFETY: used with numbers that are no calls.
    unsafe {
        asm!("syscall", inout("rax") number => status, out("rcx") _, out("r11") _, lateout("rdx") _, lateout("r8") _)
    };
    status
}

fn unknown_call() -> Outcome {
    for number in [0x1008, 0x1fff, 0x2000, u64::from(u32::MAX), 1 << 32 | 0x1012, u64::MAX, 1 << 63] {
        same!(by_number(number), ErrorCode::NoSuchCall as u64, "call {number:#x}");
    }
    Ok(())
}

fn bad_pointers() -> Outcome {
    let text = bad_pointers as *const () as u64;
    let bad = [
        0,
        8,
        0x1000,
        1 << 30,
        (1 << 47) - 4,
        1 << 47,
        0xffff_8000_0000_1000,
        0xffff_ffff_8010_0000,
        u64::MAX - 7,
        0x4242_0000_0000,
    ];
    for address in bad {
        for call in [Syscall::ConsoleWrite, Syscall::NameGet, Syscall::Random, Syscall::Counters] {
            // SAFETY: the pointer leads nowhere, which is the purpose.
            let result = unsafe { syscall::raw(call, [address, 16, 0, 0, 0, 0]) };
            same!(result, Err(ErrorCode::BadAddress), "{} with {address:#x}", call.name());
        }
        // SAFETY: as above.
        let result = unsafe { syscall::raw(Syscall::ObjectCreate, [address, 0, 0, 0, 0, 0]) };
        same!(result, Err(ErrorCode::BadAddress), "ObjectCreate with {address:#x}");
    }
    // Constants may be read but not written.
    // SAFETY: the kernel refuses to write there.
    let result = unsafe { syscall::raw(Syscall::Random, [text, 16, 0, 0, 0, 0]) };
    same!(result, Err(ErrorCode::BadAddress), "writing to code");
    Ok(())
}

/// Puts distinct values into all registers that a call must keep, makes it, and returns a bit for each that changed.
#[unsafe(naked)]
unsafe extern "C" fn call_keeps_registers(number: u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov rax, rdi",
        "mov rbx, 0x101",
        "mov rbp, 0x102",
        "mov r12, 0x103",
        "mov r13, 0x104",
        "mov r14, 0x105",
        "mov r15, 0x106",
        "mov rdi, 0x107",
        "mov rsi, 0x108",
        "mov r9, 0x109",
        "mov r10, 0x10a",
        "syscall",
        "xor eax, eax",
        "cmp rbx, 0x101",
        "je 2f",
        "or eax, 1",
        "2:",
        "cmp rbp, 0x102",
        "je 2f",
        "or eax, 2",
        "2:",
        "cmp r12, 0x103",
        "je 2f",
        "or eax, 4",
        "2:",
        "cmp r13, 0x104",
        "je 2f",
        "or eax, 8",
        "2:",
        "cmp r14, 0x105",
        "je 2f",
        "or eax, 16",
        "2:",
        "cmp r15, 0x106",
        "je 2f",
        "or eax, 32",
        "2:",
        "cmp rdi, 0x107",
        "je 2f",
        "or eax, 64",
        "2:",
        "cmp rsi, 0x108",
        "je 2f",
        "or eax, 128",
        "2:",
        "cmp r9, 0x109",
        "je 2f",
        "or eax, 256",
        "2:",
        "cmp r10, 0x10a",
        "je 2f",
        "or eax, 512",
        "2:",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

fn registers() -> Outcome {
    for call in [Syscall::ThreadYield, Syscall::ThreadSelf, Syscall::Clock] {
        // SAFETY: the calls take no arguments, and the function keeps what its caller expects.
        let changed = unsafe { call_keeps_registers(call as u64) };
        same!(changed, 0, "registers changed by {}", call.name());
    }
    Ok(())
}

/// A handler as a library for Linux programs would have one: RAX is the number plus the arguments' sum.
#[unsafe(naked)]
unsafe extern "C" fn low_handler() -> ! {
    naked_asm!(
        // The red zone below is the caller's; this handler needs no stack.
        "add rax, rdi",
        "add rax, rsi",
        "add rax, rdx",
        "add rax, r10",
        "add rax, r8",
        "add rax, r9",
        "jmp rcx",
    )
}

fn low_syscall() -> Outcome {
    // SAFETY: the handler changes RAX only.
    unsafe { View::current().set_low_syscall_handler(low_handler as *const () as u64) };
    let mut wrong = 0;
    for number in [0_u64, 1, 231, 0xfff] {
        let (sum, rbx, r12): (u64, u64, u64);
        // SAFETY: the handler changes RAX; RCX and R11 are lost to the instruction. RBX is LLVM's own, so it is exchanged by hand.
        unsafe {
            asm!(
                "xchg r15, rbx", "syscall", "xchg r15, rbx",
                inout("rax") number => sum,
                in("rdi") 1_000_u64, in("rsi") 2_000_u64, in("rdx") 3_000_u64,
                in("r10") 4_000_u64, in("r8") 5_000_u64, in("r9") 6_000_u64,
                inout("r15") 0x777_u64 => rbx, inout("r12") 0x888_u64 => r12,
                out("rcx") _, out("r11") _,
            );
        }
        wrong += u32::from(sum != number + 21_000 || rbx != 0x777 || r12 != 0x888);
    }
    // SAFETY: no handler is always allowed.
    unsafe { View::current().set_low_syscall_handler(0) };
    same!(wrong, 0, "calls that came back wrong");
    // Ours are not handed over.
    check!(now() > 0);
    Ok(())
}

fn tls() -> Outcome {
    let block = [0x1234_5678_9abc_u64, 2];
    syscall::thread_set(0, ThreadProperty::Tls, block.as_ptr() as u64).map_err(failed("setting FS"))?;
    for _ in 0..100 {
        syscall::thread_yield();
    }
    let word: u64;
    // SAFETY: FS points to the block.
    unsafe { asm!("mov {}, fs:[0]", out(reg) word) };
    syscall::thread_set(0, ThreadProperty::Tls, 0).map_err(failed("clearing FS"))?;
    same!(word, block[0], "the word at FS:0");
    for bad in [1 << 47, 0x8000_0000_0000_0000, u64::MAX] {
        let result = syscall::thread_set(0, ThreadProperty::Tls, bad);
        same!(result, Err(ErrorCode::BadArgument), "FS base {bad:#x}");
    }
    Ok(())
}
