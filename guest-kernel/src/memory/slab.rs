//! Records of one type, carved from frames: the kernel's heap.
//!
//! Every allocation can fail and says so; nothing here panics for want of memory. Indices stay valid until
//! the record is removed, and are what other records hold instead of pointers.
//!
//! A frame whose last record goes is given back, but for one: a record that comes and goes does not clear a frame each time.

use super::frames::{Frame, Frames};
use core::marker::PhantomData;
use core::ops::{Index, IndexMut};

/// Frames that one slab may own.
const MAX_CHUNKS: usize = 8192;
/// Bytes at the start of a chunk that [`Header`] has, whatever the alignment of records.
const HEADER_BYTES: usize = 64;

/// An array of `T` with holes.
pub(crate) struct Slab<T> {
    chunks: [Option<Frame>; MAX_CHUNKS],
    /// One more than the last chunk ever in use; no chunk before `first_vacant` is missing.
    chunk_end: usize,
    first_vacant: usize,
    /// Chunks with free places, as a list.
    open: Option<u16>,
    /// Chunks without records; at most one.
    empty_count: u32,
    kind: PhantomData<T>,
}

/// Start of a chunk.
struct Header {
    used: u16,
    /// Free places, as a list of numbers in the chunk.
    free: Option<u16>,
    next_open: Option<u16>,
    previous_open: Option<u16>,
}
const _: () = assert!(size_of::<Header>() <= HEADER_BYTES);

/// What stands in a place of the slab.
enum Place<T> {
    Free { next: Option<u16> },
    Used(T),
}

// SAFETY: a slab owns its frames.
unsafe impl<T: Send> Send for Slab<T> {}

#[allow(clippy::cast_possible_truncation, reason = "chunks and places in a chunk are fewer than 2^16")]
impl<T> Slab<T> {
    /// Records in a chunk, a power of two: finding a record is what the kernel does most, and there every instruction counts.
    const PER_CHUNK: usize = {
        let count = (4096 - HEADER_BYTES) / size_of::<Place<T>>();
        assert!(count > 0 && align_of::<Place<T>>() <= HEADER_BYTES);
        1 << count.ilog2()
    };

    /// Nothing in it, no memory used.
    pub(crate) const fn new() -> Self {
        Self {
            chunks: [None; MAX_CHUNKS],
            chunk_end: 0,
            first_vacant: 0,
            open: None,
            empty_count: 0,
            kind: PhantomData,
        }
    }

    fn place(&self, index: u32) -> Option<*mut Place<T>> {
        let index = index as usize;
        let chunk = self.chunks.get(index / Self::PER_CHUNK).copied().flatten()?;
        Some(Self::place_in(chunk, index % Self::PER_CHUNK))
    }

    fn place_in(chunk: Frame, number: usize) -> *mut Place<T> {
        chunk.pointer::<u8>().wrapping_add(HEADER_BYTES).cast::<Place<T>>().wrapping_add(number)
    }

    fn header(&mut self, chunk: u16) -> Option<&mut Header> {
        let frame = self.chunks[usize::from(chunk)]?;
        // SAFETY: every chunk begins with a header, and `self` is borrowed mutably.
        Some(unsafe { &mut *frame.pointer::<Header>() })
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
        let Some(chunk) = self.open.or_else(|| self.add_chunk(frames)) else { return Err(value) };
        let Some(number) = self.header(chunk).and_then(|header| header.free) else { return Err(value) };
        let index = usize::from(chunk) * Self::PER_CHUNK + usize::from(number);
        let Some(place) = self.place(index as u32) else { return Err(value) };
        // SAFETY: as in `get_mut`.
        let place = unsafe { &mut *place };
        let next = match *place {
            Place::Free { next } => next,
            Place::Used(_) => None,
        };
        *place = Place::Used(value);
        let Some(header) = self.header(chunk) else { return Ok(index as u32) };
        header.free = next;
        header.used += 1;
        if header.used == 1 {
            self.empty_count -= 1;
        }
        if next.is_none() {
            self.close(chunk);
        }
        Ok(index as u32)
    }

    /// Takes the record at `index` out.
    pub(crate) fn remove(&mut self, frames: &mut Frames, index: u32) -> Option<T> {
        let (chunk, number) = (index as usize / Self::PER_CHUNK, index as usize % Self::PER_CHUNK);
        let place = self.place(index)?;
        let chunk = chunk as u16;
        let header = self.header(chunk)?;
        let free = header.free;
        // SAFETY: as in `get_mut`.
        let place = unsafe { &mut *place };
        if matches!(place, Place::Free { .. }) {
            return None;
        }
        let removed = core::mem::replace(place, Place::Free { next: free });
        let header = self.header(chunk)?;
        header.free = Some(number as u16);
        header.used -= 1;
        let is_empty = header.used == 0;
        if free.is_none() {
            self.reopen(chunk);
        }
        if is_empty && self.empty_count > 0 {
            self.close(chunk);
            if let Some(frame) = self.chunks[usize::from(chunk)].take() {
                frames.free(frame);
            }
            self.first_vacant = self.first_vacant.min(usize::from(chunk));
        } else if is_empty {
            self.empty_count += 1;
        }
        match removed {
            Place::Used(value) => Some(value),
            Place::Free { .. } => None,
        }
    }

    /// One more than the largest index ever used.
    pub(crate) fn index_end(&self) -> u32 {
        u32::try_from(self.chunk_end * Self::PER_CHUNK).unwrap_or(u32::MAX)
    }

    /// Adds a chunk without records.
    fn add_chunk(&mut self, frames: &mut Frames) -> Option<u16> {
        let missing = self.chunks.iter().skip(self.first_vacant).position(Option::is_none)?;
        let chunk = self.first_vacant + missing;
        let frame = frames.allocate()?;
        for number in 0..Self::PER_CHUNK {
            let next = (number + 1 < Self::PER_CHUNK).then_some(number as u16 + 1);
            // SAFETY: the place lies in the new frame, which nobody else knows.
            unsafe { Self::place_in(frame, number).write(Place::Free { next }) };
        }
        let header = Header { used: 0, free: Some(0), next_open: None, previous_open: None };
        // SAFETY: as above.
        unsafe { frame.pointer::<Header>().write(header) };
        self.chunks[chunk] = Some(frame);
        self.first_vacant = chunk + 1;
        self.chunk_end = self.chunk_end.max(chunk + 1);
        self.empty_count += 1;
        self.reopen(chunk as u16);
        Some(chunk as u16)
    }

    /// Puts a chunk on the list of those with free places.
    fn reopen(&mut self, chunk: u16) {
        let next = self.open.replace(chunk);
        if let Some(header) = self.header(chunk) {
            (header.next_open, header.previous_open) = (next, None);
        }
        if let Some(header) = next.and_then(|next| self.header(next)) {
            header.previous_open = Some(chunk);
        }
    }

    /// Takes a chunk off that list.
    fn close(&mut self, chunk: u16) {
        let Some(header) = self.header(chunk) else { return };
        let (next, previous) = (header.next_open, header.previous_open);
        match previous {
            Some(previous) => {
                if let Some(header) = self.header(previous) {
                    header.next_open = next;
                }
            }
            None => self.open = next,
        }
        if let Some(header) = next.and_then(|next| self.header(next)) {
            header.previous_open = previous;
        }
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
