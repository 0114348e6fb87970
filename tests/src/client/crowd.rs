//! Many connections that have said something once and are idle now, and how they end.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    resource::{Resource, getrlimit, setrlimit},
};

use crate::{Patient, instrument, netns::Namespace, wait};

const ANSWER: Duration = Duration::from_secs(5);
/// Between two looks at who has ended, so that each end is written down so much later than it came at most. Woken for every
/// single one, the thread that watches would take a third of the time of two cores, from the daemon that it watches.
const LOOK: Duration = Duration::from_micros(200);
/// Descriptors of this process beside the crowd's.
const OWN: u64 = 256;

#[derive(Debug)]
pub struct Crowd(Vec<TcpStream>);

/// How the connections of a crowd ended.
#[derive(Debug)]
pub struct Ends {
    pub first: SystemTime,
    pub last: SystemTime,
    pub resets: usize,
}

/// How one of them did.
#[derive(Debug, Clone, Copy)]
pub struct End {
    pub at: Instant,
    /// By RST, not by FIN.
    pub reset: bool,
}

impl Crowd {
    /// Each member sends `request` and reads a reply of `reply` bytes.
    pub fn gather(from: &Namespace, to: SocketAddr, size: usize, request: &str, reply: usize) -> Result<Self> {
        raise_open_files(size as u64 + OWN)?;
        let mut buffer = vec![0; reply];
        let mut member = || -> Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&to, ANSWER).context("connect")?;
            stream.set_read_timeout(Some(ANSWER)).context("read time-out")?;
            // So many are kept by an event loop.
            let mut patient = Patient::new(&stream).context("nonblocking")?;
            patient.write_all(request.as_bytes()).context("request")?;
            patient.read_exact(&mut buffer).context("reply")?;
            Ok(stream)
        };
        let gather = || -> Result<Vec<TcpStream>> {
            (0..size).map(|n| member().with_context(|| format!("connection {n} to {to}"))).collect()
        };
        from.enter(gather)?.map(Self)
    }

    /// The connections themselves, in the order in which they were made.
    pub fn into_streams(self) -> Vec<TcpStream> {
        self.0
    }

    /// Both crowds as one.
    pub fn join(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Writes down from now on when each of them ends.
    pub fn watch(self) -> Result<CrowdWatch> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?;
        for (index, stream) in self.0.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET, index as u64);
            epoll.add(stream.as_fd(), event).context("epoll")?;
        }
        let (size, shared) = (self.0.len(), Arc::<Shared>::default());
        let noted = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            instrument::first();
            if let Err(error) = note_ends(&self.0, &epoll, &noted) {
                noted.locked().fault = Some(format!("{error:#}"));
            }
        });
        Ok(CrowdWatch { size, shared, thread: Some(thread) })
    }

    /// Waits until all have ended; `act` is done once they are being watched.
    pub fn watch_end(self, limit: Duration, act: impl FnOnce() -> Result<()>) -> Result<Ends> {
        let watch = self.watch()?;
        act()?;
        let ends = wait::until(limit, "all of the crowd to end", || {
            let ends = watch.ends()?;
            ensure!(ends.len() == watch.size(), "{} of {} connections have ended", ends.len(), watch.size());
            Ok(ends)
        })?;
        let (now, here) = (SystemTime::now(), Instant::now());
        let wall = |end: &End| now - here.duration_since(end.at);
        Ok(Ends {
            first: ends.iter().map(wall).min().context("an empty crowd")?,
            last: ends.iter().map(wall).max().context("an empty crowd")?,
            resets: ends.iter().filter(|end| end.reset).count(),
        })
    }
}

#[derive(Debug, Default)]
struct Seen {
    ends: Vec<End>,
    fault: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    stop: AtomicBool,
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dropping it closes what is left of the crowd.
#[derive(Debug)]
pub struct CrowdWatch {
    size: usize,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl CrowdWatch {
    /// How many there were to begin with.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Those that have ended so far, in that order.
    pub fn ends(&self) -> Result<Vec<End>> {
        let seen = self.shared.locked();
        match &seen.fault {
            Some(fault) => bail!("{fault}"),
            None => Ok(seen.ends.clone()),
        }
    }
}

impl Drop for CrowdWatch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn note_ends(streams: &[TcpStream], epoll: &Epoll, shared: &Shared) -> Result<()> {
    let mut events = vec![EpollEvent::empty(); 256];
    let mut ended = vec![false; streams.len()];
    while !shared.stop.load(Ordering::Relaxed) {
        let ready = epoll.wait(&mut events, EpollTimeout::from(100_u8)).context("epoll")?;
        let at = Instant::now();
        for event in &events[..ready] {
            let index = event.data() as usize;
            if !std::mem::replace(&mut ended[index], true) {
                let reset = was_reset(&streams[index])?;
                shared.locked().ends.push(End { at, reset });
            }
        }
        wait::pause(LOOK);
    }
    Ok(())
}

/// Whether a connection that has ended did so by RST.
fn was_reset(mut stream: &TcpStream) -> Result<bool> {
    match stream.read(&mut [0]) {
        Ok(0) => Ok(false),
        Err(error) if super::is_reset(error.kind()) => Ok(true),
        Ok(_) => bail!("an idle connection got something to read"),
        Err(error) => Err(error).context("the end of a connection"),
    }
}

fn raise_open_files(needed: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("the limit of open files")?;
    ensure!(needed <= hard, "{needed} open files are needed and the hard limit is {hard}: raise it (ulimit -Hn)");
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("the limit of open files")?;
    }
    Ok(())
}
