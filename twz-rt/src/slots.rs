//! Free slots of the current view, for whoever maps objects without `libtwz`.
//!
//! # Contract
//! - [`allocate`] hands each slot of [`FIRST`] to [`END`] out once until [`free`] takes it back; `libtwz` hands out the slots below, so the
//!   two never meet.
//! - **I1**: a slot's bit in `TAKEN` is set exactly while somebody holds it. One atomic operation takes a slot, one gives it back.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use twz_abi::program::VIEW_SLOT;
use twz_abi::view::SLOT_COUNT;

/// First slot handed out here: the upper half of the view is this allocator's.
pub const FIRST: u64 = SLOT_COUNT / 2;
/// One past the last slot handed out here; what follows holds the view itself.
pub const END: u64 = VIEW_SLOT / 64 * 64;

#[allow(clippy::cast_possible_truncation, reason = "1023 words")]
const WORDS: usize = ((END - FIRST) / 64) as usize;

static TAKEN: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
/// Where the next search begins; a hint only.
static HINT: AtomicUsize = AtomicUsize::new(0);

/// Takes a free slot; `None` when all are in use.
#[must_use]
pub fn allocate() -> Option<u64> {
    let start = HINT.load(Ordering::Relaxed);
    for step in 0..WORDS {
        let number = (start + step) % WORDS;
        let word = &TAKEN[number];
        let mut seen = word.load(Ordering::Relaxed);
        while seen != u64::MAX {
            let bit = (!seen).trailing_zeros();
            let before = word.fetch_or(1 << bit, Ordering::Acquire);
            if before >> bit & 1 == 0 {
                HINT.store(number, Ordering::Relaxed);
                return Some(FIRST + number as u64 * 64 + u64::from(bit));
            }
            seen = before;
        }
    }
    None
}

/// Gives a slot back that [`allocate`] handed out; nothing may be mapped there any more. Other numbers are ignored.
pub fn free(slot: u64) {
    if !(FIRST..END).contains(&slot) {
        return;
    }
    let Ok(number) = usize::try_from((slot - FIRST) / 64) else { return };
    TAKEN[number].fetch_and(!(1 << (slot % 64)), Ordering::Release);
    HINT.store(number, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_once_and_again_after_it_came_back() {
        let all: std::vec::Vec<u64> = core::iter::from_fn(allocate).collect();
        let mut sorted = all.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(FIRST..END));
        assert_eq!(allocate(), None);
        free(FIRST + 77);
        free(FIRST - 1);
        free(END);
        assert_eq!(allocate(), Some(FIRST + 77));
        assert_eq!(allocate(), None);
        all.into_iter().for_each(free);
    }
}
