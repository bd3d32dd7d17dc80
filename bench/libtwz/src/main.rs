//! `bench-libtwz`: the figures of libtwz beside its peers, in one interleaved run.
//!
//! Each row is measured in rounds: ours, then the peer, then ours again …, and the median of each side counts, in time on the CPU. A program inside
//! the machine does the same in turns with ours, in time on the wall on both sides. Both
//! write to memory and flush as if it were persistent (`PMEM_IS_PMEM_FORCE=1` and the same for us), on the same CPU.
//!
//! Maps of the peer are PMDK's own examples, unchanged: `hashmap_tx`, and of `tree_map` `btree_map` (the fastest, so the one that
//! counts) and `rbtree_map`; `ctree_map` needs a header that Debian leaves out. Keys, values (16 bytes) and their order are the same on both sides, and each insert is a
//! durable transaction on both.

mod facts;
mod ours;
mod plans;
mod std_maps;
mod stopwatch;

use anyhow::Result;
use bench::arguments::Arguments;
use bench::inside;
use bench::pace::{Pinned, Summary};
use bench::peer::Peer;
use bench::row::{Row, Where};
use bench::steady::{Pairs, Steady};
use clap::Parser;
use ours::Ours;
use plans::{Aim, LMDB, PLANS, Plan, STD};
use std::path::Path;
use std_maps::Std;

/// The group of the rows.
const GROUP: &str = "libtwz";
/// Pieces of a round that are timed one by one, here and inside in turns: on a busy host most of them run without a break, and the median on the
/// wall's clock is one of these.
const SLICES: u64 = 10;

#[derive(Debug, Parser)]
#[command(
    about = "Measures libtwz beside PMDK, LMDB and std, and inside the machine, in one interleaved run"
)]
struct Program {
    #[command(flatten)]
    arguments: Arguments,
    /// Only rows whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    #[command(flatten)]
    inside: inside::Options,
}

fn main() -> Result<()> {
    let program = Program::parse();
    let (rows, pace) = run(&program)?;
    program.arguments.report(&rows, &pace)
}

fn run(program: &Program) -> Result<(Vec<Row>, Summary)> {
    let Program { arguments, only, inside } = program;
    Pinned::here()?;
    let directory = tempfile::tempdir()?;
    let mut peers = Peers {
        pmdk: pmdk(directory.path(), &arguments.data),
        lmdb: lmdb(directory.path(), &arguments.data),
        std: Std::default(),
        inside: inside.start(&arguments.data),
    };
    libtwz::persist::set_durability(libtwz::sys::Durability::Power);
    let store = libtwz::sys::hosted::MemoryStore::with_durability(libtwz::sys::Durability::Power)?;
    libtwz::sys::hosted::use_store(std::sync::Arc::new(store))?;
    let mut ours = [Ours::new()?, Ours::new()?];
    let mut rows = Vec::new();
    let plans: Vec<&Plan> = PLANS.iter().filter(|plan| plan.name.contains(only)).collect();
    let mut steady = arguments.steady(2 * plans.len());
    for plan in plans {
        rows.extend(measure(plan, &mut ours, &mut peers, &mut steady, arguments)?);
    }
    rows.extend(facts::rows()?.into_iter().filter(|row| row.name.contains(only)));
    Ok((rows, steady.summary()))
}

/// The programs beside us.
struct Peers {
    pmdk: Peer,
    lmdb: Peer,
    std: Std,
    /// Ourselves, on Twizzler.
    inside: Peer,
}

impl Peers {
    /// Nanoseconds of what stands beside us; None if nothing does.
    fn measure(&mut self, plan: &Plan, count: u64) -> Result<Option<f64>> {
        let (peer, what, parameter) = match plan.peer {
            None => return Ok(None),
            Some((STD, what, _)) => return self.std.measure(what, count).map(Some),
            Some((LMDB, what, parameter)) => (&mut self.lmdb, what, parameter),
            Some((_, what, parameter)) => (&mut self.pmdk, what, parameter),
        };
        let [them] = peer.measure_all(format_args!("{what} {parameter}"), count)?;
        Ok(them)
    }
}

fn pmdk(folder: &Path, data: &Path) -> Peer {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/pmdk.c");
    let maps = ["hashmap/hashmap_tx.c", "tree_map/btree_map.c", "tree_map/rbtree_map.c"];
    Peer::pmdk(source, &maps, folder, data)
}

fn lmdb(folder: &Path, data: &Path) -> Peer {
    Peer::lmdb(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/lmdb.c"), folder, data)
}

/// Measures a row: ours and the peer by turns, and then, with other objects that grow as those inside do, ours and the machine. So each ratio is of
/// two sides that had the same next to them: loops of the machine between would leave our caches to it, and not the peer's.
fn measure(
    plan: &Plan,
    [ours, beside_guest]: &mut [Ours; 2],
    peers: &mut Peers,
    steady: &mut Steady,
    arguments: &Arguments,
) -> Result<Vec<Row>> {
    let slice = arguments.scaled(plan.count, SLICES) / SLICES;
    let count = slice * SLICES;
    let Pairs { ours: us, theirs: them, outcome } = Pairs::of(steady.rounds(arguments.rounds, |round| {
        let us = ours.measure(plan.ours.0, plan.ours.1, count)?.cpu;
        round.between();
        anyhow::Ok((us, peers.measure(plan, count)?))
    })?);

    let is_there = peers.inside.missing().is_none();
    let slices = if is_there { arguments.rounds * usize::try_from(SLICES)? } else { 0 };
    let question = format!("libtwz {} {}", plan.ours.0, plan.ours.1);
    let slices = Pairs::of(steady.rounds(slices, |round| {
        let hosted = beside_guest.measure(plan.ours.0, plan.ours.1, slice)?.wall;
        round.between();
        let [guest] = peers.inside.measure_all(&question, slice)?;
        anyhow::Ok((hosted, guest))
    })?);
    let both = inside::Samples { hosted: slices.ours, guest: slices.theirs };
    let row = Row::new(GROUP, plan.name, Where::Hosted, "ns", &us);
    let row = match plan.peer {
        None => row,
        Some((STD, ..)) => row.beside(STD, &them),
        Some((LMDB, ..)) => peers.lmdb.put_beside(row, LMDB, &them),
        Some((name, ..)) => peers.pmdk.put_beside(row, name, &them),
    };
    let row = match plan.aim {
        Aim::None => row,
        Aim::Ratio(limit) => row.ratio_at_most(limit),
        Aim::Nanoseconds(limit) => row.at_most(limit),
    };
    let inside = both.rows(&peers.inside, GROUP, plan.name, true);
    let inside = inside.into_iter().map(|row| row.steadied(slices.outcome));
    let rows = std::iter::once(row.steadied(outcome)).chain(inside);
    // Maps that are inserted into grow from round to round; the others are as large whatever the count.
    let grows = plan.ours.0.ends_with("_insert");
    Ok(rows.map(|row| if grows { row.sized(count, plan.count, "inserts a round") } else { row }).collect())
}
