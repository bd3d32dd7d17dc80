//! §5.4 of the paper: one red-black tree with three kinds of pointers, and a tree on PMDK's 16-byte ones.

use crate::both::{Both, PRESENT, TREE_OBJECTS, TREES as GROUP};
use crate::ours::{Pages, key, tree_lookup, tree_round, twz_round};
use crate::peers;
use crate::timed::timed;
use anyhow::Result;
use bench::peer::Peer;
use bench::row::{Row, Where};
use bench::steady::{Pairs, Steady};
use libtwz::collections::RbTree;
use libtwz::prelude::ObjectBuilder;
use rbt::{Conversions, Counted, Pointers, Ram, Tree, Twz, Unix};
use std::path::Path;

/// The groups of what is counted.
const COUNTED: &str = "rbt, pointers counted";
const LINES: &str = "rbt, lines of code";

/// Conversions of `count` inserts, which follow and store links, and of as many look-ups.
fn conversions<P: Pointers>(pointers: P, count: u64) -> Result<[Conversions; 2]> {
    let tree = Tree::new(Counted::new(pointers));
    (0..count).try_for_each(|number| tree.insert(key(number).into(), number).map(drop))?;
    let (followed, stored) = tree.pointers().take();
    (0..count).try_for_each(|number| tree.get(key(number).into()).map(drop))?;
    Ok([followed + stored, tree.pointers().take().0])
}

/// Lines of a source that are neither blank nor comment, before its tests.
fn lines(source: &str) -> f64 {
    let code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    let before_tests = source.lines().take_while(|line| *line != "#[cfg(test)]");
    f64::from(u32::try_from(before_tests.filter(code).count()).unwrap_or(u32::MAX))
}

/// Rows of [`all`], and of [`on_pmdk`], that are measured in rounds of their own.
pub(crate) const SHARES: usize = 3 * TREE_OBJECTS.len() + 2;

/// All rows of the trees; `guest` does the same inside.
pub(crate) fn all(
    guest: &mut Peer,
    steady: &mut Steady,
    data: &Path,
    count: u64,
    rounds: usize,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let nodes = usize::try_from(count)?;
    for (several, what) in TREE_OBJECTS {
        let [twz, unix] = Both::of(steady.rounds(rounds, |round| {
            let inside = guest.measure_all(format_args!("twzrbt {several} new"), count)?;
            round.between();
            let twz = twz_round(count, several, Pages::New)?;
            let folder = tempfile::tempdir_in(data)?;
            let bytes = (nodes * 48 / several + (1 << 20)).next_multiple_of(4096);
            let files = Unix::open(folder.path(), several, bytes)?;
            round.between();
            anyhow::Ok([(twz, inside), (tree_round(files, count)?, [None; 2])])
        })?);
        let [ram] = Both::of(steady.rounds(rounds, |round| {
            let inside = guest.measure_all(format_args!("ramrbt {several} new"), count)?;
            round.between();
            anyhow::Ok([(tree_round(Ram::default(), count)?, inside)])
        })?);
        let [present] = Both::of(steady.rounds(rounds, |round| {
            let inside = guest.measure_all(format_args!("twzrbt {several} present"), count)?;
            round.between();
            anyhow::Ok([(twz_round(count, several, Pages::Present)?, inside)])
        })?);
        let row = |operation: &str, kind: &str, samples: &[f64]| {
            Row::new(GROUP, &format!("{operation}, {what}: {kind}"), Where::Hosted, "ns", samples)
        };
        rows.push(row(PRESENT, "twzrbt", &present.cpu[0]).steadied(present.outcome));
        for (number, (operation, limit)) in [("insert", 1.05), ("lookup", 1.10)].into_iter().enumerate() {
            let row =
                |kind: &str, both: &Both| row(operation, kind, &both.cpu[number]).steadied(both.outcome);
            rows.push(row("twzrbt", &twz).beside("unixrbt", &unix.cpu[number]).ratio_at_most(limit));
            rows.push(row("unixrbt", &unix));
            rows.push(row("ramrbt", &ram));
        }
        rows.extend(twz.inside(guest, &present, GROUP, &format!("{what}: twzrbt")));
        rows.extend(ram.lookups_inside(guest, GROUP, &format!("{what}: ramrbt")));
    }
    Ok(rows)
}

/// What is counted, not timed: conversions of pointers an operation, and lines.
pub(crate) fn counted(data: &Path, count: u64) -> Result<Vec<Row>> {
    let nodes = usize::try_from(count)?;
    let folders = [tempfile::tempdir_in(data)?, tempfile::tempdir_in(data)?];
    let unix = |number: usize, several: usize| {
        let bytes = (nodes * 48 / several + (1 << 20)).next_multiple_of(4096);
        Unix::open(folders[number].path(), several, bytes)
    };
    let mut rows = vec![];
    for (number, (several, what)) in TREE_OBJECTS.into_iter().enumerate() {
        let twz = conversions(Twz::create(several, nodes / several + 1)?, count)?;
        let unix = conversions(unix(number, several)?, count)?;
        for (operation, twz, unix) in [("an insert", twz[0], unix[0]), ("a lookup", twz[1], unix[1])] {
            #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
            let each = |number: u64| number as f64 / count as f64;
            let row = |kind: &str, what: &str, number: u64| {
                Row::count(
                    COUNTED,
                    &format!("{kind}: {what}, {operation}"),
                    Where::Hosted,
                    "pointers",
                    each(number),
                )
            };
            rows.push(row(&format!("twzrbt, {what}"), "converted within an object", twz.within));
            rows.push(row(&format!("twzrbt, {what}"), "converted across objects", twz.across));
            rows.push(row(
                &format!("unixrbt, {what}"),
                "converted by a table and an addition",
                unix.by_table,
            ));
            if several == 1 {
                rows.push(row(
                    "all three",
                    "links followed or stored, those that lead nowhere as well",
                    twz.links,
                ));
            }
        }
    }
    for (operation, all) in ["an insert", "a lookup"].into_iter().zip(conversions(Ram::default(), count)?) {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let converted = (all.by_table + all.within + all.across) as f64;
        rows.push(Row::count(
            COUNTED,
            &format!("ramrbt: converted, {operation}"),
            Where::Hosted,
            "pointers",
            converted,
        ));
    }
    Ok(rows)
}

/// Lines of each kind of pointers, and of the library that it stands on: the latter is written once, for all programs.
pub(crate) fn lines_of_code() -> Vec<Row> {
    let row = |name: &str, sources: &[&str]| {
        let lines = sources.iter().map(|source| lines(source)).sum();
        Row::count(LINES, name, Where::Hosted, "lines", lines)
    };
    vec![
        row("twzrbt: that know what a pointer is", &[include_str!("../../../apps/rbt/src/twz.rs")]),
        row("unixrbt: that know what a pointer is", &[include_str!("../../../apps/rbt/src/unix.rs")]),
        row("ramrbt: that know what a pointer is", &[include_str!("../../../apps/rbt/src/ram.rs")]),
        row("all three: the tree", &[include_str!("../../../apps/rbt/src/tree.rs")]),
        row(
            "twzrbt: of the library below (translate, fot, ptr and window of libtwz)",
            &[
                include_str!("../../../libtwz/src/translate.rs"),
                include_str!("../../../libtwz/src/fot.rs"),
                include_str!("../../../libtwz/src/ptr.rs"),
                include_str!("../../../libtwz/src/window.rs"),
            ],
        ),
        row(
            "unixrbt: of the library below (unixkv's mapping)",
            &[include_str!("../../../apps/unixkv/src/mapping.rs")],
        ),
    ]
}

/// Beside PMDK's tree: look-ups, and durable inserts of libtwz's tree.
pub(crate) fn on_pmdk(
    steady: &mut Steady,
    folder: &Path,
    data: &Path,
    count: u64,
    rounds: usize,
) -> Result<Vec<Row>> {
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
    let (lookups, outcome) = steady.rounds(rounds, |round| {
        let twz = tree_lookup(&tree, count)?.cpu;
        round.between();
        let raw = tree_lookup(&raw, count)?.cpu;
        round.between();
        let [theirs] = pmdk.measure_all("tree_get", count)?;
        anyhow::Ok((twz, raw, theirs))
    })?;
    let mut next = count;
    let inserts = Pairs::of(steady.rounds(rounds, |round| {
        let insert = timed(few, || {
            (next..next + few)
                .try_for_each(|number| durable.insert(key(number).into(), [number; 2]).map(drop))
        })?;
        next += few;
        round.between();
        let [theirs] = pmdk.measure_all("tree_insert", few)?;
        anyhow::Ok((insert.cpu, theirs))
    })?);
    let row = |name, ours: &[f64], theirs: &[f64]| {
        pmdk.put_beside(Row::new(GROUP, name, Where::Hosted, "ns", ours), "PMDK rbtree_map (PMEMoid)", theirs)
    };
    let twz: Vec<f64> = lookups.iter().map(|round| round.0).collect();
    let raw: Vec<f64> = lookups.iter().map(|round| round.1).collect();
    let theirs: Vec<f64> = lookups.iter().filter_map(|round| round.2).collect();
    Ok(vec![
        row("lookup, against PMEMoid", &twz, &theirs).ratio_at_most(0.5).steadied(outcome),
        row("lookup by raw pointers, against PMEMoid", &raw, &theirs).steadied(outcome),
        row("durable insert of libtwz's tree, against PMEMoid", &inserts.ours, &inserts.theirs)
            .ratio_at_most(0.5)
            .steadied(inserts.outcome),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_lines_are_counted() {
        assert_eq!(lines("//! doc\n\nfn a() {\n    // why\n    b();\n}\n#[cfg(test)]\nmod tests {}\n"), 3.0);
        assert!(lines_of_code().iter().all(|row| row.ours > 20.0));
    }

    #[test]
    fn each_kind_converts_in_its_own_way() {
        let folder = tempfile::tempdir().unwrap();
        let twz = |objects| conversions(Twz::create(objects, 1100).unwrap(), 1000).unwrap();
        let unix = conversions(Unix::open(folder.path(), 2, 1 << 20).unwrap(), 1000).unwrap();
        let ram = conversions(Ram::default(), 1000).unwrap();
        for (operation, ram) in ram.into_iter().enumerate() {
            let ([one, two], unix) = ([twz(1)[operation], twz(2)[operation]], unix[operation]);
            assert_eq!(
                ram,
                Conversions { links: ram.links, ..Conversions::default() },
                "addresses are followed as they are"
            );
            assert_eq!([one.links, two.links, unix.links], [ram.links; 3], "the tree is the same");
            assert_eq!(
                (unix.within, unix.across, unix.by_table),
                (0, 0, one.within),
                "each link that leads somewhere"
            );
            assert_eq!((one.across, one.by_table, two.by_table), (0, 0, 0));
            assert!(two.across > 0 && two.within > 0 && two.within + two.across == one.within, "{two:?}");
        }
    }
}
