//! `twz-bench`: what `make bench` prints.
//!
//! # Contract
//! - Every figure comes from runs made now, and stands below a description of the host it was measured on.
//! - A figure is the median of several runs with the 10th and 90th percentile beside it; the first run, which makes the pool
//!   and imports the programs, is not counted.
//! - It looks for `twzvmm` beside itself, then in the PATH.

#![forbid(unsafe_code)]

mod boot;
mod host;
mod spread;

use anyhow::Result;
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures `twzvmm` on this host.
#[derive(Debug, Parser)]
#[command(name = "twz-bench", version)]
struct Arguments {
    /// How often each thing is run
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// The pool, made if there is none; without this, a file that is thrown away
    #[arg(long, value_name = "FILE|/dev/daxX.Y")]
    pmem: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("twz-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let program = boot::find_twzvmm()?;
    print!("{}", host::describe(&program));
    let directory = tempfile::tempdir()?;
    let pool = arguments.pmem.clone().unwrap_or_else(|| directory.path().join("pool.img"));
    print!("{}", boot::measure(&program, &pool, directory.path(), arguments.runs)?);
    Ok(())
}
