//! Power failures at every store, of every operation of the pool, and of the recovery from them.
//!
//! What would be lost without this: a missing fence shows on no test that runs to its end, and `kill -9` keeps every store.
//! Random sequences of operations run on simulated memory; for each memory that a power failure can leave, the pool is
//! opened and must be exactly as before or after the operation that was cut. Then the same is asked of mutants: the
//! sequences with one flush, fence or group of stores missing or misplaced. Each of them must fail.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "tests"
)]

mod model;
mod scripts;
mod workload;

use model::{Looks, Snapshot};
use pmem::sim::{Config, Crash, Event, Failure, Mutant, Report, Sim, audit, explore, mutants};
use pool::Pool;
use std::collections::BTreeMap;
use workload::{Recorded, record};

/// Random sequences that are explored: enough for ten million memories, in half a minute. `POOL_CRASH_SEQUENCES` sets
/// another number, for a quick look or a long night.
const SEQUENCES: u64 = 600;
/// Longer ones fill a chunk of 2 MiB with zeros, a store for each word. Each such store is a point of its own, with thousands of lines
/// pending: one sequence would take as long as all others.
const EVENTS_MAX: usize = 100_000;

/// Opens what the power failure left, and says what is wrong with it.
fn check(recorded: &Recorded, sim: &Sim, crash: Crash) -> Result<(), String> {
    let pool = Pool::load(sim).map_err(|error| format!("does not open: {error}"))?;
    let found = Snapshot::take(&pool, &recorded.probes).map_err(|error| format!("does not read: {error}"))?;
    // Mark 2n: operation n begins; 2n + 1: it has returned.
    let operation = (crash.mark / 2) as usize;
    let before = &recorded.snapshots[operation];
    let after = recorded.snapshots.get(operation + 1).unwrap_or(before);
    let returned = crash.mark % 2 == 1;
    if found == *after || (!returned && found.is_either(before, after)) {
        return Ok(());
    }
    let what = &recorded.operations[operation];
    let when = if returned { "after" } else { "during" };
    Err(format!("{when} operation {operation} ({what}): {}", found.difference(before, after)))
}

/// What this thread has had of a core, in seconds: the first number of Linux's schedstat is in ns.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

#[test]
fn every_crash_leaves_the_state_before_or_after() {
    let wanted = std::env::var("POOL_CRASH_SEQUENCES").ok().and_then(|text| text.parse().ok());
    let begin = processor_seconds();
    let mut total = Report::default();
    let (mut operations, mut left_out) = (0, 0_u64);
    for seed in 1..=wanted.unwrap_or(SEQUENCES) {
        let recorded = record(seed, 100, Looks::Probes);
        if recorded.trace.len() > EVENTS_MAX {
            left_out += 1;
            continue;
        }
        operations += recorded.operations.len();
        let config = Config { seed, ..Config::default() };
        let result =
            explore(&recorded.sim, &recorded.trace, &config, &mut |sim, crash| check(&recorded, sim, crash));
        match result {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("sequence {seed}: {failure}"),
        }
    }
    let rate = total.states as f64 / (processor_seconds() - begin);
    println!(
        "pool-crash: {operations} operations, {total:?}, {rate:.0} states/s of processor time; {left_out} sequences left out"
    );
    assert!(left_out <= wanted.unwrap_or(SEQUENCES) / 50, "too many sequences were left out");
    assert!(wanted.is_some() || total.states >= 10_000_000, "too few memories were looked at");
}

#[test]
fn trees_survive_every_crash() {
    explore_script(&scripts::trees());
}

#[test]
fn names_survive_every_crash() {
    explore_script(&scripts::names());
}

fn explore_script(recorded: &Recorded) {
    let config = Config { exhaustive: 512, ..Config::default() };
    let result =
        explore(&recorded.sim, &recorded.trace, &config, &mut |sim, crash| check(recorded, sim, crash));
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

/// What became of the mutants of one sort at one place of the program.
#[derive(Default)]
struct Verdict {
    killed: u64,
    equivalent: u64,
    survived: u64,
    example: String,
}

/// Every flush, fence and group of stores of six sequences is dropped or misplaced in turn. A wrong program does so each time
/// it comes to that place, so a sort of mutant at a place of the program counts as killed when one of its runs is.
#[test]
fn mutants_are_killed() {
    let mut places: BTreeMap<(String, &str), Verdict> = BTreeMap::new();
    for seed in 1..=4 {
        try_mutants(&record(seed, 20, Looks::Everything), &mut places);
    }
    try_mutants(&scripts::trees(), &mut places);
    try_mutants(&scripts::names(), &mut places);
    let sum = |count: fn(&Verdict) -> u64| places.values().map(count).sum::<u64>();
    let killed = places.values().filter(|verdict| verdict.killed > 0).count();
    let equivalent = places.values().filter(|verdict| verdict.killed + verdict.survived == 0).count();
    println!(
        "pool-mutants: {} places and sorts, {killed} killed, {equivalent} equivalent; {} single mutants, {} killed, \
         {} equivalent, {} without effect in that sequence",
        places.len(),
        sum(|verdict| verdict.killed + verdict.equivalent + verdict.survived),
        sum(|verdict| verdict.killed),
        sum(|verdict| verdict.equivalent),
        sum(|verdict| verdict.survived),
    );
    let survivors: Vec<String> = places
        .iter()
        .filter(|(_, verdict)| verdict.killed == 0 && verdict.survived > 0)
        .map(|((site, kind), verdict)| format!("{kind} at {site}: {}", verdict.example))
        .collect();
    assert!(survivors.is_empty(), "mutants survived:\n{}", survivors.join("\n"));
    assert!(killed > 30, "too few places of the program were mutated");
}

fn try_mutants(recorded: &Recorded, places: &mut BTreeMap<(String, &'static str), Verdict>) {
    // Of the lines of zeroed and copied pages one in eight will do.
    let wanted = |event: usize| match recorded.trace[event] {
        Event::Store { at, around: true, .. } => (at / pmem::LINE).is_multiple_of(8),
        _ => true,
    };
    for mutant in &mutants(&recorded.trace, wanted) {
        let place = (recorded.sites[mutant.event].to_string(), mutant.kind);
        let verdict = places.entry(place).or_default();
        if mutant.equivalent {
            verdict.equivalent += 1;
        } else if run_mutant(recorded, mutant).is_err() {
            verdict.killed += 1;
        } else {
            verdict.survived += 1;
            let operation = operation_at(recorded, mutant.event);
            verdict.example = format!("{}, in {operation}", mutant.what);
        }
    }
}

fn run_mutant(recorded: &Recorded, mutant: &Mutant) -> Result<Report, Box<Failure>> {
    let before = recorded.trace[..mutant.event].iter().rposition(|event| matches!(event, Event::Mark(_)));
    let config =
        Config { depth: 1, exhaustive: 256, samples: 16, from: before.unwrap_or(0), ..Config::default() };
    explore(&recorded.sim, &mutant.trace, &config, &mut |sim, crash| check(recorded, sim, crash))
}

/// The operation that an event of the trace belongs to.
fn operation_at(recorded: &Recorded, event: usize) -> &str {
    let mark = recorded.trace[..event].iter().rev().find_map(|event| match event {
        Event::Mark(mark) => Some(*mark),
        _ => None,
    });
    &recorded.operations[mark.unwrap_or(0) as usize / 2]
}

/// No operation flushes a line that has nothing new, or fences when nothing waits.
#[test]
fn flushes_and_fences_are_not_wasted() {
    let mut costs: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for seed in 1..=20 {
        let recorded = record(seed, 100, Looks::Probes);
        for piece in audit(&recorded.trace).iter().filter(|piece| piece.mark % 2 == 0 && piece.stores > 0) {
            let operation = &recorded.operations[(piece.mark / 2) as usize];
            let wasted = (piece.redundant_flushes, piece.redundant_fences);
            assert_eq!(wasted, (0, 0), "sequence {seed}, {operation}: redundant flushes, fences");
            let kind = operation.split([' ', ':']).next().unwrap_or_default();
            let cost = costs.entry(kind.to_owned()).or_default();
            *cost = (cost.0 + 1, cost.1 + piece.flushes, cost.2 + piece.fences);
        }
    }
    for (kind, (count, flushes, fences)) in costs {
        let (flushes, fences) = (flushes as f64 / count as f64, fences as f64 / count as f64);
        println!("pool-flushes: {kind}: {count} times, {flushes:.1} flushes and {fences:.1} fences each");
    }
}
