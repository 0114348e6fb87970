//! What a run came to, as JSON, and as the section of a page.

use serde::Serialize;
use serde_json::{Value, json};

use super::{peer::Peer, picture, workload::Workload};
use crate::{
    bar::{Bar, demands},
    sample::{Figure, Samples},
    setting::Setting,
    table::Table,
};

pub(super) type Measured = Samples<&'static str, Peer>;

#[derive(Debug)]
pub(super) struct Report {
    pub(super) command: String,
    pub(super) setting: Setting,
    /// Of the peers, and how the network differs from the usual, if it does.
    pub(super) notes: Vec<String>,
    /// A quick run shows that the program works; its figures are not to be quoted.
    pub(super) quick: bool,
    pub(super) rounds: u32,
    pub(super) took_s: f64,
    pub(super) workloads: Vec<&'static Workload>,
    /// Those that were measured.
    pub(super) peers: Vec<Peer>,
    pub(super) absent: Vec<Absent>,
    pub(super) failures: Vec<Failure>,
    pub(super) measured: Measured,
    pub(super) bars: Vec<Bar>,
}

/// A peer that was asked for and cannot be measured.
#[derive(Debug, Serialize)]
pub(super) struct Absent {
    pub(super) peer: Peer,
    pub(super) why: String,
}

/// What could not be measured in one of the rounds.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    pub(super) peer: Peer,
    pub(super) workload: Option<&'static str>,
    pub(super) round: u32,
    pub(super) why: String,
}

impl Report {
    pub(super) fn met(&self) -> bool {
        self.failures.is_empty() && self.bars.iter().all(|bar| bar.met)
    }

    /// Every single measurement.
    pub(super) fn json(&self) -> Value {
        let workloads = self.workloads.iter().map(|workload| {
            let peers = self.peers.iter().map(|&peer| (peer, self.measured.of(workload.name, peer)));
            let peers = peers.filter(|(_, rounds)| !rounds.is_empty());
            let peers: Vec<Value> = peers.map(|(peer, rounds)| json!({ "peer": peer, "rounds": rounds })).collect();
            json!({ "name": workload.name, "title": workload.title, "unit": workload.unit(), "peers": peers })
        });
        json!({
            "command": self.command,
            "setting": self.setting,
            "notes": self.notes,
            "quick": self.quick,
            "rounds": self.rounds,
            "took_s": self.took_s,
            "workloads": workloads.collect::<Vec<_>>(),
            "absent": self.absent,
            "failures": self.failures,
            "bars": self.bars,
        })
    }

    /// What a page says of the run; `pictures` have been drawn beside it.
    pub(super) fn section(&self, pictures: bool) -> String {
        let mut text = format!("## Figures\n\nMade by `{}`; run it to have your machine's own.\n", self.command);
        if self.quick {
            text += "**A quick run: it shows that everything works, and its figures are not to be quoted.**\n";
        }
        text += &format!("\n{}", self.setting.text());
        text += &self.notes.iter().map(|note| format!("- {note}\n")).collect::<String>();
        text +=
            &format!("- interleaved rounds: {}; in all {:.0} minutes\n\n", self.rounds, (self.took_s / 60.0).ceil());
        if pictures {
            text += &picture::NAMES.map(|(file, alt)| format!("![{alt}]({file})\n\n")).concat();
        }
        text += &format!("{}\n{}\n### The bars\n\n{}", self.overview(), self.omissions(), demands(&self.bars));
        self.workloads.iter().fold(text, |text, workload| text + "\n" + &self.table(workload))
    }

    /// Every workload in a line: rate and p99 as multiples of direct's.
    pub(super) fn overview(&self) -> String {
        let mut table = Table::new(&self.heads("rate, p99: / direct"));
        for workload in &self.workloads {
            let ratio = |peer, figure| self.measured.ratio_text(workload.name, peer, Peer::Direct, figure);
            let cell = |peer| match (workload.is_messages(), ratio(peer, Figure::Rate), ratio(peer, Figure::P99)) {
                // The rate is given, and the same for all.
                (true, _, p99) => format!("p99 {p99}"),
                (false, rate, p99) => format!("{rate}, {p99}"),
            };
            table.row(
                std::iter::once(workload.name.to_owned()).chain(self.peers.iter().map(|&peer| cell(peer))).collect(),
            );
        }
        table.text()
    }

    fn heads(&self, first: &str) -> Vec<String> {
        std::iter::once(first.to_owned()).chain(self.peers.iter().map(ToString::to_string)).collect()
    }

    /// What was left out, or failed.
    pub(super) fn omissions(&self) -> String {
        let mut text: String = self.absent.iter().map(|one| format!("- {}: {}\n", one.peer, one.why)).collect();
        for failure in &self.failures {
            let what = failure.workload.unwrap_or("starting it");
            text += &format!("- {}, {what}, round {}: **failed**: {}\n", failure.peer, failure.round, failure.why);
        }
        text
    }

    /// A row for each peer: medians, and in brackets the least and the most of all rounds.
    fn table(&self, workload: &Workload) -> String {
        let (rate, machine) = (format!("{}/s", workload.unit()), format!("machine CPU s/million {}", workload.unit()));
        let head = [
            "peer",
            &rate,
            "/ direct",
            "/ haproxy",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "p99 / direct",
            &machine,
            "/ direct",
            "proxy CPU s/million",
            "proxy memory MiB",
        ];
        let mut table = Table::new(&head);
        for &peer in self.peers.iter().filter(|&&peer| !self.measured.of(workload.name, peer).is_empty()) {
            let figure = |figure, places| self.measured.series(workload.name, peer, figure).text(places);
            let ratio = |figure, to| self.measured.ratio_text(workload.name, peer, to, figure);
            table.row(vec![
                peer.to_string(),
                figure(Figure::Rate, 0),
                ratio(Figure::Rate, Peer::Direct),
                ratio(Figure::Rate, Peer::Haproxy),
                figure(Figure::P50, 3),
                figure(Figure::P99, 3),
                figure(Figure::P999, 3),
                ratio(Figure::P99, Peer::Direct),
                figure(Figure::Machine, 1),
                ratio(Figure::Machine, Peer::Direct),
                figure(Figure::Proxy, 2),
                figure(Figure::Memory, 1),
            ]);
        }
        format!("### {}: {}\n\n{}", workload.name, workload.title, table.text())
    }
}
