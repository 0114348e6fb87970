//! Who may come in at all: `allow` before anything else, then `max_connections`.
//! Promises: a place is held from here to the end of the connection, wherever it goes.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::counts::Refusal;
use crate::config;

#[derive(Debug)]
pub(super) struct Admission {
    /// Absent: everyone.
    allow: Option<Vec<IpNet>>,
    places: Arc<Semaphore>,
}

impl Admission {
    pub(super) fn new(route: &config::Route) -> Self {
        let places =
            usize::try_from(route.max_connections).map_or(Semaphore::MAX_PERMITS, |n| n.min(Semaphore::MAX_PERMITS));
        Self { allow: route.allow.clone(), places: Arc::new(Semaphore::new(places)) }
    }

    /// A place for a client at `ip`, which is canonical: no IPv4 address inside IPv6.
    pub(super) fn admit(&self, ip: IpAddr) -> Result<OwnedSemaphorePermit, Refusal> {
        if self.allow.as_ref().is_some_and(|nets| !nets.iter().any(|net| net.contains(&ip))) {
            return Err(Refusal::NotAllowed);
        }
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refusal::MaxConnections)
    }
}
