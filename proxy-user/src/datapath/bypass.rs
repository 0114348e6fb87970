//! The bypass: what a client of this host and its node, which is on this host too, send each other goes from socket to socket,
//! without TCP in between. Which connections those are, and until when, the programs decide by themselves; the daemon
//! names the nodes. Promises: none that TCP does not give, but for calls that look past a socket's queue (docs/datapaths.md
//! has them); nothing is bypassed on a kernel on which the self-test fails. Needs what steering needs, and BTF of the kernel.

mod hurry;
mod keeper;
mod selftest;

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
};

use aya::{
    Btf, Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf, SockHash},
    pin::PinError,
    programs::{
        CgroupAttachMode, Iter, ProgramError, SkMsg, SockOps,
        links::{FdLink, LinkError},
    },
};
use proxy_ebpf::{
    balance::{SLOTS, of_slot},
    bypass::{Counts, End, Orders, Program, count, names, sum},
};

use self::hurry::Hurry;
use self::keeper::{Keeper, Order};
use self::selftest::Tested;
pub use self::selftest::selftest;
use crate::kernel::{self, BtfError, Hooks, Mapping, MappingError, PinDir, netns};

#[derive(Debug)]
pub struct Setup {
    pub cgroup: PathBuf,
    /// Where its link is pinned.
    pub links: PathBuf,
    /// Nodes and clients in every network namespace below the cgroup, and not in the daemon's alone.
    pub all_namespaces: bool,
    /// The nodes that an earlier daemon led to: nobody may say them again.
    pub nodes: Vec<SocketAddr>,
    /// Programs whose connections are left to TCP, and ours.
    pub except: Vec<String>,
    pub tested: Tested,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the kernel object has no {0}; the daemon was built wrongly")]
    Missing(&'static str),
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    #[error(transparent)]
    Btf(#[from] BtfError),
    #[error("the kernel refuses the program {0}: {1}")]
    Program(&'static str, #[source] ProgramError),
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
    #[error("the kernel does not go through its sockets: {0}")]
    Walk(#[source] io::Error),
    #[error("its thread does not start: {0}")]
    Thread(#[source] io::Error),
    #[error("the self-test failed on this kernel: {case}: {what}")]
    Failed { case: &'static str, what: String },
}

pub struct Bypass {
    cgroup: PathBuf,
    tested: String,
    orders: Mutex<Sender<Order>>,
    clients: Mapping<AtomicU64>,
    sums: Mapping<AtomicU64>,
    counts: PerCpuArray<MapData, Counts>,
    keeper: Mutex<Option<JoinHandle<()>>>,
    _hurry: Hurry,
}

impl Bypass {
    /// From here on connections to the nodes that it meets are bypassed, and those of an earlier daemon go on.
    pub fn start(mut object: Ebpf, setup: Setup) -> Result<Self, Error> {
        load(&mut object)?;
        let (clients, sums) = (words(&object, names::CLIENTS)?, words(&object, names::SUMS)?);
        let counts = PerCpuArray::try_from(take(&mut object, names::COUNTS)?)?;
        let (nodes, late) = (take(&mut object, names::NODES)?.try_into()?, take(&mut object, names::LATE)?.try_into()?);
        let hurry = RingBuf::try_from(take(&mut object, names::HURRY)?)?;
        tell(&mut object, setup.tested.orders())?;
        except(&mut object, &setup.except)?;
        hand_over(&mut object)?;
        attach(&mut object, &setup.cgroup, &setup.links)?;
        let (cgroup, tested) = (setup.cgroup.clone(), setup.tested.said.clone());
        let keeper = Keeper::new(object, nodes, late, netns::cookie().map_err(Error::Namespace)?, setup);
        let (orders, told) = channel();
        let hurry = Hurry::start(hurry, orders.clone()).map_err(Error::Thread)?;
        let run = move || keeper.run(&told);
        let keeper = thread::Builder::new().name("bypass".to_owned()).spawn(run).map_err(Error::Thread)?;
        Ok(Self {
            cgroup,
            tested,
            orders: Mutex::new(orders),
            clients,
            sums,
            counts,
            keeper: Mutex::new(Some(keeper)),
            _hurry: hurry,
        })
    }

    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// What the self-test has found to work.
    pub fn tested(&self) -> &str {
        &self.tested
    }

    /// A node whose clients on the same host need no TCP.
    pub fn meet(&self, node: SocketAddr) {
        self.order(Order::Meet(node));
    }

    /// Clients of a route that were led to a node and are bypassed.
    pub fn of(&self, route: u16) -> u64 {
        let first = of_slot(u32::from(route), 0) as usize;
        let slots = self.clients.get(first..first + SLOTS as usize).unwrap_or_default();
        slots.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Clients that have dialled a node themselves and are bypassed.
    pub fn direct(&self) -> u64 {
        self.sums.get(sum::DIRECT as usize).map_or(0, |sum| sum.load(Ordering::Relaxed))
    }

    /// What waits for readers, with what the kernel needs to hold it, in bytes.
    pub fn waiting(&self) -> u64 {
        self.sums.get(sum::WAITING as usize).map_or(0, |sum| sum.load(Ordering::Relaxed))
    }

    /// By `proxy_ebpf::bypass::count`.
    pub fn counts(&self) -> Result<[u64; count::COUNT as usize], MapError> {
        let each = self.counts.get(&0, 0)?;
        Ok(std::array::from_fn(|what| each.iter().fold(0, |sum: u64, counts| sum.wrapping_add(counts.0[what]))))
    }

    /// Writes to no map any more. What becomes of connections is the pins' affair.
    pub fn stop(&self) {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            self.order(Order::Stop);
            // What it panicked of is in the log.
            let _ended = keeper.join();
        }
    }

    fn order(&self, order: Order) {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if orders.send(order).is_err() {
            tracing::error!("the keeper of the bypass is gone: connections to other nodes are not bypassed");
        }
    }
}

impl std::fmt::Debug for Bypass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bypass").field("cgroup", &self.cgroup).finish_non_exhaustive()
    }
}

impl Drop for Bypass {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Nothing is bypassed from the next message on, whoever has begun with it; nobody's connection ends, and nothing is lost: what
/// waits for a reader is in the reader's own queue. What sockets hold of the programs goes with the sockets.
pub fn discard(pins: &PinDir) -> Result<(), Error> {
    Hooks::remove(&pins.links(), names::CONNECTIONS).map_err(Error::Unpin)?;
    let orders = pins.maps().join(names::ORDERS);
    if orders.exists() {
        let mut orders: Array<_, Orders> = Map::Array(MapData::from_pin(orders)?).try_into()?;
        orders.set(0, Orders::default(), 0)?;
    }
    for name in kernel::OF_BYPASS {
        match fs::remove_file(pins.maps().join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::Unpin(error)),
            _ => {}
        }
    }
    Ok(())
}

/// What an earlier daemon bypassed at another cgroup than this is not gone on with.
pub fn discard_elsewhere(pins: &PinDir, cgroup: &Path) -> Result<(), Error> {
    if hooks(&pins.links(), cgroup)?.is_elsewhere(names::CONNECTIONS) { discard(pins) } else { Ok(()) }
}

fn load(object: &mut Ebpf) -> Result<(), Error> {
    program::<SockOps>(object, names::CONNECTIONS)?
        .load()
        .map_err(|error| Error::Program(names::CONNECTIONS, error))?;
    program::<SkMsg>(object, names::SEND)?.load().map_err(|error| Error::Program(names::SEND, error))?;
    let types = Btf::from_sys_fs().map_err(|error| Error::Program(names::REMIND, error.into()))?;
    let remind = program::<Iter>(object, names::REMIND)?;
    remind.load("tcp", &types).map_err(|error| Error::Program(names::REMIND, error))
}

/// What is sent on the sockets that are entered from here on is asked about.
fn hand_over(object: &mut Ebpf) -> Result<(), Error> {
    let sockets: SockHash<_, End> = take(object, names::SOCKETS)?.try_into()?;
    let send = program::<SkMsg>(object, names::SEND)?;
    send.attach(sockets.fd()).map_err(|error| Error::Program(names::SEND, error))?;
    Ok(())
}

/// Tells those readers of this thread's network namespace once more that there is something to read which have bypassed bytes
/// before them that TCP has: see the program.
fn remind(object: &mut Ebpf) -> Result<(), Error> {
    let refused = |error| Error::Program(names::REMIND, error);
    let program = program::<Iter>(object, names::REMIND)?;
    let id = program.attach().map_err(refused)?;
    let mut sockets = program.take_link(id).map_err(refused)?.into_file()?;
    // It writes nothing: the kernel calls the program for each socket by the way.
    io::copy(&mut sockets, &mut io::sink()).map_err(Error::Walk)?;
    Ok(())
}

fn tell(object: &mut Ebpf, orders: Orders) -> Result<(), Error> {
    let map = object.map_mut(names::ORDERS).ok_or(Error::Missing(names::ORDERS))?;
    Ok(Array::<_, Orders>::try_from(map)?.set(0, orders, 0)?)
}

/// Another daemon of ours is as one that is named: its splice does not see what was bypassed.
fn except(object: &mut Ebpf, listed: &[String]) -> Result<(), Error> {
    let map = object.map_mut(names::PROGRAMS).ok_or(Error::Missing(names::PROGRAMS))?;
    let mut programs: HashMap<_, Program, u32> = map.try_into()?;
    let own = fs::read_to_string("/proc/self/comm").unwrap_or_default();
    for name in listed.iter().map(String::as_str).chain([own.trim_end(), env!("CARGO_PKG_NAME")]) {
        programs.insert(program_name(name), 1, 0)?;
    }
    Ok(())
}

/// As the kernel has it: cut off, with zeros behind.
fn program_name(name: &str) -> Program {
    let mut program = Program::default();
    let most = program.len() - 1;
    program.iter_mut().zip(name.bytes().take(most)).for_each(|(to, from)| *to = from);
    program
}

fn hooks(links: &Path, cgroup: &Path) -> Result<Hooks, Error> {
    Hooks::new(links.to_owned(), cgroup).map_err(|source| Error::Cgroup { path: cgroup.to_owned(), source })
}

/// Puts the program where connections begin, in the place of an earlier daemon's.
fn attach(object: &mut Ebpf, cgroup: &Path, links: &Path) -> Result<(), Error> {
    let hooks = hooks(links, cgroup)?;
    let fd = program::<SockOps>(object, names::CONNECTIONS)?.fd();
    let fd = fd.map_err(|error| Error::Program(names::CONNECTIONS, error))?;
    if hooks.take_over(names::CONNECTIONS, fd.as_fd()) {
        return Ok(());
    }
    Hooks::remove(links, names::CONNECTIONS).map_err(Error::Unpin)?;
    Ok(hooks.keep(names::CONNECTIONS, link(object, cgroup)?)?)
}

fn link(object: &mut Ebpf, cgroup: &Path) -> Result<FdLink, Error> {
    let refused = |error| Error::Program(names::CONNECTIONS, error);
    let folder = File::open(cgroup).map_err(|source| Error::Cgroup { path: cgroup.to_owned(), source })?;
    let connections = program::<SockOps>(object, names::CONNECTIONS)?;
    // A link has several programs at one place whatever its flags.
    let id = connections.attach(folder, CgroupAttachMode::Single).map_err(refused)?;
    Ok(FdLink::try_from(connections.take_link(id).map_err(refused)?)?)
}

fn words(object: &Ebpf, name: &'static str) -> Result<Mapping<AtomicU64>, Error> {
    match object.map(name) {
        Some(Map::Array(words)) => Ok(Mapping::new(name, words)?),
        _ => Err(Error::Missing(name)),
    }
}

fn program<'a, P>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, Error>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = object.program_mut(name).ok_or(Error::Missing(name))?;
    program.try_into().map_err(|error| Error::Program(name, error))
}

fn take(object: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    object.take_map(name).ok_or(Error::Missing(name))
}
