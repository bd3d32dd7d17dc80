//! From the start of `twzvmm` to a program in ring 3, and what `twzvmm` itself takes.

use crate::spread::Spread;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What we aim at on hardware: milliseconds to the first instruction, MiB of overhead. Firecracker promises 125 and 5.
const AIM_STARTUP_MS: u32 = 50;
const AIM_OVERHEAD_MIB: u32 = 5;

/// What `twzvmm --report` writes, as far as we use it.
#[derive(Debug, Deserialize)]
struct Report {
    startup_ns: Option<u64>,
    memory: Memory,
}

#[derive(Debug, Deserialize)]
struct Memory {
    guest_ram: u64,
    overhead: u64,
}

/// `twzvmm` beside this program, or as the PATH finds it.
pub(crate) fn find_twzvmm() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    let beside = own.with_file_name("twzvmm");
    Ok(if beside.is_file() { beside } else { PathBuf::from("twzvmm") })
}

/// Boots a machine for `counter` so often; returns lines to print.
pub(crate) fn measure(twzvmm: &Path, pool: &Path, directory: &Path, runs: u32) -> Result<String> {
    let report = directory.join("report.json");
    boot(twzvmm, pool, &report)?; // makes the pool and imports the programs: not counted
    let mut startups = Vec::new();
    let mut walls = Vec::new();
    let mut overheads = Vec::new();
    let mut guest_ram = Vec::new();
    for _ in 0..runs {
        let began = Instant::now();
        let Report { startup_ns, memory } = boot(twzvmm, pool, &report)?;
        walls.push(began.elapsed().as_secs_f64() * 1e3);
        startups.push(as_f64(startup_ns.context("twzvmm saw no instruction in ring 3")?) / 1e6);
        overheads.push(as_f64(memory.overhead) / MEBI);
        guest_ram.push(as_f64(memory.guest_ram) / MEBI);
    }
    let show = |values: Vec<f64>, unit| values.into_iter().collect::<Spread>().show(unit);
    Ok(format!(
        "boot: twzvmm --pmem {} -- counter, 1 hart, {runs} runs\n  \
         start of twzvmm to first instruction in ring 3   {}; aim on hardware: {AIM_STARTUP_MS} ms\n  \
         start of twzvmm to its end                       {}\n  \
         memory of twzvmm itself (resident)               {}; aim: {AIM_OVERHEAD_MIB} MiB\n  \
         guest RAM touched                                {}\n",
        pool.display(),
        show(startups, "ms"),
        show(walls, "ms"),
        show(overheads, "MiB"),
        show(guest_ram, "MiB"),
    ))
}

const MEBI: f64 = 1_048_576.0;

fn boot(twzvmm: &Path, pool: &Path, report: &Path) -> Result<Report> {
    let mut command = Command::new(twzvmm);
    command.arg("--pmem").arg(pool).args(["--create", "64M", "--report"]).arg(report).args(["--", "counter"]);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", twzvmm.display()))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            twzvmm.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let text =
        std::fs::read_to_string(report).with_context(|| format!("no report in {}", report.display()))?;
    serde_json::from_str(&text).context("the report is not what this version of twz-bench knows")
}

/// Nanoseconds and bytes here stay far below 2^53, up to which this is exact.
#[allow(clippy::cast_precision_loss, reason = "see above")]
fn as_f64(value: u64) -> f64 {
    value as f64
}
