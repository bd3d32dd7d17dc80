//! `bench-libtwz`: the figures of libtwz beside its peers, in one interleaved run.
//!
//! Each row is measured in rounds: ours, then the peer, then ours again …, and the median of each side counts, in time on the CPU. Both
//! write to memory and flush as if it were persistent (`PMEM_IS_PMEM_FORCE=1` and the same for us), on the same CPU.
//!
//! Maps of the peer are PMDK's own examples, unchanged: `hashmap_tx`, and of `tree_map` `btree_map` (the fastest, so the one that
//! counts) and `rbtree_map`; `ctree_map` needs a header that Debian leaves out. Keys, values (16 bytes) and their order are the same on both sides, and each insert is a
//! durable transaction on both.

mod facts;
mod ours;
mod peer;
mod plans;
mod stopwatch;

use anyhow::Result;
use clap::Parser;
use ours::Ours;
use peer::Peer;
use plans::{Aim, LMDB, PLANS, Plan, STD};
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

/// One row of the result.
#[derive(Debug, Serialize)]
struct Row {
    group: &'static str,
    name: String,
    #[serde(rename = "where")]
    place: &'static str,
    unit: &'static str,
    ours: f64,
    peer: Option<f64>,
    peer_name: Option<&'static str>,
    ratio: Option<f64>,
    aim: Option<String>,
    holds: Option<bool>,
    /// Lower and upper quartile of `ours`.
    #[serde(skip_serializing_if = "Option::is_none")]
    ours_spread: Option<[f64; 2]>,
    /// Lower and upper quartile of `peer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_spread: Option<[f64; 2]>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let rows = run(&arguments)?;
    println!(
        "| what | unit | ours | peer | peer is | ratio | aim | holds | quartiles of ours, of the peer |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for row in &rows {
        let spread = |quartiles: Option<[f64; 2]>| {
            quartiles.map_or_else(|| "-".into(), |[a, b]| format!("{a:.2}–{b:.2}"))
        };
        let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |v| format!("{v:.3}"));
        println!(
            "| {} | {} | {:.2} | {} | {} | {} | {} | {} | {} {} |",
            row.name,
            row.unit,
            row.ours,
            number(row.peer),
            row.peer_name.unwrap_or("-"),
            number(row.ratio),
            row.aim.as_deref().unwrap_or("-"),
            row.holds.map_or("-", |holds| if holds { "yes" } else { "NO" }),
            spread(row.ours_spread),
            spread(row.peer_spread),
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
    rows.extend(facts::rows()?.into_iter().filter(|row| row.name.contains(&arguments.only)));
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
    let (ours_spread, peer_spread) = (quartiles(&us), quartiles(&them));
    let ratio = peer.map(|peer| ours / peer);
    let (aim, holds) = match plan.aim {
        Aim::None => (None, None),
        Aim::Ratio(limit) => (Some(format!("<= {limit}x")), ratio.map(|ratio| ratio <= limit)),
        Aim::Nanoseconds(limit) => (Some(format!("<= {limit} ns")), Some(ours <= limit)),
    };
    let peer_name = plan.peer.map(|(name, _, _)| name);
    Ok(Row {
        group: "libtwz",
        name: plan.name.to_owned(),
        place: "hosted",
        unit: "ns",
        ours,
        peer,
        peer_name,
        ratio,
        aim,
        holds,
        ours_spread,
        peer_spread,
    })
}

/// Of sorted values.
fn quartiles(values: &[f64]) -> Option<[f64; 2]> {
    let last = values.len().checked_sub(1)?;
    Some([values[last / 4], values[last - last / 4]])
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
