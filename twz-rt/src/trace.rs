//! Tells a machine that runs for crash tests of every flush and fence; see [`pmem::trace`].

use crate::{Args, syscall};
use core::panic::Location;
pub use pmem::trace::Traced;
use pmem::trace::set_witness;

/// Begins, if the machine wants to be told.
pub fn begin(arguments: &Args) {
    if arguments.is_traced() {
        set_witness(tell);
    }
}

/// Tells it.
pub fn tell(event: Traced, site: &'static Location<'static>) {
    // A machine that asked for it does not refuse; if it did, there would be nobody to tell.
    let _ = syscall::pmem_trace(event, site.file(), site.line());
}
