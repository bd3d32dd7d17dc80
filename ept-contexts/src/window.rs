//! The guest-physical range of a root that belongs to one context, handed out in 2 MiB chunks.

use crate::alias::{Alias, AliasError, Reservation};
use std::sync::Arc;

/// Bytes of a chunk: what one large page covers.
pub const CHUNK_SIZE: u64 = 2 << 20;

/// A chunk of a window, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chunk(u32);

/// Object space of one context in one root.
#[derive(Debug)]
pub struct Window {
    base: u64,
    alias: Alias,
    fresh: u32,
    count: u32,
    freed: Vec<Chunk>,
}

impl Window {
    /// Reserves a window of `bytes` (rounded down to chunks) at guest-physical `base`.
    ///
    /// # Errors
    /// As [`Alias::reserve`].
    pub fn new(base: u64, bytes: u64) -> Result<Self, AliasError> {
        let count = u32::try_from(bytes / CHUNK_SIZE).unwrap_or(u32::MAX);
        let alias = Alias::reserve(u64::from(count) * CHUNK_SIZE)?;
        Ok(Self { base, alias, fresh: 0, count, freed: Vec::new() })
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.alias.bytes()
    }

    /// Guest-physical address of its first byte.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Takes a chunk that nobody uses; `None` when all are in use.
    pub fn take(&mut self) -> Option<Chunk> {
        if let Some(chunk) = self.freed.pop() {
            return Some(chunk);
        }
        let chunk = Chunk(self.fresh);
        (self.fresh < self.count).then(|| {
            self.fresh += 1;
            chunk
        })
    }

    /// Empties a chunk and takes it back.
    ///
    /// # Errors
    /// As [`Alias::clear`]; the chunk is then not used again.
    pub fn give_back(&mut self, chunk: Chunk) -> Result<(), AliasError> {
        self.alias.clear(Self::start(chunk), CHUNK_SIZE)?;
        self.freed.push(chunk);
        Ok(())
    }

    /// Guest-physical address of a chunk.
    #[must_use]
    pub fn guest_address(&self, chunk: Chunk) -> u64 {
        self.base + Self::start(chunk)
    }

    /// Start of a chunk in the alias.
    #[must_use]
    pub fn start(chunk: Chunk) -> u64 {
        u64::from(chunk.0) * CHUNK_SIZE
    }

    /// The memory behind the window.
    pub const fn alias(&mut self) -> &mut Alias {
        &mut self.alias
    }

    /// Keeps the window's address space reserved as long as it is held, also when the window itself is gone.
    pub(crate) fn reservation(&self) -> Arc<Reservation> {
        self.alias.reservation()
    }

    /// Host address and size, for the memslot.
    pub(crate) fn host_range(&self) -> (u64, u64) {
        (self.alias.address(), self.alias.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_each_chunk_out_once() {
        let mut window = Window::new(1 << 32, 3 * CHUNK_SIZE).expect("address space");
        let chunks: Vec<_> = std::iter::from_fn(|| window.take()).collect();
        assert_eq!(chunks.len(), 3);
        assert_eq!(window.guest_address(chunks[2]), (1 << 32) + 2 * CHUNK_SIZE);
        window.give_back(chunks[1]).expect("a chunk of the window");
        assert_eq!(window.take(), Some(chunks[1]));
        assert_eq!(window.take(), None);
    }
}
