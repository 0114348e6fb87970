//! Who may come in at all: `allow` before anything else, then `max_connections`.
//! Promises: a place is held from here to the end of the connection, wherever it goes.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use tokio::sync::Semaphore;

use super::counts::Refusal;
use crate::{
    config,
    datapath::{Datapath, Place},
};

#[derive(Debug)]
pub(super) struct Admission {
    /// Absent: everyone.
    allow: Option<Vec<IpNet>>,
    places: Arc<Semaphore>,
    most: u32,
}

impl Admission {
    pub(super) fn new(route: &config::Route) -> Self {
        let places =
            usize::try_from(route.max_connections).map_or(Semaphore::MAX_PERMITS, |n| n.min(Semaphore::MAX_PERMITS));
        Self { allow: route.allow.clone(), places: Arc::new(Semaphore::new(places)), most: route.max_connections }
    }

    /// A place for a client at `ip`, which is canonical: no IPv4 address inside IPv6.
    pub(super) fn admit(&self, ip: IpAddr, datapath: &dyn Datapath) -> Result<Place, Refusal> {
        if self.allow.as_ref().is_some_and(|nets| !nets.iter().any(|net| net.contains(&ip))) {
            return Err(Refusal::NotAllowed);
        }
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refusal::MaxConnections)?;
        let claim = datapath.claim(self.most).ok_or(Refusal::MaxConnections)?;
        Ok(Place::new(permit, claim))
    }
}
