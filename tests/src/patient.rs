//! A socket whose process waits in poll(2), as those with an event loop do.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Reads and writes within the socket's own time limits, if it has any; what takes longer is `WouldBlock`, as on a socket that
/// blocks.
#[derive(Debug)]
pub struct Patient<'a>(&'a TcpStream);

impl<'a> Patient<'a> {
    pub fn new(stream: &'a TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self(stream))
    }

    /// Without taking it away.
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::POLLIN, self.0.read_timeout()?, |stream| stream.peek(buffer))
    }

    fn wait<T>(
        &self,
        events: PollFlags,
        limit: Option<Duration>,
        mut call: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        let until = limit.map(|limit| Instant::now() + limit);
        loop {
            match call(self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let rest = until.map(|until| until.saturating_duration_since(Instant::now()));
                    let rest = match rest {
                        Some(Duration::ZERO) => return Err(error),
                        Some(rest) => {
                            PollTimeout::try_from(rest + Duration::from_millis(1)).map_err(io::Error::other)?
                        }
                        None => PollTimeout::NONE,
                    };
                    poll(&mut [PollFd::new(self.0.as_fd(), events)], rest)?;
                }
                done => return done,
            }
        }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::POLLIN, self.0.read_timeout()?, |mut stream| stream.read(buffer))
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(PollFlags::POLLOUT, self.0.write_timeout()?, |mut stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
