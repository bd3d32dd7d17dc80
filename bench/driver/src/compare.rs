//! Two reports side by side: what became slower or faster between them.
//!
//! # Contract
//! - Rows are matched by group, name and place. Where both have a ratio, ratios are compared, since both sides of a ratio ran on the
//!   same machine in the same minute; otherwise the figures themselves.
//! - A row *regressed* when it is worse by more than the tolerance **and** by more than both reports' quartiles explain. What was counted
//!   as nothing and is something now is worse, whatever the tolerance.
//! - An aim that held and is missed now, or could not be shown, is a regression, and so is a row with an aim that the later report lacks.
//!   Other rows that only one report has are named.
//! - Reports of other hosts, sizes or settings can be compared, with a warning that says what differs.

use crate::host::Host;
use crate::plot::short;
use crate::row::Row;
use anyhow::Result;
use std::fmt::Write;

/// What became of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Better by more than the tolerance and the spread.
    Better,
    /// Within the tolerance or the spread.
    Same,
    /// Worse by more than both, or an aim that held does not any more.
    Regressed,
}

/// A row that both reports have.
#[derive(Debug)]
pub struct Change<'a> {
    /// In the first report.
    pub before: &'a Row,
    /// In the second.
    pub after: &'a Row,
    /// Second by first, of the ratios or of the figures; not a number where one of them was not measured.
    pub factor: f64,
    /// What became of it.
    pub verdict: Verdict,
}

/// Two reports.
#[derive(Debug)]
pub struct Comparison<'a> {
    /// Rows that both have.
    pub changes: Vec<Change<'a>>,
    /// Rows of the first alone.
    pub gone: Vec<&'a Row>,
    /// Rows of the second alone.
    pub new: Vec<&'a Row>,
}

/// Compares all rows; `tolerance` 0.1 is ten percent.
#[must_use]
pub fn compare<'a>(before: &'a [Row], after: &'a [Row], tolerance: f64) -> Comparison<'a> {
    let change = |before: &'a Row| {
        let after = after.iter().find(|after| key(after) == key(before))?;
        let (factor, verdict) = judge(before, after, tolerance);
        Some(Change { before, after, factor, verdict })
    };
    let alone = |rows: &'a [Row], others: &[Row]| {
        rows.iter().filter(|row| !others.iter().any(|other| key(other) == key(row))).collect()
    };
    Comparison {
        changes: before.iter().filter_map(change).collect(),
        gone: alone(before, after),
        new: alone(after, before),
    }
}

/// What became of a row: second by first, and whether that is worse.
fn judge(before: &Row, after: &Row, tolerance: f64) -> (f64, Verdict) {
    let (old, new) = match (before.ratio, after.ratio) {
        (Some(old), Some(new)) => (old, new),
        _ => (before.ours, after.ours),
    };
    // From nothing to something there is no factor: it is infinite.
    let factor = if old == new { 1.0 } else { new / old };
    let noise = relative_spread(before).max(relative_spread(after)).max(tolerance);
    // Throughputs are better when they are higher.
    let worse = if before.unit.ends_with("/s") { 1.0 / factor } else { factor };
    let verdict = match worse {
        _ if before.holds == Some(true) && after.holds != Some(true) => Verdict::Regressed,
        worse if worse > 1.0 + noise => Verdict::Regressed,
        worse if worse < 1.0 / (1.0 + noise) => Verdict::Better,
        _ => Verdict::Same,
    };
    (factor, verdict)
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

/// Why the two reports are not quite comparable, as Markdown; empty if they are.
#[must_use]
pub fn warnings(hosts: &[Result<Host>; 2]) -> String {
    let list = match hosts {
        [Ok(before), Ok(after)] => before.differences(after),
        hosts => {
            hosts.iter().filter_map(|host| host.as_ref().err().map(|error| format!("{error:#}"))).collect()
        }
    };
    list.iter().fold(String::new(), |text, line| {
        text + "warning: not the same in both, or not known: " + line + "\n"
    })
}

impl Comparison<'_> {
    /// Whether a row regressed, or one with an aim is gone.
    #[must_use]
    pub fn is_regression(&self) -> bool {
        let regressed = |change: &Change<'_>| change.verdict == Verdict::Regressed;
        self.changes.iter().any(regressed) || self.gone.iter().any(|row| row.aim.is_some())
    }

    /// What changed, as Markdown; what stayed the same is only counted.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (verdict, title) in [(Verdict::Regressed, "Regressed"), (Verdict::Better, "Better")] {
            let changes: Vec<_> = self.changes.iter().filter(|change| change.verdict == verdict).collect();
            if changes.is_empty() {
                continue;
            }
            let _ = write!(
                text,
                "## {title}\n\n| what | before | after | factor | aim |\n|---|---|---|---|---|\n"
            );
            changes.iter().for_each(|change| change.line(&mut text));
            text.push('\n');
        }
        let same = self.changes.iter().filter(|change| change.verdict == Verdict::Same).count();
        let _ = writeln!(text, "{same} rows are the same within tolerance and spread");
        let sizes = self.changes.iter().filter(|change| change.before.size != change.after.size).count();
        if sizes > 0 {
            let _ = writeln!(text, "warning: {sizes} rows were measured with other sizes");
        }
        for (rows, which) in [(&self.gone, "first"), (&self.new, "second")] {
            for row in rows {
                let fails = row.aim.as_ref().filter(|_| which == "first");
                let fails =
                    fails.map_or(String::new(), |aim| format!(": its aim {aim} is not shown any more"));
                let _ = writeln!(
                    text,
                    "only in the {which}: {} / {} ({}){fails}",
                    row.group,
                    row.name,
                    row.place.word()
                );
            }
        }
        text
    }
}

impl Change<'_> {
    fn line(&self, text: &mut String) {
        let figure = |row: &Row| match row.ratio {
            Some(ratio) => format!("{}× ({} {})", short(ratio), short(row.ours), row.unit),
            None => format!("{} {}", short(row.ours), row.unit),
        };
        let aim = match (self.before.holds, self.after.holds) {
            (Some(true), Some(false)) => "held, is missed now",
            (Some(true), None) => "held, could not be shown now",
            (Some(false), Some(true)) => "was missed, holds now",
            _ => "–",
        };
        let _ = writeln!(
            text,
            "| {} / {} ({}) | {} | {} | {} | {aim} |",
            self.before.group,
            self.before.name,
            self.before.place.word(),
            figure(self.before),
            figure(self.after),
            short(self.factor)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Settings;
    use crate::row::Where;
    use std::slice::from_ref;

    fn row(name: &str, ours: f64, peer: f64) -> Row {
        Row::new("g", name, Where::Hosted, "ns", &[ours]).beside("p", &[peer])
    }

    fn verdict(before: &Row, after: &Row) -> Verdict {
        compare(from_ref(before), from_ref(after), 0.1).changes[0].verdict
    }

    #[test]
    fn ratios_are_compared_before_figures() {
        // Twice as slow a machine, the same ratio.
        let before = row("n", 10.0, 20.0);
        assert_eq!(verdict(&before, &row("n", 20.0, 40.0)), Verdict::Same);
        let worse = row("n", 15.0, 20.0);
        assert_eq!(verdict(&before, &worse), Verdict::Regressed);
        let text = compare(from_ref(&before), from_ref(&worse), 0.1).markdown();
        assert!(
            text.contains("| g / n (hosted) | 0.500× (10.0 ns) | 0.750× (15.0 ns) | 1.50 | – |"),
            "{text}"
        );
        assert_eq!(verdict(&worse, &before), Verdict::Better);
    }

    #[test]
    fn spread_excuses_and_lost_aims_do_not() {
        let noisy = Row::new("g", "n", Where::Hosted, "ns", &[5.0, 8.0, 10.0, 12.0, 15.0]);
        let slower = Row::new("g", "n", Where::Hosted, "ns", &[13.0]);
        assert_eq!(verdict(&noisy, &slower), Verdict::Same);
        let with_aim = |limit| verdict(&noisy.clone().at_most(limit), &slower.clone().at_most(limit));
        assert_eq!(with_aim(12.0), Verdict::Regressed);
        assert_eq!(with_aim(14.0), Verdict::Same);
    }

    #[test]
    fn what_was_nothing_and_is_something_is_worse() {
        let count = |count| Row::count("g", "exits", Where::Guest, "exits", count);
        assert_eq!(verdict(&count(0.0), &count(50.0)), Verdict::Regressed);
        assert_eq!(verdict(&count(50.0), &count(0.0)), Verdict::Better);
        assert_eq!(verdict(&count(0.0), &count(0.0)), Verdict::Same);
    }

    #[test]
    fn an_aim_that_cannot_be_shown_any_more_is_lost() {
        let held = row("n", 1.0, 2.0).ratio_at_most(1.0);
        let skipped = Row::new("g", "n", Where::Hosted, "ns", &[1.0]).without("p", "no library");
        let unmeasured = Row::new("g", "n", Where::Hosted, "ns", &[]).ratio_at_most(1.0).skip("no KVM");
        for after in [skipped.ratio_at_most(1.0), unmeasured] {
            assert_eq!(after.holds, None);
            assert_eq!(verdict(&held, &after), Verdict::Regressed);
            let text = compare(from_ref(&held), from_ref(&after), 0.1).markdown();
            assert!(text.contains("held, could not be shown now"), "{text}");
        }
        let missed = row("n", 3.0, 2.0).ratio_at_most(1.0);
        assert_eq!(verdict(&missed, &missed), Verdict::Same, "it was missed before");
    }

    #[test]
    fn higher_throughput_is_better() {
        let rate = |value| Row::new("g", "n", Where::Hosted, "op/s", &[value]);
        assert_eq!(verdict(&rate(100.0), &rate(200.0)), Verdict::Better);
        assert_eq!(verdict(&rate(200.0), &rate(100.0)), Verdict::Regressed);
        assert_eq!(verdict(&rate(200.0), &rate(0.0)), Verdict::Regressed);
    }

    #[test]
    fn rows_of_one_report_are_named_and_those_with_aims_missed() {
        let (before, after) = ([row("old", 1.0, 1.0)], [row("new", 1.0, 1.0)]);
        let comparison = compare(&before, &after, 0.1);
        let text = comparison.markdown();
        assert!(text.contains("only in the first: g / old (hosted)\n"), "{text}");
        assert!(text.contains("only in the second: g / new (hosted)\n"), "{text}");
        assert!(!comparison.is_regression(), "nothing was promised of it");
        let promised = [row("old", 1.0, 1.0).ratio_at_most(2.0)];
        let comparison = compare(&promised, &after, 0.1);
        assert!(comparison.is_regression());
        assert!(comparison.markdown().contains("its aim ≤ 2× is not shown any more"));
        assert!(!compare(&after, &[after[0].clone(), promised[0].clone()], 0.1).is_regression());
    }

    #[test]
    fn what_was_measured_otherwise_is_warned_of() {
        let host = |divide| Host { settings: Settings { divide, ..Settings::default() }, ..Host::default() };
        assert_eq!(warnings(&[Ok(host(1)), Ok(host(1))]), "");
        let text = warnings(&[Ok(host(1)), Ok(host(10))]);
        assert!(text.contains("numbers divided by") && text.lines().count() == 1, "{text}");
        let text = warnings(&[Ok(host(1)), Err(anyhow::anyhow!("cannot read b/host.json"))]);
        assert!(text.contains("cannot read b/host.json"), "{text}");
        let sized = |count| row("n", 1.0, 1.0).sized(count, 100, "pairs");
        let text = compare(&[sized(100)], &[sized(10)], 0.1).markdown();
        assert!(text.contains("1 rows were measured with other sizes"), "{text}");
    }
}
