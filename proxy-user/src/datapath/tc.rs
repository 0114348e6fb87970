//! Full NAT at tc ingress: a client's packets go to the node and back without a socket of ours, and a connection is the
//! two ends' own. Whatever the program leaves to the stack is accepted by the listener and served by the
//! datapath beneath. Needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_RAW.

use std::{
    collections::{BTreeMap, HashMap as Table},
    io,
    net::SocketAddr,
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
};
use proxy_ebpf::{
    TargetKey,
    nat::{ALLOWED_MAPPED_BITS, ALLOWED_ROUTE_BITS, Allowed, names},
};

use super::{Connection, Datapath, Sever};
use crate::nat::{
    address::encode,
    collector::Collector,
    doors::Doors,
    egress::Host,
    exits::{Exits, Maps},
    fate::Lingers,
    flows::{Flows, Usage},
    heart::Heart,
    keeper::{Attach, Keeper, Order, Route},
    ports,
    reservation::{self, ReservationError},
    reset::{ResetError, Resetter},
};

/// How long new flows are made when the daemon is gone.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);

pub struct Tc {
    beneath: Arc<dyn Datapath>,
    exits: Mutex<Exits>,
    orders: Mutex<Sender<Order>>,
    usage: Arc<Usage>,
    packets: PerCpuArray<MapData, u64>,
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
    Ports(#[from] ReservationError),
    #[error("its thread does not start: {0}")]
    Thread(#[from] io::Error),
}

impl Tc {
    /// Serves `routes`; `beneath` has the connections that the listener accepts.
    pub fn start(mut object: Ebpf, routes: Vec<Route>, beneath: Arc<dyn Datapath>) -> Result<Self, Error> {
        reservation::checked(ports::DEFAULT)?;
        let program: &mut SchedClassifier =
            object.program_mut(names::TC).ok_or(Error::Missing(names::TC))?.try_into()?;
        program.load()?;
        let flows = Arc::new(Flows::open(&take(&mut object, names::FLOWS)?)?);
        let usage = Arc::new(Usage::open(&take(&mut object, names::USAGE)?)?);
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
        allow(map(&mut object, names::ALLOW)?, &routes)?;
        let keys = map(&mut object, names::FLOW_OF)?;
        let door_map: aya::maps::Array<_, _> = map(&mut object, names::DOORS)?;
        let packets = map(&mut object, names::PACKETS)?;
        let mut keeper = Keeper {
            heart: Heart::open(&take(&mut object, names::CLOCK)?, ORPHAN_GRACE)?,
            collector: Collector::new(flows, Arc::clone(&usage), keys, Vec::new(), Lingers::default()),
            doors: Doors::new(door_map.len()),
            door_of: map(&mut object, names::DOOR_OF)?,
            door_map,
            routes,
            attach: Box::new(Attached { object, links: BTreeMap::new() }),
            resetter: Resetter::open()?,
            snats: Vec::new(),
            ended: Table::new(),
        };
        keeper.follow_host();
        let (orders, told) = channel();
        let keeper = thread::Builder::new().name("tc".to_owned()).spawn(move || keeper.run(&told))?;
        Ok(Self { beneath, exits: Mutex::new(exits), orders: Mutex::new(orders), usage, packets, keeper: Some(keeper) })
    }

    /// The program's counters, by `proxy_ebpf::nat::packet`.
    pub fn packets(&self) -> Result<Vec<u64>, MapError> {
        (0..proxy_ebpf::nat::packet::COUNT).map(|index| Ok(self.packets.get(&index, 0)?.iter().sum())).collect()
    }

    fn lead(&self, key: TargetKey, node: SocketAddr) {
        let mut exits = self.exits.lock().unwrap_or_else(PoisonError::into_inner);
        match exits.lead(key, node) {
            Ok(None) => {}
            Ok(Some((snat, pool))) => self.order(Order::Exit(snat, pool)),
            Err(error) => {
                exits.forget(key);
                tracing::warn!(%error, %node, "the packets of this route cannot be translated; its clients go to the listener");
            }
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
    places: Arc<Places>,
}

impl Tc {
    pub fn route(self: &Arc<Self>, number: u16) -> TcRoute {
        let places = Places { usage: Arc::clone(&self.usage), route: number, accepted: AtomicU64::new(0) };
        TcRoute { tc: Arc::clone(self), places: Arc::new(places) }
    }
}

impl Datapath for TcRoute {
    fn name(&self) -> &'static str {
        "tc"
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

    fn close(&self) {
        self.tc.order(Order::Close(self.places.route));
    }

    fn flows(&self) -> u64 {
        self.places.usage.of(self.places.route).saturating_sub(self.places.accepted.load(Ordering::Relaxed))
    }

    fn claim(&self, most: u32) -> Option<Claim> {
        let places = &self.places;
        places.usage.claim(places.route, most).then(|| {
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

/// The program, and where it is attached: to nothing any more when this is dropped.
struct Attached {
    object: Ebpf,
    links: BTreeMap<u32, Option<SchedClassifierLinkId>>,
}

impl Attach for Attached {
    fn follow(&mut self, host: &Host) {
        self.links.retain(|ifindex, _| host.interfaces.iter().any(|interface| interface.ifindex == *ifindex));
        for interface in &host.interfaces {
            if self.links.contains_key(&interface.ifindex) {
                continue;
            }
            let link = self.attach(&interface.name);
            match &link {
                Ok(_) => tracing::info!(interface = interface.name, "packets are translated where they come in"),
                Err(error) => {
                    tracing::warn!(%error, interface = interface.name, "the program cannot be attached; packets that come in here go to the listener");
                }
            }
            self.links.insert(interface.ifindex, link.ok());
        }
    }
}

impl Attached {
    fn attach(&mut self, interface: &str) -> Result<SchedClassifierLinkId, Error> {
        let program = self.object.program_mut(names::TC).ok_or(Error::Missing(names::TC))?;
        let program: &mut SchedClassifier = program.try_into()?;
        Ok(program.attach(interface, TcAttachType::Ingress)?)
    }
}

/// Who may dial each route.
fn allow(mut trie: LpmTrie<MapData, Allowed, u32>, routes: &[Route]) -> Result<(), MapError> {
    for route in routes {
        let mut insert = |bits, addr| {
            trie.insert(&Key::new(bits, Allowed { route: u32::from(route.number).to_be_bytes(), addr }), 1, 0)
        };
        let Some(nets) = &route.allow else {
            insert(ALLOWED_ROUTE_BITS, [0; 16])?;
            continue;
        };
        for net in nets {
            let before = if net.addr().is_ipv4() { ALLOWED_MAPPED_BITS } else { ALLOWED_ROUTE_BITS };
            insert(before + u32::from(net.prefix_len()), encode(net.addr()))?;
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
