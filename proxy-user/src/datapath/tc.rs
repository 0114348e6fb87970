//! Full NAT at tc ingress: a client's packets go to the node and back without a socket of ours, and a connection is the
//! two ends' own. Whatever the program leaves to the stack is accepted by the listener and served by the
//! datapath beneath. Needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_RAW.

mod allow;
mod attached;
mod route;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap as Table},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::AtomicU64,
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
    pin::PinError,
    programs::{ProgramError, SchedClassifier},
    util::KernelVersion,
};
use proxy_ebpf::{
    TargetKey, balance,
    nat::{Counters, Endpoint, First, MOST_DOORS, names, packet},
    parking,
};

pub use self::route::{Claim, Parts};
use self::{
    attached::{Attached, Nowhere},
    route::TcRoute,
};
use super::{Bypass, Steering, Xdp};
use crate::{
    kernel::{Cell, Links, MappingError},
    nat::{
        aside::{Aside, AsideError},
        audit::{self, Audit},
        balancer::{self, Balancer},
        carried::Carried,
        claim::{self, ClaimError},
        collector::Collector,
        doors::Doors,
        exits::{ExitError, Exits, Maps, Wanted},
        fate::Lingers,
        flows::{Flows, Usage},
        globals::Globals,
        heart::Heart,
        index::Index,
        keeper::{Attach, Keeper, Order, Route},
        loads::Loads,
        outs::Outs,
        ports,
        reservation::{self, ReservationError},
        reset::{ResetError, Resetter},
    },
    switch::Kept,
};

pub struct Tc {
    steering: OnceLock<Arc<Steering>>,
    bypass: OnceLock<Arc<Bypass>>,
    exits: Arc<Mutex<Exits>>,
    orders: Mutex<Sender<Order>>,
    usage: Arc<Usage>,
    carried: Arc<Carried>,
    loads: Arc<Loads>,
    balancer: Arc<Balancer>,
    packets: PerCpuArray<MapData, Counters>,
    firsts: Array<MapData, First>,
    aside: Aside,
    /// Until when an earlier daemon's last beat lets new flows to the masters that it had proven.
    rest: Instant,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// What outlives the daemon, and where.
#[derive(Debug)]
pub struct Setup {
    pub links: PathBuf,
    pub maps: PathBuf,
    /// What this daemon is about to listen on.
    pub listening: Vec<SocketAddr>,
    /// How long new flows are made when the daemon is dead.
    pub orphan_grace: Duration,
    /// That of the flows' index.
    pub seed: u64,
    /// Where an earlier daemon led, whose flows live; `None`: there was none.
    pub left: Option<BTreeMap<TargetKey, SocketAddr>>,
    /// Packets are translated; else only what steering shares with that is kept.
    pub translates: bool,
}

/// As long as one is held, new flows are made no longer than an earlier daemon's last beat allows.
#[derive(Debug)]
pub struct Hold(Arc<Tc>);

impl Hold {
    /// When that is over.
    pub fn orphaned_at(&self) -> Instant {
        self.0.rest
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.order(Order::Beat);
    }
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
    Mapping(#[from] MappingError),
    #[error(transparent)]
    Reset(#[from] ResetError),
    #[error(transparent)]
    Aside(#[from] AsideError),
    #[error("it needs the tcx links of Linux 6.6")]
    Kernel,
    #[error("its link cannot be pinned: {0}")]
    Pin(#[from] PinError),
    #[error("the pin of an earlier link cannot be removed: {0}")]
    Unpin(#[source] io::Error),
    #[error(transparent)]
    Ports(#[from] ReservationError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("what an earlier daemon left: {0}")]
    Exits(#[from] ExitError),
    #[error("its thread does not start: {0}")]
    Thread(#[from] io::Error),
}

/// Between two looks at what is counted: longer than a packet is in the program.
const MOMENT: Duration = Duration::from_millis(5);

impl Tc {
    /// What can keep this daemon from translating packets and is known before anything is made.
    pub fn check() -> Result<(), Error> {
        // Before, programs hang on netlink filters, which outlive the process and whoever writes their maps.
        if KernelVersion::current().is_ok_and(|kernel| kernel < KernelVersion::new(6, 6, 0)) {
            return Err(Error::Kernel);
        }
        Ok(reservation::checked(ports::DEFAULT)?)
    }

    /// From here on this daemon is the one that does; it pins its links there.
    pub fn claim(links: PathBuf) -> Result<(), Error> {
        Ok(claim::claim(&Links::new(links, names::TC))?)
    }

    /// Serves `routes`; `release` sends parked SYNs on. Flows that an earlier daemon left go on, and new ones for as long
    /// as that has allowed: until a [`Hold`] is dropped. `steers` says how many sockets were led to each slot.
    pub fn start(
        mut object: Ebpf,
        release: Ebpf,
        routes: Vec<Route>,
        setup: Setup,
        xdp: Option<Xdp>,
        steers: &[AtomicU64],
    ) -> Result<Self, Error> {
        if setup.translates {
            let program: &mut SchedClassifier =
                object.program_mut(names::TC).ok_or(Error::Missing(names::TC))?.try_into()?;
            program.load()?;
        }
        let flows = Arc::new(Flows::open(&take(&mut object, names::FLOWS)?, &take(&mut object, names::TAKEN)?)?);
        let usage = Arc::new(Usage::open(&take(&mut object, names::USAGE)?)?);
        let loads = Arc::new(Loads::open(&take(&mut object, balance::names::LOADS)?)?);
        let balancer = Arc::new(Balancer::new(balancer::Maps {
            balance: map(&mut object, balance::names::BALANCE)?,
            maglev: map(&mut object, balance::names::MAGLEV)?,
        }));
        let globals = Arc::new(Globals::open(&take(&mut object, names::GLOBALS)?)?);
        let mut exits = Exits::new(
            Maps {
                egress: map(&mut object, names::EGRESS)?,
                snat_of: map(&mut object, names::SNAT_OF)?,
                globals: Arc::clone(&globals),
                free: map(&mut object, names::FREE)?,
            },
            ports::DEFAULT,
            flows.places(),
            setup.maps,
            Wanted {
                listed: routes.iter().map(|route| (u32::from(route.number), route.snat.clone())).collect(),
                listening: setup.listening,
            },
        );
        allow::write(map(&mut object, names::ALLOW)?, &routes)?;
        let index = Index::open(&take(&mut object, names::FLOW_OF)?, setup.seed)?;
        let mut collector =
            Collector::new(flows, Arc::clone(&usage), Arc::clone(&loads), index, Vec::new(), Lingers::default());
        let carried =
            Arc::new(Carried::new(routes.iter().map(|route| usize::from(route.number) + 1).max().unwrap_or(0)));
        collector.count(Arc::clone(&carried));
        let door_of = map(&mut object, names::DOOR_OF)?;
        let (doors, audit) = match &setup.left {
            None => (Doors::new(MOST_DOORS as u32), None),
            Some(led) => {
                audit::recount(&collector, steers, || {
                    thread::park_timeout(MOMENT);
                });
                let withheld = exits.take_over(led)?;
                (left_doors(&door_of, &globals)?, Some(Audit::begin(&collector, &withheld, Instant::now())))
            }
        };
        let (packets, firsts) = (map(&mut object, names::PACKETS)?, map(&mut object, names::FIRSTS)?);
        let turns = take(&mut object, parking::names::SYN_TURNS)?;
        let numbers = routes.iter().map(|route| route.number);
        let aside = Aside::start(map(&mut object, parking::names::PARKED)?, &turns, release, numbers)?;
        let outs = Outs::new(map(&mut object, names::OUTS)?);
        let exits = Arc::new(Mutex::new(exits));
        let attach: Box<dyn Attach> = if setup.translates {
            Box::new(Attached::new(xdp, object, outs, Links::new(setup.links, names::TC)))
        } else {
            Box::new(Nowhere)
        };
        let mut keeper = Keeper {
            heart: Heart::new(Arc::clone(&globals), setup.orphan_grace),
            beats: setup.left.is_none(),
            audit,
            collector,
            doors,
            door_of,
            globals,
            routes,
            attach,
            resetter: setup.translates.then(Resetter::open).transpose()?,
            snats: Vec::new(),
            exits: Arc::clone(&exits),
            balancer: Arc::clone(&balancer),
            unreachable: BTreeSet::new(),
            overlap: None,
            ended: Table::new(),
        };
        let rest = Instant::now() + keeper.heart.rest().unwrap_or_default();
        // Who dials in the first moment is to become a flow, or to be parked as one.
        if keeper.beats
            && let Err(error) = keeper.heart.beat()
        {
            tracing::error!(%error, "no heartbeat: new connections will go to the listener");
        }
        keeper.follow_host();
        while exits.lock().unwrap_or_else(PoisonError::into_inner).prepare_next() {}
        let (orders, told) = channel();
        let keeper = thread::Builder::new().name("tc".to_owned()).spawn(move || keeper.run(&told))?;
        let (orders, keeper) = (Mutex::new(orders), Mutex::new(Some(keeper)));
        let (steering, bypass) = (OnceLock::new(), OnceLock::new());
        Ok(Self {
            steering,
            bypass,
            exits,
            orders,
            usage,
            carried,
            loads,
            balancer,
            packets,
            firsts,
            aside,
            rest,
            keeper,
        })
    }

    pub fn hold(self: &Arc<Self>) -> Arc<Hold> {
        Arc::new(Hold(Arc::clone(self)))
    }

    pub fn route(self: &Arc<Self>, parts: Parts) -> TcRoute {
        TcRoute::new(Arc::clone(self), parts)
    }

    /// From now on switches are told to this, too.
    pub fn steer(&self, steering: Arc<Steering>) {
        let _is_first = self.steering.set(steering);
    }

    pub fn steering(&self) -> Option<&Steering> {
        self.steering.get().map(|it| &**it)
    }

    /// From now on it hears of nodes, too.
    pub fn bypass(&self, bypass: Arc<Bypass>) {
        let _is_first = self.bypass.set(bypass);
    }

    pub fn bypassing(&self) -> Option<&Bypass> {
        self.bypass.get().map(|it| &**it)
    }

    /// Ends the flows of an earlier daemon that nobody goes on with.
    pub fn take_over(&self, kept: Kept, latest: u64) {
        if let Some(steering) = self.steering() {
            steering.take_over(kept.clone(), latest);
        }
        self.order(Order::TakeOver(kept, latest));
    }

    /// Writes to no map any more. What becomes of flows and program is the pins' affair.
    pub fn stop(&self) {
        if let Some(steering) = self.steering() {
            steering.stop();
        }
        if let Some(bypass) = self.bypassing() {
            bypass.stop();
        }
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            self.order(Order::Stop);
            // What it panicked of is in the log.
            let _ended = keeper.join();
        }
    }

    /// Gives these routes' flows to the program at XDP.
    pub fn by_xdp(&self, routes: Vec<u16>) {
        self.order(Order::ByXdp(routes));
    }

    /// The program's counters, by `proxy_ebpf::nat::packet`.
    pub fn packets(&self) -> Result<[u64; packet::COUNT as usize], MapError> {
        let each = self.packets.get(&0, 0)?;
        Ok(std::array::from_fn(|fate| each.iter().map(|counters| counters.packets[fate]).sum()))
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
        f.debug_struct("Tc").field("steering", &self.steering).finish_non_exhaustive()
    }
}

impl Drop for Tc {
    fn drop(&mut self) {
        self.stop();
    }
}

fn left_doors(open: &HashMap<MapData, Endpoint, u32>, globals: &Globals) -> Result<Doors, MapError> {
    let open = open.iter().collect::<Result<Vec<_>, _>>()?;
    Ok(Doors::adopt(MOST_DOORS as u32, globals.doors.iter().map(Cell::get), open))
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
