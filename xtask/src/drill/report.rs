//! What a run came to: for each drill the sides' figures next to each other, every round, and the bars.

use std::{ffi::OsStr, path::Path};

use serde::Serialize;

use super::{
    account::Round,
    bars::bars,
    figures::{Figure, Figures, show},
    name::{Drill, Side},
};
use crate::{
    bar::{Bar, demands, verdicts},
    series::Series,
    setting::Setting,
    table::Table,
};

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) command: String,
    pub(super) setting: Setting,
    pub(super) datapath: &'static str,
    pub(super) clients: &'static str,
    pub(super) drills: Vec<Drilled>,
}

/// All rounds of one drill, the sides' in turn.
#[derive(Debug, Serialize)]
pub(super) struct Drilled {
    pub(super) drill: Drill,
    pub(super) sides: Vec<Stood>,
    pub(super) bars: Vec<Bar>,
}

/// How one side stood it.
#[derive(Debug, Serialize)]
pub(super) struct Stood {
    pub(super) side: Side,
    pub(super) rounds: Vec<Round>,
    /// Why rounds could not be played to their end.
    pub(super) failed: Vec<String>,
}

impl Stood {
    fn series(&self, figure: Figure) -> Series {
        self.rounds.iter().filter_map(|round| round.figures.get(figure)).collect()
    }

    /// The round whose gap is the median one, or where there is no writer the number of wrong answers: what the picture shows.
    pub(super) fn typical(&self) -> Option<&Round> {
        let mut rounds: Vec<&Round> = self.rounds.iter().collect();
        let rank = |round: &&Round| {
            let figures = &round.figures;
            figures.get(Figure::Gap).or_else(|| figures.get(Figure::Wrong)).unwrap_or_default()
        };
        rounds.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
        rounds.get(rounds.len().saturating_sub(1) / 2).copied()
    }
}

impl Drilled {
    pub(super) fn new(drill: Drill, sides: Vec<Stood>) -> Self {
        let demands = |stood: &Stood| match stood.side {
            Side::Ours(commit) => {
                let figures: Vec<&Figures> = stood.rounds.iter().map(|round| &round.figures).collect();
                bars(drill, commit, &figures, stood.failed.len())
            }
            Side::Peer(_) => Vec::new(),
        };
        let bars = sides.iter().flat_map(demands).collect();
        Self { drill, sides, bars }
    }

    /// Medians, with the least and the most where they differ.
    pub(super) fn table(&self) -> String {
        let mut head = vec!["figure".to_owned()];
        head.extend(self.sides.iter().map(|stood| format!("{}, rounds: {}", stood.side, stood.rounds.len())));
        let mut table = Table::new(&head);
        for &figure in Figure::ALL {
            let series: Vec<Series> = self.sides.iter().map(|stood| stood.series(figure)).collect();
            if series.iter().any(|series| series.median().is_some()) {
                let cells = series.iter().map(|series| cell(figure, series));
                table.row(std::iter::once(figure.says().to_owned()).chain(cells).collect());
            }
        }
        table.text()
    }

    /// One round of each side, moment by moment.
    pub(super) fn moments(&self) -> String {
        self.sides.iter().map(moments).collect()
    }

    fn failures(&self) -> String {
        let all = self.sides.iter().flat_map(|stood| stood.failed.iter().map(move |why| (stood.side, why)));
        all.map(|(side, why)| format!("\n{side}: a round could not be played: {why}\n")).collect()
    }
}

fn cell(figure: Figure, series: &Series) -> String {
    match (series.least(), series.median(), series.most()) {
        (Some(least), Some(median), Some(most)) if least < most => {
            format!("{} ({} to {})", show(figure, median), show(figure, least), show(figure, most))
        }
        (_, Some(median), _) => show(figure, median),
        _ => "-".to_owned(),
    }
}

fn moments(stood: &Stood) -> String {
    let mut text = String::new();
    if let Some(round) = stood.typical() {
        text += &format!("\n{}, the median round, in ms:\n\n", stood.side);
        for mark in &round.timeline {
            text += &format!("    {:>9.1}  {}\n", mark.ms, mark.what);
        }
    }
    text
}

impl Report {
    pub(super) fn met(&self) -> bool {
        self.drills.iter().flat_map(|drilled| &drilled.bars).all(|bar| bar.met)
    }

    /// Where, when and with what.
    pub(super) fn circumstances(&self) -> String {
        format!("- datapath {}; clients {}\n{}", self.datapath, self.clients, self.setting.text())
    }

    /// What a page says of one drill.
    pub(super) fn section(&self, drilled: &Drilled, picture: Option<&Path>) -> String {
        let word = drilled.drill.word();
        let name = picture.and_then(Path::file_name).and_then(OsStr::to_str);
        let picture = name.map_or_else(String::new, |name| format!("![The timelines of {word}]({name})\n\n"));
        format!(
            "## {word}: {}\n\nMade by `{}`:\n\n{}\n{picture}{}\n{}\n{}",
            drilled.drill.blow(),
            self.command,
            self.circumstances(),
            drilled.table(),
            demands(&drilled.bars),
            drilled.failures(),
        )
    }

    pub(super) fn verdicts(&self) -> String {
        verdicts(self.drills.iter().flat_map(|drilled| &drilled.bars))
    }
}
