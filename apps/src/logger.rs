//! Logging through `logboi`: what a program that wants to say something links (paper §4.4).
//!
//! A client shares one object with the service and nothing else:
//! ```text
//! 0x1000  message: the text of a call, or a record that was read
//! 0x2000  StreamHeader: records sent, and taken, so far
//! 0x3000  SLOTS entries of SLOT_BYTES: length u32, level u32, text
//! ```
//! # Contract
//! - [`Logger::log`] is a call of a gate: the thread itself enters the service's context, and the record is durable when it returns.
//! - [`Logger::send`] leaves the record in the shared stream, from where the service takes it when it can; [`Logger::flush`] waits until all
//!   that were sent are durable.
//! - Who said it is what the kernel tells the service about the caller, never what the client says.

use crate::mapped::{Mapped, volatile_object};
use crate::record_log::{Record, TEXT_MAX};
use alloc::string::String;
use alloc::vec;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};
use sec::ObjectBytes;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::view::SLOT_SIZE;
use twz_rt::abi::{ErrorCode, ObjectId};
use twz_rt::context::gate_call;
use twz_rt::{sync, syscall, view};

/// Name of the service's context.
pub const SERVICE: &str = "context/logboi";

/// Gates of the service. What is numbered before [`gates::READ`] is for every client.
pub mod gates {
    /// Returns the ID of the key object with which a client creates the object that it shares; null while the service is not ready.
    pub const KEY: u32 = 0;
    /// Shares the object with the ID (first, second word). Returns 0 and the client's number, or an error's number.
    pub const CONNECT: u32 = 1;
    /// Logs the message of client (first word), of (second) bytes, with level (third). Returns 0, or an error's number.
    pub const LOG: u32 = 2;
    /// Takes everything that client (first word) sent. Returns 0, or an error's number.
    pub const FLUSH: u32 = 3;
    /// Shares no longer. Takes the client's number.
    pub const DISCONNECT: u32 = 4;
    /// Puts the record at a position (second word) into the object of client (first word). Returns 0 and where the next one is (0 at the
    /// end), or an error's number. Not for clients: it needs a capability of its own.
    pub const READ: u32 = 5;
    /// How many there are.
    pub const COUNT: u32 = 6;
}

/// How long the service may leave a full stream as it is, in nanoseconds: far longer than it takes on the slowest host.
pub const PATIENCE: u64 = 20_000_000_000;

/// Where a message stands in the shared object.
pub const MESSAGE: u64 = DATA_OFFSET;
/// Where the stream's header stands.
pub const STREAM: u64 = DATA_OFFSET + 0x1000;
/// Where the stream's entries stand.
pub const ENTRIES: u64 = DATA_OFFSET + 0x2000;
/// Entries of the stream.
pub const SLOTS: u32 = 64;
/// Bytes of an entry.
pub const SLOT_BYTES: u64 = 2048;
/// Bytes before an entry's text, and before the text of a record that was read.
pub const ENTRY_HEAD: u64 = 8;
/// Bytes before the text of a record in the message area: length and level, time, sender.
pub const RECORD_HEAD: u64 = 32;

/// What client and service tell each other about the stream. Each word is on a cache line of its own.
#[repr(C)]
pub struct StreamHeader {
    /// Records sent so far, modulo 2^32; the client's.
    pub sent: AtomicU32,
    _pad0: [u32; 15],
    /// Records taken so far; the service's.
    pub taken: AtomicU32,
    _pad1: [u32; 15],
    /// The service sleeps until `sent` changes; the service's.
    pub sleeps: AtomicU32,
    _pad2: [u32; 15],
}

/// Where a word of the header stands.
pub const SENT: u64 = STREAM + offset_of!(StreamHeader, sent) as u64;
/// Likewise.
pub const TAKEN: u64 = STREAM + offset_of!(StreamHeader, taken) as u64;
/// Likewise.
pub const SLEEPS: u64 = STREAM + offset_of!(StreamHeader, sleeps) as u64;

/// A connection to the service.
#[derive(Debug)]
pub struct Logger {
    service: ObjectId,
    /// What the service knows us by.
    pub number: u64,
    /// The object that is shared.
    pub shared: ObjectId,
    bytes: Mapped,
}

impl Logger {
    /// Connects to the service that [`SERVICE`] names.
    ///
    /// # Errors
    /// [`ErrorCode::NoName`] if there is none; [`ErrorCode::Busy`] if it is not ready yet, or has too many clients; [`ErrorCode::NotPermitted`] if this context may not call it; what a gate's call says if it
    /// does not run.
    pub fn connect() -> Result<Self, ErrorCode> {
        let service = syscall::name_get(SERVICE)?;
        let (lo, hi) = gate_call(service, gates::KEY, [0; 3])?;
        let key = ObjectId { lo, hi };
        if key.is_null() {
            return Err(ErrorCode::Busy);
        }
        let shared = volatile_object(key)?;
        let bytes = Mapped::of(shared)?;
        let number = answer(gate_call(service, gates::CONNECT, [shared.lo, shared.hi, 0]))?;
        Ok(Self { service, number, shared, bytes })
    }

    /// Logs `text` (cut to [`TEXT_MAX`] bytes); durable when it returns.
    ///
    /// # Errors
    /// What the gate's call or the service says.
    pub fn log(&self, level: u32, text: &str) -> Result<(), ErrorCode> {
        let text = cut(text);
        self.bytes.write_words(MESSAGE, text.as_bytes());
        let words = [self.number, text.len() as u64, u64::from(level)];
        answer(gate_call(self.service, gates::LOG, words)).map(drop)
    }

    /// Leaves `text` (cut to [`TEXT_MAX`] bytes) in the stream; waits only if the stream is full, and at most [`PATIENCE`].
    ///
    /// # Errors
    /// As [`Logger::send_within`].
    pub fn send(&self, level: u32, text: &str) -> Result<(), ErrorCode> {
        self.send_within(level, text, PATIENCE)
    }

    /// As [`Logger::send`]; a full stream of which nothing is taken for so many nanoseconds is an error.
    ///
    /// # Errors
    /// [`ErrorCode::TimedOut`]: the service is not there any more, or does not come to it. The record was not sent.
    pub fn send_within(&self, level: u32, text: &str, nanoseconds: u64) -> Result<(), ErrorCode> {
        let text = cut(text);
        let header = self.header();
        let sent = header.sent.load(Ordering::Relaxed);
        let mut last = (sent, 0); // what was taken, and since when
        loop {
            let taken = header.taken.load(Ordering::Acquire);
            if sent.wrapping_sub(taken) < SLOTS {
                break;
            }
            // Each one that is taken shows that the service lives.
            let now = syscall::clock()?.0;
            if last.0 != taken {
                last = (taken, now);
            }
            let left = nanoseconds.saturating_sub(now.saturating_sub(last.1));
            if left == 0 {
                return Err(ErrorCode::TimedOut);
            }
            // Woken, or changed meanwhile: look again.
            let _ = sync::wait(&header.taken, taken, left);
        }
        let entry = ENTRIES + u64::from(sent % SLOTS) * SLOT_BYTES;
        self.bytes.set_word(entry, text.len() as u64 | u64::from(level) << 32);
        self.bytes.write_words(entry + ENTRY_HEAD, text.as_bytes());
        // With the service's order (sleeps, then sent) one of the two sees the other.
        header.sent.store(sent.wrapping_add(1), Ordering::SeqCst);
        if header.sleeps.load(Ordering::SeqCst) != 0 {
            // Fails only without memory, which is there.
            let _ = sync::wake(&header.sent, 1);
        }
        Ok(())
    }

    /// Waits until everything that was sent is durable.
    ///
    /// # Errors
    /// As [`Logger::log`].
    pub fn flush(&self) -> Result<(), ErrorCode> {
        answer(gate_call(self.service, gates::FLUSH, [self.number, 0, 0])).map(drop)
    }

    /// The record at `position` (0: the oldest) and where the next one is; `None` at the end.
    ///
    /// # Errors
    /// [`ErrorCode::NotPermitted`] if this context may not read the log.
    pub fn read(&self, position: u64) -> Result<Option<(Record, u64)>, ErrorCode> {
        let next = answer(gate_call(self.service, gates::READ, [self.number, position, 0]))?;
        if next == 0 {
            return Ok(None);
        }
        let word = |index: u64| self.bytes.word(MESSAGE + index * 8);
        let length = usize::try_from(word(0) & 0xffff_ffff).unwrap_or(TEXT_MAX).min(TEXT_MAX);
        let mut text = vec![0; length];
        self.bytes.read(MESSAGE + RECORD_HEAD, &mut text);
        let record = Record {
            level: u32::try_from(word(0) >> 32).unwrap_or(0),
            time: word(1),
            sender: ObjectId { lo: word(2), hi: word(3) },
            text: String::from_utf8_lossy(&text).into_owned(),
        };
        Ok(Some((record, next)))
    }

    fn header(&self) -> &StreamHeader {
        let at = self.bytes.0.wrapping_add(usize::try_from(STREAM).unwrap_or_default());
        // SAFETY: the object stays mapped as long as `self`, the offset is aligned; all fields are atomics, so others may change them.
        unsafe { &*at.cast::<StreamHeader>() }
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        // A service that is gone shares nothing.
        let _ = gate_call(self.service, gates::DISCONNECT, [self.number, 0, 0]);
        // SAFETY: nothing refers to the object any more.
        let unmapped = unsafe { view::unmap(self.bytes.0 as u64 / SLOT_SIZE) };
        debug_assert!(unmapped.is_ok(), "the slot exists");
        // Volatile: at the latest it goes with the machine.
        let _ = syscall::object_delete(self.shared);
    }
}

/// What the service answered: an error's number in the first word, or 0 and the second word.
fn answer(returned: Result<(u64, u64), ErrorCode>) -> Result<u64, ErrorCode> {
    let (status, value) = returned?;
    match u32::try_from(status).map(ErrorCode::try_from) {
        Ok(Ok(error)) => Err(error),
        _ => Ok(value),
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_MAX)]
}
