//! What one run of a load came to, and the runs of all rounds side by side.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{cpu::Cost, requests::Timing, series::Series};

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    /// Requests, connections or deliveries a second.
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: Option<f64>,
    /// CPU time of the whole machine for a million of them, in seconds: client, kernel, proxy and Redis.
    pub(crate) machine_s: f64,
    /// CPU time of the proxy's processes for a million.
    pub(crate) proxy_s: Option<f64>,
    /// The most anonymous memory they held.
    pub(crate) proxy_mib: Option<f64>,
}

/// Which figure of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    Rate,
    P50,
    P99,
    P999,
    Machine,
    Proxy,
    Memory,
}

impl Figure {
    pub(crate) fn says(self) -> &'static str {
        match self {
            Self::Rate => "requests per second",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::Machine => "machine CPU per request",
            Self::Proxy => "the proxy process's own CPU time",
            Self::Memory => "the proxy's memory",
        }
    }
}

impl Sample {
    /// Of a run of requests.
    pub(crate) fn of(timing: Timing, cost: Cost, requests: u64) -> Self {
        let million = |time: Duration| time.as_secs_f64() * 1e6 / requests as f64;
        Self {
            rate: timing.rps,
            p50_ms: timing.p50_ms,
            p99_ms: timing.p99_ms,
            p999_ms: None,
            machine_s: million(cost.machine),
            proxy_s: cost.processes.map(million),
            proxy_mib: None,
        }
    }

    pub(crate) fn figure(&self, figure: Figure) -> Option<f64> {
        match figure {
            Figure::Rate => Some(self.rate),
            Figure::P50 => Some(self.p50_ms),
            Figure::P99 => Some(self.p99_ms),
            Figure::P999 => self.p999_ms,
            Figure::Machine => Some(self.machine_s),
            Figure::Proxy => self.proxy_s,
            Figure::Memory => self.proxy_mib,
        }
    }
}

/// The samples of all rounds, by load and by the way they took.
#[derive(Debug)]
pub(crate) struct Samples<L, W>(BTreeMap<(L, W), Vec<Sample>>);

impl<L: Ord + Copy, W: Ord + Copy> Samples<L, W> {
    pub(crate) fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(crate) fn add(&mut self, load: L, way: W, sample: Sample) {
        self.0.entry((load, way)).or_default().push(sample);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (L, W, &[Sample])> {
        self.0.iter().map(|(&(load, way), samples)| (load, way, samples.as_slice()))
    }

    pub(crate) fn of(&self, load: L, way: W) -> &[Sample] {
        self.0.get(&(load, way)).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn series(&self, load: L, way: W, figure: Figure) -> Series {
        self.of(load, way).iter().filter_map(|sample| sample.figure(figure)).collect()
    }

    pub(crate) fn median(&self, load: L, way: W, figure: Figure) -> Option<f64> {
        self.series(load, way, figure).median()
    }

    /// Of the medians.
    pub(crate) fn ratio(&self, load: L, way: W, to: W, figure: Figure) -> Option<f64> {
        let other = self.median(load, to, figure).filter(|&value| value > 0.0)?;
        Some(self.median(load, way, figure)? / other)
    }

    /// The same as a cell of a table.
    pub(crate) fn ratio_text(&self, load: L, way: W, to: W, figure: Figure) -> String {
        self.ratio(load, way, to, figure).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64) -> Sample {
        Sample { rate, p50_ms: 0.5, p99_ms: 1.0, p999_ms: None, machine_s: 20.0, proxy_s: None, proxy_mib: None }
    }

    #[test]
    fn a_ratio_is_that_of_the_medians() {
        let mut samples = Samples::new();
        for (way, rates) in [("us", [30.0, 10.0, 20.0]), ("them", [1.0, 40.0, 10.0])] {
            rates.into_iter().for_each(|rate| samples.add(1, way, sample(rate)));
        }
        assert_eq!(samples.ratio(1, "us", "them", Figure::Rate), Some(2.0));
        assert_eq!(samples.ratio_text(1, "us", "them", Figure::Rate), "2.00");
        assert_eq!(samples.ratio(1, "us", "them", Figure::Proxy), None);
        assert_eq!(samples.ratio_text(2, "us", "them", Figure::Rate), "-");
    }
}
