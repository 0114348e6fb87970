//! Steering: clients of this host, which need no hop. A `connect(2)` to an address of a route is led to the node by programs at a
//! cgroup; which node, and whether at all, they read where the packet datapaths do. Promises: at a switch nothing more is
//! sent under an old generation from the write of its gate on, nor received where the switch was expected, and every socket
//! that was led there is ended, busy or idle; no socket is ended that was not. Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and for clients in other network
//! namespaces CAP_SYS_ADMIN.

mod answers;
mod attached;
mod keeper;
mod plan;
mod sockets;

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray},
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};
use proxy_ebpf::{
    balance::{SLOTS, of_slot},
    nat,
    steering::{Counts, count, names},
};

pub use self::plan::Route;
use self::{
    answers::Answers,
    keeper::{Keeper, Order},
    sockets::{destroy, find},
};
use super::Sever;
use crate::{
    kernel::{Mapping, MappingError, PinDir, netns},
    nat::netlink::NetlinkError,
    switch::Kept,
};

#[derive(Debug)]
pub struct Setup {
    pub cgroup: PathBuf,
    /// Where links are pinned.
    pub links: PathBuf,
    /// Clients of every network namespace below the cgroup, and not of the daemon's alone.
    pub all_namespaces: bool,
    /// The nodes that an earlier daemon led to: nobody may say them again.
    pub nodes: Vec<IpAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the kernel object has no {0}; the daemon was built wrongly")]
    Missing(&'static str),
    #[error("the kernel refuses the program {0}: {1}")]
    Program(&'static str, #[source] ProgramError),
    #[error(
        "the program {0} cannot be attached to the cgroup; on EPERM another program is there, or above, that lets no other \
         beside it (`bpftool cgroup tree` shows it): give `cgroup` one that it does not cover"
    )]
    Refused(&'static str, #[source] ProgramError),
    #[error("the kernel has given no link: {0}")]
    Link(#[from] LinkError),
    #[error("the kernel refuses a map: {0}")]
    Map(#[from] MapError),
    #[error(transparent)]
    Mapping(#[from] MappingError),
    #[error("the cgroup {path} cannot be used: {source}")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error("its link cannot be pinned: {0}")]
    Pin(#[from] PinError),
    #[error("the pin of an earlier link cannot be removed: {0}")]
    Unpin(#[source] io::Error),
    #[error("which network namespace this is cannot be asked: {0}")]
    Namespace(#[source] io::Error),
    #[error(
        "clients of other network namespaces cannot be led without CAP_SYS_ADMIN ({0}): grant it, or set namespaces = \"own\""
    )]
    Elsewhere(#[source] io::Error),
    #[error("the sockets that were led cannot be listed: {0}")]
    Sockets(#[from] NetlinkError),
    #[error("its thread does not start: {0}")]
    Thread(#[from] io::Error),
}

/// The programs where they belong, leading nobody that an earlier daemon did not lead.
pub struct Prepared {
    maps: keeper::Maps,
    steers: Mapping<AtomicU64>,
    counts: PerCpuArray<MapData, Counts>,
    home: u64,
    setup: Setup,
    object: Ebpf,
    /// Some of the programs were there already.
    taken_over: bool,
}

impl Prepared {
    /// Takes over what an earlier daemon left at the same cgroup.
    pub fn attach(mut object: Ebpf, setup: Setup) -> Result<Self, Error> {
        if setup.all_namespaces {
            let here = File::open("/proc/self/ns/net").map_err(Error::Namespace)?;
            netns::inside(&here, || ()).ok_or_else(|| Error::Elsewhere(io::ErrorKind::PermissionDenied.into()))?;
        }
        attached::load(&mut object)?;
        let home = netns::cookie().map_err(Error::Namespace)?;
        let steers = match object.take_map(names::STEERS) {
            Some(Map::Array(steers)) => Mapping::new(names::STEERS, &steers)?,
            _ => return Err(Error::Missing(names::STEERS)),
        };
        let counts = PerCpuArray::try_from(take(&mut object, names::STEERINGS)?)?;
        let gates = match object.map(nat::names::GATES) {
            Some(Map::Array(gates)) => Mapping::new(nat::names::GATES, gates)?,
            _ => return Err(Error::Missing(nat::names::GATES)),
        };
        let dialled = HashMap::try_from(take(&mut object, names::DIALLED)?)?;
        let reached = HashMap::try_from(take(&mut object, names::REACHED)?)?;
        let Map::SkStorage(storage) = take(&mut object, names::STEERED)? else {
            return Err(Error::Missing(names::STEERED));
        };
        // Whether this kernel can do it at all.
        find(storage.fd().as_fd())?;
        let taken_over = attached::attach_all(&mut object, &setup.cgroup, &setup.links)?;
        let maps = keeper::Maps { dialled, reached, storage, gates };
        Ok(Self { maps, steers, counts, home, setup, object, taken_over })
    }

    /// By slot, the sockets that were led there.
    pub fn steers(&self) -> &[AtomicU64] {
        &self.steers
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("setup", &self.setup).finish_non_exhaustive()
    }
}

/// Ends what an earlier daemon led, or was begun here, and leaves nothing of it: nobody looks after it any more. What is held
/// back is held until its socket is ended. Returns how many sockets there were.
pub fn discard(pins: &PinDir) -> Result<usize, Error> {
    let links = pins.links();
    if !attached::is_left(&links, None)? {
        return Ok(0);
    }
    attached::lead_nobody(&links)?;
    let map = |name: &str| pins.maps().join(name);
    let mut ended = Ok(0);
    if map(names::STEERED).exists() {
        let storage = MapData::from_pin(map(names::STEERED))?;
        ended = end_all(&storage);
        // A call that was led just before makes its socket visible a little later.
        thread::park_timeout(MOMENT);
        ended = ended.and_then(|ended| Ok(ended + end_all(&storage)?));
    }
    attached::remove(&links)?;
    // Sockets that were ended, and are not closed yet, are counted by nobody: who leads again counts anew.
    for name in [names::STEERED, names::STEERS] {
        match std::fs::remove_file(map(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::Unpin(error)),
            _ => {}
        }
    }
    Ok(ended?)
}

/// Longer than a call is between the program and the list of sockets.
const MOMENT: Duration = Duration::from_millis(10);

/// A sign of a switch stands for this long after those who decide have ceased to hurry for it: they may rest for as long, while
/// the Sentinels go on.
const STANDS: Duration = Duration::from_secs(30);
/// Who is led at the moment of a switch is listed by then, if the sweeps have left anybody.
const LISTED: Duration = Duration::from_millis(100);

pub struct Steering {
    cgroup: PathBuf,
    orders: Mutex<Sender<Order>>,
    answers: Arc<Answers>,
    steers: Mapping<AtomicU64>,
    counts: PerCpuArray<MapData, Counts>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Steering {
    /// Leads clients of these routes from here on, and looks after those that an earlier daemon led.
    pub fn start(prepared: Prepared, routes: Vec<Route>) -> Result<Self, Error> {
        let Prepared { maps, steers, counts, home, setup, object, taken_over } = prepared;
        let (cgroup, setup) = (setup.cgroup.clone(), Arc::new(setup));
        // An earlier daemon may have left a pause behind, in namespaces that are not known yet.
        let until = Instant::now() + if taken_over { STANDS } else { Duration::ZERO };
        let answers = Arc::new(Answers::new(object, Arc::clone(&setup), until));
        let mut keeper = Keeper::new(maps, Arc::clone(&answers), home, setup, routes);
        keeper.follow();
        let (orders, told) = channel();
        let keeper = thread::Builder::new().name("steering".to_owned()).spawn(move || keeper.run(&told))?;
        let threads = Mutex::new(vec![keeper, answers.start()?]);
        Ok(Self { cgroup, orders: Mutex::new(orders), answers, steers, counts, threads })
    }

    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Sockets of a route that were led to a node and are open.
    pub fn of(&self, route: u16) -> u64 {
        let first = of_slot(u32::from(route), 0) as usize;
        let slots = self.steers.get(first..first + SLOTS as usize).unwrap_or_default();
        slots.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// What became of calls and packets, by `proxy_ebpf::steering::count`.
    pub fn counts(&self) -> Result<[u64; count::COUNT as usize], MapError> {
        let each = self.counts.get(&0, 0)?;
        Ok(std::array::from_fn(|what| each.iter().map(|counts| counts.0[what]).sum()))
    }

    /// Until then a pause may come any moment: what a node answers in it is held back.
    pub fn expect_switch(&self, until: Instant) {
        self.answers.expect(until + STANDS);
    }

    /// Waits until it would be; false: it is not yet, and there is somebody to whom it matters.
    pub fn holds_answers(&self, within: Duration) -> bool {
        self.steers.iter().all(|led| led.load(Ordering::Relaxed) == 0) || self.answers.are_seen(within)
    }

    pub(super) fn sever(&self, order: &Sever) {
        let slot = self.steers.get(of_slot(order.key.route, order.key.slot) as usize);
        if slot.is_some_and(|led| led.load(Ordering::Relaxed) > 0) {
            self.answers.expect(Instant::now() + LISTED);
        }
        self.order(Order::Sever(order.clone()));
    }

    /// The route takes no new clients any more.
    pub(super) fn close(&self, route: u16) {
        self.order(Order::Close(route));
    }

    /// A node that clients may be led to.
    pub(super) fn meet(&self, node: IpAddr) {
        self.order(Order::Meet(node));
    }

    /// What an earlier daemon led, and nobody goes on with, is ended.
    pub(super) fn take_over(&self, kept: Kept, latest: u64) {
        self.order(Order::TakeOver(kept, latest));
    }

    /// Writes to no map any more. What becomes of sockets and programs is the pins' affair.
    pub fn stop(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        if !threads.is_empty() {
            self.order(Order::Stop);
            self.answers.stop();
        }
        for thread in threads {
            // What it panicked of is in the log.
            let _ended = thread.join();
        }
    }

    fn order(&self, order: Order) {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if orders.send(order).is_err() {
            tracing::error!("the keeper of steering is gone: idle sockets do not notice a switch");
        }
    }
}

impl std::fmt::Debug for Steering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steering").field("cgroup", &self.cgroup).finish_non_exhaustive()
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What an earlier daemon led at another cgroup than this is not gone on with.
pub fn discard_elsewhere(pins: &PinDir, cgroup: &Path) -> Result<usize, Error> {
    if attached::is_left(&pins.links(), Some(cgroup))? { discard(pins) } else { Ok(0) }
}

/// Ends all sockets that were led by whoever had this storage, in every namespace that can be seen from here, as far as that
/// can be done; then the first error.
fn end_all(storage: &MapData) -> Result<usize, NetlinkError> {
    let end = || -> Result<usize, NetlinkError> { destroy(find(storage.fd().as_fd())?.iter()) };
    let elsewhere = netns::namespaces().into_iter().filter_map(|path| File::open(path).ok());
    let outcomes: Vec<_> = elsewhere.filter_map(|namespace| netns::inside(&namespace, end)).chain([end()]).collect();
    outcomes.into_iter().sum()
}

fn take(object: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    object.take_map(name).ok_or(Error::Missing(name))
}
