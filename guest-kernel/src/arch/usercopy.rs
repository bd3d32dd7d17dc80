//! Copies between the kernel and program memory that survive a bad pointer.
//!
//! Only `user_copy` touches program memory. A fault inside of it goes on at `user_copy_failed` with the bytes that
//! are left, whether the first stage stopped it (`from_ring0` in `entry.rs`) or the second (`twzvmm` moves RIP there).

use super::cpu;
use core::arch::global_asm;

unsafe extern "C" {
    /// Copies `length` bytes; returns 0, or 1 after a fault. `smap` opens SMAP for the time of the copy.
    fn user_copy(to: *mut u8, from: *const u8, length: usize, smap: u64) -> usize;
    fn user_copy_end();
    fn user_copy_failed();
}

// Whole words first, then the tail: where KVM interprets ring 0, each repetition costs an interpreted instruction.
global_asm!(
    r#"
.text
.globl user_copy
.globl user_copy_end
.globl user_copy_failed
user_copy:
    mov r8, rcx
    test r8, r8
    jz 2f
    stac
2:  mov rcx, rdx
    shr rcx, 3
    rep movsq
    test dl, 4
    jz 5f
    movsd
5:  mov ecx, edx
    and ecx, 3
    rep movsb
    xor eax, eax
user_copy_end:
    jmp 3f
user_copy_failed:
    mov eax, 1
3:  test r8, r8
    jz 4f
    clac
4:  ret
"#
);

/// Part of a copy did not happen, because the memory is not there or not allowed. How much is not said: the copy is done again
/// from its start after the fault was settled, which is harmless since nothing was promised yet.
pub(crate) struct CopyFailed;

/// The addresses that `twzvmm` must know: start and end of the code that may fault, and where to go on.
pub(crate) fn fixup_addresses() -> [u64; 3] {
    [user_copy as *const () as u64, user_copy_end as *const () as u64, user_copy_failed as *const () as u64]
}

/// Copies from program memory at virtual address `from`, which need not be valid.
pub(crate) fn read(from: u64, to: &mut [u8]) -> Result<(), CopyFailed> {
    // SAFETY: `to` is ours and long enough; `from` was checked by `is_program_range` to lie in the program's half, or lies in
    // the view's window, where a fault is survived.
    copied(unsafe { user_copy(to.as_mut_ptr(), from as *const u8, to.len(), smap()) })
}

/// Reads an aligned word of 4 or 8 bytes in one load, so that it is never torn.
pub(crate) fn read_word(from: u64, to: &mut [u8]) -> Result<(), CopyFailed> {
    debug_assert!(from.is_multiple_of(to.len() as u64));
    // SAFETY: as in `read`; the routine moves 8 bytes by one MOVSQ and 4 by one MOVSD.
    copied(unsafe { user_copy(to.as_mut_ptr(), from as *const u8, to.len(), smap()) })
}

/// Copies to program memory at virtual address `to`, which need not be valid.
pub(crate) fn write(to: u64, from: &[u8]) -> Result<(), CopyFailed> {
    // SAFETY: `from` is ours; `to` lies in the program's half, where the kernel has nothing.
    copied(unsafe { user_copy(to as *mut u8, from.as_ptr(), from.len(), smap()) })
}

fn copied(failed: usize) -> Result<(), CopyFailed> {
    if failed == 0 { Ok(()) } else { Err(CopyFailed) }
}

fn smap() -> u64 {
    u64::from(cpu::has_smap())
}
