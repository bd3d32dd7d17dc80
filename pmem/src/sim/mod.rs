//! A simulator of power failures.
//!
//! A [`Sim`] is persistent memory that writes down each store, flush and fence. [`explore`] replays that trace, builds
//! the memories that a power failure can leave at each point, and hands each of them to the caller's recovery and check.
//! [`mutants`] makes wrong programs out of a right one, to show that the check notices, and [`audit`] counts what the
//! program flushed in vain.
//!
//! # Contract
//! - **S1**: the model is that of the crate: 64-byte lines, any prefix of a line's undurable stores may be durable,
//!   lines independent, 8-byte stores atomic. The words of one write around the cache come in an order drawn at random, since a
//!   write-combining buffer may leave in pieces (Intel SDM vol. 3A, "Buffering of Write Combining Memory Locations").
//! - **S2**: memory starts as zeros and costs only what is touched, so objects can stand 1 GiB apart.
//! - **S3**: a store that does not go through [`Pmem`] (a plain store through [`Sim::base`]) is unknown until
//!   [`Pmem::wrote`] names its range; then its words count as stored, in an order drawn at random, since nobody
//!   knows the real one.

mod arena;
mod audit;
mod explore;
mod memo;
mod mutants;
mod region;

pub use audit::{Audit, audit};
pub use explore::{Config, Crash, Failure, Report, explore};
pub use mutants::{Mutant, mutants};
pub use region::SimRegion;

use crate::{LINE, Pmem, WORD};
use arena::Arena;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a program did to persistent memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The word at `at` was stored.
    Store {
        /// Offset, a multiple of 8.
        at: u64,
        /// The value before.
        old: u64,
        /// The value after.
        new: u64,
        /// Around the cache: needs no flush.
        around: bool,
    },
    /// Write-back of the line at this offset (a multiple of 64) was started.
    Flush(u64),
    /// Everything flushed is durable from here on.
    Fence,
    /// The program says where it is, see [`Sim::mark`].
    Mark(u64),
}

/// A place in a program.
pub type Site = &'static Location<'static>;

/// Simulated persistent memory.
#[derive(Debug)]
pub struct Sim {
    arena: Arena,
    /// What the arena held when `wrote` or a store last looked: finds plain stores.
    shadow: Arena,
    state: Mutex<State>,
    /// Number of the run whose reads are noted; 0: none are.
    run: AtomicU64,
    /// For each line: 0 when nobody wants to know, else the last run that read it.
    stamps: Arena,
    /// Wanted lines that this run has read, in order.
    reads: Mutex<Vec<u64>>,
}

#[derive(Debug)]
struct State {
    recording: bool,
    trace: Vec<Event>,
    /// Who did it; in step with the trace.
    sites: Vec<Site>,
    /// Highest run number given out.
    runs: u64,
    /// Draws the order of plain stores (xorshift64).
    random: u64,
}

impl Sim {
    /// Makes `len` bytes of zeros (rounded up to a page), not recording.
    ///
    /// # Panics
    /// When the address space has no room for them.
    #[must_use]
    pub fn new(len: u64) -> Self {
        let state = State {
            recording: false,
            trace: Vec::new(),
            sites: Vec::new(),
            runs: 1,
            random: 0x9e37_79b9_7f4a_7c15,
        };
        Self {
            arena: Arena::new(len),
            shadow: Arena::new(len),
            state: Mutex::new(state),
            run: AtomicU64::new(0),
            stamps: Arena::new(len / (LINE / WORD)),
            reads: Mutex::new(Vec::new()),
        }
    }

    /// The address of the first byte, for programs that use plain loads and stores (S3).
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.arena.base()
    }

    /// Begins to record, with an empty trace. What memory holds now counts as durable.
    pub fn start_recording(&self) {
        let mut state = self.state();
        state.recording = true;
        state.trace.clear();
        state.sites.clear();
    }

    /// Ends recording and returns what was recorded.
    pub fn take_trace(&self) -> Vec<Event> {
        let mut state = self.state();
        state.recording = false;
        core::mem::take(&mut state.trace)
    }

    /// For each event of the trace that was taken last, the place in the program that caused it.
    pub fn take_sites(&self) -> Vec<Site> {
        core::mem::take(&mut self.state().sites)
    }

    /// Puts [`Event::Mark`] into the trace: tells the check how far the program had come.
    #[track_caller]
    pub fn mark(&self, value: u64) {
        self.state().record(Event::Mark(value));
    }

    /// A window of this memory as a region of its own, with the same trace and fences.
    ///
    /// # Panics
    /// When the window is not inside, or not aligned to a line.
    #[must_use]
    pub fn region(&self, start: u64, len: u64) -> SimRegion<'_> {
        SimRegion::new(self, start, len)
    }

    /// Takes back what `trace` did, so that memory is what it was when the recording began.
    pub fn rewind(&self, trace: &[Event]) {
        for event in trace.iter().rev() {
            if let Event::Store { at, old, .. } = *event {
                self.poke(at, old);
            }
        }
    }

    /// Changes a word without a record.
    #[inline]
    fn poke(&self, at: u64, value: u64) {
        self.arena.store(at, value);
        self.shadow.store(at, value);
    }

    /// Notes the reads of `len` bytes at `at`, if this run wants to know.
    #[inline]
    fn note_reads(&self, at: u64, len: u64) {
        let run = self.run.load(Ordering::Relaxed);
        if run != 0 {
            for line in at / LINE..(at + len).div_ceil(LINE) {
                self.note_line(line, run);
            }
        }
    }

    #[inline]
    fn note_line(&self, line: u64, run: u64) {
        let stamp = self.stamps.load(line * WORD);
        if stamp != 0 && stamp != run {
            self.stamps.store(line * WORD, run);
            self.reads.lock().unwrap_or_else(PoisonError::into_inner).push(line * LINE);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[track_caller]
    fn store_word(&self, state: &mut State, at: u64, new: u64, around: bool) {
        let old = self.shadow.load(at);
        self.arena.store(at, new);
        self.shadow.store(at, new);
        state.record(Event::Store { at, old, new, around });
    }

    #[track_caller]
    fn write_words(&self, at: u64, from: &[u8], around: bool) {
        let mut state = self.state();
        let first = state.trace.len();
        // A ragged end keeps bytes of its word, which is a read of them.
        if !at.is_multiple_of(WORD) || !from.len().is_multiple_of(8) {
            self.note_reads(at, from.len() as u64);
        }
        let mut done = 0;
        while done < from.len() {
            let here = at + done as u64;
            let word = here - here % WORD;
            let mut bytes = self.arena.load(word).to_le_bytes();
            #[allow(clippy::cast_possible_truncation, reason = "below 8")]
            let skip = (here % WORD) as usize;
            let count = (8 - skip).min(from.len() - done);
            bytes[skip..skip + count].copy_from_slice(&from[done..done + count]);
            self.store_word(&mut state, word, u64::from_le_bytes(bytes), around);
            done += count;
        }
        if around {
            state.mix(first);
        }
    }
}

impl State {
    #[track_caller]
    fn record(&mut self, event: Event) {
        if self.recording {
            self.trace.push(event);
            self.sites.push(Location::caller());
        }
    }

    /// Puts the events from `first` on, which are of different words, into an order drawn at random.
    fn mix(&mut self, first: usize) {
        for unplaced in (first + 1..self.trace.len()).rev() {
            let pick = first + self.draw_below(unplaced - first + 1);
            self.trace.swap(unplaced, pick);
        }
    }

    fn draw_below(&mut self, count: usize) -> usize {
        #[allow(clippy::cast_possible_truncation, reason = "below `count`")]
        let drawn = (self.draw() % count as u64) as usize;
        drawn
    }

    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl Pmem for Sim {
    fn len(&self) -> u64 {
        self.arena.len()
    }

    #[inline]
    fn load(&self, at: u64) -> u64 {
        let run = self.run.load(Ordering::Relaxed);
        if run != 0 {
            self.note_line(at / LINE, run);
        }
        self.arena.load(at)
    }

    fn store(&self, at: u64, value: u64) {
        assert!(at.is_multiple_of(WORD), "pmem word access at unaligned offset {at:#x}");
        self.store_word(&mut self.state(), at, value, false);
    }

    fn compare_exchange(&self, at: u64, current: u64, new: u64) -> Result<u64, u64> {
        let mut state = self.state();
        self.note_reads(at, WORD);
        let found = self.arena.load(at);
        if found != current {
            return Err(found);
        }
        self.store_word(&mut state, at, new, false);
        Ok(found)
    }

    fn read(&self, at: u64, into: &mut [u8]) {
        self.note_reads(at, into.len() as u64);
        self.arena.read(at, into);
    }

    fn write(&self, at: u64, from: &[u8]) {
        self.write_words(at, from, false);
    }

    fn write_nt(&self, at: u64, from: &[u8]) {
        self.write_words(at, from, true);
    }

    fn zero_nt(&self, at: u64, len: u64) {
        const ZEROS: [u8; 64] = [0; 64];
        let mut done = 0;
        while done < len {
            let count = (len - done).min(LINE);
            #[allow(clippy::cast_possible_truncation, reason = "at most 64")]
            self.write_words(at + done, &ZEROS[..count as usize], true);
            done += count;
        }
    }

    fn copy_nt(&self, from: u64, to: u64, len: u64) {
        let mut state = self.state();
        self.note_reads(from, len);
        let first = state.trace.len();
        for step in (0..len).step_by(8) {
            self.store_word(&mut state, to + step, self.arena.load(from + step), true);
        }
        state.mix(first);
    }

    fn wrote(&self, at: u64, len: u64) {
        let mut state = self.state();
        let mut changed: Vec<u64> = (at / WORD..(at + len).div_ceil(WORD))
            .map(|word| word * WORD)
            .filter(|&word| self.arena.load(word) != self.shadow.load(word))
            .collect();
        for unplaced in (1..changed.len()).rev() {
            let pick = state.draw_below(unplaced + 1);
            changed.swap(unplaced, pick);
        }
        for word in changed {
            self.store_word(&mut state, word, self.arena.load(word), false);
        }
    }

    fn flush(&self, at: u64, len: u64) {
        assert!(len <= self.len() && at <= self.len() - len, "pmem flush outside its region");
        if len == 0 {
            return;
        }
        let mut state = self.state();
        for line in at / LINE..(at + len).div_ceil(LINE) {
            state.record(Event::Flush(line * LINE));
        }
    }

    fn fence(&self) {
        self.state().record(Event::Fence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_what_was_done_in_order() {
        let sim = Sim::new(4096);
        sim.store(0, 1);
        sim.start_recording();
        sim.mark(7);
        sim.store(0, 2);
        sim.write(9, &[0xaa]);
        sim.flush(0, 65);
        sim.fence();
        let store = |at, old, new| Event::Store { at, old, new, around: false };
        let expected = [
            Event::Mark(7),
            store(0, 1, 2),
            store(8, 0, 0xaa00),
            Event::Flush(0),
            Event::Flush(64),
            Event::Fence,
        ];
        assert_eq!(sim.take_trace(), expected);
        sim.store(0, 3);
        assert!(sim.take_trace().is_empty());
    }

    #[test]
    fn finds_plain_stores_that_it_is_told_of() {
        let sim = Sim::new(4096);
        sim.start_recording();
        for at in [20, 100] {
            let byte = sim.base().wrapping_add(at);
            // SAFETY: inside the memory, which nothing else uses.
            unsafe { byte.write(1) };
        }
        sim.region(0, 64).wrote(16, 48);
        assert_eq!(sim.take_trace(), [Event::Store { at: 16, old: 0, new: 1 << 32, around: false }]);
    }

    /// Each word of a write is the first of it in some run.
    #[test]
    fn words_around_the_cache_come_in_any_order() {
        let sim = Sim::new(4096);
        let mut firsts = std::collections::BTreeSet::new();
        for _ in 0..40 {
            sim.start_recording();
            sim.write_nt(64, &[7; 32]);
            sim.copy_nt(64, 128, 16);
            let trace = sim.take_trace();
            let places: Vec<u64> = trace
                .iter()
                .filter_map(|event| match event {
                    Event::Store { at, around: true, .. } => Some(*at),
                    _ => None,
                })
                .collect();
            let mut sorted = places.clone();
            sorted[..4].sort_unstable();
            sorted[4..].sort_unstable();
            assert_eq!(sorted, [64, 72, 80, 88, 128, 136]);
            firsts.extend([places[0], places[4]]);
            assert_eq!(sim.load(136), 0x0707_0707_0707_0707);
            sim.rewind(&trace);
            assert_eq!((sim.load(64), sim.load(136)), (0, 0));
        }
        assert_eq!(firsts.len(), 6, "{firsts:?}");
    }

    #[test]
    fn regions_share_the_trace() {
        let sim = Sim::new(1 << 33);
        sim.start_recording();
        let (low, high) = (sim.region(0, 4096), sim.region(1 << 32, 4096));
        low.store(8, 1);
        high.store(8, 2);
        high.persist(8, 8);
        assert_eq!(sim.load((1 << 32) + 8), 2);
        assert_eq!(sim.take_trace()[2], Event::Flush(1 << 32));
    }
}
