//! Interleaved rounds of requests: each round runs every path at every number of clients, each
//! time beginning with another path, so that what drifts in the machine hits all paths alike.

use anyhow::Result;
use serde_json::json;

use super::{Run, benchmark, path::Path, stage::Stage};
use crate::{
    bar::{Bar, Limit},
    requests::Load,
    sample::{Figure, Samples},
    series::Series,
    table::Table,
};

/// Requests for a first guess, a client.
const WARM_UP: u64 = 2000;
/// More clients than this hardly add to the throughput.
const BUSY: u32 = 8;

#[derive(Debug)]
pub(super) struct Rounds {
    samples: Samples<u32, Path>,
}

/// A demand on the ratio of one path to HAProxy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub(super) path: Path,
    pub(super) clients: u32,
    pub(super) figure: Figure,
    pub(super) limit: Limit,
}

impl Rounds {
    /// `keep`: whether a client keeps its connection.
    pub(super) fn run(run: &Run, stage: &Stage, clients: &[u32], keep: bool, seconds: f64) -> Result<Self> {
        let loads = clients.iter().map(|&clients| warm_up(run, stage, clients, keep, seconds));
        let loads = loads.collect::<Result<Vec<Load>>>()?;
        let mut rounds = Self { samples: Samples::new() };
        for round in 0..run.rounds {
            run.say(&format!("round {} of {}", round + 1, run.rounds));
            for &load in &loads {
                for turn in 0..run.paths.len() {
                    let path = run.paths[(turn + round as usize) % run.paths.len()];
                    rounds.samples.add(load.clients, path, benchmark::run(stage, path, load)?);
                }
            }
        }
        Ok(rounds)
    }

    /// A row for each path: medians, and in brackets the least and most of all rounds.
    pub(super) fn table(&self, rate: &str) -> Table {
        let mut table = Table::new(&[
            "clients",
            "path",
            rate,
            "/ haproxy",
            "/ direct",
            "p50 ms",
            "/ haproxy",
            "p99 ms",
            "/ haproxy",
            "machine us/request",
            "/ haproxy",
            "proxy s/million",
        ]);
        for (clients, path, _) in self.samples.iter() {
            let figure = |figure, places| self.samples.series(clients, path, figure).text(places);
            let ratio = |figure, to| self.samples.ratio_text(clients, path, to, figure);
            table.row(vec![
                clients.to_string(),
                path.to_string(),
                figure(Figure::Rate, 0),
                ratio(Figure::Rate, Path::Haproxy),
                ratio(Figure::Rate, Path::Direct),
                figure(Figure::P50, 3),
                ratio(Figure::P50, Path::Haproxy),
                figure(Figure::P99, 3),
                ratio(Figure::P99, Path::Haproxy),
                figure(Figure::Machine, 1),
                ratio(Figure::Machine, Path::Haproxy),
                figure(Figure::Proxy, 2),
            ]);
        }
        table
    }

    /// The verdict on a rule, if it was measured.
    pub(super) fn bar(&self, rule: Rule) -> Option<Bar> {
        let Rule { path, clients, figure, limit } = rule;
        let ratio = self.samples.ratio(clients, path, Path::Haproxy, figure)?;
        let word = if clients == 1 { "client" } else { "clients" };
        Some(Bar {
            what: format!("{path}, {clients} {word}: {}", figure.says()),
            bar: limit.text(" x HAProxy's"),
            measured: format!("{ratio:.3} x"),
            met: limit.holds(ratio),
        })
    }

    pub(super) fn samples(&self) -> serde_json::Value {
        let each = self.samples.iter();
        each.map(|(clients, path, rounds)| json!({ "clients": clients, "path": path, "rounds": rounds })).collect()
    }
}

/// Warms every path, and finds how many requests take them about `seconds`: the same for all.
fn warm_up(run: &Run, stage: &Stage, clients: u32, keep: bool, seconds: f64) -> Result<Load> {
    let guess = if keep { WARM_UP } else { WARM_UP / 10 };
    let guess = Load::get(clients, guess * u64::from(clients.min(BUSY)), keep);
    let rates = run.paths.iter().map(|&path| Ok(benchmark::run(stage, path, guess)?.rate));
    let rates: Series = rates.collect::<Result<Vec<f64>>>()?.into_iter().collect();
    let fitting = (rates.median().unwrap_or_default() * seconds / 100.0).ceil() as u64 * 100;
    let requests = run.requests.unwrap_or(fitting).max(u64::from(clients));
    run.say(&format!("{clients} clients: {requests} requests each time"));
    Ok(Load { requests, ..guess })
}
