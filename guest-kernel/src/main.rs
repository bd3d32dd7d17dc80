//! The bootable image: the library, a panic handler, and the memory functions that compiled code calls.
#![no_std]
#![no_main]

use core::arch::global_asm;
use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    guest_kernel::panic(info)
}

/// Keeps the entry point, which only the linker script names, in the image.
#[used]
static START: unsafe extern "C" fn() -> ! = guest_kernel::start;

// In assembler, so that link-time optimisation cannot turn a loop back into a call of itself. Words first: where KVM
// interprets ring 0, a repetition is an interpreted instruction.
global_asm!(
    r#"
.text
.globl memcpy
.globl memmove
.globl memset
.globl memcmp
.globl bcmp
.globl strlen
memmove:
    mov rax, rdi
    sub rax, rsi
    cmp rax, rdx
    jb 2f
memcpy:
    mov rax, rdi
    mov rcx, rdx
    shr rcx, 3
    rep movsq
    mov ecx, edx
    and ecx, 7
    rep movsb
    ret
2:  mov rax, rdi
    lea rdi, [rdi + rdx - 1]
    lea rsi, [rsi + rdx - 1]
    mov rcx, rdx
    std
    rep movsb
    cld
    ret
memset:
    mov r8, rdi
    movzx eax, sil
    mov r9, 0x0101010101010101
    imul rax, r9
    mov rcx, rdx
    shr rcx, 3
    rep stosq
    mov ecx, edx
    and ecx, 7
    rep stosb
    mov rax, r8
    ret
memcmp:
bcmp:
    xor eax, eax
    test rdx, rdx
    jz 4f
3:  movzx eax, byte ptr [rdi]
    movzx ecx, byte ptr [rsi]
    sub eax, ecx
    jnz 4f
    inc rdi
    inc rsi
    dec rdx
    jnz 3b
4:  ret
strlen:
    xor eax, eax
5:  cmp byte ptr [rdi + rax], 0
    je 6f
    inc rax
    jmp 5b
6:  ret
"#
);
