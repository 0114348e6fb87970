//! One node: a connection that asks for its role again and again, never two questions at a time, so
//! that what it says arrives in the order it was said.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Ground,
    backoff::jittered,
    dial::Peer,
    pace::Pace,
    probe_round::{Probe, Prober},
    report::{Outlet, What},
    rhythm::{GAP, GAP_AFTER_FAILURE, Rhythm},
};
use crate::election::{Failure, Role};

/// In a hurry only the role is asked for, and all the rest every so many probes.
const FULL_EVERY: u32 = 20;

/// Runs until it is dropped.
pub(super) async fn run(ground: Arc<Ground>, peer: Peer, mut rhythm: Rhythm, outlet: Outlet) {
    let mut open: Option<Prober> = None;
    let mut asking = Asking::default();
    loop {
        let started = Instant::now();
        let full = asking.in_full(rhythm.pace(), ground.check.interval, started);
        let had_answered = open.is_some();
        let (opened, full) = match open.take() {
            Some(prober) => (Ok(prober), full),
            None => (Prober::open(&ground, &peer).await, true),
        };
        // Dialling is no part of how long the node takes to answer.
        let asked = Instant::now();
        let result = match opened {
            Ok(prober) => prober.probe(&ground, full).await,
            Err(fault) => Err(fault),
        };
        let (prober, result) =
            result.map_or_else(|fault| (None, Err(fault)), |(prober, probe)| (Some(prober), Ok(probe)));
        open = prober;
        asking.note(result.as_ref().ok(), full, started);
        let (failures, master) = (asking.failures, asking.master);
        // A promotion kills all connections of the node (sentinelSendSlaveOf), and just then its role counts:
        // it is dialled again at once, which is no more often than it answers.
        let cut = had_answered && result.as_ref().is_err_and(|fault| fault.failure == Failure::Unreachable);
        outlet.send(What::Probed { latency: asked.elapsed(), result }).await;
        let chance = rand::random();
        if failures == 0 {
            let check = &ground.check;
            let interval = |pace: Pace| match pace {
                // Never later than promised: a lost role is noticed within the fast interval.
                _ if master => pace.probing_master(check),
                Pace::Steady => jittered(pace.probing(check), chance),
                pace => pace.probing(check),
            };
            rhythm.rest(started, GAP, interval).await;
        } else if !cut {
            if let Some(host) = &peer.host {
                ground.resolver.doubt(host);
            }
            let wait = jittered(Pace::probing_silent(failures, &ground.check), chance);
            rhythm.rest(started, GAP_AFTER_FAILURE, |_| wait).await;
        }
    }
}

/// What was asked and answered so far, as far as the next question depends on it.
#[derive(Debug, Default)]
struct Asking {
    /// Since the last one in full.
    probes: u32,
    in_full_at: Option<Instant>,
    /// Failed probes in a row.
    failures: u32,
    /// It said master the last time it answered.
    master: bool,
}

impl Asking {
    /// Whether to ask for everything: a master, which is asked most often, at the usual interval only.
    fn in_full(&self, pace: Pace, interval: Duration, now: Instant) -> bool {
        match (pace, self.in_full_at) {
            (_, None) => true,
            (Pace::Hurry, _) => self.probes >= FULL_EVERY,
            (_, Some(at)) => !self.master || now.duration_since(at) >= interval,
        }
    }

    fn note(&mut self, probe: Option<&Probe>, full: bool, at: Instant) {
        let Some(probe) = probe else {
            self.failures = self.failures.saturating_add(1);
            return;
        };
        self.failures = 0;
        self.master = probe.report.role == Role::Master;
        self.probes = self.probes.wrapping_add(1);
        if full {
            (self.probes, self.in_full_at) = (0, Some(at));
        }
    }
}
