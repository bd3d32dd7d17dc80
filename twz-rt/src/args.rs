//! A program's arguments and its environment.

use twz_abi::object::DATA_OFFSET;
use twz_abi::program::{ARGS_SLOT, ArgsHeader, TRACED};
use twz_abi::view::SLOT_SIZE;

#[allow(clippy::cast_possible_truncation, reason = "2^12")]
const FIRST: usize = DATA_OFFSET as usize;

/// The arguments that the program was started with, its own name first.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    base: *const u8,
    header: ArgsHeader,
    next: usize,
}

// SAFETY: what is read through the pointer never changes.
unsafe impl Send for Args {}
// SAFETY: as above.
unsafe impl Sync for Args {}

impl Args {
    /// The arguments whose object is mapped at `base`.
    ///
    /// # Safety
    /// `base` must be where the loader mapped an arguments object, read-only for good.
    #[must_use]
    pub unsafe fn at(base: *const u8) -> Self {
        let header = base.wrapping_add(FIRST).cast::<ArgsHeader>();
        // SAFETY: the loader wrote the header there (caller's promise).
        let header = unsafe { header.read() };
        Self { base, header, next: 0 }
    }

    /// The arguments of this program, where the loader mapped them.
    ///
    /// # Safety
    /// This must be a program that was loaded, with [`ARGS_SLOT`] as the loader left it.
    #[must_use]
    pub unsafe fn current() -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::at((ARGS_SLOT * SLOT_SIZE) as *const u8) }
    }

    /// How durable the pool is, 0 to 2; see [`ArgsHeader::durability`].
    #[must_use]
    pub const fn durability(&self) -> u64 {
        self.header.durability & !TRACED
    }

    /// Whether the machine must be told of flushes and fences.
    #[must_use]
    pub const fn is_traced(&self) -> bool {
        self.header.durability & TRACED != 0
    }

    /// Number of this boot of the pool; see [`ArgsHeader::boot`].
    #[must_use]
    pub const fn boot(&self) -> u64 {
        self.header.boot
    }

    /// What the loader said of the program and the machine.
    pub(crate) const fn header(&self) -> ArgsHeader {
        self.header
    }

    /// Number of arguments.
    #[must_use]
    pub fn count_all(&self) -> usize {
        usize::try_from(self.header.count).unwrap_or(0)
    }

    /// Argument `index`; arguments that are not UTF-8 are cut before the first bad byte.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'static str> {
        if index < self.count_all() { self.text(index) } else { None }
    }

    /// Variable `index` of the environment, as name and value.
    #[must_use]
    pub fn variable(&self, index: usize) -> Option<(&'static str, &'static str)> {
        if index >= usize::try_from(self.header.environment_count).unwrap_or(0) {
            return None;
        }
        self.text(self.count_all().checked_add(index)?)?.split_once('=')
    }

    /// Text `index` of those that the header counts.
    fn text(&self, index: usize) -> Option<&'static str> {
        let pair = self.base.wrapping_add(FIRST + size_of::<ArgsHeader>() + index * 16).cast::<[u64; 2]>();
        // SAFETY: as many pairs follow the header (promise of `at`), and `index` is below their number.
        let [offset, length] = unsafe { pair.read() };
        let text = self.base.wrapping_add(usize::try_from(offset).ok()?);
        // SAFETY: each pair names bytes of the object, which never change.
        let bytes = unsafe { core::slice::from_raw_parts(text, usize::try_from(length).ok()?) };
        match core::str::from_utf8(bytes) {
            Ok(text) => Some(text),
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).ok(),
        }
    }
}

impl Iterator for Args {
    type Item = &'static str;

    fn next(&mut self) -> Option<&'static str> {
        let text = self.get(self.next)?;
        self.next += 1;
        Some(text)
    }
}
