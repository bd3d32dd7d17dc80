//! `bench-apps`: the paper's programs beside their peers, in interleaved rounds; rows go to a file that `bench` takes in.
//!
//! Both sides write to memory and flush as if it were persistent (`PMEM_IS_PMEM_FORCE=1` and the same for us). Times are of the CPU, but
//! for threads.

extern crate alloc;

mod chained;
mod ours;
mod peers;
mod stores;
mod timed;
mod trees;
mod ycsb;

use anyhow::Result;
use clap::Parser;
use libtwz::sys::Durability;
use libtwz::sys::hosted::{MemoryStore, use_store};
use std::path::PathBuf;
use std::sync::Arc;

/// Measure kv and rbt beside unixkv, unixrbt, PMDK, LMDB and raw pointers.
#[derive(Parser)]
struct Arguments {
    /// Interleaved rounds of each row.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Divides the number of keys and operations, for a quick look.
    #[arg(long, default_value_t = 1)]
    divide: u64,
    /// Only these parts: figure6, kv, ycsb, rbt.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the peers' files go; a tmpfs stands in for persistent memory.
    #[arg(long, default_value = "/dev/shm")]
    data: PathBuf,
    /// Where the rows go, as JSON.
    #[arg(long)]
    json: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let Arguments { rounds, divide, ref data, .. } = arguments;
    use_store(Arc::new(MemoryStore::with_durability(Durability::Power)?))?;
    let folder = tempfile::tempdir()?;
    let wanted = |part: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == part);
    let scaled = |count: u64| (count / divide).max(1000);
    let mut rows = Vec::new();
    if wanted("figure6") {
        rows.extend(stores::figure_6(data, scaled(1_000_000), rounds)?);
    }
    if wanted("kv") {
        rows.extend(stores::beside_others(folder.path(), data, scaled(1_000_000), rounds)?);
    }
    if wanted("ycsb") {
        rows.extend(ycsb::all(scaled(200_000), scaled(1_000_000), rounds)?);
    }
    if wanted("rbt") {
        rows.extend(trees::all(folder.path(), data, scaled(1_000_000), rounds)?);
    }
    rows.iter().for_each(|row| println!("{row}"));
    bench::row::write(&arguments.json, &rows)
}
