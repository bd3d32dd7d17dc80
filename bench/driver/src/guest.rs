//! Programs on Twizzler, run by `twzvmm`.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A `twzvmm` and a scratch pool.
pub(crate) struct Guest {
    twzvmm: PathBuf,
    folder: tempfile::TempDir,
}

/// What `twzvmm --report` writes.
#[derive(Deserialize)]
pub(crate) struct Report {
    pub(crate) startup_ns: Option<u64>,
    memory: Memory,
    stats: Stats,
}

/// Counters of a run.
#[derive(Deserialize)]
struct Stats {
    vmm: Vmm,
    /// KVM's own; empty where it has none.
    kvm: HashMap<String, u64>,
}

/// The VMM's counters.
#[derive(Deserialize)]
struct Vmm {
    exits: HashMap<String, u64>,
    register_ioctls: u64,
}

#[allow(clippy::cast_precision_loss, reason = "counts and bytes far below 2^53")]
impl Report {
    /// Exits to the VMM.
    pub(crate) fn exits(&self) -> f64 {
        self.stats.vmm.exits.values().sum::<u64>() as f64
    }

    /// Times that a vCPU's registers were read or written by ioctl.
    pub(crate) fn register_ioctls(&self) -> f64 {
        self.stats.vmm.register_ioctls as f64
    }

    /// One of KVM's counters, where it has it.
    pub(crate) fn kvm(&self, name: &str) -> Option<f64> {
        self.stats.kvm.get(name).map(|&count| count as f64)
    }

    /// Bytes that the VMM itself occupies.
    pub(crate) fn overhead(&self) -> f64 {
        self.memory.overhead as f64
    }
}

/// What one operation takes that can be counted.
pub(crate) struct Counts {
    /// Exits to `twzvmm`.
    pub(crate) exits: f64,
    /// Instructions that KVM interpreted: those of ring 0 where the CPU does not run it, few or none elsewhere. Absent where KVM does not count.
    pub(crate) interpreted: Option<f64>,
}

/// Resident bytes.
#[derive(Deserialize)]
struct Memory {
    overhead: u64,
}

/// What `twzvmm doctor --json` says of ring 0: why times of it are none of hardware.
fn why_not(doctor: &serde_json::Value) -> Result<Option<String>> {
    let ring0 = doctor.pointer("/guest/ring0").context("doctor says nothing of ring 0")?;
    Ok(match ring0.get("known").and_then(serde_json::Value::as_str) {
        Some("native") => None,
        Some(how) => Some(format!("the aim is for hardware; ring 0 is {how} on this host")),
        None => Some(format!("the aim is for hardware; how ring 0 runs on this host is not known: {ring0}")),
    })
}

/// A line of the `measure` program.
#[derive(Deserialize)]
struct Line {
    name: String,
    ns: f64,
}

impl Guest {
    /// A pool in `data`: in memory, so that no disk is measured.
    pub(crate) fn new(twzvmm: &Path, data: &Path) -> Result<Self> {
        let folder = tempfile::tempdir_in(data)?;
        Ok(Self { twzvmm: twzvmm.to_path_buf(), folder })
    }

    /// Runs a program; returns its output and the report.
    pub(crate) fn run(&self, harts: u32, program: &[&str]) -> Result<(String, Report)> {
        let report = self.folder.path().join("report.json");
        let output = Command::new(&self.twzvmm)
            .args(["--create", "1G", "--harts", &harts.to_string()])
            .arg("--pmem")
            .arg(self.folder.path().join("pool.img"))
            .arg("--report")
            .arg(&report)
            .arg("--")
            .args(program)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.twzvmm.display()))?;
        if !output.status.success() {
            // Programs say what went wrong on the console, which is standard output.
            let [console, own] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
            bail!("{program:?} failed ({}): {}{}", output.status, console, own);
        }
        let report = std::fs::read(&report).context("twzvmm wrote no report")?;
        Ok((String::from_utf8(output.stdout)?, serde_json::from_slice(&report)?))
    }

    /// Why times of the kernel say nothing about hardware here, if that is so: by what `twzvmm doctor` found out.
    pub(crate) fn why_no_figures_of_ring0(&self) -> Result<Option<String>> {
        let output = Command::new(&self.twzvmm).args(["doctor", "--json"]).output();
        let output = output.with_context(|| format!("cannot run {}", self.twzvmm.display()))?;
        why_not(&serde_json::from_slice(&output.stdout).context("what doctor says")?)
    }

    /// What an operation takes, by a run that does it often and one that does it seldom.
    pub(crate) fn counts(&self, operation: &str) -> Result<Counts> {
        const FEW: u32 = 20;
        const MANY: u32 = 220;
        let run = |count: u32| -> Result<(u64, Option<u64>)> {
            let (_, report) = self.run(1, &["measure", "100", operation, &count.to_string()])?;
            let exits = report.stats.vmm.exits.values().sum();
            Ok((exits, report.stats.kvm.get("insn_emulation").copied()))
        };
        let (few, many) = (run(FEW)?, run(MANY)?);
        #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
        let each = |few: u64, many: u64| many.saturating_sub(few) as f64 / f64::from(MANY - FEW);
        Ok(Counts {
            exits: each(few.0, many.0),
            interpreted: few.1.zip(many.1).map(|(few, many)| each(few, many)),
        })
    }

    /// Runs `measure` and returns nanoseconds by name.
    pub(crate) fn measure(&self, harts: u32, percent: u32) -> Result<HashMap<String, f64>> {
        let (output, _) = self.run(harts, &["measure", &percent.to_string()])?;
        let parse = |line: &str| serde_json::from_str::<Line>(line).map(|line| (line.name, line.ns));
        Ok(output.lines().map(parse).collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_doctor_says_of_ring_0_counts() {
        let of = |ring0: &str| {
            let doctor = format!("{{\"guest\": {{\"ring0\": {ring0}}}}}");
            why_not(&serde_json::from_str(&doctor).unwrap())
        };
        assert_eq!(of(r#"{"known": "native"}"#).unwrap(), None);
        let interpreted = of(r#"{"known": "interpreted"}"#).unwrap();
        assert!(interpreted.is_some_and(|reason| reason.contains("interpreted")));
        assert!(of(r#"{"unknown": "no KVM"}"#).unwrap().is_some_and(|reason| reason.contains("no KVM")));
        assert!(why_not(&serde_json::Value::Null).is_err());
    }
}
