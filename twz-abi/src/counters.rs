//! Counters of the guest kernel, in a page that `twzvmm` reads while the machine runs and that programs get copies of.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the machine started; they only grow. Words are stored atomically, the set is not a snapshot.
        #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            /// The names, in the order of the fields.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)*];
        }

        const _: () = assert!(size_of::<Counters>() == Counters::NAMES.len() * 8);
    };
}

counters! {
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
}
