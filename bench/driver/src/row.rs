//! Rows: what a report is a list of.

use crate::plot::short;
use crate::sample::Samples;
use crate::steady::Outcome;
use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::path::Path;

/// Repeats that a figure needs at least.
pub const REPEATS: usize = 7;

/// Where something was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Where {
    /// In a Linux process, on the pool's or libtwz's code.
    Hosted,
    /// In a program on Twizzler.
    Guest,
    /// Around `twzvmm` itself.
    Host,
}

impl Where {
    /// Its word in the report.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hosted => "hosted",
            Self::Guest => "guest",
            Self::Host => "host",
        }
    }
}

/// One figure beside its peer's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What belongs together.
    pub group: String,
    /// What was measured.
    pub name: String,
    /// Where.
    #[serde(rename = "where")]
    pub place: Where,
    /// Of `ours` and `peer`.
    pub unit: String,
    /// Median; not a number (in JSON: null) where it could not be measured.
    #[serde(deserialize_with = "number_or_null")]
    pub ours: f64,
    /// The peer's median; absent without a peer.
    pub peer: Option<f64>,
    /// What the peer is.
    pub peer_name: Option<String>,
    /// Ours by the peer's.
    pub ratio: Option<f64>,
    /// What was promised, in words; absent if nothing was.
    pub aim: Option<String>,
    /// Whether the aim is met here.
    pub holds: Option<bool>,
    /// Lower and upper quartile of `ours`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ours_spread: Option<[f64; 2]>,
    /// Lower and upper quartile of `peer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_spread: Option<[f64; 2]>,
    /// Of how many repeats each side has the median, of the one that has fewer; absent where something was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<usize>,
    /// How many rounds were dropped and measured again, for all sides, because the host was slower than it can be; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<usize>,
    /// How many of the repeats count although the host was slower; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disturbed: Option<usize>,
    /// Why the peer is missing, or the whole figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// With how much it was measured, where that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
}

/// With how much a figure was measured: `count` of the `full` number of `things` that its aim is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// This time.
    pub count: u64,
    /// In a full run.
    pub full: u64,
    /// What they are, in the plural.
    pub things: String,
}

impl Size {
    /// Whether this is less than the aims are for.
    #[must_use]
    pub const fn is_reduced(&self) -> bool {
        self.count < self.full
    }

    /// What a full run has.
    #[must_use]
    pub fn full(&self) -> Self {
        Self { count: self.full, ..self.clone() }
    }
}

/// "1,000 pairs", or "1,000 of 1,000,000 pairs".
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", grouped(self.count))?;
        if self.is_reduced() {
            write!(f, "of {} ", grouped(self.full))?;
        }
        f.write_str(&self.things)
    }
}

/// A number with a comma every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn number_or_null<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

impl Row {
    /// A row of `samples`, whose median and quartiles count. None: it was not measured, which [`Row::skip`] should give the reason for.
    #[must_use]
    pub fn new(group: &str, name: &str, place: Where, unit: &str, samples: &[f64]) -> Self {
        let repeats = Some(samples.len()).filter(|repeats| *repeats > 0);
        let samples = Samples::new(samples);
        Self {
            group: group.into(),
            name: name.into(),
            place,
            unit: unit.into(),
            ours: samples.median(),
            peer: None,
            peer_name: None,
            ratio: None,
            aim: None,
            holds: None,
            ours_spread: samples.spread(),
            peer_spread: None,
            repeats,
            again: None,
            disturbed: None,
            skipped: None,
            size: None,
        }
    }

    /// A row of something that is counted, not timed: one number, no spread.
    #[must_use]
    pub fn count(group: &str, name: &str, place: Where, unit: &str, count: f64) -> Self {
        Self { ours_spread: None, repeats: None, ..Self::new(group, name, place, unit, &[count]) }
    }

    /// Puts the peer's samples beside.
    #[must_use]
    pub fn beside(mut self, peer: &str, samples: &[f64]) -> Self {
        self.repeats = self.repeats.map(|repeats| repeats.min(samples.len()));
        let samples = Samples::new(samples);
        self.peer = Some(samples.median()).filter(|median| !median.is_nan());
        self.peer_name = Some(peer.into());
        self.peer_spread = samples.spread();
        self.ratio = (samples.median() > 0.0 && self.is_measured()).then(|| self.ours / samples.median());
        self
    }

    /// Says which of its rounds were disturbed.
    #[must_use]
    pub fn steadied(mut self, outcome: Outcome) -> Self {
        let some = |count: usize| Some(count).filter(|count| *count > 0);
        (self.again, self.disturbed) = (some(outcome.again), some(outcome.disturbed));
        self
    }

    /// Whether its median is one of disturbed rounds: more than half of them are.
    #[must_use]
    pub fn is_disturbed(&self) -> bool {
        self.disturbed.zip(self.repeats).is_some_and(|(disturbed, repeats)| 2 * disturbed > repeats)
    }

    /// Says why there is no peer to put beside.
    #[must_use]
    pub fn without(mut self, peer: &str, reason: &str) -> Self {
        (self.peer_name, self.skipped) = (Some(peer.into()), Some(reason.into()));
        self
    }

    /// Says why there is no figure, or why its aim is not for where it was measured: so that the aim is not forgotten.
    #[must_use]
    pub fn skip(mut self, reason: &str) -> Self {
        (self.skipped, self.holds) = (Some(reason.into()), None);
        self
    }

    /// Says with how many `things` it was measured, and with how many in a full run.
    #[must_use]
    pub fn sized(mut self, count: u64, full: u64, things: &str) -> Self {
        self.size = Some(Size { count, full, things: things.into() });
        self
    }

    /// Its name, with how much it was measured.
    #[must_use]
    pub fn full_name(&self) -> String {
        match &self.size {
            Some(size) => format!("{} ({size})", self.name),
            None => self.name.clone(),
        }
    }

    /// Whether it was measured with less than its aim is for.
    #[must_use]
    pub fn is_reduced(&self) -> bool {
        self.size.as_ref().is_some_and(Size::is_reduced)
    }

    /// Whether its medians are of fewer repeats than a figure needs.
    #[must_use]
    pub fn is_seldom_repeated(&self) -> bool {
        self.skipped.is_none() && self.repeats.is_some_and(|repeats| repeats < REPEATS)
    }

    /// Whether there is a figure.
    #[must_use]
    pub const fn is_measured(&self) -> bool {
        !self.ours.is_nan()
    }

    /// Says what was promised: at most this, in the row's unit.
    #[must_use]
    pub fn at_most(mut self, limit: f64) -> Self {
        let holds = self.is_measured().then_some(self.ours <= limit);
        (self.aim, self.holds) = (Some(format!("≤ {limit} {}", self.unit)), holds);
        self
    }

    /// Says what was promised: at most so many times the peer. A row without a ratio does not hold, unless it says why there is no peer.
    #[must_use]
    pub fn ratio_at_most(mut self, limit: f64) -> Self {
        let holds = self.ratio.is_some_and(|ratio| ratio <= limit);
        let is_known = self.skipped.is_none() && self.is_measured();
        (self.aim, self.holds) = (Some(format!("≤ {limit}×")), is_known.then_some(holds));
        self
    }
}

/// A line for people.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {}: {} {}", self.group, self.full_name(), short(self.ours), self.unit)?;
        let peer = self.peer_name.as_deref().unwrap_or("the row");
        if let Some(ratio) = self.ratio {
            write!(f, ", {} of {peer}", short(ratio))?;
        }
        if let Some(reason) = &self.skipped {
            write!(f, ", {peer} skipped: {reason}")?;
        }
        if let Some(aim) = &self.aim {
            let holds = self.holds.map_or("", |holds| if holds { ": holds" } else { ": MISSED" });
            write!(f, "; aim {aim}{holds}")?;
        }
        Ok(())
    }
}

/// Reads rows that another benchmark wrote: a JSON list, or an object a line.
///
/// # Errors
/// When the file cannot be read or holds something else; names it.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let rows = if text.trim_start().starts_with('[') {
        serde_json::from_str(&text)
    } else {
        serde_json::Deserializer::from_str(&text).into_iter().collect()
    };
    rows.with_context(|| path.display().to_string())
}

/// Writes rows as a JSON list, which [`read`] reads.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, rows: &[Row]) -> Result<()> {
    let text = serde_json::to_string_pretty(rows)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aims_are_judged_by_medians() {
        let row = Row::new("g", "n", Where::Guest, "ns", &[9.0, 1.0, 2.0]).beside("p", &[8.0, 4.0, 1.0]);
        assert_eq!((row.ours, row.peer, row.ratio), (2.0, Some(4.0), Some(0.5)));
        assert_eq!(row.clone().at_most(2.0).holds, Some(true));
        assert_eq!(row.clone().at_most(1.9).holds, Some(false));
        assert_eq!(row.clone().ratio_at_most(0.5).holds, Some(true));
        assert_eq!(row.ratio_at_most(0.4).holds, Some(false));
        let alone = Row::new("g", "n", Where::Guest, "ns", &[1.0]).ratio_at_most(9.0);
        assert_eq!(alone.holds, Some(false), "without its peer an aim is not shown");
    }

    #[test]
    fn repeats_are_those_of_the_side_with_fewer() {
        let row = |ours: usize| Row::new("g", "n", Where::Guest, "ns", &vec![1.0; ours]);
        assert!(row(6).is_seldom_repeated() && !row(7).is_seldom_repeated());
        assert_eq!(row(9).beside("p", &[1.0; 6]).repeats, Some(6));
        assert_eq!(Row::count("g", "n", Where::Guest, "exits", 3.0).repeats, None);
        assert!(!row(0).skip("no KVM").is_seldom_repeated());
        assert!(!row(7).without("p", "no library").is_seldom_repeated());
    }

    #[test]
    fn disturbed_rounds_are_told() {
        let row = |again, disturbed| {
            let row = Row::new("g", "n", Where::Hosted, "ns", &[1.0; 7]);
            row.steadied(Outcome { again, disturbed })
        };
        let text = serde_json::to_string(&row(0, 0)).unwrap();
        assert!(!text.contains("again") && !text.contains("disturbed"), "absent for none: {text}");
        let told = row(14, 4);
        assert_eq!((told.again, told.disturbed, told.is_disturbed()), (Some(14), Some(4), true));
        assert!(!row(14, 3).is_disturbed() && !row(0, 0).is_disturbed());
    }

    #[test]
    fn what_was_not_measured_keeps_its_aim() {
        let row = Row::new("g", "n", Where::Guest, "ns", &[]).beside("p", &[]);
        let row = row.ratio_at_most(0.5).skip("no KVM");
        assert_eq!((row.aim.as_deref(), row.holds, row.ratio), (Some("≤ 0.5×"), None, None));
        let alone = Row::count("g", "n", Where::Guest, "ns", f64::NAN).at_most(3.0);
        assert_eq!((alone.aim.as_deref(), alone.holds), (Some("≤ 3 ns"), None));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.json");
        write(&path, &[row]).unwrap();
        let read = read(&path).unwrap();
        assert!(!read[0].is_measured() && read[0].skipped.as_deref() == Some("no KVM"));
    }

    #[test]
    fn sizes_are_told_as_they_are() {
        let row = |count| Row::new("g", "n", Where::Hosted, "ns", &[1.0]).sized(count, 1_000_000, "pairs");
        assert_eq!(row(1_000_000).full_name(), "n (1,000,000 pairs)");
        assert_eq!(row(100_000).full_name(), "n (100,000 of 1,000,000 pairs)");
        assert!(row(999).is_reduced() && !row(1_000_000).is_reduced());
        assert_eq!(grouped(999), "999");
    }

    #[test]
    fn the_book_says_what_each_field_means() {
        let row =
            Row::new("g", "n", Where::Hosted, "ns", &[1.0; 7]).beside("p", &[4.0; 7]).ratio_at_most(1.0);
        let row = row.steadied(Outcome { again: 1, disturbed: 1 });
        let row = serde_json::to_value(row.sized(1, 2, "pairs").skip("why")).unwrap();
        let fields: Vec<&String> = row.as_object().unwrap().keys().collect();
        assert_eq!(fields.len(), 17, "{fields:?}");
        let book = include_str!("../../../docs/results.md");
        for field in fields {
            assert!(
                book.contains(&format!("| `{field}`")) || book.contains(&format!(", `{field}`")),
                "no {field}"
            );
        }
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.json");
        let row = Row::new("g", "n", Where::Hosted, "ns", &[1.0, 2.0, 3.0]).beside("p", &[4.0]);
        write(&path, &[row.clone(), row]).unwrap();
        let rows = read(&path).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[1].ours, rows[1].ratio, rows[1].place), (2.0, Some(0.5), Where::Hosted));
        // What older benchmarks write: an object a line, without spreads.
        let line = r#"{"group":"g","name":"n","where":"host","unit":"ns","ours":1.0,"peer":null,"peer_name":null,"ratio":null,"aim":null,"holds":null}"#;
        std::fs::write(&path, format!("{line}\n{line}\n")).unwrap();
        assert_eq!(read(&path).unwrap().len(), 2);
    }
}
