//! The allocator in each object: size classes, failure-atomic, no leaks.
//!
//! ```text
//! ArenaHeader, at meta.arena_offset, a multiple of 64
//!   +0   magic     "TWZARE01"
//!   +8   bump      first offset never handed out
//!   +16  start     where blocks begin
//!   +24  limit     the arena ends here or at the log's floor, whichever is lower
//!   +32  next      ID of the object that takes what does not fit here (16 bytes; tx/link.rs); 0: none yet
//!   +48  sparse    0, or where the last block ends whose pages come when they are first stored to (tx/room.rs)
//!   +56  reserved
//!   +64  free[CLASSES]  offset of the first free block of each class; its first word is the offset of the next
//! ```
//! # Contract
//! - Allocation and freeing are parts of a transaction: the words above change only when it commits. Until then the new
//!   values stand in a [`Shadow`] in this program's memory.
//! - **A1** every byte from `start` to `bump` is in exactly one block, which is either on a free list or owned: nothing
//!   leaks, whenever the power fails. [`Arena::census`] counts it.
//! - **A2** a block of a class of size s is aligned to the largest power of two that divides s, at most a page.
//! - Blocks carry no header: who frees says the size, as in Rust's `dealloc`.

use crate::error::{Error, Result};
use crate::object::END;
use crate::tx::Link;
use crate::view;
use crate::window::Window;
use alloc::vec::Vec;
use twz_abi::object::DATA_OFFSET;

const MAGIC: u64 = u64::from_le_bytes(*b"TWZARE01");
/// Number of size classes: 16 to 128 by 16, then four to each doubling, to 512 MiB.
pub(crate) const CLASSES: usize = 8 + 22 * 4;
/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = (64 + CLASSES * 8).next_multiple_of(64);
/// Largest alignment.
pub const MAX_ALIGN: usize = 4096;
const BUMP: usize = 8;
const START: usize = 16;
const LIMIT: usize = 24;
const NEXT: usize = 32;
const SPARSE: usize = 48;
const FREE: usize = 64;
#[allow(clippy::cast_possible_truncation, reason = "below 1 GiB")]
const FIRST: usize = DATA_OFFSET as usize;

/// Bytes in a block of `class`.
pub(crate) const fn class_bytes(class: usize) -> usize {
    if class < 8 {
        return (class + 1) * 16;
    }
    let (doubling, quarter) = ((class - 8) / 4, (class - 8) % 4);
    (128 << doubling) + (quarter + 1) * (32 << doubling)
}

/// The smallest class whose blocks hold `bytes` at `align` (**A2**).
#[inline]
pub(crate) fn class_for(bytes: usize, align: usize) -> Result<usize> {
    let too_large = Error::TooLarge { bytes: bytes as u64 };
    if align > MAX_ALIGN || bytes > class_bytes(CLASSES - 1) {
        return Err(too_large);
    }
    let bytes = bytes.max(1);
    let mut class = if bytes <= 128 {
        (bytes - 1) / 16
    } else {
        let doubling = (usize::BITS - 1 - (bytes - 1).leading_zeros()) as usize - 7;
        8 + doubling * 4 + ((bytes - 1 - (128 << doubling)) >> (5 + doubling))
    };
    while natural_align(class_bytes(class)) < align {
        class += 1;
        if class == CLASSES {
            return Err(too_large);
        }
    }
    Ok(class)
}

#[inline]
const fn natural_align(bytes: usize) -> usize {
    let align = 1 << bytes.trailing_zeros();
    if align > MAX_ALIGN { MAX_ALIGN } else { align }
}

/// The largest class that fits `bytes` and may start at `at` (**A2**); both multiples of 16, `bytes` at least 16.
fn class_of_piece(at: usize, bytes: usize) -> usize {
    let mut class = class_for(bytes, 1).unwrap_or(CLASSES - 1);
    while class > 0 && (class_bytes(class) > bytes || !at.is_multiple_of(natural_align(class_bytes(class)))) {
        class -= 1;
    }
    class
}

/// What a transaction has changed of an arena, before it commits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shadow {
    bump: Option<usize>,
    heads: Vec<(usize, usize)>,
    /// First words of free blocks that the commit links: (block, next).
    links: Vec<(usize, usize)>,
}

impl Shadow {
    fn head(&self, class: usize) -> Option<usize> {
        self.heads.iter().find(|(c, _)| *c == class).map(|(_, head)| *head)
    }

    /// Whether blocks were taken from the arena's end between.
    pub(crate) fn end_differs(&self, other: &Self) -> bool {
        self.bump != other.bump
    }

    fn next(&self, block: usize) -> Option<usize> {
        self.links.iter().rev().find(|(b, _)| *b == block).map(|(_, next)| *next)
    }
}

/// How the bytes of an arena are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Bytes from the start of the arena to `bump`.
    pub bytes: usize,
    /// Of them, bytes in free blocks.
    pub free_bytes: usize,
    /// Number of free blocks.
    pub free_blocks: usize,
}

/// A validated arena.
#[derive(Clone, Copy, Debug)]
pub struct Arena {
    window: Window,
    at: usize,
}

impl Arena {
    /// Writes the header of an empty arena whose blocks lie in `start..limit`.
    pub(crate) fn format(window: Window, at: usize, start: usize, limit: usize) {
        let start = start.next_multiple_of(16);
        window.store(at + BUMP, start as u64);
        window.store(at + START, start as u64);
        window.store(at + LIMIT, limit as u64);
        window.store(at, MAGIC);
        window.flush(at, HEADER_BYTES);
    }

    /// The arena at `at`, after checking its header.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub(crate) fn open(window: Window, at: u64) -> Result<Self> {
        let header = usize::try_from(at).unwrap_or(0);
        let arena = Self { window, at: header };
        if !(FIRST..END - HEADER_BYTES).contains(&header) || !header.is_multiple_of(64) {
            return Err(arena.bad(header, "an arena inside the object's data"));
        }
        if window.load(header) != MAGIC {
            return Err(arena.bad(header, "the magic number of an arena"));
        }
        let start = arena.word(START);
        let in_order =
            header < start && start <= arena.bump() && arena.bump() <= END && start.is_multiple_of(16);
        if !in_order || arena.word(LIMIT) > END {
            return Err(arena.bad(header + BUMP, "start <= bump <= end of data"));
        }
        Ok(arena)
    }

    #[cold]
    fn bad(&self, offset: usize, expected: &'static str) -> Error {
        #[allow(clippy::cast_possible_truncation, reason = "offsets are below 1 GiB")]
        Error::Damaged { object: view::id_at(self.window.base()), offset: offset as u32, expected }
    }

    #[inline]
    fn word(&self, field: usize) -> usize {
        usize::try_from(self.window.load(self.at + field)).unwrap_or(usize::MAX)
    }

    /// First offset never handed out.
    pub(crate) fn bump(&self) -> usize {
        self.word(BUMP)
    }

    /// Where `next` stands, for the transaction that sets it.
    pub(crate) fn next_at(&self) -> usize {
        self.at + NEXT
    }

    /// The object that takes what does not fit here.
    pub(crate) fn next(&self) -> twz_abi::ObjectId {
        Link::read(self.window, self.at + NEXT)
    }

    /// Where [`Arena::sparse`] stands, for the transaction that sets it.
    pub(crate) fn sparse_at(&self) -> usize {
        self.at + SPARSE
    }

    /// Where the last block ends whose pages come when they are first stored to; 0 if there is none.
    pub(crate) fn sparse(&self) -> usize {
        self.word(SPARSE)
    }

    /// First offset that the arena may not use.
    pub(crate) fn limit(&self) -> usize {
        self.word(LIMIT)
    }

    /// Bytes that the arena may grow to.
    pub(crate) fn capacity(&self) -> usize {
        self.limit().saturating_sub(self.word(START))
    }

    /// Where the arena's data ends with the changes of `shadow`: the log must stay above.
    pub(crate) fn top(&self, shadow: &Shadow) -> usize {
        shadow.bump.unwrap_or_else(|| self.bump())
    }

    /// Takes a block of `class`: its offset, and whether it was on a free list (then its first word is the list's until the
    /// transaction commits). `room` sees to it that there are pages up to an offset.
    ///
    /// # Errors
    /// [`Error::OutOfSpace`]; [`Error::Damaged`] for a free list that leaves the arena.
    #[inline]
    pub(crate) fn take(
        &self,
        shadow: &mut Shadow,
        class: usize,
        floor: usize,
        room: impl FnOnce(usize) -> Result<()>,
    ) -> Result<(usize, bool)> {
        if let Some(block) = self.pop(shadow, class)? {
            return Ok((block, true));
        }
        let bytes = class_bytes(class);
        let bump = self.top(shadow);
        let block = bump.next_multiple_of(natural_align(bytes));
        if block.saturating_add(bytes) <= floor.min(self.limit()) {
            room(block + bytes)?;
            shadow.bump = Some(block + bytes);
            self.add_pieces(shadow, bump, block - bump);
            return Ok((block, false));
        }
        self.split_larger(shadow, class).map(|block| (block, true))
    }

    #[inline]
    fn pop(&self, shadow: &mut Shadow, class: usize) -> Result<Option<usize>> {
        let block = shadow.head(class).unwrap_or_else(|| self.word(FREE + class * 8));
        if block == 0 {
            return Ok(None);
        }
        self.check_block(block, class, shadow)?;
        let next = match shadow.next(block) {
            Some(next) => next,
            None => usize::try_from(self.window.load(block)).unwrap_or(usize::MAX),
        };
        if next != 0 {
            self.check_block(next, class, shadow)?;
        }
        shadow.links.retain(|(linked, _)| *linked != block); // its first word is the owner's now
        set_head(shadow, class, next);
        Ok(Some(block))
    }

    #[inline]
    fn check_block(&self, block: usize, class: usize, shadow: &Shadow) -> Result<()> {
        let bytes = class_bytes(class);
        let inside = block >= self.word(START) && block.saturating_add(bytes) <= self.top(shadow);
        if inside && block.is_multiple_of(natural_align(bytes)) {
            return Ok(());
        }
        Err(self.bad(self.at + FREE + class * 8, "a free list inside the arena"))
    }

    /// Cuts a block of `class` out of the smallest larger free block.
    #[cold]
    fn split_larger(&self, shadow: &mut Shadow, class: usize) -> Result<usize> {
        let align = natural_align(class_bytes(class));
        for larger in class + 1..CLASSES {
            if natural_align(class_bytes(larger)) < align {
                continue;
            }
            if let Some(block) = self.pop(shadow, larger)? {
                let used = class_bytes(class);
                self.add_pieces(shadow, block + used, class_bytes(larger) - used);
                return Ok(block);
            }
        }
        Err(Error::OutOfSpace(view::id_at(self.window.base())))
    }

    /// Puts unused bytes on the free lists, in pieces (**A1**).
    fn add_pieces(&self, shadow: &mut Shadow, mut at: usize, mut bytes: usize) {
        while bytes >= 16 {
            let class = class_of_piece(at, bytes);
            self.give_class(shadow, at, class);
            at += class_bytes(class);
            bytes -= class_bytes(class);
        }
    }

    /// Puts a block on its free list.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a block that is not in the arena.
    pub(crate) fn give(&self, shadow: &mut Shadow, block: usize, class: usize) -> Result<()> {
        self.check_block(block, class, shadow)?;
        self.give_class(shadow, block, class);
        Ok(())
    }

    fn give_class(&self, shadow: &mut Shadow, block: usize, class: usize) {
        let head = shadow.head(class).unwrap_or_else(|| self.word(FREE + class * 8));
        shadow.links.push((block, head));
        set_head(shadow, class, block);
    }

    /// Calls `put(offset, value)` for each word that the commit changes.
    #[inline]
    pub(crate) fn for_changes(&self, shadow: &Shadow, mut put: impl FnMut(usize, u64)) {
        for &(block, next) in &shadow.links {
            put(block, next as u64);
        }
        for &(class, head) in &shadow.heads {
            put(self.at + FREE + class * 8, head as u64);
        }
        if let Some(bump) = shadow.bump {
            put(self.at + BUMP, bump as u64);
        }
    }

    /// Counts the arena's bytes, walking every free list.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a list that leaves the arena or has a cycle.
    pub fn census(&self) -> Result<Census> {
        let none = Shadow::default();
        let mut census = Census { bytes: self.bump() - self.word(START), ..Census::default() };
        for class in 0..CLASSES {
            let mut block = self.word(FREE + class * 8);
            while block != 0 {
                self.check_block(block, class, &none)?;
                census.free_bytes += class_bytes(class);
                census.free_blocks += 1;
                if census.free_bytes > census.bytes {
                    return Err(self.bad(self.at + FREE + class * 8, "a free list without a cycle"));
                }
                block = usize::try_from(self.window.load(block)).unwrap_or(usize::MAX);
            }
        }
        Ok(census)
    }
}

#[inline]
fn set_head(shadow: &mut Shadow, class: usize, head: usize) {
    match shadow.heads.iter_mut().find(|(c, _)| *c == class) {
        Some(entry) => entry.1 = head,
        None => shadow.heads.push((class, head)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_ascend_and_fit() {
        for class in 1..CLASSES {
            assert!(class_bytes(class - 1) < class_bytes(class));
            assert_eq!(class_bytes(class) % 16, 0);
        }
        assert_eq!(class_bytes(CLASSES - 1), 512 << 20);
        for bytes in (1..5000).chain([1 << 20, (1 << 20) + 1, 512 << 20]) {
            let class = class_for(bytes, 1).unwrap();
            assert!(class_bytes(class) >= bytes, "{bytes}");
            assert!(class == 0 || class_bytes(class - 1) < bytes, "{bytes}");
        }
        assert!(class_for((512 << 20) + 1, 1).is_err());
    }

    #[test]
    fn alignment_is_found_in_the_class() {
        for align in [1, 16, 64, 256, 4096] {
            for bytes in [1, 17, 100, 4096, 70_000] {
                let class = class_for(bytes, align).unwrap();
                assert!(class_bytes(class).is_multiple_of(align) && class_bytes(class) >= bytes);
            }
        }
        assert!(class_for(16, 8192).is_err());
    }

    #[test]
    fn pieces_fill_any_gap() {
        for start in (0..512).step_by(16) {
            for bytes in (16..2048).step_by(16) {
                let (mut at, mut left) = (start, bytes);
                while left > 0 {
                    let size = class_bytes(class_of_piece(at, left));
                    assert!(size <= left && at.is_multiple_of(natural_align(size)));
                    at += size;
                    left -= size;
                }
            }
        }
    }
}
