//! The kernel's side of the flows of one worker: entries in the maps of the `sockmap` object.
//! Promises that no more than `credit` waits in the kernel for a receiver: sockmap itself has no
//! bound (sk_psock_skb_redirect queues whatever comes).

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use aya::maps::{HashMap, MapData, MapError, SockHash};
use proxy_ebpf::{Cookie, Link, Meter, TargetKey, sequence};

use super::end::End;

/// What all spliced flows together may leave waiting in the kernel, and one flow at most and least.
const TOTAL_CREDIT: u64 = 256 << 20;
pub(super) const MOST_CREDIT: u64 = 2 << 20;
const LEAST_CREDIT: u64 = 16 << 10;

pub(super) struct Splice {
    links: HashMap<MapData, Cookie, Link>,
    meters: HashMap<MapData, Cookie, Meter>,
    peers: SockHash<MapData, Cookie>,
    spliced: SockHash<MapData, Cookie>,
    worker: u32,
    /// Spliced flows of all workers.
    flows: Arc<AtomicUsize>,
}

/// What a flow is known by in the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Label {
    pub(super) target: TargetKey,
    pub(super) generation: u64,
    pub(super) token: u32,
}

/// The maps of the loaded object, to be cloned for each worker.
#[derive(Debug)]
pub(super) struct Maps {
    pub(super) links: MapData,
    pub(super) meters: MapData,
    pub(super) peers: MapData,
    pub(super) spliced: MapData,
}

impl Maps {
    pub(super) fn for_worker(&self, worker: u32, flows: &Arc<AtomicUsize>) -> Result<Splice, MapError> {
        Ok(Splice {
            links: HashMap::try_from(aya::maps::Map::HashMap(again(&self.links)?))?,
            meters: HashMap::try_from(aya::maps::Map::HashMap(again(&self.meters)?))?,
            peers: SockHash::try_from(aya::maps::Map::SockHash(again(&self.peers)?))?,
            spliced: SockHash::try_from(aya::maps::Map::SockHash(again(&self.spliced)?))?,
            worker,
            flows: Arc::clone(flows),
        })
    }
}

fn again(map: &MapData) -> Result<MapData, MapError> {
    MapData::from_fd(map.fd().as_fd().try_clone_to_owned()?)
}

impl Splice {
    /// Makes each end the other's target. Needs both established; nothing is redirected yet.
    pub(super) fn join(&mut self, ends: &[End; 2]) -> io::Result<()> {
        self.peers.insert(ends[0].cookie, ends[1].socket().as_raw_fd(), 0).map_err(io::Error::other)?;
        self.peers.insert(ends[1].cookie, ends[0].socket().as_raw_fd(), 0).map_err(io::Error::other)
    }

    /// Puts a flow into the kernel. What waits unread on the sender goes first, in order.
    pub(super) fn enter(&mut self, from: &End, label: Label) -> io::Result<()> {
        let meter = Meter {
            bytes: 0,
            charged: 0,
            passed: from.read,
            passing: 0,
            notified: 0,
            notified_at: 0,
            worker: self.worker,
            token: label.token,
            next: 0,
            sequence: sequence::UNKNOWN,
        };
        self.meters.insert(from.cookie, meter, 0).map_err(io::Error::other)?;
        self.grant(from, label, 0, from.read)?;
        self.spliced.insert(from.cookie, from.socket().as_raw_fd(), 0).map_err(io::Error::other)?;
        self.flows.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Forgets a socket that is closed; the sockets' own maps drop it by themselves.
    pub(super) fn forget(&mut self, cookie: Cookie, spliced: bool) {
        if spliced {
            self.flows.fetch_sub(1, Ordering::Relaxed);
        }
        let _never_joined = self.links.remove(&cookie);
        let _never_joined = self.meters.remove(&cookie);
    }

    pub(super) fn meter(&self, cookie: Cookie) -> io::Result<Meter> {
        self.meters.get(&cookie, 0).map_err(io::Error::other)
    }

    /// Lets a flow go on from where it is: `charged` is spent, and of the bytes that were passed `read`
    /// have been read and written on.
    pub(super) fn grant(&mut self, from: &End, label: Label, charged: u64, read: u64) -> io::Result<()> {
        let credit = self.credit();
        self.link(from, label, charged + credit, charged + credit / 2, read)
    }

    /// Takes a flow's credit away: its next segment is passed to the daemon.
    pub(super) fn revoke(&mut self, from: &End, label: Label, read: u64) -> io::Result<()> {
        self.link(from, label, 0, u64::MAX, read)
    }

    fn link(&mut self, from: &End, label: Label, limit: u64, notify_at: u64, read: u64) -> io::Result<()> {
        let Label { target, generation, .. } = label;
        let link = Link { cookie: from.cookie, target, generation, limit, notify_at, resume_at: read };
        self.links.insert(from.cookie, link, 0).map_err(io::Error::other)
    }

    pub(super) fn credit(&self) -> u64 {
        let flows = self.flows.load(Ordering::Relaxed).max(1) as u64;
        (TOTAL_CREDIT / flows).clamp(LEAST_CREDIT, MOST_CREDIT)
    }
}
