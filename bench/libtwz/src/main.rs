//! `bench-libtwz`: the figures of libtwz beside its peers, in one interleaved run.
//!
//! Each row is measured in rounds: ours, then the peer, then ours again …, and the median of each side counts, in time on the CPU. Both
//! write to memory and flush as if it were persistent (`PMEM_IS_PMEM_FORCE=1` and the same for us), on the same CPU.

mod ours;
mod peer;

use anyhow::Result;
use clap::Parser;
use ours::Ours;
use peer::Peer;
use serde::Serialize;
use std::path::PathBuf;

/// Where Debian puts the example sources of libpmemobj-dev.
const EXAMPLES: &str = "/usr/share/doc/libpmemobj-dev/examples";

#[derive(Debug, Parser)]
#[command(about = "Measures libtwz beside PMDK in one interleaved run")]
struct Arguments {
    /// Rounds of each row.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Divides the number of operations of each round, for a quick look.
    #[arg(long, default_value_t = 1)]
    divide: u64,
    /// Only rows whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Where the peers' pools go; a tmpfs stands in for persistent memory.
    #[arg(long, default_value = "/dev/shm")]
    data: PathBuf,
    /// Also write the rows here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is measured: ours against a peer's operation, and what the ratio should be.
struct Plan {
    name: &'static str,
    ours: (&'static str, u32),
    peer: Option<(&'static str, &'static str, u32)>,
    count: u64,
    aim: Aim,
}

/// What must hold.
#[derive(Clone, Copy)]
enum Aim {
    Ratio(f64),
    Nanoseconds(f64),
    None,
}

/// One row of the result.
#[derive(Debug, Serialize)]
struct Row {
    group: &'static str,
    name: &'static str,
    #[serde(rename = "where")]
    place: &'static str,
    unit: &'static str,
    ours: f64,
    peer: Option<f64>,
    peer_name: Option<&'static str>,
    ratio: Option<f64>,
    aim: Option<String>,
    holds: Option<bool>,
}

const PMDK: &str = "PMDK";
const LMDB: &str = "LMDB";
const STD: &str = "std, in memory";

const fn plan(
    name: &'static str,
    ours: (&'static str, u32),
    peer: Option<(&'static str, &'static str, u32)>,
    count: u64,
    aim: Aim,
) -> Plan {
    Plan { name, ours, peer, count, aim }
}

const PLANS: &[Plan] = &[
    plan(
        "intra-object translation",
        ("translate", 0),
        Some((PMDK, "translate", 0)),
        20_000_000,
        Aim::Nanoseconds(0.6),
    ),
    plan("pointer chase, 1 object", ("chase", 1), Some((PMDK, "chase", 1)), 5_000_000, Aim::Ratio(0.4)),
    plan(
        "pointer chase, 1 object, against raw",
        ("chase", 1),
        Some(("raw pointers (C)", "raw_chase", 0)),
        5_000_000,
        Aim::Ratio(1.5),
    ),
    plan("cross-object chase, 4 objects", ("chase", 4), Some((PMDK, "chase", 4)), 5_000_000, Aim::Ratio(0.3)),
    plan(
        "cross-object chase, 16 objects",
        ("chase", 16),
        Some((PMDK, "chase", 16)),
        5_000_000,
        Aim::Ratio(0.4),
    ),
    plan(
        "cross-object chase, 64 objects",
        ("chase", 64),
        Some((PMDK, "chase", 64)),
        5_000_000,
        Aim::Ratio(0.6),
    ),
    plan(
        "the same, contents not coloured",
        ("chase_uncoloured", 64),
        Some((PMDK, "chase", 64)),
        5_000_000,
        Aim::None,
    ),
    plan(
        "first resolution of a mapped ID",
        ("first_resolution", 0),
        Some(("open+close", "open_close", 0)),
        2_000_000,
        Aim::Nanoseconds(10.0),
    ),
    plan("TX of 1 x 8 B, durable", ("tx_put", 1), Some((PMDK, "tx_each", 1)), 100_000, Aim::Ratio(0.5)),
    plan(
        "TX of 1 x 8 B, without flush",
        ("tx_no_flush", 1),
        Some((PMDK, "tx_each", 1)),
        100_000,
        Aim::Ratio(0.1),
    ),
    plan(
        "TX of 1 x 8 B, durable, visible at once",
        ("tx_each", 1),
        Some((PMDK, "tx_each", 1)),
        100_000,
        Aim::None,
    ),
    plan("TX of 16 x 8 B", ("tx_put", 16), Some((PMDK, "tx_each", 16)), 10_000, Aim::Ratio(0.35)),
    plan(
        "TX of 16 x 8 B, each recorded before it is written",
        ("tx_each", 16),
        Some((PMDK, "tx_each", 16)),
        10_000,
        Aim::None,
    ),
    plan(
        "TX of 16 x 8 B, record-first",
        ("tx_first", 16),
        Some((PMDK, "tx_first", 16)),
        10_000,
        Aim::Ratio(0.10),
    ),
    plan(
        "TX of 256 x 8 B, record-first",
        ("tx_first", 256),
        Some((PMDK, "tx_first", 256)),
        1_000,
        Aim::Ratio(0.04),
    ),
    plan(
        "TX of 256 x 8 B, record-first, adjacent",
        ("tx_adjacent", 256),
        Some((PMDK, "tx_adjacent", 256)),
        1_000,
        Aim::Ratio(0.04),
    ),
    plan("TX of 16 x 8 B, by puts", ("tx_put", 16), Some((PMDK, "tx_first", 16)), 10_000, Aim::Ratio(0.10)),
    plan("TX of 256 x 8 B, by puts", ("tx_put", 256), Some((PMDK, "tx_first", 256)), 1_000, Aim::Ratio(0.04)),
    plan(
        "hash map, durable insert",
        ("hash_insert", 0),
        Some(("PMDK hashmap_tx", "hash_insert", 0)),
        20_000,
        Aim::Ratio(0.10),
    ),
    plan(
        "ordered map, durable insert",
        ("tree_insert", 0),
        Some(("PMDK btree_map", "btree_insert", 0)),
        20_000,
        Aim::Ratio(0.25),
    ),
    plan(
        "ordered map, durable insert, against rbtree_map",
        ("tree_insert", 0),
        Some(("PMDK rbtree_map", "rbtree_insert", 0)),
        20_000,
        Aim::Ratio(0.25),
    ),
    plan(
        "ordered map, durable insert, against LMDB",
        ("tree_insert", 0),
        Some((LMDB, "insert", 0)),
        10_000,
        Aim::None,
    ),
    plan("hash map, look-up", ("hash_get", 0), Some((STD, "std_hash_get", 0)), 500_000, Aim::None),
    plan("ordered map, look-up", ("tree_get", 0), Some((STD, "std_tree_get", 0)), 500_000, Aim::None),
    plan(
        "red-black tree, durable insert",
        ("rb_insert", 0),
        Some(("PMDK rbtree_map", "rbtree_insert", 0)),
        10_000,
        Aim::None,
    ),
    plan("transactional alloc, 48 B", ("tx_alloc", 0), Some((PMDK, "tx_alloc", 0)), 50_000, Aim::Ratio(0.6)),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let rows = run(&arguments)?;
    println!("| what | ours ns | peer ns | peer | ratio | aim | holds |");
    println!("|---|---|---|---|---|---|---|");
    for row in &rows {
        let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |v| format!("{v:.3}"));
        println!(
            "| {} | {:.2} | {} | {} | {} | {} | {} |",
            row.name,
            row.ours,
            number(row.peer),
            row.peer_name.unwrap_or("-"),
            number(row.ratio),
            row.aim.as_deref().unwrap_or("-"),
            row.holds.map_or("-", |holds| if holds { "yes" } else { "NO" }),
        );
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&rows)?)?;
    }
    Ok(())
}

fn run(arguments: &Arguments) -> Result<Vec<Row>> {
    let directory = tempfile::tempdir()?;
    let mut peers = Peers {
        pmdk: or_say(start_pmdk(directory.path(), arguments), "libpmemobj-dev"),
        lmdb: or_say(start_lmdb(directory.path(), arguments), "liblmdb-dev"),
    };
    libtwz::persist::set_durability(libtwz::sys::Durability::Power);
    let store = libtwz::sys::hosted::MemoryStore::with_durability(libtwz::sys::Durability::Power)?;
    libtwz::sys::hosted::use_store(std::sync::Arc::new(store))?;
    let mut ours = Ours::new()?;
    let mut rows = Vec::new();
    for plan in PLANS.iter().filter(|plan| plan.name.contains(&arguments.only)) {
        rows.push(measure(plan, &mut ours, &mut peers, arguments)?);
    }
    Ok(rows)
}

fn start_pmdk(directory: &std::path::Path, arguments: &Arguments) -> Result<Peer> {
    let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/pmdk.c").to_string();
    let example = |path: &str| format!("{EXAMPLES}/{path}");
    let sources = [
        ours,
        example("hashmap/hashmap_tx.c"),
        example("tree_map/btree_map.c"),
        example("tree_map/rbtree_map.c"),
    ];
    let flags = [format!("-I{EXAMPLES}/hashmap"), format!("-I{EXAMPLES}/tree_map"), "-lpmemobj".to_string()];
    Peer::start("pmdk", directory, &sources, &flags, &arguments.data)
}

/// The programs beside us that could be built.
struct Peers {
    pmdk: Option<Peer>,
    lmdb: Option<Peer>,
}

fn or_say(peer: Result<Peer>, package: &str) -> Option<Peer> {
    peer.inspect_err(|error| eprintln!("a peer is missing ({error:#}); apt-get install {package} brings it"))
        .ok()
}

fn start_lmdb(directory: &std::path::Path, arguments: &Arguments) -> Result<Peer> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/lmdb.c").to_string();
    Peer::start("lmdb", directory, &[source], &["-llmdb".to_string()], &arguments.data)
}

fn measure(plan: &Plan, ours: &mut Ours, peers: &mut Peers, arguments: &Arguments) -> Result<Row> {
    let count = (plan.count / arguments.divide).max(1);
    let (mut us, mut them) = (Vec::new(), Vec::new());
    for round in 0..=arguments.rounds {
        let our_time = ours.measure(plan.ours.0, plan.ours.1, count)?;
        let their_time = match plan.peer {
            None => None,
            Some((STD, what, parameter)) => Some(ours.measure(what, parameter, count)?),
            Some((name, what, parameter)) => {
                let peer = if name == LMDB { &mut peers.lmdb } else { &mut peers.pmdk };
                peer.as_mut().map(|peer| peer.measure(what, parameter, count)).transpose()?
            }
        };
        if round > 0 {
            us.push(our_time); // the first round warms both sides
            them.extend(their_time);
        }
    }
    let ours = median(&mut us).unwrap_or(f64::NAN);
    let peer = median(&mut them);
    let ratio = peer.map(|peer| ours / peer);
    let (aim, holds) = match plan.aim {
        Aim::None => (None, None),
        Aim::Ratio(limit) => (Some(format!("<= {limit}x")), ratio.map(|ratio| ratio <= limit)),
        Aim::Nanoseconds(limit) => (Some(format!("<= {limit} ns")), Some(ours <= limit)),
    };
    let peer_name = plan.peer.map(|(name, _, _)| name);
    Ok(Row {
        group: "libtwz",
        name: plan.name,
        place: "hosted",
        unit: "ns",
        ours,
        peer,
        peer_name,
        ratio,
        aim,
        holds,
    })
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
