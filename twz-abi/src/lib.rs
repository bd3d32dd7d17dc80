//! The contract between `twzvmm`, the guest kernel and programs: layouts, numbers, nothing else.
//!
//! # Contract
//! - `no_std`, no behaviour beyond parsing, depends on nothing of ours.
//! - Every shared structure is `repr(C)`, little-endian, free of implicit padding, and asserted by size and
//!   offset where it is defined.
//! - Bytes that come from the other side are claims: they become values through `TryFrom` or a zerocopy read,
//!   never by a cast.
//! - Numbers are never reused. Any change to this crate that the other side can see bumps [`ABI_VERSION`].
#![no_std]
#![forbid(unsafe_code)]

pub mod boot;
pub mod call;
pub mod counters;
pub mod error;
pub mod fault;
pub mod hypercall;
pub mod id;
pub mod object;
pub mod program;
pub mod ptr;
pub mod resume;
pub mod rights;
pub mod sec;
pub mod sync;
pub mod syscall;
pub mod thread;
pub mod view;

pub use error::ErrorCode;
pub use id::ObjectId;
pub use ptr::PersistentPtr;
pub use rights::Rights;

/// Version of everything in this crate; stamped into the kernel image and checked by `twzvmm` at load.
pub const ABI_VERSION: u32 = 5;

/// Bytes in a page: the unit of demand allocation and of first-stage mappings.
pub const PAGE_SIZE: u64 = 4096;
/// [`PAGE_SIZE`] as a length in memory.
pub const PAGE_BYTES: usize = 4096;

/// Asserts, at compile time, the offset of a field of a shared structure.
#[macro_export]
macro_rules! assert_layout {
    ($type:ty, size = $size:expr $(, $field:ident = $offset:expr)* $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$type>() == $size);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)*
        };
    };
}
