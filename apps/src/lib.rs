//! Programs that run on Twizzler; each is a file or folder in `src/bin`, an example to learn from. What several of them need is here.
#![no_std]

extern crate alloc;

pub mod compartment;
pub mod context_object;
pub mod guard;
pub mod keys;
pub mod launch;
pub mod line;
pub mod logger;
pub mod mapped;
pub mod options;
pub mod probe;
pub mod record_log;
pub mod words;
