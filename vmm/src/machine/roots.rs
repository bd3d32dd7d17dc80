//! Roots of a machine: made when a context needs one, entered by harts.
//!
//! # Contract
//! - A root's number is never used again. A hart holds an `Arc` of every root that it has a vCPU in, so a root, and the address space of its
//!   windows, outlives its vCPUs.
//! - A root that was *retired* is never entered again; harts drop their vCPUs of it when they next change roots.

use ept_contexts::{Ram, Root, RootError, Window, WindowSlot};
use kvm_ioctls::{Kvm, VcpuFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use vm_memory::GuestMemoryMmap;

/// A root that harts share.
#[derive(Debug)]
pub(super) struct RootCell {
    number: u64,
    root: Mutex<Root>,
    retired: AtomicBool,
}

impl RootCell {
    /// Its number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether it will not be entered again.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Nobody enters it again.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Shows a window to it.
    pub(super) fn add_window(&self, window: &Window) -> Result<WindowSlot, RootError> {
        self.lock().add_window(window)
    }

    /// Takes a window away.
    pub(super) fn remove_window(&self, slot: WindowSlot) -> Result<(), RootError> {
        self.lock().remove_window(slot)
    }

    /// Makes the vCPU of a hart.
    pub(super) fn create_vcpu(&self, hart: u32) -> Result<VcpuFd, RootError> {
        self.lock().create_vcpu(hart)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Root> {
        self.root.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes roots.
pub(super) struct RootMaker {
    kvm: Kvm,
    memory: GuestMemoryMmap,
    ram: Ram,
    made: AtomicU64,
}

impl RootMaker {
    /// Of a machine with this RAM, whose host address and size `ram` gives.
    pub(super) fn new(kvm: Kvm, memory: GuestMemoryMmap, ram: Ram) -> Self {
        Self { kvm, memory, ram, made: AtomicU64::new(0) }
    }

    /// Makes a root that shows RAM and nothing else.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn make(&self) -> Result<RootCell, RootError> {
        debug_assert!(vm_memory::GuestMemoryBackend::num_regions(&self.memory) > 0);
        // SAFETY: `memory` is held here and in `Shared`, which harts with their vCPUs and roots hold or are joined before; RAM is
        // accessed through vm-memory's volatile accessors only.
        let root = unsafe { Root::new(&self.kvm, self.ram) }?;
        let number = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(RootCell { number, root: Mutex::new(root), retired: AtomicBool::new(false) })
    }

    /// Roots made so far.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }
}
