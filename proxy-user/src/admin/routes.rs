//! The pages. All of them read; a page that changes state will need the token of `[admin]`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderName, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};

use serde::Deserialize;

use super::{Readiness, Status, StatusSource};
use crate::{
    events::{Log, MOST_EVENTS},
    metrics::{CONTENT_TYPE, Metrics},
};

/// The longest a follower may wait: an answer must be out before the server's time for it is.
const LONGEST_WAIT: u64 = 8;

/// What the pages are made from.
#[derive(Clone)]
pub struct Views {
    pub metrics: Metrics,
    pub readiness: Readiness,
    pub status: Arc<dyn StatusSource>,
    pub events: Arc<Log>,
}

impl std::fmt::Debug for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Views").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

pub(super) fn router(views: Views) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/events", get(events))
        .fallback(not_found)
        .with_state(views)
}

const SECURITY: [(HeaderName, &str); 2] = [
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

const INDEX: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<title>switchmaster</title>\n<h1>switchmaster ",
    env!("CARGO_PKG_VERSION"),
    "</h1>\n<ul>\n\
     <li><a href=\"/api/v1/status\">/api/v1/status</a>: groups, routes and connections, as JSON\n\
     <li><a href=\"/api/v1/events\">/api/v1/events</a>: the timeline of each switch, as JSON\n\
     <li><a href=\"/metrics\">/metrics</a>: for Prometheus\n\
     <li><a href=\"/readyz\">/readyz</a>: 200 once everything is proven, else 503 and what is missing\n\
     <li><a href=\"/healthz\">/healthz</a>: 200 while the daemon runs\n\
     </ul>\n</html>\n"
);

async fn index() -> impl IntoResponse {
    (SECURITY, Html(INDEX))
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(views): State<Views>) -> (StatusCode, String) {
    let missing = views.readiness.waiting_for();
    if missing.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let lines: String = missing.iter().map(|it| format!("waiting for: {it}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{lines}"))
}

async fn metrics(State(views): State<Views>) -> Response {
    match views.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot encode the metrics");
            (StatusCode::INTERNAL_SERVER_ERROR, "cannot encode the metrics; the log says why\n").into_response()
        }
    }
}

/// Version and readiness are filled in here, so that they are the same on every page.
async fn status(State(views): State<Views>) -> impl IntoResponse {
    let waiting_for = views.readiness.waiting_for();
    let status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: waiting_for.is_empty(),
        waiting_for,
        ..views.status.status()
    };
    ([(header::CACHE_CONTROL, "no-store")], Json(status))
}

#[derive(Debug, Deserialize)]
struct Asked {
    /// Only events after this one.
    since: Option<u64>,
    limit: Option<usize>,
    /// Seconds to wait for the first event after `since`.
    wait: Option<u64>,
}

/// Following is asking again, with the number of the last event seen: a follower then holds a place no
/// longer than anybody else, and one that was cut off has missed nothing.
async fn events(State(views): State<Views>, Query(asked): Query<Asked>) -> impl IntoResponse {
    if let (Some(since), Some(wait)) = (asked.since, asked.wait) {
        views.events.wait(since, Duration::from_secs(wait.min(LONGEST_WAIT))).await;
    }
    let page = views.events.page(asked.since, asked.limit.unwrap_or(MOST_EVENTS));
    ([(header::CACHE_CONTROL, "no-store")], Json(page))
}

async fn not_found() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "no such page; / lists those there are\n")
}
