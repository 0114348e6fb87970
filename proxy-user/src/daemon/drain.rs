//! How the daemon ends: on the first signal it takes no more clients and lets those it has finish,
//! for a time; on the second, or when the time is up, whoever is left is reset. Meanwhile elections
//! go on, so a switch during the drain is still a switch.

use std::{io, sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::house::House;

/// How often the drain looks whether everybody has left.
const LOOK: Duration = Duration::from_millis(50);

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let of = |kind| signal(kind);
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            hang_up: of(SignalKind::hangup())?,
        })
    }

    /// Returns when the daemon is to end. SIGHUP, which elsewhere means reload, must not kill it.
    async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => tracing::warn!("SIGHUP: this version cannot reload; restart to apply a new configuration"),
            }
        }
    }
}

/// The daemon's tasks, none of which may end before it does.
pub(super) struct Tasks {
    pub(super) groups: JoinSet<()>,
    pub(super) listeners: JoinSet<io::Result<()>>,
}

/// Returns when every client has left, or has to.
pub(super) async fn until_told(
    house: &Arc<House>,
    mut signals: Signals,
    tasks: &mut Tasks,
    stop_clients: &CancellationToken,
    drain: Duration,
) -> Result<()> {
    let failed = tokio::select! {
        () = signals.next() => None,
        Some(ended) = tasks.listeners.join_next() => Some(("listener", format!("{ended:?}"))),
        Some(ended) = tasks.groups.join_next() => Some(("discovery", format!("{ended:?}"))),
    };
    let _unready = house.readiness.latch("the daemon is stopping");
    stop_clients.cancel();
    if let Some((task, ended)) = failed {
        house.metrics.task_failed(task);
        return Err(anyhow!("the {task} has ended by itself ({ended}); every connection is reset"));
    }
    tracing::info!(connections = house.connections(), drain = ?drain, "stopping: no more clients are taken");
    let deadline = Instant::now() + drain;
    tokio::select! {
        () = everybody_left(house, &mut tasks.listeners, deadline) => {}
        () = signals.next() => tracing::info!("told again: not waiting any longer"),
    }
    Ok(())
}

async fn everybody_left(house: &House, listeners: &mut JoinSet<io::Result<()>>, deadline: Instant) {
    let _out_of_time =
        tokio::time::timeout_at(deadline, async { while listeners.join_next().await.is_some() {} }).await;
    while house.connections() > 0 && Instant::now() < deadline {
        sleep(LOOK).await;
    }
}
