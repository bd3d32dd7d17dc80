//! An entry of a map: key and value in a block of their own, which stays where it is for as long as the key has a value.
//!
//! ```text
//! +0   next      the entry with the same hash behind this one (hash map); null
//! +8   length    of the key's bytes
//! +16  value     padded to nothing: its size is its own
//! +16 + size of the value   the key's bytes, which never change
//! ```

use crate::cell::PCell;
use crate::collections::string::{LOGGED_MAX, fill};
use crate::collections::{damaged, put_all, reserve};
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::ptr::{self, InvPtr};
use crate::translate;
use crate::tx::Tx;
use crate::window::Window;
use core::fmt;
use twz_abi::PersistentPtr;

/// What every entry begins with.
#[derive(Debug, Invariant)]
#[repr(C)]
pub(super) struct Head {
    pub(super) next: InvPtr<Head>,
    len: PCell<u64>,
}

/// An entry whose parts were found to lie in an object.
pub(super) struct Entry<'a, V: Invariant> {
    pub(super) head: &'a Head,
    pub(super) value: &'a PCell<V>,
    key_len: usize,
}

impl<V: Invariant> fmt::Debug for Entry<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("head", self.head)
            .field("key_len", &self.key_len)
            .finish_non_exhaustive()
    }
}

impl<'a, V: Invariant> Entry<'a, V> {
    const ALIGN: usize =
        if align_of::<V>() > align_of::<Head>() { align_of::<V>() } else { align_of::<Head>() };
    const KEY: usize = {
        assert!(align_of::<V>() <= size_of::<Head>(), "a value's alignment is at most 16");
        size_of::<Head>() + size_of::<V>()
    };

    fn address(&self) -> usize {
        core::ptr::from_ref(self.head).addr()
    }

    /// The entry at `pointer`, as it stands in the object at `holder`.
    pub(super) fn at(holder: Window, pointer: PersistentPtr) -> Result<Self> {
        Self::of(ptr::at(holder, pointer)?)
    }

    /// The entry that begins with `head`.
    pub(super) fn of(head: &'a Head) -> Result<Self> {
        let address = core::ptr::from_ref(head).addr();
        let key_len = usize::try_from(head.len.get()).unwrap_or(usize::MAX);
        let (window, offset) = translate::split(address)?;
        let place = PersistentPtr::new(0, offset);
        translate::lea_range(window, place, Self::KEY.saturating_add(key_len))
            .map_err(|_| damaged(&head.len, "a key inside the object"))?;
        Ok(Self { head, value: ptr::at_address(address + size_of::<Head>())?, key_len })
    }

    /// A new entry in the object at `home` or one chained to it, which holds what `value` says about the object that it stands in. It can be
    /// read when the puts are applied.
    pub(super) fn make(
        tx: &Tx,
        home: Window,
        key: &[u8],
        value: impl FnOnce(Window) -> Result<V>,
    ) -> Result<Self> {
        let bytes = Self::KEY.saturating_add(key.len());
        let address = if bytes <= LOGGED_MAX {
            tx.alloc_unfilled(home, bytes, Self::ALIGN)?
        } else {
            let address = tx.alloc_raw(home, bytes, Self::ALIGN)?;
            tx.settle()?; // the free list's word in it is recorded before it is overwritten
            address
        };
        let head = Head { next: InvPtr::null(), len: PCell::new(key.len() as u64) };
        tx.put_value(address, &head)?;
        let value = value(Window::around(address)?)?;
        put_all(tx, address + size_of::<Head>(), core::slice::from_ref(&value))?;
        fill(tx, address + Self::KEY, key, bytes)?;
        let (head, value) = (ptr::at_address(address)?, ptr::at_address(address + size_of::<Head>())?);
        Ok(Self { head, value, key_len: key.len() })
    }

    /// How the object at `holder` points to it.
    pub(super) fn pointer_in(&self, holder: Window) -> Result<PersistentPtr> {
        translate::persistent(holder, self.address())
    }

    /// Whether this is the key.
    pub(super) fn has_key(&self, key: &[u8]) -> Result<bool> {
        if key.len() != self.key_len {
            return Ok(false);
        }
        let (window, offset) = translate::split(self.address() + Self::KEY)?;
        let mut stored = [0; 64];
        let mut at = offset as usize;
        for piece in key.chunks(stored.len()) {
            let stored = &mut stored[..piece.len()];
            window.read(at, stored);
            if stored != piece {
                return Ok(false);
            }
            at += piece.len();
        }
        Ok(true)
    }

    /// A copy of the key.
    pub(super) fn key(&self) -> Result<alloc::vec::Vec<u8>> {
        let mut key = alloc::vec::Vec::new();
        if self.key_len > 0 {
            reserve(&mut key, self.key_len as u64)?; // a length that damage made may be more than there is memory for
            key.resize(self.key_len, 0);
            let (window, offset) = translate::split(self.address() + Self::KEY)?;
            window.read(offset as usize, &mut key);
        }
        Ok(key)
    }

    /// Gives the block back.
    ///
    /// # Safety
    /// Nothing leads to it when the transaction has committed, and it is given back once.
    pub(super) unsafe fn free(&self, tx: &Tx) -> Result<()> {
        // SAFETY: allocated by `make` with this size and alignment; the rest is the caller's promise.
        unsafe { tx.free_raw(self.address(), Self::KEY + self.key_len, Self::ALIGN) }
    }

    /// A damaged entry.
    #[cold]
    pub(super) fn bad(&self, expected: &'static str) -> Error {
        damaged(self.head, expected)
    }
}
