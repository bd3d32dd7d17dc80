//! One run of operations, all power failures during it, and mutants of it.

use crate::world::World;
use libtwz::Window;
use libtwz::prelude::*;
use libtwz::simulate::{self, Site};
use pmem::sim::{Config, Crash, Event, Failure, Mutant, Report, Sim, explore, mutants};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::result::Result as StdResult;

pub(crate) type Result<T, E = Error> = StdResult<T, E>;

/// What became of the mutants of one sort at one place of the crate.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) killed: u64,
    pub(crate) equivalent: u64,
    pub(crate) survived: u64,
    pub(crate) example: String,
}

/// (place, sort) to what became of them.
pub(crate) type Places = BTreeMap<(String, &'static str), Verdict>;

/// What to do with a scenario.
#[derive(Debug)]
pub(crate) enum How<'a> {
    /// Explore its power failures.
    Explore,
    /// Explore those of its mutants.
    Mutate(&'a mut Places),
}

/// Mutants of one sort at one place that are tried in one scenario: a wrong program is wrong each time it comes there.
const TRIES: u64 = 60;

/// Runs the operations, then explores all failures of the run, or of its mutants. `check(k)` compares what was recovered with the
/// model after k operations.
pub(crate) fn scenario(
    name: &str,
    objects: &[Window],
    world: &Rc<World>,
    steps: &mut dyn FnMut(u64) -> bool,
    check: &dyn Fn(u64) -> Result<(), String>,
    how: &mut How<'_>,
) {
    world.on(|| {
        world.record_from(objects);
        for step in 0.. {
            world.mark(step);
            if !steps(step) {
                break;
            }
        }
    });
    let (trace, sites) = world.take();
    let mut accept = |sim: &Sim, crash: Crash| {
        world.load();
        simulate::reboot();
        let first = world.on(|| check(crash.mark));
        if crash.at_mark || first.is_ok() {
            return first;
        }
        // Once more from what the failure left: the first opening may have repaired what the check is to notice.
        sim.rewind(&sim.take_trace());
        sim.start_recording();
        world.load();
        simulate::reboot();
        world.on(|| check(crash.mark + 1)).map_err(|second| {
            format!("neither before ({}) nor after ({second}) the operation", first.unwrap_err())
        })
    };
    match how {
        How::Explore => explore_all(name, &world.sim, &trace, &mut accept),
        How::Mutate(places) => mutate(name, &world.sim, &trace, &sites, &mut accept, places),
    }
}

type Accept<'a> = dyn FnMut(&Sim, Crash) -> Result<(), String> + 'a;

fn explore_all(name: &str, sim: &Sim, trace: &[Event], accept: &mut Accept<'_>) {
    let effort = effort();
    let fail = |failure| panic!("{name}: {failure}");
    let config = Config {
        exhaustive: 4 * effort,
        samples: 2 * effort,
        depth: 1,
        track_reads: false,
        seed: 1,
        from: 0,
    };
    let mut report: Report = explore(sim, trace, &config, accept).unwrap_or_else(fail);
    // Failures of the recovery, too, from the last operations.
    let from = trace.len().saturating_sub(8 * usize::try_from(effort).unwrap());
    let nested = Config { exhaustive: 2, samples: 1, depth: 2, from, ..config };
    report.add(&explore(sim, trace, &nested, accept).unwrap_or_else(fail));
    println!(
        "{name}: {} events, {} points, {} states, {} recovered and checked, {} after a cut-off recovery",
        trace.len(),
        report.points,
        report.states,
        report.checked,
        report.nested_states
    );
    assert!(report.states > 100, "{name}: explored too little");
}

fn mutate(
    name: &str,
    sim: &Sim,
    trace: &[Event],
    sites: &[Site],
    accept: &mut Accept<'_>,
    places: &mut Places,
) {
    let mut tried: BTreeMap<(String, &'static str), u64> = BTreeMap::new();
    // What the store of objects does is the pool's: its own tests mutate that.
    for mutant in mutants(trace, |event| !sites[event].file().ends_with("world.rs")) {
        let place = (sites[mutant.event].to_string(), mutant.kind);
        let verdict = places.entry(place.clone()).or_default();
        if mutant.equivalent {
            verdict.equivalent += 1;
            continue;
        }
        let tries = tried.entry(place).or_default();
        if verdict.killed > 0 || *tries >= TRIES {
            continue;
        }
        *tries += 1;
        if run_mutant(sim, trace, &mutant, accept).is_err() {
            verdict.killed += 1;
        } else {
            verdict.survived += 1;
            verdict.example = format!("{}, in {name}", mutant.what);
        }
    }
}

/// What comes before the mutation is right; its effect may show as late as the next checkpoint.
fn run_mutant(
    sim: &Sim,
    trace: &[Event],
    mutant: &Mutant,
    accept: &mut Accept<'_>,
) -> Result<Report, Box<Failure>> {
    let from = trace.iter().zip(&mutant.trace).take_while(|(right, wrong)| right == wrong).count();
    let config = Config { exhaustive: 8, samples: 8, depth: 1, track_reads: false, seed: 1, from };
    explore(sim, &mutant.trace, &config, accept)
}

/// How much to explore: `TWZ_CRASH_EFFORT=10` takes minutes, the default seconds.
fn effort() -> u64 {
    std::env::var("TWZ_CRASH_EFFORT").ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

pub(crate) fn expect<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: T,
    expected: T,
) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:?}, expected {expected:?}")) }
}

pub(crate) fn text<T>(result: Result<T>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}
