//! Security contexts as second-stage page tables.
//!
//! # Contract
//! - A [`Root`] is a KVM virtual machine, thus one EPT/NPT root. Kernel RAM is common to all roots; object space is the root's own
//!   [`Window`].
//! - A window's memory is an *alias*: host virtual memory that holds what the monitor mapped there and nothing else. KVM builds
//!   second-stage entries from exactly that and drops them synchronously when it changes (MMU notifier), so taking a mapping away is
//!   complete on every hart when the call returns.
//! - **I1 leased**: whoever maps an extent of the pool keeps it leased until the mapping is gone.
//! - **I2 inside**: a mapping never reaches outside of the alias's reservation.
//!
//! One static memslot per window: read-only and missing memslots are wrong for rights (accesses become emulated MMIO, `lock` loses
//! atomicity), and changing memslots costs up to milliseconds. Rights are the protection of the alias.

mod alias;
mod context;
mod root;
mod window;

pub use alias::{Alias, AliasError, Protection, Reservation};
pub use context::{Bound, Context, Narrowing, ShowError, Touched};
pub use root::{Ram, Root, RootError, WindowSlot};
pub use window::{CHUNK_SIZE, Chunk, Window};
