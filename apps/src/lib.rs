//! Programs that run on Twizzler; each is a file or folder in `src/bin`, an example to learn from. What several of them need is here.
#![no_std]

pub mod probe;
