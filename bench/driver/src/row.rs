//! Rows: what a report is a list of.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Where something was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Where {
    /// In a Linux process, on the pool's or libtwz's code.
    Hosted,
    /// In a program on Twizzler.
    Guest,
    /// Around `twzvmm` itself.
    Host,
}

/// One figure beside its peer's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What belongs together.
    pub(crate) group: String,
    /// What was measured.
    pub(crate) name: String,
    /// Where.
    #[serde(rename = "where")]
    pub(crate) place: Where,
    /// Of `ours` and `peer`.
    pub(crate) unit: String,
    /// Median.
    pub(crate) ours: f64,
    /// The peer's median; absent without a peer.
    pub(crate) peer: Option<f64>,
    /// What the peer is.
    pub(crate) peer_name: Option<String>,
    /// Ours by the peer's.
    pub(crate) ratio: Option<f64>,
    /// What was promised, in words; absent if nothing was.
    pub(crate) aim: Option<String>,
    /// Whether the aim is met here.
    pub(crate) holds: Option<bool>,
}

impl Row {
    /// A row of `samples`, whose medians count.
    pub(crate) fn new(group: &str, name: &str, place: Where, unit: &str, samples: &[f64]) -> Self {
        Self {
            group: group.into(),
            name: name.into(),
            place,
            unit: unit.into(),
            ours: median(samples),
            peer: None,
            peer_name: None,
            ratio: None,
            aim: None,
            holds: None,
        }
    }

    /// Puts the peer's samples beside.
    pub(crate) fn beside(mut self, peer: &str, samples: &[f64]) -> Self {
        let peer_median = median(samples);
        self.peer = Some(peer_median);
        self.peer_name = Some(peer.into());
        self.ratio = (peer_median > 0.0).then(|| self.ours / peer_median);
        self
    }

    /// Says what was promised: at most this, in the row's unit.
    pub(crate) fn at_most(mut self, limit: f64) -> Self {
        (self.aim, self.holds) = (Some(format!("≤ {limit} {}", self.unit)), Some(self.ours <= limit));
        self
    }
}

/// Reads rows that another benchmark wrote: a JSON list, or an object a line.
pub(crate) fn read(path: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let rows = if text.trim_start().starts_with('[') {
        serde_json::from_str(&text)
    } else {
        serde_json::Deserializer::from_str(&text).into_iter().collect()
    };
    rows.with_context(|| path.display().to_string())
}

/// The middle value; 0 without any.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aims_are_judged_by_medians() {
        let row = Row::new("g", "n", Where::Guest, "ns", &[9.0, 1.0, 2.0]).beside("p", &[8.0, 4.0, 1.0]);
        assert_eq!((row.ours, row.peer, row.ratio), (2.0, Some(4.0), Some(0.5)));
        assert_eq!(row.clone().at_most(2.0).holds, Some(true));
        assert_eq!(row.at_most(1.9).holds, Some(false));
    }
}
