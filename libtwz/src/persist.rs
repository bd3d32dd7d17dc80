//! Making stores durable: `flush`, `fence`, `persist`, and stores that pass the cache by.
//!
//! # Contract
//! - A store is durable when its line was flushed (or stored with [`store_line`]) and a
//!   [`fence`] followed. Before that it may or may not survive, line by line.
//! - Stores to one line become durable in program order; an aligned 8-byte store is never torn.
//! - With [`Durability::Program`] nothing is flushed and `fence` only orders: what the pool stands on cannot do better
//!   than the page cache, and says so.
//!
//! Measured reasons (see `bench/libtwz`): one fence serves a batch of records; whether lines of a log go through the cache or around it depends on
//! the processor and on how many there are ([`by_cache`]).

use crate::line::Line;
use crate::simulate;
use crate::sys::{Durability, Platform, Seam};
use crate::window::{PAGE, SLOT_MASK, Window};
use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering, compiler_fence as order};

/// Bytes in a cache line.
pub const LINE: usize = 64;

const UNKNOWN: u8 = 0;
const PROGRAM: u8 = 1;
const CLFLUSH: u8 = 2;
const CLFLUSHOPT: u8 = 3;
const CLWB: u8 = 4;
/// The machine is told instead: it keeps the durable memory, for crash tests.
const TRACED: u8 = 5;

/// How lines are flushed; found out on first use.
static LEVEL: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Found out with [`LEVEL`]; before, everything goes through the cache.
static BY_CACHE: AtomicUsize = AtomicUsize::new(usize::MAX);

/// How lines are put out of the cache; found out with [`LEVEL`], since asking the processor may be a trap.
static EVICTION: AtomicU8 = AtomicU8::new(CLFLUSH);

/// Sets the durability level; the pool says it when it is opened.
pub fn set_durability(durability: Durability) {
    let (level, by_cache) = ways(durability);
    EVICTION.store(best_eviction(), Ordering::Relaxed);
    BY_CACHE.store(by_cache, Ordering::Relaxed);
    LEVEL.store(level, Ordering::Relaxed);
}

/// [`LEVEL`] and [`BY_CACHE`] for a durability.
fn ways(durability: Durability) -> (u8, usize) {
    match durability {
        Durability::Program => (PROGRAM, usize::MAX),
        Durability::Power if is_traced() => (TRACED, best_by_cache()),
        Durability::Power => (best_flush(), best_by_cache()),
    }
}

/// Up to so many bytes in a row, which are stored once and not read soon, are cheaper stored and flushed than stored around the cache.
#[inline(always)]
pub(crate) fn by_cache() -> usize {
    let simulated = simulate::by_cache().filter(|_| level() != PROGRAM);
    simulated.unwrap_or_else(|| BY_CACHE.load(Ordering::Relaxed))
}

/// The level in force.
#[must_use]
pub fn durability() -> Durability {
    if level() == PROGRAM { Durability::Program } else { Durability::Power }
}

#[inline]
fn level() -> u8 {
    let level = LEVEL.load(Ordering::Relaxed);
    if level == UNKNOWN { ask_level() } else { level }
}

#[cold]
fn ask_level() -> u8 {
    set_durability(Platform::durability());
    LEVEL.load(Ordering::Relaxed)
}

#[cfg(feature = "guest")]
fn is_traced() -> bool {
    crate::sys::guest::args().is_traced()
}

#[cfg(not(feature = "guest"))]
const fn is_traced() -> bool {
    false
}

/// Tells the machine of a flush of `bytes` at `address`, or with `None` of a fence.
#[cold]
#[track_caller]
fn tell(flushed: Option<(usize, usize)>) {
    #[cfg(feature = "guest")]
    {
        use twz_rt::trace::Traced;
        let event = match flushed {
            Some((address, bytes)) => Traced::Flush { address: address as u64, bytes: bytes as u64 },
            None => Traced::Fence,
        };
        twz_rt::trace::tell(event, core::panic::Location::caller());
    }
    #[cfg(not(feature = "guest"))]
    let _ = flushed;
}

/// Measured (docs/performance.md): where a fence waits longer for one line around the cache than for a few that are written back from it, as on Intel's
/// processors, that many; AMD's wait longer for any line that is written back.
fn best_by_cache() -> usize {
    const INTEL: usize = 4 * LINE;
    let vendor = core::arch::x86_64::__cpuid(0);
    let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
    match name.as_flattened() {
        b"AuthenticAMD" | b"HygonGenuine" => 0,
        _ => INTEL,
    }
}

/// CPUID leaf 7: EBX bit 24 is CLWB (Intel SDM vol. 2A, CPUID).
fn best_flush() -> u8 {
    let has_clwb = core::arch::x86_64::__cpuid_count(7, 0).ebx & 1 << 24 != 0;
    if has_clwb { CLWB } else { best_eviction() }
}

/// CPUID leaf 7: EBX bit 23 is CLFLUSHOPT.
fn best_eviction() -> u8 {
    let has_clflushopt = core::arch::x86_64::__cpuid_count(7, 0).ebx & 1 << 23 != 0;
    if has_clflushopt { CLFLUSHOPT } else { CLFLUSH }
}

/// Starts writing the lines of `address .. address + bytes` back; durable after the next [`fence`].
#[inline]
#[cfg_attr(any(feature = "crash-sim", feature = "guest"), track_caller)]
pub fn flush(address: usize, bytes: usize) {
    simulate::flush(address, bytes);
    let level = level();
    if level == PROGRAM || bytes == 0 {
        return;
    }
    if level == TRACED {
        return tell(Some((address, bytes)));
    }
    let mut line = address & !(LINE - 1);
    while line < address + bytes {
        write_back(level, line);
        line += LINE;
    }
}

/// [`flush`] of the line that `address` is in.
#[inline(always)]
#[cfg_attr(any(feature = "crash-sim", feature = "guest"), track_caller)]
pub(crate) fn flush_line(address: usize) {
    let line = address & !(LINE - 1);
    simulate::flush(line, LINE);
    match LEVEL.load(Ordering::Relaxed) {
        CLWB => write_back(CLWB, line),
        PROGRAM => {}
        _ => flush_line_otherwise(line),
    }
}

/// [`flush_line`] where the level is not known yet, or another one: so the common ones need no registers to be saved.
#[inline(never)]
#[cfg_attr(any(feature = "crash-sim", feature = "guest"), track_caller)]
fn flush_line_otherwise(line: usize) {
    match level() {
        PROGRAM => {}
        TRACED => tell(Some((line, LINE))),
        level => write_back(level, line),
    }
}

#[inline(always)]
fn write_back(level: u8, line: usize) {
    match level {
        // SAFETY: writing a line back changes no value; CPUID said that the instruction exists.
        CLWB => unsafe {
            core::arch::asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags));
        },
        // SAFETY: as above.
        CLFLUSHOPT => unsafe {
            core::arch::asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags));
        },
        // SAFETY: as above; every x86-64 has it.
        _ => unsafe {
            core::arch::asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags));
        },
    }
}

/// Says that the line at `address` is about to be stored to, so that the processor fetches it meanwhile.
#[inline]
pub(crate) fn expect_store(address: usize) {
    // SAFETY: a prefetch is a hint: it changes no value and never faults.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

/// Waits until all that was flushed is durable, and orders it before what follows.
#[inline]
#[cfg_attr(any(feature = "crash-sim", feature = "guest"), track_caller)]
pub fn fence() {
    simulate::fence();
    if level() == PROGRAM {
        order(Ordering::SeqCst); // memory keeps program order as it is
    } else {
        // SAFETY: a fence has no operands.
        unsafe { core::arch::asm!("sfence", options(nostack, preserves_flags)) };
        if level() == TRACED {
            tell(None);
        }
    }
}

/// [`flush`] and [`fence`].
#[inline]
#[cfg_attr(any(feature = "crash-sim", feature = "guest"), track_caller)]
pub fn persist(address: usize, bytes: usize) {
    flush(address, bytes);
    fence();
}

/// Writes one line past the cache; durable after the next [`fence`]. `offset` is rounded down to a line.
#[inline(always)]
#[cfg_attr(any(feature = "crash-sim", feature = "guest"), track_caller)]
pub fn store_line(window: Window, offset: u32, words: &[u64; 8]) {
    let line = window.base() + ((offset as usize & SLOT_MASK) & !(LINE - 1));
    if level() == PROGRAM {
        for (i, word) in words.iter().enumerate() {
            window.store((line & SLOT_MASK) + i * 8, *word);
        }
        return;
    }
    window.line(line & SLOT_MASK).iter().zip(words).for_each(|(place, word)| stream(place, *word));
    stored_around(line, LINE);
}

/// Lines in a row that go around the cache one after the other; durable after the next [`fence`]. Only where [`by_cache`] says so.
pub(crate) struct Around {
    window: Window,
    first: usize,
    next: usize,
}

impl Around {
    /// The first goes to `offset`, a multiple of a line.
    #[inline(always)]
    pub(crate) const fn at(window: Window, offset: usize) -> Self {
        Self { window, first: offset, next: offset }
    }

    /// The next line, in half as many stores as [`store_line`].
    #[inline(always)]
    pub(crate) fn store(&mut self, line: Line) {
        line.store_around(self.window, self.next);
        self.next += LINE;
    }

    /// Tells whoever wants to know of them.
    #[inline(always)]
    #[cfg_attr(any(feature = "crash-sim", feature = "guest"), track_caller)]
    pub(crate) fn end(self) {
        stored_around(self.window.base() + self.first, self.next - self.first);
    }
}

/// A range that is about to be stored, once, and that nobody reads soon: its words go around the cache if the processor has so many of them durable
/// sooner then, else through it.
///
/// ```
/// use libtwz::persist::{self, Outgoing};
/// use libtwz::prelude::*;
///
/// let object = ObjectBuilder::new().build([0_u64; 8])?;
/// let (window, first) = (object.window(), object.global().offset() as usize);
/// let range = Outgoing::range(window, first, 64);
/// (0..8).for_each(|i| range.store(first + i * 8, i as u64));
/// range.end();
/// persist::fence(); // from here on it is durable, and others may be led to it
/// assert_eq!(object[7], 7);
/// # Ok::<(), libtwz::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "what went through the cache is flushed by `end`"]
pub struct Outgoing {
    window: Window,
    first: usize,
    bytes: usize,
    around: bool,
}

impl Outgoing {
    /// `bytes` bytes from `first` on. In which order the words come to memory is not said, also within a line.
    ///
    /// Ranges are stored one behind the other. So a page that begins in this one may be new, and is made ready now.
    #[inline(always)]
    pub fn range(window: Window, first: usize, bytes: usize) -> Self {
        let around = bytes > by_cache();
        if around && (first + bytes - 1) / PAGE != first.wrapping_sub(1) / PAGE {
            begin_pages(window, first, bytes);
        }
        Self { window, first, bytes, around }
    }

    /// Whether they go around the cache: having their lines fetched would be in vain.
    #[inline(always)]
    #[must_use]
    pub const fn is_around(&self) -> bool {
        self.around
    }

    /// Stores the word at `offset`, which is in the range; rounded down to 8 and masked into the slot.
    #[inline(always)]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub fn store(&self, offset: usize, word: u64) {
        if self.around {
            stream(self.window.word(offset), word);
        } else {
            self.window.store(offset, word);
        }
    }

    /// Ends it: all of it is durable after the next [`fence`].
    #[inline(always)]
    #[cfg_attr(any(feature = "crash-sim", feature = "guest"), track_caller)]
    pub fn end(self) {
        if self.around {
            stored_around(self.window.base() + (self.first & SLOT_MASK), self.bytes);
        } else {
            self.window.flush(self.first, self.bytes);
        }
    }
}

/// Makes the pages present that begin in a range, and puts their lines out of the cache. There are the zeros of one that was new, and each
/// store around the cache would wait until its line's were written back (docs/performance.md).
#[cold]
fn begin_pages(window: Window, first: usize, bytes: usize) {
    let way = EVICTION.load(Ordering::Relaxed);
    for page in (first.next_multiple_of(PAGE)..first + bytes).step_by(PAGE) {
        window.populate(page..page + PAGE);
        for line in (page..page + PAGE).step_by(LINE) {
            write_back(way, window.base() + (line & SLOT_MASK));
        }
    }
}

/// Stores a word around the cache.
#[inline(always)]
fn stream(place: &AtomicU64, word: u64) {
    // SAFETY: an atomic word that lives; a store of all of its bits.
    unsafe { core::arch::x86_64::_mm_stream_si64(place.as_ptr().cast(), word.cast_signed()) };
}

/// Tells whoever wants to know of words that were stored around the cache.
#[inline(always)]
#[cfg_attr(any(feature = "crash-sim", feature = "guest"), track_caller)]
fn stored_around(address: usize, bytes: usize) {
    simulate::stored_around(address, bytes);
    if level() == TRACED {
        tell(Some((address, bytes)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maker_says_what_goes_around_the_cache() {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let is_amd = text.contains("AuthenticAMD") || text.contains("HygonGenuine");
        assert_eq!(best_by_cache(), if is_amd { 0 } else { 4 * LINE });
    }

    #[test]
    fn what_is_not_to_outlive_the_power_goes_through_the_cache() {
        assert_eq!(ways(Durability::Program).1, usize::MAX);
        assert_eq!(ways(Durability::Power).1, best_by_cache());
    }
}
