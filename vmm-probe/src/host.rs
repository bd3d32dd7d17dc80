//! What the host's files say: modules, mitigations, DAX devices, memory.
//!
//! Every path is below a root that tests replace. A file that is missing or strange is an absent fact, never an
//! error: `doctor` must work everywhere.

use crate::report::{DaxDevice, KvmModule, Mitigation};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where to look.
#[derive(Clone, Debug)]
pub struct Host {
    /// Directory that stands for `/`.
    pub root: PathBuf,
    /// Device to open, below `root`.
    pub kvm_device: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self { root: "/".into(), kvm_device: "dev/kvm".into() }
    }
}

impl Host {
    /// A path below the root.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The device's whole path.
    pub(crate) fn kvm_path(&self) -> PathBuf {
        self.root.join(&self.kvm_device)
    }

    /// First line of a file, trimmed.
    pub(crate) fn line(&self, relative: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(relative)).ok()?;
        text.lines().next().map(|line| line.trim().to_owned())
    }

    /// A value of `/proc/meminfo`, in bytes.
    pub(crate) fn meminfo_bytes(&self, name: &str) -> Option<u64> {
        let text = fs::read_to_string(self.path("proc/meminfo")).ok()?;
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        kib.checked_mul(1024)
    }

    /// The vendor module of KVM, with the parameters that matter.
    pub(crate) fn kvm_module(&self) -> Option<KvmModule> {
        let name = ["kvm_intel", "kvm_amd", "kvm_pvm"]
            .into_iter()
            .find(|name| self.path(&format!("sys/module/{name}")).is_dir())?;
        let vendor = ["ept", "npt", "unrestricted_guest", "vpid", "nested"]
            .map(|parameter| (parameter, format!("sys/module/{name}/parameters/{parameter}")));
        let common = ["tdp_mmu", "ignore_msrs", "force_emulation_prefix"]
            .map(|parameter| (parameter, format!("sys/module/kvm/parameters/{parameter}")));
        let parameters = vendor
            .into_iter()
            .chain(common)
            .filter_map(|(parameter, path)| Some((parameter.to_owned(), self.line(&path)?)))
            .collect();
        Some(KvmModule { name: name.into(), parameters })
    }

    /// What the kernel says of each known CPU weakness.
    pub(crate) fn mitigations(&self) -> Vec<Mitigation> {
        let base = "sys/devices/system/cpu/vulnerabilities";
        let mut found: Vec<_> = names(&self.path(base))
            .into_iter()
            .filter_map(|name| {
                let status = self.line(&format!("{base}/{name}"))?;
                let switch_cost = switch_cost(&name, &status).map(str::to_owned);
                Some(Mitigation { name, status, switch_cost })
            })
            .collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }

    /// Every DAX device that the kernel knows.
    pub(crate) fn dax_devices(&self) -> Vec<DaxDevice> {
        let base = "sys/bus/dax/devices";
        let mut found: Vec<_> = names(&self.path(base))
            .into_iter()
            .map(|name| {
                let number = |file: &str| {
                    self.line(&format!("{base}/{name}/{file}")).and_then(|text| text.parse().ok())
                };
                let node = self.path(&format!("dev/{name}"));
                let openable = fs::OpenOptions::new().read(true).write(true).open(&node).is_ok();
                let (size_bytes, align_bytes) = (number("size"), number("align"));
                DaxDevice { node: format!("/dev/{name}"), size_bytes, align_bytes, openable }
            })
            .collect();
        found.sort_by(|one, other| one.node.cmp(&other.node));
        found
    }
}

/// Names in a directory; none if it cannot be read.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Mode, owner and group of a file, as `ls` would begin its line.
pub(crate) fn ownership(path: &Path) -> Option<String> {
    let data = fs::metadata(path).ok()?;
    Some(format!("mode {:04o}, uid {}, gid {}", data.mode() & 0o7777, data.uid(), data.gid()))
}

/// Whether members of a file's group may read and write it.
pub(crate) fn open_to_group(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.mode() & 0o060 == 0o060)
}

/// What a mitigation adds to each switch between contexts, if anything (Linux, admin-guide/hw-vuln).
fn switch_cost(name: &str, status: &str) -> Option<&'static str> {
    if status.starts_with("Not affected") || status.starts_with("Vulnerable") {
        return None;
    }
    let ibpb = status.contains("IBPB") && !status.contains("IBPB: disabled");
    match name {
        "spectre_v2" if ibpb => Some("an IBPB when another vCPU is entered: 340 to 7,400 cycles"),
        "vmscape" if ibpb => Some("an IBPB before each return to user space after an exit"),
        "spec_rstack_overflow" if ibpb => Some("an IBPB on each exit from the guest"),
        "retbleed" if ibpb => Some("an IBPB on entry to the kernel"),
        "retbleed" | "spec_rstack_overflow" | "indirect_target_selection" => {
            Some("slower returns in the kernel on each exit")
        }
        "l1tf" if status.contains("cache flush") && !status.contains("EPT disabled") => {
            Some("an L1D flush before entering the guest")
        }
        "mds" | "mmio_stale_data" | "tsx_async_abort" | "tsa" | "reg_file_data_sampling"
            if status.to_ascii_lowercase().contains("clear") =>
        {
            Some("VERW on each return to user space or entry to the guest")
        }
        "meltdown" if status.contains("PTI") => Some("a CR3 load on each entry to the kernel"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host { root: directory.path().into(), ..Host::default() };
        (directory, host)
    }

    #[test]
    fn reads_modules_memory_and_devices() {
        let (_directory, host) = fake(&[
            ("sys/module/kvm_amd/parameters/npt", "1\n"),
            ("sys/module/kvm/parameters/tdp_mmu", "Y\n"),
            ("proc/meminfo", "MemTotal:  100 kB\nMemAvailable:   12 kB\n"),
            ("sys/bus/dax/devices/dax0.0/size", "532676608\n"),
            ("sys/bus/dax/devices/dax0.0/align", "2097152\n"),
        ]);
        let module = host.kvm_module().unwrap();
        assert_eq!(module.name, "kvm_amd");
        assert_eq!(module.parameters.get("npt").map(String::as_str), Some("1"));
        assert_eq!(host.meminfo_bytes("MemAvailable"), Some(12 * 1024));
        assert_eq!(host.meminfo_bytes("Mem"), None);
        let dax = &host.dax_devices()[0];
        assert_eq!((dax.size_bytes, dax.align_bytes), (Some(532_676_608), Some(2 << 20)));
        assert!(!dax.openable);
    }

    #[test]
    fn an_empty_root_has_no_facts() {
        let (_directory, host) = fake(&[]);
        assert!(host.kvm_module().is_none());
        assert!(host.mitigations().is_empty() && host.dax_devices().is_empty());
        assert_eq!(host.meminfo_bytes("MemTotal"), None);
    }

    #[test]
    fn strange_files_are_absent_facts() {
        let (_directory, host) = fake(&[
            ("proc/meminfo", "MemAvailable: 99999999999999999999 kB\nMemTotal: 18446744073709551615 kB"),
            ("sys/bus/dax/devices/dax0.0/size", "many"),
        ]);
        assert_eq!(host.meminfo_bytes("MemAvailable"), None);
        assert_eq!(host.meminfo_bytes("MemTotal"), None);
        assert_eq!(host.dax_devices()[0].size_bytes, None);
    }

    #[test]
    fn groups_may_or_may_not() {
        use std::os::unix::fs::PermissionsExt;
        let (_directory, host) = fake(&[("dev/kvm", "")]);
        let path = host.kvm_path();
        for (mode, may) in [(0o660, true), (0o640, false), (0o606, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(open_to_group(&path), may, "{mode:o}");
        }
    }

    #[test]
    fn only_active_mitigations_cost() {
        let cost = |name, status| switch_cost(name, status).is_some();
        assert!(cost("spectre_v2", "Mitigation: Retpolines; IBPB: conditional; STIBP: disabled"));
        assert!(!cost("spectre_v2", "Mitigation: Retpolines; IBPB: disabled"));
        assert!(!cost("spectre_v2", "Mitigation: Retpolines; STIBP: disabled; RSB filling"));
        assert!(cost("vmscape", "Mitigation: IBPB before exit to userspace"));
        assert!(!cost("vmscape", "Not affected"));
        assert!(cost("mds", "Mitigation: Clear CPU buffers; SMT disabled"));
        assert!(cost("meltdown", "Mitigation: PTI"));
        assert!(!cost("retbleed", "Vulnerable"));
    }
}
