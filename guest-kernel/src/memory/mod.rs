//! Kernel memory: frames, records carved from frames, page tables.

pub(crate) mod chains;
pub(crate) mod chunks;
pub(crate) mod frames;
pub(crate) mod slab;
pub(crate) mod table;
