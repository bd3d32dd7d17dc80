//! An object that is mapped here, as bytes that others may change at any time.

use pmem::{Native, Pmem};
use sec::ObjectBytes;
use twz_rt::abi::syscall::{CreateSpec, create_flags};
use twz_rt::abi::{ErrorCode, ObjectId, Rights};
use twz_rt::{syscall, view};

/// Read and write.
pub const BOTH: Rights = Rights::READ.union(Rights::WRITE);

/// Where an object is mapped. Copies name the same memory; no reference to it is ever made.
#[derive(Clone, Copy, Debug)]
pub struct Mapped(pub *mut u8);

// SAFETY: a mapping is the view's, not a thread's; every access is a volatile one to bytes that others may change anyway.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps `object` readable and writable, in a slot of its own for good.
    ///
    /// # Errors
    /// [`ErrorCode::NoMemory`] when there is no free slot.
    pub fn of(object: ObjectId) -> Result<Self, ErrorCode> {
        view::map_anywhere(object, BOTH).map(Self).ok_or(ErrorCode::NoMemory)
    }

    fn at(self, offset: u64) -> *mut u8 {
        // Offsets below 1 GiB fit.
        self.0.wrapping_add(usize::try_from(offset).unwrap_or_default())
    }

    /// Stores bytes.
    pub fn write(self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            // SAFETY: the slot maps an object of 1 GiB that this program made; offsets are constants of its layout.
            unsafe { self.at(at).write_volatile(*byte) };
        }
    }

    /// Stores bytes at a multiple of 8, a word at a time; what the last word has beyond them is zero.
    pub fn write_words(self, offset: u64, bytes: &[u8]) {
        for (at, piece) in (offset..).step_by(8).zip(bytes.chunks(8)) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.set_word(at, u64::from_le_bytes(word));
        }
    }

    /// Stores bytes at a multiple of 8 so that they are durable when it returns, the first word after all others.
    pub fn write_durably(self, offset: u64, bytes: &[u8]) {
        // SAFETY: as in `write`; `Native` writes through the pointer only.
        let memory = unsafe { Native::new(self.at(offset), bytes.len() as u64) };
        let (first, rest) = bytes.split_at(bytes.len().min(8));
        memory.write(first.len() as u64, rest);
        memory.persist(0, bytes.len() as u64);
        memory.write(0, first);
        memory.persist(0, first.len() as u64);
    }

    /// Loads the word at `offset`, a multiple of 8.
    #[must_use]
    pub fn word(self, offset: u64) -> u64 {
        // SAFETY: as in `write`.
        unsafe { self.at(offset).cast::<u64>().read_volatile() }
    }

    /// Stores a word at `offset`, a multiple of 8, in one piece.
    pub fn set_word(self, offset: u64, value: u64) {
        // SAFETY: as in `write`.
        unsafe { self.at(offset).cast::<u64>().write_volatile(value) };
    }
}

impl ObjectBytes for Mapped {
    fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        for (at, byte) in (offset..).zip(into) {
            // SAFETY: as in `write`.
            *byte = unsafe { self.at(at).read_volatile() };
        }
        true
    }
}

/// Creates a volatile object whose rights the holder of `key` grants, with no default rights.
///
/// # Errors
/// As [`syscall::object_create`].
pub fn volatile_object(key: ObjectId) -> Result<ObjectId, ErrorCode> {
    syscall::object_create(&CreateSpec { key, flags: create_flags::VOLATILE, ..CreateSpec::default() })
}
