//! Roots: KVM virtual machines that share kernel RAM.

use crate::window::Window;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

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

/// A virtual machine: one second-stage root.
pub struct Root {
    vm: VmFd,
    window_slots: u32,
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
        let region = kvm_userspace_memory_region {
            slot: RAM_SLOT,
            guest_phys_addr: 0,
            memory_size: ram.bytes,
            userspace_addr: ram.host_address,
            flags: 0,
        };
        // SAFETY: the caller's promise about `ram`.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(|source| RootError { call: "KVM_SET_USER_MEMORY_REGION", source })?;
        Ok(Self { vm, window_slots: 0 })
    }

    /// Shows a window to this root, in one static memslot.
    ///
    /// # Errors
    /// [`RootError`], for instance when the window does not fit the physical addresses of this host.
    ///
    /// # Safety
    /// `window` must live until the root and its vCPUs are gone.
    pub unsafe fn add_window(&mut self, window: &Window) -> Result<(), RootError> {
        let (host_address, bytes) = window.host_range();
        let region = kvm_userspace_memory_region {
            slot: FIRST_WINDOW_SLOT + self.window_slots,
            guest_phys_addr: window.base(),
            memory_size: bytes,
            userspace_addr: host_address,
            flags: 0,
        };
        // SAFETY: the alias is a reservation of its own that lives as long as the window (caller's promise).
        unsafe { self.vm.set_user_memory_region(region) }
            .map_err(|source| RootError { call: "KVM_SET_USER_MEMORY_REGION", source })?;
        self.window_slots += 1;
        Ok(())
    }

    /// Makes the vCPU that hart `hart` enters this root with.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn create_vcpu(&self, hart: u32) -> Result<VcpuFd, RootError> {
        self.vm.create_vcpu(u64::from(hart)).map_err(|source| RootError { call: "KVM_CREATE_VCPU", source })
    }
}
