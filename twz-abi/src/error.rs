//! Why a system call or a hypercall failed: one set of codes for both, so that none is lost in translation.

use crate::hypercall::numbered;

numbered! {
    /// A failure, as returned in RAX by a system call and in `Mailbox::status` by a hypercall; 0 is success.
    pub enum ErrorCode: u32 {
        /// No such call.
        NoSuchCall = 1,
        /// An argument is out of its documented range.
        BadArgument = 2,
        /// A pointer does not lead to memory that the thread may use in the way the call needs.
        BadAddress = 3,
        /// No object has this ID, or the context may not know.
        NoObject = 4,
        /// The context's rights do not allow it.
        NotPermitted = 5,
        /// The pool has no room.
        PoolFull = 6,
        /// The kernel has no memory for it.
        NoMemory = 7,
        /// The object space of the context is full of objects in use.
        WindowFull = 8,
        /// It exists already.
        Exists = 9,
        /// No such name.
        NoName = 10,
        /// The offset is outside of what the object may hold.
        BadOffset = 11,
        /// The time given has passed.
        TimedOut = 12,
        /// The word did not hold the expected value.
        WouldBlock = 13,
        /// The pool's medium failed (an I/O error, or its file was truncated).
        Medium = 14,
        /// No such thread.
        NoThread = 15,
        /// The object is in use in a way that forbids it.
        Busy = 16,
        /// The object is no security context, or has no such gate.
        BadContext = 17,
        /// The callee of a gate faulted, ended or was taken away before it returned.
        CalleeFailed = 18,
        /// The context's table has no slot for a capability to that object, however large: of no call, but of who edits contexts.
        TableFull = 19,
    }
}

impl core::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoSuchCall => "no such call",
            Self::BadArgument => "an argument is out of range",
            Self::BadAddress => "a pointer leads to memory that the thread may not use so",
            Self::NoObject => "no such object",
            Self::NotPermitted => "the security context does not permit it",
            Self::PoolFull => "the pool is full",
            Self::NoMemory => "the kernel is out of memory",
            Self::WindowFull => "the context's object space is full",
            Self::Exists => "it exists already",
            Self::NoName => "no such name",
            Self::BadOffset => "the offset is outside of the object",
            Self::TimedOut => "timed out",
            Self::WouldBlock => "the word has another value",
            Self::Medium => "the pool's medium failed",
            Self::NoThread => "no such thread",
            Self::Busy => "in use",
            Self::BadContext => "no security context, or no such gate",
            Self::CalleeFailed => "the callee of the gate failed",
            Self::TableFull => "the context has no slot left for capabilities to that object: remove one",
        })
    }
}

impl core::error::Error for ErrorCode {}
