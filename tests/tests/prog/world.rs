//! A program with its maps filled as the daemon would fill them: one route to one node, in either family.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, ArrayOfMaps, HashMap, LpmTrie, MapData, PerCpuArray, Queue, RingBuf, lpm_trie::Key},
    programs::{Program, SchedClassifier, TestRun as _, TestRunOptions},
};
use bytemuck::Zeroable as _;
use ebpf_build::build;
use nix::time::{ClockId, clock_getres, clock_gettime};
use proxy_ebpf::{
    Target, TargetKey,
    balance::of_slot,
    index,
    names::TARGETS,
    nat::{
        ALLOWED_ROUTE_BITS, Address, Allowed, Clock, Counters, Door, Egress, Endpoint, Flow, Globals, MOST_SNATS, Snat,
        family, flow, gate, names, packet,
    },
    parking::{self, Parked},
    state,
};

use crate::{
    front::{Front, Ground},
    wire::Segment,
};

pub(crate) const UNSPEC: u32 = u32::MAX;
pub(crate) const SHOT: u32 = 2;
pub(crate) const REDIRECT: u32 = 7;
/// Where the places of its source ports begin.
pub(crate) const FIRST_PLACE: u32 = 100;
pub(crate) const FIRST_PORT: u16 = 20_000;
const GENERATION: u64 = 7;
/// Any that exists where the tests run; nothing is sent there.
pub(crate) const LOOPBACK: u32 = 1;
const PLACES: u32 = 16_384;
pub(crate) const SEED: u64 = 7;
pub(crate) const INDEX_MASK: u32 = index::buckets(PLACES) - 1;

/// The addresses of a test, in one family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) client: SocketAddr,
    pub(crate) door: SocketAddr,
    pub(crate) snat: IpAddr,
    pub(crate) node: SocketAddr,
}

pub(crate) fn v4() -> Addresses {
    Addresses {
        client: ([192, 0, 2, 10], 40_001).into(),
        door: ([198, 51, 100, 1], 6379).into(),
        snat: [203, 0, 113, 9].into(),
        node: ([203, 0, 113, 2], 6380).into(),
    }
}

pub(crate) fn v6() -> Addresses {
    let ip = |last| IpAddr::from([0x2001, 0xdb8, 0, last, 0, 0, 0, last]);
    Addresses { client: (ip(0x10), 40_001).into(), door: (ip(1), 6379).into(), snat: ip(9), node: (ip(2), 6380).into() }
}

pub(crate) struct World {
    object: Ebpf,
    ring: RingBuf<MapData>,
    pub(crate) front: Option<Front>,
    pub(crate) at: Addresses,
    seen: Vec<u64>,
}

/// What became of a packet.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: u32,
    pub(crate) packet: Vec<u8>,
    pub(crate) mark: u32,
    /// By how much each counter rose, by name.
    pub(crate) counted: BTreeMap<&'static str, u64>,
    /// What XDP said of it, where there is one.
    pub(crate) fate: Option<&'static str>,
}

impl Outcome {
    pub(crate) fn counted(&self, expected: &[u32]) -> Result<()> {
        let expected: BTreeMap<&str, u64> = expected.iter().map(|&index| (packet::NAMES[index as usize], 1)).collect();
        ensure!(self.counted == expected, "counted {:?}, not {expected:?}", self.counted);
        Ok(())
    }
}

pub(crate) fn object(name: &str) -> Result<Vec<u8>> {
    static BUILT: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        build(&workspace, &workspace.join("target/bpf")).map_err(|error| format!("{error:#}"))
    });
    let folder = BUILT.as_ref().map_err(|error| anyhow!(error.clone()))?;
    fs::read(folder.join(name)).context(name.to_owned())
}

pub(crate) fn egress(ifindex: u32, numbers: &[u8]) -> Egress {
    let mut snats = [0; MOST_SNATS];
    snats[..numbers.len()].copy_from_slice(numbers);
    Egress { ifindex, count: numbers.len() as u32, snats }
}

pub(crate) fn mapped(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// In ticks: more than a stretch of them.
const SINCE_LONG: u32 = 40;

impl World {
    /// Open, with `ports` source ports.
    pub(crate) fn open(at: Addresses, ports: u16) -> Result<Self> {
        let ground = crate::FRONT.then(Ground::shared).transpose()?;
        Self::open_on(ground, at, ports)
    }

    pub(crate) fn open_on(ground: Option<Arc<Ground>>, at: Addresses, ports: u16) -> Result<Self> {
        Self::build(ground, at, ports, index::buckets(PLACES))
    }

    /// With so many buckets in the index of flows.
    pub(crate) fn with_buckets(at: Addresses, ports: u16, buckets: u32) -> Result<Self> {
        Self::build(None, at, ports, buckets)
    }

    fn build(ground: Option<Arc<Ground>>, at: Addresses, ports: u16, buckets: u32) -> Result<Self> {
        let mask = buckets - 1;
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(names::FLOWS, PLACES).map_max_entries(names::FLOW_OF, buckets);
        loader.override_global(index::names::MASK, &mask, true).override_global(index::names::SEED, &SEED, true);
        loader.map_max_entries(names::TAKEN, PLACES.div_ceil(u64::BITS));
        let mut object = loader.load(&object("tc")?).context("load")?;
        let program: &mut SchedClassifier = object.program_mut(names::TC).context("the program")?.try_into()?;
        program.load()?;
        let front = ground.map(|ground| Front::open(ground, &object)).transpose()?;
        let ring = RingBuf::try_from(object.take_map(parking::names::PARKED).context("no ring")?)?;
        let mut world = Self { object, ring, front, at, seen: vec![0; packet::COUNT as usize] };
        world.furnish(ports)?;
        world.lead(state::OPEN, GENERATION, GENERATION)?;
        Ok(world)
    }

    fn furnish(&mut self, ports: u16) -> Result<()> {
        let at = self.at;
        self.limit(1_000_000)?;
        self.allow(ALLOWED_ROUTE_BITS, [0; 16], family::ALL)?;
        self.own(5, at.snat, FIRST_PLACE, ports)?;
        self.seen_as(&[5])?;
        self.beat(u64::MAX / 2)
    }

    /// An address of this host, with so many source ports.
    pub(crate) fn own(&mut self, number: u32, ip: IpAddr, first: u32, ports: u16) -> Result<()> {
        self.hash::<Address, u32>(names::SNAT_OF)?.insert(mapped(ip), number, 0)?;
        let snat = Snat { addr: mapped(ip), first, first_port: FIRST_PORT, ports };
        self.globals(|globals| {
            globals.snats[number as usize] = snat;
            // The daemon counts from 0, and all have the same ports: those of the first are looked at for any.
            let most = globals.snats[0].ports.max(ports);
            globals.snats[0] = Snat { addr: [0; 16], ports: most, ..snat };
        })?;
        let mut free = Queue::<_, u32>::create(u32::from(ports), 0)?;
        for place in 0..u32::from(ports) {
            free.push(first + place, 0)?;
        }
        let map = self.object.map_mut(names::FREE).context("no free")?;
        Ok(ArrayOfMaps::<_, Queue<MapData, u32>>::try_from(map)?.set(number, &free, 0)?)
    }

    /// The node sees us from these addresses, by their numbers.
    pub(crate) fn seen_as(&mut self, numbers: &[u8]) -> Result<()> {
        let egress = egress(self.ifindex(), numbers);
        Ok(self.hash(names::EGRESS)?.insert(TargetKey { route: 0, slot: 0 }, egress, 0)?)
    }

    fn ifindex(&self) -> u32 {
        self.front.as_ref().map_or(LOOPBACK, Front::ifindex)
    }

    /// Sets when the daemon was last alive.
    pub(crate) fn beat(&mut self, beat: u64) -> Result<()> {
        let jiffy = Duration::from(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?).as_nanos() as u64;
        self.globals(|globals| globals.clock = Clock { beat, grace: 5_000_000_000, jiffy, ..Clock::zeroed() })
    }

    /// Changes what the daemon says to all packets.
    pub(crate) fn globals(&mut self, change: impl FnOnce(&mut Globals)) -> Result<()> {
        let mut map = self.array::<Globals>(names::GLOBALS)?;
        let mut globals = map.get(&0, 0)?;
        change(&mut globals);
        Ok(map.set(0, globals, 0)?)
    }

    pub(crate) fn limit(&mut self, max_connections: u32) -> Result<()> {
        self.door(3, self.at.door, max_connections)
    }

    /// An address that clients dial, by its number.
    pub(crate) fn door(&mut self, number: u32, at: SocketAddr, max_connections: u32) -> Result<()> {
        let (addr, port) = (mapped(at.ip()), at.port().to_be_bytes());
        self.hash::<Endpoint, u32>(names::DOOR_OF)?.insert(Endpoint { addr, port, _pad: [0; 2] }, number, 0)?;
        let door = Door { addr, port, route: 0, max_connections, open: 1, by_xdp: 1 };
        self.globals(|globals| globals.doors[number as usize] = door)
    }

    /// Whether flows are XDP's.
    pub(crate) fn by_xdp(&mut self, by_xdp: bool) -> Result<()> {
        self.globals(|globals| globals.doors.iter_mut().for_each(|door| door.by_xdp = by_xdp.into()))
    }

    /// As the daemon does where nobody listens any more.
    pub(crate) fn shut_door(&mut self, number: u32, at: SocketAddr) -> Result<()> {
        let end = Endpoint { addr: mapped(at.ip()), port: at.port().to_be_bytes(), _pad: [0; 2] };
        self.hash::<Endpoint, u32>(names::DOOR_OF)?.remove(&end)?;
        self.globals(|globals| globals.doors[number as usize].open = 0)
    }

    fn allowed(&mut self) -> Result<LpmTrie<&mut MapData, Allowed, u32>> {
        Ok(LpmTrie::try_from(self.object.map_mut(names::ALLOW).context("no allow")?)?)
    }

    pub(crate) fn allow(&mut self, bits: u32, addr: Address, families: u32) -> Result<()> {
        Ok(self.allowed()?.insert(&Key::new(bits, Allowed { route: [0; 4], addr }), families, 0)?)
    }

    pub(crate) fn allow_nobody(&mut self) -> Result<()> {
        let everyone = Key::new(ALLOWED_ROUTE_BITS, Allowed { route: [0; 4], addr: [0; 16] });
        Ok(self.allowed()?.remove(&everyone)?)
    }

    /// Writes the target as the switch does.
    pub(crate) fn lead(&mut self, state: u32, live: u64, generation: u64) -> Result<()> {
        let node = self.at.node;
        self.lead_to(node, state, live, generation)
    }

    pub(crate) fn lead_to(&mut self, node: SocketAddr, state: u32, live: u64, generation: u64) -> Result<()> {
        self.lead_slot(0, node, (state, live, generation))
    }

    pub(crate) fn lead_slot(
        &mut self,
        slot: u32,
        node: SocketAddr,
        (state, live, generation): (u32, u64, u64),
    ) -> Result<()> {
        let (family, addr) = match node.ip() {
            IpAddr::V4(ip) => {
                let mut addr = [0; 16];
                addr[..4].copy_from_slice(&ip.octets());
                (2, addr)
            }
            IpAddr::V6(ip) => (10, ip.octets()),
        };
        let target = Target { live, generation, epoch: 1, state, family, port: node.port().to_be_bytes(), addr };
        self.array(names::GATES)?.set(of_slot(0, slot), gate::word(&target), 0)?;
        Ok(self.hash(TARGETS)?.insert(TargetKey { route: 0, slot }, target, 0)?)
    }

    pub(crate) fn program(&self, name: &str) -> Result<&Program> {
        self.object.program(name).with_context(|| format!("no program {name}"))
    }

    /// All flows, with their places.
    pub(crate) fn flows(&mut self) -> Result<Vec<(u32, Flow)>> {
        let flows = self.array::<Flow>(names::FLOWS)?;
        let all = (0..flows.len()).map(|place| Ok((place, flows.get(&place, 0)?)));
        let lives = |(_, flow): &(u32, Flow)| flow.state & flow::MASK != flow::FREE;
        Ok(all.collect::<Result<Vec<_>>>()?.into_iter().filter(lives).collect())
    }

    pub(crate) fn object(&mut self) -> &mut Ebpf {
        &mut self.object
    }

    pub(crate) fn hash<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> Result<HashMap<&mut MapData, K, V>> {
        Ok(HashMap::try_from(self.object.map_mut(name).with_context(|| format!("no {name}"))?)?)
    }

    pub(crate) fn array<V: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        Ok(Array::try_from(self.object.map_mut(name).with_context(|| format!("no {name}"))?)?)
    }

    /// The flow with that source port.
    pub(crate) fn flow(&mut self, port: u16) -> Result<Flow> {
        Ok(self.array(names::FLOWS)?.get(&(FIRST_PLACE + u32::from(port - FIRST_PORT)), 0)?)
    }

    /// Whether the daemon would look at it.
    pub(crate) fn is_taken(&mut self, port: u16) -> Result<bool> {
        let place = FIRST_PLACE + u32::from(port - FIRST_PORT);
        let word: u64 = self.array(names::TAKEN)?.get(&(place / u64::BITS), 0)?;
        Ok(word >> (place % u64::BITS) & 1 == 1)
    }

    /// As if the sender of the flow's last packets had been silent since long.
    pub(crate) fn silence(&mut self, port: u16) -> Result<()> {
        self.silence_of(port, SINCE_LONG)
    }

    /// In ticks.
    pub(crate) fn silence_of(&mut self, port: u16, ticks: u32) -> Result<()> {
        let mut flow = self.flow(port)?;
        flow.client.seen = flow.client.seen.wrapping_sub(ticks);
        flow.node.seen = flow.node.seen.wrapping_sub(ticks);
        Ok(self.array(names::FLOWS)?.set(FIRST_PLACE + u32::from(port - FIRST_PORT), flow, 0)?)
    }

    pub(crate) fn usage(&mut self) -> Result<u64> {
        Ok(self.array(names::USAGE)?.get(&0, 0)?)
    }

    pub(crate) fn send(&mut self, segment: &Segment) -> Result<Outcome> {
        let Segment { from, to, seq, payload, .. } = segment;
        self.run(&segment.bytes()).with_context(|| format!("{from} to {to}, seq {seq}, {} bytes", payload.len()))
    }

    /// Sends it and wants it translated into `expected`.
    pub(crate) fn through(&mut self, segment: &Segment, expected: &Segment) -> Result<Outcome> {
        let outcome = self.send(segment)?;
        ensure!(outcome.verdict == REDIRECT, "verdict {}, counted {:?}", outcome.verdict, outcome.counted);
        let out = Segment::read(&outcome.packet)?;
        ensure!(out == *expected, "{out:?} came out, not {expected:?}");
        Ok(outcome)
    }

    /// Through XDP if there is one, and through tc unless that has sent it.
    pub(crate) fn run(&mut self, packet: &[u8]) -> Result<Outcome> {
        self.run_marked(packet, 0)
    }

    /// With a mark beside the packet.
    pub(crate) fn run_marked(&mut self, packet: &[u8], mark: u32) -> Result<Outcome> {
        let fate = match &mut self.front {
            Some(front) => {
                let (fate, sent) = front.run(packet)?;
                if let Some(packet) = sent {
                    let counted = self.counted()?;
                    return Ok(Outcome { verdict: REDIRECT, packet, mark, counted, fate: Some(fate) });
                }
                Some(fate)
            }
            None => None,
        };
        Ok(Outcome { fate, ..self.run_tc(packet, mark)? })
    }

    fn run_tc(&mut self, packet: &[u8], mark: u32) -> Result<Outcome> {
        let mut out = vec![0; packet.len() + 256];
        // The beginning of `struct __sk_buff`: length, type of packet, mark; further on where it came in.
        let ifindex = self.front.as_ref().map_or(0, Front::ifindex);
        let (context, mut context_out) = ([0, 0, mark, 0, 0, 0, 0, 0, 0, 0, ifindex], [0_u32; 48]);
        let program: &mut SchedClassifier = self.object.program_mut(names::TC).context("the program")?.try_into()?;
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(bytemuck::cast_slice(&context)),
            ctx_out: Some(bytemuck::cast_slice_mut(&mut context_out)),
            ..TestRunOptions::default()
        };
        let run = || program.test_run(options).context("test run");
        let result = match &self.front {
            Some(front) => front.inside(run)?,
            None => run(),
        }?;
        out.truncate(result.data_size_out as usize);
        let counted = self.counted()?;
        Ok(Outcome { verdict: result.return_value, packet: out, mark: context_out[2], counted, fate: None })
    }

    /// What the program has taken aside, one by one.
    pub(crate) fn parked(&mut self) -> Result<Option<Parked>> {
        let Some(item) = self.ring.next() else { return Ok(None) };
        let record = bytemuck::try_pod_read_unaligned(&item).map_err(|error| anyhow!("a record: {error}"))?;
        Ok(Some(record))
    }

    /// Says whose turn it is, as the daemon does.
    pub(crate) fn turn(&mut self, turn: u64) -> Result<()> {
        Ok(self.array(parking::names::SYN_TURNS)?.set(0, turn, 0)?)
    }

    /// The daemon was last alive so long ago, in ns.
    pub(crate) fn silent_for(&mut self, silence: u64) -> Result<()> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        self.beat(Duration::from(now).as_nanos() as u64 - silence)
    }

    /// By how much each counter rose since it was asked last.
    pub(crate) fn counted(&mut self) -> Result<BTreeMap<&'static str, u64>> {
        let map = self.object.map(names::PACKETS).context("no counters")?;
        let each = PerCpuArray::<_, Counters>::try_from(map)?.get(&0, 0)?;
        let mut rose = BTreeMap::new();
        for (index, name) in packet::NAMES.iter().enumerate() {
            let now: u64 = each.iter().map(|counters| counters.packets[index]).sum();
            if now != self.seen[index] {
                rose.insert(*name, now - self.seen[index]);
                self.seen[index] = now;
            }
        }
        Ok(rose)
    }

    /// A finished handshake from `client`; returns the source port towards the node.
    pub(crate) fn connect(&mut self, client: SocketAddr) -> Result<u16> {
        let (port, ack) = self.half_open(client)?;
        let ack = self.send(&ack)?;
        ensure!(ack.verdict == REDIRECT, "not established: {:?}", ack.counted);
        Ok(port)
    }

    /// A handshake from `client` but for its last segment: the source port towards the node, and that segment.
    pub(crate) fn half_open(&mut self, client: SocketAddr) -> Result<(u16, Segment)> {
        let at = self.at;
        let syn = self.send(&Segment::syn(client, at.door))?;
        ensure!(syn.verdict == REDIRECT, "no flow: {:?}", syn.counted);
        let port = Segment::read(&syn.packet)?.from.port();
        let known = SocketAddr::new(at.snat, port);
        self.send(&Segment::syn(at.node, known).seq(5000).ack(1001))?;
        Ok((port, Segment::new(client, at.door).seq(1001).ack(5001)))
    }
}
