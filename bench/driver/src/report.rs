//! The report: Markdown for people, JSON for scripts, and the host that it was made on.

use crate::row::Row;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

/// What the numbers depend on.
#[derive(Debug, Serialize)]
pub(crate) struct Host {
    cpu: String,
    kernel: String,
    command_line: String,
    kvm_modules: Vec<String>,
    mitigations: BTreeMap<String, String>,
}

impl Host {
    /// This host.
    pub(crate) fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
        let names = |path: &str| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
        };
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
        let vulnerabilities = "/sys/devices/system/cpu/vulnerabilities";
        Self {
            cpu: cpu.trim_start_matches([' ', '\t', ':']).to_string(),
            kernel: read("/proc/version"),
            command_line: read("/proc/cmdline"),
            kvm_modules: names("/sys/module").into_iter().filter(|name| name.starts_with("kvm")).collect(),
            mitigations: names(vulnerabilities)
                .into_iter()
                .map(|name| (name.clone(), read(&format!("{vulnerabilities}/{name}"))))
                .collect(),
        }
    }
}

/// The report as Markdown, ratios first.
pub(crate) fn markdown(host: &Host, rows: &[Row]) -> String {
    let mut text = format!("# Benchmarks\n\n{}; KVM modules: {}\n", host.cpu, host.kvm_modules.join(", "));
    let mut group = "";
    for row in rows {
        if row.group != group {
            group = &row.group;
            let header =
                "| what | ratio | ours | peer | peer is | aim | holds |\n|---|---|---|---|---|---|---|";
            let _ = write!(text, "\n## {group}\n\n{header}\n");
        }
        let number = |value: Option<f64>, unit: &str| {
            value.map_or("–".into(), |value| format!("{}{unit}", short(value)))
        };
        let unit = format!(" {}", row.unit);
        let _ = writeln!(
            text,
            "| {} ({}) | {} | {} | {} | {} | {} | {} |",
            row.name,
            serde_json::to_string(&row.place).unwrap_or_default().trim_matches('"'),
            number(row.ratio, ""),
            number(Some(row.ours), &unit),
            number(row.peer, &unit),
            row.peer_name.as_deref().unwrap_or("–"),
            row.aim.as_deref().unwrap_or("–"),
            row.holds.map_or("–", |holds| if holds { "yes" } else { "no" }),
        );
    }
    text
}

/// Three significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Where;

    #[test]
    fn a_row_becomes_a_line() {
        let row = Row::new("kernel", "syscall", Where::Guest, "ns", &[50.0]).beside("getppid", &[100.0]);
        let text = markdown(&Host::look(), &[row]);
        assert!(text.contains("## kernel"));
        assert!(text.contains("| syscall (guest) | 0.500 | 50.0 ns | 100 ns | getppid | – | – |"), "{text}");
    }
}
