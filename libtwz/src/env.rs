//! Arguments and environment, with `std::env`'s shape.
//!
//! In the guest they are what `twzvmm` was given: `twzvmm --env NAME=VALUE … -- PROGRAM ARGUMENTS`.

#[cfg(not(feature = "guest"))]
pub use std::env::{Args, VarError, Vars, args, var, vars};

#[cfg(feature = "guest")]
pub use crate::sys::guest::env::{Args, VarError, Vars, args, var, vars};
