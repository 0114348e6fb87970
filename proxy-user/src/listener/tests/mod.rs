//! The listener against fake nodes and a datapath that only records, all on loopback.

mod connecting;
mod door;
mod limits;
mod parking;
mod switching;
mod syns;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use proxy_ebpf::TargetKey;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Counts, Listener, Snapshot};
use crate::{
    config::{Balance, DatapathChoice, Fallback, Lag, Park, Route, TargetRole},
    datapath::{Connection, Datapath, Sever, Traffic},
    target::{self, Slot, Slots},
};

/// Far more than any step needs, so that it only ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(10);

/// Keeps what it was given, with the time. The second is the slots that clients are drawn to, dearest first.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<(Instant, Connection)>>, Mutex<Vec<TargetKey>>);

impl Datapath for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    fn adopt(&self, connection: Connection) {
        self.0.lock().unwrap().push((Instant::now(), connection));
    }

    fn sever(&self, _: &Sever) {}
    fn resume(&self, _: TargetKey) {}

    fn drawn_to(&self, _: IpAddr, usable: &dyn Fn(TargetKey) -> bool) -> Option<TargetKey> {
        self.1.lock().unwrap().iter().copied().find(|key| usable(*key))
    }
}

/// A running listener, and both sides of it.
struct Rig {
    address: SocketAddr,
    addresses: Vec<SocketAddr>,
    slots: watch::Sender<Slots>,
    recorder: Arc<Recorder>,
    counts: Arc<Counts>,
    stop: CancellationToken,
    run: JoinHandle<std::io::Result<()>>,
}

fn route() -> Route {
    Route {
        name: "test".into(),
        listen: vec![([127, 0, 0, 1], 0).into()],
        group: 0,
        target: TargetRole::Master,
        datapath: DatapathChoice::Copy,
        balance: Balance::RoundRobin,
        max_lag: Lag::Bytes(0),
        fallback: Fallback::None,
        allow: None,
        max_connections: 30_000,
        connect_timeout: Duration::from_secs(4),
        idle_timeout: Duration::ZERO,
        park: Park::default(),
        reconnect_rate: 0,
        snat: Vec::new(),
    }
}

impl Rig {
    fn start(route: &Route) -> Self {
        let recorder = Arc::<Recorder>::default();
        let datapath: Arc<dyn Datapath> = recorder.clone();
        Self::over(route, datapath, recorder)
    }

    fn over(route: &Route, datapath: Arc<dyn Datapath>, recorder: Arc<Recorder>) -> Self {
        let listener = Listener::bind(route).unwrap();
        let addresses = listener.addresses();
        let (slots, seen) = target::channel();
        let (counts, stop) = (Arc::<Counts>::default(), CancellationToken::new());
        let run = listener.run(seen, datapath, Arc::clone(&counts), Arc::<Traffic>::default(), stop.clone());
        Self { address: addresses[0], addresses, slots, recorder, counts, stop, run: tokio::spawn(run) }
    }

    fn lead_to(&self, slots: &[Slot]) {
        self.slots.send_replace(slots.into());
    }

    fn client(&self) -> StdStream {
        let client = StdStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    fn adopted(&self) -> usize {
        self.recorder.0.lock().unwrap().len()
    }

    /// The connections handed over so far.
    async fn take(&self, n: usize) -> Vec<(Instant, Connection)> {
        self.until(|_| self.adopted() >= n).await;
        std::mem::take(&mut *self.recorder.0.lock().unwrap())
    }

    async fn until(&self, met: impl Fn(&Snapshot) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !met(&self.counts.snapshot()) {
            assert!(Instant::now() < end, "waited in vain: {:?}, adopted {}", self.counts.snapshot(), self.adopted());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn parked(&self, n: u64) {
        self.until(|seen| seen.parked_now == n).await;
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A slot at `addr` whose gate is open.
fn slot(addr: SocketAddr, generation: u64) -> Slot {
    let slot =
        Slot { key: TargetKey { route: 0, slot: 0 }, addr, generation, gate: Arc::default(), load: Arc::default() };
    slot.gate.open(generation);
    slot
}

/// A node: the kernel completes its handshakes.
fn node() -> (StdListener, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(4096).unwrap();
    let node = StdListener::from(socket);
    let address = node.local_addr().unwrap();
    (node, address)
}

/// An address that refuses connections as long as the socket lives: bound, but not listening.
fn dead_node() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// A node that answers no SYN: its queue of one is full.
fn silent_node() -> (Vec<socket2::Socket>, SocketAddr) {
    let (socket, address) = dead_node();
    socket.listen(0).unwrap();
    let fill = |_| {
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        client.connect(&address.into()).ok();
        client
    };
    let kept = std::iter::once(()).chain([()]).map(fill).collect::<Vec<_>>();
    (std::iter::once(socket).chain(kept).collect(), address)
}

/// All that the client hears until the end; an RST shows as the marker.
fn hear(mut client: &StdStream) -> String {
    let mut heard = Vec::new();
    let end = client.read_to_end(&mut heard);
    let marker = if end.is_err() { "<reset>" } else { "" };
    format!("{}{marker}", String::from_utf8_lossy(&heard))
}

/// Reads without keeping the runtime's worker from its work.
async fn hear_of(client: StdStream) -> String {
    tokio::task::spawn_blocking(move || hear(&client)).await.unwrap()
}

fn read_all_there_is(stream: &StdStream, n: usize) -> Vec<u8> {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = vec![0; n];
    let mut stream = stream;
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn say(mut client: &StdStream, words: &[u8]) {
    client.write_all(words).unwrap();
}

fn reset(client: StdStream) {
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
}
