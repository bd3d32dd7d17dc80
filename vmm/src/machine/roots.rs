//! Roots of a machine: made when a context needs one, entered by harts.
//!
//! # Contract
//! - A root's number is never used again. A hart holds an `Arc` of the root that it is in; the vCPUs of harts that have left it wait in the
//!   root. So a root, and the address space of its windows, outlives its vCPUs.
//! - A root that was *retired* is never entered again. Its vCPUs, and their descriptors, are gone when [`RootCell::retire`] returns, but for
//!   those of harts that are in it: theirs go when they leave.

use super::kvm_stats::KvmTotals;
use ept_contexts::{Ram, Root, RootError, Window, WindowSlot};
use kvm_ioctls::{Kvm, VcpuFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use vm_memory::GuestMemoryMmap;

/// A root that harts share.
pub(super) struct RootCell {
    number: u64,
    /// The vCPUs of harts that were in it and are elsewhere: each waits behind its last exit. `None` once it is retired.
    waiting: Mutex<Option<Vec<(u32, VcpuFd)>>>,
    // Behind the vCPUs, which must not outlive it.
    root: Mutex<Root>,
    stats: Arc<KvmTotals>,
}

impl std::fmt::Debug for RootCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootCell").field("number", &self.number).finish_non_exhaustive()
    }
}

impl RootCell {
    /// Its number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Nobody enters it again.
    pub(super) fn retire(&self) {
        let waiting = self.lock_waiting().take();
        for (hart, vcpu) in waiting.into_iter().flatten() {
            self.end(hart, vcpu);
        }
    }

    /// The vCPU with which `hart` left it, if it has been here.
    pub(super) fn enter(&self, hart: u32) -> Option<VcpuFd> {
        let mut waiting = self.lock_waiting();
        let waiting = waiting.as_mut()?;
        let at = waiting.iter().position(|(other, _)| *other == hart)?;
        Some(waiting.swap_remove(at).1)
    }

    /// `hart` goes elsewhere, and its vCPU stays; if the root was retired, it goes.
    pub(super) fn leave(&self, hart: u32, vcpu: VcpuFd) {
        match self.lock_waiting().as_mut() {
            Some(waiting) => waiting.push((hart, vcpu)),
            None => self.end(hart, vcpu),
        }
    }

    fn end(&self, hart: u32, vcpu: VcpuFd) {
        self.stats.end(self.number, hart);
        drop(vcpu);
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

    fn lock_waiting(&self) -> std::sync::MutexGuard<'_, Option<Vec<(u32, VcpuFd)>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes roots.
pub(super) struct RootMaker {
    kvm: Kvm,
    memory: GuestMemoryMmap,
    ram: Ram,
    stats: Arc<KvmTotals>,
    made: AtomicU64,
}

impl RootMaker {
    /// Of a machine with this RAM, whose host address and size `ram` gives.
    pub(super) fn new(kvm: Kvm, memory: GuestMemoryMmap, ram: Ram) -> Self {
        Self { kvm, memory, ram, stats: Arc::default(), made: AtomicU64::new(0) }
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
        let (waiting, stats) = (Mutex::new(Some(Vec::new())), Arc::clone(&self.stats));
        Ok(RootCell { number, waiting, root: Mutex::new(root), stats })
    }

    /// Roots made so far.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// What KVM counts of all vCPUs.
    pub(super) fn stats(&self) -> Arc<KvmTotals> {
        Arc::clone(&self.stats)
    }
}
