//! Packets of connections that really go through the daemon, and the program that would translate them: so
//! that the program finds in its maps what it finds in life.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    maps::{Array, Map, MapData, MapInfo, PerCpuArray},
    programs::{ProgramFd, ProgramInfo, loaded_programs},
};
use nix::time::{ClockId, clock_gettime};
use proxy_ebpf::{
    index::{Bucket, EMPTY, Hash, place},
    nat::{self, Counters, Flow as Record, Globals, Life, Snat, TICK_SHIFT, halves, names},
};
use switchmaster_tests::Client;

use super::{
    super::{Run, link::Link, peer::Peer, stage::Stage, workload::Place},
    harness::Given,
    packet::{Ends, segment},
};

/// Ends with its daemon.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) program: ProgramFd,
    /// The maps `flows`, `flow_of`, `globals` and `packets` of that program.
    maps: [u32; 4],
    /// Of the index.
    seed: u64,
    client: Link,
    proxy: Link,
    connection: Option<Client>,
    pub(super) stage: Stage,
}

impl Flow {
    /// `name`: what the daemon's program is called.
    pub(super) fn open(run: &Run, peer: Peer, name: &str) -> Result<Self> {
        let before = programs(name)?;
        let stage = Stage::start(run, peer, Place::Apart)?;
        // Programs of other daemons were there before.
        let own = programs(name)?.difference(&before).max().copied();
        let own = own.with_context(|| format!("the daemon serves by {peer} and has no program {name}"))?;
        let (client, proxy) = (Link::of(stage.client()?, "eth0")?, Link::of(stage.proxy()?, "link1")?);
        let info = info(own)?;
        let ids = info.map_ids()?.context("the kernel does not tell a program's maps")?;
        let map = |name: &str| {
            let is_it = |id: &u32| MapInfo::from_id(*id).is_ok_and(|map| map.name_as_str() == Some(name));
            ids.iter().copied().find(is_it).with_context(|| format!("the program has no map {name}"))
        };
        let maps = [map(names::FLOWS)?, map(names::FLOW_OF)?, map(names::GLOBALS)?, map(names::PACKETS)?];
        let seed = seed(&stage, peer).context("the daemon's record")?;
        Ok(Self { program: info.fd()?, maps, seed, client, proxy, connection: None, stage })
    }

    /// The next segment of a new connection, which has just carried something. The one before ends.
    pub(super) fn connect(&mut self) -> Result<Given> {
        let mut connection = Client::connect(self.stage.client()?, self.stage.address)?;
        connection.ping()?;
        let (from, to) = (v4(connection.tcp()?.local_addr().context("address")?)?, v4(self.stage.address)?);
        self.connection = Some(connection);
        let sequence = self.maps()?.of(from, to)?.1.client.next;
        Ok(self.given(from, to, sequence, 0))
    }

    /// A segment like the first of so many connections' (a power of two), each as its record has it.
    fn given(&self, from: SocketAddrV4, to: SocketAddrV4, sequence: u32, flows: u32) -> Given {
        let packet = segment(&Ends { from_mac: self.client.mac, to_mac: self.proxy.mac, from, to });
        Given { packet, sequence, ifindex: Some(self.proxy.index), flows }
    }

    /// Makes so many connections, as a power of two, each a copy of one that really goes through: there are not ports enough
    /// here to dial as many.
    pub(super) fn spread(&mut self, flows: u32) -> Result<Spread> {
        self.connect()?;
        let client = self.connection.as_ref().context("a connection")?.tcp()?.local_addr().context("address")?;
        let mut maps = self.maps()?;
        let (_, record) = maps.of(v4(client)?, v4(self.stage.address)?)?;
        let mut globals = maps.globals.get(&0, 0)?;
        let [first, ..] = globals.snats;
        let places = MapInfo::from_id(self.maps[0])?.max_entries();
        for number in 1..places.div_ceil(u32::from(first.ports)) {
            // No two own addresses are the same, and nobody has these.
            let addr = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number).to_ipv6_mapped().octets();
            let next = Snat { first: number * u32::from(first.ports), addr, ..first };
            globals.snats[number as usize] = next;
        }
        maps.globals.set(0, globals, 0)?;
        let spread = Spread { places, record, ports: u32::from(first.ports) };
        for which in 0..1 << flows {
            let (place, record) = spread.one(which, 0);
            maps.lead(&record, place)?;
        }
        Ok(spread)
    }

    /// Has just heard of the first of these connections, as a power of two: a segment of theirs.
    pub(super) fn hear_of(&self, spread: &Spread, flows: u32) -> Result<Given> {
        let mut maps = self.maps()?;
        let now = tick()?;
        for which in 0..1 << flows {
            let (place, record) = spread.one(which, now);
            maps.flows.set(place, record, 0)?;
        }
        Ok(self.given(Spread::client(0), v4(self.stage.address)?, spread.record.client.next, flows))
    }

    /// How many packets have gone to the node so far.
    pub(super) fn sent(&self) -> Result<u64> {
        let each = self.maps()?.packets.get(&0, 0)?;
        Ok(each.iter().map(|counters| counters.packets[nat::packet::TO_NODE as usize]).sum())
    }

    fn maps(&self) -> Result<Maps> {
        let [flows, index, globals, packets] = self.maps.map(MapData::from_id);
        Ok(Maps {
            flows: Array::try_from(Map::Array(flows?))?,
            index: Array::try_from(Map::Array(index?))?,
            seed: self.seed,
            globals: Array::try_from(Map::Array(globals?))?,
            packets: PerCpuArray::try_from(Map::PerCpuArray(packets?))?,
        })
    }
}

/// The daemon's maps.
struct Maps {
    flows: Array<MapData, Record>,
    index: Array<MapData, Bucket>,
    seed: u64,
    globals: Array<MapData, Globals>,
    packets: PerCpuArray<MapData, Counters>,
}

impl Maps {
    /// The place of a client's flow, and its record.
    fn of(&self, client: SocketAddrV4, dialled: SocketAddrV4) -> Result<(u32, Record)> {
        let address = |at: SocketAddrV4| halves(at.ip().to_ipv6_mapped().octets());
        let fold = nat::fold(address(dialled), dialled.port().to_be_bytes());
        let hash = Hash::of(self.seed, address(client), client.port().to_be_bytes(), fold);
        for bucket in hash.buckets(self.index.len() - 1) {
            if let Some(entry) = self.index.get(&bucket, 0)?.into_iter().find(|entry| hash.is_in(*entry)) {
                return Ok((place(entry), self.flows.get(&place(entry), 0)?));
            }
        }
        bail!("{client} has no flow")
    }

    /// Puts an entry for this record into the index, as the program does.
    fn lead(&mut self, record: &Record, place: u32) -> Result<()> {
        let hash = Hash::of(self.seed, halves(record.client.addr), record.client.port, record.dialled);
        for bucket in hash.buckets(self.index.len() - 1) {
            let mut entries = self.index.get(&bucket, 0)?;
            if let Some(empty) = entries.iter_mut().find(|entry| **entry == EMPTY) {
                *empty = hash.entry(place);
                return Ok(self.index.set(bucket, entries, 0)?);
            }
        }
        bail!("the index has no room for one more")
    }
}

/// Connections that are there by their records alone.
#[derive(Debug)]
pub(super) struct Spread {
    /// How many there are in all. The first are for real ones.
    places: u32,
    /// Of the one that they are copies of.
    record: Record,
    /// Places of each own address.
    ports: u32,
}

impl Spread {
    /// The client of one of them: as the program `again` counts them.
    fn client(which: u32) -> SocketAddrV4 {
        let address = u32::from(Ipv4Addr::new(10, 77, 0, 0)) + (which >> 14);
        SocketAddrV4::new(address.into(), 20_000 + (which & 0x3fff) as u16)
    }

    fn one(&self, which: u32, seen: u32) -> (u32, Record) {
        let (client, place) = (Self::client(which), self.places - 1 - which);
        let mut record = self.record;
        record.client.addr = client.ip().to_ipv6_mapped().octets();
        record.client.port = client.port().to_be_bytes();
        record.client.seen = seen;
        record.node.seen = seen;
        record.node.through = (place / self.ports) as u16;
        (place, record)
    }
}

/// The programs' clock.
pub(super) fn tick() -> Result<u32> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).context("the clock")?);
    Ok((now.as_nanos() >> TICK_SHIFT) as u32)
}

/// That of the flows' index, as the daemon has pinned it where only its namespace sees it.
fn seed(stage: &Stage, peer: Peer) -> Result<u64> {
    let pin = format!("/sys/fs/bpf/switchmaster-{peer}/nat/{}", names::LIFE);
    let text = stage.proxy()?.run("bpftool", &["-j", "map", "lookup", "pinned", &pin, "key", "0", "0", "0", "0"])?;
    let said: serde_json::Value = serde_json::from_str(&text)?;
    let bytes = said["value"].as_array().with_context(|| text.clone())?.iter();
    let byte = |byte: &serde_json::Value| u8::from_str_radix(byte.as_str()?.trim_start_matches("0x"), 16).ok();
    let bytes: Vec<u8> = bytes.map(byte).collect::<Option<_>>().context(text)?;
    let seed = bytes.get(std::mem::offset_of!(Life, seed)..).and_then(|rest| rest.first_chunk());
    Ok(u64::from_ne_bytes(*seed.context("it is too short")?))
}

/// Numbers of the loaded programs of this name.
fn programs(name: &str) -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for program in loaded_programs() {
        // One that has gone since it was listed is none of ours.
        let Ok(program) = program else { continue };
        if program.name_as_str() == Some(name) {
            found.insert(program.id());
        }
    }
    Ok(found)
}

fn info(id: u32) -> Result<ProgramInfo> {
    let mut all = loaded_programs().flatten();
    all.find(|program| program.id() == id).with_context(|| format!("program {id} has gone"))
}

fn v4(address: SocketAddr) -> Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => bail!("{address} is not IPv4"),
    }
}
