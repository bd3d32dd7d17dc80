//! Page frames of guest RAM.
//!
//! Frames that were never used hold zeros, because `twzvmm` starts with fresh memory; those are preferred, since zeroing
//! is slow where ring 0 is interpreted. Freed ones are chained through their first word.

use crate::counters::CounterPage;
use core::num::NonZeroU64;
use twz_abi::boot::DIRECT_MAP;
use twz_abi::{PAGE_BYTES, PAGE_SIZE};

/// Added to a count, takes one away from it.
const ONE_LESS: u64 = u64::MAX;

/// A page frame that this value owns, by its guest-physical address. It is not freed by being dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frame(NonZeroU64);

impl Frame {
    /// Guest-physical address.
    pub(crate) const fn address(self) -> u64 {
        self.0.get()
    }

    /// Where the kernel sees it.
    pub(crate) const fn pointer<T>(self) -> *mut T {
        (DIRECT_MAP + self.0.get()) as *mut T
    }

    /// The frame at a guest-physical address that a table entry holds.
    ///
    /// # Safety
    /// The address must be that of a frame which [`Frames::allocate`] handed out and which is not free.
    pub(crate) const unsafe fn from_address(address: u64) -> Option<Self> {
        match NonZeroU64::new(address) {
            Some(address) => Some(Self(address)),
            None => None,
        }
    }
}

/// All free frames.
pub(crate) struct Frames {
    fresh: u64,
    end: u64,
    freed: Option<Frame>,
    /// All of the kernel's counters, and among them how many frames are free and how many in use.
    counters: Option<CounterPage>,
}

impl Frames {
    /// No frames at all.
    pub(crate) const EMPTY: Self = Self { fresh: 0, end: 0, freed: None, counters: None };

    /// Hands the frames from `start` to `end` over.
    pub(crate) fn add_fresh(&mut self, start: u64, end: u64) {
        self.fresh = start.next_multiple_of(PAGE_SIZE);
        self.end = end;
    }

    /// Takes a frame for the counters, and keeps there from now on how many are free and in use; `false` when there is none.
    pub(crate) fn begin_counting(&mut self) -> bool {
        self.counters = self.allocate().map(CounterPage::new);
        let free = self.end.saturating_sub(self.fresh) / PAGE_SIZE;
        self.count(free, 1);
        self.counters.is_some()
    }

    /// The page of counters, once there is one.
    pub(crate) fn counters(&mut self) -> Option<&mut CounterPage> {
        self.counters.as_mut()
    }

    /// Notes so many free frames and frames in use more.
    fn count(&mut self, free: u64, used: u64) {
        if let Some(page) = &mut self.counters {
            let counters = page.get();
            counters.frames_free = counters.frames_free.wrapping_add(free);
            counters.frames_used = counters.frames_used.wrapping_add(used);
        }
    }

    /// Takes a frame full of zeros; `None` when none is left.
    pub(crate) fn allocate(&mut self) -> Option<Frame> {
        if self.fresh + PAGE_SIZE <= self.end {
            let frame = Frame(NonZeroU64::new(self.fresh)?);
            self.fresh += PAGE_SIZE;
            self.count(ONE_LESS, 1);
            return Some(frame);
        }
        let frame = self.freed?;
        // SAFETY: a freed frame belongs to this list, and its first word is the next one's address.
        let next = unsafe { frame.pointer::<u64>().read() };
        self.freed = NonZeroU64::new(next).map(Frame);
        // SAFETY: nobody else holds the frame.
        unsafe { frame.pointer::<u8>().write_bytes(0, PAGE_BYTES) };
        self.count(ONE_LESS, 1);
        Some(frame)
    }

    /// Takes a frame back. The caller must have dropped every reference to it, hardware's included.
    pub(crate) fn free(&mut self, frame: Frame) {
        let next = self.freed.map_or(0, Frame::address);
        // SAFETY: the frame is the caller's to give, so nobody reads or writes it but us.
        unsafe { frame.pointer::<u64>().write(next) };
        self.freed = Some(frame);
        self.count(1, ONE_LESS);
    }
}
