//! What can go wrong, said with object, offset and what was expected.

use crate::window::{SLOT_MASK, Window};
use core::fmt;
use twz_abi::{ObjectId, PersistentPtr};

/// The crate's result.
pub type Result<T> = core::result::Result<T, Error>;

/// What is at `offset` in the object at `window` is not what was expected.
#[cold]
pub(crate) fn damaged_at(window: Window, offset: usize, expected: &'static str) -> Error {
    #[allow(clippy::cast_possible_truncation, reason = "for a message")]
    Error::Damaged { object: crate::view::id_at(window.base()), offset: offset as u32, expected }
}

/// The error for contents at `place` that cannot be.
#[cold]
pub(crate) fn damaged<T>(place: &T, expected: &'static str) -> Error {
    let address = core::ptr::from_ref(place).addr();
    #[allow(clippy::cast_possible_truncation, reason = "masked to 30 bits")]
    Error::Damaged { object: crate::view::id_at(address), offset: (address & SLOT_MASK) as u32, expected }
}

/// The error for a lock at `place` that nobody will free in this boot.
#[cold]
pub(crate) fn holder_ended<T>(place: &T) -> Error {
    let address = core::ptr::from_ref(place).addr();
    #[allow(clippy::cast_possible_truncation, reason = "masked to 30 bits")]
    Error::HolderEnded { object: crate::view::id_at(address), offset: (address & SLOT_MASK) as u32 }
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// An object's contents are not what they should be; nothing was touched outside it.
    Damaged {
        /// The object.
        object: ObjectId,
        /// Where in it, in bytes.
        offset: u32,
        /// What should have been there.
        expected: &'static str,
    },
    /// A persistent pointer leads nowhere.
    BadPointer {
        /// The object that holds the pointer.
        object: ObjectId,
        /// The pointer.
        pointer: PersistentPtr,
        /// What it should have been.
        expected: &'static str,
    },
    /// The object was built for another type.
    WrongType {
        /// The object.
        object: ObjectId,
        /// Fingerprint of the type asked for.
        expected: u64,
        /// Fingerprint in the object.
        found: u64,
    },
    /// A pointer was to be stored in, or a range recorded of, memory that is in no mapped object.
    NotInObject {
        /// The address.
        address: usize,
    },
    /// No object has this ID.
    NoSuchObject(ObjectId),
    /// The security context does not permit it: the object needs default rights, or the context a capability for it.
    NotPermitted(ObjectId),
    /// A power failure left the object in the middle of a change, and this program may not write it: somebody who may must open it first.
    Unrecovered(ObjectId),
    /// A name leads to nothing.
    NoSuchName,
    /// A name is taken already.
    NameExists,
    /// A name is empty, too long or holds a NUL or a slash where it may not.
    BadName,
    /// The object's data region, or the pool, is full.
    OutOfSpace(ObjectId),
    /// One allocation was larger than an object's data region, or alignment above a page was asked for.
    TooLarge {
        /// Bytes asked for.
        bytes: u64,
    },
    /// The object goes on in another one, chained to it, so that it cannot be copied alone.
    Chained(ObjectId),
    /// All slots of the view are in use: unmap objects.
    OutOfSlots,
    /// The object has used all of its FOT entries.
    OutOfFotEntries(ObjectId),
    /// Another transaction holds the object, and waiting could deadlock: end this one and try again.
    Busy(ObjectId),
    /// The thread that holds a lock has ended without freeing it, as a program does that panics or is killed: what the lock guards may be half changed.
    /// The next boot frees it, or whoever knows what to do about that ([`crate::sync::Mutex::take_over`]).
    HolderEnded {
        /// The object.
        object: ObjectId,
        /// Where in it the lock is, in bytes.
        offset: u32,
    },
    /// The transaction was aborted by the program.
    Aborted,
    /// The transaction has failed already and can only end.
    TransactionFailed,
    /// The other end of a channel or stream is gone, or it was closed.
    Closed,
    /// Nothing there now, and the caller did not want to wait.
    WouldBlock,
    /// The time was up.
    TimedOut,
    /// The platform refused: the operation and its error number.
    Platform {
        /// What was tried.
        operation: &'static str,
        /// The platform's number (hosted: errno; guest: [`twz_abi::ErrorCode`]).
        code: i32,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Damaged { object, offset, expected } => {
                write!(f, "object {object} is damaged at {offset:#x}: expected {expected}")
            }
            Self::BadPointer { object, pointer, expected } => write!(
                f,
                "pointer {}:{:#x} in object {object} leads nowhere: expected {expected}",
                pointer.index(),
                pointer.offset()
            ),
            Self::WrongType { object, expected, found } => write!(
                f,
                "object {object} holds type {found:016x}, not {expected:016x}: open it as that, or use another name or object for the new type"
            ),
            Self::NotInObject { address } => write!(f, "address {address:#x} is in no mapped object"),
            Self::NoSuchObject(id) => write!(f, "there is no object {id}"),
            Self::NotPermitted(id) => write!(
                f,
                "the security context does not permit object {id}, or it is mapped for reading: grant a capability, or the object default rights, and open it with them"
            ),
            Self::Unrecovered(id) => write!(
                f,
                "a power failure left object {id} in the middle of a change: a program with the right to write it must open it first"
            ),
            Self::NoSuchName => f.write_str("the name leads to nothing"),
            Self::NameExists => f.write_str("the name is taken"),
            Self::BadName => f.write_str("not a name: empty, too long, or with a NUL or slash in it"),
            Self::OutOfSpace(id) => write!(f, "no space left for object {id}"),
            Self::TooLarge { bytes } => write!(f, "no object can hold a piece of {bytes} bytes"),
            Self::Chained(id) => {
                write!(f, "object {id} goes on in another one: copy what is in it, not the object")
            }
            Self::OutOfSlots => f.write_str("the view is full: unmap objects that are no longer used"),
            Self::OutOfFotEntries(id) => write!(f, "object {id} has used all of its FOT entries"),
            Self::HolderEnded { object, offset } => write!(
                f,
                "the lock at {offset:#x} of object {object} is held by a thread that has ended: start the machine again, which frees it"
            ),
            Self::Busy(id) => write!(f, "object {id} is in another transaction: end this one and try again"),
            Self::Aborted => f.write_str("the transaction was aborted"),
            Self::TransactionFailed => f.write_str("the transaction failed before: it can only end"),
            Self::Closed => f.write_str("the other end is closed"),
            Self::WouldBlock => f.write_str("nothing there now"),
            Self::TimedOut => f.write_str("time is up"),
            Self::Platform { operation, code } => {
                write!(f, "{operation} failed: ")?;
                crate::sys::describe(code, f)
            }
        }
    }
}

impl core::error::Error for Error {}
