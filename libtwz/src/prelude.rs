//! What most programs want: `use libtwz::prelude::*;`.
//!
//! With it go the parts of std's prelude that a `#![no_std]` program lacks, so that the same source builds on every platform.

/// `collections::String` and the like stand in objects; plain `String` and `Vec` are std's.
pub use crate::collections;
pub use crate::console::{eprint, eprintln, print, println};
pub use crate::{
    Error, GlobalPtr, InvPtr, Invariant, Object, ObjectBuilder, ObjectId, PCell, Result, Rights, Tx, TxObject,
};
pub use alloc::borrow::ToOwned;
pub use alloc::boxed::Box;
pub use alloc::format;
pub use alloc::string::{String, ToString};
pub use alloc::vec;
pub use alloc::vec::Vec;
