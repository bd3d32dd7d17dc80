//! `bench`: measures everything in one run and reports it side by side with what a user would pick instead.
//!
//! Rounds are interleaved: ours, the peer, ours again …; medians count. Times on shared machines are noisy, so ratios come first.

mod guest;
mod linux;
mod report;
mod row;

use anyhow::{Context, Result};
use clap::Parser;
use guest::Guest;
use row::{Row, Where};
use serde::Serialize;
use std::path::PathBuf;

/// Measure Twizzler beside Linux and libraries for persistent memory.
#[derive(Parser)]
struct Arguments {
    /// The twzvmm to measure.
    #[arg(long)]
    twzvmm: PathBuf,
    /// Where the report goes.
    #[arg(long)]
    out: PathBuf,
    /// Rows that other benchmarks measured, as a JSON list or an object a line, to go into the same report.
    #[arg(long)]
    rows: Vec<PathBuf>,
    /// Interleaved rounds.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Operations in a round, in percent of the usual number.
    #[arg(long, default_value_t = 20)]
    percent: u32,
}

#[derive(Serialize)]
struct Whole<'a> {
    host: &'a report::Host,
    rows: &'a [Row],
}

/// A guest operation, the Linux one beside it, and how often a round does the latter.
type Pair = (&'static str, &'static str, fn(u32) -> std::io::Result<f64>, u32);

const PAIRS: [Pair; 6] = [
    ("syscall", "getppid", linux::getppid, 20_000),
    ("touch_new_page", "minor fault", linux::minor_fault, 5_000),
    ("map_fault_unmap", "mmap, touch, munmap of a file", linux::map_file, 2_000),
    ("thread_create_join", "pthread create and join", linux::thread_create_join, 500),
    ("wake_other_thread", "futex", linux::futex_wake, 2_000),
    ("view_switch", "switch to another process (pipe)", linux::pipe_switch, 2_000),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let guest = Guest::new(&arguments.twzvmm)?;
    let mut rows = boot(&guest, arguments.rounds)?;
    rows.extend(kernel(&guest, &arguments)?);
    for path in &arguments.rows {
        rows.extend(row::read(path)?);
    }
    let host = report::Host::look();
    std::fs::create_dir_all(&arguments.out)?;
    let whole = serde_json::to_string_pretty(&Whole { host: &host, rows: &rows })? + "\n";
    std::fs::write(arguments.out.join("report.json"), whole)?;
    let text = report::markdown(&host, &rows);
    std::fs::write(arguments.out.join("report.md"), &text)?;
    print!("{text}");
    let missed: Vec<_> = rows.iter().filter(|row| row.holds == Some(false)).collect();
    println!(
        "\n{} rows, {} miss their aim{}",
        rows.len(),
        missed.len(),
        if missed.is_empty() { "" } else { ":" }
    );
    for row in missed {
        let aim = row.aim.as_deref().unwrap_or_default();
        println!("  {}/{}: {:.3} {} (aim {aim})", row.group, row.name, row.ours, row.unit);
    }
    Ok(())
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
fn kernel(guest: &Guest, arguments: &Arguments) -> Result<Vec<Row>> {
    let mut ours: Vec<Vec<f64>> = vec![Vec::new(); PAIRS.len()];
    let mut peers: Vec<Vec<f64>> = vec![Vec::new(); PAIRS.len()];
    let mut named = Vec::new();
    for _ in 0..arguments.rounds {
        let measured = guest.measure(2, arguments.percent)?;
        let of = |name: &str| {
            measured.get(name).copied().with_context(|| format!("the guest did not measure {name}"))
        };
        named.push(of("name_in_view")?);
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
        rows.push(Row::new("kernel", name, Where::Guest, "ns", &ours[index]).beside(peer, &peers[index]));
    }
    Ok(rows)
}
