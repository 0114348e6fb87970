//! A node that is no Redis: it answers role probes like one, and hands every other connection to the
//! test's handler. So a test decides what the far end of a forwarded connection does, byte by byte.
//! A probe speaks RESP, which begins with `*`; what clients send here must begin otherwise.

use std::{
    fmt::{self, Write as _},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{SockFlag, accept4};

use crate::{
    Patient,
    netns::{Namespace, World},
    wait,
};

/// Enough for a handler that keeps its buffers on the heap; thousands of them run at once.
pub const STACK: usize = 256 << 10;
/// The longest command a probe sends is far below.
const LONGEST: usize = 4096;

/// How the node takes a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Door {
    /// By its first byte: a probe, or one for the handler.
    Ask,
    /// For the handler at once, so that the node may speak first. A probe must not come now.
    Handler,
    /// Kept open, unread.
    Keep,
}

type Handler = dyn Fn(TcpStream) -> Result<()> + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    is_master: AtomicBool,
    door: AtomicU8,
    /// Connections wait in poll(2) from the beginning.
    is_patient: AtomicBool,
    stopping: AtomicBool,
    kept: Mutex<Vec<TcpStream>>,
    /// Connections the handler has had, and how each ended badly.
    begun: AtomicUsize,
    ended: AtomicUsize,
    faults: Mutex<Vec<String>>,
}

pub struct FakeNode {
    addresses: Vec<SocketAddr>,
    namespace: Namespace,
    shared: Arc<Shared>,
    doors: Vec<JoinHandle<()>>,
}

impl fmt::Debug for FakeNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeNode").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl FakeNode {
    /// A master in the world's `db`, on both address families.
    pub fn master(
        world: &World,
        port: u16,
        handler: impl Fn(TcpStream) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::master_in(world.db()?, port, handler)
    }

    /// The same in another namespace.
    pub fn master_in(
        namespace: &Namespace,
        port: u16,
        handler: impl Fn(TcpStream) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let namespace = namespace.clone();
        let addresses = vec![namespace.address(port), namespace.address6(port)];
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            is_master: AtomicBool::new(true),
            door: AtomicU8::new(Door::Ask as u8),
            is_patient: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            kept: Mutex::default(),
            begun: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            faults: Mutex::default(),
        });
        let mut node = Self { addresses: addresses.clone(), namespace, shared, doors: Vec::new() };
        for address in addresses {
            let listener = node.namespace.enter(|| listen(address))?.with_context(|| address.to_string())?;
            let shared = Arc::clone(&node.shared);
            node.doors.push(thread::spawn(move || open_door(&listener, &shared)));
        }
        Ok(node)
    }

    pub fn ipv4(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub fn ipv6(&self) -> SocketAddr {
        self.addresses[1]
    }

    /// What it answers from now on when it is asked for its role.
    pub fn say_master(&self, yes: bool) {
        self.shared.is_master.store(yes, Ordering::SeqCst);
    }

    pub fn set_door(&self, door: Door) {
        self.shared.door.store(door as u8, Ordering::SeqCst);
    }

    /// From now on connections never wait inside of their calls; handlers read them by [`Patient`].
    pub fn be_patient(&self) {
        self.shared.is_patient.store(true, Ordering::SeqCst);
    }

    /// Connections held behind [`Door::Keep`].
    pub fn kept(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        lock(&self.shared.kept)
    }

    /// Connections the handler was given so far.
    pub fn begun(&self) -> usize {
        self.shared.begun.load(Ordering::SeqCst)
    }

    /// Waits until the handler has dealt with `count` connections, all without a fault.
    pub fn wait_ended(&self, count: usize, limit: Duration) -> Result<()> {
        wait::until(limit, format_args!("{count} connections to end at the node"), || {
            self.no_faults()?;
            let (begun, ended) = (self.begun(), self.shared.ended.load(Ordering::SeqCst));
            anyhow::ensure!(ended >= count, "{ended} of {begun} that came have ended");
            Ok(())
        })?;
        self.no_faults()
    }

    pub fn no_faults(&self) -> Result<()> {
        let faults = lock(&self.shared.faults);
        anyhow::ensure!(faults.is_empty(), "{} at the node, the first: {}", faults.len(), faults[0]);
        Ok(())
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for address in &self.addresses {
            // Wakes the accept; a listener that is already gone needs no waking.
            let _woken = self.namespace.connect(*address, Duration::from_secs(1));
        }
        for door in self.doors.drain(..) {
            let _ended = door.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    use std::os::fd::AsRawFd as _;
    let listener = TcpListener::bind(address)?;
    // std listens with a backlog of 128; a burst of clients must not be what is tested here.
    // SAFETY: a plain system call on a socket that is open.
    let result = unsafe { libc::listen(listener.as_raw_fd(), 4096) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(listener) }
}

/// One that is to wait in poll(2) does so from the first moment: its client may be quicker than the next call.
fn accept(listener: &TcpListener, is_patient: bool) -> io::Result<TcpStream> {
    let waits = if is_patient { SockFlag::SOCK_NONBLOCK } else { SockFlag::empty() };
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | waits)?;
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { TcpStream::from_raw_fd(fd) })
}

fn open_door(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok(stream) = accept(listener, shared.is_patient.load(Ordering::SeqCst)) {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let door = shared.door.load(Ordering::SeqCst);
        if door == Door::Keep as u8 {
            lock(&shared.kept).push(stream);
            continue;
        }
        let guest = Arc::clone(shared);
        let ask = door == Door::Ask as u8;
        let spawned = thread::Builder::new().stack_size(STACK).spawn(move || welcome(stream, ask, &guest));
        if let Err(error) = spawned {
            lock(&shared.faults).push(format!("no thread for a connection: {error}"));
        }
    }
}

fn welcome(stream: TcpStream, ask: bool, shared: &Shared) {
    let mut first = [0];
    if ask {
        let is_patient = shared.is_patient.load(Ordering::SeqCst);
        let peek = |first: &mut [u8]| if is_patient { Patient::new(&stream)?.peek(first) } else { stream.peek(first) };
        match peek(&mut first) {
            // Gone before it said a word: nobody the handler knows.
            Ok(0) | Err(_) => return,
            Ok(_) if first[0] == b'*' => {
                // A prober may leave in the middle of an answer.
                let _left = answer_probes(stream, shared);
                return;
            }
            Ok(_) => {}
        }
    }
    shared.begun.fetch_add(1, Ordering::SeqCst);
    let _slow_without = stream.set_nodelay(true);
    if let Err(error) = (shared.handler)(stream) {
        lock(&shared.faults).push(format!("{error:#}"));
    }
    shared.ended.fetch_add(1, Ordering::SeqCst);
}

fn answer_probes(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(words) = command(&mut reader)? {
        let reply = reply(&words, shared.is_master.load(Ordering::SeqCst));
        out.write_all(reply.as_bytes())?;
    }
    Ok(())
}

/// One command: `*2`, then `$4`, `INFO`, `$6`, `server`, each line ended by CR LF.
fn command(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Vec<String>>> {
    let Some(count) = number(reader, '*')? else { return Ok(None) };
    let mut words = Vec::new();
    for _ in 0..count {
        let Some(len) = number(reader, '$')? else { return Ok(None) };
        let mut word = vec![0; len + 2];
        reader.read_exact(&mut word)?;
        word.truncate(len);
        words.push(String::from_utf8_lossy(&word).to_uppercase());
    }
    Ok(Some(words))
}

/// A line that is `mark` and a number; none at the end.
fn number(reader: &mut BufReader<TcpStream>, mark: char) -> io::Result<Option<usize>> {
    let mut line = String::new();
    if reader.by_ref().take(LONGEST as u64).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let number = line.trim_end().strip_prefix(mark).and_then(|text| text.parse().ok());
    number.filter(|number| *number < LONGEST).map(Some).ok_or_else(|| io::Error::other(format!("odd: {line:?}")))
}

fn reply(words: &[String], is_master: bool) -> String {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let role = if is_master { "master" } else { "slave" };
    match words.as_slice() {
        ["HELLO", ..] => {
            let role = if is_master { "master" } else { "replica" };
            let mut reply = String::from("*14\r\n");
            for word in ["server", "redis", "version", "7.0.15"] {
                reply += &bulk(word);
            }
            for (name, value) in [("proto", 2), ("id", 1)] {
                let _never_fails = write!(reply, "{}:{value}\r\n", bulk(name));
            }
            reply + &bulk("mode") + &bulk("standalone") + &bulk("role") + &bulk(role) + &bulk("modules") + "*0\r\n"
        }
        ["PING", ..] => "+PONG\r\n".to_owned(),
        ["ROLE", ..] if is_master => "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n".to_owned(),
        ["ROLE", ..] => format!("*5\r\n{}{}:1\r\n{}:0\r\n", bulk("slave"), bulk("192.0.2.1"), bulk("connect")),
        ["INFO", "SERVER"] => bulk("# Server\r\nrun_id:00000000000000000000000000000000000000fa\r\n"),
        ["INFO", ..] => bulk(&format!("# Replication\r\nrole:{role}\r\nmaster_repl_offset:0\r\n")),
        _ => format!("-ERR unknown command '{}'\r\n", words.first().unwrap_or(&"")),
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}
