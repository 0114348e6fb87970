//! All subscribers, read by one thread, which also reads the publisher's replies.

use std::{
    io::{ErrorKind, Read as _},
    net::TcpStream,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{message::Hearing, schedule::Schedule};

/// How long after the last message was due it may still come.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Audience {
    epoll: Epoll,
    ears: Vec<(TcpStream, Hearing)>,
    buffer: Vec<u8>,
}

/// What was heard.
#[derive(Debug)]
pub(super) struct Heard {
    /// In nanoseconds, sorted.
    pub(super) latencies: Vec<u64>,
    pub(super) last: Instant,
}

impl Audience {
    /// Of connections that have subscribed.
    pub(super) fn seat(streams: Vec<TcpStream>, publisher: &TcpStream) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?;
        for (index, stream) in streams.iter().chain([publisher]).enumerate() {
            stream.set_nonblocking(true).context("nonblocking")?;
            epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, index as u64)).context("epoll")?;
        }
        let ears = streams.into_iter().map(|stream| (stream, Hearing::new())).collect();
        Ok(Self { epoll, ears, buffer: vec![0; 64 << 10] })
    }

    /// Listens until everybody has heard everything; latencies are those from message `from` on.
    pub(super) fn listen(&mut self, publisher: &TcpStream, schedule: &Schedule, from: u64) -> Result<Heard> {
        let expected = self.ears.len() as u64 * schedule.count;
        let mut latencies = Vec::with_capacity(usize::try_from(expected).context("too many messages")?);
        let (mut heard, mut replies, mut last) = (0, Vec::new(), Instant::now());
        let mut events = vec![EpollEvent::empty(); 256];
        let until = schedule.due(schedule.count) + GRACE;
        while heard < expected {
            ensure!(
                Instant::now() < until,
                "{heard} of {expected} messages came within {GRACE:?}: this rate is more than this way carries"
            );
            let ready = self.epoll.wait(&mut events, EpollTimeout::from(100_u8)).context("epoll")?;
            for event in &events[..ready] {
                let index = event.data() as usize;
                let Some((stream, hearing)) = self.ears.get_mut(index) else {
                    take_replies(publisher, &mut self.buffer, &mut replies, self.ears.len())?;
                    continue;
                };
                let count = match read(stream, &mut self.buffer).with_context(|| format!("subscriber {index}"))? {
                    0 => continue,
                    count => count,
                };
                last = Instant::now();
                let note = |number: u64| {
                    heard += 1;
                    if number >= from {
                        latencies.push(u64::try_from(schedule.latency(number, last).as_nanos()).unwrap_or(u64::MAX));
                    }
                };
                hearing.take(&self.buffer[..count], note).with_context(|| format!("subscriber {index}"))?;
            }
        }
        latencies.sort_unstable();
        Ok(Heard { latencies, last })
    }
}

/// 0: nothing to read just now.
fn read(mut stream: &TcpStream, buffer: &mut [u8]) -> Result<usize> {
    match stream.read(buffer) {
        Ok(0) => bail!("the connection was ended"),
        Ok(count) => Ok(count),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        Err(error) => Err(error).context("read"),
    }
}

/// Every reply must say that all subscribers were sent the message.
fn take_replies(publisher: &TcpStream, buffer: &mut [u8], held: &mut Vec<u8>, subscribers: usize) -> Result<()> {
    let count = read(publisher, buffer).context("the publisher")?;
    held.extend_from_slice(&buffer[..count]);
    let reply = format!(":{subscribers}\r\n").into_bytes();
    let mut replies = held.chunks_exact(reply.len());
    for one in &mut replies {
        ensure!(one == reply, "the publisher was told {:?}", one.escape_ascii().to_string());
    }
    *held = replies.remainder().to_vec();
    Ok(())
}
