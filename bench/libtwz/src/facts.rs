//! What is counted, not timed: fences and lines of memory for each operation, and lines of the example programs.

use crate::plans::PMDK;
use anyhow::{Context, Result};
use bench::row::{Row, Where};
use serde::Deserialize;

/// The group of what is not counted by this run.
const COUNTED: &str = "libtwz, counted by the tests";

/// Counted by `libtwz/tests/costs.rs`, which fails when this is not what it counts.
const COSTS: &str = include_str!("../costs.json");

/// The same program for libtwz and for libpmemobj; `tests/examples.rs` runs both.
const EXAMPLES: [(&str, &str, &str); 3] = [
    (
        "lines of a persistent linked list",
        include_str!("../../../libtwz/examples/list.rs"),
        include_str!("../peers/examples/list.c"),
    ),
    (
        "lines of a persistent tree",
        include_str!("../../../libtwz/examples/tree.rs"),
        include_str!("../peers/examples/tree.c"),
    ),
    (
        "lines of a persistent map",
        include_str!("../../../libtwz/examples/map.rs"),
        include_str!("../peers/examples/map.c"),
    ),
];

/// What one operation costs, on average.
#[derive(Debug, Deserialize)]
struct Cost {
    name: String,
    fences: f64,
    log_lines: f64,
    flushed_lines: f64,
}

pub(crate) fn rows() -> Result<Vec<Row>> {
    let costs: Vec<Cost> = serde_json::from_str(COSTS).context("costs.json")?;
    let mut rows = Vec::new();
    for cost in &costs {
        for (unit, count) in
            [("fences", cost.fences), ("lines of log", cost.log_lines), ("lines flushed", cost.flushed_lines)]
        {
            rows.push(fact(COUNTED, &format!("{}: {unit}", cost.name), unit, count));
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "a few dozen lines")]
    let lines = |text| lines_of_code(text) as f64;
    for (name, ours, theirs) in EXAMPLES {
        rows.push(
            fact("libtwz, lines of programs", name, "lines", lines(ours)).beside(PMDK, &[lines(theirs)]),
        );
    }
    Ok(rows)
}

fn fact(group: &str, name: &str, unit: &str, ours: f64) -> Row {
    Row::count(group, name, Where::Hosted, unit, ours)
}

/// Lines that are neither blank nor comment, in Rust or C.
fn lines_of_code(text: &str) -> usize {
    let is_code = |line: &&str| {
        let line = line.trim();
        !(line.is_empty() || line.starts_with("//") || line.starts_with("/*") || line.starts_with('*'))
    };
    text.lines().filter(is_code).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_blank_lines_do_not_count() {
        assert_eq!(lines_of_code("//! a\n\n/*\n * b\n */\nint c; /* d */\n// e\n}\n"), 2);
    }

    #[test]
    fn the_costs_can_be_read() {
        assert!(rows().unwrap().iter().any(|row| row.unit == "fences" && row.ours >= 1.0));
    }
}
