//! The history: earlier lines, in an object of the shell's context.

use alloc::string::String;
use alloc::vec::Vec;
use apps::mapped::BOTH;
use apps::record_log::RecordLog;
use pmem::Native;
use twz_rt::abi::object::DATA_OFFSET;
use twz_rt::abi::syscall::CreateSpec;
use twz_rt::abi::{ErrorCode, ObjectId};
use twz_rt::{syscall, view};

const NAME: &str = "twsh/history";
/// Bytes kept; the oldest lines go.
const BYTES: u64 = 64 * 1024;

/// An object with earlier lines.
pub(crate) struct History(RecordLog<Native>);

impl History {
    /// The shell's history; `None` if its object is not ours to use.
    pub(crate) fn open() -> Option<Self> {
        let id = match syscall::name_get(NAME) {
            Err(ErrorCode::NoName) => {
                // The creating context's alone: what is typed may be secret.
                let id = syscall::object_create(&CreateSpec::default()).ok()?;
                syscall::name_set(id, NAME).ok()?;
                id
            }
            found => found.ok()?,
        };
        if !syscall::object_stat(id).ok()?.granted().contains(BOTH) {
            return None;
        }
        let base = view::map_anywhere(id, BOTH)?.wrapping_add(usize::try_from(DATA_OFFSET).ok()?);
        // SAFETY: the slot maps an object with room for that, for good; nothing refers to its memory.
        let memory = unsafe { Native::new(base, BYTES) };
        RecordLog::open(memory).ok().map(Self)
    }

    /// All lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.records().map(|record| record.text).collect()
    }

    /// Adds a line; a line that cannot be kept is only forgotten.
    pub(crate) fn add(&self, line: &str) {
        let time = syscall::clock().map_or(0, |(_, time)| time);
        let _ = self.0.append(0, time, ObjectId::NULL, line.as_bytes());
    }
}
