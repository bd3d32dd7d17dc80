//! Programs that run on Twizzler; each is a file in `src/bin`, an example to learn from.
#![no_std]
