//! Does the bypass keep its promises on this very kernel? It is tried: on loopback, with maps of its own, between sockets of
//! the daemon's, in well under a second. By the way it finds where the kernel has what the programs read, and what number
//! this process has where the kernel counts all.

use std::{
    cell::RefCell,
    fs,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
    programs::links::FdLink,
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};
use proxy_ebpf::{
    bypass::{Counts, MOST_WAITING, Orders, count, names},
    nat::names as nat,
    steering::Dialled,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{Error, hand_over, link, load, remind, take, tell};
use crate::{
    datapath::selftest::{LIMIT, exchange, pattern, text},
    kernel::{self, Types, cgroup2, netns},
    nat::{address::encode, globals::Globals},
};

/// What the self-test has found.
#[derive(Debug, Clone)]
pub struct Tested {
    /// What works, and how long that took.
    pub said: String,
    found: Orders,
}

impl Tested {
    pub(super) fn orders(&self) -> Orders {
        Orders { on: 1, asking: 0, ..self.found }
    }
}

type Case = fn(&Bench) -> Result<(), String>;

/// Runs every case. Needs a cgroup2 hierarchy with this process in it. A fault of the kernel fails each time; what a busy machine
/// may do once is told, and no reason to go without.
pub fn selftest() -> Result<Tested, Error> {
    run_all().or_else(|error| match error {
        Error::Failed { .. } => {
            tracing::warn!(%error, "the self-test of the bypass failed, and is run once more");
            run_all()
        }
        other => Err(other),
    })
}

fn run_all() -> Result<Tested, Error> {
    let mut cases: Vec<(&'static str, Case)> = vec![
        ("pair", pair),
        ("half-close", half_close),
        ("reset", reset),
        ("the same ports again", same_ports_again),
        ("slow reader", slow_reader),
    ];
    let began = Instant::now();
    let bench = Bench::new()?;
    if bench.listener6.is_some() {
        cases.push(("IPv6", over_ipv6));
    }
    for &(case, run) in &cases {
        run(&bench).map_err(|what| Error::Failed { case, what: format!("{what} ({})", bench.outcomes()) })?;
    }
    let found = bench.orders.get(&0, 0)?;
    if found.spared == 0 {
        return Err(Error::Failed { case: "own process", what: "its number stayed unknown".to_owned() });
    }
    let names: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
    Ok(Tested { said: format!("{} in {} ms", names.join(", "), began.elapsed().as_millis()), found })
}

struct Bench {
    listener: TcpListener,
    /// None: the host has no IPv6.
    listener6: Option<TcpListener>,
    orders: Array<MapData, Orders>,
    counts: PerCpuArray<MapData, Counts>,
    _link: FdLink,
    object: RefCell<Ebpf>,
}

/// A connection, by its ends.
struct Ends {
    client: Patient,
    node: Patient,
}

/// A socket whose process waits in poll(2), as those do that can be bypassed.
struct Patient(TcpStream);

impl Patient {
    fn wait<T>(&self, events: PollFlags, mut call: impl FnMut(&TcpStream) -> io::Result<T>) -> io::Result<T> {
        let until = Instant::now() + LIMIT;
        loop {
            match call(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                    poll(&mut [PollFd::new(self.0.as_fd(), events)], PollTimeout::from(100_u8))?;
                }
                done => return done,
            }
        }
    }
}

impl io::Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::POLLIN, |mut stream| stream.read(buffer))
    }
}

impl io::Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(PollFlags::POLLOUT, |mut stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Bench {
    fn new() -> Result<Self, Error> {
        let io = |what: &'static str| move |error: io::Error| Error::Failed { case: what, what: error.to_string() };
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(io("listen"))?;
        let at = listener.local_addr().map_err(io("listen"))?;
        // At the port by which the program knows what this process tries.
        let listener6 = TcpListener::bind(("::1", at.port())).ok();
        let mut object = kernel::load_bypass_alone()?;
        load(&mut object)?;
        let alive = match object.map(nat::GLOBALS) {
            Some(Map::Array(globals)) => Globals::open(globals)?,
            _ => return Err(Error::Missing(nat::GLOBALS)),
        };
        alive.clock.beat.store(u64::MAX / 2, Ordering::Relaxed);
        tell(&mut object, orders(at)?)?;
        name(&mut object, at)?;
        if let Some(listener) = &listener6 {
            name(&mut object, listener.local_addr().map_err(io("listen"))?)?;
        }
        hand_over(&mut object)?;
        let counts = PerCpuArray::try_from(take(&mut object, names::COUNTS)?)?;
        let orders = Array::try_from(take(&mut object, names::ORDERS)?)?;
        let cgroup = own_cgroup().ok_or_else(|| Error::Failed {
            case: "cgroup",
            what: "cgroup2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup".to_owned(),
        })?;
        let link = link(&mut object, &cgroup)?;
        Ok(Self { listener, listener6, orders, counts, _link: link, object: RefCell::new(object) })
    }

    fn connect(&self) -> Result<Ends, String> {
        join(&self.listener, None)
    }

    /// What the programs say of it, for whoever has to find out why.
    fn outcomes(&self) -> String {
        let counts = (0..).zip(count::NAMES).map(|(what, name)| (name, self.count(what).unwrap_or_default()));
        let said: Vec<_> =
            counts.filter(|(_, count)| *count != 0).map(|(name, count)| format!("{name}: {count}")).collect();
        said.join(", ")
    }

    fn has_bypassed_two_since(&self, before: u64) -> Result<(), String> {
        match self.count(count::MESSAGES)? - before {
            2 => Ok(()),
            messages => Err(format!("{messages} of 2 messages were bypassed")),
        }
    }

    fn count(&self, what: u32) -> Result<u64, String> {
        let each = self.counts.get(&0, 0).map_err(text)?;
        Ok(each.iter().map(|counts| counts.0[what as usize]).sum())
    }
}

/// From this address, or from any.
fn join(listener: &TcpListener, from: Option<SocketAddr>) -> Result<Ends, String> {
    let to = listener.local_addr().map_err(text)?;
    let client = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).map_err(text)?;
    client.set_nonblocking(true).map_err(text)?;
    if let Some(from) = from {
        client.bind(&from.into()).map_err(text)?;
    }
    match client.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(text(error)),
        _ => {}
    }
    let (client, (node, _)) = (TcpStream::from(client), listener.accept().map_err(text)?);
    node.set_nonblocking(true).map_err(text)?;
    for end in [&client, &node] {
        end.set_nodelay(true).map_err(text)?;
    }
    Ok(Ends { client: Patient(client), node: Patient(node) })
}

/// With the places of the kernel's own fields.
fn orders(at: SocketAddr) -> Result<Orders, Error> {
    let types = Types::of_kernel()?;
    Ok(Orders {
        on: 1,
        spared: 0,
        asking: at.port().into(),
        rmem_alloc: types.offset("sock", &["sk_backlog", "rmem_alloc"])?,
        rcvlowat: types.offset("sock", &["sk_rcvlowat"])?,
        write_seq: types.offset("tcp_sock", &["write_seq"])?,
        prot: types.offset("sock", &["__sk_common", "skc_prot"])?,
        socket: types.offset("sock", &["sk_socket"])?,
        ulp_ops: types.offset("inet_connection_sock", &["icsk_ulp_ops"])?,
        memory_allocated: types.offset("proto", &["memory_allocated"])?,
        sysctl_mem: types.offset("proto", &["sysctl_mem"])?,
        file: types.offset("socket", &["file"])?,
        f_flags: types.offset("file", &["f_flags"])?,
        group_leader: types.offset("task_struct", &["group_leader"])?,
        comm: types.offset("task_struct", &["comm"])?,
        _pad: 0,
    })
}

fn name(object: &mut Ebpf, at: SocketAddr) -> Result<(), Error> {
    let map = object.map_mut(names::NODES).ok_or(Error::Missing(names::NODES))?;
    let mut nodes: HashMap<_, Dialled, u32> = map.try_into()?;
    let netns = netns::cookie().map_err(Error::Namespace)?;
    let node = Dialled { netns, addr: encode(at.ip()), port: at.port().to_be_bytes(), _pad: [0; 6] };
    Ok(nodes.insert(node, 1, 0)?)
}

/// The one that this process is in, or the root of all.
fn own_cgroup() -> Option<PathBuf> {
    let root = cgroup2()?;
    let list = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = list.lines().find_map(|line| line.strip_prefix("0::/")).map(|path| root.join(path));
    Some(own.filter(|path| path.is_dir()).unwrap_or(root))
}

fn pair(bench: &Bench) -> Result<(), String> {
    let mut ends = bench.connect()?;
    for round in 0..100_u32 {
        exchange(&mut ends.client, &mut ends.node, &round.to_be_bytes())?;
        exchange(&mut ends.node, &mut ends.client, &round.to_le_bytes())?;
    }
    match (bench.count(count::CHOSEN)?, bench.count(count::MESSAGES)?) {
        (2, 200) => Ok(()),
        (chosen, messages) => Err(format!("{chosen} of 2 directions were bypassed, and {messages} of 200 messages")),
    }
}

fn half_close(bench: &Bench) -> Result<(), String> {
    let mut ends = bench.connect()?;
    let sent = pattern(100_000);
    ends.client.write_all(&sent).and_then(|()| ends.client.0.shutdown(Shutdown::Write)).map_err(text)?;
    let mut received = Vec::new();
    ends.node.read_to_end(&mut received).map_err(|error| format!("after {} bytes: {error}", received.len()))?;
    if received != sent {
        return Err(format!("{} bytes of {} arrived intact before the end", received.len(), sent.len()));
    }
    exchange(&mut ends.node, &mut ends.client, b"late reply")?;
    drop(ends.node);
    match ends.client.read(&mut [0]) {
        Ok(0) => Ok(()),
        other => Err(format!("instead of the end: {other:?}")),
    }
}

/// Ends it by RST.
fn abort(end: Patient) -> Result<(), String> {
    SockRef::from(&end.0).set_linger(Some(Duration::ZERO)).map_err(text)?;
    drop(end);
    Ok(())
}

fn ensure_reset(end: &mut Patient) -> Result<(), String> {
    match end.read(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        other => Err(format!("instead of a reset: {other:?}")),
    }
}

fn reset(bench: &Bench) -> Result<(), String> {
    let mut ends = bench.connect()?;
    exchange(&mut ends.client, &mut ends.node, b"request")?;
    abort(ends.node)?;
    ensure_reset(&mut ends.client)
}

/// Of what a connection has not read the next one at its ports gets nothing.
fn same_ports_again(bench: &Bench) -> Result<(), String> {
    // One that nobody else has, not even in TIME_WAIT: a connect(2) may be given such a one, and then it cannot be bound again.
    let mut first = join(&bench.listener, Some(([127, 0, 0, 1], 0).into()))?;
    let from = first.client.0.local_addr().map_err(text)?;
    exchange(&mut first.client, &mut first.node, b"request")?;
    first.node.write_all(b"of the first").map_err(text)?;
    abort(first.client)?;
    ensure_reset(&mut first.node)?;
    let before = bench.count(count::MESSAGES)?;
    let mut second = join(&bench.listener, Some(from))?;
    exchange(&mut second.client, &mut second.node, b"request")?;
    exchange(&mut second.node, &mut second.client, b"of the second")?;
    bench.has_bypassed_two_since(before)
}

fn over_ipv6(bench: &Bench) -> Result<(), String> {
    let Some(listener) = &bench.listener6 else { return Ok(()) };
    let before = bench.count(count::MESSAGES)?;
    let mut ends = join(listener, None)?;
    exchange(&mut ends.client, &mut ends.node, b"request")?;
    exchange(&mut ends.node, &mut ends.client, b"reply")?;
    bench.has_bypassed_two_since(before)
}

/// Who does not read stops its sender, as by TCP, and gets all of it when it reads.
fn slow_reader(bench: &Bench) -> Result<(), String> {
    let mut ends = bench.connect()?;
    exchange(&mut ends.client, &mut ends.node, b"request")?;
    let before = bench.count(count::BYTES)?;
    let chunk = pattern(64 << 10);
    let (mut sent, mut moved_at) = (0, Instant::now());
    while moved_at.elapsed() < STALL {
        match ends.node.0.write(&chunk[sent % chunk.len()..]) {
            Ok(n) => (sent, moved_at) = (sent + n, Instant::now()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            Err(error) => return Err(text(error)),
        }
        if sent > MOST_IN_FLIGHT {
            return Err(format!(
                "{sent} bytes went towards a reader that does not read, and the sender was not stopped"
            ));
        }
    }
    let bypassed = bench.count(count::BYTES)? - before;
    if !(MOST_WAITING / 4..=MOST_WAITING).contains(&bypassed) || bench.count(count::BEHIND)? != 1 {
        return Err(format!("{bypassed} bytes of {sent} were bypassed; its queue is not seen"));
    }
    is_reminded(bench, &ends.client.0)?;
    ends.node.0.shutdown(Shutdown::Write).map_err(text)?;
    let mut received = Vec::new();
    let read = ends.client.read_to_end(&mut received);
    read.map_err(|error| format!("after {} bytes of {sent}: {error}", received.len()))?;
    let intact = received.len() == sent && received.chunks(chunk.len()).all(|part| *part == chunk[..part.len()]);
    if intact { Ok(()) } else { Err(format!("{} bytes of {sent} arrived intact", received.len())) }
}

/// Who waits for an edge of epoll's gets one more, each time. TCP may send again what it had to drop, which is an edge as well:
/// then once more.
fn is_reminded(bench: &Bench, reader: &TcpStream) -> Result<(), String> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(text)?;
    epoll.add(reader, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)).map_err(text)?;
    let edges = || epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO).map_err(text);
    for _ in 0..REMINDERS {
        let until = Instant::now() + LIMIT;
        while edges()? != 0 {
            if Instant::now() > until {
                return Err("edges come without end".to_owned());
            }
        }
        remind(&mut bench.object.borrow_mut()).map_err(text)?;
        if edges()? == 0 {
            return Err("a reader that is behind is not told once more of what waits".to_owned());
        }
    }
    Ok(())
}

/// More than can come by chance.
const REMINDERS: u32 = 3;
const MOST_IN_FLIGHT: usize = 64 << 20;
const STALL: Duration = Duration::from_millis(100);
