//! A program's arguments.

use twz_abi::program::ArgsHeader;

/// The arguments that the program was started with, its own name first.
#[derive(Clone, Copy)]
pub struct Args {
    base: *const u8,
    count: usize,
    durability: u64,
    next: usize,
}

impl Args {
    /// The arguments whose object is mapped at `base`.
    ///
    /// # Safety
    /// `base` must be where the loader mapped an arguments object, read-only for good.
    #[must_use]
    pub unsafe fn at(base: *const u8) -> Self {
        let header = base.wrapping_add(0x1000).cast::<ArgsHeader>();
        // SAFETY: the loader wrote the header there (caller's promise).
        let header = unsafe { header.read() };
        Self {
            base,
            count: usize::try_from(header.count).unwrap_or(0),
            durability: header.durability,
            next: 0,
        }
    }

    /// How durable the pool is; see [`ArgsHeader::durability`].
    #[must_use]
    pub const fn durability(&self) -> u64 {
        self.durability
    }

    /// Argument `index`; arguments that are not UTF-8 are cut before the first bad byte.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'static str> {
        if index >= self.count {
            return None;
        }
        let pair = self.base.wrapping_add(0x1000 + size_of::<ArgsHeader>() + index * 16).cast::<[u64; 2]>();
        // SAFETY: `index < count` pairs follow the header (promise of `at`).
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
