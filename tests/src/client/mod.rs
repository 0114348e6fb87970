//! A plain Redis client: one socket, a time limit on everything, and no opinion. What the
//! server, or whatever stands between, does to the connection is what the caller gets to see.

mod crowd;
mod subscriber;
mod writer;

use std::{
    io::{ErrorKind, Read, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use redis::{Cmd, FromRedisValue, Parser, Value};

pub use self::{
    crowd::{Crowd, CrowdWatch, End, Ends},
    subscriber::Subscriber,
    writer::{Ack, KEY, Outage, Record, Writer, held},
};
use crate::{Patient, netns::Namespace};

/// Long enough for a parked connection, short enough for a test.
pub const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Stream {
    /// Waits in poll(2), as clients with an event loop do.
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(stream) => Patient::new(stream)?.read(buffer),
            Stream::Unix(stream) => (&*stream).read(buffer),
        }
    }
}

pub struct Client {
    stream: Stream,
    parser: Parser,
}

/// Ends a connection that somebody else may be reading from, once it is dropped.
#[derive(Debug)]
pub struct HangUp(Stream);

impl Drop for HangUp {
    fn drop(&mut self) {
        // One that has ended already is no error.
        let _ended = match &self.0 {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.stream).finish()
    }
}

impl Client {
    /// Dials from inside `namespace`; every reply must come within [`LIMIT`].
    pub fn connect(namespace: &Namespace, to: SocketAddr) -> Result<Self> {
        Self::connect_within(namespace, to, LIMIT)
    }

    pub fn connect_within(namespace: &Namespace, to: SocketAddr, limit: Duration) -> Result<Self> {
        Self::over(namespace.connect(to, limit)?, limit)
    }

    /// Over a connection that exists already.
    pub fn over(stream: TcpStream, limit: Duration) -> Result<Self> {
        stream.set_nodelay(true).context("nodelay")?;
        stream.set_write_timeout(Some(limit)).context("write time-out")?;
        let client = Self { stream: Stream::Tcp(stream), parser: Parser::new() };
        client.set_limit(Some(limit))?;
        Ok(client)
    }

    /// The way the harness itself asks a server: whatever happens to the network, this still works.
    pub fn unix(path: &Path, limit: Duration) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| path.display().to_string())?;
        stream.set_write_timeout(Some(limit)).context("write time-out")?;
        let client = Self { stream: Stream::Unix(stream), parser: Parser::new() };
        client.set_limit(Some(limit))?;
        Ok(client)
    }

    /// How long a reply may take; `None`: for ever.
    pub fn set_limit(&self, limit: Option<Duration>) -> Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(limit),
            Stream::Unix(stream) => stream.set_read_timeout(limit),
        }
        .context("read time-out")
    }

    pub fn send(&mut self, command: &Cmd) -> Result<()> {
        self.send_raw(&command.get_packed_command())
    }

    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => Patient::new(stream).and_then(|mut stream| stream.write_all(bytes)),
            Stream::Unix(stream) => (&*stream).write_all(bytes),
        }
        .context("send")
    }

    /// The next value the server sends, of whatever kind, an error reply included.
    pub fn receive(&mut self) -> Result<Value> {
        self.parser.parse_value(&self.stream).context("receive")
    }

    /// One command, one reply; an error reply is an error.
    pub fn call<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T> {
        self.send(command)?;
        let value = self.receive()?.extract_error().context("error reply")?;
        T::from_redis_value(value).context("a reply of another type than expected")
    }

    pub fn auth(&mut self, user: Option<&str>, password: &str) -> Result<()> {
        let mut auth = redis::cmd("AUTH");
        if let Some(user) = user {
            auth.arg(user);
        }
        self.call::<String>(auth.arg(password)).map(|_| ())
    }

    pub fn ping(&mut self) -> Result<()> {
        let reply: String = self.call(&redis::cmd("PING"))?;
        if reply == "PONG" { Ok(()) } else { bail!("PING was answered by {reply:?}") }
    }

    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        self.call::<String>(redis::cmd("SET").arg(key).arg(value)).map(|_| ())
    }

    pub fn get(&mut self, key: &str) -> Result<Option<String>> {
        self.call(redis::cmd("GET").arg(key))
    }

    /// `master`, `slave` or `sentinel`.
    pub fn role(&mut self) -> Result<String> {
        let reply: Vec<Value> = self.call(&redis::cmd("ROLE"))?;
        let first = reply.into_iter().next().context("an empty ROLE")?;
        String::from_redis_value(first).context("ROLE")
    }

    pub fn hang_up(&self) -> Result<HangUp> {
        let stream = match &self.stream {
            Stream::Tcp(stream) => stream.try_clone().map(Stream::Tcp),
            Stream::Unix(stream) => stream.try_clone().map(Stream::Unix),
        };
        stream.context("socket").map(HangUp)
    }

    /// The socket, to half-close it, to look at it, or to pass bytes that are not Redis's.
    pub fn tcp(&self) -> Result<&TcpStream> {
        match &self.stream {
            Stream::Tcp(stream) => Ok(stream),
            Stream::Unix(_) => bail!("this is a connection over a unix socket"),
        }
    }

    /// An error unless the connection is torn down by then, with nothing more to read.
    pub fn ensure_torn_down(&self, within: Duration) -> Result<()> {
        let stream = self.tcp()?;
        stream.set_read_timeout(Some(within)).context("read time-out")?;
        match Patient::new(stream)?.read(&mut [0; 64]) {
            Err(error) if is_reset(error.kind()) => Ok(()),
            other => bail!("it is not torn down: {other:?}"),
        }
    }

    /// Waits until the connection is ended from the other side: `true` for RST, `false` for FIN.
    /// Bytes that still arrive are thrown away.
    pub fn wait_end(&mut self, limit: Duration) -> Result<bool> {
        wait_end(self.tcp()?, limit)
    }
}

/// Whether a connection was torn down: by a RST, or on this host by an administrator (`SOCK_DESTROY`).
pub fn is_reset(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted)
}

/// Waits until a connection is ended from the other side: `true` for RST, `false` for FIN.
pub fn wait_end(stream: &TcpStream, limit: Duration) -> Result<bool> {
    let end = std::time::Instant::now() + limit;
    let mut buffer = [0; 4096];
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            bail!("the connection is still open after {limit:?}");
        }
        stream.set_read_timeout(Some(left)).context("read time-out")?;
        match Patient::new(stream)?.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Err(error) if is_reset(error.kind()) => return Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("waiting for the end of a connection"),
            Ok(_) => {}
        }
    }
}
