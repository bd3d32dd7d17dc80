//! [`PCell`]: a value in an object that programs may change while others read it.

use crate::invariant::{Invariant, mix_text};
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A changeable value in an object.
///
/// Objects are shared: by threads, by programs, by hosts of damage. So there is no `&mut` into one; what changes
/// stands in a `PCell` and is read by copy. Reads and writes of up to 8 aligned bytes are single accesses; larger ones may be
/// seen half changed by whoever does not hold a lock.
///
/// Writing goes through a transaction ([`crate::Tx::set`]), or [`PCell::set_without_log`] for those who flush themselves.
#[repr(transparent)]
pub struct PCell<T> {
    value: UnsafeCell<T>,
}

// SAFETY: same bytes as T.
unsafe impl<T: Invariant> Invariant for PCell<T> {
    const FINGERPRINT: u64 = mix_text(T::FINGERPRINT, "cell");
    const SHALLOW: u64 = mix_text(T::SHALLOW, "cell");
    const CELLS: bool = true;
    const NO_PADDING: () = T::NO_PADDING;
}

// SAFETY: all access is by atomic loads and stores; every bit pattern is a T, so a torn value is a value. (Of a T that is not Copy there is no
// access but by its address.)
unsafe impl<T: Invariant + Send> Sync for PCell<T> {}

impl<T: Invariant + Default> Default for PCell<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: Invariant + Copy + fmt::Debug> fmt::Debug for PCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl<T: Invariant> From<T> for PCell<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: Invariant> PCell<T> {
    /// A cell that holds `value`.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(value) }
    }

    /// Where the value stands.
    #[must_use]
    pub const fn as_ptr(&self) -> *const T {
        self.value.get()
    }

    /// The value in place, of a type that may change under a reference ([`Invariant::CELLS`]); others do not compile.
    pub(crate) const fn as_ref(&self) -> &T {
        const {
            assert!(
                T::CELLS,
                "only what is all cells and pointers may be lent out: put the fields into PCell"
            )
        };
        // SAFETY: the address of the value; all of it is cells, so whoever changes it does so as they do: atomically, under an UnsafeCell.
        unsafe { &*self.value.get() }
    }

    /// Gives a cell that nobody knows yet its value, as [`PCell::set_without_log`]; it is not dropped.
    pub(crate) fn fill(&self, value: T) {
        let () = T::NO_PADDING;
        let value = MaybeUninit::new(value);
        // SAFETY: as in `get`, the other way round; nobody has a `&T` into it.
        unsafe { copy_in(value.as_ptr().cast(), self.value.get().cast(), size_of::<T>(), align_of::<T>()) };
        crate::simulate::stored(self.value.get().addr(), size_of::<T>());
    }

    /// Lets `look` see the value: in place where it may change under a reference, else a copy, which is not dropped.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        let () = T::NO_PADDING;
        if T::CELLS {
            // SAFETY: as in `as_ref`.
            return look(unsafe { &*self.value.get() });
        }
        let mut copy = MaybeUninit::<T>::uninit();
        // SAFETY: as in `get`.
        unsafe {
            copy_out(self.value.get().cast(), copy.as_mut_ptr().cast(), size_of::<T>(), align_of::<T>())
        };
        // SAFETY: all bytes were copied, and any bytes are a T.
        look(unsafe { copy.assume_init_ref() })
    }
}

impl<T: Invariant + Copy> PCell<T> {
    /// The value now.
    #[inline]
    #[must_use]
    pub fn get(&self) -> T {
        let () = T::NO_PADDING;
        let mut out = MaybeUninit::<T>::uninit();
        // SAFETY: both are size_of::<T>() bytes, aligned for T; the source is ours to read atomically.
        unsafe {
            copy_out(self.value.get().cast(), out.as_mut_ptr().cast(), size_of::<T>(), align_of::<T>())
        };
        // SAFETY: all bytes were copied, and any bytes are a T.
        unsafe { out.assume_init() }
    }

    /// Changes the value with neither log nor flush: for objects that are still being built, volatile ones, and code that
    /// orders its own stores with [`crate::persist`].
    #[inline]
    #[cfg_attr(feature = "crash-sim", track_caller)]
    pub fn set_without_log(&self, value: T) {
        let () = T::NO_PADDING;
        // SAFETY: as in `get`, the other way round; no `&T` into a cell exists.
        unsafe {
            copy_in(
                core::ptr::from_ref(&value).cast(),
                self.value.get().cast(),
                size_of::<T>(),
                align_of::<T>(),
            );
        }
        crate::simulate::stored(self.value.get().addr(), size_of::<T>());
    }
}

/// Copies `bytes` from shared to private memory in the widest pieces that `align` allows.
///
/// # Safety
/// Both valid for `bytes` and aligned to `align`; `from` is changed by atomic stores only.
#[inline(always)]
#[allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "one copy step each: a load and a store of the same width"
)]
unsafe fn copy_out(from: *const u8, to: *mut u8, bytes: usize, align: usize) {
    let mut i = 0;
    while i < bytes {
        // SAFETY: the caller's promise; i advances by the width, which divides the alignment.
        unsafe {
            if align >= 8 {
                to.add(i).cast::<u64>().write((*from.add(i).cast::<AtomicU64>()).load(Ordering::Relaxed));
                i += 8;
            } else if align == 4 {
                to.add(i).cast::<u32>().write((*from.add(i).cast::<AtomicU32>()).load(Ordering::Relaxed));
                i += 4;
            } else if align == 2 {
                to.add(i).cast::<u16>().write((*from.add(i).cast::<AtomicU16>()).load(Ordering::Relaxed));
                i += 2;
            } else {
                to.add(i).write((*from.add(i).cast::<AtomicU8>()).load(Ordering::Relaxed));
                i += 1;
            }
        }
    }
}

/// Copies `bytes` from private to shared memory; see [`copy_out`].
///
/// # Safety
/// As [`copy_out`], with `to` the shared side.
#[inline(always)]
#[allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "one copy step each: a load and a store of the same width"
)]
unsafe fn copy_in(from: *const u8, to: *mut u8, bytes: usize, align: usize) {
    let mut i = 0;
    while i < bytes {
        // SAFETY: the caller's promise; i advances by the width, which divides the alignment.
        unsafe {
            if align >= 8 {
                (*to.add(i).cast::<AtomicU64>()).store(from.add(i).cast::<u64>().read(), Ordering::Relaxed);
                i += 8;
            } else if align == 4 {
                (*to.add(i).cast::<AtomicU32>()).store(from.add(i).cast::<u32>().read(), Ordering::Relaxed);
                i += 4;
            } else if align == 2 {
                (*to.add(i).cast::<AtomicU16>()).store(from.add(i).cast::<u16>().read(), Ordering::Relaxed);
                i += 2;
            } else {
                (*to.add(i).cast::<AtomicU8>()).store(from.add(i).read(), Ordering::Relaxed);
                i += 1;
            }
        }
    }
}
