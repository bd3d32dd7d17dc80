//! What the numbers depend on: the machine and its kernel.

use crate::pace::Summary;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// What was asked for: reports of different ones are not quite comparable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Interleaved rounds of each row.
    pub rounds: usize,
    /// What the numbers of operations and objects were divided by; 1 in a full run.
    pub divide: u64,
    /// Operations of the rows of the guest, in percent.
    pub percent: u32,
    /// Of the project that was measured.
    pub commit: String,
}

/// One machine as it was when it was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// What was asked for.
    pub settings: Settings,
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
    /// Load average when `bench` began: how much others disturbed, and what was measured before.
    pub load: String,
    /// The pace of the CPU while a program measured, by what it measured.
    pub pace: BTreeMap<String, Summary>,
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
    /// This host, measured so.
    #[must_use]
    pub fn look(settings: Settings) -> Self {
        let cpu_info = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpu_info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("");
            line.trim_start_matches([' ', '\t', ':']).to_string()
        };
        let kvm_modules: Vec<_> =
            names("/sys/module").into_iter().filter(|name| name.starts_with("kvm")).collect();
        let vulnerabilities = "/sys/devices/system/cpu/vulnerabilities";
        Self {
            settings,
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
            pace: BTreeMap::new(),
        }
    }

    /// Why figures of this one and of `other` are not quite comparable; nothing for the same host, measured in the same way.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (ours, theirs) = (&self.settings, &other.settings);
        let differing = [
            ("CPU", self.cpu.clone(), other.cpu.clone()),
            ("CPUs", self.cpus.to_string(), other.cpus.to_string()),
            ("kernel", self.kernel.clone(), other.kernel.clone()),
            ("kernel's command line", self.command_line.clone(), other.command_line.clone()),
            ("KVM", self.kvm_kind.clone(), other.kvm_kind.clone()),
            ("mitigations", format!("{:?}", self.mitigations), format!("{:?}", other.mitigations)),
            ("rounds", ours.rounds.to_string(), theirs.rounds.to_string()),
            ("numbers divided by", ours.divide.to_string(), theirs.divide.to_string()),
            ("percent of the guest's operations", ours.percent.to_string(), theirs.percent.to_string()),
        ];
        let differing = differing.into_iter().filter(|(_, ours, theirs)| ours != theirs);
        differing.map(|(what, ours, theirs)| format!("{what}: {ours:?} and {theirs:?}")).collect()
    }

    /// The one that a report was measured on: `host.json` beside it.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else; names it.
    pub fn beside(report: &Path) -> Result<Self> {
        let path = report.with_file_name("host.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
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
        let Settings { rounds, divide, percent, commit } = &self.settings;
        let _ = write!(text, "Commit {commit}; {rounds} rounds; ");
        if *divide > 1 {
            let _ = write!(text, "**a quick run**: numbers of operations and objects divided by {divide}, ");
        }
        let _ = write!(text, "{percent} % of the guest's usual operations.\n\n");
        for (what, pace) in &self.pace {
            let _ = write!(text, "Pace while measuring {what}: {pace}.\n\n");
        }
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
        let mut host = Host::look(Settings { rounds: 7, divide: 10, percent: 5, commit: "abc".into() });
        let pace = Summary {
            best_ns: 9240.0,
            median_ns: 13860.0,
            rounds: 30,
            disturbed: 20,
            again: 18,
            waited_s: 4.2,
        };
        host.pace.insert("libtwz".into(), pace);
        assert!(host.markdown().contains(
            "Pace while measuring libtwz: control loop 9240 ns at best, median 1.50 of that; 20 of 30 rounds disturbed, 18 of them measured \
             again; 4 s waited.\n"
        ));
        assert!(host.cpus > 0 && host.kernel.starts_with("Linux"));
        let text = host.markdown();
        assert!(text.contains(&host.cpu) && text.contains("Commit abc; 7 rounds; **a quick run**"), "{text}");
    }

    #[test]
    fn what_makes_reports_incomparable_is_named() {
        let host = |divide, cpu: &str| {
            let settings = Settings { divide, commit: cpu.into(), ..Settings::default() };
            Host { cpu: cpu.into(), settings, ..Host::default() }
        };
        assert!(host(1, "a").differences(&host(1, "a")).is_empty());
        assert_eq!(host(1, "a").differences(&host(10, "a")), [r#"numbers divided by: "1" and "10""#]);
        assert_eq!(host(1, "a").differences(&host(1, "b")), [r#"CPU: "a" and "b""#], "commits may differ");
        let folder = tempfile::tempdir().unwrap();
        let report = folder.path().join("report.json");
        assert!(Host::beside(&report).is_err());
        let text = serde_json::to_string(&host(10, "a")).unwrap();
        fs::write(folder.path().join("host.json"), text).unwrap();
        assert_eq!(Host::beside(&report).unwrap().settings.divide, 10);
        // What was written before there were settings.
        fs::write(folder.path().join("host.json"), "{\"cpu\":\"a\"}").unwrap();
        assert_eq!(Host::beside(&report).unwrap().settings, Settings::default());
    }
}
