//! How the daemon ends: on the first signal it takes no more clients and lets those it has finish,
//! for a time; on the second, or when the time is up, whoever is left is reset. Meanwhile elections
//! go on, so a switch during the drain is still a switch.

use std::{io, sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::house::{self, House};

/// How often the drain looks whether everybody has left.
const LOOK: Duration = Duration::from_millis(50);

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

pub(super) async fn until_told(
    house: &Arc<House>,
    mut signals: Signals,
    listeners: &mut JoinSet<io::Result<()>>,
    stop_clients: &CancellationToken,
    drain: Duration,
) -> Result<()> {
    let result = tokio::select! {
        () = signals.next() => Ok(()),
        Some(ended) = listeners.join_next() => {
            house.metrics.task_failed("listener");
            Err(anyhow!("a listener has ended: {ended:?}"))
        }
    };
    stop_clients.cancel();
    tracing::info!(connections = house.connections(), drain = ?drain, "stopping: no more clients are taken");
    let deadline = Instant::now() + drain;
    tokio::select! {
        () = everybody_left(house, listeners, deadline) => {}
        () = signals.next() => tracing::info!("told again: not waiting any longer"),
    }
    let severing = house.switch().close_all();
    for severing in severing {
        // A worker that does not answer in time has its connections closed with the process.
        let _late = timeout(Duration::from_secs(2), house::account(house.metrics.clone(), severing)).await;
    }
    listeners.abort_all();
    tracing::info!("stopped");
    result
}

async fn everybody_left(house: &House, listeners: &mut JoinSet<io::Result<()>>, deadline: Instant) {
    let _out_of_time =
        tokio::time::timeout_at(deadline, async { while listeners.join_next().await.is_some() {} }).await;
    while house.connections() > 0 && Instant::now() < deadline {
        sleep(LOOK).await;
    }
}
