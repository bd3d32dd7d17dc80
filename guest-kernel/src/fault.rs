//! What becomes of a thread that did something it may not.

use crate::arch::cpu;
use crate::arch::entry::TrapFrame;
use crate::kernel::Kernel;
use crate::mailbox::Mailbox;
use crate::thread::End;
use core::fmt;
use twz_abi::call::In;
use twz_abi::fault::{FaultCause, FaultFrame, FaultInfo, RED_ZONE};
use twz_abi::hypercall::Happening;
use twz_abi::{ErrorCode, Rights};
use zerocopy::IntoBytes;

/// Exit status of a thread that a fault ended: this plus the cause.
pub(crate) const FAULT_STATUS: u32 = 128;

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

impl Kernel {
    /// Hands a fault of `thread`, which is on this hart with its space loaded, to the handler that the view names. Without one, or when
    /// the handler itself faults, or its stack cannot be written, the thread ends, with one line on the console.
    pub(crate) fn fault(&mut self, mailbox: Mailbox, thread: u32, info: FaultInfo) {
        if let Ok(cause) = FaultCause::try_from(info.cause) {
            *self.counters().faults(cause) += 1;
        }
        let number = self.threads[thread].number;
        let record = |what| mailbox.record(what, info.cause, number, [info.address, info.instruction]);
        if self.deliver(mailbox, thread, &info).is_some() {
            self.counters().handled_faults += 1;
            record(Happening::FaultHandled);
            self.go_on(thread);
            return;
        }
        record(Happening::FaultFatal);
        if self.threads[thread].calls.is_some() {
            // The callee of a gate: its call fails, its caller goes on.
            mailbox.log(format_args!("{} left a gate: {}", self.threads[thread].label(), Line(&info)));
            self.drop_call(mailbox, thread);
            self.threads[thread].frame.rax = ErrorCode::CalleeFailed as u64;
            self.go_on(thread);
            return;
        }
        self.counters().fatal_faults += 1;
        mailbox.log(format_args!("{} ended: {}", self.threads[thread].label(), Line(&info)));
        self.end_thread(mailbox, thread, End::Fault(info));
    }

    fn deliver(&mut self, mailbox: Mailbox, thread: u32, info: &FaultInfo) -> Option<()> {
        let faulted = &self.threads[thread];
        if faulted.handles_fault {
            return None;
        }
        let (space, fault_stack, frame) = (faulted.space, faulted.fault_stack, faulted.frame);
        let handler = self.view_header(mailbox, space)?.fault_handler;
        if handler == 0 || !cpu::is_user_address(handler) {
            return None;
        }
        let top = if fault_stack == 0 { frame.rsp.wrapping_sub(RED_ZONE) } else { fault_stack };
        let at = top.checked_sub(size_of::<FaultFrame>() as u64)? & !15;
        let pushed = FaultFrame {
            info: *info,
            registers: [
                frame.rax, frame.rbx, frame.rcx, frame.rdx, frame.rsi, frame.rdi, frame.rbp, frame.r8,
                frame.r9, frame.r10, frame.r11, frame.r12, frame.r13, frame.r14, frame.r15,
            ],
            rip: frame.rip,
            rflags: frame.rflags,
            rsp: frame.rsp,
        };
        self.copy_out(mailbox, space, at, pushed.as_bytes()).ok()?;
        let faulted = &mut self.threads[thread];
        faulted.handles_fault = true;
        let frame = &mut faulted.frame;
        (frame.rip, frame.rsp, frame.rdi) = (handler, at, at);
        frame.rflags = cpu::sanitise_flags(0);
        frame.vector = 0;
        Some(())
    }

    /// `FaultReturn`: loads the registers of the frame at `address`.
    pub(crate) fn fault_return(
        &mut self,
        mailbox: Mailbox,
        thread: u32,
        frame: In<FaultFrame>,
    ) -> crate::Result {
        let pushed = self.fetch(mailbox, self.threads[thread].space, frame)?;
        let thread = &mut self.threads[thread];
        thread.handles_fault = false;
        let frame = &mut thread.frame;
        [
            frame.rax, frame.rbx, frame.rcx, frame.rdx, frame.rsi, frame.rdi, frame.rbp, frame.r8, frame.r9,
            frame.r10, frame.r11, frame.r12, frame.r13, frame.r14, frame.r15,
        ] = pushed.registers;
        (frame.rip, frame.rsp) = (pushed.rip, pushed.rsp);
        frame.rflags = cpu::sanitise_flags(pushed.rflags);
        frame.vector = 0;
        Ok(())
    }

    /// A call below ours: to the view's handler with all registers as they were; RCX and R11 hold where to go back to and the flags,
    /// as SYSCALL left them.
    pub(crate) fn low_syscall(&mut self, mailbox: Mailbox, thread: u32) {
        let space = self.threads[thread].space;
        let handler = self.view_header(mailbox, space).map_or(0, |header| header.low_syscall_handler);
        let frame = &mut self.threads[thread].frame;
        if handler == 0 || !cpu::is_user_address(handler) {
            let info = FaultInfo {
                cause: FaultCause::BadSyscall as u32,
                instruction: frame.rip,
                ..FaultInfo::default()
            };
            return self.fault(mailbox, thread, info);
        }
        (frame.rcx, frame.r11) = (frame.rip, frame.rflags);
        frame.rip = handler;
        frame.vector = 0;
        self.go_on(thread);
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
            Ok(FaultCause::OnDemand) => "nothing is mapped on demand there",
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
