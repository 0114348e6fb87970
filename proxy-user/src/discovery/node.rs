//! One node: a connection that asks for its role again and again, never two questions at a time, so
//! that what it says arrives in the order it was said.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Ground,
    backoff::jittered,
    dial::Peer,
    pace::Pace,
    probe_round::Prober,
    report::{Outlet, What},
    rhythm::{GAP, GAP_AFTER_FAILURE, Rhythm},
};

/// In a hurry only the role is asked for, and all the rest every so many probes.
const FULL_EVERY: u32 = 20;

/// Runs until it is dropped.
pub(super) async fn run(ground: Arc<Ground>, peer: Peer, mut rhythm: Rhythm, outlet: Outlet) {
    let mut open: Option<Prober> = None;
    let mut probes = 0u32;
    loop {
        let started = Instant::now();
        let full = rhythm.pace() < Pace::Hurry || probes.is_multiple_of(FULL_EVERY);
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
        probes = probes.wrapping_add(1);
        let answered = result.is_ok();
        outlet.send(What::Probed { latency: asked.elapsed(), result }).await;
        if answered {
            let chance = rand::random();
            rhythm
                .rest(started, GAP, |pace| match pace {
                    Pace::Steady => jittered(pace.probing(&ground.check), chance),
                    pace => pace.probing(&ground.check),
                })
                .await;
        } else {
            if let Some(host) = &peer.host {
                ground.resolver.doubt(host);
            }
            let wait = jittered(ground.check.down_interval, rand::random());
            rhythm.rest(started, GAP_AFTER_FAILURE, |_| wait).await;
        }
    }
}
