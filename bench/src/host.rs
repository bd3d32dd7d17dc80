//! The host that figures come from: without this they mean nothing.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Several lines: CPU, kernel, KVM, mitigations, and what `twzvmm doctor` says.
pub(crate) fn describe(twzvmm: &Path) -> String {
    let mut text = String::from("host\n");
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<14}{}", value.trim());
    };
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    line("cpu", &format!("{} × {cpus}", model.unwrap_or("unknown")));
    line("kernel", &read("/proc/sys/kernel/osrelease"));
    line("command line", &read("/proc/cmdline"));
    let modules = ["kvm_intel", "kvm_amd", "kvm_pvm"];
    let loaded: Vec<&str> =
        modules.into_iter().filter(|name| Path::new("/sys/module").join(name).exists()).collect();
    line("kvm", &if loaded.is_empty() { "no known module".to_owned() } else { loaded.join(", ") });
    for (name, state) in vulnerabilities() {
        line("mitigation", &format!("{name}: {state}"));
    }
    let doctor = Command::new(twzvmm).arg("doctor").output();
    let doctor =
        doctor.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for said in doctor.lines() {
        line("doctor", said);
    }
    text
}

/// The processor's faults that it has, and what the kernel does about each.
fn vulnerabilities() -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else { return Vec::new() };
    let mut found: Vec<(String, String)> = entries
        .flatten()
        .map(|entry| {
            let state = fs::read_to_string(entry.path()).unwrap_or_default();
            (entry.file_name().to_string_lossy().into_owned(), state.trim().to_owned())
        })
        .filter(|(_, state)| state != "Not affected")
        .collect();
    found.sort();
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|_| "unknown".to_owned())
}
