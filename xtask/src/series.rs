//! The same figure of several rounds.

#[derive(Debug, Clone, Default)]
pub(crate) struct Series(Vec<f64>);

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

impl Series {
    /// The middle one, or the mean of the two in the middle.
    pub(crate) fn median(&self) -> Option<f64> {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => None,
            count if count % 2 == 1 => Some(self.0[middle]),
            _ => Some(f64::midpoint(self.0[middle - 1], self.0[middle])),
        }
    }

    pub(crate) fn least(&self) -> Option<f64> {
        self.0.first().copied()
    }

    pub(crate) fn most(&self) -> Option<f64> {
        self.0.last().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::Series;

    #[test]
    fn the_median_is_the_middle_and_the_spread_its_ends() {
        let series: Series = [3.0, 1.0, 9.0].into_iter().collect();
        assert_eq!((series.median(), series.least(), series.most()), (Some(3.0), Some(1.0), Some(9.0)));
        let even: Series = [4.0, 1.0, 2.0, 9.0].into_iter().collect();
        assert_eq!(even.median(), Some(3.0));
        assert_eq!(Series::default().median(), None);
    }
}
