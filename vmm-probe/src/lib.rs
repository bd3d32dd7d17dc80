//! What this host's KVM can do: the probes behind `twzvmm doctor`.
//!
//! # Contract
//! - [`probe`] never fails, panics or hangs: what it cannot find out is [`Probed::Unknown`], with the reason. Every run
//!   of a guest has a limit, and there is one for the whole ([`TOTAL_LIMIT`]).
//! - It decides by trying (tiny guests on raw KVM ioctls), not by names of hosts; names are reported beside it.
//! - It changes nothing on the host and needs no more rights than `twzvmm` itself.
//! - It installs a handler that does nothing for one real-time signal (`SIGRTMIN+13`), which stays installed.
//!
//! [`Report::usable`] says whether `twzvmm` can run here at all; `Display` explains each finding to a user.

mod explain;
mod guest;
mod host;
mod lab;
mod mapping;
mod memslot;
pub mod quick;
pub mod report;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod usable;
mod watchdog;

pub use explain::{Level, Line};
pub use host::Host;
pub use memslot::{LARGEST_WINDOW, SMALLEST_WINDOW};
pub use report::{Probed, Report};
pub use usable::Reason;

use kvm_ioctls::{Cap, Kvm};
use lab::{Lab, Trouble};
use report::{Device, GuestFacts, Ring0, SecondStage};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// Longest that one run of a guest may take.
pub const RUN_LIMIT: Duration = Duration::from_millis(500);
/// After this much time no further guest is tried.
pub const TOTAL_LIMIT: Duration = Duration::from_secs(20);
/// The only KVM API version there has been since Linux 2.6.22.
pub const KVM_API_VERSION: i32 = 12;

/// Capabilities that `twzvmm` cannot do without.
const NEEDED: [(Cap, &str); 5] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::SyncMmu, "KVM_CAP_SYNC_MMU"),
    (Cap::DestroyMemoryRegionWorks, "KVM_CAP_DESTROY_MEMORY_REGION_WORKS"),
];

/// Looks at everything.
#[must_use]
pub fn probe(host: &Host) -> Report {
    let (device, kvm) = open(host);
    let module = host.kvm_module();
    let cpuid = kvm.as_ref().and_then(|kvm| lab::supported_cpuid(kvm).ok());
    let physical_bits = cpuid.as_ref().and_then(physical_bits);
    let guest = kvm.as_ref().map(|kvm| guest_facts(kvm, host, assumed_bits(physical_bits)));
    let memslot = guest.as_ref().and_then(|guest| guest.memslot.known());
    Report {
        format: 1,
        device,
        second_stage: second_stage(module.as_ref(), memslot),
        module,
        physical_bits,
        command_line: host.line("proc/cmdline"),
        mitigations: host.mitigations(),
        dax_devices: host.dax_devices(),
        clock_source: host.line("sys/devices/system/clocksource/clocksource0/current_clocksource"),
        guest,
    }
}

/// Whether ring 0 of guests runs on the CPU, found with a throwaway guest.
///
/// Costs the making and the end of a VM, some milliseconds; a VMM at its start uses [`quick::ring0_is_native`].
///
/// # Errors
/// What the host refused, in words.
pub fn ring0_is_native(kvm: &Kvm) -> Result<bool, String> {
    let native = || Ok::<_, Trouble>(guest::ring0(&mut Lab::new(kvm, RUN_LIMIT)?)? == Ring0::Native);
    native().map_err(|trouble| trouble.to_string())
}

impl Report {
    /// The size of window to give each context here, in bytes: a power of two, at least 4 GiB.
    #[must_use]
    pub fn recommended_window_bytes(&self) -> u64 {
        let cost = self.guest.as_ref().and_then(|guest| guest.memslot.known());
        memslot::recommend(assumed_bits(self.physical_bits), cost)
    }
}

fn open(host: &Host) -> (Device, Option<Kvm>) {
    let path = host.kvm_path();
    let shown = path.display().to_string();
    let broken = |error: String| (Device::Broken { path: shown.clone(), error }, None);
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else {
        return broken("the path holds a zero byte".into());
    };
    match Kvm::new_with_path(&name) {
        Ok(kvm) => match kvm.get_api_version() {
            api_version if api_version >= 0 => {
                (Device::Usable { api_version, ownership: host::ownership(&path) }, Some(kvm))
            }
            _ => broken("not a KVM device (KVM_GET_API_VERSION fails)".into()),
        },
        Err(error) => match error.errno() {
            libc::ENOENT => (Device::Missing { path: shown }, None),
            libc::EACCES | libc::EPERM => {
                let (ownership, open_to_group) = (host::ownership(&path), host::open_to_group(&path));
                (Device::Denied { path: shown, ownership, open_to_group }, None)
            }
            errno => broken(std::io::Error::from_raw_os_error(errno).to_string()),
        },
    }
}

fn guest_facts(kvm: &Kvm, host: &Host, physical_bits: u8) -> GuestFacts {
    let begun = Instant::now();
    let in_time = || {
        let spent = begun.elapsed();
        if spent < TOTAL_LIMIT { Ok(()) } else { Err(Trouble::Odd("not tried: out of time".into())) }
    };
    let lab = || in_time().and_then(|()| Lab::new(kvm, RUN_LIMIT));
    let missing = NEEDED.iter().filter(|(capability, _)| !kvm.check_extension(*capability));
    let limit = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    GuestFacts {
        missing_capabilities: missing.map(|(_, name)| (*name).to_owned()).collect(),
        memslot_limit: limit(kvm.get_nr_memslots()),
        vcpu_limit: limit(kvm.get_max_vcpus()),
        ring0: lab().and_then(|mut lab| guest::ring0(&mut lab)).into(),
        speed: lab().and_then(|mut lab| guest::speed(&mut lab)).into(),
        syscall: lab().and_then(|mut lab| guest::syscall(&mut lab)).into(),
        window: in_time().and_then(|()| guest::window(kvm, RUN_LIMIT)).into(),
        exit_cost: lab().and_then(|mut lab| guest::exit_cost(&mut lab)).into(),
        memslot: in_time().and_then(|()| memslot::measure(kvm, host, physical_bits)).into(),
        tsc_khz: lab().and_then(|lab| guest::tsc_khz(&lab)).into(),
        features: match in_time().and_then(|()| lab::supported_cpuid(kvm)) {
            Ok(cpuid) => guest::features(kvm, &cpuid, RUN_LIMIT, &in_time),
            Err(_) => Vec::new(),
        },
    }
}

/// MAXPHYADDR that KVM reports.
fn physical_bits(cpuid: &kvm_bindings::CpuId) -> Option<u8> {
    let entry = cpuid.as_slice().iter().find(|entry| entry.function == 0x8000_0008)?;
    Some(entry.eax.to_le_bytes()[0])
}

/// What a CPU that says nothing has (Intel SDM vol. 3, 4.1.4).
fn assumed_bits(bits: Option<u8>) -> u8 {
    bits.unwrap_or(36)
}

/// The module's word where it gives one; else shadow paging shows by its eight bytes a page.
fn second_stage(module: Option<&report::KvmModule>, memslot: Option<&report::MemslotCost>) -> SecondStage {
    let on = |parameter: &str| {
        let value = module?.parameters.get(parameter)?;
        Some(matches!(value.as_str(), "Y" | "1"))
    };
    match module.map(|module| module.name.as_str()) {
        Some("kvm_pvm") => SecondStage::Shadow,
        Some("kvm_intel") if on("ept") == Some(true) => SecondStage::Ept,
        Some("kvm_amd") if on("npt") == Some(true) => SecondStage::Npt,
        Some("kvm_intel") if on("ept") == Some(false) => SecondStage::Shadow,
        Some("kvm_amd") if on("npt") == Some(false) => SecondStage::Shadow,
        _ => match memslot.and_then(|cost| Some((cost.kernel_bytes?, cost.bytes))) {
            Some((kernel, bytes)) if kernel >= bytes / 4096 * 8 => SecondStage::Shadow,
            _ => SecondStage::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use report::{KvmModule, MemslotCost};

    fn module(name: &str, parameters: &[(&str, &str)]) -> KvmModule {
        let parameters = parameters.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        KvmModule { name: name.into(), parameters }
    }

    #[test]
    fn second_stage_follows_the_module_then_the_memory() {
        let stage = |module: KvmModule| second_stage(Some(&module), None);
        assert_eq!(stage(module("kvm_intel", &[("ept", "Y")])), SecondStage::Ept);
        assert_eq!(stage(module("kvm_intel", &[("ept", "N")])), SecondStage::Shadow);
        assert_eq!(stage(module("kvm_amd", &[("npt", "1")])), SecondStage::Npt);
        assert_eq!(stage(module("kvm_amd", &[("npt", "0")])), SecondStage::Shadow);
        assert_eq!(stage(module("kvm_amd", &[])), SecondStage::Unknown);
        let cost = |kernel| MemslotCost { bytes: 64 << 30, time_ns: 1, kernel_bytes: Some(kernel) };
        assert_eq!(second_stage(None, Some(&cost(128 << 20))), SecondStage::Shadow);
        assert_eq!(second_stage(None, Some(&cost(1 << 20))), SecondStage::Unknown);
    }

    #[test]
    fn a_host_without_kvm_gets_one_clear_line() {
        let directory = tempfile::tempdir().unwrap();
        let report = probe(&Host { root: directory.path().into(), ..Host::default() });
        assert!(report.guest.is_none());
        let reason = report.usable().unwrap_err();
        assert!(matches!(reason, Reason::Missing { .. }), "{reason}");
        assert!(reason.to_string().contains("dev/kvm does not exist"));
        assert!(!reason.to_string().contains('\n'));
        assert!(report.to_string().lines().last().unwrap().starts_with("BAD   verdict"));
    }

    #[test]
    fn a_device_that_is_not_kvm_is_broken() {
        let host = Host { kvm_device: "dev/null".into(), ..Host::default() };
        assert!(matches!(probe(&host).usable(), Err(Reason::Broken { .. })));
    }

    /// On a host with KVM everything must be found out; on one without, the reason must be the device.
    #[test]
    fn this_host_is_understood() {
        let report = probe(&Host::default());
        match &report.guest {
            Some(guest) => {
                assert_eq!(report.usable(), Ok(()), "{report}");
                assert!(guest.exit_cost.known().unwrap().median_ns > 0);
                assert!(guest.speed.known().is_some() && guest.memslot.known().is_some(), "{guest:?}");
                assert!(report.recommended_window_bytes().is_power_of_two());
            }
            None => assert!(matches!(
                report.usable(),
                Err(Reason::Missing { .. } | Reason::Denied { .. } | Reason::Broken { .. })
            )),
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["format"], 1);
    }
}
