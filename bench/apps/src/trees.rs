//! §5.4 of the paper: one red-black tree with three kinds of pointers, and a tree on PMDK's 16-byte ones.

use crate::ours::{Pages, TREE_OBJECTS, TREES as GROUP, key, tree_lookup, tree_round, twz_round};
use crate::peers;
use crate::timed::timed;
use anyhow::Result;
use bench::row::{Row, Where};
use libtwz::collections::RbTree;
use libtwz::prelude::ObjectBuilder;
use rbt::{Counted, Pointers, Ram, Tree, Twz, Unix};
use std::path::Path;

/// Links followed and stored, an operation.
fn conversions<P: Pointers>(pointers: P, count: u64) -> Result<[f64; 3]> {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    let each = |number: u64| number as f64 / count as f64;
    let tree = Tree::new(Counted::new(pointers));
    (0..count).try_for_each(|number| tree.insert(key(number).into(), number).map(drop))?;
    let (followed, stored) = tree.pointers().take();
    (0..count).try_for_each(|number| tree.get(key(number).into()).map(drop))?;
    Ok([each(followed), each(stored), each(tree.pointers().take().0)])
}

/// Lines of a source that are neither blank nor comment.
fn lines(source: &str) -> f64 {
    let code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    f64::from(u32::try_from(source.lines().filter(code).count()).unwrap_or(u32::MAX))
}

/// All rows of the trees.
pub(crate) fn all(data: &Path, count: u64, rounds: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let nodes = usize::try_from(count)?;
    for (several, what) in TREE_OBJECTS {
        let mut samples: [[Vec<f64>; 3]; 2] = Default::default();
        let mut in_present = Vec::new();
        for run in 0..=rounds {
            let unix = tempfile::tempdir_in(data)?;
            let bytes = (nodes * 48 / several + (1 << 20)).next_multiple_of(4096);
            let all = [
                twz_round(count, several, Pages::New)?,
                tree_round(Unix::open(unix.path(), several, bytes)?, count)?,
                tree_round(Ram::default(), count)?,
            ];
            let present = twz_round(count, several, Pages::Present)?.0;
            in_present.extend((run > 0).then_some(present));
            for (kind, (insert, lookup)) in all.into_iter().enumerate().filter(|_| run > 0) {
                samples[0][kind].push(insert);
                samples[1][kind].push(lookup);
            }
        }
        let name = format!("{}, {what}: twzrbt", Pages::Present.insert());
        rows.push(Row::new(GROUP, &name, Where::Hosted, "ns", &in_present));
        for (number, (operation, limit)) in [("insert", 1.05), ("lookup", 1.10)].into_iter().enumerate() {
            let [twz, unix, ram] = &samples[number];
            let row = |kind: &str, samples: &[f64]| {
                Row::new(GROUP, &format!("{operation}, {what}: {kind}"), Where::Hosted, "ns", samples)
            };
            rows.push(row("twzrbt", twz).beside("unixrbt", unix).ratio_at_most(limit));
            rows.push(row("unixrbt", unix));
            rows.push(row("ramrbt", ram));
        }
    }
    Ok(rows)
}

/// What is counted, not timed.
pub(crate) fn counted(data: &Path, count: u64) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let nodes = usize::try_from(count)?;
    let unix = tempfile::tempdir_in(data)?;
    let counted = [
        ("twzrbt", conversions(Twz::create(1, nodes)?, count)?, include_str!("../../../apps/rbt/src/twz.rs")),
        (
            "unixrbt",
            conversions(Unix::open(unix.path(), 1, nodes * 48 + (1 << 20))?, count)?,
            concat!(
                include_str!("../../../apps/rbt/src/unix.rs"),
                include_str!("../../../apps/unixkv/src/mapping.rs")
            ),
        ),
        ("ramrbt", conversions(Ram::default(), count)?, include_str!("../../../apps/rbt/src/ram.rs")),
    ];
    for (kind, [followed, stored, looked_up], source) in counted {
        let row = |what: &str, unit: &str, count| {
            Row::count("rbt, counted", &format!("{kind}: {what}"), Where::Hosted, unit, count)
        };
        rows.push(row("pointers followed an insert", "pointers", followed));
        rows.push(row("pointers stored an insert", "pointers", stored));
        rows.push(row("pointers followed a lookup", "pointers", looked_up));
        rows.push(row("lines that know what a pointer is", "lines", lines(source)));
    }
    Ok(rows)
}

/// Beside PMDK's tree: look-ups, and durable inserts of libtwz's tree.
pub(crate) fn on_pmdk(folder: &Path, data: &Path, count: u64, rounds: usize) -> Result<Vec<Row>> {
    let mut pmdk = peers::pmdk(folder, data);
    let tree = Tree::new(Twz::create(1, usize::try_from(count)?)?);
    (0..count).try_for_each(|number| tree.insert(key(number).into(), number).map(drop))?;
    // What no kind of persistent pointer can beat with these nodes.
    let raw = Tree::new(Ram::default());
    (0..count).try_for_each(|number| raw.insert(key(number).into(), number).map(drop))?;
    pmdk.measure("tree_insert", count, &mut Vec::new())?;
    let durable = ObjectBuilder::new().build(RbTree::<u64, [u64; 2]>::new())?;
    let few = (count / 20).max(1);
    (0..count).try_for_each(|number| durable.insert(key(number).into(), [number; 2]).map(drop))?;
    let mut samples: [Vec<f64>; 5] = Default::default();
    let mut next = count;
    for _ in 0..rounds {
        samples[0].push(tree_lookup(&tree, count)?);
        samples[4].push(tree_lookup(&raw, count)?);
        pmdk.measure("tree_get", count, &mut samples[1])?;
        samples[2].push(timed(few, || {
            (next..next + few)
                .try_for_each(|number| durable.insert(key(number).into(), [number; 2]).map(drop))
        })?);
        pmdk.measure("tree_insert", few, &mut samples[3])?;
        next += few;
    }
    let row = |name, ours: &[f64], theirs: &[f64]| {
        pmdk.put_beside(Row::new(GROUP, name, Where::Hosted, "ns", ours), "PMDK rbtree_map (PMEMoid)", theirs)
    };
    Ok(vec![
        row("lookup, against PMEMoid", &samples[0], &samples[1]).ratio_at_most(0.5),
        row("lookup by raw pointers, against PMEMoid", &samples[4], &samples[1]),
        row("durable insert of libtwz's tree, against PMEMoid", &samples[2], &samples[3]).ratio_at_most(0.5),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_lines_are_counted() {
        assert_eq!(lines("//! doc\n\nfn a() {\n    // why\n    b();\n}\n"), 3.0);
    }

    #[test]
    fn all_kinds_do_the_same_work() {
        let folder = tempfile::tempdir().unwrap();
        let a = conversions(Twz::create(2, 600).unwrap(), 1000).unwrap();
        let b = conversions(Unix::open(folder.path(), 2, 1 << 20).unwrap(), 1000).unwrap();
        assert_eq!((a, b), (conversions(Ram::default(), 1000).unwrap(), a));
    }
}
