//! Text in one block.

use super::{alone, damaged, home_of, inside};
use crate::cell::PCell;
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::translate;
use crate::tx::Tx;

/// Bytes of the smallest block.
const SMALLEST: u32 = 16;

/// A text that grows.
#[derive(Debug, Default, Invariant)]
#[repr(C)]
pub struct String {
    bytes: InvPtr<u8>,
    len: PCell<u32>,
    capacity: PCell<u32>,
}

impl String {
    /// An empty text.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: InvPtr::null(), len: PCell::new(0), capacity: PCell::new(0) }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.get() as usize
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of the text in this program's memory.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not UTF-8 or longer than its block.
    pub fn get(&self) -> Result<alloc::string::String> {
        alloc::string::String::from_utf8(self.bytes()?).map_err(|_| damaged(self, "UTF-8"))
    }

    fn bytes(&self) -> Result<alloc::vec::Vec<u8>> {
        let len = self.len();
        if len == 0 {
            return Ok(alloc::vec::Vec::new());
        }
        self.check_capacity()?;
        if len > self.capacity.get() as usize {
            return Err(damaged(self, "a text inside its block"));
        }
        let address = translate::lea_range(home_of(self)?, self.bytes.raw(), len)?;
        let (window, offset) = translate::split(address)?;
        let mut bytes = alloc::vec![0; len];
        window.read(offset as usize, &mut bytes);
        Ok(bytes)
    }

    /// Blocks are powers of two, as `grow` makes them: a length that damage made is seldom taken for one.
    fn check_capacity(&self) -> Result<()> {
        let capacity = self.capacity.get();
        if capacity >= SMALLEST && capacity.is_power_of_two() {
            Ok(())
        } else {
            Err(damaged(self, "a block of a power of two"))
        }
    }

    /// Replaces the text, durably.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`], [`Error::Busy`].
    pub fn set(&self, text: &str) -> Result<()> {
        alone(self, |tx| self.do_set(tx, text.as_bytes()))
    }

    /// Replaces the text as a part of `tx`.
    ///
    /// # Errors
    /// As [`String::set`].
    pub fn set_in(&self, tx: &Tx, text: &str) -> Result<()> {
        inside(tx, |tx| self.do_set(tx, text.as_bytes()))
    }

    /// Appends to the text, durably.
    ///
    /// # Errors
    /// As [`String::set`]; [`Error::Damaged`].
    pub fn push_str(&self, text: &str) -> Result<()> {
        alone(self, |tx| {
            let mut bytes = self.bytes()?;
            bytes.extend_from_slice(text.as_bytes());
            self.do_set(tx, &bytes)
        })
    }

    /// Gives the block back as a part of `tx`; the text is empty then.
    ///
    /// # Errors
    /// As [`String::set`].
    pub fn release(&self, tx: &Tx) -> Result<()> {
        inside(tx, |tx| {
            if !self.bytes.is_null() {
                let old = translate::lea(home_of(self)?, self.bytes.raw())?;
                // SAFETY: allocated by `grow` with this capacity; the pointer goes in the same transaction.
                unsafe { tx.free_raw(old, self.capacity.get() as usize, 8) }?;
            }
            tx.put_value(core::ptr::from_ref(&self.bytes).addr(), &0_u64)?;
            tx.put(&self.capacity, 0)?;
            tx.put(&self.len, 0)
        })
    }

    fn do_set(&self, tx: &Tx, text: &[u8]) -> Result<()> {
        let len = u32::try_from(text.len()).map_err(|_| Error::TooLarge { bytes: text.len() as u64 })?;
        if !self.bytes.is_null() {
            self.check_capacity()?;
        }
        let address = if len <= self.capacity.get() && !self.bytes.is_null() {
            translate::lea_range(home_of(self)?, self.bytes.raw(), text.len())?
        } else {
            self.grow(tx, text.len())?
        };
        for (at, piece) in (0..).step_by(8).zip(text.chunks(8)) {
            match <[u8; 8]>::try_from(piece) {
                Ok(word) => tx.put_value(address + at, &u64::from_le_bytes(word))?,
                Err(_) => {
                    for (i, byte) in piece.iter().enumerate() {
                        tx.put_value(address + at + i, byte)?;
                    }
                }
            }
        }
        tx.put(&self.len, len)
    }

    /// Takes a larger block, leaves the old one to the free list, and returns the new one's address.
    fn grow(&self, tx: &Tx, needed: usize) -> Result<usize> {
        let capacity = needed.next_power_of_two().max(SMALLEST as usize);
        let new = tx.alloc_unfilled(home_of(self)?, capacity, 8)?;
        if !self.bytes.is_null() {
            let old = translate::lea(home_of(self)?, self.bytes.raw())?;
            // SAFETY: allocated here with this capacity; the pointer changes in the same transaction.
            unsafe { tx.free_raw(old, self.capacity.get() as usize, 8) }?;
        }
        let pointer = translate::persistent(home_of(self)?, new)?;
        tx.put_value(core::ptr::from_ref(&self.bytes).addr(), &pointer.0)?;
        tx.put(&self.capacity, u32::try_from(capacity).unwrap_or(u32::MAX))?;
        Ok(new)
    }
}
