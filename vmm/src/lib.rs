//! `twzvmm`: it owns the persistent memory, decides every right, and runs the guest on KVM.
//!
//! The binary is a thin shell around this library; see [`machine`] for the life of a machine.

pub mod bus_error;
pub mod control;
pub mod machine;
pub mod power_cut;
pub mod resume;
