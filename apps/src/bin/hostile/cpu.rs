//! Attacks by instructions: what ring 3 must not be able to do, and states that entries and exits must survive.

use crate::{NEST, Random, Sandbox};
use alloc::format;
use alloc::string::String;
use apps::probe;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use twz_rt::abi::Rights;
use twz_rt::abi::syscall::Syscall;
use twz_rt::abi::thread::ThreadProperty;
use twz_rt::abi::view::{SLOT_COUNT, SLOT_SIZE, SlotRange};
use twz_rt::{syscall, view};

/// Runs `body` in a thread of its own, which is to end badly.
fn apart(body: impl FnOnce() + Send + 'static) {
    if let Ok(thread) = twz_rt::thread::spawn(body) {
        let _ = thread.join();
    }
}

/// Addresses that no instruction or stack may have.
const NOWHERE: [u64; 8] = [
    0,
    8,
    (1 << 47) - 1,
    1 << 47,
    0x8000_0000_0000_0000,
    0xffff_7fff_ffff_fff0,
    0xffff_ffff_8010_2000,
    u64::MAX,
];

/// A handler that faults; a fault stack that is none.
pub(crate) fn handler_faults(random: &mut Random, _: &Sandbox) {
    apart(|| {
        // SAFETY: faults, and the handler faults again when it sees R14.
        unsafe { asm!("mov r14, {}", "ud2", in(reg) NEST, options(noreturn)) }
    });
    let top = random.pick(&NOWHERE);
    apart(move || {
        // A refused one is as good.
        let _ = syscall::thread_set(0, ThreadProperty::FaultStack, top);
        let _ = probe::load(0);
    });
}

/// RIP, RSP, FS and GS that are not canonical, or not the program's, at jumps, calls, faults and system calls.
pub(crate) fn non_canonical(random: &mut Random, _: &Sandbox) {
    let at = random.pick(&NOWHERE);
    match random.below(6) {
        // SAFETY: all of these fault, or end their thread; nothing after them runs.
        0 => apart(move || unsafe { asm!("jmp {}", in(reg) at, options(noreturn)) }),
        // SAFETY: as above.
        1 => apart(move || unsafe { asm!("push {}", "ret", in(reg) at, options(noreturn)) }),
        // SAFETY: as above.
        2 => apart(move || unsafe { asm!("mov rsp, {}", "push rax", "ud2", in(reg) at, options(noreturn)) }),
        3 => apart(move || {
            // A system call with a stack that is none is allowed, and so is going on without one.
            let exit = Syscall::ThreadExit as u64;
            // SAFETY: no stack is used between the two calls; the second does not return.
            unsafe {
                asm!(
                    "mov rsp, {at}", "mov eax, {yields}", "syscall", "mov rax, {exit}", "syscall", "ud2",
                    at = in(reg) at, yields = const Syscall::ThreadYield as u64, exit = in(reg) exit,
                    options(noreturn)
                )
            }
        }),
        4 => {
            let _ = syscall::thread_set(0, ThreadProperty::Tls, at);
            let _ = syscall::thread_set(0, ThreadProperty::Tls, 0);
        }
        _ => apart(move || {
            // Where the CPU lets ring 3 write the bases, any canonical one goes; the switch after it must survive that.
            // SAFETY: this thread uses neither base.
            unsafe { asm!("wrgsbase {0}", "wrfsbase {0}", in(reg) at) };
            syscall::thread_yield();
            // SAFETY: as above.
            let word: u64;
            // SAFETY: a load that faults or reads the program's memory.
            unsafe { asm!("mov {}, gs:[0]", out(reg) word) };
            syscall::thread_exit(u8::from(word == 1));
        }),
    }
}

/// Any flags at all, then instructions, a system call, a fault.
pub(crate) fn flags(random: &mut Random, _: &Sandbox) {
    // Not the direction flag alone: compiled code expects it clear, so it is cleared right after.
    let flags = random.next() & 0x3f_ffff;
    // SAFETY: flags do not change what memory means; single steps and alignment checks go to the handler, which takes them off.
    unsafe {
        asm!(
            "push {}", "popfq", "nop", "mov eax, {yields}", "syscall", "nop", "cld", "push 2", "popfq",
            in(reg) flags, yields = const Syscall::ThreadYield as u64,
            out("rax") _, out("rcx") _, out("r11") _, out("rdx") _, out("r8") _,
        );
    }
    // SAFETY: as above.
    unsafe { asm!("push 0x102", "popfq", "nop", "nop", "push 2", "popfq") };
}

/// Instructions that ring 3 may not execute, or that go wrong with registers of zero: name and bytes.
const PRIVILEGED: &[(&str, &[u8])] = &[
    ("mov-rax-cr0", &[0x0f, 0x20, 0xc0]),
    ("mov-cr3-rax", &[0x0f, 0x22, 0xd8]),
    ("mov-rax-dr7", &[0x0f, 0x21, 0xf8]),
    ("mov-dr0-rax", &[0x0f, 0x23, 0xc0]),
    ("wrmsr", &[0x0f, 0x30]),
    ("rdmsr", &[0x0f, 0x32]),
    ("rdpmc", &[0x0f, 0x33]),
    ("out-0x54-al", &[0xe6, 0x54]),
    ("out-dx-al", &[0xee]),
    ("outsb", &[0x6e]),
    ("in-al-dx", &[0xec]),
    ("hlt", &[0xf4]),
    ("cli", &[0xfa]),
    ("sti", &[0xfb]),
    ("swapgs", &[0x0f, 0x01, 0xf8]),
    ("lgdt-rax", &[0x0f, 0x01, 0x10]),
    ("lidt-rax", &[0x0f, 0x01, 0x18]),
    ("ltr-ax", &[0x0f, 0x00, 0xd8]),
    ("lmsw-ax", &[0x0f, 0x01, 0xf0]),
    ("clts", &[0x0f, 0x06]),
    ("invd", &[0x0f, 0x08]),
    ("wbinvd", &[0x0f, 0x09]),
    ("invlpg-rax", &[0x0f, 0x01, 0x38]),
    ("xsetbv", &[0x0f, 0x01, 0xd1]),
    ("vmcall", &[0x0f, 0x01, 0xc1]),
    ("vmmcall", &[0x0f, 0x01, 0xd9]),
    ("vmrun", &[0x0f, 0x01, 0xd8]),
    ("sysretq", &[0x48, 0x0f, 0x07]),
    ("sysexit", &[0x0f, 0x35]),
    ("sysenter", &[0x0f, 0x34]),
    ("iretq", &[0x48, 0xcf]),
    ("retfq", &[0x48, 0xcb]),
    ("pop-gs", &[0x0f, 0xa9]),
    ("mov-ss-ax", &[0x8e, 0xd0]),
    ("mov-gs-ax", &[0x8e, 0xe8]),
    ("int3", &[0xcc]),
    ("int1", &[0xf1]),
    ("int-0", &[0xcd, 0x00]),
    ("int-2", &[0xcd, 0x02]),
    ("int-8", &[0xcd, 0x08]),
    ("int-14", &[0xcd, 0x0e]),
    ("int-0x20", &[0xcd, 0x20]),
    ("int-0x21", &[0xcd, 0x21]),
    ("int-0x22", &[0xcd, 0x22]),
    ("int-0x80", &[0xcd, 0x80]),
    ("lock-cmpxchg8b-eax", &[0xf0, 0x0f, 0xc7, 0xc8]),
    ("clac", &[0x0f, 0x01, 0xca]),
    ("stac", &[0x0f, 0x01, 0xcb]),
    ("invpcid-rax-rax", &[0x66, 0x0f, 0x38, 0x82, 0x00]),
    ("fxrstor-rax", &[0x0f, 0xae, 0x08]),
    ("xrstor-rax", &[0x0f, 0xae, 0x28]),
];

/// Those of [`PRIVILEGED`] that are left out, a bit each.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);
const _: () = assert!(PRIVILEGED.len() <= 64);

/// Leaves one of the instructions of [`privileged`] out; `all but NAME` is `!NAME`.
///
/// # Errors
/// If there is none of that name.
pub(crate) fn leave_out(name: &str) -> Result<(), String> {
    let (but, name) = name.strip_prefix('!').map_or((false, name), |name| (true, name));
    let at = PRIVILEGED.iter().position(|(other, _)| *other == name);
    let bit = 1_u64 << at.ok_or_else(|| format!("no instruction {name}"))?;
    LEFT_OUT.fetch_or(if but { !bit } else { bit }, Ordering::Relaxed);
    Ok(())
}

/// Where code goes in the sandbox.
const CODE: u64 = 0x6000;

fn put(sandbox: &Sandbox, bytes: &[u8]) {
    for (index, chunk) in (0..).zip(bytes.chunks(8)) {
        let mut word = [0xcc; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sandbox.set(CODE + index * 8, u64::from_le_bytes(word));
    }
}

/// Goes on at what stands in the sandbox at `code`, with RAX `data` and all other registers but RSP zero.
///
/// # Safety
/// The code must reach nothing but the sandbox and its own stack.
unsafe fn go_to(code: u64, data: u64) -> ! {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "push {code}", "mov rax, {data}",
            "xor ebx, ebx", "xor ecx, ecx", "xor edx, edx", "xor esi, esi", "xor edi, edi", "xor ebp, ebp",
            "xor r8d, r8d", "xor r9d, r9d", "xor r10d, r10d", "xor r11d, r11d", "xor r12d, r12d", "xor r13d, r13d",
            "xor r14d, r14d", "xor r15d, r15d", "ret",
            code = in(reg) code, data = in(reg) data, options(noreturn)
        )
    }
}

/// The code in the sandbox, and an odd place of it for data.
fn code_and_data(sandbox: &Sandbox) -> (u64, u64) {
    (sandbox.base() + CODE, sandbox.base() + 0x101)
}

/// Runs what stands in the sandbox, in a thread of its own.
fn run_code(sandbox: &Sandbox) {
    let (code, data) = code_and_data(sandbox);
    // SAFETY: the code ends in a trap, and reaches nothing but the sandbox and its own stack.
    apart(move || unsafe { go_to(code, data) });
}

/// Instructions of ring 0, and vectors that only hardware may raise: each that is not left out, from any of them on.
pub(crate) fn privileged(random: &mut Random, sandbox: &Sandbox) {
    let left_out = LEFT_OUT.load(Ordering::Relaxed);
    let first = usize::try_from(random.next() % PRIVILEGED.len() as u64).unwrap_or(0);
    for index in (0..PRIVILEGED.len()).map(|step| (first + step) % PRIVILEGED.len()) {
        if left_out >> index & 1 == 0 {
            put(sandbox, PRIVILEGED[index].1);
            run_code(sandbox);
        }
    }
}

/// A system call whose next instruction would lie at the first address that is not canonical (the SYSRET flaw of some CPUs).
pub(crate) fn syscall_at_the_end(random: &mut Random, sandbox: &Sandbox) {
    let last = SLOT_COUNT - 1;
    let _ = view::map(last, sandbox.object, Rights::ACCESS);
    // The last two bytes of the last slot: `syscall`.
    let end = sandbox.slot * SLOT_SIZE + SLOT_SIZE;
    // SAFETY: the sandbox is there to be ruined.
    let _ = unsafe { probe::store(end - 8, 0x050f_cccc_cccc_cccc) };
    let call = random.pick(&[Syscall::ThreadYield as u64, Syscall::ThreadSelf as u64, 0x1fff, 1]);
    let entry = (last + 1) * SLOT_SIZE - 2;
    apart(move || {
        // SAFETY: the call comes back to an address that faults; nothing after it runs.
        unsafe { asm!("mov rax, {}", "jmp {}", in(reg) call, in(reg) entry, options(noreturn)) }
    });
    view::View::current().clear(last);
    let _ = view::invalidate(&[SlotRange { first: last, count: 1 }]);
}

/// Random bytes as code. It may loop, so its worker has the least priority.
pub(crate) fn random_code(random: &mut Random, sandbox: &Sandbox) {
    let mut bytes = [0_u8; 64];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes());
    }
    put(sandbox, &bytes);
    let (code, data) = code_and_data(sandbox);
    // In this thread: the one that waits for it knows that it may not come back.
    // SAFETY: the code reaches the sandbox and its own stack; addresses that it makes up lead nowhere in 131,072 slots.
    unsafe { go_to(code, data) }
}
