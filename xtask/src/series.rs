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

    /// The median, and in brackets the least and the most.
    pub(crate) fn text(&self, places: usize) -> String {
        match (self.median(), self.least(), self.most()) {
            (Some(median), Some(least), Some(most)) => format!("{median:.places$} ({least:.places$}-{most:.places$})"),
            _ => "-".to_owned(),
        }
    }
}

/// The value at this part of sorted ones, 0 being the first and 1 the last: always one of them.
pub(crate) fn quantile<T: Copy>(sorted: &[T], part: f64) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * part).round() as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::{Series, quantile};

    #[test]
    fn the_median_is_the_middle_and_the_spread_its_ends() {
        let series: Series = [3.0, 1.0, 9.0].into_iter().collect();
        assert_eq!((series.median(), series.least(), series.most()), (Some(3.0), Some(1.0), Some(9.0)));
        let even: Series = [4.0, 1.0, 2.0, 9.0].into_iter().collect();
        assert_eq!(even.median(), Some(3.0));
        assert_eq!(Series::default().median(), None);
    }

    #[test]
    fn a_series_shows_its_spread() {
        let series: Series = [3.0, 1.0, 9.25].into_iter().collect();
        assert_eq!(series.text(1), "3.0 (1.0-9.2)");
        assert_eq!(Series::default().text(1), "-");
    }

    #[test]
    fn quantiles_of_few_values() {
        assert_eq!(quantile::<u32>(&[], 0.5), None);
        assert_eq!(quantile(&[7], 0.99), Some(7));
        assert_eq!(quantile(&[1, 2, 3], 0.5), Some(2));
        assert_eq!(quantile(&[1, 2, 3, 4], 1.0), Some(4));
    }

    #[test]
    fn a_quantile_of_a_thousand_is_the_one_it_names() {
        let values: Vec<u32> = (0..=1000).collect();
        let at = |part| quantile(&values, part);
        assert_eq!((at(0.5), at(0.99), at(0.999)), (Some(500), Some(990), Some(999)));
    }
}
