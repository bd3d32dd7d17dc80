//! What programs on Twizzler link: objects, pointers that never die, transactions, and what is built from them.
//!
//! ```
//! use libtwz::prelude::*;
//!
//! #[derive(Invariant)]
//! #[repr(C)]
//! struct Counter { starts: PCell<u64> }
//!
//! let counter = ObjectBuilder::new().build(Counter { starts: PCell::new(0) })?;
//! counter.tx(|tx| tx.set(&counter.starts, counter.starts.get() + 1))?;
//! assert_eq!(Object::<Counter>::open(counter.id())?.starts.get(), 1);
//! # Ok::<(), libtwz::Error>(())
//! ```
//!
//! # Contract
//! - No `&mut` leads into an object: what changes is a [`PCell`], an [`InvPtr`] or a collection, and changes through a
//!   transaction. So many threads and programs may hold references, and a damaged or hostile object
//!   yields an [`Error`] or nonsense values, never an access outside it.
//! - The same code runs in the guest (feature `guest`) and in a Linux process (feature `hosted`, the default): `sys` is
//!   the only difference.
//! - `unsafe` stands in: `window`, `cell`, `ptr`, `cursor`, `object`, `spill`, `view`, `translate`, `persist`, `resume`, `rt`, `tags`, `tx`,
//!   `sync`, `sys`, and in `invariant`, where types are said to have no invalid bit patterns (`io::event` says so of one). Collections and
//!   names call [`Tx::free`] and `Tx::free_raw`; beyond that `collections::btree` reads the two words that all nodes begin with, and
//!   `collections::hash_map` looks at an entry as bytes.
#![cfg_attr(feature = "guest", no_std)]

extern crate alloc;
extern crate self as libtwz;
#[cfg(all(feature = "hosted", not(feature = "guest")))]
extern crate std;

pub mod arena;
mod cell;
pub mod collections;
pub mod console;
mod cursor;
pub mod env;
mod error;
pub mod fot;
pub mod gate;
pub mod invariant;
pub mod io;
mod line;
mod lock;
pub mod names;
mod object;
pub mod persist;
pub mod prelude;
mod ptr;
pub mod random;
pub mod resume;
pub mod rt;
pub mod simulate;
mod spill;
pub mod sync;
pub mod sys;
pub mod tags;
pub mod thread;
pub mod time;
pub mod translate;
pub mod tx;
pub mod view;
mod window;

pub use cell::PCell;
pub use cursor::Cursor;
pub use error::{Error, Result};
pub use invariant::Invariant;
pub use libtwz_derive::{main, resume};
pub use object::{Object, ObjectBuilder, TxObject, discard};
pub use ptr::{GlobalPtr, InvPtr, at, follow};
/// Translation under the paper's name (§3.3); [`InvPtr::get`] does this with a type and checks.
pub use translate::lea as ptr_lea;
/// The making of a pointer under the paper's name (§3.3); [`Tx::point`] does this and stores the pointer as a part of a transaction.
pub use translate::persistent as ptr_store;
pub use twz_abi::{ObjectId, PersistentPtr, Rights};
pub use tx::Tx;
pub use window::Window;

/// Ends the program with an exit status, of which the low byte counts, as `std::process::exit` does. In the guest, a thread that is not the
/// program's first ends the whole machine so.
pub fn exit(code: i32) -> ! {
    <sys::Platform as sys::Seam>::exit(code)
}
