//! The page of counters that `twzvmm` reads while the machine runs.

use crate::kernel::Kernel;
use crate::memory::frames::Frame;
use twz_abi::counters::Counters;

/// The frame that holds the counters.
#[derive(Clone, Copy)]
pub(crate) struct CounterPage(Frame);

impl CounterPage {
    /// Takes a frame full of zeros for the counters.
    pub(crate) const fn new(frame: Frame) -> Self {
        Self(frame)
    }

    /// Guest-physical address, for `twzvmm`.
    pub(crate) const fn address(self) -> u64 {
        self.0.address()
    }
}

impl Kernel {
    /// The counters; written under the kernel's lock only.
    pub(crate) fn counters(&mut self) -> &mut Counters {
        let page = self.counter_page.expect("set at start, before anything is counted");
        // SAFETY: the frame belongs to the counters and held zeros; `self` is borrowed mutably, so this is the only reference in the
        // guest. `twzvmm` only reads, with volatile loads.
        unsafe { &mut *page.0.pointer::<Counters>() }
    }
}
