//! Threads that begin again after a power failure.
//!
//! A thread asks for it with [`Syscall::ResumeSet`](crate::syscall::Syscall::ResumeSet). The monitor keeps what it said in the pool; at the next
//! start the thread's view is mapped again, and a new thread begins as the [`ResumeSpec`] says. What is durable of the program's
//! objects is what the program flushed.
//!
//! Unless [`resume_flags::KEEP_MEMORY`] is set, the thread begins as a program does: with its initialised data, an empty heap and an
//! empty stack. The former ones are mapped beside them, in [`FORMER_DATA_SLOT`](crate::program::FORMER_DATA_SLOT) and the two
//! slots after it: nobody can know in the middle of which change to them the power failed.

use crate::hypercall::numbered;
use crate::id::ObjectId;
use crate::program::STATE_SLOT;
use crate::thread::THREAD_NAME_MAX;
use crate::view::SLOT_SIZE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How a resumable thread begins again: RDI holds `argument`, RSI the address of the state object's slot (0 without one), RDX how many
/// times the thread was resumed before this time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResumeSpec {
    /// Object to be mapped in [`STATE_SLOT`](crate::program::STATE_SLOT), readable and writable; null for none.
    pub state: ObjectId,
    /// First instruction; 0: the view's `resume_entry`, as it is then.
    pub entry: u64,
    /// First argument.
    pub argument: u64,
    /// Initial stack pointer; 0: the top of the stack slot.
    pub stack: u64,
    /// FS base; 0 for none.
    pub tls: u64,
    /// [`resume_flags`].
    pub flags: u32,
    /// Filled in by the kernel: the thread's priority.
    pub priority: u32,
    /// Filled in by the kernel: the thread's name.
    pub name: [u8; THREAD_NAME_MAX],
    /// Filled in by the kernel, with [`resume_flags::KEEP_REGISTERS`]: RBX, RBP, R12 to R15.
    pub registers: [u64; 6],
    /// Reserved, zero.
    pub reserved: u64,
}
crate::assert_layout!(
    ResumeSpec,
    size = 128,
    state = 0,
    entry = 16,
    argument = 24,
    stack = 32,
    tls = 40,
    flags = 48,
    priority = 52,
    name = 56,
    registers = 72,
    reserved = 120
);

/// Bits of [`ResumeSpec::flags`].
pub mod resume_flags {
    /// Data, heap and stack are mapped as they were.
    pub const KEEP_MEMORY: u32 = 1 << 0;
    /// The thread goes on behind the call that made it resumable, with the registers that calls preserve as they were then, and 1 in RDX,
    /// where the call itself returned 0. `entry`, `stack` and `argument` are not looked at. Needs [`KEEP_MEMORY`].
    pub const KEEP_REGISTERS: u32 = 1 << 1;
    /// All that are defined.
    pub const ALL: u32 = KEEP_MEMORY | KEEP_REGISTERS;
}

/// What the monitor gives the kernel for each thread to be resumed.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResumeStart {
    /// Its number in the monitor's list.
    pub number: u64,
    /// How many times it was resumed before.
    pub times: u64,
    /// View to run in.
    pub view: ObjectId,
    /// Security context to run in.
    pub context: ObjectId,
    /// How; `entry` and `stack` are filled in.
    pub spec: ResumeSpec,
}
impl ResumeStart {
    /// Where the state object is mapped; 0 without one.
    #[must_use]
    pub const fn state_address(&self) -> u64 {
        if self.spec.state.is_null() { 0 } else { STATE_SLOT * SLOT_SIZE }
    }
}
crate::assert_layout!(ResumeStart, size = 176, number = 0, times = 8, view = 16, context = 32, spec = 48);

numbered! {
    /// What the kernel tells the monitor of a resumable thread.
    pub enum ResumeNote: u64 {
        /// It ended by itself, or does not want to be resumed any more: the monitor forgets it.
        Over = 0,
        /// It has recovered: this try succeeded, unless it ends by a fault.
        Confirmed = 1,
        /// A fault ended it.
        Faulted = 2,
        /// The kernel could not start it.
        NotStarted = 3,
    }
}
