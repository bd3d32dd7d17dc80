//! Two reports side by side: what became slower or faster between them.
//!
//! # Contract
//! - Rows are matched by group, name and place. Where both have a ratio, ratios are compared, since both sides of a ratio ran on the
//!   same machine in the same minute; otherwise the figures themselves.
//! - A row *regressed* when it is worse by more than the tolerance **and** by more than both reports' quartiles explain. Rows that
//!   only one report has are named; a row whose aim held and holds no more counts as a regression, too.

use crate::plot::short;
use crate::row::Row;
use std::fmt::Write;

/// What became of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Better by more than the tolerance and the spread.
    Better,
    /// Within the tolerance or the spread.
    Same,
    /// Worse by more than both, or an aim that held is missed.
    Regressed,
}

/// A row that both reports have.
#[derive(Debug)]
pub struct Change<'a> {
    /// In the first report.
    pub before: &'a Row,
    /// In the second.
    pub after: &'a Row,
    /// Second by first, of the ratios or of the figures.
    pub factor: f64,
    /// What became of it.
    pub verdict: Verdict,
}

/// Compares all rows that both have; `tolerance` 0.1 is ten percent.
#[must_use]
pub fn compare<'a>(before: &'a [Row], after: &'a [Row], tolerance: f64) -> Vec<Change<'a>> {
    before
        .iter()
        .filter_map(|old| {
            let new = after.iter().find(|new| key(new) == key(old))?;
            let (old_value, new_value) = match (old.ratio, new.ratio) {
                (Some(old), Some(new)) => (old, new),
                _ => (old.ours, new.ours),
            };
            let factor = if old_value > 0.0 { new_value / old_value } else { 1.0 };
            let noise = relative_spread(old).max(relative_spread(new)).max(tolerance);
            // Throughputs are better when they are higher.
            let worse = if old.unit.ends_with("/s") { 1.0 / factor } else { factor };
            let lost_aim = old.holds == Some(true) && new.holds == Some(false);
            let verdict = match worse {
                _ if lost_aim => Verdict::Regressed,
                worse if worse > 1.0 + noise => Verdict::Regressed,
                worse if worse < 1.0 / (1.0 + noise) => Verdict::Better,
                _ => Verdict::Same,
            };
            Some(Change { before: old, after: new, factor, verdict })
        })
        .collect()
}

fn key(row: &Row) -> (&str, &str, &'static str) {
    (&row.group, &row.name, row.place.word())
}

/// Distance between the quartiles as a part of the median, of both sides of the row.
fn relative_spread(row: &Row) -> f64 {
    let of = |spread: Option<[f64; 2]>, median: f64| {
        spread.filter(|_| median > 0.0).map_or(0.0, |[low, high]| (high - low) / median)
    };
    of(row.ours_spread, row.ours) + of(row.peer_spread, row.peer.unwrap_or(0.0))
}

/// What changed, as Markdown; what stayed the same is only counted.
#[must_use]
pub fn markdown(before: &[Row], after: &[Row], changes: &[Change<'_>]) -> String {
    let mut text = String::new();
    for (verdict, title) in [(Verdict::Regressed, "Regressed"), (Verdict::Better, "Better")] {
        let rows: Vec<_> = changes.iter().filter(|change| change.verdict == verdict).collect();
        if rows.is_empty() {
            continue;
        }
        let _ =
            write!(text, "## {title}\n\n| what | before | after | factor | aim |\n|---|---|---|---|---|\n");
        for change in rows {
            let figure = |row: &Row| match row.ratio {
                Some(ratio) => format!("{}× ({} {})", short(ratio), short(row.ours), row.unit),
                None => format!("{} {}", short(row.ours), row.unit),
            };
            let aim = match (change.before.holds, change.after.holds) {
                (Some(true), Some(false)) => "held, is missed now",
                (Some(false), Some(true)) => "was missed, holds now",
                _ => "–",
            };
            let _ = writeln!(
                text,
                "| {} / {} ({}) | {} | {} | {} | {aim} |",
                change.before.group,
                change.before.name,
                change.before.place.word(),
                figure(change.before),
                figure(change.after),
                short(change.factor)
            );
        }
        text.push('\n');
    }
    let same = changes.iter().filter(|change| change.verdict == Verdict::Same).count();
    let _ = writeln!(text, "{same} rows are the same within tolerance and spread");
    for (rows, others, which) in [(before, after, "first"), (after, before, "second")] {
        for row in rows.iter().filter(|row| !others.iter().any(|other| key(other) == key(row))) {
            let _ =
                writeln!(text, "only in the {which}: {} / {} ({})", row.group, row.name, row.place.word());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Where;
    use std::slice::from_ref;

    fn row(name: &str, ours: f64, peer: f64) -> Row {
        Row::new("g", name, Where::Hosted, "ns", &[ours]).beside("p", &[peer])
    }

    #[test]
    fn ratios_are_compared_before_figures() {
        // Twice as slow a machine, the same ratio.
        let (before, after) = ([row("n", 10.0, 20.0)], [row("n", 20.0, 40.0)]);
        assert_eq!(compare(&before, &after, 0.1)[0].verdict, Verdict::Same);
        let worse = [row("n", 15.0, 20.0)];
        let changes = compare(&before, &worse, 0.1);
        assert_eq!(changes[0].verdict, Verdict::Regressed);
        let text = markdown(&before, &worse, &changes);
        assert!(
            text.contains("| g / n (hosted) | 0.500× (10.0 ns) | 0.750× (15.0 ns) | 1.50 | – |"),
            "{text}"
        );
        assert_eq!(compare(&worse, &before, 0.1)[0].verdict, Verdict::Better);
    }

    #[test]
    fn spread_excuses_and_lost_aims_do_not() {
        let noisy = Row::new("g", "n", Where::Hosted, "ns", &[5.0, 8.0, 10.0, 12.0, 15.0]);
        let slower = Row::new("g", "n", Where::Hosted, "ns", &[13.0]);
        assert_eq!(compare(from_ref(&noisy), from_ref(&slower), 0.1)[0].verdict, Verdict::Same);
        let changes = |limit| {
            let (before, after) = ([noisy.clone().at_most(limit)], [slower.clone().at_most(limit)]);
            compare(&before, &after, 0.1)[0].verdict
        };
        assert_eq!(changes(12.0), Verdict::Regressed);
        assert_eq!(changes(14.0), Verdict::Same);
    }

    #[test]
    fn higher_throughput_is_better() {
        let rate = |value| [Row::new("g", "n", Where::Hosted, "op/s", &[value])];
        assert_eq!(compare(&rate(100.0), &rate(200.0), 0.1)[0].verdict, Verdict::Better);
        assert_eq!(compare(&rate(200.0), &rate(100.0), 0.1)[0].verdict, Verdict::Regressed);
    }

    #[test]
    fn rows_of_one_report_are_named() {
        let (before, after) = ([row("old", 1.0, 1.0)], [row("new", 1.0, 1.0)]);
        let text = markdown(&before, &after, &compare(&before, &after, 0.1));
        assert!(text.contains("only in the first: g / old (hosted)"), "{text}");
        assert!(text.contains("only in the second: g / new (hosted)"), "{text}");
    }
}
