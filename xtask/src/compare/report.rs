//! What a run came to: sections with tables, and the bars that were held against them. The same
//! text serves the terminal and the page.

use std::fmt::Write as _;

use serde::Serialize;

use super::setting::Setting;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) command: String,
    pub(super) setting: Setting,
    /// A quick run shows that the program works; its figures are not to be quoted.
    pub(super) quick: bool,
    pub(super) sections: Vec<Section>,
}

#[derive(Debug, Serialize)]
pub(super) struct Section {
    pub(super) title: &'static str,
    /// What was done, so that the figures can be read.
    pub(super) method: String,
    #[serde(skip)]
    pub(super) tables: Vec<Table>,
    pub(super) bars: Vec<Bar>,
    /// Every single measurement.
    pub(super) samples: serde_json::Value,
}

#[derive(Debug)]
pub(super) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// One demand, and what was measured.
#[derive(Debug, Serialize)]
pub(super) struct Bar {
    pub(super) what: String,
    pub(super) bar: String,
    pub(super) measured: String,
    pub(super) met: bool,
}

/// Which way a bar points.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Limit {
    pub(super) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }

    pub(super) fn text(self, unit: &str) -> String {
        match self {
            Self::AtLeast(limit) => format!(">= {limit}{unit}"),
            Self::AtMost(limit) => format!("<= {limit}{unit}"),
        }
    }
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|&word| word.to_owned()).collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.chain(self.head.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |cells: &[String]| {
            let padded = widths.iter().zip(cells).map(|(&width, cell)| format!(" {cell:width$} |"));
            padded.fold("|".to_owned(), |line, cell| line + &cell) + "\n"
        };
        let rule = widths.iter().fold("|".to_owned(), |line, width| line + &"-".repeat(width + 2) + "|");
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}{rule}\n{rows}", line(&self.head))
    }
}

impl Section {
    pub(super) fn text(&self) -> String {
        let mut text = format!("## {}\n\n{}\n", self.title, self.method);
        for table in &self.tables {
            // Writing to a String cannot fail.
            let _written = write!(text, "\n{}", table.text());
        }
        text
    }
}

impl Report {
    pub(super) fn met(&self) -> bool {
        self.sections.iter().flat_map(|section| &section.bars).all(|bar| bar.met)
    }

    pub(super) fn verdicts(&self) -> String {
        let mut table = Table::new(&["what", "bar", "measured", "verdict"]);
        for bar in self.sections.iter().flat_map(|section| &section.bars) {
            let verdict = if bar.met { "met" } else { "**missed**" };
            table.row(vec![bar.what.clone(), bar.bar.clone(), bar.measured.clone(), verdict.to_owned()]);
        }
        let text = if table.rows.is_empty() { "No bar belongs to what was measured.\n".into() } else { table.text() };
        format!("## The bars\n\n{text}")
    }

    /// The page of figures.
    pub(super) fn page(&self) -> String {
        let mut page = format!("# Figures\n\nMade by `{}`; run it to have your machine's own.\n", self.command);
        if self.quick {
            page += "**A quick run: it shows that everything works, and its figures are not to be quoted.**\n";
        }
        page += &format!("\n{}\n{}", self.setting.text(), self.verdicts());
        for section in &self.sections {
            page += &format!("\n{}", section.text());
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::{Limit, Table};

    #[test]
    fn a_table_is_aligned() {
        let mut table = Table::new(&["path", "rps"]);
        table.row(vec!["haproxy".to_owned(), "1".to_owned()]);
        assert_eq!(table.text(), "| path    | rps |\n|---------|-----|\n| haproxy | 1   |\n");
    }

    #[test]
    fn a_bar_is_met_at_its_limit() {
        assert!(Limit::AtLeast(1.15).holds(1.15) && !Limit::AtLeast(1.15).holds(1.14));
        assert!(Limit::AtMost(0.75).holds(0.75) && !Limit::AtMost(0.75).holds(0.76));
        assert_eq!(Limit::AtMost(0.75).text(" x"), "<= 0.75 x");
    }
}
