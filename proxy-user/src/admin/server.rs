//! Serves the pages. Bounded against a client that is slow, silent or many: one request a
//! connection, ten seconds for all of it, 64 connections at once, 16 KiB of headers.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    listener::{Listener, Stream},
    routes::{Views, router},
};

const MAX_CONNECTIONS: usize = 64;
const MAX_HEADER_BYTES: usize = 16 * 1024;
const HEADER_TIME: Duration = Duration::from_secs(5);
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// After `stop`, for the answers that are on their way.
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// After a failed accept (a full fd table, say), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Runs until `stop`, then lets requests in flight finish.
pub async fn serve(listener: Listener, views: Views, stop: CancellationToken) {
    let router = router(views);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let accepting = async {
        let mut failing = false;
        loop {
            // The rest wait in the kernel's queue: each place is free again within CONNECTION_TIME.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = next(&listener, &mut failing).await;
            let answer = answer(stream, router.clone());
            let cut = cut.clone();
            connections.spawn(async move {
                tokio::select! {
                    () = answer => {}
                    () = cut.cancelled() => {}
                }
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop.cancelled() => {}
    }
    drop(listener);
    connections.close();
    if timeout(DRAIN_TIME, connections.wait()).await.is_err() {
        cut.cancel();
        connections.wait().await;
    }
}

/// The next connection. Failures are logged once, until it works again.
async fn next(listener: &Listener, failing: &mut bool) -> Box<dyn Stream> {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                *failing = false;
                return stream;
            }
            Err(error) if gone(&error) => {}
            Err(error) => {
                if !std::mem::replace(failing, true) {
                    tracing::warn!(%error, "the admin server cannot accept connections; trying on");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The client itself gave up before it was accepted.
fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

async fn answer(stream: Box<dyn Stream>, router: Router) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MAX_HEADER_BYTES)
        // Scrapes are seconds apart: an idle connection would only hold a place.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection ended early"),
        Err(_) => tracing::debug!("an admin connection took too long"),
    }
}
