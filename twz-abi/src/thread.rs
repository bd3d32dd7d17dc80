//! Threads: how one is started, and what others may read about it.

use crate::hypercall::numbered;
use crate::id::ObjectId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Low bits of a thread's number that are its place in the kernel's table, in which no two living threads are alike; above is a serial number.
pub const THREAD_INDEX_BITS: u32 = 20;
/// Longest name of a thread, in bytes.
pub const THREAD_NAME_MAX: usize = 16;
/// Priorities are 0 (runs only when nothing else can) to this (runs before everything else).
pub const PRIORITY_MAX: u32 = 31;
/// Priority of a thread whose creator does not say.
pub const PRIORITY_DEFAULT: u32 = 16;

/// What a new thread is to be.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ThreadSpec {
    /// View to run in; null for the creator's.
    pub view: ObjectId,
    /// Security context to run in; null for the creator's.
    pub context: ObjectId,
    /// First instruction.
    pub entry: u64,
    /// Initial stack pointer.
    pub stack: u64,
    /// First argument (RDI).
    pub argument: u64,
    /// FS base, for thread-local data; 0 for none.
    pub tls: u64,
    /// Address, in the thread's own view, of its [`ThreadState`]; 0 for none. A multiple of 8.
    pub state: u64,
    /// Top of the stack on which its faults are handled; 0: on the stack that it was using, past the red zone.
    pub fault_stack: u64,
    /// Harts that may run it, a bit each; 0 for all.
    pub affinity: u64,
    /// 0 to [`PRIORITY_MAX`].
    pub priority: u32,
    /// Reserved, zero.
    pub reserved: u32,
    /// Name for messages, UTF-8, padded with zeros.
    pub name: [u8; THREAD_NAME_MAX],
}
crate::assert_layout!(
    ThreadSpec,
    size = 112,
    view = 0,
    context = 16,
    entry = 32,
    stack = 40,
    argument = 48,
    tls = 56,
    state = 64,
    fault_stack = 72,
    affinity = 80,
    priority = 88,
    reserved = 92,
    name = 96
);

numbered! {
    /// `ThreadState::phase`. The word is one that `ThreadSync` can sleep on; the kernel wakes its sleepers when it changes.
    pub enum ThreadPhase: u32 {
        /// Not started.
        New = 0,
        /// Exists.
        Started = 1,
        /// Ended by itself, with `status`.
        Exited = 2,
        /// Ended by the fault in `fault`, with status 128 + its cause.
        Faulted = 3,
    }
}

/// What the kernel writes about a thread, in an object that others may map and read.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ThreadState {
    /// A [`ThreadPhase`]; written last.
    pub phase: u32,
    /// Exit status.
    pub status: u32,
    /// The thread's number.
    pub thread: u64,
    /// The fault that ended it.
    pub fault: crate::fault::FaultInfo,
}
crate::assert_layout!(ThreadState, size = 64, phase = 0, status = 4, thread = 8, fault = 16);

numbered! {
    /// What [`crate::syscall::Syscall::ThreadSet`] can change.
    pub enum ThreadProperty: u64 {
        /// 0 to [`PRIORITY_MAX`].
        Priority = 1,
        /// Harts that may run it, a bit each; at least one of the machine's.
        Affinity = 2,
        /// FS base; this thread only.
        Tls = 3,
        /// Top of its fault stack, 0 for none; this thread only.
        FaultStack = 4,
    }
}
