//! What becomes of a thread that did something it may not.

use crate::arch::entry::TrapFrame;
use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use core::fmt;
use twz_abi::Rights;
use twz_abi::fault::{FaultCause, FaultInfo};

/// Exit status of a thread that a fault ended: this plus the cause.
const FAULT_STATUS: u64 = 128;

/// The fault that an exception other than a page fault is.
pub(crate) fn of_exception(vector: u64, frame: &TrapFrame) -> FaultInfo {
    let cause = match vector {
        0 => FaultCause::Divide,
        1 | 3 => FaultCause::Breakpoint,
        6 | 7 => FaultCause::BadInstruction,
        13 => FaultCause::Protection,
        16 | 19 => FaultCause::FloatingPoint,
        17 => FaultCause::Alignment,
        18 => FaultCause::MachineCheck,
        _ => FaultCause::Exception,
    };
    FaultInfo { cause: cause as u32, instruction: frame.rip, ..FaultInfo::default() }
}

/// The fault of a thread whose next instruction lies outside of the program's half.
pub(crate) fn bad_instruction_pointer(frame: &TrapFrame) -> FaultInfo {
    FaultInfo {
        cause: FaultCause::KernelAddress as u32,
        access: Rights::EXEC.bits(),
        address: frame.rip,
        instruction: frame.rip,
        ..FaultInfo::default()
    }
}

/// The fault of a call that nobody handles.
pub(crate) fn bad_syscall(frame: &TrapFrame) -> FaultInfo {
    FaultInfo { cause: FaultCause::BadSyscall as u32, instruction: frame.rip, ..FaultInfo::default() }
}

impl Kernel {
    /// Ends `thread` because of `info`, with one line on the console.
    pub(crate) fn fault(&mut self, mailbox: Mailbox, thread: u32, info: FaultInfo) {
        mailbox.log(format_args!("thread {thread} ended: {}", Line(&info)));
        self.end_thread(mailbox, thread, FAULT_STATUS + u64::from(info.cause));
    }
}

/// A fault in one line: what, where, by which instruction.
struct Line<'a>(&'a FaultInfo);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.0;
        let cause = match FaultCause::try_from(info.cause) {
            Ok(FaultCause::Unmapped) => "nothing is mapped there",
            Ok(FaultCause::NullPage) => "null pointer",
            Ok(FaultCause::Rights) => "the view or the context does not allow it",
            Ok(FaultCause::NoObject) => "the object does not exist",
            Ok(FaultCause::OutOfSpace) => "out of space",
            Ok(FaultCause::KernelAddress) => "not an address of programs",
            Ok(FaultCause::BadInstruction) => "undefined instruction",
            Ok(FaultCause::Protection) => "privileged instruction or bad operand",
            Ok(FaultCause::Divide) => "division error",
            Ok(FaultCause::Breakpoint) => "breakpoint",
            Ok(FaultCause::Alignment) => "misaligned access",
            Ok(FaultCause::FloatingPoint) => "floating-point error",
            Ok(FaultCause::Exception) => "processor exception",
            Ok(FaultCause::MachineCheck) => "the medium or the memory failed",
            Ok(FaultCause::BadSyscall) => "no such system call",
            Err(_) => "unknown fault",
        };
        write!(f, "{cause}")?;
        let verb = match Rights::from_bits_truncate(info.access) {
            Rights::READ => "read",
            Rights::WRITE => "write",
            Rights::EXEC => "instruction fetch",
            _ => "",
        };
        if !verb.is_empty() {
            write!(f, ": {verb} at {:#x}", info.address)?;
        }
        if !info.object.is_null() {
            write!(f, " (object {} offset {:#x})", info.object, info.offset)?;
        }
        write!(f, ", instruction {:#x}, fault {}", info.instruction, info.cause)
    }
}
