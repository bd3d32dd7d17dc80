//! What can be done in a transaction: records, changes in place, puts, blocks.

use super::{Inner, Tx};
use crate::cell::PCell;
use crate::error::Result;
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::simulate;
use crate::translate;
use crate::window::{Stretch, Window};
use twz_abi::PersistentPtr;

impl Tx {
    /// Records what is in `bytes` bytes at `address` (TXRECORD), without waiting: call [`Tx::settle`] before writing.
    /// The range is flushed when the transaction commits.
    ///
    /// # Errors
    /// [`Error::NotInObject`], [`Error::OutOfSpace`], [`Error::Busy`].
    #[inline]
    pub fn record_range(&self, address: usize, bytes: usize) -> Result<()> {
        self.guarded(|inner| inner.record(address, bytes))
    }

    /// [`Tx::record_range`] of a value.
    ///
    /// # Errors
    /// As [`Tx::record_range`].
    #[inline]
    pub fn record<T: Invariant>(&self, value: &T) -> Result<()> {
        let address = core::ptr::from_ref(value).addr();
        if !Stretch::may_have::<T>() {
            return self.record_range(address, size_of::<T>());
        }
        if self.inner.borrow_mut().home.record_plain(value) {
            return Ok(()); // by far the most common
        }
        self.record_any(address, size_of::<T>())
    }

    /// [`Tx::record_range`] as a call: the common way has no registers saved for it.
    #[cold]
    #[inline(never)]
    fn record_any(&self, address: usize, bytes: usize) -> Result<()> {
        self.record_range(address, bytes)
    }

    /// Waits until all records are durable; free when they are.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`] when the log cannot grow: nothing may be written then.
    #[inline]
    pub fn settle(&self) -> Result<()> {
        self.guarded(Inner::settle)
    }

    /// Changes a cell.
    ///
    /// # Errors
    /// As [`Tx::record_range`].
    #[inline]
    pub fn set<T: Invariant + Copy>(&self, cell: &PCell<T>, value: T) -> Result<()> {
        self.guarded(|inner| {
            inner.record(cell.as_ptr().addr(), size_of::<T>())?;
            inner.settle()
        })?;
        cell.set_without_log(value);
        Ok(())
    }

    /// Changes a cell that was recorded ([`Tx::record`] of it or of what it is in) or allocated in this transaction.
    ///
    /// # Errors
    /// As [`Tx::settle`].
    #[inline]
    pub fn set_recorded<T: Invariant + Copy>(&self, cell: &PCell<T>, value: T) -> Result<()> {
        self.settle()?;
        cell.set_without_log(value);
        Ok(())
    }

    /// Changes a cell when the transaction commits; until then it keeps its value. The cheapest way: no record, no wait.
    /// Of a cell that is also [`Tx::set`] in this transaction, the put wins.
    ///
    /// # Errors
    /// As [`Tx::record_range`].
    #[inline]
    pub fn put<T: Invariant + Copy>(&self, cell: &PCell<T>, value: T) -> Result<()> {
        let () = T::NO_PADDING;
        self.put_value(cell.as_ptr().addr(), &value)
    }

    /// [`Tx::point`] when the transaction commits.
    ///
    /// # Errors
    /// As [`Tx::point`].
    #[inline]
    pub fn put_ptr<T: Invariant>(&self, place: &InvPtr<T>, target: Option<&T>) -> Result<()> {
        let address = core::ptr::from_ref(place).addr();
        let pointer = match target {
            None => PersistentPtr::NULL,
            Some(target) => {
                translate::persistent(Window::around(address)?, core::ptr::from_ref(target).addr())?
            }
        };
        self.put_value(address, &pointer.0)
    }

    /// Stores pending puts now, with records, so that what follows in this transaction sees them; one fence if there are any.
    ///
    /// # Errors
    /// As [`Tx::settle`].
    #[inline]
    pub fn apply(&self) -> Result<()> {
        self.guarded(|inner| {
            let mut any = inner.home.record_puts();
            for part in &mut inner.others {
                any |= part.record_puts();
            }
            if any {
                inner.settle()?;
                inner.home.store_recorded_puts();
                for part in &mut inner.others {
                    part.store_recorded_puts();
                }
            }
            Ok(())
        })
    }

    /// [`Tx::put`] of a value at an address in an object.
    #[inline]
    pub(crate) fn put_value<T: Invariant>(&self, address: usize, value: &T) -> Result<()> {
        let bytes = bytes_of(core::slice::from_ref(value));
        match bytes.as_array::<8>() {
            Some(word) => self.put_word(address, u64::from_le_bytes(*word)), // by far the most common
            None => self.put_bytes(address, bytes),
        }
    }

    /// [`Puts::halves`].
    pub(crate) fn put_halves(&self, cell: &PCell<u64>, value: u64) -> Result<()> {
        self.puts(|puts| puts.halves(cell, value))
    }

    /// Several puts, for which the transaction is looked at once.
    #[inline(always)]
    pub(crate) fn puts(&self, all: impl FnOnce(&mut Puts<'_>) -> Result<()>) -> Result<()> {
        self.guarded(|inner| all(&mut Puts(inner)))
    }

    /// [`Tx::put`] of values in a row.
    pub(crate) fn put_slice<T: Invariant>(&self, address: usize, values: &[T]) -> Result<()> {
        self.put_bytes(address, bytes_of(values))
    }

    fn put_bytes(&self, address: usize, bytes: &[u8]) -> Result<()> {
        self.guarded(|inner| {
            let index = inner.join_at(address)?;
            inner.part_mut(index).put(address, bytes)
        })
    }

    fn put_word(&self, address: usize, word: u64) -> Result<()> {
        self.guarded(|inner| {
            let index = inner.join_at(address)?;
            inner.part_mut(index).put_word(address, word)
        })
    }

    /// Makes `place`, which stands in an object, lead to `target` (`None`: nowhere), in the same object or another
    /// (`ptr_store`).
    ///
    /// # Errors
    /// As [`Tx::record_range`]; [`Error::OutOfFotEntries`].
    #[inline]
    pub fn point<T: Invariant>(&self, place: &InvPtr<T>, target: Option<&T>) -> Result<()> {
        self.record(place)?;
        self.point_recorded(place, target)
    }

    /// [`Tx::point`] for a place that was recorded or allocated in this transaction.
    ///
    /// # Errors
    /// [`Error::NotInObject`], [`Error::OutOfFotEntries`], [`Error::OutOfSpace`].
    #[inline]
    pub fn point_recorded<T: Invariant>(&self, place: &InvPtr<T>, target: Option<&T>) -> Result<()> {
        let pointer = match target {
            None => PersistentPtr::NULL,
            Some(target) => {
                let holder = Window::around(core::ptr::from_ref(place).addr())?;
                translate::persistent(holder, core::ptr::from_ref(target).addr())?
            }
        };
        self.settle()?;
        place.set_raw(pointer);
        Ok(())
    }

    /// Puts `value` into a new block of the home object, or of the objects chained to it when it is full.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`], [`Error::TooLarge`].
    #[inline]
    pub fn alloc<'a, T: Invariant>(&self, value: T) -> Result<&'a T> {
        let home = self.home();
        self.alloc_in(home, value)
    }

    /// [`Tx::alloc`] near other data: in the object at `window`.
    ///
    /// # Errors
    /// As [`Tx::alloc`].
    pub fn alloc_in<'a, T: Invariant>(&self, window: Window, value: T) -> Result<&'a T> {
        let () = T::NO_PADDING;
        let address = self.alloc_raw(window, size_of::<T>(), align_of::<T>())?;
        self.settle()?;
        // SAFETY: the block is T's size and alignment, inside an object, and nobody else's until this commits.
        unsafe { (address as *mut T).write(value) };
        simulate::stored(address, size_of::<T>());
        // SAFETY: just written; objects stay mapped (`view::unmap` is unsafe), T changes by interior mutability only.
        Ok(unsafe { &*(address as *const T) })
    }

    /// [`Tx::alloc_in`] of a block that is filled when the transaction commits: until then it holds what it held, and only puts may
    /// change it. Later plain stores to it that are to survive need a [`checkpoint`] first.
    ///
    /// # Errors
    /// As [`Tx::alloc`].
    #[inline]
    pub fn alloc_put<'a, T: Invariant>(&self, window: Window, value: T) -> Result<&'a T> {
        let () = T::NO_PADDING;
        let (bytes, align) = (size_of::<T>(), align_of::<T>());
        let address =
            self.guarded(|inner| inner.alloc(window, bytes, align, |part| part.alloc_for_put(bytes, align)))?;
        self.put_value(address, &value)?;
        // SAFETY: a block of T's size and alignment in an object that stays mapped; any bits are a T.
        Ok(unsafe { &*(address as *const T) })
    }

    /// A block of `bytes` with whatever is in it; its address. The commit flushes nothing of it: it is filled by puts, or by a
    /// program that orders its own stores with [`crate::persist`].
    ///
    /// # Errors
    /// As [`Tx::alloc`].
    #[inline]
    pub fn alloc_unfilled(&self, window: Window, bytes: usize, align: usize) -> Result<usize> {
        self.guarded(|inner| inner.alloc(window, bytes, align, |part| part.alloc_for_put(bytes, align)))
    }

    /// [`Tx::alloc_unfilled`] for a table whose parts come into use one after the other, in this transaction and later ones: each is filled in
    /// place, once, and then told of ([`Tx::filled`]).
    pub(crate) fn alloc_table(&self, window: Window, bytes: usize, align: usize) -> Result<usize> {
        self.guarded(|inner| inner.alloc(window, bytes, align, |part| part.alloc_table(bytes, align)))
    }

    /// Says that a part of such a table was filled, to which nothing leads until this commits.
    pub(crate) fn filled(&self, address: usize, bytes: usize) -> Result<()> {
        self.guarded(|inner| {
            let index = inner.join_at(address)?;
            inner.part_mut(index).fill(address, bytes)
        })
    }

    /// [`Tx::alloc_unfilled`] for a program that fills the block over time: its pages are taken from the pool when they are first stored to,
    /// where a full pool is a fault. They stay so when the block is given back and used again.
    ///
    /// # Errors
    /// As [`Tx::alloc`].
    pub fn alloc_sparse(&self, window: Window, bytes: usize, align: usize) -> Result<usize> {
        self.guarded(|inner| inner.alloc(window, bytes, align, |part| part.alloc_sparse(bytes, align)))
    }

    /// A block of `bytes`, with whatever is in it; its address. Call [`Tx::settle`] before writing to it. It is flushed when the
    /// transaction commits.
    ///
    /// # Errors
    /// As [`Tx::alloc`].
    pub fn alloc_raw(&self, window: Window, bytes: usize, align: usize) -> Result<usize> {
        self.guarded(|inner| inner.alloc(window, bytes, align, |part| part.alloc(bytes, align)))
    }

    /// Gives a block back when the transaction commits.
    ///
    /// # Safety
    /// The block came from [`Tx::alloc`] for a `T`, is not freed twice, and nobody follows a pointer to it any more.
    ///
    /// # Errors
    /// [`Error::NotInObject`], [`Error::Damaged`], [`Error::Busy`].
    pub unsafe fn free<T: Invariant>(&self, block: &T) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.free_raw(core::ptr::from_ref(block).addr(), size_of::<T>(), align_of::<T>()) }
    }

    /// [`Tx::free`] of a block from [`Tx::alloc_raw`].
    ///
    /// # Safety
    /// As [`Tx::free`], with the size and alignment that it was allocated with.
    ///
    /// # Errors
    /// As [`Tx::free`].
    pub unsafe fn free_raw(&self, address: usize, bytes: usize, align: usize) -> Result<()> {
        self.guarded(|inner| {
            let index = inner.join_at(address)?;
            inner.part_mut(index).free(address, bytes, align)
        })
    }

    /// Notes that a range was written which needs no record (a fresh block), so that the commit flushes it.
    ///
    /// # Errors
    /// [`Error::NotInObject`], [`Error::Busy`].
    pub fn wrote(&self, address: usize, bytes: usize) -> Result<()> {
        self.guarded(|inner| {
            let index = inner.join_at(address)?;
            inner.part_mut(index).note(address, bytes)
        })
    }
}

/// Several puts of one step: see [`Tx::puts`].
pub(crate) struct Puts<'a>(&'a mut Inner);

impl Puts<'_> {
    /// [`Tx::put`].
    #[inline(always)]
    pub(crate) fn cell<T: Invariant + Copy>(&mut self, cell: &PCell<T>, value: T) -> Result<()> {
        self.value(cell.as_ptr().addr(), &value)
    }

    /// [`Tx::put`] of a value of few words, at an address in an object.
    #[inline(always)]
    pub(crate) fn value<T: Invariant>(&mut self, address: usize, value: &T) -> Result<()> {
        self.bytes(address, bytes_of(core::slice::from_ref(value)))
    }

    /// [`Puts::value`] of a value's bytes.
    #[inline(always)]
    pub(crate) fn bytes(&mut self, address: usize, bytes: &[u8]) -> Result<()> {
        let index = self.0.join_at(address)?;
        self.0.part_mut(index).put(address, bytes)
    }

    /// [`Tx::put`] of a word of which often only one half changes: that is the shorter entry. All puts of the cell must see those before, as steps
    /// of a collection do.
    #[inline(always)]
    pub(crate) fn halves(&mut self, cell: &PCell<u64>, value: u64) -> Result<()> {
        let (address, before) = (cell.as_ptr().addr(), cell.get());
        debug_assert!(
            !self.0.parts().any(|part| part.is_put(address)),
            "a put that does not see the one before"
        );
        let index = self.0.join_at(address)?;
        let part = self.0.part_mut(index);
        let changed = before ^ value;
        #[allow(clippy::cast_possible_truncation, reason = "halves are what is wanted")]
        if changed >> 32 == 0 {
            part.put_half(address, value as u32)
        } else if changed as u32 == 0 {
            part.put_half(address + 4, (value >> 32) as u32)
        } else {
            part.put_word(address, value)
        }
    }
}

/// The bytes of values.
#[inline(always)]
pub(crate) fn bytes_of<T: Invariant>(values: &[T]) -> &[u8] {
    let () = T::NO_PADDING;
    // SAFETY: T has no padding (Invariant), so all bytes are initialised.
    unsafe { core::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
