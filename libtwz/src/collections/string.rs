//! Text in one block.
//!
//! A change in place logs the bytes that it changes; one that needs a larger block fills that, which nobody else knows, and logs a pointer.
//! Where std's methods panic about a place that is no character's border, these say `false`. What std does by index, range or pattern is done
//! on a copy ([`String::get`]): texts in objects are not `&str`, since others may change them.

use super::{damaged, home_of, inside, put_all, reserve};
use crate::cell::PCell;
use crate::error::{Error, Result};
use crate::invariant::Invariant;
use crate::ptr::InvPtr;
use crate::translate;
use crate::tx::Tx;
use crate::window::Window;
use core::fmt;

/// Bytes of the smallest block.
const SMALLEST: u32 = 16;
/// Up to so many bytes, a fresh block is filled by way of the log, whose one fence serves both; longer texts are not written twice.
pub(super) const LOGGED_MAX: usize = 512;

/// A text that grows.
#[derive(Default, Invariant)]
#[repr(C)]
#[invariant(version = 1)]
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
        self.read(0, self.len())
    }

    /// The bytes from `from` to `to`, which are in the text.
    fn read(&self, from: usize, to: usize) -> Result<alloc::vec::Vec<u8>> {
        let mut bytes = alloc::vec::Vec::new();
        if from < to {
            let address = self.block()? + from;
            reserve(&mut bytes, (to - from) as u64)?; // a length that damage made may be more than there is memory for
            bytes.resize(to - from, 0);
            let (window, offset) = translate::split(address)?;
            window.read(offset as usize, &mut bytes);
        }
        Ok(bytes)
    }

    /// Address of the block, which is there and holds the text.
    fn block(&self) -> Result<usize> {
        let capacity = self.capacity.get() as usize;
        self.check_capacity()?;
        if self.len() > capacity {
            return Err(damaged(self, "a text inside its block"));
        }
        translate::lea_range(home_of(self)?, self.bytes.raw(), capacity)
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

    /// Bytes that it can grow to in its block.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity.get() as usize
    }

    /// A text for a place in the object at `home`; what it is made of is a part of `tx`.
    pub(super) fn make_in(tx: &Tx, home: Window, text: &str) -> Result<Self> {
        let len = u32::try_from(text.len()).map_err(|_| Error::TooLarge { bytes: text.len() as u64 })?;
        if len == 0 {
            return Ok(Self::new());
        }
        let (block, capacity) = Self::make_block(tx, home, text.len())?;
        fill(tx, block, text.as_bytes(), text.len())?;
        let bytes = InvPtr::from_raw(translate::persistent(home, block)?);
        Ok(Self { bytes, len: PCell::new(len), capacity: PCell::new(capacity) })
    }

    changes! {
        /// Replaces the text.
        set / set_in => do_set(text: &str) -> ();
        /// Appends to the text.
        push_str / push_str_in => do_push_str(text: &str) -> ();
        /// Appends a character.
        push / push_in => do_push(character: char) -> ();
        /// Appends all that `texts` gives.
        extend / extend_in => do_extend(texts: impl IntoIterator<Item = impl AsRef<str>>) -> ();
        /// Takes the last character off.
        pop / pop_in => do_pop() -> Option<char>;
        /// Puts `text` before byte `index`; `false` when no character begins or ends there.
        insert_str / insert_str_in => do_insert_str(index: usize, text: &str) -> bool;
        /// Puts a character before byte `index`; `false` when none begins or ends there.
        insert / insert_in => do_insert(index: usize, character: char) -> bool;
        /// Takes the character at byte `index` out; `None` when none begins there.
        remove / remove_in => do_remove(index: usize) -> Option<char>;
        /// Shortens the text to `len` bytes, if it is longer; `false` when no character ends there.
        truncate / truncate_in => do_truncate(len: usize) -> bool;
        /// Makes it empty. The block stays for later: see [`String::release`].
        clear / clear_in => do_clear() -> ();
        /// Makes room for `additional` more bytes.
        reserve / reserve_in => do_reserve(additional: usize) -> ();
    }

    /// Gives the block back as a part of `tx`; the text is empty then.
    ///
    /// # Errors
    /// As [`String::set`].
    pub fn release(&self, tx: &Tx) -> Result<()> {
        inside(tx, |tx| {
            self.free_block(tx)?;
            tx.put_value(core::ptr::from_ref(&self.bytes).addr(), &0_u64)?;
            tx.put(&self.capacity, 0)?;
            tx.put(&self.len, 0)
        })
    }

    fn free_block(&self, tx: &Tx) -> Result<()> {
        if self.bytes.is_null() {
            return Ok(());
        }
        self.check_capacity()?;
        let old = translate::lea(home_of(self)?, self.bytes.raw())?;
        // SAFETY: allocated by `grow` with this capacity; the pointer changes in the same transaction.
        unsafe { tx.free_raw(old, self.capacity(), 8) }
    }

    pub(super) fn do_set(&self, tx: &Tx, text: &str) -> Result<()> {
        self.replace_from(tx, 0, &[text.as_bytes()])
    }

    fn do_push_str(&self, tx: &Tx, text: &str) -> Result<()> {
        self.replace_from(tx, self.len(), &[text.as_bytes()])
    }

    fn do_push(&self, tx: &Tx, character: char) -> Result<()> {
        self.do_push_str(tx, character.encode_utf8(&mut [0; 4]))
    }

    fn do_extend(&self, tx: &Tx, texts: impl IntoIterator<Item = impl AsRef<str>>) -> Result<()> {
        let mut all = alloc::string::String::new();
        for text in texts {
            all.push_str(text.as_ref());
        }
        self.do_push_str(tx, &all)
    }

    fn do_clear(&self, tx: &Tx) -> Result<()> {
        tx.put(&self.len, 0)
    }

    fn do_truncate(&self, tx: &Tx, len: usize) -> Result<bool> {
        if len >= self.len() {
            return Ok(true);
        }
        let fits = self.is_border(len)?;
        if fits {
            tx.put(&self.len, u32::try_from(len).unwrap_or(u32::MAX))?;
        }
        Ok(fits)
    }

    fn do_reserve(&self, tx: &Tx, additional: usize) -> Result<()> {
        let needed = self.len().saturating_add(additional);
        if needed > self.capacity() { self.grow(tx, needed, self.len()).map(drop) } else { Ok(()) }
    }

    fn do_pop(&self, tx: &Tx) -> Result<Option<char>> {
        let len = self.len();
        let mut from = len.saturating_sub(1);
        while !self.is_border(from)? && len - from < 4 {
            from -= 1;
        }
        let Some(last) = self.char_at(from)? else { return Ok(None) };
        tx.put(&self.len, u32::try_from(from).unwrap_or(u32::MAX))?;
        Ok(Some(last))
    }

    fn do_insert(&self, tx: &Tx, index: usize, character: char) -> Result<bool> {
        self.do_insert_str(tx, index, character.encode_utf8(&mut [0; 4]))
    }

    fn do_insert_str(&self, tx: &Tx, index: usize, text: &str) -> Result<bool> {
        let fits = self.is_border(index)?;
        if fits {
            let behind = self.read(index, self.len())?;
            self.replace_from(tx, index, &[text.as_bytes(), &behind])?;
        }
        Ok(fits)
    }

    fn do_remove(&self, tx: &Tx, index: usize) -> Result<Option<char>> {
        let removed = if self.is_border(index)? { self.char_at(index)? } else { None };
        if let Some(character) = removed {
            let behind = self.read(index + character.len_utf8(), self.len())?;
            self.replace_from(tx, index, &[&behind])?;
        }
        Ok(removed)
    }

    /// Whether a character begins or the text ends at byte `index`.
    fn is_border(&self, index: usize) -> Result<bool> {
        if index >= self.len() {
            return Ok(index == self.len());
        }
        let byte = self.read(index, index + 1)?;
        Ok(byte.first().is_some_and(|byte| byte & 0xc0 != 0x80))
    }

    /// The character that begins at byte `index`; `None` at the end.
    fn char_at(&self, index: usize) -> Result<Option<char>> {
        let bytes = self.read(index, self.len().min(index.saturating_add(4)))?;
        let Some(chunk) = bytes.utf8_chunks().next() else { return Ok(None) };
        chunk.valid().chars().next().map(Some).ok_or_else(|| damaged(self, "UTF-8"))
    }

    /// What stands from byte `from` on becomes `pieces`, one after the other, and the end. Logs no more than that.
    fn replace_from(&self, tx: &Tx, from: usize, pieces: &[&[u8]]) -> Result<()> {
        let added = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let needed = from.saturating_add(added);
        let len = u32::try_from(needed).map_err(|_| Error::TooLarge { bytes: needed as u64 })?;
        if needed > self.capacity() {
            let mut at = self.grow(tx, needed, from)? + from;
            for piece in pieces {
                fill(tx, at, piece, needed)?;
                at += piece.len();
            }
        } else if added > 0 {
            let mut at = self.block()? + from;
            for piece in pieces {
                put_all(tx, at, piece)?;
                at += piece.len();
            }
        }
        tx.put(&self.len, len)
    }

    /// Takes a block for `needed` bytes with the first `kept` of the text in it, leaves the old one to the free list, and returns the new one's
    /// address. All that is written to it before the commit becomes durable with it.
    fn grow(&self, tx: &Tx, needed: usize, kept: usize) -> Result<usize> {
        let bytes = self.read(0, kept)?;
        let (new, capacity) = Self::make_block(tx, home_of(self)?, needed)?;
        fill(tx, new, &bytes, needed)?;
        self.free_block(tx)?;
        let pointer = translate::persistent(home_of(self)?, new)?;
        tx.put_value(core::ptr::from_ref(&self.bytes).addr(), &pointer.0)?;
        tx.put(&self.capacity, capacity)?;
        Ok(new)
    }

    /// A block for `needed` bytes near `home`, and how many it has.
    fn make_block(tx: &Tx, home: Window, needed: usize) -> Result<(usize, u32)> {
        let too_large = Error::TooLarge { bytes: needed as u64 };
        let capacity = needed.checked_next_power_of_two().ok_or(too_large)?.max(SMALLEST as usize);
        let stored = u32::try_from(capacity).map_err(|_| too_large)?;
        if needed <= LOGGED_MAX {
            return Ok((tx.alloc_unfilled(home, capacity, 8)?, stored));
        }
        let new = tx.alloc_raw(home, capacity, 8)?;
        tx.settle()?; // the free list's word in it is recorded before it is overwritten
        Ok((new, stored))
    }
}

/// Writes a part of a text of `len` bytes into a block that nobody knows yet.
pub(super) fn fill(tx: &Tx, address: usize, bytes: &[u8], len: usize) -> Result<()> {
    if len <= LOGGED_MAX {
        return put_all(tx, address, bytes);
    }
    let (window, offset) = translate::split(address)?;
    window.write(offset as usize, bytes);
    Ok(())
}

/// The text; of one that is damaged, a replacement character.
impl fmt::Display for String {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Ok(text) => f.pad(&text),
            Err(_) => f.write_str("\u{fffd}"),
        }
    }
}

/// The text in quotes; of one that is damaged, the error.
impl fmt::Debug for String {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Ok(text) => write!(f, "{text:?}"),
            Err(error) => write!(f, "<{error}>"),
        }
    }
}

/// A damaged text equals nothing.
impl PartialEq<str> for String {
    fn eq(&self, other: &str) -> bool {
        self.len() == other.len() && self.bytes().is_ok_and(|bytes| bytes == other.as_bytes())
    }
}

impl PartialEq<&str> for String {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl PartialEq<alloc::string::String> for String {
    fn eq(&self, other: &alloc::string::String) -> bool {
        *self == **other
    }
}

/// A damaged text does not even equal itself.
impl PartialEq for String {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && other.bytes().is_ok_and(|bytes| self.bytes().is_ok_and(|own| own == bytes))
    }
}
