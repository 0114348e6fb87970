//! Requests, each client's next one when its last is answered: a closed loop, so these latencies leave out what a slow moment
//! held up.

mod lone;
mod redis_benchmark;

use std::{net::SocketAddr, path::Path};

use anyhow::Result;
use switchmaster_tests::netns::Namespace;

/// The key that they are about.
pub(crate) const KEY: &str = "key:__rand_int__";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    Get,
    Set,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) test: Test,
    pub(crate) clients: u32,
    pub(crate) requests: u64,
    /// Requests that a client sends at once.
    pub(crate) pipeline: u32,
    /// Of a value that is set. What is got is what the key holds.
    pub(crate) bytes: usize,
    /// One connection for all requests of a client, or a new one for each.
    pub(crate) keep: bool,
}

impl Load {
    /// GET of 64 bytes, one at a time.
    pub(crate) fn get(clients: u32, requests: u64, keep: bool) -> Self {
        Self { test: Test::Get, clients, requests, pipeline: 1, bytes: 64, keep }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Timing {
    pub(crate) rps: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Sends them from `from`; what is written down meanwhile lies in `directory`. They are redis-benchmark's, but for those of a
/// single client: there the steps of 8 us in which it counts are more than what is asked.
pub(crate) fn run(from: &Namespace, to: SocketAddr, load: Load, directory: &Path) -> Result<Timing> {
    match load {
        Load { clients: 1, pipeline: 1, keep: true, .. } => lone::run(from, to, load),
        _ => redis_benchmark::run(from, to, load, directory),
    }
}
