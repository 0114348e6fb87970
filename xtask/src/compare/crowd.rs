//! Many connections that have said something once and are idle now, and how they end.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd as _,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    resource::{Resource, getrlimit, setrlimit},
};
use switchmaster_tests::netns::Namespace;

const ANSWER: Duration = Duration::from_secs(5);
/// Descriptors of this process beside the crowd's.
const OWN: u64 = 64;

#[derive(Debug)]
pub(super) struct Crowd(Vec<TcpStream>);

/// How the connections of a crowd ended.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) first: SystemTime,
    pub(super) last: SystemTime,
    pub(super) resets: usize,
}

impl Crowd {
    /// Each member sends `request` and reads a reply of `reply` bytes.
    pub(super) fn gather(from: &Namespace, to: SocketAddr, size: usize, request: &str, reply: usize) -> Result<Self> {
        raise_open_files(size as u64 + OWN)?;
        let mut buffer = vec![0; reply];
        let mut member = || -> Result<TcpStream> {
            let mut stream = TcpStream::connect_timeout(&to, ANSWER).context("connect")?;
            stream.set_read_timeout(Some(ANSWER)).context("read time-out")?;
            stream.write_all(request.as_bytes()).context("request")?;
            stream.read_exact(&mut buffer).context("reply")?;
            Ok(stream)
        };
        let gather = || -> Result<Vec<TcpStream>> {
            (0..size).map(|n| member().with_context(|| format!("connection {n} to {to}"))).collect()
        };
        from.enter(gather)?.map(Self)
    }

    /// Waits until all have ended; `act` is done once they are being watched.
    pub(super) fn watch_end(self, limit: Duration, act: impl FnOnce() -> Result<()>) -> Result<Ends> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?;
        for (index, stream) in self.0.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET, index as u64);
            epoll.add(stream.as_fd(), event).context("epoll")?;
        }
        act()?;
        let deadline = Instant::now() + limit;
        let mut events = vec![EpollEvent::empty(); 256];
        let mut ended = vec![false; self.0.len()];
        let (mut left, mut resets, mut times) = (self.0.len(), 0, None);
        while left > 0 {
            ensure!(
                Instant::now() < deadline,
                "{left} of {} connections are still there after {limit:?}",
                self.0.len()
            );
            let ready = epoll.wait(&mut events, EpollTimeout::from(100_u8)).context("epoll")?;
            let now = SystemTime::now();
            for event in &events[..ready] {
                let index = event.data() as usize;
                if !std::mem::replace(&mut ended[index], true) {
                    left -= 1;
                    resets += usize::from(was_reset(&self.0[index])?);
                    times = Some((times.map_or(now, |(first, _)| first), now));
                }
            }
        }
        let (first, last) = times.context("an empty crowd")?;
        Ok(Ends { first, last, resets })
    }
}

/// Whether a connection that has ended did so by RST.
fn was_reset(mut stream: &TcpStream) -> Result<bool> {
    match stream.read(&mut [0]) {
        Ok(0) => Ok(false),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(true),
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
