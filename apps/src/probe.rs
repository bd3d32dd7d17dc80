//! Accesses that may fail: a load, a store or a call at any address, with the fault as a result instead of the thread's end.
//!
//! The three instructions that touch the address stand between two labels. [`recover`], called by the program's fault handler, knows
//! them by RIP, leaves the fault where RSI points, and goes on at the failure's label. No state is shared, so any number of threads may
//! probe at once.

use core::arch::global_asm;
use twz_rt::abi::Rights;
use twz_rt::abi::fault::{FaultFrame, FaultInfo};
use twz_rt::fault::register;

unsafe extern "C" {
    fn probe_load(address: u64, fault: *mut FaultInfo, value: *mut u64) -> u64;
    fn probe_store(address: u64, fault: *mut FaultInfo, value: u64) -> u64;
    fn probe_call(address: u64, fault: *mut FaultInfo) -> u64;
    fn probe_add(address: u64, fault: *mut FaultInfo, value: u64) -> u64;
    fn probe_failed();
}

global_asm!(
    r#"
.text
.globl probe_load
.globl probe_store
.globl probe_call
.globl probe_add
.globl probe_failed
probe_load:
    mov rax, [rdi]
    mov [rdx], rax
    mov eax, 1
    ret
probe_store:
    mov [rdi], rdx
    mov eax, 1
    ret
probe_add:
    lock add [rdi], rdx
    mov eax, 1
    ret
probe_call:
    call rdi
    mov eax, 1
    ret
probe_failed:
    xor eax, eax
    ret
"#
);

/// Settles a fault of a probe; `false` if it was none. For fault handlers.
pub fn recover(frame: &mut FaultFrame) -> bool {
    let (first, last) = (probe_load as *const () as u64, probe_failed as *const () as u64);
    let in_probe = (first..last).contains(&frame.rip);
    // A call that could not fetch: RIP is already the target, and the way back lies on the stack.
    let in_call = frame.info.access == Rights::EXEC.bits() && frame.rip == frame.registers[register::RDI];
    if !in_probe && !in_call {
        return false;
    }
    if in_call {
        frame.rsp += 8;
    }
    // SAFETY: in a probe RSI holds the address of the prober's `FaultInfo`, on the stack of this thread.
    unsafe { (frame.registers[register::RSI] as *mut FaultInfo).write(frame.info) };
    frame.rip = last;
    true
}

/// Loads the word at any address.
///
/// # Errors
/// The fault.
pub fn load(address: u64) -> Result<u64, FaultInfo> {
    let (mut fault, mut value) = (FaultInfo::default(), 0);
    // SAFETY: a load that fails ends in `probe_failed`; one that works changes nothing.
    match unsafe { probe_load(address, &raw mut fault, &raw mut value) } {
        0 => Err(fault),
        _ => Ok(value),
    }
}

/// Stores a word at any address.
///
/// # Errors
/// The fault.
///
/// # Safety
/// If there is memory, nothing may depend on its contents.
pub unsafe fn store(address: u64, value: u64) -> Result<(), FaultInfo> {
    let mut fault = FaultInfo::default();
    // SAFETY: the caller's promise.
    match unsafe { probe_store(address, &raw mut fault, value) } {
        0 => Err(fault),
        _ => Ok(()),
    }
}

/// Adds to the word at any address, atomically (a LOCK-prefixed instruction).
///
/// # Errors
/// The fault.
///
/// # Safety
/// As [`store`].
pub unsafe fn add(address: u64, value: u64) -> Result<(), FaultInfo> {
    let mut fault = FaultInfo::default();
    // SAFETY: the caller's promise.
    match unsafe { probe_add(address, &raw mut fault, value) } {
        0 => Err(fault),
        _ => Ok(()),
    }
}

/// Calls any address.
///
/// # Errors
/// The fault of fetching the first instruction.
///
/// # Safety
/// If there is code, it must be a function that returns.
pub unsafe fn call(address: u64) -> Result<(), FaultInfo> {
    let mut fault = FaultInfo::default();
    // SAFETY: the caller's promise.
    match unsafe { probe_call(address, &raw mut fault) } {
        0 => Err(fault),
        _ => Ok(()),
    }
}
