//! What the numbers depend on: the machine and its kernel.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;

/// One machine as it was when it was measured.
#[derive(Debug, Serialize)]
pub struct Host {
    /// Model name.
    pub cpu: String,
    /// How many CPUs this process may use.
    pub cpus: usize,
    /// `/proc/version`.
    pub kernel: String,
    /// The kernel's command line.
    pub command_line: String,
    /// Loaded or built-in modules of KVM.
    pub kvm_modules: Vec<String>,
    /// How KVM makes guests here, as the modules and their parameters tell.
    pub kvm_kind: String,
    /// `/sys/devices/system/cpu/vulnerabilities`.
    pub mitigations: BTreeMap<String, String>,
    /// Load average when the report was made: how much others disturbed.
    pub load: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

fn names(path: &str) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

impl Host {
    /// This host.
    #[must_use]
    pub fn look() -> Self {
        let cpu_info = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpu_info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("");
            line.trim_start_matches([' ', '\t', ':']).to_string()
        };
        let kvm_modules: Vec<_> =
            names("/sys/module").into_iter().filter(|name| name.starts_with("kvm")).collect();
        let vulnerabilities = "/sys/devices/system/cpu/vulnerabilities";
        Self {
            kvm_kind: kvm_kind(&kvm_modules).to_string(),
            cpu: field("model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/version"),
            command_line: read("/proc/cmdline"),
            kvm_modules,
            mitigations: names(vulnerabilities)
                .into_iter()
                .map(|name| (name.clone(), read(&format!("{vulnerabilities}/{name}"))))
                .collect(),
            load: read("/proc/loadavg"),
        }
    }

    /// A few lines of Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "Measured on: {}, {} CPUs; {}; KVM: {}; load {}.\n\n",
            self.cpu,
            self.cpus,
            self.kernel.split(" (").next().unwrap_or_default(),
            self.kvm_kind,
            self.load,
        );
        text.push_str("Mitigations: ");
        let vulnerable: Vec<_> = self
            .mitigations
            .iter()
            .filter(|(_, state)| state.as_str() != "Not affected")
            .map(|(name, state)| format!("{name}: {state}"))
            .collect();
        text.push_str(&if vulnerable.is_empty() { "none listed".into() } else { vulnerable.join("; ") });
        text.push_str(".\n");
        text
    }
}

/// Which second stage KVM has, by its modules (`recipes` of the docs: how KVM is recognised).
fn kvm_kind(modules: &[String]) -> &'static str {
    let has = |name: &str| modules.iter().any(|module| module == name);
    if has("kvm_intel") {
        "Intel VT-x, EPT"
    } else if has("kvm_amd") {
        "AMD-V, NPT"
    } else if has("kvm_pvm") {
        "PVM: shadow paging, ring 0 interpreted, ring 3 native"
    } else if modules.is_empty() {
        "none"
    } else {
        "unknown"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_kvm_is_told_from_modules() {
        assert_eq!(kvm_kind(&["kvm".into(), "kvm_amd".into()]), "AMD-V, NPT");
        assert!(kvm_kind(&["kvm".into(), "kvm_pvm".into()]).starts_with("PVM"));
        assert_eq!(kvm_kind(&[]), "none");
    }

    #[test]
    fn this_host_is_described() {
        let host = Host::look();
        assert!(host.cpus > 0 && host.kernel.starts_with("Linux"));
        assert!(host.markdown().contains(&host.cpu));
    }
}
