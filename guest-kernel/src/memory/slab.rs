//! Records of one type, carved from frames: the kernel's heap.
//!
//! Every allocation can fail and says so; nothing here panics for want of memory. Indices stay valid until
//! the record is removed, and are what other records hold instead of pointers.

use super::frames::{Frame, Frames};
use core::marker::PhantomData;
use core::ops::{Index, IndexMut};

/// Frames that one slab may own.
const MAX_CHUNKS: usize = 8192;

/// A growing array of `T` with holes.
pub(crate) struct Slab<T> {
    chunks: [Option<Frame>; MAX_CHUNKS],
    chunk_count: usize,
    free: Option<u32>,
    kind: PhantomData<T>,
}

/// What stands in a place of the slab.
enum Place<T> {
    Free { next: Option<u32> },
    Used(T),
}

// SAFETY: a slab owns its frames.
unsafe impl<T: Send> Send for Slab<T> {}

impl<T> Slab<T> {
    const PER_CHUNK: usize = {
        let count = 4096 / size_of::<Place<T>>();
        assert!(count > 0 && align_of::<Place<T>>() <= 4096);
        count
    };

    /// Nothing in it, no memory used.
    pub(crate) const fn new() -> Self {
        Self { chunks: [None; MAX_CHUNKS], chunk_count: 0, free: None, kind: PhantomData }
    }

    fn place(&self, index: u32) -> Option<*mut Place<T>> {
        let index = index as usize;
        let chunk = self.chunks.get(index / Self::PER_CHUNK).copied().flatten()?;
        // SAFETY: `index % PER_CHUNK` places of this size fit in the chunk's frame.
        Some(unsafe { chunk.pointer::<Place<T>>().add(index % Self::PER_CHUNK) })
    }

    /// The record at `index`.
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let place = self.place(index)?;
        // SAFETY: all places of a chunk were initialised when it was added, and `self` is borrowed.
        match unsafe { &*place } {
            Place::Used(value) => Some(value),
            Place::Free { .. } => None,
        }
    }

    /// The record at `index`.
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let place = self.place(index)?;
        // SAFETY: as in `get`, and `self` is borrowed mutably.
        match unsafe { &mut *place } {
            Place::Used(value) => Some(value),
            Place::Free { .. } => None,
        }
    }

    /// Stores `value`; gives it back when there is no memory.
    pub(crate) fn insert(&mut self, frames: &mut Frames, value: T) -> Result<u32, T> {
        if self.free.is_none() && !self.add_chunk(frames) {
            return Err(value);
        }
        let Some(index) = self.free else { return Err(value) };
        let Some(place) = self.place(index) else { return Err(value) };
        // SAFETY: as in `get_mut`.
        let place = unsafe { &mut *place };
        if let Place::Free { next } = *place {
            self.free = next;
        }
        *place = Place::Used(value);
        Ok(index)
    }

    /// Takes the record at `index` out.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let place = self.place(index)?;
        // SAFETY: as in `get_mut`.
        let place = unsafe { &mut *place };
        match core::mem::replace(place, Place::Free { next: self.free }) {
            Place::Used(value) => {
                self.free = Some(index);
                Some(value)
            }
            Place::Free { next } => {
                *place = Place::Free { next };
                None
            }
        }
    }

    /// One more than the largest index ever used.
    pub(crate) fn index_end(&self) -> u32 {
        u32::try_from(self.chunk_count * Self::PER_CHUNK).unwrap_or(u32::MAX)
    }

    fn add_chunk(&mut self, frames: &mut Frames) -> bool {
        if self.chunk_count == MAX_CHUNKS {
            return false;
        }
        let Some(frame) = frames.allocate() else { return false };
        self.chunks[self.chunk_count] = Some(frame);
        let first = self.chunk_count * Self::PER_CHUNK;
        self.chunk_count += 1;
        for index in (first..first + Self::PER_CHUNK).rev() {
            let Ok(index) = u32::try_from(index) else { return false };
            let Some(place) = self.place(index) else { return false };
            // SAFETY: the place lies in the new frame, which nobody else knows.
            unsafe { place.write(Place::Free { next: self.free }) };
            self.free = Some(index);
        }
        true
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;
    /// The record; a missing one is a bug of the kernel, never a program's doing.
    fn index(&self, index: u32) -> &T {
        self.get(index).expect("a kernel record is missing")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.get_mut(index).expect("a kernel record is missing")
    }
}
