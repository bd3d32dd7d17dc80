//! Roots: KVM virtual machines that share kernel RAM.

use crate::alias::Reservation;
use crate::window::Window;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use std::sync::Arc;

const RAM_SLOT: u32 = 0;
const FIRST_WINDOW_SLOT: u32 = 1;

/// Kernel RAM, mapped by its owner for as long as any root exists.
#[derive(Clone, Copy, Debug)]
pub struct Ram {
    /// Host address of guest-physical 0.
    pub host_address: u64,
    /// Bytes.
    pub bytes: u64,
}

/// KVM refused to make a root.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed")]
pub struct RootError {
    /// The ioctl.
    pub call: &'static str,
    /// Why.
    #[source]
    pub source: kvm_ioctls::Error,
}

impl RootError {
    /// Whether the process, or the host, has no descriptor left.
    #[must_use]
    pub fn is_out_of_descriptors(&self) -> bool {
        matches!(self.source.errno(), libc::EMFILE | libc::ENFILE)
    }
}

/// A memslot of a root that shows a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSlot(usize);

/// A virtual machine: one second-stage root. It keeps the address space of every window that it shows reserved, so that a vCPU that
/// outlives a context can never reach what the host puts there next: vCPUs must not outlive their root.
pub struct Root {
    vm: VmFd,
    windows: Vec<Option<Arc<Reservation>>>,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root").field("windows", &self.windows.len()).finish_non_exhaustive()
    }
}

impl Root {
    /// Makes a root that sees `ram` at guest-physical 0 and nothing else.
    ///
    /// # Errors
    /// [`RootError`] names the ioctl that failed.
    ///
    /// # Safety
    /// `ram` must stay mapped until the root and its vCPUs are gone, and the host must reach it only by accesses that tolerate a
    /// guest's writing at the same time.
    pub unsafe fn new(kvm: &Kvm, ram: Ram) -> Result<Self, RootError> {
        let vm = kvm.create_vm().map_err(|source| RootError { call: "KVM_CREATE_VM", source })?;
        let root = Self { vm, windows: Vec::new() };
        // SAFETY: the caller's promise about `ram`.
        unsafe { root.set_slot(RAM_SLOT, 0, ram.host_address, ram.bytes) }?;
        Ok(root)
    }

    /// Shows a window to this root, in one static memslot.
    ///
    /// # Errors
    /// [`RootError`], for instance when the window does not fit the physical addresses of this host.
    pub fn add_window(&mut self, window: &Window) -> Result<WindowSlot, RootError> {
        let (host_address, bytes) = window.host_range();
        let free = self.windows.iter().position(Option::is_none);
        let index = free.unwrap_or(self.windows.len());
        // SAFETY: the alias is a reservation of its own, kept in `windows` until the slot or the root is gone.
        unsafe { self.set_slot(slot_number(index), window.base(), host_address, bytes) }?;
        let kept = Some(window.reservation());
        match free {
            Some(index) => self.windows[index] = kept,
            None => self.windows.push(kept),
        }
        Ok(WindowSlot(index))
    }

    /// Takes a window away. Nothing in it can be reached through this root when it returns.
    ///
    /// # Errors
    /// [`RootError`]; the window's address space then stays reserved as long as the root.
    pub fn remove_window(&mut self, slot: WindowSlot) -> Result<(), RootError> {
        // SAFETY: deletes a slot; no memory is shown.
        unsafe { self.set_slot(slot_number(slot.0), 0, 0, 0) }?;
        if let Some(kept) = self.windows.get_mut(slot.0) {
            *kept = None;
        }
        Ok(())
    }

    /// # Safety
    /// The host memory must stay mapped, or reserved, until the slot is changed or root and vCPUs are gone; and nobody else may rely on
    /// its contents.
    unsafe fn set_slot(&self, slot: u32, guest: u64, host: u64, bytes: u64) -> Result<(), RootError> {
        let region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: guest,
            memory_size: bytes,
            userspace_addr: host,
            flags: 0,
        };
        // SAFETY: the caller's promise.
        unsafe { self.vm.set_user_memory_region(region) }
            .map_err(|source| RootError { call: "KVM_SET_USER_MEMORY_REGION", source })
    }

    /// Makes the vCPU that hart `hart` enters this root with.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn create_vcpu(&self, hart: u32) -> Result<VcpuFd, RootError> {
        self.vm.create_vcpu(u64::from(hart)).map_err(|source| RootError { call: "KVM_CREATE_VCPU", source })
    }
}

fn slot_number(index: usize) -> u32 {
    FIRST_WINDOW_SLOT.saturating_add(u32::try_from(index).unwrap_or(u32::MAX))
}
