//! Handling one's own faults: a Rust function that is told what happened and may change the registers.
//!
//! The kernel enters [`set_handler`]'s entry with the frame on the stack and the vector registers as the interrupted code left them. The
//! entry saves those (XSAVE where the kernel enabled it, else FXSAVE), calls the function, restores them and goes back.

use crate::view::View;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use twz_abi::call::ArgumentInfo;
use twz_abi::fault::FaultFrame;
use twz_abi::syscall::Syscall;

/// Places in [`FaultFrame::registers`].
pub mod register {
    /// RAX.
    pub const RAX: usize = 0;
    /// RBX.
    pub const RBX: usize = 1;
    /// RCX.
    pub const RCX: usize = 2;
    /// RDX.
    pub const RDX: usize = 3;
    /// RSI.
    pub const RSI: usize = 4;
    /// RDI.
    pub const RDI: usize = 5;
    /// RBP.
    pub const RBP: usize = 6;
    /// R8; R9 to R15 follow.
    pub const R8: usize = 7;
}

/// Exit status of a thread whose frame the kernel does not take back: its handler destroyed it.
const BAD_FRAME_STATUS: u8 = 102;
/// Bytes of an FXSAVE image.
const FXSAVE_BYTES: u64 = 512;

static HANDLER: AtomicUsize = AtomicUsize::new(0);
/// Vector state components to save; 0: use FXSAVE.
static XSAVE_MASK: AtomicU64 = AtomicU64::new(0);
static AREA_BYTES: AtomicU64 = AtomicU64::new(FXSAVE_BYTES);

/// Components of vector state that the CPU keeps here (XCR0), and bytes that they take; `None` without XSAVE.
#[must_use]
pub fn xsave_components() -> Option<(u64, u64)> {
    if __cpuid(1).ecx >> 27 & 1 == 0 {
        return None;
    }
    let (low, high): (u32, u32);
    // SAFETY: CPUID says that the kernel has enabled XSAVE, so XGETBV exists.
    unsafe {
        core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    Some((u64::from(high) << 32 | u64::from(low), u64::from(__cpuid_count(0xd, 0).ebx)))
}

/// Makes `handler` handle the faults of all threads in the current view.
///
/// When it returns, the frame's registers are loaded: the instruction is repeated, or another if `rip` was changed. A handler that wants the
/// thread to end calls [`crate::syscall::thread_exit`].
///
/// # Safety
/// The handler runs between any two instructions of the program: it may take no lock that the program may hold there (the heap's
/// for instance), and what it changes in the frame must suit the interrupted code.
pub unsafe fn set_handler(handler: fn(&mut FaultFrame)) {
    if let Some((mask, bytes)) = xsave_components() {
        AREA_BYTES.store(bytes.max(FXSAVE_BYTES + 64), Ordering::Relaxed);
        XSAVE_MASK.store(mask, Ordering::Relaxed);
    }
    HANDLER.store(handler as usize, Ordering::Release);
    // SAFETY: `entry` is a fault handler, and the function that it calls is set.
    unsafe { View::current().set_fault_handler(entry as *const () as u64) };
}

/// What [`set_handler`] names in the current view: for other views, whose threads run the same program with a copy of its data made since.
#[must_use]
pub fn entry_address() -> u64 {
    entry as *const () as u64
}

/// From now on faults end their threads again.
pub fn clear_handler() {
    // SAFETY: no handler is always allowed.
    unsafe { View::current().set_fault_handler(0) };
}

/// RDI: the frame, which stands on the stack in use. All general registers are in it, so all are free here.
#[unsafe(naked)]
unsafe extern "C" fn entry() -> ! {
    core::arch::naked_asm!(
        "cld",
        "xor ebp, ebp",
        "mov rbx, rdi",
        "mov rsp, rdi",
        "sub rsp, [rip + {area}]",
        "and rsp, -64",
        "mov r12, [rip + {mask}]",
        "test r12, r12",
        "jz 2f",
        // The header of the image must be zero for XRSTOR to take it.
        "xor eax, eax",
        "lea rdi, [rsp + 512]",
        "mov ecx, 8",
        "rep stosq",
        "mov rax, r12",
        "mov rdx, r12",
        "shr rdx, 32",
        "xsave64 [rsp]",
        "jmp 3f",
        "2: fxsave64 [rsp]",
        "3: mov r13, rsp",
        "mov rdi, rbx",
        "call {dispatch}",
        "mov rsp, r13",
        "test r12, r12",
        "jz 4f",
        "mov rax, r12",
        "mov rdx, r12",
        "shr rdx, 32",
        "xrstor64 [rsp]",
        "jmp 5f",
        "4: fxrstor64 [rsp]",
        "5: mov rdi, rbx",
        "mov eax, {fault_return}",
        "syscall",
        // It came back: the frame is not one that can be loaded.
        "call {bad_frame}",
        "ud2",
        area = sym AREA_BYTES,
        mask = sym XSAVE_MASK,
        dispatch = sym dispatch,
        fault_return = const Syscall::FaultReturn as u64,
        bad_frame = sym bad_frame,
    )
}

// The one call that is made from assembly, because the vector registers are the interrupted code's by then: its frame goes into RDI.
const _: () = assert!(matches!(Syscall::FaultReturn.arguments(), [ArgumentInfo { words: 1, .. }]));

extern "C" fn bad_frame() -> ! {
    crate::syscall::thread_exit(BAD_FRAME_STATUS)
}

extern "C" fn dispatch(frame: *mut FaultFrame) {
    let handler = HANDLER.load(Ordering::Acquire);
    // SAFETY: `set_handler` stored a function of this type before it named `entry` in the view.
    let handler = unsafe { core::mem::transmute::<usize, fn(&mut FaultFrame)>(handler) };
    // SAFETY: the kernel wrote the frame onto this thread's stack, where nothing else is.
    handler(unsafe { &mut *frame });
}
