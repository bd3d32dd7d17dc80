//! A pool on a shadow of its medium, for power failures of a running system (see [`pmem::shadow`]).
//!
//! The shadow is memory that goes with this process; the medium gets what is durable, so it can be opened again whatever happens.

use super::{Durability, Mapped, Storing};
use crate::error::{Error, Result};
use crate::format::index;
use pmem::shadow::{Plan, Shadow};
use pmem::{Native, Pmem};
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

impl Mapped {
    /// Puts a shadow before the medium.
    pub(crate) fn shadowed(mut self, plan: Plan) -> Result<Self> {
        let failed = |action| {
            let path = self.path.clone();
            move |error: rustix::io::Errno| Error::Io { action, path, source: error.into() }
        };
        let size = self.region.len();
        let fd = rustix::fs::memfd_create("twz-shadow", MemfdFlags::CLOEXEC).map_err(failed("shadow"))?;
        rustix::fs::ftruncate(&fd, size).map_err(failed("shadow"))?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            rustix::mm::mmap(core::ptr::null_mut(), index(size), protection, MapFlags::SHARED, &fd, 0)
        };
        let base = base.map_err(failed("shadow"))?;
        // SAFETY: D1, the mapping lives until `drop`; page-aligned; never used as a reference.
        let region = unsafe { Native::new(base.cast(), size) };
        let medium = std::mem::replace(&mut self.region, region);
        self.below = Some((medium, std::mem::replace(&mut self.fd, fd)));
        self.storing = Storing::Shadow(Box::new(Shadow::new(region, medium, plan)));
        // What the shadow stands for.
        self.durability = Durability::Dax;
        Ok(self)
    }

    /// The shadow, if there is one.
    #[must_use]
    pub fn shadow(&self) -> Option<&Shadow> {
        match &self.storing {
            Storing::Shadow(shadow) => Some(shadow),
            _ => None,
        }
    }
}
