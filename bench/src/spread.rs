//! Several measurements of one thing.

/// Values of several runs, sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread {
    sorted: Vec<f64>,
}

impl FromIterator<f64> for Spread {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Spread {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Spread { sorted }
    }
}

impl Spread {
    /// The value that `percent` of the values do not exceed (nearest rank); 0 if there are none.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or(0.0)
    }

    /// "median UNIT (p10 …, p90 …)".
    pub(crate) fn show(&self, unit: &str) -> String {
        let [low, middle, high] = [10, 50, 90].map(|percent| self.percentile(percent));
        format!("{middle:.2} {unit} (p10 {low:.2}, p90 {high:.2})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let spread: Spread = [5.0, 1.0, 4.0, 2.0, 3.0].into_iter().collect();
        assert_eq!(
            [0, 10, 20, 50, 90, 100].map(|percent| spread.percentile(percent)),
            [1.0, 1.0, 1.0, 3.0, 5.0, 5.0]
        );
        assert_eq!(spread.show("ms"), "3.00 ms (p10 1.00, p90 5.00)");
        assert_eq!(Spread::default().percentile(50), 0.0);
    }
}
