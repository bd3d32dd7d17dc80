//! `bench`: measures everything in one run and reports it side by side with what a user would pick instead.
//!
//! Rounds are interleaved: ours, the peer, ours again …; medians count. Times on shared machines are noisy, so ratios come first.

mod contexts;
mod guest;
mod linux;
mod logger;
mod peers;
mod resume;

use anyhow::{Context, Result};
use bench::compare;
use bench::host::{Host, Settings};
use bench::report;
use bench::row::{self, Row, Where};
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
    /// The twzvmm to measure; without it only the other rows are reported.
    #[arg(long)]
    twzvmm: Option<PathBuf>,
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

/// Operations that the guest's `measure` does alone, and what they are: counted, because counts say on any host what a path costs.
const COUNTED: [(&str, &str); 6] = [
    ("syscall", "system call"),
    ("page_fault", "page fault on a fresh mapping"),
    ("slot_fault", "first touch of a slot"),
    ("yield_switch", "switch to another thread by yielding"),
    ("thread", "thread creation and join"),
    ("view_switch", "view switch"),
];

/// A guest operation, the Linux one beside it, and how often a round does the latter.
type Pair = (&'static str, &'static str, fn(u32) -> std::io::Result<f64>, u32);

/// The group of what the paper's Table 1 is about: translating pointers and mapping.
const TABLE_1: &str = "table 1";
/// The pair that is about mapping.
const MAPPING: &str = "map_fault_unmap";

const PAIRS: [Pair; 6] = [
    ("syscall", "getppid", linux::getppid, 20_000),
    ("touch_new_page", "minor fault", linux::minor_fault, 5_000),
    ("map_fault_unmap", "mmap, touch, munmap of a file", linux::map_file, 2_000),
    ("thread_create_join", "pthread create and join", linux::thread_create_join, 500),
    ("wake_other_thread", "futex", linux::futex_wake, 2_000),
    ("view_switch", "switch to another process (pipe)", linux::pipe_switch, 2_000),
];

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Run(arguments) => run(&arguments),
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
    let mut rows = Vec::new();
    let mut failed = arguments.failed.clone();
    for path in &arguments.rows {
        take(&mut rows, &mut failed, &path.display().to_string(), row::read(path));
    }
    // Table 1's other half was measured with libtwz.
    let translations = rows.iter().filter(|row| row.group == "libtwz" && is_translation(&row.name));
    let translations: Vec<Row> = translations
        .map(|row| Row { group: TABLE_1.into(), aim: None, holds: None, ..row.clone() })
        .collect();
    let both = inside(&rows);
    rows.extend(translations);
    rows.extend(both);
    if let Some(twzvmm) = &arguments.twzvmm {
        let begun = Instant::now();
        let (rounds, percent) = (arguments.rounds, arguments.percent);
        let guest = || Guest::new(twzvmm, &arguments.data);
        let parts: [(&str, Measure<'_>); 6] = [
            ("start-up", &|| boot(&guest()?, rounds)),
            ("kernel", &|| kernel(&guest()?, arguments)),
            ("logboi", &|| logger::rows(&guest()?, rounds, percent)),
            ("rights", &|| contexts::rights(&guest()?, rounds)),
            ("resume", &|| resume::rows(twzvmm, &arguments.data, rounds)),
            // Last: it keeps this process on one CPU.
            ("switches", &|| contexts::switches(&guest()?, rounds, percent)),
        ];
        for (what, part) in parts {
            eprintln!("bench:   {what} (after {} s)", begun.elapsed().as_secs());
            take(&mut rows, &mut failed, what, part());
        }
    }
    let Run { rounds, divide, percent, ref commit, .. } = *arguments;
    let settings = Settings { rounds, divide, percent, commit: commit.clone() };
    print!("{}", report::write_all(&arguments.out, &Host::look(settings), &rows, &failed)?);
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

/// What was measured in both places, under the same name: inside, beside the Linux process. Ring 3 is the CPU's in both, where it runs natively;
/// inside, time is the machine's clock, and a busy host shows.
fn inside(rows: &[Row]) -> Vec<Row> {
    let guests = rows.iter().filter(|row| row.place == Where::Guest);
    let both = guests.filter_map(|guest| {
        let same =
            |row: &&Row| row.place == Where::Hosted && (&row.group, &row.name) == (&guest.group, &guest.name);
        let hosted = rows.iter().find(same)?;
        let row = Row {
            group: "inside the machine".into(),
            name: format!("{}: {}", guest.group, guest.name),
            peer: Some(hosted.ours),
            peer_spread: hosted.ours_spread,
            peer_name: Some("in a Linux process".into()),
            ratio: (hosted.ours > 0.0).then(|| guest.ours / hosted.ours),
            skipped: None,
            ..guest.clone()
        };
        // Beside inserts in present pages, which are compared, those in new ones tell what the first touches of a run's pages take.
        let touches_new_pages = guest.name.starts_with("insert, ");
        Some(if touches_new_pages { row } else { row.ratio_at_most(1.1) })
    });
    both.collect()
}

/// Whether a row of libtwz's is about translating pointers.
fn is_translation(name: &str) -> bool {
    ["translation", "chase", "resolution"].iter().any(|word| name.contains(word))
}

/// From the start of `twzvmm` to the first instruction in ring 3, and what the VMM itself occupies.
fn boot(guest: &Guest, rounds: usize) -> Result<Vec<Row>> {
    let (mut startup, mut overhead) = (Vec::new(), Vec::new());
    // The first start imports the programs.
    guest.run(1, &["counter"])?;
    for _ in 0..rounds {
        let (_, report) = guest.run(1, &["counter"])?;
        #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^53 nanoseconds and bytes")]
        {
            startup.push(report.startup_ns.unwrap_or(u64::MAX) as f64 / 1e6);
            overhead.push(report.memory.overhead as f64 / f64::from(1 << 20));
        }
    }
    Ok(vec![
        Row::new("boot", "start to first ring-3 instruction", Where::Host, "ms", &startup).at_most(50.0),
        Row::new("boot", "memory of the VMM itself", Where::Host, "MiB", &overhead).at_most(5.0),
    ])
}

/// Kernel operations beside Linux's, interleaved.
fn kernel(guest: &Guest, arguments: &Run) -> Result<Vec<Row>> {
    let mut ours: Vec<Vec<f64>> = vec![Vec::new(); PAIRS.len()];
    let mut peers: Vec<Vec<f64>> = vec![Vec::new(); PAIRS.len()];
    let (mut named, mut opening) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let measured = guest.measure(2, arguments.percent)?;
        let of = |name: &str| {
            measured.get(name).copied().with_context(|| format!("the guest did not measure {name}"))
        };
        named.push(of("name_in_view")?);
        opening.push(linux::open_map_file(2_000)?);
        for (index, (name, peer, linux, count)) in PAIRS.iter().enumerate() {
            ours[index].push(of(name)?);
            peers[index].push(linux(*count).with_context(|| (*peer).to_string())?);
        }
    }
    let mut rows = vec![
        Row::new("kernel", "map an object by naming it in the view", Where::Guest, "ns", &named)
            .at_most(20.0),
    ];
    for (index, (name, peer, _, _)) in PAIRS.iter().enumerate() {
        let group = if *name == MAPPING { TABLE_1 } else { "kernel" };
        rows.push(Row::new(group, name, Where::Guest, "ns", &ours[index]).beside(peer, &peers[index]));
    }
    let row = |name: &str, samples: &[f64]| Row::new(TABLE_1, name, Where::Guest, "ns", samples);
    rows.push(
        row("map an object by naming it in the view", &named)
            .beside("open, mmap, touch, munmap, close of a file", &opening),
    );
    let mapping = PAIRS.iter().position(|(name, ..)| *name == MAPPING).map_or(&[][..], |i| &ours[i]);
    rows.push(
        row("name it, touch it, take it out", mapping)
            .beside("open, mmap, touch, munmap, close of a file", &opening),
    );
    for (operation, what) in COUNTED {
        let counts = guest.counts(operation)?;
        let row = |name: &str, unit, count| {
            Row::count("kernel counts", &format!("{what}: {name}"), Where::Guest, unit, count)
        };
        rows.push(row("exits to twzvmm", "exits", counts.exits));
        if let Some(interpreted) = counts.interpreted {
            rows.push(row("instructions that KVM interprets", "instructions", interpreted));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_fails_is_named_and_the_report_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let good = folder.path().join("good.json");
        row::write(&good, &[Row::new("g", "n", Where::Hosted, "ns", &[1.0])]).unwrap();
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
        let (status, text) = run(&[&folder.path().join("none.json"), &good], &["pool: status 2: no space"]);
        assert!(status == ExitCode::FAILURE && text.contains("| n | hosted |"), "{text}");
        assert!(
            text.contains("none.json: cannot read") && text.contains("- pool: status 2: no space"),
            "{text}"
        );
    }

    #[test]
    fn what_has_one_name_in_both_places_is_compared() {
        let row = |place, name: &str, ns: f64| Row::new("g", name, place, "ns", &[ns]);
        let rows = [
            row(Where::Hosted, "a", 10.0),
            row(Where::Guest, "a", 12.0),
            row(Where::Guest, "b", 1.0),
            row(Where::Hosted, "c", 1.0),
        ];
        let both = inside(&rows);
        assert_eq!(both.len(), 1);
        assert_eq!((both[0].ours, both[0].ratio, both[0].holds), (12.0, Some(1.2), Some(false)));
    }
}
