//! The heap: dlmalloc over the object in the heap slot, which backs itself page by page when touched.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use dlmalloc::{Allocator, Dlmalloc};
use twz_abi::object::DATA_OFFSET;
use twz_abi::program::{HEAP_END, HEAP_SLOT};
use twz_abi::view::SLOT_SIZE;

#[allow(clippy::cast_possible_truncation, reason = "64-bit addresses")]
const START: usize = (HEAP_SLOT * SLOT_SIZE + DATA_OFFSET) as usize;
#[allow(clippy::cast_possible_truncation, reason = "64-bit addresses")]
const END: usize = (HEAP_SLOT * SLOT_SIZE + HEAP_END) as usize;
const PAGE: usize = twz_abi::PAGE_BYTES;
/// Tries before a waiting thread lets others run.
const SPINS: u32 = 100;

static NEXT: AtomicUsize = AtomicUsize::new(START);

/// Hands out the heap object from its start; nothing is given back, the allocator keeps what it frees.
struct HeapObject;

// SAFETY: each range is handed out once, is page aligned, zero at first touch, and stays mapped as long as the program.
unsafe impl Allocator for HeapObject {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        let size = size.next_multiple_of(PAGE);
        let taken = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            next.checked_add(size).filter(|&end| end <= END)
        });
        match taken {
            Ok(start) => (start as *mut u8, size, 0),
            Err(_) => (core::ptr::null_mut(), 0, 0),
        }
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        core::ptr::null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, _: *mut u8, _: usize) -> bool {
        false
    }

    fn can_release_part(&self, _: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        PAGE
    }
}

struct Heap {
    locked: AtomicBool,
    inner: UnsafeCell<Dlmalloc<HeapObject>>,
}

// SAFETY: `inner` is used only between `lock` and `unlock`.
unsafe impl Sync for Heap {}

impl Heap {
    fn with<R>(&self, work: impl FnOnce(&mut Dlmalloc<HeapObject>) -> R) -> R {
        let mut spins = 0;
        while self.locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            spin_loop();
            spins += 1;
            if spins % SPINS == 0 {
                crate::syscall::thread_yield();
            }
        }
        // SAFETY: the lock is ours.
        let result = work(unsafe { &mut *self.inner.get() });
        self.locked.store(false, Ordering::Release);
        result
    }
}

// SAFETY: dlmalloc keeps the contract; the lock makes it safe for threads.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise about `layout`; likewise below.
        self.with(|heap| unsafe { heap.malloc(layout.size(), layout.align()) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        self.with(|heap| unsafe { heap.free(pointer, layout.size(), layout.align()) });
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        self.with(|heap| unsafe { heap.calloc(layout.size(), layout.align()) })
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above.
        self.with(|heap| unsafe { heap.realloc(pointer, layout.size(), layout.align(), new_size) })
    }
}

#[global_allocator]
static HEAP: Heap =
    Heap { locked: AtomicBool::new(false), inner: UnsafeCell::new(Dlmalloc::new_with_allocator(HeapObject)) };
