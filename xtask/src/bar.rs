//! What the project demands of a figure, and whether a run met it.

use serde::Serialize;

use crate::table::Table;

/// One demand, and what was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) bar: String,
    pub(crate) measured: String,
    pub(crate) met: bool,
}

/// Which way a bar points.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Limit {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }

    pub(crate) fn text(self, unit: &str) -> String {
        match self {
            Self::AtLeast(limit) => format!(">= {limit}{unit}"),
            Self::AtMost(limit) => format!("<= {limit}{unit}"),
        }
    }
}

/// Every bar with what was measured and its verdict, under a heading.
pub(crate) fn verdicts<'a>(bars: impl IntoIterator<Item = &'a Bar>) -> String {
    format!("## The bars\n\n{}", demands(bars))
}

pub(crate) fn demands<'a>(bars: impl IntoIterator<Item = &'a Bar>) -> String {
    let mut table = Table::new(&["what", "bar", "measured", "verdict"]);
    for bar in bars {
        let verdict = if bar.met { "met" } else { "**missed**" };
        table.row(vec![bar.what.clone(), bar.bar.clone(), bar.measured.clone(), verdict.to_owned()]);
    }
    if table.is_empty() { "No bar belongs to what was measured.\n".to_owned() } else { table.text() }
}

#[cfg(test)]
mod tests {
    use super::Limit;

    #[test]
    fn a_bar_is_met_at_its_limit() {
        assert!(Limit::AtLeast(1.15).holds(1.15) && !Limit::AtLeast(1.15).holds(1.14));
        assert!(Limit::AtMost(0.75).holds(0.75) && !Limit::AtMost(0.75).holds(0.76));
        assert_eq!(Limit::AtMost(0.75).text(" x"), "<= 0.75 x");
    }
}
