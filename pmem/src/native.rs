//! Persistent memory that is mapped, made durable by the processor's own instructions.
//!
//! # Contract
//! - **N1 mapped**: a [`Native`] is made by a caller who promises that `base .. base + len` stays mapped, readable and
//!   writable while any copy of the value lives, that `base` is 8-byte aligned, and that nobody makes a Rust
//!   reference to bytes that are written through it at the same time.
//! - Each access checks its bounds first, then touches memory by whole atomic words (bytes at ragged ends).

use crate::trace::{self, Traced};
use crate::{LINE, Pmem, WORD, cpu};
use core::panic::Location;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// A mapped region. Copies are cheap and mean the same region.
#[derive(Clone, Copy, Debug)]
pub struct Native {
    base: *mut u8,
    len: u64,
}

// SAFETY: N1 holds for all threads of the address space, and every access is atomic.
unsafe impl Send for Native {}
// SAFETY: as above.
unsafe impl Sync for Native {}

impl Native {
    /// Takes the region of `len` bytes at `base`.
    ///
    /// # Safety
    /// N1 of the module: mapped, readable and writable as long as any copy lives; `base` 8-byte aligned; no Rust
    /// reference to bytes while they are written through this value.
    #[must_use]
    pub const unsafe fn new(base: *mut u8, len: u64) -> Self {
        Self { base, len }
    }

    /// The address of the region's first byte.
    #[must_use]
    pub const fn base(&self) -> *mut u8 {
        self.base
    }

    /// The address of byte `at` after checking that `len` bytes there are inside.
    #[inline]
    fn address(&self, at: u64, len: u64) -> *mut u8 {
        let inside = len <= self.len && at <= self.len - len;
        assert!(inside, "pmem access outside its region: {len} bytes at {at:#x} of {:#x}", self.len);
        #[allow(clippy::cast_possible_truncation, reason = "x86-64: usize is 64 bits")]
        self.base.wrapping_add(at as usize)
    }

    #[inline]
    fn word(&self, at: u64) -> &AtomicU64 {
        assert!(at.is_multiple_of(WORD), "pmem word access at unaligned offset {at:#x}");
        // SAFETY: N1, with bounds checked by `address` and alignment just above.
        unsafe { AtomicU64::from_ptr(self.address(at, WORD).cast()) }
    }

    #[inline]
    fn byte(&self, at: u64) -> &AtomicU8 {
        // SAFETY: N1, with bounds checked by `address`.
        unsafe { AtomicU8::from_ptr(self.address(at, 1)) }
    }

    #[inline]
    fn word_nt(&self, at: u64, value: u64) {
        let address: *mut u64 = core::ptr::from_ref(self.word(at)).cast_mut().cast();
        // SAFETY: `word` checked bounds and alignment; N1.
        unsafe { cpu::store_nt(address, value) }
    }
}

impl Native {
    /// Words were stored around the cache, which need no flush: a witness has to know of them.
    #[inline]
    #[track_caller]
    fn tell_around(&self, at: u64, len: u64) {
        if len > 0 {
            let address = self.base as u64 + at;
            trace::tell(Traced::Flush { address, bytes: len }, Location::caller());
        }
    }
}

/// Splits `len` bytes at `at` into ragged bytes, whole words, ragged bytes.
#[inline]
pub(crate) fn split(at: u64, len: usize) -> (usize, usize) {
    #[allow(clippy::cast_possible_truncation, reason = "below 8")]
    let head = (at.wrapping_neg() % WORD) as usize;
    let head = head.min(len);
    let words = (len - head) / 8;
    (head, words)
}

/// The word in the first eight bytes of `bytes`.
#[inline]
pub(crate) fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(word)
}

impl Pmem for Native {
    #[inline]
    fn len(&self) -> u64 {
        self.len
    }

    #[inline]
    fn load(&self, at: u64) -> u64 {
        self.word(at).load(Ordering::Acquire)
    }

    #[inline]
    fn store(&self, at: u64, value: u64) {
        self.word(at).store(value, Ordering::Release);
    }

    #[inline]
    fn compare_exchange(&self, at: u64, current: u64, new: u64) -> Result<u64, u64> {
        self.word(at).compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }

    fn read(&self, at: u64, into: &mut [u8]) {
        self.address(at, into.len() as u64);
        let (head, words) = split(at, into.len());
        let mut at = at;
        let (head, rest) = into.split_at_mut(head);
        let (middle, tail) = rest.split_at_mut(words * 8);
        for byte in head {
            *byte = self.byte(at).load(Ordering::Relaxed);
            at += 1;
        }
        for word in middle.chunks_exact_mut(8) {
            word.copy_from_slice(&self.word(at).load(Ordering::Relaxed).to_le_bytes());
            at += WORD;
        }
        for byte in tail {
            *byte = self.byte(at).load(Ordering::Relaxed);
            at += 1;
        }
    }

    fn write(&self, at: u64, from: &[u8]) {
        self.address(at, from.len() as u64);
        let (head, words) = split(at, from.len());
        let mut at = at;
        let (head, rest) = from.split_at(head);
        let (middle, tail) = rest.split_at(words * 8);
        // Release, so that the compiler keeps the stores ascending: the contract's prefix order rests on it.
        for &byte in head {
            self.byte(at).store(byte, Ordering::Release);
            at += 1;
        }
        for word in middle.chunks_exact(8) {
            self.word(at).store(word_of(word), Ordering::Release);
            at += WORD;
        }
        for &byte in tail {
            self.byte(at).store(byte, Ordering::Release);
            at += 1;
        }
    }

    fn write_nt(&self, at: u64, from: &[u8]) {
        self.address(at, from.len() as u64);
        let (head, words) = split(at, from.len());
        let (ragged, rest) = from.split_at(head);
        let (middle, tail) = rest.split_at(words * 8);
        self.write(at, ragged);
        self.flush(at, ragged.len() as u64);
        let mut at = at + head as u64;
        for word in middle.chunks_exact(8) {
            self.word_nt(at, word_of(word));
            at += WORD;
        }
        self.write(at, tail);
        self.flush(at, tail.len() as u64);
        self.tell_around(at - (words * 8) as u64, (words * 8) as u64);
    }

    fn zero_nt(&self, at: u64, len: u64) {
        const ZEROS: [u8; 8] = [0; 8];
        self.address(at, len);
        let head = (at.wrapping_neg() % WORD).min(len);
        let tail = (len - head) % WORD;
        #[allow(clippy::cast_possible_truncation, reason = "both below 8")]
        let (ragged_start, ragged_end) = (&ZEROS[..head as usize], &ZEROS[..tail as usize]);
        self.write_nt(at, ragged_start);
        for word in (at + head..at + len - tail).step_by(8) {
            self.word_nt(word, 0);
        }
        self.write_nt(at + len - tail, ragged_end);
        self.tell_around(at + head, len - tail - head);
    }

    fn copy_nt(&self, from: u64, to: u64, len: u64) {
        self.address(from, len);
        self.address(to, len);
        for step in (0..len).step_by(8) {
            self.word_nt(to + step, self.word(from + step).load(Ordering::Relaxed));
        }
        self.tell_around(to, len);
    }

    #[inline]
    fn flush(&self, at: u64, len: u64) {
        if len == 0 {
            return;
        }
        let address = self.address(at, len) as u64;
        if trace::tell(Traced::Flush { address, bytes: len }, Location::caller()) {
            return;
        }
        let instruction = cpu::flush_instruction();
        let mut line = at - at % LINE;
        while line < at + len {
            #[allow(clippy::cast_possible_truncation, reason = "x86-64: usize is 64 bits")]
            let address = self.base.wrapping_add(line as usize);
            // SAFETY: `address` lies in the line of a byte inside the region (checked above), and lines do not
            // cross pages, so it is mapped (N1); the instruction was detected.
            unsafe { cpu::flush_line(address, instruction) }
            line += LINE;
        }
    }

    #[inline]
    fn fence(&self) {
        cpu::fence();
        trace::tell(Traced::Fence, Location::caller());
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    extern crate std;
    use super::*;
    use std::{vec, vec::Vec};

    fn region(words: &mut Vec<u64>) -> Native {
        let len = words.len() as u64 * 8;
        // SAFETY: the vector outlives the region in each test and is read only after the last access.
        unsafe { Native::new(words.as_mut_ptr().cast(), len) }
    }

    /// Every backend write at every alignment changes exactly its range.
    #[test]
    fn ragged_writes_stay_in_their_range() {
        for start in 0..24u64 {
            for len in 0..40usize {
                let mut words = vec![u64::MAX; 16];
                let pmem = region(&mut words);
                let bytes: Vec<u8> = (1..=len).map(|n| n as u8).collect();
                let mut expected = vec![0xffu8; 128];
                let range = start as usize..start as usize + len;
                expected[range.clone()].copy_from_slice(&bytes);

                pmem.write(start, &bytes);
                let mut found = vec![0; 128];
                pmem.read(0, &mut found);
                assert_eq!(found, expected, "write {len} at {start}");

                pmem.zero_nt(start, len as u64);
                expected[range.clone()].fill(0);
                pmem.read(0, &mut found);
                assert_eq!(found, expected, "zero {len} at {start}");

                pmem.write_nt(start, &bytes);
                expected[range.clone()].copy_from_slice(&bytes);
                pmem.persist(start, len as u64);
                pmem.read(0, &mut found);
                assert_eq!(found, expected, "write_nt {len} at {start}");
                let mut part = vec![0; len];
                pmem.read(start, &mut part);
                assert_eq!(part, bytes, "read {len} at {start}");
            }
        }
    }

    #[test]
    fn words_are_compared_before_they_are_exchanged() {
        let mut words = vec![5, 6];
        let pmem = region(&mut words);
        assert_eq!(pmem.compare_exchange(8, 5, 7), Err(6));
        assert_eq!(pmem.compare_exchange(8, 6, 7), Ok(6));
        assert_eq!(pmem.load(8), 7);
        pmem.copy_nt(8, 0, 8);
        pmem.fence();
        assert_eq!(pmem.load(0), 7);
    }

    #[test]
    fn detects_a_flush_instruction() {
        assert_eq!(cpu::flush_instruction(), cpu::flush_instruction());
    }
}
