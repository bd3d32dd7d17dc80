//! `bench`: measures everything in one run and reports it side by side with what a user would pick instead.
//!
//! Rounds are interleaved: ours, the peer, ours again …; medians count. Times on shared machines are noisy, so ratios come first.

mod contexts;
mod guest;
mod kernel;
mod linux;
mod logger;
mod peers;
mod resume;

use anyhow::Result;
use bench::compare;
use bench::host::{Host, Settings};
use bench::pace::Summary;
use bench::report;
use bench::row::{self, Row};
use clap::{Parser, Subcommand};
use guest::Guest;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Measure Twizzler beside Linux and libraries for persistent memory.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure the guest and `twzvmm`, take in rows that others measured, and report.
    Run(Run),
    /// Print the rows of a `report.json` that have an aim, with the host, as the book has them (docs/results.md).
    Aims {
        /// The report; `host.json` is beside it.
        report: PathBuf,
    },
    /// Compare two `report.json`; ends with status 1 if something regressed, or a row with an aim is gone. Warns if `host.json` beside them differ.
    Compare {
        /// The earlier one.
        before: PathBuf,
        /// The later one.
        after: PathBuf,
        /// How much worse is no regression yet, in percent.
        #[arg(long, default_value_t = 10)]
        tolerance: u32,
    },
}

#[derive(clap::Args)]
struct Run {
    /// The twzvmm to measure; without it only the other rows are reported, and the aims that it could not be held to.
    #[arg(long)]
    twzvmm: Option<PathBuf>,
    /// Why there is none, for the rows.
    #[arg(long, default_value = "no twzvmm was given")]
    no_guest: String,
    /// Where the report goes.
    #[arg(long)]
    out: PathBuf,
    /// Rows that other benchmarks measured, as a JSON list or an object a line, to go into the same report.
    #[arg(long)]
    rows: Vec<PathBuf>,
    /// A part that failed before, and why: named in the report, and a reason for status 1.
    #[arg(long)]
    failed: Vec<String>,
    /// Where pools and files go; a tmpfs stands in for persistent memory.
    #[arg(long, default_value = "/dev/shm")]
    data: PathBuf,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Operations in a round, in percent of the usual number.
    #[arg(long, default_value_t = 20)]
    percent: u32,
    /// What the rows' sizes were divided by, for the record.
    #[arg(long, default_value_t = 1)]
    divide: u64,
    /// What is measured, for the record.
    #[arg(long, default_value = "unknown")]
    commit: String,
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Run(arguments) => run(&arguments),
        Command::Aims { report } => {
            print!("{}", report::aims(&Host::beside(&report)?, &row::read(&report)?));
            Ok(ExitCode::SUCCESS)
        }
        Command::Compare { before, after, tolerance } => {
            let hosts = [Host::beside(&before), Host::beside(&after)];
            print!("{}", compare::warnings(&hosts));
            let (before, after) = (row::read(&before)?, row::read(&after)?);
            let comparison = compare::compare(&before, &after, f64::from(tolerance) / 100.0);
            print!("{}", comparison.markdown());
            Ok(if comparison.is_regression() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
    }
}

/// A part of the run.
type Measure<'a> = &'a dyn Fn() -> Result<Vec<Row>>;

fn run(arguments: &Run) -> Result<ExitCode> {
    let Run { rounds, divide, percent, ref commit, .. } = *arguments;
    // First: the last part keeps this process on one CPU.
    let mut host = Host::look(Settings { rounds, divide, percent, commit: commit.clone() });
    let mut rows = Vec::new();
    let mut failed = arguments.failed.clone();
    for path in &arguments.rows {
        take(&mut rows, &mut failed, &path.display().to_string(), row::read(path));
        let what = path.file_stem().unwrap_or_default().display().to_string();
        match Summary::beside(path) {
            Ok(pace) => host.pace.extend(pace.map(|pace| (what, pace))),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    // Table 1's other half was measured with libtwz.
    let translations = rows.iter().filter(|row| row.group == "libtwz" && is_translation(&row.name));
    let translations: Vec<Row> = translations
        .map(|row| Row { group: kernel::TABLE_1.into(), aim: None, holds: None, ..row.clone() })
        .collect();
    rows.extend(translations);
    if let Some(twzvmm) = &arguments.twzvmm {
        let begun = Instant::now();
        let guest = || Guest::new(twzvmm, &arguments.data);
        let parts: [(&str, Measure<'_>); 6] = [
            ("start-up", &|| kernel::boot(&guest()?, rounds)),
            ("kernel", &|| kernel::rows(&guest()?, rounds, percent)),
            ("logboi", &|| logger::rows(&guest()?, rounds, percent)),
            ("rights", &|| contexts::rights(&guest()?, rounds, divide > 1)),
            ("resume", &|| resume::rows(twzvmm, &arguments.data, rounds, divide > 1)),
            ("switches", &|| contexts::switches(&guest()?, rounds, percent)),
        ];
        for (what, part) in parts {
            eprintln!("bench:   {what} (after {} s)", begun.elapsed().as_secs());
            take(&mut rows, &mut failed, what, part());
        }
    } else {
        let groups = [kernel::not_measured(), logger::not_measured(), contexts::not_measured()];
        rows.extend(groups.into_iter().flatten().map(|row| row.skip(&arguments.no_guest)));
    }
    print!("{}", report::write_all(&arguments.out, &host, &rows, &failed)?);
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Adds what a part measured, or why it did not, so that one that fails does not take the others' rows along.
fn take(rows: &mut Vec<Row>, failed: &mut Vec<String>, what: &str, measured: Result<Vec<Row>>) {
    match measured {
        Ok(measured) => rows.extend(measured),
        Err(error) => {
            eprintln!("bench: {what} failed: {error:#}");
            failed.push(format!("{what}: {error:#}"));
        }
    }
}

/// Whether a row of libtwz's is about translating pointers.
fn is_translation(name: &str) -> bool {
    ["translation", "chase", "resolution"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bench::row::Where;

    #[test]
    fn a_part_that_fails_is_named_and_the_report_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let good = folder.path().join("good.json");
        row::write(&good, &[Row::new("g", "n", Where::Hosted, "ns", &[1.0])]).unwrap();
        Summary { rounds: 7, ..Summary::default() }.write(&good).unwrap();
        let out = folder.path().join("out");
        let run = |rows: &[&std::path::Path], failed: &[&str]| {
            let mut words = vec!["bench".into(), "run".into(), "--out".into(), out.display().to_string()];
            words.extend(rows.iter().flat_map(|path| ["--rows".into(), path.display().to_string()]));
            words.extend(failed.iter().flat_map(|what| ["--failed".into(), (*what).into()]));
            let Command::Run(arguments) = Arguments::parse_from(words).command else { unreachable!() };
            let status = super::run(&arguments).unwrap();
            (status, std::fs::read_to_string(out.join("report.md")).unwrap())
        };
        let (status, text) = run(&[&good], &[]);
        assert!(status == ExitCode::SUCCESS && !text.contains("failed"), "{text}");
        assert!(text.contains("Pace while measuring good: control loop"), "{text}");
        // What cannot be measured here is there with its aim.
        for row in [
            "| start to first ring-3 instruction | host | – | – | – | – | ≤ 50 ms | skipped |",
            "| synchronous record, shared placement | guest | – | – | – | RPC over a UNIX socket | ≤ 0.25× | skipped |",
            "| one way: shared | guest | – | – | – | Linux pipe | ≤ 0.25× | skipped |",
        ] {
            assert!(text.contains(row), "no {row} in {text}");
        }
        assert!(
            text.contains("- boot / memory of the VMM itself (aim ≤ 5 MiB): skipped: no twzvmm was given"),
            "{text}"
        );
        let (status, text) = run(&[&folder.path().join("none.json"), &good], &["pool: status 2: no space"]);
        assert!(status == ExitCode::FAILURE && text.contains("| n | hosted |"), "{text}");
        assert!(
            text.contains("none.json: cannot read") && text.contains("- pool: status 2: no space"),
            "{text}"
        );
    }
}
