//! Threads: saved registers, vector state, and where they run.

use crate::arch::cpu;
use crate::arch::entry::TrapFrame;
use crate::arch::fpu::FpuArea;
use crate::arch::tables::{USER_CODE, USER_DATA};
use twz_abi::boot::ThreadStart;

/// What a thread is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// In the run queue.
    Ready,
    /// On a hart.
    Running,
    /// Its console read is repeated when something was typed.
    WaitsForConsole,
}

/// A thread. The entries in `arch::entry` push into `frame` and read `kernel_stack`, so both stand first.
#[repr(C)]
pub(crate) struct Thread {
    pub(crate) frame: TrapFrame,
    /// Top of the stack of the hart that runs it.
    pub(crate) kernel_stack: u64,
    /// The hart that runs it, or ran it last.
    pub(crate) hart: u32,
    /// Its place in the kernel's thread table.
    pub(crate) index: u32,
    pub(crate) state: State,
    /// The (view, context) that it runs in.
    pub(crate) space: u32,
    /// Next thread in the queue that it is in.
    pub(crate) next: Option<u32>,
    /// FS and GS base.
    pub(crate) segments: (u64, u64),
    /// When this thread ends, the machine does, with its status.
    pub(crate) is_first: bool,
    /// The last instruction that the second stage refused, and how often in a row.
    pub(crate) refused: (u64, u32),
    pub(crate) fpu: FpuArea,
}

impl Thread {
    /// A thread that will begin as `start` says. The addresses must be the program's; they are checked by the caller.
    pub(crate) fn new(start: &ThreadStart, space: u32) -> Self {
        let frame = TrapFrame {
            rip: start.entry,
            cs: u64::from(USER_CODE),
            rflags: cpu::sanitise_flags(0),
            rsp: start.stack,
            ss: u64::from(USER_DATA),
            rdi: start.argument,
            ..TrapFrame::default()
        };
        Self {
            frame,
            kernel_stack: 0,
            hart: 0,
            index: 0,
            state: State::Ready,
            space,
            next: None,
            segments: (start.tls, 0),
            is_first: false,
            refused: (0, 0),
            fpu: FpuArea::new(),
        }
    }

    /// Takes over what the CPU holds of this thread.
    pub(crate) fn save_cpu_state(&mut self) {
        self.fpu.save();
        self.segments = cpu::segment_bases();
    }

    /// Gives the CPU this thread's state.
    pub(crate) fn restore_cpu_state(&self) {
        self.fpu.restore();
        cpu::set_segment_bases(self.segments.0, self.segments.1);
    }
}
