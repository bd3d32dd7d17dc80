//! Figure 6 and §5.4 inside: kv, and the trees with raw and with persistent pointers, under the names that their rows have in a Linux process.

#[path = "../../../../bench/apps/src/ours.rs"]
mod ours;

use libtwz::prelude::*;
use ours::{FIGURE_6, OBJECTS, Pair, TREE_OBJECTS, TREES};
use rbt::{Ram, Twz};

/// Pairs and nodes of a whole run.
const COUNT: u64 = 1_000_000;
/// Fewest of a quick one.
const LEAST: u64 = 1000;

/// Measures and prints; only rows with `part` in their names.
pub(crate) fn measure(rounds: u64, divide: u64, part: &str) -> ours::Result<()> {
    let count = (COUNT / divide).max(LEAST);
    for (objects, what) in OBJECTS {
        rows(FIGURE_6, what, "kv", rounds, part, || ours::kv_round(count, objects))?;
    }
    for (objects, what) in TREE_OBJECTS {
        let nodes = usize::try_from(count).unwrap_or(usize::MAX) / objects + 1;
        let twz = || -> ours::Result<Pair> { ours::tree_round(Twz::create(objects, nodes)?, count) };
        rows(TREES, what, "twzrbt", rounds, part, twz)?;
        rows(TREES, what, "ramrbt", rounds, part, || ours::tree_round(Ram::default(), count))?;
    }
    Ok(())
}

/// The rows of inserts and look-ups of one kind.
fn rows(
    group: &str,
    what: &str,
    kind: &str,
    rounds: u64,
    part: &str,
    mut round: impl FnMut() -> ours::Result<Pair>,
) -> ours::Result<()> {
    let name = |operation: &str| format!("{operation}, {what}: {kind}");
    let (insert, lookup) = (name("insert"), name("lookup"));
    if !insert.contains(part) && !lookup.contains(part) {
        return Ok(());
    }
    round()?; // warms up
    let (mut inserts, mut lookups) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (one, other) = round()?;
        inserts.push(one);
        lookups.push(other);
    }
    crate::print_row(group, &insert, &mut inserts);
    crate::print_row(group, &lookup, &mut lookups);
    Ok(())
}
