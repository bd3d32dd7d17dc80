//! Counters of the guest kernel, in a page that `twzvmm` reads while the machine runs and that programs get copies of; and those of `twzvmm`
//! that programs get beside them.

use crate::fault::FaultCause;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! counters {
    ($(#[$meta:meta])* pub struct $counters:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $counters { $($(#[$doc])* pub $name: u64,)* }

        impl $counters {
            /// The names, in the order of the fields.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)*];
        }

        const _: () = assert!(size_of::<$counters>() == $counters::NAMES.len() * 8);
    };
}

counters! {
    /// How often harts left the guest for `twzvmm` since the machine started, by reason, all harts together.
    pub struct ExitCounters {
        /// Hypercalls.
        hypercall,
        /// Nothing to run.
        halt,
        /// A signal: timer, kick or stop.
        interrupted,
        /// The guest could take the interrupt that waited.
        interrupt_window,
        /// The second stage refused an access, seen as emulated MMIO.
        refused_mmio,
        /// The second stage refused an access, seen as `EFAULT`.
        refused_fault,
        /// A watched instruction of the kernel was reached for the first time (`--coverage`).
        watched,
        /// What ends the machine.
        other,
    }
}

/// What [`Syscall::Counters`](crate::syscall::Syscall::Counters) copies, as much of it as there is room for.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AllCounters {
    /// The kernel's.
    pub kernel: Counters,
    /// Those of `twzvmm`; asking for them is an exit.
    pub exits: ExitCounters,
}
crate::assert_layout!(AllCounters, size = size_of::<Counters>() + size_of::<ExitCounters>(), kernel = 0);

counters! {
    /// Counts since the machine started; they only grow. Words are stored atomically, the set is not a snapshot.
    pub struct Counters {
    /// System calls.
    syscalls,
    /// Page faults of programs.
    page_faults,
    /// Page faults that installed a slot: late binding.
    slots_mapped,
    /// Objects bound to a context.
    binds,
    /// Objects unbound.
    unbinds,
    /// Pages or chunks backed by the monitor.
    touches,
    /// Of these, chunks of 2 MiB that one leaf maps.
    large_pages,
    /// Faults that ended a thread.
    fatal_faults,
    /// Faults delivered to a handler.
    handled_faults,
    /// Switches from one thread to another.
    thread_switches,
    /// Loads of another top-level table.
    space_switches,
    /// Threads started.
    threads_started,
    /// Threads ended.
    threads_ended,
    /// Slots invalidated.
    invalidated_slots,
    /// Rounds of making other harts drop translations.
    shootdowns,
    /// Threads put to sleep on words.
    sleeps,
    /// Threads woken.
    wakes,
    /// Timer interrupts.
    timer_ticks,
    /// Kicks taken.
    kicks,
    /// Accesses refused by the second stage.
    refusals,
    /// Times that a hart had nothing to run.
    idles,
    /// Times that a thread went on in another context by activating it.
    context_switches,
    /// Times that a hart went to another root.
    root_switches,
    /// Calls of gates.
    gate_calls,
    /// Calls of gates that ended without a return.
    gate_failures,
    /// Frames of RAM in use by the kernel.
    frames_used,
    /// Frames of RAM free.
    frames_free,
    /// Faults of programs by cause, whatever became of them: no view entry.
    faults_unmapped,
    /// Null pointers.
    faults_null_page,
    /// Accesses that the view or the context does not allow.
    faults_rights,
    /// Objects that do not exist.
    faults_no_object,
    /// Pages that could not be backed.
    faults_out_of_space,
    /// Addresses outside of the program's half.
    faults_kernel_address,
    /// Undefined instructions.
    faults_bad_instruction,
    /// Privileged instructions and other general-protection faults.
    faults_protection,
    /// Division errors.
    faults_divide,
    /// Breakpoints and single steps.
    faults_breakpoint,
    /// Misaligned accesses.
    faults_alignment,
    /// Floating-point and vector exceptions.
    faults_floating_point,
    /// Other exceptions.
    faults_exception,
    /// Failures of the medium or the memory.
    faults_machine_check,
    /// System calls that nobody handles.
    faults_bad_syscall,
    /// On-demand slots.
    faults_on_demand,
    }
}

impl Counters {
    /// The counter of faults with this cause.
    pub const fn faults(&mut self, cause: FaultCause) -> &mut u64 {
        match cause {
            FaultCause::Unmapped => &mut self.faults_unmapped,
            FaultCause::NullPage => &mut self.faults_null_page,
            FaultCause::Rights => &mut self.faults_rights,
            FaultCause::NoObject => &mut self.faults_no_object,
            FaultCause::OutOfSpace => &mut self.faults_out_of_space,
            FaultCause::KernelAddress => &mut self.faults_kernel_address,
            FaultCause::BadInstruction => &mut self.faults_bad_instruction,
            FaultCause::Protection => &mut self.faults_protection,
            FaultCause::Divide => &mut self.faults_divide,
            FaultCause::Breakpoint => &mut self.faults_breakpoint,
            FaultCause::Alignment => &mut self.faults_alignment,
            FaultCause::FloatingPoint => &mut self.faults_floating_point,
            FaultCause::Exception => &mut self.faults_exception,
            FaultCause::MachineCheck => &mut self.faults_machine_check,
            FaultCause::BadSyscall => &mut self.faults_bad_syscall,
            FaultCause::OnDemand => &mut self.faults_on_demand,
        }
    }
}
