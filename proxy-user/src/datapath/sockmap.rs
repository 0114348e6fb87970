//! The in-kernel splice: once a connection is made, its bytes go from socket to socket without
//! waking the daemon. Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and a kernel that passes the self-test.
//! The `targets` map it reads is the pinned one that the switch writes.

use std::{
    fmt, io,
    os::fd::AsFd as _,
    sync::{Arc, atomic::AtomicUsize},
};

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError, PerCpuArray, RingBuf, SockHash},
    programs::{ProgramError, SkSkb},
};
use proxy_ebpf::{Cookie, TargetKey, names};

use super::{Call, Connection, Datapath, Sever, crew::Crew, splice::Maps, worker::KernelEvents};

pub struct Sockmap {
    // Before the object: a worker's flows leave the kernel before the program does.
    crew: Crew,
    counters: PerCpuArray<MapData, u64>,
    _object: Ebpf,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the kernel object cannot be loaded: {0}")]
    Load(#[from] aya::EbpfError),
    #[error("the kernel object has no {0}; the daemon was built wrongly")]
    Missing(&'static str),
    #[error("the kernel refuses the verdict program: {0}")]
    Program(#[from] ProgramError),
    #[error("the kernel refuses a map: {0}")]
    Map(#[from] MapError),
    #[error("the workers do not start: {0}")]
    Workers(#[from] io::Error),
}

impl Sockmap {
    /// Loads the object and starts `workers` threads for at most `connections` connections.
    pub fn start(mut object: Ebpf, workers: usize) -> Result<Self, Error> {
        let Attached { maps, counters, ring } = attach(&mut object)?;
        let mut ring = Some(ring);
        let flows = Arc::new(AtomicUsize::new(0));
        let mut number = 0;
        let crew = Crew::start("sockmap", workers, |mailboxes| {
            let splice = maps.for_worker(number, &flows).map_err(io::Error::other)?;
            number += 1;
            let kernel = match ring.take() {
                Some(ring) => Some(KernelEvents {
                    ring,
                    counters: per_cpu(&counters).map_err(io::Error::other)?,
                    workers: mailboxes.to_vec(),
                    lost: 0,
                }),
                None => None,
            };
            Ok((Some(splice), kernel))
        })?;
        Ok(Self { crew, counters: per_cpu(&counters)?, _object: object })
    }

    /// Has the traffic counters brought up to date: bytes that the kernel moves are counted there first.
    /// Returns at once; the counters follow.
    pub fn refresh(&self) {
        self.crew.refresh();
    }

    /// The verdict program's counters, by `proxy_ebpf::counter`.
    pub fn counters(&self) -> Result<Vec<u64>, MapError> {
        (0..proxy_ebpf::counter::COUNT).map(|index| Ok(self.counters.get(&index, 0)?.iter().sum())).collect()
    }
}

impl fmt::Debug for Sockmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockmap").field("crew", &self.crew).finish_non_exhaustive()
    }
}

impl Datapath for Sockmap {
    fn name(&self) -> &'static str {
        "sockmap"
    }

    fn adopt(&self, connection: Connection) {
        self.crew.adopt(connection);
    }

    fn dial(&self, call: Call) {
        self.crew.dial(call);
    }

    fn sever(&self, order: &Sever) {
        self.crew.sever(order);
    }

    fn resume(&self, key: TargetKey) {
        self.crew.resume(key);
    }
}

/// The verdict program at its sockets' map, and what it is talked to by.
pub(super) struct Attached {
    pub(super) maps: Maps,
    counters: MapData,
    ring: RingBuf<MapData>,
}

pub(super) fn attach(object: &mut Ebpf) -> Result<Attached, Error> {
    let map = object.map(names::SPLICED).ok_or(Error::Missing(names::SPLICED))?;
    let spliced = SockHash::<_, Cookie>::try_from(map)?.fd().try_clone()?;
    let program: &mut SkSkb = object.program_mut(names::VERDICT).ok_or(Error::Missing(names::VERDICT))?.try_into()?;
    program.load()?;
    program.attach(&spliced)?;
    let maps = Maps {
        links: take(object, names::LINKS)?,
        meters: take(object, names::METERS)?,
        peers: take(object, names::PEERS)?,
        spliced: take(object, names::SPLICED)?,
    };
    let counters = take(object, names::COUNTERS)?;
    let ring = RingBuf::try_from(Map::RingBuf(take(object, names::EVENTS)?))?;
    Ok(Attached { maps, counters, ring })
}

fn take(object: &mut Ebpf, name: &'static str) -> Result<MapData, Error> {
    match object.take_map(name) {
        Some(Map::HashMap(data) | Map::SockHash(data) | Map::PerCpuArray(data) | Map::RingBuf(data)) => Ok(data),
        _ => Err(Error::Missing(name)),
    }
}

fn per_cpu(map: &MapData) -> Result<PerCpuArray<MapData, u64>, MapError> {
    let again = MapData::from_fd(map.fd().as_fd().try_clone_to_owned()?)?;
    PerCpuArray::try_from(Map::PerCpuArray(again))
}
