//! Security contexts beside processes: switches, calls, and what rights cost.
//!
//! # Contract
//! - Everything runs on one CPU: the machine's threads, and both processes of each peer, so that each hand-over is a switch.
//! - What is counted (exits, instructions, faults) is the difference between a short and a long run, so that start and end do not count.
//! - The aims are those for hardware; where KVM interprets ring 0 they are reported as missed.

use crate::guest::Guest;
use crate::linux;
use crate::peers::{self, Mappings};
use anyhow::{Context, Result};
use bench::pace::Pinned;
use bench::row::{Row, Where};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;

/// The group of switches and calls; a figure of bars.
const SWITCHING: &str = "context switches";
/// The group of binding and revoking.
const RIGHTS: &str = "rights";
/// Contexts that are made to see what one takes.
const OCCUPIED: u32 = 64;

/// What the guest measures, and what a switch of it is called.
const MEASURED: [(&str, &str, u32); 4] = [
    ("switch_shared", "one way: shared", 1),
    ("switch_own", "one way: own", 1),
    ("gate_call_shared", "call and return: shared", 2),
    ("gate_call_own", "call and return: own", 2),
];

/// What Linux does between two processes: name, operation, operations of a round.
type Peer = (&'static str, fn(u32) -> io::Result<f64>, u32);

const PEERS: [Peer; 5] = [
    ("one way: Linux pipe", linux::pipe_switch, 4000),
    ("one way: Linux futex", peers::futex_switch, 4000),
    ("one way: Linux eventfd", peers::eventfd_switch, 4000),
    ("one way: Linux sched_yield", peers::yield_switch, 4000),
    ("call and return: Linux Unix socket", peers::socket_call, 2000),
];

/// A line of `switches` or `rights`.
#[derive(Deserialize)]
struct Line {
    name: String,
    #[serde(default)]
    samples: Vec<f64>,
    /// Of what is counted and has no samples.
    #[serde(default)]
    count: Option<f64>,
    #[serde(default)]
    root_switches: f64,
    #[serde(default)]
    page_faults: f64,
}

fn lines(output: &str) -> Result<Vec<Line>> {
    output.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// Switches and calls beside those of Linux, and what each takes in counts.
pub(crate) fn switches(guest: &Guest, rounds: usize, percent: u32) -> Result<Vec<Row>> {
    // For good: these are the last rows.
    Pinned::here()?;
    let count = (40 * percent).max(100).to_string();
    let mut ours: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut theirs: Vec<Vec<f64>> = vec![Vec::new(); PEERS.len()];
    for _ in 0..rounds {
        let (output, _) = guest.run(1, &["switches", &count, "1"])?;
        for line in lines(&output)? {
            ours.entry(line.name).or_default().extend(line.samples);
        }
        for ((name, peer, count), samples) in PEERS.iter().zip(&mut theirs) {
            samples.push(peer(*count).with_context(|| (*name).to_owned())?);
        }
    }
    for (name, ..) in MEASURED {
        ours.get(name).with_context(|| format!("the guest did not measure {name}"))?;
    }
    let mut rows = times(&ours, &theirs);
    for (name, shown, switches) in MEASURED {
        rows.extend(count_rows(name, shown, switches, &counted(guest, name)?));
    }
    Ok(rows)
}

fn times(ours: &BTreeMap<String, Vec<f64>>, theirs: &[Vec<f64>]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, shown, _) in MEASURED {
        let samples = ours.get(name).map_or(&[][..], Vec::as_slice);
        let row = Row::new(SWITCHING, shown, Where::Guest, "ns", samples);
        rows.push(match name {
            "switch_shared" => row.beside("Linux pipe", &theirs[0]).ratio_at_most(0.25),
            "switch_own" => row.beside("Linux pipe", &theirs[0]).ratio_at_most(1.0),
            _ => row.beside("Linux Unix socket", &theirs[4]),
        });
    }
    for ((name, ..), samples) in PEERS.iter().zip(theirs) {
        rows.push(Row::new(SWITCHING, name, Where::Host, "ns", samples));
    }
    rows
}

/// The rows that have aims, without figures.
pub(crate) fn not_measured() -> Vec<Row> {
    let mut rows = times(&BTreeMap::new(), &vec![Vec::new(); PEERS.len()]);
    for (name, shown, switches) in MEASURED {
        rows.extend(count_rows(name, shown, switches, &Counted::default()));
    }
    rows.extend(HARTS.map(|harts| right_counted(&format!("{AFTERWARDS}, {}", on(harts)), f64::NAN)));
    rows.into_iter().filter(|row| row.aim.is_some()).collect()
}

/// What an operation takes in counts; not a number where it is not known.
struct Counted {
    root_switches: f64,
    register_ioctls: f64,
    exits: f64,
    page_faults: f64,
    /// KVM's counters, where it has them.
    kvm_exits: f64,
    interpreted: f64,
}

impl Default for Counted {
    fn default() -> Self {
        let none = f64::NAN;
        Self {
            root_switches: none,
            register_ioctls: none,
            exits: none,
            page_faults: none,
            kvm_exits: none,
            interpreted: none,
        }
    }
}

/// Counts an operation by the difference between a short and a long run.
fn counted(guest: &Guest, name: &str) -> Result<Counted> {
    // So far apart that an exit or two by chance do not make a thousandth.
    const COUNTS: [u32; 2] = [100, 2700];
    let run = |count: u32| {
        let (output, report) = guest.run(1, &["switches", &count.to_string(), "1", name])?;
        let line = lines(&output)?.pop().with_context(|| format!("nothing measured for {name}"))?;
        anyhow::Ok((line, report))
    };
    let ((few, before), (many, after)) = (run(COUNTS[0])?, run(COUNTS[1])?);
    let operations = f64::from(COUNTS[1] - COUNTS[0]);
    let each = |before: f64, after: f64| ((after - before) / operations * 1000.0).round() / 1000.0;
    let kvm = |name: &str| match (before.kvm(name), after.kvm(name)) {
        (Some(before), Some(after)) => each(before, after),
        _ => f64::NAN,
    };
    Ok(Counted {
        root_switches: each(few.root_switches, many.root_switches),
        register_ioctls: each(before.register_ioctls(), after.register_ioctls()),
        exits: each(before.exits(), after.exits()),
        page_faults: each(few.page_faults, many.page_faults),
        kvm_exits: kvm("exits"),
        interpreted: kvm("insn_emulation"),
    })
}

fn count_rows(name: &str, shown: &str, switches: u32, counted: &Counted) -> Vec<Row> {
    let row = |what: &str, unit: &str, number: f64| {
        let name = format!("{what} of {}", shown.replace(": ", ", "));
        Row::count(SWITCHING, &name, Where::Guest, unit, number)
    };
    let limit = if name.ends_with("own") { f64::from(switches) } else { 0.0 };
    let mut rows = vec![
        row("switches of roots, one exit each,", "exits", counted.root_switches).at_most(limit),
        row("register ioctls", "ioctls", counted.register_ioctls).at_most(0.0),
        row("all exits to the VMM", "exits", counted.exits),
        row("page faults", "faults", counted.page_faults),
        row("all exits to KVM", "exits", counted.kvm_exits),
        row("instructions that KVM interpreted", "instructions", counted.interpreted),
    ];
    rows.retain(|row| row.is_measured() || row.aim.is_some());
    rows
}

/// How many harts the rows of rights are for.
const HARTS: [u32; 3] = [1, 2, 4];
/// What must not happen, as the guest calls it.
const AFTERWARDS: &str = "accesses after a revocation";
/// Samples of a round: of binding, touching and revoking. Of each point of their growth there is one: most of its time goes into the contexts
/// and objects that it is about.
const SAMPLES: usize = 8;
/// The same in a quick run.
const QUICK_SAMPLES: usize = 4;

fn on(harts: u32) -> String {
    if harts == 1 { "1 hart".into() } else { format!("{harts} harts") }
}

fn right_counted(name: &str, count: f64) -> Row {
    Row::count(RIGHTS, name, Where::Guest, "accesses", count).at_most(0.0)
}

/// What the rounds found out, by the names of rows, in the order in which they were first seen.
#[derive(Default)]
struct Found {
    names: Vec<String>,
    samples: BTreeMap<String, Vec<f64>>,
    counts: BTreeMap<String, f64>,
}

impl Found {
    fn take(&mut self, harts: u32, line: Line) {
        let name = format!("{}, {}", line.name, on(harts));
        if !self.names.contains(&name) {
            self.names.push(name.clone());
        }
        self.samples.entry(name.clone()).or_default().extend(line.samples);
        if let Some(count) = line.count {
            *self.counts.entry(name).or_default() += count;
        }
    }
}

/// Binding, touching, revoking, how they grow, and the memory of a context.
pub(crate) fn rights(guest: &Guest, rounds: usize, quick: bool) -> Result<Vec<Row>> {
    let (mut found, mut mapping) = (Found::default(), Mappings::default());
    let samples = if quick { QUICK_SAMPLES } else { SAMPLES };
    for _ in 0..rounds {
        for harts in HARTS {
            let (output, _) = guest.run(harts, &["rights", "--growth", "1", &samples.to_string()])?;
            lines(&output)?.into_iter().for_each(|line| found.take(harts, line));
        }
        peers::mappings(&mut mapping, samples)?;
    }
    let mut rows = Vec::new();
    for name in &found.names {
        if let Some(&count) = found.counts.get(name) {
            rows.push(right_counted(name, count));
            continue;
        }
        let samples = found.samples.get(name).map_or(&[][..], Vec::as_slice);
        let row = Row::new(RIGHTS, name, Where::Guest, "ns", samples);
        // What stands behind a comma says how many contexts or objects there were.
        rows.push(match name.split(',').next() {
            Some("bind and first touch") => row.beside("mmap of a file and first touch", &mapping.map),
            Some("touch of a further chunk") => row.beside("first touch of a mapped page", &mapping.touch),
            Some("unmap and unbind") => row.beside("munmap", &mapping.unmap),
            _ => row.beside("mprotect", &mapping.protect),
        });
        if name.starts_with("revoke while") {
            for (percentile, share) in [("p50", 0.5), ("p99", 0.99)] {
                let at = at(samples, share);
                rows.push(Row::count(RIGHTS, &format!("{name}: {percentile}"), Where::Guest, "ns", at));
            }
        }
    }
    let (_, none) = guest.run(1, &["rights", "1", "0"])?;
    let (output, many) = guest.run(1, &["rights", "1", &OCCUPIED.to_string()])?;
    let frames = lines(&output)?.pop().and_then(|line| line.count).context("no kernel frames counted")?;
    let each = |bytes: f64| bytes / f64::from(OCCUPIED) / 1024.0;
    let kernel = each(frames * 4096.0);
    let vmm = each(many.overhead() - none.overhead());
    rows.push(Row::count(RIGHTS, "memory of a context, in the guest kernel", Where::Guest, "KiB", kernel));
    rows.push(Row::count(RIGHTS, "memory of a context, in the VMM", Where::Host, "KiB", vmm));
    Ok(rows)
}

/// The sample below which this share of all lies.
fn at(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into the samples")]
    #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^53 samples")]
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_known_without_a_guest() {
        let rows = not_measured();
        assert_eq!(rows.len(), 2 + 4 * 2 + HARTS.len());
        assert!(rows.iter().all(|row| row.holds.is_none() && !row.is_measured() && !row.unit.is_empty()));
        let counted = Counted { root_switches: 1.0, register_ioctls: 0.0, ..Counted::default() };
        let holds =
            |name| count_rows(name, "one way", 1, &counted).iter().map(|row| row.holds).collect::<Vec<_>>();
        assert_eq!(holds("switch_own"), [Some(true), Some(true)]);
        assert_eq!(holds("switch_shared"), [Some(false), Some(true)]);
    }

    #[test]
    fn rounds_add_up() {
        let mut found = Found::default();
        for round in [
            "{\"name\": \"a\", \"samples\": [1, 2]}",
            "{\"name\": \"a\", \"samples\": [3]}",
            "{\"name\": \"a\", \"samples\": []}",
        ] {
            lines(round).unwrap().into_iter().for_each(|line| found.take(1, line));
        }
        let late = |count| format!("{{\"name\": \"{AFTERWARDS}\", \"count\": {count}}}");
        for round in [late(0), late(2)] {
            lines(&round).unwrap().into_iter().for_each(|line| found.take(4, line));
        }
        assert_eq!(found.names, ["a, 1 hart".to_owned(), format!("{AFTERWARDS}, 4 harts")]);
        assert_eq!(found.samples["a, 1 hart"], [1.0, 2.0, 3.0]);
        assert_eq!(found.counts[&found.names[1]], 2.0, "one in any round is too many");
        assert_eq!(found.counts.len(), 1, "what has no samples in a round is not counted");
    }

    #[test]
    fn percentiles() {
        let samples: Vec<f64> = (0..100).rev().map(f64::from).collect();
        assert_eq!((at(&samples, 0.5), at(&samples, 0.99), at(&samples, 1.0)), (50.0, 99.0, 99.0));
        assert_eq!(at(&[], 0.5), 0.0);
    }

    #[test]
    fn lines_of_the_programs_are_read() {
        let read =
            lines("{\"name\": \"a\", \"samples\": [1, 2], \"count\": 5, \"root_switches\": 3}").unwrap();
        assert_eq!((read[0].samples.len(), read[0].root_switches, read[0].page_faults), (2, 3.0, 0.0));
        assert!(lines("nonsense").is_err());
    }
}
