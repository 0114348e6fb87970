//! What a run came to: sections with tables, and the bars that were held against them. The same
//! text serves the terminal and the page.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    bar::{Bar, verdicts},
    setting::Setting,
    table::Table,
};

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
        verdicts(self.sections.iter().flat_map(|section| &section.bars))
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
