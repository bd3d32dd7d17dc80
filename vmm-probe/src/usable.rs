//! Whether `twzvmm` can run on a host, and the one line to say why not.

use crate::KVM_API_VERSION;
use crate::report::{Device, Probed, Report, SyscallEntry, WindowAccess};

/// Why `twzvmm` cannot run here. The messages say what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No KVM.
    #[error(
        "{path} does not exist: load kvm_intel or kvm_amd (`modprobe`), enable virtualization in the firmware, or nested virtualization in the host above; without KVM, use the testbed"
    )]
    Missing {
        /// The device.
        path: String,
    },
    /// No permission.
    #[error(
        "{path} may not be opened by this user{}: {}, or run as root",
        .ownership.as_ref().map(|text| format!(" ({text})")).unwrap_or_default(),
        if *.open_to_group {
            "join its group (`usermod -aG kvm $USER`, then log in again)"
        } else {
            "open it to a group that this user is in (`chgrp kvm /dev/kvm; chmod 660 /dev/kvm`)"
        }
    )]
    Denied {
        /// The device.
        path: String,
        /// Mode and owner.
        ownership: Option<String>,
        /// The mode would let members of the group open it.
        open_to_group: bool,
    },
    /// The device does not work.
    #[error("{path} cannot be used ({error}): check `dmesg` for messages of KVM, or use the testbed")]
    Broken {
        /// The device.
        path: String,
        /// The system's words.
        error: String,
    },
    /// Another API.
    #[error("KVM speaks API version {found}, not {KVM_API_VERSION}: use a newer kernel")]
    ApiVersion {
        /// What it speaks.
        found: i32,
    },
    /// Capabilities missing.
    #[error("this KVM lacks {}: use a newer kernel", .names.join(", "))]
    Capabilities {
        /// Their names.
        names: Vec<String>,
    },
    /// No guest runs.
    #[error("a small test guest does not run ({why}): use the testbed, and report this")]
    NoGuest {
        /// What happened.
        why: String,
    },
    /// System calls do not arrive.
    #[error(
        "SYSCALL from ring 3 arrives in a way that the guest kernel does not know ({saw}): use the testbed, and report this"
    )]
    Syscall {
        /// What happened.
        saw: String,
    },
    /// The second stage does not hold.
    #[error(
        "a {access} was not stopped by the second stage ({saw}): rights could not be enforced here; use the testbed, and report this"
    )]
    Window {
        /// Which access.
        access: &'static str,
        /// What happened.
        saw: String,
    },
}

impl Report {
    /// Whether `twzvmm` can run here.
    ///
    /// # Errors
    /// The first reason why not, in the order of the probes.
    pub fn usable(&self) -> Result<(), Reason> {
        match self.device.clone() {
            Device::Usable { api_version: KVM_API_VERSION, .. } => {}
            Device::Usable { api_version, .. } => return Err(Reason::ApiVersion { found: api_version }),
            Device::Missing { path } => return Err(Reason::Missing { path }),
            Device::Denied { path, ownership, open_to_group } => {
                return Err(Reason::Denied { path, ownership, open_to_group });
            }
            Device::Broken { path, error } => return Err(Reason::Broken { path, error }),
        }
        let Some(guest) = &self.guest else {
            return Err(Reason::NoGuest { why: "none was tried".into() });
        };
        if !guest.missing_capabilities.is_empty() {
            return Err(Reason::Capabilities { names: guest.missing_capabilities.clone() });
        }
        known(&guest.ring0)?;
        if let SyscallEntry::Unusable { saw } = known(&guest.syscall)? {
            return Err(Reason::Syscall { saw: saw.clone() });
        }
        let accesses = known(&guest.window)?.all();
        // Only EFAULT lets ring 3 repeat the access exactly; ring 0 touches programs' memory in copy routines alone.
        let wrong = accesses.into_iter().find(|(name, access)| match access {
            WindowAccess::FaultsAndRepeats => false,
            WindowAccess::EmulatedAsDevice => name.starts_with("ring-3"),
            _ => true,
        });
        match wrong {
            None => Ok(()),
            Some((access, saw)) => Err(Reason::Window { access, saw: format!("{saw:?}") }),
        }
    }
}

fn known<T>(probed: &Probed<T>) -> Result<&T, Reason> {
    match probed {
        Probed::Known(value) => Ok(value),
        Probed::Unknown(why) => Err(Reason::NoGuest { why: why.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::Level;
    use crate::report::{ExitCost, GuestFacts, MemslotCost, Ring0, SecondStage, Speed, WindowBehaviour};

    fn good() -> Report {
        let repeats = || WindowAccess::FaultsAndRepeats;
        Report {
            format: 1,
            device: Device::Usable { api_version: KVM_API_VERSION, ownership: None },
            module: None,
            second_stage: SecondStage::Npt,
            physical_bits: Some(46),
            command_line: None,
            mitigations: Vec::new(),
            dax_devices: Vec::new(),
            clock_source: None,
            guest: Some(GuestFacts {
                missing_capabilities: Vec::new(),
                memslot_limit: 509,
                vcpu_limit: 255,
                ring0: Probed::Known(Ring0::Native),
                speed: Probed::Known(Speed {
                    ring0_ns_per_instruction: 0.5,
                    ring3_ns_per_instruction: 0.5,
                    ring3_rdtsc_ns: 10.0,
                }),
                syscall: Probed::Known(SyscallEntry::Normal),
                window: Probed::Known(WindowBehaviour {
                    ring3_write_to_read_only: repeats(),
                    ring3_locked_write_to_read_only: repeats(),
                    ring3_write_to_unmapped: repeats(),
                    ring3_read_of_unmapped: repeats(),
                    ring0_write_to_read_only: repeats(),
                    ring0_read_of_unmapped: repeats(),
                    revoked_while_cached: repeats(),
                }),
                exit_cost: Probed::Known(ExitCost { median_ns: 900, p10_ns: 800, p90_ns: 1000, samples: 9 }),
                memslot: Probed::Known(MemslotCost { bytes: 64 << 30, time_ns: 9, kernel_bytes: Some(0) }),
                tsc_khz: Probed::Known(2_000_000),
                features: Vec::new(),
            }),
        }
    }

    fn changed(change: impl FnOnce(&mut GuestFacts)) -> Report {
        let mut report = good();
        change(report.guest.as_mut().unwrap());
        report
    }

    fn window_changed(change: impl FnOnce(&mut WindowBehaviour)) -> Report {
        changed(|guest| {
            let Probed::Known(window) = &mut guest.window else { unreachable!() };
            change(window);
        })
    }

    #[test]
    fn a_good_host_is_usable() {
        assert_eq!(good().usable(), Ok(()));
        assert!(good().lines().iter().all(|line| line.level != Level::Bad), "{}", good());
        let interpreted = changed(|guest| guest.ring0 = Probed::Known(Ring0::Interpreted));
        assert_eq!(interpreted.usable(), Ok(()));
        let page_fault = changed(|guest| guest.syscall = Probed::Known(SyscallEntry::PageFaultAtEntry));
        assert_eq!(page_fault.usable(), Ok(()));
    }

    #[test]
    fn each_defect_has_its_reason() {
        let old = Report { device: Device::Usable { api_version: 11, ownership: None }, ..good() };
        assert_eq!(old.usable(), Err(Reason::ApiVersion { found: 11 }));
        let lacking = changed(|guest| guest.missing_capabilities.push("KVM_CAP_X".into()));
        assert_eq!(lacking.usable(), Err(Reason::Capabilities { names: vec!["KVM_CAP_X".into()] }));
        let broken = changed(|guest| guest.ring0 = Probed::Unknown("KVM_RUN: no".into()));
        assert_eq!(broken.usable(), Err(Reason::NoGuest { why: "KVM_RUN: no".into() }));
        let syscall = SyscallEntry::Unusable { saw: "TimedOut".into() };
        let deaf = changed(|guest| guest.syscall = Probed::Known(syscall));
        assert_eq!(deaf.usable(), Err(Reason::Syscall { saw: "TimedOut".into() }));
        assert_eq!(
            Report { guest: None, ..good() }.usable(),
            Err(Reason::NoGuest { why: "none was tried".into() })
        );
    }

    #[test]
    fn a_second_stage_that_does_not_hold_is_refused() {
        for access in [WindowAccess::NotPrevented, WindowAccess::Swallowed] {
            let open = window_changed(|window| window.revoked_while_cached = access.clone());
            assert!(matches!(open.usable(), Err(Reason::Window { .. })), "{access:?}");
            assert!(open.lines().iter().any(|line| line.topic == "rights" && line.level == Level::Bad));
        }
        let device = WindowAccess::EmulatedAsDevice;
        let ring0 = window_changed(|window| window.ring0_read_of_unmapped = device.clone());
        assert_eq!(ring0.usable(), Ok(()));
        let ring3 = window_changed(|window| window.ring3_locked_write_to_read_only = device.clone());
        assert!(matches!(ring3.usable(), Err(Reason::Window { .. })), "a device access loses atomicity");
    }

    #[test]
    fn refusals_are_one_line_each() {
        let refusals = [
            Reason::Missing { path: "/dev/kvm".into() },
            Reason::Denied {
                path: "/dev/kvm".into(),
                ownership: Some("mode 0660, uid 0, gid 108".into()),
                open_to_group: true,
            },
            Reason::Broken { path: "/dev/kvm".into(), error: "No such device".into() },
        ];
        for reason in refusals {
            let text = reason.to_string();
            assert!(!text.contains('\n') && text.contains("/dev/kvm"), "{text}");
        }
    }
}
