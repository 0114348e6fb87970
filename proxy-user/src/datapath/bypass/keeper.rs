//! The thread that tells the bypass which nodes are at home in which network namespace, and readers that something waits for them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use proxy_ebpf::{
    bypass::{Late, names},
    steering::Dialled,
};

use super::{Error, Setup, attach, hooks, remind};
use crate::{
    datapath::spaces::{Spaces, addresses},
    kernel::{contents, netns::inside},
    nat::address::encode,
};

/// As many nodes as a group may have.
const MOST_NODES: usize = 256;
/// How often it looks at namespaces and their addresses.
const LOOK: Duration = Duration::from_secs(1);
/// How soon a reader is reminded first, and how seldom at last one that does not read: all sockets are looked at each time.
const SOON: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_secs(1);
/// After each time it rests for so many times as long: a twentieth of a processor is enough for it.
const REST: u32 = 20;

#[derive(Debug)]
pub(super) enum Order {
    Meet(SocketAddr),
    /// A reader is late, from now on.
    Remind,
    Stop,
}

pub(super) struct Keeper {
    /// The programs that the link leads to.
    object: Ebpf,
    map: HashMap<MapData, Dialled, u32>,
    late: HashMap<MapData, u64, Late>,
    /// Since when somebody is late, and when they are reminded next.
    reminder: Option<(Instant, Instant)>,
    rested: Instant,
    home: u64,
    setup: Setup,
    spaces: Spaces,
    /// The latest that it was told of.
    nodes: VecDeque<SocketAddr>,
    /// The last faults that were told: of this, and of reminding.
    told: Option<String>,
    fault: Option<String>,
}

impl Keeper {
    pub(super) fn new(
        object: Ebpf,
        map: HashMap<MapData, Dialled, u32>,
        late: HashMap<MapData, u64, Late>,
        home: u64,
        setup: Setup,
    ) -> Self {
        let nodes = setup.nodes.iter().copied().collect();
        Self {
            object,
            map,
            late,
            reminder: None,
            rested: Instant::now(),
            home,
            setup,
            spaces: Spaces::default(),
            nodes,
            told: None,
            fault: None,
        }
    }

    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        let mut look = Instant::now() + LOOK;
        loop {
            let next = self.reminder.map_or(look, |(_, next)| next.min(look));
            match orders.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Order::Meet(node)) if self.nodes.contains(&node) => continue,
                Ok(Order::Meet(node)) => {
                    self.nodes.push_back(node);
                    self.nodes.drain(..self.nodes.len().saturating_sub(MOST_NODES));
                    look = Instant::now();
                }
                Ok(Order::Remind) => {
                    let now = Instant::now();
                    let soon = (now + SOON).max(self.rested);
                    let next = self.reminder.map_or(soon, |(_, next)| next.min(soon));
                    self.reminder = Some((now, next));
                }
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            if self.reminder.is_some_and(|(_, next)| next <= now) {
                self.remind();
            }
            if look <= now {
                self.follow();
                // Of one the ring may have had no room to tell, and sockets of an earlier daemon's time have its ring.
                if self.reminder.is_none() && self.late.keys().next().is_some() {
                    self.remind();
                }
                look = Instant::now() + LOOK;
            }
        }
    }

    /// Those that have read everything are late no more.
    fn remind(&mut self) {
        let fault = self.remind_all().err().map(|error| format!("{error:#}"));
        if let Some(error) = fault.as_ref().filter(|_| fault != self.fault) {
            tracing::warn!(error, "clients on this host may wait for what has come already");
        }
        self.fault = fault;
        let now = Instant::now();
        let since = self.reminder.map_or(now, |(since, _)| since);
        let is_over = self.late.keys().next().is_none();
        let next = (now + ((now - since) / 8).clamp(SOON, SELDOM)).max(self.rested);
        self.reminder = (!is_over).then_some((since, next));
    }

    fn remind_all(&mut self) -> Result<(), Error> {
        let begun = Instant::now();
        let before: Vec<(u64, u64)> = self.late.iter().flatten().map(|(reader, late)| (reader, late.met)).collect();
        let mut done = remind(&mut self.object);
        if self.setup.all_namespaces {
            self.spaces.follow(Some(&self.setup.cgroup), self.home, |_| false);
            for (_, namespace) in self.spaces.led() {
                done = done.and(inside(namespace, || remind(&mut self.object)).unwrap_or(Ok(())));
            }
        }
        // Who was nowhere is closed, or was when it was entered.
        for (reader, met) in before.iter().filter(|_| done.is_ok()) {
            if self.late.get(reader, 0).is_ok_and(|late| late.met == *met) {
                let _is_gone = self.late.remove(reader);
            }
        }
        self.rested = Instant::now() + begun.elapsed() * REST;
        done
    }

    fn follow(&mut self) {
        let fault = self.bring_up_to_date().err().map(|error| format!("{error:#}"));
        if let Some(error) = fault.as_ref().filter(|_| fault != self.told) {
            tracing::warn!(error, "connections to some nodes on this host are not bypassed");
        }
        self.told = fault;
    }

    fn bring_up_to_date(&mut self) -> anyhow::Result<()> {
        // Somebody may have made the cgroup anew, under another number.
        if hooks(&self.setup.links, &self.setup.cgroup)?.is_elsewhere(names::CONNECTIONS) {
            attach(&mut self.object, &self.setup.cgroup, &self.setup.links)?;
        }
        // Before the first master is proven an earlier daemon's nodes are as good as any.
        if self.nodes.is_empty() {
            return Ok(());
        }
        let mut wanted = at_home(self.home, &self.nodes, &addresses());
        if self.setup.all_namespaces {
            self.spaces.follow(Some(&self.setup.cgroup), self.home, |_| false);
            for (cookie, namespace) in self.spaces.led() {
                let own = inside(namespace, addresses).unwrap_or_default();
                // A loopback address of another namespace's is another server there.
                let nodes = self.nodes.iter().filter(|node| !node.ip().is_loopback());
                wanted.extend(at_home(cookie, nodes, &own));
            }
        }
        Ok(contents::write(&mut self.map, wanted)?)
    }
}

/// The nodes whose address a namespace has. To others its clients get by TCP alone.
fn at_home<'a>(
    netns: u64,
    nodes: impl IntoIterator<Item = &'a SocketAddr>,
    own: &BTreeSet<IpAddr>,
) -> BTreeMap<Dialled, u32> {
    let here = nodes.into_iter().filter(|node| own.contains(&node.ip()) || node.ip().is_loopback());
    let key =
        |node: &SocketAddr| Dialled { netns, addr: encode(node.ip()), port: node.port().to_be_bytes(), _pad: [0; 6] };
    here.map(|node| (key(node), 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::address::socket_address;

    #[test]
    fn only_a_node_that_is_at_home_is_bypassed() {
        let nodes =
            ["10.0.0.1:6379", "10.0.0.2:6379", "127.0.0.5:6380", "[fd00::1]:6379"].map(|it| it.parse().unwrap());
        let own = ["10.0.0.1", "127.0.0.1", "fd00::1"].map(|it| it.parse().unwrap()).into();
        let found: Vec<_> = at_home(7, &nodes, &own)
            .into_keys()
            .map(|it| (it.netns, socket_address(it.addr, it.port).to_string()))
            .collect();
        let expected = ["10.0.0.1:6379", "127.0.0.5:6380", "[fd00::1]:6379"].map(|it| (7, it.to_owned()));
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected.into());
    }
}
