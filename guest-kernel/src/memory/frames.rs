//! Page frames of guest RAM.
//!
//! Frames that were never used hold zeros, because `twzvmm` starts with fresh memory; those are preferred, since zeroing
//! is slow where ring 0 is interpreted. Freed ones are chained through their first word.

use core::num::NonZeroU64;
use twz_abi::boot::DIRECT_MAP;
use twz_abi::{PAGE_BYTES, PAGE_SIZE};

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
    free_count: u64,
    total: u64,
}

impl Frames {
    /// No frames at all.
    pub(crate) const EMPTY: Self = Self { fresh: 0, end: 0, freed: None, free_count: 0, total: 0 };

    /// Hands the frames from `start` to `end` over.
    pub(crate) fn add_fresh(&mut self, start: u64, end: u64) {
        self.fresh = start.next_multiple_of(PAGE_SIZE);
        self.end = end;
        self.free_count = end.saturating_sub(self.fresh) / PAGE_SIZE;
        self.total = self.free_count;
    }

    /// Frames that are free.
    pub(crate) fn free_count(&self) -> u64 {
        self.free_count
    }

    /// Frames that there are.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Takes a frame full of zeros; `None` when none is left.
    pub(crate) fn allocate(&mut self) -> Option<Frame> {
        if self.fresh + PAGE_SIZE <= self.end {
            let frame = Frame(NonZeroU64::new(self.fresh)?);
            self.fresh += PAGE_SIZE;
            self.free_count -= 1;
            return Some(frame);
        }
        let frame = self.freed?;
        // SAFETY: a freed frame belongs to this list, and its first word is the next one's address.
        let next = unsafe { frame.pointer::<u64>().read() };
        self.freed = NonZeroU64::new(next).map(Frame);
        // SAFETY: nobody else holds the frame.
        unsafe { frame.pointer::<u8>().write_bytes(0, PAGE_BYTES) };
        self.free_count -= 1;
        Some(frame)
    }

    /// Takes a frame back. The caller must have dropped every reference to it, hardware's included.
    pub(crate) fn free(&mut self, frame: Frame) {
        let next = self.freed.map_or(0, Frame::address);
        // SAFETY: the frame is the caller's to give, so nobody reads or writes it but us.
        unsafe { frame.pointer::<u64>().write(next) };
        self.freed = Some(frame);
        self.free_count += 1;
    }
}
