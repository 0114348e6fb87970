//! Full NAT at tc ingress: a client's packets go to the node and back without a socket of ours, and a connection is the
//! two ends' own. Whatever the program leaves to the stack is accepted by the listener and served by the
//! datapath beneath. Needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_RAW.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap as Table},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie::Key},
    programs::{ProgramError, SchedClassifier, TcAttachType, tc::SchedClassifierLinkId},
    util::KernelVersion,
};
use proxy_ebpf::{
    TargetKey,
    balance::{self, kind},
    nat::{ALLOWED_MAPPED_BITS, ALLOWED_ROUTE_BITS, Allowed, family, names},
    parking,
};

use super::{Connection, Datapath, Sever, Share, Syns, Xdp};
use crate::{
    nat::{
        address::encode,
        aside::{Aside, AsideError},
        balancer::{self, Balancer},
        collector::Collector,
        doors::Doors,
        egress::{Host, Interface},
        exits::{Exits, Maps},
        fate::Lingers,
        flows::{Flows, Usage},
        heart::Heart,
        keeper::{Attach, Keeper, Order, Route},
        loads::Loads,
        ports,
        reservation::{self, ReservationError},
        reset::{ResetError, Resetter},
    },
    target::Load,
};

/// How long new flows are made when the daemon is gone.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);

pub struct Tc {
    beneath: Arc<dyn Datapath>,
    exits: Arc<Mutex<Exits>>,
    orders: Mutex<Sender<Order>>,
    usage: Arc<Usage>,
    loads: Arc<Loads>,
    balancer: Arc<Balancer>,
    packets: PerCpuArray<MapData, u64>,
    aside: Aside,
    keeper: Option<JoinHandle<()>>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the kernel object has no {0}; the daemon was built wrongly")]
    Missing(&'static str),
    #[error("the kernel refuses the program: {0}")]
    Program(#[from] ProgramError),
    #[error("the kernel refuses a map: {0}")]
    Map(#[from] MapError),
    #[error(transparent)]
    Mapping(#[from] crate::nat::MappingError),
    #[error(transparent)]
    Reset(#[from] ResetError),
    #[error(transparent)]
    Aside(#[from] AsideError),
    #[error("it needs the tcx links of Linux 6.6")]
    Kernel,
    #[error(transparent)]
    Ports(#[from] ReservationError),
    #[error("its thread does not start: {0}")]
    Thread(#[from] io::Error),
}

impl Tc {
    /// Serves `routes`; `release` sends parked SYNs on, and `beneath` has the connections that the listener accepts.
    pub fn start(
        mut object: Ebpf,
        release: Ebpf,
        routes: Vec<Route>,
        beneath: Arc<dyn Datapath>,
        xdp: Option<Xdp>,
    ) -> Result<Self, Error> {
        // Before, programs hang on netlink filters, which outlive the process and whoever writes their maps.
        if KernelVersion::current().is_ok_and(|kernel| kernel < KernelVersion::new(6, 6, 0)) {
            return Err(Error::Kernel);
        }
        reservation::checked(ports::DEFAULT)?;
        let program: &mut SchedClassifier =
            object.program_mut(names::TC).ok_or(Error::Missing(names::TC))?.try_into()?;
        program.load()?;
        let flows = Arc::new(Flows::open(&take(&mut object, names::FLOWS)?, &take(&mut object, names::TAKEN)?)?);
        let usage = Arc::new(Usage::open(&take(&mut object, names::USAGE)?)?);
        let loads = Arc::new(Loads::open(&take(&mut object, balance::names::LOADS)?)?);
        let balancer = Arc::new(Balancer::new(balancer::Maps {
            balance: map(&mut object, balance::names::BALANCE)?,
            maglev: map(&mut object, balance::names::MAGLEV)?,
        }));
        let exits = Exits::new(
            Maps {
                egress: map(&mut object, names::EGRESS)?,
                snat_of: map(&mut object, names::SNAT_OF)?,
                snats: map(&mut object, names::SNATS)?,
                free: map(&mut object, names::FREE)?,
            },
            ports::DEFAULT,
            flows.places(),
        );
        let exits = Arc::new(Mutex::new(exits));
        allow(map(&mut object, names::ALLOW)?, &routes)?;
        let keys = map(&mut object, names::FLOW_OF)?;
        let door_map: aya::maps::Array<_, _> = map(&mut object, names::DOORS)?;
        let packets = map(&mut object, names::PACKETS)?;
        let turns = take(&mut object, parking::names::SYN_TURNS)?;
        let numbers = routes.iter().map(|route| route.number);
        let aside = Aside::start(map(&mut object, parking::names::PARKED)?, &turns, release, numbers)?;
        let mut keeper = Keeper {
            heart: Heart::open(&take(&mut object, names::CLOCK)?, ORPHAN_GRACE)?,
            collector: Collector::new(
                flows,
                Arc::clone(&usage),
                Arc::clone(&loads),
                keys,
                Vec::new(),
                Lingers::default(),
            ),
            doors: Doors::new(door_map.len()),
            door_of: map(&mut object, names::DOOR_OF)?,
            door_map,
            routes,
            attach: Box::new(Attached { xdp, object, links: BTreeMap::new(), refused: BTreeSet::new() }),
            resetter: Resetter::open()?,
            snats: Vec::new(),
            exits: Arc::clone(&exits),
            balancer: Arc::clone(&balancer),
            unreachable: BTreeSet::new(),
            ended: Table::new(),
        };
        keeper.follow_host();
        let (orders, told) = channel();
        let keeper = thread::Builder::new().name("tc".to_owned()).spawn(move || keeper.run(&told))?;
        let orders = Mutex::new(orders);
        Ok(Self { beneath, exits, orders, usage, loads, balancer, packets, aside, keeper: Some(keeper) })
    }

    /// The program's counters, by `proxy_ebpf::nat::packet`.
    pub fn packets(&self) -> Result<Vec<u64>, MapError> {
        (0..proxy_ebpf::nat::packet::COUNT).map(|index| Ok(self.packets.get(&index, 0)?.iter().sum())).collect()
    }

    fn lead(&self, key: TargetKey, node: SocketAddr) {
        let mut exits = self.exits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = exits.lead(key, node) {
            tracing::warn!(%error, %node, "packets for this node cannot be translated; its clients go to the listener");
        }
    }

    fn order(&self, order: Order) {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if orders.send(order).is_err() {
            tracing::error!("the keeper of the packet datapath is gone: idle flows do not notice a switch");
        }
    }
}

impl std::fmt::Debug for Tc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tc").field("beneath", &self.beneath).finish_non_exhaustive()
    }
}

/// The packet datapath of one route.
#[derive(Debug)]
pub struct TcRoute {
    tc: Arc<Tc>,
    /// Whose flows xdp translates is called that.
    name: &'static str,
    places: Arc<Places>,
    /// Flows and accepted connections together.
    most: u32,
    /// How new flows are shared out, one of [`kind`].
    kind: u32,
}

impl Tc {
    /// With room for `most` connections; `kind` is how new flows are shared out, one of [`kind`].
    pub fn route(self: &Arc<Self>, number: u16, name: &'static str, most: u32, kind: u32) -> TcRoute {
        let places = Places { usage: Arc::clone(&self.usage), route: number, accepted: AtomicU64::new(0) };
        TcRoute { tc: Arc::clone(self), name, places: Arc::new(places), most, kind }
    }
}

impl Datapath for TcRoute {
    fn name(&self) -> &'static str {
        self.name
    }

    fn lead(&self, key: TargetKey, node: SocketAddr) {
        self.tc.lead(key, node);
    }

    fn adopt(&self, connection: Connection) {
        self.tc.beneath.adopt(connection);
    }

    fn sever(&self, order: &Sever) {
        self.tc.order(Order::Sever(order.clone()));
        self.tc.beneath.sever(order);
    }

    fn resume(&self, key: TargetKey) {
        self.tc.beneath.resume(key);
    }

    fn share(&self, _route: u32, slots: &[Share]) {
        if self.kind == kind::MASTER {
            return;
        }
        match self.tc.balancer.share(self.places.route, self.kind, slots) {
            Ok(false) => {}
            Ok(true) => self.tc.order(Order::Fill),
            Err(error) => tracing::error!(%error, "new flows are shared out among the slots that were open before"),
        }
    }

    fn load(&self, key: TargetKey) -> Load {
        Load::with(Box::new(self.tc.loads.slot(key)))
    }

    fn drawn_to(&self, client: IpAddr, usable: &dyn Fn(TargetKey) -> bool) -> Option<TargetKey> {
        self.tc.balancer.drawn_to(self.places.route, client, usable)
    }

    fn close(&self) {
        self.tc.order(Order::Close(self.places.route));
    }

    fn flows(&self) -> u64 {
        self.places.usage.of(self.places.route).saturating_sub(self.places.accepted.load(Ordering::Relaxed))
    }

    fn syns(&self) -> Option<Syns> {
        self.tc.aside.of(self.places.route)
    }

    /// What the listener may accept by itself is no limit here: it has to do with open files, and flows take none.
    fn claim(&self, _accepted: u32) -> Option<Claim> {
        let places = &self.places;
        places.usage.claim(places.route, self.most).then(|| {
            places.accepted.fetch_add(1, Ordering::Relaxed);
            Claim(Some(Arc::clone(places)))
        })
    }
}

/// The places of a route, flows and accepted connections together.
#[derive(Debug)]
struct Places {
    usage: Arc<Usage>,
    route: u16,
    accepted: AtomicU64,
}

/// An accepted connection's place; of a route without a packet datapath it is none.
#[derive(Debug, Default)]
pub struct Claim(Option<Arc<Places>>);

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(places) = self.0.take() {
            places.accepted.fetch_sub(1, Ordering::Relaxed);
            places.usage.give_back(places.route);
        }
    }
}

impl Drop for Tc {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(keeper) = self.keeper.take() {
            // What it panicked of is in the log.
            let _ended = keeper.join();
        }
    }
}

/// The program, and where it is attached: to nothing any more when this is dropped, or the process ends.
struct Attached {
    /// First: what stands in front goes first.
    xdp: Option<Xdp>,
    object: Ebpf,
    links: BTreeMap<u32, SchedClassifierLinkId>,
    /// Told of, and tried again all the same.
    refused: BTreeSet<u32>,
}

impl Attach for Attached {
    fn follow(&mut self, host: &Host) -> BTreeSet<u32> {
        let there: BTreeSet<u32> = host.interfaces.iter().map(|interface| interface.ifindex).collect();
        self.refused.retain(|ifindex| there.contains(ifindex));
        let gone: Vec<u32> = self.links.keys().filter(|ifindex| !there.contains(ifindex)).copied().collect();
        for ifindex in gone {
            if let Some(link) = self.links.remove(&ifindex)
                && let Ok(program) = self.program()
            {
                // Nothing is left to be detached where the interface itself is gone.
                let _gone = program.detach(link);
            }
        }
        for interface in &host.interfaces {
            if !self.links.contains_key(&interface.ifindex) {
                self.attach(interface);
            }
        }
        if let Some(xdp) = &mut self.xdp {
            xdp.follow(host);
        }
        self.links.keys().copied().collect()
    }
}

impl Attached {
    fn attach(&mut self, interface: &Interface) {
        let link = self.program().and_then(|program| Ok(program.attach(&interface.name, TcAttachType::Ingress)?));
        let (ifindex, interface) = (interface.ifindex, &interface.name);
        match link {
            Ok(link) => {
                tracing::info!(interface, "packets are translated where they come in");
                self.refused.remove(&ifindex);
                self.links.insert(ifindex, link);
            }
            Err(error) if self.refused.insert(ifindex) => {
                tracing::warn!(%error, interface, "the program cannot be attached; clients that come in here go to the listener");
            }
            Err(_) => {}
        }
    }

    fn program(&mut self) -> Result<&mut SchedClassifier, Error> {
        Ok(self.object.program_mut(names::TC).ok_or(Error::Missing(names::TC))?.try_into()?)
    }
}

/// Who may dial each route.
fn allow(mut trie: LpmTrie<MapData, Allowed, u32>, routes: &[Route]) -> Result<(), MapError> {
    for route in routes {
        let mut insert = |bits, addr, families| {
            trie.insert(&Key::new(bits, Allowed { route: u32::from(route.number).to_be_bytes(), addr }), families, 0)
        };
        let Some(nets) = &route.allow else {
            insert(ALLOWED_ROUTE_BITS, [0; 16], family::ALL)?;
            continue;
        };
        for net in nets {
            let (before, families) =
                if net.addr().is_ipv4() { (ALLOWED_MAPPED_BITS, family::V4) } else { (ALLOWED_ROUTE_BITS, family::V6) };
            insert(before + u32::from(net.prefix_len()), encode(net.network()), families)?;
        }
    }
    Ok(())
}

fn map<T: TryFrom<Map, Error = MapError>>(object: &mut Ebpf, name: &'static str) -> Result<T, Error> {
    Ok(T::try_from(object.take_map(name).ok_or(Error::Missing(name))?)?)
}

fn take(object: &mut Ebpf, name: &'static str) -> Result<MapData, Error> {
    match object.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(Error::Missing(name)),
    }
}
