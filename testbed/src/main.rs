//! `testbed`: boots an emulated machine that has KVM and persistent memory, and runs one command in it.
//!
//! # Contract
//! - CMD's standard output and error come out byte for byte, without kernel messages; its exit status is ours.
//! - Every wait is bounded by `--timeout`; nothing that was started is left running, whichever way we end.
//! - `--pmem FILE` is the machine's NVDIMM: what a run stored in `/dev/dax0.0` is there in the next run.
//! - Nothing is installed on the host but the emulator; the guest's kernel and tools are packages of the host's own
//!   distribution, unpacked below the cargo target directory.
//!
//! Exit status: CMD's own; [`EXIT_TIMEOUT`], [`EXIT_TESTBED`], [`EXIT_POWER_CUT`]; 128 + the number of the signal that
//! ended us. These are the numbers that `timeout(1)` and shells use for the same things.

#![forbid(unsafe_code)]

mod amd;
mod cache;
mod cli;
mod initramfs;
mod intel;
mod machine;
mod nvdimm;
mod packages;
mod stream;
mod terminal;

use anyhow::{Context, Result};
use clap::Parser;
use machine::Machine;
use std::path::PathBuf;
use std::process::ExitCode;

/// `--timeout` passed before CMD ended.
const EXIT_TIMEOUT: u8 = 124;
/// The testbed itself failed: a missing package, a kernel that does not boot, …; CMD may not have run.
const EXIT_TESTBED: u8 = 125;
/// The power was cut as `--power-cut` asked for.
const EXIT_POWER_CUT: u8 = 137;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match run(&arguments) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("testbed: {error:#}");
            ExitCode::from(EXIT_TESTBED)
        }
    }
}

fn run(arguments: &cli::Arguments) -> Result<u8> {
    let cache = cache::Cache::open(arguments.cache.as_deref())?;
    let packages = packages::Packages::provide(&cache, arguments.cpu)?;
    if arguments.prepare {
        return Ok(0);
    }
    let directory = cache.run_directory()?;
    let bin_dir = match &arguments.bin_dir {
        Some(path) => path.clone(),
        None => own_directory()?,
    };
    let plan = match arguments.cpu {
        cli::Cpu::Amd => amd::plan(arguments, &packages, &bin_dir, directory.path()),
        cli::Cpu::Intel => intel::plan(arguments, &packages, &bin_dir, directory.path()),
    }?;
    let end = Machine::start(plan, arguments)?.supervise(arguments);
    if arguments.keep {
        eprintln!("testbed: kept {}", directory.keep()?.display());
    }
    end
}

/// The directory that this program is in: cargo puts the project's other programs there too.
fn own_directory() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program's own path")?;
    Ok(program.parent().context("this program is in no directory")?.to_owned())
}
