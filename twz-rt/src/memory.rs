//! Memory functions that compiled code calls. Ring 3 always runs on the CPU, so: overlapping vector moves for short copies, REP
//! for long ones (fast strings on every CPU of the last ten years).

use core::arch::global_asm;

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
memcpy:
    mov rax, rdi
    cmp rdx, 16
    jb 2f
    cmp rdx, 32
    ja 3f
    movups xmm0, [rsi]
    movups xmm1, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm1
    ret
2:  cmp rdx, 8
    jae 4f
    cmp rdx, 4
    jae 5f
    test rdx, rdx
    jz 6f
    movzx ecx, byte ptr [rsi]
    movzx r8d, byte ptr [rsi + rdx - 1]
    cmp rdx, 3
    jne 7f
    movzx r9d, byte ptr [rsi + 1]
    mov [rdi + 1], r9b
7:  mov [rdi], cl
    mov [rdi + rdx - 1], r8b
6:  ret
4:  mov rcx, [rsi]
    mov r8, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], r8
    ret
5:  mov ecx, [rsi]
    mov r8d, [rsi + rdx - 4]
    mov [rdi], ecx
    mov [rdi + rdx - 4], r8d
    ret
3:  cmp rdx, 64
    ja 8f
    movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + rdx - 32]
    movups xmm3, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + rdx - 32], xmm2
    movups [rdi + rdx - 16], xmm3
    ret
8:  mov rcx, rdi
    sub rcx, rsi
    cmp rcx, rdx
    jb 9f
    mov rcx, rdx
    rep movsb
    ret
9:  // Overlapping upwards: from the end, 16 bytes at a time.
    movups xmm1, [rsi]
10: sub rdx, 16
    jb 11f
    movups xmm0, [rsi + rdx]
    movups [rdi + rdx], xmm0
    jmp 10b
    // The first 16 bytes last: the loop may have stopped short of them.
11: movups [rdi], xmm1
    ret
memset:
    mov r8, rdi
    mov eax, esi
    mov rcx, rdx
    rep stosb
    mov rax, r8
    ret
memcmp:
bcmp:
    xor ecx, ecx
12: cmp rcx, rdx
    je 13f
    movzx eax, byte ptr [rdi + rcx]
    movzx r8d, byte ptr [rsi + rcx]
    inc rcx
    sub eax, r8d
    jz 12b
    ret
13: xor eax, eax
    ret
strlen:
    xor eax, eax
14: cmp byte ptr [rdi + rax], 0
    je 15f
    inc rax
    jmp 14b
15: ret
"#
);
