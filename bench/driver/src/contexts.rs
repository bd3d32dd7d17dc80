//! Security contexts beside processes: switches, calls, and what rights cost.
//!
//! # Contract
//! - Everything runs on one CPU: the machine's threads, and both processes of each peer, so that each hand-over is a switch.
//! - What is counted (exits, instructions, faults) is the difference between a short and a long run, so that start and end do not count.
//! - The aims are those for hardware; where KVM interprets ring 0 they are reported as missed.

use crate::guest::Guest;
use crate::linux;
use crate::peers;
use anyhow::{Context, Result};
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
    #[serde(default)]
    count: f64,
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
    peers::pin_to_one_cpu()?;
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
    let mut rows = Vec::new();
    for (name, shown, _) in MEASURED {
        let samples = ours.get(name).with_context(|| format!("the guest did not measure {name}"))?;
        let row = Row::new(SWITCHING, shown, Where::Guest, "ns", samples);
        rows.push(match name {
            "switch_shared" => row.beside("Linux pipe", &theirs[0]).ratio_at_most(0.25),
            "switch_own" => row.beside("Linux pipe", &theirs[0]).ratio_at_most(1.0),
            _ => row.beside("Linux Unix socket", &theirs[4]),
        });
    }
    for ((name, ..), samples) in PEERS.iter().zip(&theirs) {
        rows.push(Row::new(SWITCHING, name, Where::Host, "ns", samples));
    }
    for (name, shown, switches) in MEASURED {
        rows.extend(counted(guest, name, shown, switches)?);
    }
    Ok(rows)
}

/// What an operation takes in counts.
fn counted(guest: &Guest, name: &str, shown: &str, switches: u32) -> Result<Vec<Row>> {
    const COUNTS: [u32; 2] = [500, 4500];
    let mut runs = Vec::new();
    for count in COUNTS {
        let (output, report) = guest.run(1, &["switches", &count.to_string(), "1", name])?;
        let line = lines(&output)?.pop().with_context(|| format!("nothing measured for {name}"))?;
        runs.push((line, report));
    }
    let [(few, before), (many, after)] = &runs[..] else { return Ok(Vec::new()) };
    let operations = f64::from(COUNTS[1] - COUNTS[0]);
    let each = |before: f64, after: f64| ((after - before) / operations * 1000.0).round() / 1000.0;
    let row = |what: &str, number: f64| {
        Row::count(SWITCHING, &format!("{what} of {}", shown.replace(": ", ", ")), Where::Guest, "", number)
    };
    let is_own = name.ends_with("own");
    let exits = each(few.root_switches, many.root_switches);
    let limit = if is_own { f64::from(switches) } else { 0.0 };
    let mut rows = vec![
        row("switches of roots, one exit each,", exits).at_most(limit),
        row("register ioctls", each(before.register_ioctls(), after.register_ioctls())).at_most(0.0),
        row("all exits to the VMM", each(before.exits(), after.exits())),
        row("page faults", each(few.page_faults, many.page_faults)),
    ];
    for (kvm, what) in
        [("exits", "all exits to KVM"), ("insn_emulation", "instructions that KVM interpreted")]
    {
        if let (Some(before), Some(after)) = (before.kvm(kvm), after.kvm(kvm)) {
            rows.push(row(what, each(before, after)));
        }
    }
    Ok(rows)
}

/// Binding, touching, revoking, how they grow, and the memory of a context.
pub(crate) fn rights(guest: &Guest, rounds: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mapping = peers::mappings(rounds)?;
    for harts in [1, 2, 4] {
        let (output, _) = guest.run(harts, &["rights", &(rounds * 8).to_string()])?;
        let on = if harts == 1 { "1 hart".to_owned() } else { format!("{harts} harts") };
        for line in lines(&output)? {
            let name = format!("{}, {on}", line.name);
            if line.samples.is_empty() {
                rows.push(Row::count(RIGHTS, &name, Where::Guest, "", line.count).at_most(0.0));
                continue;
            }
            let row = Row::new(RIGHTS, &name, Where::Guest, "ns", &line.samples);
            // What stands behind a comma says how many contexts or objects there were.
            rows.push(match line.name.split(',').next() {
                Some("bind and first touch") => row.beside("mmap of a file and first touch", &mapping.map),
                Some("touch of a further chunk") => {
                    row.beside("first touch of a mapped page", &mapping.touch)
                }
                Some("unmap and unbind") => row.beside("munmap", &mapping.unmap),
                _ => row.beside("mprotect", &mapping.protect),
            });
            if line.name.starts_with("revoke while") {
                for (percentile, share) in [("p50", 0.5), ("p99", 0.99)] {
                    let at = at(&line.samples, share);
                    rows.push(Row::count(RIGHTS, &format!("{name}: {percentile}"), Where::Guest, "ns", at));
                }
            }
        }
    }
    let (_, none) = guest.run(1, &["rights", "1", "0"])?;
    let (output, many) = guest.run(1, &["rights", "1", &OCCUPIED.to_string()])?;
    let frames = lines(&output)?.pop().map_or(0.0, |line| line.count);
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
