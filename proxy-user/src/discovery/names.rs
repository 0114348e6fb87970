//! Follows one configured name: looks it up every ten seconds, and at once when a server found by it
//! fails. A name that stops resolving keeps its last addresses: a server may be away, not gone.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    Ground,
    report::{Outlet, What},
    resolve::MEMORY,
};
use crate::config::HostPort;

/// Between two lookups of a name, however often its servers fail.
const GAP: Duration = Duration::from_secs(1);

/// Runs until it is dropped.
pub(super) async fn run(ground: Arc<Ground>, place: usize, at: HostPort, nudge: Arc<Notify>, outlet: Outlet) {
    loop {
        let answer = ground.resolver.all(&at.host, at.port).await;
        let resolved = answer.is_ok();
        outlet.send(What::Resolved { place, answer }).await;
        sleep(GAP).await;
        if resolved {
            // Either way it is time to look again.
            let _nudged = timeout(MEMORY, nudge.notified()).await;
            ground.resolver.doubt(&at.host);
        }
    }
}
