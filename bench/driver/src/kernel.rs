//! Starting, and what the kernel does for programs beside what Linux does; of which the paper's Table 1 is a part: what it takes to reach data
//! and to leave it again, step by step.

use crate::guest::Guest;
use crate::linux;
use anyhow::{Context, Result};
use bench::row::{Row, Where};
use std::collections::BTreeMap;
use std::io;

/// The group of what the paper's Table 1 is about: translating pointers and mapping.
pub(crate) const TABLE_1: &str = "table 1";
const KERNEL: &str = "kernel";

/// Operations that the guest's `measure` does alone, and what they are: counted, because counts say on any host what a path costs.
const COUNTED: [(&str, &str); 6] = [
    ("syscall", "system call"),
    ("page_fault", "page fault on a fresh mapping"),
    ("slot_fault", "first touch of a slot"),
    ("yield_switch", "switch to another thread by yielding"),
    ("thread", "thread creation and join"),
    ("view_switch", "view switch"),
];

/// What Linux does: name, operation, operations of a round.
type Peer = (&'static str, fn(u32) -> io::Result<f64>, u32);

const PEERS: [Peer; 9] = [
    ("getppid", linux::getppid, 20_000),
    ("minor fault", linux::minor_fault, 5_000),
    ("pthread create and join", linux::thread_create_join, 500),
    ("futex", linux::futex_wake, 2_000),
    ("switch to another process (pipe)", linux::pipe_switch, 2_000),
    ("open and close of a file", linux::open_close, 2_000),
    ("mmap and munmap of a file, untouched", linux::map_untouched, 2_000),
    ("mmap, touch, munmap of a file", linux::map_file, 2_000),
    ("open, mmap, touch, munmap, close of a file", linux::open_map_file, 2_000),
];
/// The steps of the last one: how often in a round, and what they are.
const STEPS: u32 = 200;
const STEP_NAMES: [&str; 3] =
    ["open and mmap of a file", "first touch of a mapped file", "munmap and close of a file"];

/// A row: group, name, the guest's operation, what stands beside it.
type Line = (&'static str, &'static str, &'static str, Option<&'static str>);

const LINES: [Line; 14] = [
    (KERNEL, NAMING, "name_in_view", None),
    (KERNEL, "syscall", "syscall", Some(PEERS[0].0)),
    (KERNEL, "touch_new_page", "touch_new_page", Some(PEERS[1].0)),
    (KERNEL, "thread_create_join", "thread_create_join", Some(PEERS[2].0)),
    (KERNEL, "wake_other_thread", "wake_other_thread", Some(PEERS[3].0)),
    (KERNEL, "view_switch", "view_switch", Some(PEERS[4].0)),
    (TABLE_1, "1. name an object in the view", "name_in_view", Some(STEP_NAMES[0])),
    (TABLE_1, "1. name an object in the view, against opening alone", "name_in_view", Some(PEERS[5].0)),
    (TABLE_1, "1. name an object in the view, against mapping alone", "name_in_view", Some(PEERS[6].0)),
    (TABLE_1, "2. first touch of what is named", "touch_named", Some(STEP_NAMES[1])),
    (TABLE_1, "3. take it out of the view", "take_out", Some(STEP_NAMES[2])),
    (TABLE_1, "name it, touch it, take it out, against an open file", "map_fault_unmap", Some(PEERS[7].0)),
    (TABLE_1, "name it, touch it, take it out", "map_fault_unmap", Some(PEERS[8].0)),
    (TABLE_1, "touch a further new page", "touch_new_page", Some(PEERS[1].0)),
];
/// The row with the aim: no call and no exit, only a store.
const NAMING: &str = "map an object by naming it in the view";
/// At most so many nanoseconds.
const NAMING_AIM: f64 = 20.0;

/// Samples by operation.
type Samples = BTreeMap<String, Vec<f64>>;

/// From the start of `twzvmm` to the first instruction in ring 3, and what the VMM itself occupies.
pub(crate) fn boot(guest: &Guest, rounds: usize) -> Result<Vec<Row>> {
    let (mut startup, mut overhead) = (Vec::new(), Vec::new());
    // The first start imports the programs.
    guest.run(1, &["counter"])?;
    for _ in 0..rounds {
        let (_, report) = guest.run(1, &["counter"])?;
        #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^53 nanoseconds")]
        startup.push(report.startup_ns.unwrap_or(u64::MAX) as f64 / 1e6);
        overhead.push(report.overhead() / f64::from(1 << 20));
    }
    Ok(boot_rows(&startup, &overhead))
}

fn boot_rows(startup: &[f64], overhead: &[f64]) -> Vec<Row> {
    vec![
        Row::new("boot", "start to first ring-3 instruction", Where::Host, "ms", startup).at_most(50.0),
        Row::new("boot", "memory of the VMM itself", Where::Host, "MiB", overhead).at_most(5.0),
    ]
}

/// Kernel operations beside Linux's, interleaved.
pub(crate) fn rows(guest: &Guest, rounds: usize, percent: u32) -> Result<Vec<Row>> {
    let (mut ours, mut theirs) = (Samples::new(), Samples::new());
    for _ in 0..rounds {
        for (name, ns) in guest.measure(2, percent)? {
            ours.entry(name).or_default().push(ns);
        }
        for (name, operation, count) in PEERS {
            theirs.entry(name.into()).or_default().push(operation(count).context(name)?);
        }
        for (name, ns) in STEP_NAMES.iter().zip(linux::steps(STEPS).context("the steps of mapping a file")?) {
            theirs.entry((*name).into()).or_default().push(ns);
        }
    }
    for (.., operation, _) in LINES {
        ours.get(operation).with_context(|| format!("the guest did not measure {operation}"))?;
    }
    let mut rows = times(&ours, &theirs);
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

fn times(ours: &Samples, theirs: &Samples) -> Vec<Row> {
    let of = |samples: &Samples, name: &str| samples.get(name).cloned().unwrap_or_default();
    let lines = LINES.iter().map(|(group, name, operation, peer)| {
        let row = Row::new(group, name, Where::Guest, "ns", &of(ours, operation));
        let row = peer.map_or(row.clone(), |peer| row.beside(peer, &of(theirs, peer)));
        if *name == NAMING { row.at_most(NAMING_AIM) } else { row }
    });
    lines.collect()
}

/// The rows that have aims, without figures.
pub(crate) fn not_measured() -> Vec<Row> {
    let rows = boot_rows(&[], &[]).into_iter().chain(times(&Samples::new(), &Samples::new()));
    rows.filter(|row| row.aim.is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_peer() {
        let all = |names: &[&str]| names.iter().map(|name| ((*name).into(), vec![4.0])).collect::<Samples>();
        let ours = all(&LINES.map(|(_, _, operation, _)| operation));
        let theirs = all(&PEERS.map(|(name, ..)| name)).into_iter().chain(all(&STEP_NAMES)).collect();
        let rows = times(&ours, &theirs);
        assert_eq!(rows.len(), LINES.len());
        assert!(rows.iter().all(|row| row.ratio == Some(1.0) || row.name == NAMING));
        assert_eq!(rows[0].holds, Some(true));
        let mut names: Vec<_> = rows.iter().map(|row| (&row.group, &row.name)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), LINES.len(), "rows are matched by their names");
    }
}
