//! The processor: entries and exits, descriptor tables, control registers, vector state, copies to and from programs.

pub(crate) mod cpu;
pub(crate) mod entry;
pub(crate) mod fpu;
pub(crate) mod tables;
pub(crate) mod usercopy;
