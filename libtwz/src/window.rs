//! A window: the 1 GiB of addresses where an object is mapped, and word access to it that cannot go astray.
//!
//! # Contract
//! - **W1** a `Window` is the base of a slot that belongs to `libtwz`; every access is masked into that slot, so a
//!   damaged offset reads nonsense or faults (page 0, missing object), but never touches another object.
//! - All accesses are atomic, so racing threads and programs are no undefined behaviour.

use crate::error::{Error, Result};
use crate::simulate;
use crate::sys::{Platform, Seam};
use crate::tags::TaggedLine;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use twz_abi::object::MAX_SIZE;

/// Bytes of a slot.
#[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide here")]
pub(crate) const SLOT: usize = MAX_SIZE as usize;
/// Bits of an address that are an offset in its slot.
pub(crate) const SLOT_MASK: usize = SLOT - 1;
/// Address bits below the slot number.
pub(crate) const SLOT_SHIFT: u32 = MAX_SIZE.trailing_zeros();

/// Bytes of a page.
#[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide here")]
pub(crate) const PAGE: usize = twz_abi::PAGE_SIZE as usize;

/// Where an object is mapped (**W1**).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    base: usize,
}

/// Words in a row in a window, of which one is found by a compare.
///
/// - **W2** all of them are in one slot of ours; it begins at a multiple of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    start: usize,
    bytes: usize,
}

impl Stretch {
    /// Of no words.
    pub(crate) const NONE: Self = Self { start: 0, bytes: 0 };

    /// Whether a value of this type is a word.
    pub(crate) const fn may_have<T>() -> bool {
        size_of::<T>() == 8 && align_of::<T>() == 8
    }

    /// The word that `value` is, and how far from the start it stands; `None` if it is none of these.
    #[inline(always)]
    pub(crate) fn word<T>(&self, value: &T) -> Option<(usize, u64)> {
        if !Self::may_have::<T>() {
            return None;
        }
        let ahead = core::ptr::from_ref(value).addr().wrapping_sub(self.start);
        if ahead >= self.bytes {
            return None;
        }
        // SAFETY: W2: a word of a slot that is ours for the program's life; aligned, as T is; any bits are a value.
        let word = unsafe { &*((self.start + ahead) as *const AtomicU64) };
        Some((ahead, word.load(Ordering::Relaxed)))
    }
}

impl Window {
    /// The window of a slot; `None` for a slot that is not `libtwz`'s.
    #[must_use]
    pub(crate) fn of_slot(slot: usize) -> Option<Self> {
        let mine = slot.wrapping_sub(Platform::FIRST_SLOT) < Platform::SLOT_COUNT;
        mine.then_some(Self { base: slot << SLOT_SHIFT })
    }

    /// The window at `base`, which came from another one (**W1**).
    #[inline(always)]
    pub(crate) const fn at_base(base: usize) -> Self {
        Self { base }
    }

    /// The window that `address` is in.
    ///
    /// # Errors
    /// [`Error::NotInObject`] for an address outside `libtwz`'s slots.
    #[inline]
    pub fn around(address: usize) -> Result<Self> {
        Self::of_slot(address >> SLOT_SHIFT).ok_or(Error::NotInObject { address })
    }

    /// First address.
    #[inline]
    #[must_use]
    pub const fn base(self) -> usize {
        self.base
    }

    /// The slot's number.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> usize {
        self.base >> SLOT_SHIFT
    }

    /// The atomic word at `offset`, rounded down to 8 and masked into the slot.
    #[inline]
    #[must_use]
    pub fn word(self, offset: usize) -> &'static AtomicU64 {
        let address = self.base + (offset & SLOT_MASK & !7); // the base is a multiple of the slot's size
        // SAFETY: W1 and the mask: aligned and inside a slot that is ours for the program's life; any bits are a value.
        unsafe { &*(address as *const AtomicU64) }
    }

    /// The whole words from `first` to `end`, which are rounded and cut so that they are in the slot.
    pub(crate) fn stretch(self, first: usize, end: usize) -> Stretch {
        let first = first.min(SLOT_MASK).next_multiple_of(8);
        let bytes = end.min(SLOT_MASK + 1).saturating_sub(first) & !7;
        Stretch { start: self.base + first, bytes }
    }

    /// The eight atomic words of the line at `offset`, rounded down to 64 and masked into the slot.
    #[inline]
    #[must_use]
    pub fn line(self, offset: usize) -> &'static [AtomicU64; 8] {
        let address = self.base + (offset & SLOT_MASK & !63);
        // SAFETY: as in `word`.
        unsafe { &*(address as *const [AtomicU64; 8]) }
    }

    /// The eight words from `offset` on, rounded down to 8; from before it where they would not end in the slot.
    #[inline(always)]
    pub(crate) fn eight(self, offset: usize) -> [u64; 8] {
        let offset = (offset & SLOT_MASK & !7).min(SLOT_MASK + 1 - 64);
        // SAFETY: as in `word`.
        let words = unsafe { &*((self.base + offset) as *const [AtomicU64; 8]) };
        words.each_ref().map(|word| word.load(Ordering::Relaxed))
    }

    /// The atomic half-word at `offset`, rounded down to 4 and masked into the slot.
    #[inline]
    #[must_use]
    pub fn half(self, offset: usize) -> &'static AtomicU32 {
        let address = self.base + (offset & SLOT_MASK & !3);
        // SAFETY: as in `word`.
        unsafe { &*(address as *const AtomicU32) }
    }

    /// `N` atomic half-words in a row from `offset` on, rounded down to 4; from before it where they would not end in the slot.
    #[inline]
    #[must_use]
    pub(crate) fn halves<const N: usize>(self, offset: usize) -> &'static [AtomicU32; N] {
        const { assert!(N * 4 <= SLOT_MASK) };
        let offset = (offset & SLOT_MASK & !3).min(SLOT_MASK + 1 - N * 4);
        // SAFETY: as in `word`.
        unsafe { &*((self.base + offset) as *const [AtomicU32; N]) }
    }

    /// The atomic byte at `offset`, masked into the slot.
    #[inline]
    #[must_use]
    pub fn byte(self, offset: usize) -> &'static AtomicU8 {
        let address = self.base + (offset & SLOT_MASK);
        // SAFETY: as in `word`; bytes need no alignment.
        unsafe { &*(address as *const AtomicU8) }
    }

    /// Loads the word at `offset`.
    #[inline]
    #[must_use]
    pub fn load(self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Relaxed)
    }

    /// Loads the eight bytes `AHEAD` after `offset`, which is masked into the slot; they need not be aligned, and may be half changed by whoever
    /// stores to them. From the slot's last seven bytes on it faults: page 0 of the next slot is never mapped. `AHEAD` is a part of the
    /// instruction, so that the sum needs no mask.
    #[inline(always)]
    #[must_use]
    pub fn load_at_any<const AHEAD: usize>(self, offset: usize) -> u64 {
        const { assert!(AHEAD <= PAGE - 8) };
        let at = offset & SLOT_MASK;
        if cfg!(miri) {
            let mut bytes = [0; 8];
            self.read(at + AHEAD, &mut bytes);
            return u64::from_le_bytes(bytes);
        }
        let word;
        // SAFETY: W1, the mask and the bound of `AHEAD`: bytes of a slot that is ours, or a fault. A load by the processor, of which the
        // compiler assumes nothing, is no data race.
        unsafe {
            core::arch::asm!("mov {}, [{} + {} + {}]", out(reg) word, in(reg) self.base, in(reg) at, const AHEAD,
                options(nostack, preserves_flags, readonly));
        }
        word
    }

    /// [`Window::load_at_any`] of four bytes.
    #[inline(always)]
    #[must_use]
    pub fn half_at_any<const AHEAD: usize>(self, offset: usize) -> u32 {
        const { assert!(AHEAD <= PAGE - 4) };
        let at = offset & SLOT_MASK;
        if cfg!(miri) {
            let mut bytes = [0; 4];
            self.read(at + AHEAD, &mut bytes);
            return u32::from_le_bytes(bytes);
        }
        let half;
        // SAFETY: as in `load_at_any`.
        unsafe {
            core::arch::asm!("mov {:e}, [{} + {} + {}]", out(reg) half, in(reg) self.base, in(reg) at, const AHEAD,
                options(nostack, preserves_flags, readonly));
        }
        half
    }

    /// The line `AHEAD` after `offset`, which is rounded down to 64 and masked into the slot. Past the slot's end its accesses fault, as with
    /// [`Window::load_at_any`].
    #[inline(always)]
    #[must_use]
    pub fn tagged_line<const AHEAD: usize>(self, offset: usize) -> TaggedLine<'static, AHEAD> {
        const { assert!(AHEAD <= PAGE - 64) };
        TaggedLine::at(self.base + (offset & SLOT_MASK & !63))
    }

    /// Stores the word at `offset`.
    #[inline]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub fn store(self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Relaxed);
        simulate::stored(self.base | (offset & SLOT_MASK & !7), 8);
    }

    /// Stores the half-word at `offset`.
    #[inline]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub(crate) fn store_half(self, offset: usize, value: u32) {
        self.half(offset).store(value, Ordering::Relaxed);
        simulate::stored(self.base | (offset & SLOT_MASK & !3), 4);
    }

    /// Stores the word at `offset` after everything before.
    #[inline]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub(crate) fn store_release(self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::SeqCst);
        simulate::stored(self.base | (offset & SLOT_MASK & !7), 8);
    }

    /// Replaces the word at `offset` if it is `current`; false if it is not.
    #[inline]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub(crate) fn replace(self, offset: usize, current: u64, new: u64) -> bool {
        let done =
            self.word(offset).compare_exchange(current, new, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        simulate::stored(self.base | (offset & SLOT_MASK & !7), 8);
        done
    }

    /// Makes the pages of a range present and writable now, so that no later access to them waits for the kernel; changes nothing that is
    /// stored. What cannot be made present or written is a fault, as it would be later.
    pub fn populate(self, range: core::ops::Range<usize>) {
        for offset in (range.start..range.end.min(SLOT_MASK + 1)).step_by(PAGE) {
            // The CPU stores, whatever it finds; a `fetch_or` of nothing would be left out by the compiler.
            let _ = self.word(offset).compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Copies bytes out; stops at the end of the slot. Returns how many.
    pub fn read(self, offset: usize, into: &mut [u8]) -> usize {
        let count = into.len().min((SLOT_MASK + 1).saturating_sub(offset));
        let into = &mut into[..count];
        let mut at = offset;
        let mut chunks = into.chunks_mut(8);
        for chunk in &mut chunks {
            if chunk.len() == 8 && at.is_multiple_of(8) {
                chunk.copy_from_slice(&self.load(at).to_le_bytes());
            } else {
                for (i, byte) in chunk.iter_mut().enumerate() {
                    *byte = self.byte(at + i).load(Ordering::Relaxed);
                }
            }
            at += 8;
        }
        count
    }

    /// Copies bytes in; stops at the end of the slot. Returns how many.
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub fn write(self, offset: usize, from: &[u8]) -> usize {
        let count = from.len().min((SLOT_MASK + 1).saturating_sub(offset));
        let mut at = offset;
        for chunk in from[..count].chunks(8) {
            match <[u8; 8]>::try_from(chunk) {
                Ok(bytes) if at.is_multiple_of(8) => self.store(at, u64::from_le_bytes(bytes)),
                _ => {
                    for (i, byte) in chunk.iter().enumerate() {
                        self.byte(at + i).store(*byte, Ordering::Relaxed);
                    }
                    simulate::stored(self.base | (at & SLOT_MASK), chunk.len());
                }
            }
            at += 8;
        }
        count
    }

    /// Has the processor fetch the line at `offset`, which will be read: a hint, which may be wrong.
    #[inline]
    pub fn expect_load(self, offset: usize) {
        let address = core::ptr::with_exposed_provenance(self.base + (offset & SLOT_MASK));
        // SAFETY: a prefetch changes no value and never faults.
        unsafe { core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address) };
    }

    /// [`Window::expect_load`] of a line that will be stored to.
    #[inline]
    pub fn expect_store(self, offset: usize) {
        crate::persist::expect_store(self.base + (offset & SLOT_MASK));
    }

    /// Flushes the line at `offset`.
    #[inline(always)]
    #[cfg_attr(any(feature = "crash-sim", feature = "guest"), track_caller)]
    pub(crate) fn flush_line(self, offset: usize) {
        crate::persist::flush_line(self.base + (offset & SLOT_MASK));
    }

    /// Flushes `bytes` from `offset`.
    #[inline]
    #[cfg_attr(any(feature = "crash-sim", feature = "guest"), track_caller)]
    pub fn flush(self, offset: usize, bytes: usize) {
        crate::persist::flush(self.base + (offset & SLOT_MASK), bytes);
    }
}
