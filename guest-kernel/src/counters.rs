//! The page of counters that `twzvmm` reads while the machine runs.

use crate::kernel::Kernel;
use crate::memory::frames::Frame;
use twz_abi::counters::Counters;

/// The frame that holds the counters; whoever has this value alone writes them.
pub(crate) struct CounterPage(Frame);

impl CounterPage {
    /// Takes a frame full of zeros for the counters.
    pub(crate) const fn new(frame: Frame) -> Self {
        Self(frame)
    }

    /// Guest-physical address, for `twzvmm`.
    pub(crate) const fn address(&self) -> u64 {
        self.0.address()
    }

    /// The counters.
    pub(crate) fn get(&mut self) -> &mut Counters {
        // SAFETY: the frame belongs to this value and held zeros; it is borrowed mutably, so this is the only reference in the guest.
        // `twzvmm` only reads, with volatile loads.
        unsafe { &mut *self.0.pointer::<Counters>() }
    }
}

impl Kernel {
    /// The counters; written under the kernel's lock only.
    pub(crate) fn counters(&mut self) -> &mut Counters {
        self.frames.counters().expect("set at start, before anything is counted").get()
    }
}
