//! `bench-apps`: the paper's programs beside their peers, in interleaved rounds; rows go to a file that `bench` takes in.
//!
//! Both sides write to memory and flush as if it were persistent (`PMEM_IS_PMEM_FORCE=1` and the same for us). Times are of the CPU, but
//! for threads.

extern crate alloc;

mod both;
mod chained;
mod ours;
mod peers;
mod stores;
mod timed;
mod trees;
mod ycsb;

use anyhow::Result;
use bench::arguments::Arguments;
use bench::pace::Pinned;
use bench::row::Row;
use clap::Parser;
use libtwz::sys::Durability;
use libtwz::sys::hosted::{MemoryStore, use_store};
use std::sync::Arc;

/// Pairs of Figure 6, and nodes of §5.4, in a full run.
const PAIRS: u64 = 1_000_000;
/// Nodes of the trees beside PMDK's.
const PMDK_NODES: u64 = 250_000;
/// Keys that the mixes have, and operations of a round.
const YCSB_KEYS: u64 = 200_000;
const YCSB_OPERATIONS: u64 = 400_000;

/// Measure kv and rbt beside unixkv, unixrbt, PMDK, LMDB and raw pointers.
#[derive(Parser)]
struct Program {
    #[command(flatten)]
    arguments: Arguments,
    /// Only these parts: figure6, kv, ycsb, rbt, pointers (what rbt's convert, counted).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    #[command(flatten)]
    inside: bench::inside::Options,
}

fn main() -> Result<()> {
    let Program { arguments, only, inside } = Program::parse();
    let Arguments { rounds, ref data, .. } = arguments;
    use_store(Arc::new(MemoryStore::with_durability(Durability::Power)?))?;
    let folder = tempfile::tempdir()?;
    let wanted = |part: &str| only.is_empty() || only.iter().any(|only| only == part);
    let scaled = |count: u64| arguments.scaled(count, 1000);
    let pinned = Pinned::here()?;
    let shares =
        [("figure6", stores::FIGURE_6_SHARES), ("kv", stores::OTHERS_SHARES), ("rbt", trees::SHARES)];
    let mut steady =
        arguments.steady(shares.iter().filter(|(part, _)| wanted(part)).map(|part| part.1).sum());
    let mut guest = inside.start(data);
    let mut rows = Vec::new();
    let mut add = |measured: Vec<Row>, full: u64, things: &str| {
        rows.extend(measured.into_iter().map(|row| match row.size {
            Some(_) => row,
            None => row.sized(scaled(full), full, things),
        }));
    };
    if wanted("figure6") {
        add(stores::figure_6(&mut guest, &mut steady, data, scaled(PAIRS), rounds)?, PAIRS, "pairs");
    }
    if wanted("kv") {
        add(stores::beside_others(&mut steady, folder.path(), data, scaled(PAIRS), rounds)?, PAIRS, "pairs");
    }
    if wanted("ycsb") {
        // Threads want all CPUs, of which the control loop sees one; and no row has an aim.
        let mixes = pinned.lifted(|| {
            let lmdb = peers::lmdb_threads(folder.path(), data);
            ycsb::all(lmdb, scaled(YCSB_KEYS), scaled(YCSB_OPERATIONS), rounds)
        })?;
        add(mixes?, YCSB_KEYS, "keys");
    }
    if wanted("rbt") {
        add(trees::all(&mut guest, &mut steady, data, scaled(PAIRS), rounds)?, PAIRS, "nodes");
        add(
            trees::on_pmdk(&mut steady, folder.path(), data, scaled(PMDK_NODES), rounds)?,
            PMDK_NODES,
            "nodes",
        );
    }
    if wanted("pointers") {
        add(trees::counted(data, scaled(PAIRS))?, PAIRS, "nodes");
        rows.extend(trees::lines_of_code());
    }
    arguments.report(&rows, &steady.summary())
}
