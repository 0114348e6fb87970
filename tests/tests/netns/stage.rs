//! What every test of the suite stands on: a world, a fake node that is the master, and the real
//! daemon in front. Tests that measure have the machine to themselves; the others run side by side.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use switchmaster_tests::{
    Daemon, FakeNode, LocalWay, Patient, World,
    daemon::{Config, Group, Route},
    netns::Namespace,
    node::STACK,
    wait,
};

pub(crate) const PORT: u16 = 6379;
pub(crate) const NODE_PORT: u16 = 7000;
pub(crate) const GROUP: &str = "fake";

static MACHINE: RwLock<()> = RwLock::new(());

/// How much of the machine a test needs.
#[expect(dead_code, reason = "held, never read")]
enum Share {
    Part(RwLockReadGuard<'static, ()>),
    All(RwLockWriteGuard<'static, ()>),
    /// What its test holds of `machine`.
    Callers,
}

impl Share {
    fn part() -> Self {
        Self::Part(MACHINE.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn all() -> Self {
        Self::All(machine())
    }
}

/// The machine without any other test of this suite, for as long as this is held.
pub(crate) fn machine() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Stage {
    pub(crate) daemon: Daemon,
    pub(crate) node: FakeNode,
    /// Where clients are.
    client: Namespace,
    pub(crate) world: World,
    _share: Share,
}

impl Stage {
    pub(crate) fn new(
        datapath: &str,
        handler: impl Fn(TcpStream) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::with(datapath, handler, |route| route)
    }

    /// `adjust` changes the route's configuration.
    pub(crate) fn with(
        datapath: &str,
        handler: impl Fn(TcpStream) -> Result<()> + Send + Sync + 'static,
        adjust: impl FnOnce(Route) -> Route,
    ) -> Result<Self> {
        Self::build(Share::part(), World::new()?, false, datapath, handler, adjust)
    }

    /// In a world of another shape, and with a node that is known by its IPv6 address if it is to be.
    pub(crate) fn over(
        world: World,
        ipv6: bool,
        datapath: &str,
        handler: impl Fn(TcpStream) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::build(Share::part(), world, ipv6, datapath, handler, |route| route)
    }

    /// With no other test of this suite running.
    pub(crate) fn alone(
        datapath: &str,
        handler: impl Fn(TcpStream) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::build(Share::all(), World::new()?, false, datapath, handler, |route| route)
    }

    /// By a test that holds `machine` for a part of its time only.
    pub(crate) fn unshared(
        datapath: &str,
        handler: impl Fn(TcpStream) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::build(Share::Callers, World::new()?, false, datapath, handler, |route| route)
    }

    fn build(
        share: Share,
        world: World,
        ipv6: bool,
        datapath: &str,
        handler: impl Fn(TcpStream) -> Result<()> + Send + Sync + 'static,
        adjust: impl FnOnce(Route) -> Route,
    ) -> Result<Self> {
        raise_open_files()?;
        if datapath == "xdp" {
            world.whole_packets()?;
        }
        let way = LocalWay::of(datapath);
        let home = if way.is_some() { world.proxy()? } else { world.db()? };
        let node = FakeNode::master_in(home, NODE_PORT, handler)?;
        let known = if ipv6 { node.ipv6() } else { node.ipv4() };
        let Some(way) = way else {
            let daemon = Daemon::start(&world, &config(&world, known, datapath, adjust)?)?;
            let client = world.client()?.clone();
            return Ok(Self { daemon, node, client, world, _share: share });
        };
        if matches!(way, LocalWay::Bypassed) {
            node.be_patient();
        }
        let config = way.configure(config(&world, known, "copy", adjust)?);
        let daemon = Daemon::start(&world, &config)?;
        let client = world.proxy()?.clone();
        let stage = Self { daemon, node, client, world, _share: share };
        wait::until(LIMIT, "clients of this host to be led", || stage.ask_for_the_role(way, ipv6))?;
        Ok(stage)
    }

    /// As a probe does, which is not the handler's.
    fn ask_for_the_role(&self, way: LocalWay, ipv6: bool) -> Result<()> {
        let client = self.connect_as(usize::from(ipv6))?;
        let mut client = Patient::new(&client).context("nonblocking")?;
        client.write_all(b"*1\r\n$4\r\nROLE\r\n").context("ask")?;
        client.read_exact(&mut [0]).context("hear")?;
        let how = match way {
            LocalWay::Steered => "switchmaster_connections_steered{",
            LocalWay::Bypassed => "switchmaster_connections_bypassed{",
        };
        ensure!(self.metric(how, "writes")? > 0.0, "it has a hop, or goes by TCP");
        Ok(())
    }

    pub(crate) fn connect(&self) -> Result<TcpStream> {
        self.dial(self.world.proxy()?.address(PORT))
    }

    /// Clients of both address families in turn.
    pub(crate) fn connect_as(&self, number: usize) -> Result<TcpStream> {
        let proxy = self.world.proxy()?;
        self.dial(if number.is_multiple_of(2) { proxy.address(PORT) } else { proxy.address6(PORT) })
    }

    fn dial(&self, to: SocketAddr) -> Result<TcpStream> {
        dial(&self.client, to)
    }

    /// So many connections with one question each; for nodes that send back what they hear.
    pub(crate) fn be_brief(&self, connections: usize) -> Result<()> {
        for _ in 0..connections {
            let mut stream = self.connect()?;
            stream.write_all(b"ping").context("ping")?;
            stream.shutdown(Shutdown::Write).context("finish")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).context("to the end")?;
            ensure!(answer == b"ping", "a brief one heard {answer:?}");
        }
        Ok(())
    }

    /// One of the daemon's metrics, summed over its labels that contain `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> Result<f64> {
        metric(&self.daemon, name, label)
    }

    /// What the packet program made of packets so far: how many had this fate.
    pub(crate) fn packets(&self, fate: &str) -> Result<f64> {
        self.metric("switchmaster_packets_total{", &format!("fate=\"{fate}\""))
    }

    /// Waits until a client's packets are translated: at first its target may still be on its way into the maps. For
    /// nodes that send back what they hear.
    pub(crate) fn wait_translated(&self, number: usize) -> Result<()> {
        wait::until(LIMIT, "packets to be translated", || {
            let mut stream = self.connect_as(number)?;
            stream.write_all(b"ping").context("ping")?;
            stream.read_exact(&mut [0; 4]).context("pong")?;
            ensure!(self.packets("established")? >= 1.0, "the listener had it");
            Ok(())
        })
    }

    /// Connections that the listener has accepted.
    pub(crate) fn accepted(&self) -> Result<f64> {
        self.metric("switchmaster_connections_total{", "writes")
    }

    /// Of the verdict program: how often it said so.
    pub(crate) fn verdicts(&self, verdict: &str) -> Result<f64> {
        self.metric("switchmaster_sockmap_verdicts_total{", &format!("verdict=\"{verdict}\""))
    }
}

/// So many brief connections are noticed, whichever workers have them.
pub(crate) const MANY: usize = 40;

/// See [`Stage::metric`].
pub(crate) fn metric(daemon: &Daemon, name: &str, label: &str) -> Result<f64> {
    let text = daemon.get("/metrics")?.body;
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(name) && line.contains(label)).collect();
    ensure!(!lines.is_empty(), "no metric {name} with {label}");
    lines.iter().map(|line| Ok(line.rsplit(' ').next().context("a value")?.parse::<f64>()?)).sum()
}

pub(crate) fn dial(from: &Namespace, to: SocketAddr) -> Result<TcpStream> {
    let stream = from.connect(to, Duration::from_secs(10))?;
    stream.set_nodelay(true).context("nodelay")?;
    // No test waits longer for anything; a hang becomes an error that says where.
    stream.set_read_timeout(Some(LIMIT)).context("read time-out")?;
    stream.set_write_timeout(Some(LIMIT)).context("write time-out")?;
    Ok(stream)
}

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn config(
    world: &World,
    node: SocketAddr,
    datapath: &str,
    adjust: impl FnOnce(Route) -> Route,
) -> Result<Config> {
    let proxy = world.proxy()?;
    let listen = [proxy.address(PORT), proxy.address6(PORT)];
    let group = Group::new(GROUP).set("nodes", format!("[\"{node}\"]"));
    Ok(Config::default().group(group).route(adjust(Route::new("writes", GROUP, "master", datapath, &listen))))
}

fn raise_open_files() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// Runs a test so that an error is a panic while the daemon still exists: it then shows its log.
pub(crate) fn check(stage: Result<Stage>, test: impl FnOnce(&Stage) -> Result<()>) {
    let stage = match stage {
        Ok(stage) => stage,
        Err(error) => panic!("the stage does not stand: {error:?}"),
    };
    if let Err(error) = test(&stage).and_then(|()| stage.node.no_faults()) {
        let node = stage.node.no_faults().err().map(|error| format!("{error:#}")).unwrap_or_default();
        let verdicts = stage.daemon.get("/metrics").map_or_else(|error| format!("{error:#}"), |answer| answer.body);
        let counted = |line: &&str| line.starts_with("switchmaster_sockmap_verdicts") && !line.ends_with(" 0");
        let verdicts: Vec<&str> = verdicts.lines().filter(counted).collect();
        panic!("{error:#}\n{node}\n{}", verdicts.join("\n"));
    }
}

/// Runs `work` for every number below `count`, `threads` at a time, and gives the first error.
pub(crate) fn crowd(count: usize, threads: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let one = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            work(number).with_context(|| format!("connection {number}"))?;
        }
    };
    thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().stack_size(STACK).spawn_scoped(scope, one);
        let threads = (0..threads.min(count)).map(spawn).collect::<Result<Vec<_>, _>>().context("threads")?;
        threads.into_iter().try_for_each(|thread| thread.join().ok().context("a thread panicked")?)
    })
}
