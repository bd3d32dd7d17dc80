//! A pool that becomes full inside transactions, in the machine: the workload of `libtwz/tests/full`.
//!
//! Data, heap, stack and the tables of the view are of the pool, too, and a fault where they cannot grow. So their pages are had first.

#[path = "../../../../libtwz/tests/full/workload.rs"]
mod workload;

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};
use libtwz::prelude::*;
use libtwz::sys::{Platform, Seam};
use libtwz::view;
use twz_abi::object::DATA_OFFSET;
use twz_abi::program::DATA_SLOT;
use twz_abi::view::SLOT_SIZE;

const PAGE: usize = 4096;
/// Heap that the workload's model needs, and more.
const HEAP: usize = 16 << 20;
/// Stack that it needs, and more.
const STACK: usize = 128 << 10;
/// Where the program's data begins, and how much it is at most.
#[allow(clippy::cast_possible_truncation, reason = "usize is 64 bits wide here")]
const DATA_AT: usize = (DATA_SLOT * SLOT_SIZE + DATA_OFFSET) as usize;
const DATA: usize = 1 << 20;
/// Tables of the view: all that is found by hash, and the first rows.
const TABLES: usize = 4 << 20;

pub(crate) fn run(rounds: u64) -> Result<()> {
    have_own_memory();
    let counts = workload::run(88_172_645_463_325_252, rounds)?;
    let refused: u32 = counts.refused.iter().sum();
    let kinds = counts.refused.iter().filter(|&&refused| refused > 0).count();
    assert!(counts.went_on > 0, "with room again it goes on: {counts:?}");
    println!(
        "libtest: a full pool refused {refused} transactions, of {kinds} kinds, and nothing of them is seen"
    );
    Ok(())
}

fn have_own_memory() {
    let mut heap: Vec<u8> = Vec::with_capacity(HEAP);
    heap.extend((0..HEAP).map(|i| u8::try_from(i % 251).unwrap_or(1)));
    drop(black_box(heap));
    black_box([1_u8; STACK]);
    // SAFETY: both are the program's: its data with zeroes behind, and tables that are changed by atomic operations only.
    unsafe { have_pages(DATA_AT, DATA) };
    // SAFETY: as above.
    unsafe { have_pages(Platform::VOLATILE_AREA, TABLES.min(view::AREA_BYTES)) };
}

/// Has pages of its own for `bytes` from `start` on; what stands there stays.
///
/// # Safety
/// The range is mapped, writable and of this program only.
unsafe fn have_pages(start: usize, bytes: usize) {
    for at in (start..start + bytes).step_by(PAGE) {
        // SAFETY: the caller's promise; nothing changes, whoever uses the word.
        let word = unsafe { &*(at as *const AtomicU64) };
        // The processor stores, whatever it finds.
        let _ = word.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}
