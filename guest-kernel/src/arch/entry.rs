//! Entries from ring 3 and the way back.
//!
//! TSS.rsp0 points to the end of the current thread's [`TrapFrame`], so the CPU's own pushes land in the thread and
//! saving the rest is fifteen pushes more. SYSCALL does not switch stacks; its entry finds the same address through GS,
//! which holds the hart's [`super::tables::SyscallScratch`] only between two SWAPGS.
//!
//! On KVM without hardware ring 0, SYSCALL arrives as a page fault instead (see `Kernel::trap`); the entry below it is then never used.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use twz_abi::boot;

/// Registers of a thread that is not running, in the order in which the entries push them.
#[repr(C, align(16))]
#[derive(Clone, Copy, Default)]
pub(crate) struct TrapFrame {
    pub(crate) r15: u64,
    pub(crate) r14: u64,
    pub(crate) r13: u64,
    pub(crate) r12: u64,
    pub(crate) r11: u64,
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rbp: u64,
    pub(crate) rbx: u64,
    pub(crate) rdx: u64,
    pub(crate) rcx: u64,
    pub(crate) rax: u64,
    /// Number of the exception or interrupt; [`SYSCALL_VECTOR`] for SYSCALL.
    pub(crate) vector: u64,
    pub(crate) error: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}
// The end of the frame must be 16-byte aligned, or the CPU's stack alignment moves its pushes.
const _: () = assert!(size_of::<TrapFrame>() == 176 && size_of::<TrapFrame>().is_multiple_of(16));

/// `TrapFrame::vector` of a SYSCALL.
pub(crate) const SYSCALL_VECTOR: u64 = 256;
/// Vectors with an entry: exceptions and the three that `twzvmm` injects.
pub(crate) const VECTOR_COUNT: usize = 0x23;
/// Injected when the hart's timer has expired.
pub(crate) const TIMER_VECTOR: u64 = 0x20;
/// Injected when another hart wants this one to look around.
pub(crate) const KICK_VECTOR: u64 = 0x21;
/// Injected when the second stage has refused an access of the program.
pub(crate) const REFUSED_VECTOR: u64 = 0x22;

unsafe extern "C" {
    /// First instruction of every hart. RDI: hart number; RSP: top of its stack.
    pub fn start() -> !;
    /// Target of SYSCALL (MSR LSTAR).
    pub(crate) fn syscall_entry() -> !;
    /// Leaves to ring 3 with the registers in `frame`.
    pub(crate) fn leave(frame: *const TrapFrame) -> !;
    /// Writes the hypercall port and goes on behind it, in this vCPU or in that of another root, on the stack that `place` holds.
    fn switch_root(place: *mut u64);
    /// First instruction of a vCPU of another root; RDI as `switch_root` had it.
    pub(crate) fn root_entry();
    /// Addresses of the entry of each vector.
    pub(crate) static trap_entries: [u64; VECTOR_COUNT];
}

global_asm!(
    r#"
.section .text.entry, "ax"
.globl start
start:
    xor ebp, ebp
    call hart_main
    ud2

.globl syscall_entry
syscall_entry:
    swapgs
    mov gs:[8], rsp
    mov rsp, gs:[0]
    push {user_ss}
    push qword ptr gs:[8]
    swapgs
    push r11
    push {user_cs}
    push rcx
    push 0
    push {syscall_vector}
    jmp save

.macro TRAP number, has_error, target
trap_\number:
    .if \has_error == 0
    push 0
    .endif
    push \number
    jmp \target
.endm

.irp number, 0,3,4,5,6,7,9,15,16,19,20,22,23,24,25,26,27,28,31,32,33,34
    TRAP \number, 0, common
.endr
.irp number, 10,11,12,13,14,17,21,29,30
    TRAP \number, 1, common
.endr
.irp number, 1,2,18
    TRAP \number, 0, common_ist
.endr
    TRAP 8, 1, common_ist

// These have a stack of their own, since they may come where RSP is the program's. From ring 3, move what the CPU pushed
// to where it belongs.
common_ist:
    test byte ptr [rsp + 24], 3
    jz 5f
    push rax
    push rbx
    swapgs
    mov rax, gs:[0]
    swapgs
.irp word, 0,8,16,24,32,40,48
    mov rbx, [rsp + 16 + \word]
    mov [rax - 56 + \word], rbx
.endr
    pop rbx
    pop rax
    swapgs
    mov rsp, gs:[0]
    swapgs
    sub rsp, 56
    jmp save
5:  cmp qword ptr [rsp], 1
    jne from_ring0
    // A single step that a program armed and that fired on the way in: ring 0 is not stepped.
    and qword ptr [rsp + 32], ~0x100
    add rsp, 16
    iretq

common:
    test byte ptr [rsp + 24], 3
    jz from_ring0
save:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    mov rsp, [rdi + {kernel_stack}]
    xor ebp, ebp
    call trap_from_ring3
    mov rdi, rax

.globl leave
leave:
    mov rsp, rdi
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    cmp qword ptr [rsp], {syscall_vector}
    jne 2f
    // RCX and R11 belong to the instruction: SYSRET is allowed, and the kernel has checked the address.
    mov rcx, [rsp + 16]
    mov r11, [rsp + 32]
    mov rsp, [rsp + 40]
    sysretq
2:  add rsp, 16
    iretq

// The vCPU that goes on may be another than the one that wrote the port, with what its registers held when it wrote it last: RDI is the
// hart's, thus the same in all of them; everything else comes from memory.
.globl switch_root
.globl root_entry
switch_root:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    xor eax, eax
    out {port}, al
root_entry:
    mov rsp, [rdi]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

// A fault in ring 0 is expected in the copy routine only: go on at its fix-up. Anything else is our bug.
from_ring0:
    push rax
    lea rax, [rip + user_copy]
    cmp [rsp + 24], rax
    jb 3f
    lea rax, [rip + user_copy_end]
    cmp [rsp + 24], rax
    jae 3f
    lea rax, [rip + user_copy_failed]
    mov [rsp + 24], rax
    pop rax
    add rsp, 16
    iretq
3:  pop rax
    mov rdi, [rsp]
    mov rsi, [rsp + 8]
    mov rdx, [rsp + 16]
    mov rcx, cr2
    and rsp, -16
    call trap_from_ring0
    ud2

.section .rodata
.balign 8
.globl trap_entries
trap_entries:
.irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34
    .quad trap_\number
.endr
.text
"#,
    user_ss = const super::tables::USER_DATA,
    user_cs = const super::tables::USER_CODE,
    syscall_vector = const SYSCALL_VECTOR,
    port = const twz_abi::hypercall::PORT,
    kernel_stack = const offset_of!(crate::thread::Thread, kernel_stack),
);

/// Where each hart keeps its stack pointer while it changes roots.
static ROOT_STACKS: RootStacks = RootStacks([const { UnsafeCell::new(0) }; boot::MAX_HARTS as usize]);

struct RootStacks([UnsafeCell<u64>; boot::MAX_HARTS as usize]);

// SAFETY: each hart uses its own place only (`change_root`).
unsafe impl Sync for RootStacks {}

/// Executes the hypercall `Switch` that stands in the mailbox of `hart`, which is this one. When it returns, this hart is in another root, or
/// the call was refused.
pub(crate) fn change_root(hart: u32) {
    let place = ROOT_STACKS.0[hart as usize].get();
    // SAFETY: the place is this hart's; the routine keeps what the ABI says in memory, and changes nothing else. Memory counts as changed.
    unsafe { switch_root(place) };
}

/// Top of the stack of hart `hart`.
pub(crate) const fn hart_stack_top(hart: u32) -> u64 {
    boot::STACK_BASE + (hart as u64 + 1) * boot::STACK_STRIDE
}

/// Reports a fault in the kernel's own code.
#[unsafe(no_mangle)]
extern "C" fn trap_from_ring0(vector: u64, error: u64, rip: u64, address: u64) -> ! {
    panic!("exception {vector} (error {error:#x}) in ring 0 at {rip:#x}, address {address:#x}")
}

/// Number of the hart that executes this, from the stack it stands on; hart 0 when on an interrupt stack.
pub(crate) fn current_hart() -> u32 {
    let stack: u64;
    // SAFETY: reading RSP changes nothing.
    unsafe { core::arch::asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) };
    u32::try_from(stack.wrapping_sub(boot::STACK_BASE) / boot::STACK_STRIDE)
        .ok()
        .filter(|&hart| hart < boot::MAX_HARTS)
        .unwrap_or(0)
}
