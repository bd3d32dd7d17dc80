//! Figure 6 and §5.4 inside: kv, and the trees with raw and with persistent pointers, under the names that their rows have in a Linux process.

#[path = "../../../../bench/apps/src/ours.rs"]
mod ours;

use libtwz::prelude::*;
use ours::{FIGURE_6, OBJECTS, Pages, Pair, TREE_OBJECTS, TREES};
use rbt::Ram;

/// Pairs and nodes of a whole run.
const COUNT: u64 = 1_000_000;
/// Fewest of a quick one.
const LEAST: u64 = 1000;

/// Measures and prints; only rows with `part` in their names.
pub(crate) fn measure(rounds: u64, divide: u64, part: &str) -> ours::Result<()> {
    let count = (COUNT / divide).max(LEAST);
    for pages in [Pages::New, Pages::Present] {
        for (objects, what) in OBJECTS {
            let names = Names::new(FIGURE_6, what, "kv", pages);
            rows(&names, rounds, part, || ours::kv_round(count, objects, pages))?;
        }
        for (objects, what) in TREE_OBJECTS {
            let twz = || ours::twz_round(count, objects, pages);
            rows(&Names::new(TREES, what, "twzrbt", pages), rounds, part, twz)?;
        }
    }
    for (_, what) in TREE_OBJECTS {
        let names = Names::new(TREES, what, "ramrbt", Pages::New);
        rows(&names, rounds, part, || ours::tree_round(Ram::default(), count))?;
    }
    Ok(())
}

/// What the rows of inserts and look-ups of one kind are called. Look-ups have a row beside the inserts in new pages only.
struct Names {
    group: &'static str,
    insert: String,
    lookup: Option<String>,
}

impl Names {
    fn new(group: &'static str, what: &str, kind: &str, pages: Pages) -> Self {
        let name = |operation: &str| format!("{operation}, {what}: {kind}");
        Self { group, insert: name(pages.insert()), lookup: (pages == Pages::New).then(|| name("lookup")) }
    }
}

/// The rows of one kind.
fn rows(
    names: &Names,
    rounds: u64,
    part: &str,
    mut round: impl FnMut() -> ours::Result<Pair>,
) -> ours::Result<()> {
    let Names { group, insert, lookup } = names;
    if ![Some(insert), lookup.as_ref()].into_iter().flatten().any(|name| name.contains(part)) {
        return Ok(());
    }
    round()?; // warms up
    let (mut inserts, mut lookups) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (one, other) = round()?;
        inserts.push(one);
        lookups.push(other);
    }
    crate::print_row(group, insert, &mut inserts);
    if let Some(lookup) = lookup {
        crate::print_row(group, lookup, &mut lookups);
    }
    Ok(())
}
