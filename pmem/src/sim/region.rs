//! Windows into a [`Sim`].

use super::Sim;
use crate::{LINE, Pmem};

/// A part of a [`Sim`] as a region of its own, for example one object; offsets count from its start.
#[derive(Clone, Copy, Debug)]
pub struct SimRegion<'a> {
    sim: &'a Sim,
    start: u64,
    len: u64,
}

impl<'a> SimRegion<'a> {
    pub(super) fn new(sim: &'a Sim, start: u64, len: u64) -> Self {
        let inside = len <= sim.len() && start <= sim.len() - len;
        assert!(inside && start.is_multiple_of(LINE), "no window of {len} bytes at {start:#x}");
        Self { sim, start, len }
    }

    /// The address of the first byte, for plain loads and stores.
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        #[allow(clippy::cast_possible_truncation, reason = "x86-64: usize is 64 bits")]
        self.sim.base().wrapping_add(self.start as usize)
    }

    #[inline]
    fn checked(&self, at: u64, len: u64) -> u64 {
        let inside = len <= self.len && at <= self.len - len;
        assert!(inside, "pmem access outside its region: {len} bytes at {at:#x} of {:#x}", self.len);
        self.start + at
    }
}

impl Pmem for SimRegion<'_> {
    fn len(&self) -> u64 {
        self.len
    }
    #[inline]
    fn load(&self, at: u64) -> u64 {
        self.sim.load(self.checked(at, 8))
    }
    fn store(&self, at: u64, value: u64) {
        self.sim.store(self.checked(at, 8), value);
    }
    fn compare_exchange(&self, at: u64, current: u64, new: u64) -> Result<u64, u64> {
        self.sim.compare_exchange(self.checked(at, 8), current, new)
    }
    fn read(&self, at: u64, into: &mut [u8]) {
        self.sim.read(self.checked(at, into.len() as u64), into);
    }
    fn write(&self, at: u64, from: &[u8]) {
        self.sim.write(self.checked(at, from.len() as u64), from);
    }
    fn write_nt(&self, at: u64, from: &[u8]) {
        self.sim.write_nt(self.checked(at, from.len() as u64), from);
    }
    fn zero_nt(&self, at: u64, len: u64) {
        self.sim.zero_nt(self.checked(at, len), len);
    }
    fn copy_nt(&self, from: u64, to: u64, len: u64) {
        self.sim.copy_nt(self.checked(from, len), self.checked(to, len), len);
    }
    fn wrote(&self, at: u64, len: u64) {
        self.sim.wrote(self.checked(at, len), len);
    }
    fn flush(&self, at: u64, len: u64) {
        self.sim.flush(self.checked(at, len), len);
    }
    fn fence(&self) {
        self.sim.fence();
    }
}
