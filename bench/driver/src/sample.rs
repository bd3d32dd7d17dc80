//! Samples of one figure: the median counts, the quartiles say how sure it is.

/// Sorted samples.
#[derive(Clone, Debug)]
pub struct Samples {
    sorted: Vec<f64>,
}

impl Samples {
    /// Sorts `samples`.
    #[must_use]
    pub fn new(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self { sorted }
    }

    /// The sample at `quarter` quarters of the way.
    fn at(&self, quarter: usize) -> Option<f64> {
        self.sorted.get((self.sorted.len() * quarter / 4).min(self.sorted.len().saturating_sub(1))).copied()
    }

    /// The middle value; not a number without any.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.at(2).unwrap_or(f64::NAN)
    }

    /// Lower and upper quartile; absent for fewer than three samples.
    #[must_use]
    pub fn spread(&self) -> Option<[f64; 2]> {
        (self.sorted.len() >= 3).then(|| Some([self.at(1)?, self.at(3)?])).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles() {
        let samples = Samples::new(&[7.0, 1.0, 3.0, 5.0, 2.0, 6.0, 4.0]);
        assert_eq!(samples.median(), 4.0);
        assert_eq!(samples.spread(), Some([2.0, 6.0]));
        assert!(Samples::new(&[]).median().is_nan());
        assert_eq!(Samples::new(&[1.0, 2.0]).spread(), None);
    }
}
