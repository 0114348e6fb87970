//! From a client's address to a connected node. Promises: what it returns leads to a node that is
//! still current at that instant; a node that the switch leaves is left at once, even in the middle
//! of a connect; a replica that fails is passed over for the next one.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream as StdStream},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use proxy_ebpf::TargetKey;
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{balance::pick, client::Visitor};
use crate::{
    config::Balance,
    datapath::Datapath,
    socket::{self, HANDSHAKE},
    target::{Lease, Passage, Slot, Slots},
};

/// Between two looks for a free place in the table of open files.
const FOR_A_FILE: Duration = Duration::from_millis(5);
/// How long a replica that failed comes last, until the probes have noticed it too.
const SHUN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) enum Failure {
    /// No slot, or none whose gate is open.
    NoNode,
    /// The slots changed meanwhile; ask again.
    Moved,
    Failed(SocketAddr, io::Error),
    TimedOut(SocketAddr),
}

/// A connect that was begun elsewhere, and how far it has come: it is still under way, or has failed.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) node: SocketAddr,
    pub(super) lease: Lease,
    pub(super) socket: io::Result<StdStream>,
}

#[derive(Debug)]
pub(super) struct Dialer {
    slots: watch::Receiver<Slots>,
    datapath: Arc<dyn Datapath>,
    balance: Balance,
    timeout: Duration,
    shunned: Shunned,
}

impl Dialer {
    pub(super) fn new(
        slots: watch::Receiver<Slots>,
        datapath: Arc<dyn Datapath>,
        balance: Balance,
        timeout: Duration,
    ) -> Self {
        Self { slots, datapath, balance, timeout, shunned: Shunned::default() }
    }

    /// The slot that is the client's, for whoever dials by himself and gives back what is not reached in [`HANDSHAKE`].
    pub(super) fn choose(&self, client: Visitor) -> Option<Slot> {
        let slots = Slots::clone(&self.slots.borrow());
        self.candidate(&slots, client, &[]).filter(|_| HANDSHAKE < self.timeout).cloned()
    }

    /// Whether new connections are still made to this node under this lease.
    pub(super) fn stands(&self, node: SocketAddr, lease: &Lease) -> bool {
        find(&self.slots.borrow(), node, lease.key, lease.generation).is_some()
    }

    /// Connects to the slot that is the client's, or to the next best one; first of all where it was `begun`.
    pub(super) async fn dial(&self, client: Visitor, begun: Option<Begun>) -> Result<(TcpStream, Lease), Failure> {
        let mut watch = self.slots.clone();
        let slots = Slots::clone(&watch.borrow_and_update());
        let mut tried = Vec::new();
        let mut last = Failure::NoNode;
        let fresh = |slot: &'_ Slot| (slot.clone(), slot.lease(), None);
        let mut next = match begun {
            Some(Begun { node, lease, socket }) => {
                let slot = find(&slots, node, lease.key, lease.generation).ok_or(Failure::Moved)?;
                Some((slot.clone(), lease, Some(socket)))
            }
            None => self.candidate(&slots, client, &tried).map(fresh),
        };
        while let Some((slot, lease, begun)) = next {
            match self.attempt(&mut watch, &slot, lease, begun).await {
                Err(failure @ (Failure::Failed(..) | Failure::TimedOut(_))) => {
                    self.shunned.add(slot.addr);
                    tried.push(slot.addr);
                    last = failure;
                }
                done => return done,
            }
            next = self.candidate(&slots, client, &tried).map(fresh);
        }
        Err(last)
    }

    fn candidate<'a>(&self, slots: &'a [Slot], client: Visitor, tried: &[SocketAddr]) -> Option<&'a Slot> {
        let Visitor { ip: client, number, .. } = client;
        let usable = |slot: &Slot| slot.gate.passes(slot.generation) && !tried.contains(&slot.addr);
        let find = |usable: &dyn Fn(&Slot) -> bool| {
            self.drawn_to(slots, client, usable).or_else(|| pick(self.balance, slots, client, number as usize, usable))
        };
        if slots.len() > 1 && self.shunned.any() {
            let now = Instant::now();
            let trusted = |slot: &Slot| usable(slot) && !self.shunned.has(slot.addr, now);
            return find(&trusted).or_else(|| find(&usable));
        }
        find(&usable)
    }

    /// A client that the datapath leads somewhere by its address is led there from here too.
    fn drawn_to<'a>(&self, slots: &'a [Slot], client: IpAddr, usable: &dyn Fn(&Slot) -> bool) -> Option<&'a Slot> {
        if self.balance != Balance::SourceHash {
            return None;
        }
        let of = |key| slots.iter().find(|slot| slot.key == key);
        of(self.datapath.drawn_to(client, &|key| of(key).is_some_and(usable))?)
    }

    async fn attempt(
        &self,
        watch: &mut watch::Receiver<Slots>,
        slot: &Slot,
        lease: Lease,
        begun: Option<io::Result<StdStream>>,
    ) -> Result<(TcpStream, Lease), Failure> {
        let left = self.timeout.saturating_sub(if begun.is_some() { HANDSHAKE } else { Duration::ZERO });
        let connected = tokio::select! {
            biased;
            connected = timeout(left, connect(slot.addr, begun)) => connected,
            () = moved(watch, slot) => return Err(Failure::Moved),
        };
        if lease.passage() != Passage::Free || !current(&watch.borrow(), slot) {
            return Err(Failure::Moved);
        }
        match connected {
            Ok(Ok(stream)) => Ok((stream, lease)),
            Ok(Err(error)) => Err(Failure::Failed(slot.addr, error)),
            Err(_) => Err(Failure::TimedOut(slot.addr)),
        }
    }
}

/// Dials a second time where the first is not answered soon: a SYN that is lost is sent again after a second only, and at a
/// switch everybody waits behind the one who tries first. What was begun elsewhere has had its time for that.
async fn connect(node: SocketAddr, begun: Option<io::Result<StdStream>>) -> io::Result<TcpStream> {
    let patience = if begun.is_some() { Duration::ZERO } else { HANDSHAKE };
    let mut first = pin!(async {
        match begun {
            Some(begun) => finish(begun?, node).await,
            None => connect_once(node).await,
        }
    });
    if let Ok(connected) = timeout(patience, first.as_mut()).await {
        return connected;
    }
    tokio::select! {
        connected = first => connected,
        // Whatever keeps the second from its way says nothing of the first, which goes on.
        Ok(connected) = connect_once(node) => Ok(connected),
    }
}

async fn connect_once(node: SocketAddr) -> io::Result<TcpStream> {
    loop {
        match socket::dial(node) {
            // That is no fault of the node's, and those whom a switch has reset are closed in a moment.
            Err(error) if socket::is_short_of_files(&error) => sleep(FOR_A_FILE).await,
            begun => return finish(begun?, node).await,
        }
    }
}

async fn finish(begun: StdStream, node: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(begun)?;
    stream.writable().await?;
    socket::arrived(&stream, node)?;
    Ok(stream)
}

/// Returns when `slot` is no longer among the slots.
async fn moved(watch: &mut watch::Receiver<Slots>, slot: &Slot) {
    while current(&watch.borrow_and_update(), slot) {
        if watch.changed().await.is_err() {
            // The switch is gone: nothing moves any more.
            std::future::pending::<()>().await;
        }
    }
}

fn current(slots: &[Slot], slot: &Slot) -> bool {
    find(slots, slot.addr, slot.key, slot.generation).is_some()
}

fn find(slots: &[Slot], node: SocketAddr, key: TargetKey, generation: u64) -> Option<&Slot> {
    slots.iter().find(|slot| (slot.addr, slot.key, slot.generation) == (node, key, generation))
}

/// Nodes that failed a moment ago. Holds at most as many as there are slots.
#[derive(Debug, Default)]
struct Shunned {
    any: AtomicBool,
    nodes: Mutex<Vec<(SocketAddr, Instant)>>,
}

impl Shunned {
    fn add(&self, node: SocketAddr) {
        let now = Instant::now();
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|&(other, until)| other != node && now < until);
        nodes.push((node, now + SHUN));
        self.any.store(true, Ordering::Relaxed);
    }

    /// Spares all others the lock.
    fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    fn has(&self, node: SocketAddr, now: Instant) -> bool {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|&(_, until)| now < until);
        self.any.store(!nodes.is_empty(), Ordering::Relaxed);
        nodes.iter().any(|&(other, _)| other == node)
    }
}
