//! Faults: what can go wrong with a thread, and the exit status it has if nobody handles it.

use crate::hypercall::numbered;
use crate::id::ObjectId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

numbered! {
    /// Why a thread was stopped. Exit status of `twzvmm` when it ends the main thread: 128 + this.
    pub enum FaultCause: u32 {
        /// No view entry for the slot.
        Unmapped = 1,
        /// Page 0 of an object: a null pointer.
        NullPage = 2,
        /// The view does not ask for this access, or the context does not grant it.
        Rights = 3,
        /// The view entry names an object that does not exist (any more).
        NoObject = 4,
        /// The pool or the kernel has no room to back the page.
        OutOfSpace = 5,
        /// An address outside of the program's half.
        KernelAddress = 6,
        /// An undefined instruction.
        BadInstruction = 7,
        /// A privileged instruction, or another general-protection fault.
        Protection = 8,
        /// Division by zero or overflow of a quotient.
        Divide = 9,
        /// A breakpoint or single step.
        Breakpoint = 10,
        /// A misaligned access with alignment checks on.
        Alignment = 11,
        /// A floating-point or vector exception.
        FloatingPoint = 12,
        /// A bound, overflow, stack-segment or other architectural exception.
        Exception = 13,
        /// The medium or the memory failed.
        MachineCheck = 14,
        /// A system call number that nobody handles.
        BadSyscall = 15,
        /// The slot is marked on-demand and nothing is mapped there yet.
        OnDemand = 16,
    }
}

/// What the handler that a view names is told, and what a console line is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FaultInfo {
    /// A [`FaultCause`].
    pub cause: u32,
    /// [`crate::Rights`] bits of the access that was tried; 0 when it was no memory access.
    pub access: u32,
    /// Virtual address of the access.
    pub address: u64,
    /// Virtual address of the instruction.
    pub instruction: u64,
    /// The object in that slot; null for none.
    pub object: ObjectId,
    /// Offset in the object.
    pub offset: u64,
}
crate::assert_layout!(
    FaultInfo,
    size = 48,
    cause = 0,
    access = 4,
    address = 8,
    instruction = 16,
    object = 24,
    offset = 40
);

/// What the kernel pushes onto the handler's stack; RDI points to it. The handler may change the registers and goes back with
/// [`crate::syscall::Syscall::FaultReturn`]. Vector registers are the interrupted code's: a handler that uses them saves them.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FaultFrame {
    /// What happened.
    pub info: FaultInfo,
    /// RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15.
    pub registers: [u64; 15],
    /// The instruction that faulted; for calls below [`crate::syscall::FIRST`], the one after.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
}
crate::assert_layout!(FaultFrame, size = 192, info = 0, registers = 48, rip = 168, rflags = 176, rsp = 184);

/// Bytes below RSP that belong to the interrupted code (System V ABI).
pub const RED_ZONE: u64 = 128;
