//! Figures over several rows of a group: the paper's Figure 6 and §5.4, and how `kv` scales with threads.
//!
//! A row belongs to a figure by its group; what stands before the colon of its name is the cluster (or line), and what comes after it the
//! series (or point): `lookup, 1 data object: kv` or `YCSB-B: 2 threads`.

use crate::plot::{self, Cluster};
use crate::row::Row;
use anyhow::Result;
use std::path::Path;

/// Groups that become a figure of bars: group, file, title.
const BARS: [(&str, &str, &str); 3] = [
    (
        "context switches",
        "context-switches-bars.svg",
        "Security contexts beside processes: one way, and there and back",
    ),
    ("figure 6", "figure6-bars.svg", "Figure 6: kv and unixkv, pairs of 32 bits"),
    ("rbt (§5.4)", "rbt-bars.svg", "§5.4: one red-black tree three ways"),
];
/// Groups that become lines over the number in the point's name.
const LINES: [(&str, &str, &str); 1] =
    [("ycsb", "ycsb-lines.svg", "YCSB-like mixes on kv, LMDB and a plain map")];

/// Writes the figures that there are rows for; returns (title, file) of each.
///
/// # Errors
/// When a file cannot be written.
pub fn write_all(folder: &Path, rows: &[Row]) -> Result<Vec<(String, String)>> {
    let mut written = Vec::new();
    for (group, file, title) in BARS {
        let parts = split(rows, group);
        if parts.is_empty() {
            continue;
        }
        let title = with_size(title, parts[0].2);
        let series = distinct(parts.iter().map(|(_, series, _)| *series));
        let clusters: Vec<Cluster> = distinct(parts.iter().map(|(cluster, _, _)| *cluster))
            .into_iter()
            .map(|label| {
                let of = |name: &str| {
                    parts.iter().find(|(c, s, _)| *c == label && *s == name).map(|(_, _, row)| row.ours)
                };
                Cluster { label: label.into(), values: series.iter().map(|name| of(name)).collect() }
            })
            .collect();
        plot::bars(&folder.join(file), &title, &parts[0].2.unit, &series, &clusters, None)?;
        written.push((title, file.into()));
    }
    for (group, file, title) in LINES {
        let parts = split(rows, group);
        if parts.is_empty() {
            continue;
        }
        let title = with_size(title, parts[0].2);
        let names = distinct(parts.iter().map(|(line, _, _)| *line));
        let points: Vec<Vec<(f64, f64)>> = names
            .iter()
            .map(|name| {
                let mine = parts.iter().filter(|(line, _, _)| line == name);
                mine.filter_map(|(_, point, row)| Some((leading_number(point)?, row.ours))).collect()
            })
            .collect();
        let lines: Vec<plot::Line<'_>> =
            names.iter().copied().zip(points.iter().map(Vec::as_slice)).collect();
        plot::lines(&folder.join(file), &title, "threads", &parts[0].2.unit, &lines)?;
        written.push((title, file.into()));
    }
    Ok(written)
}

/// The title, and with how much the group was measured.
fn with_size(title: &str, row: &Row) -> String {
    row.size.as_ref().map_or(title.into(), |size| format!("{title}, {size}"))
}

/// The rows of a group whose names have two parts: (before the colon, after it, the row).
fn split<'a>(rows: &'a [Row], group: &str) -> Vec<(&'a str, &'a str, &'a Row)> {
    rows.iter()
        .filter(|row| row.group == group && row.is_measured())
        .filter_map(|row| row.name.split_once(": ").map(|(before, after)| (before, after, row)))
        .collect()
}

fn distinct<'a>(words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for word in words {
        if !seen.contains(&word) {
            seen.push(word);
        }
    }
    seen
}

fn leading_number(text: &str) -> Option<f64> {
    text.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Where;

    #[test]
    fn rows_become_figures() {
        let folder = tempfile::tempdir().unwrap();
        let row = |group: &str, name: &str, ns: f64| Row::new(group, name, Where::Hosted, "ns", &[ns]);
        let rows = [
            row("figure 6", "insert, 1 data object: kv", 200.0).sized(10, 1000, "pairs"),
            row("figure 6", "insert, 1 data object: unixkv", 210.0),
            row("ycsb", "YCSB-B: 1 thread", 5.0),
            row("ycsb", "YCSB-B: 2 threads", 9.0),
            row("other", "a: b", 1.0),
        ];
        let written = write_all(folder.path(), &rows).unwrap();
        assert_eq!(written.len(), 2);
        let figure = std::fs::read_to_string(folder.path().join("figure6-bars.svg")).unwrap();
        assert!(
            figure.contains("unixkv") && figure.contains("210") && figure.contains("10 of 1,000 pairs"),
            "{figure}"
        );
        let lines = std::fs::read_to_string(folder.path().join("ycsb-lines.svg")).unwrap();
        assert!(lines.contains("YCSB-B"), "{lines}");
        assert!(write_all(folder.path(), &rows[4..]).unwrap().is_empty());
    }
}
