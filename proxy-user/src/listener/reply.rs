//! The last words to a client that is turned away, as Redis would say them.
//! Promises: the line is not lost to an RST because the client's own bytes were unread; the
//! farewell is bounded in time and bytes.

use std::{
    io,
    net::TcpStream as StdStream,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use nix::sys::socket::{MsgFlags, recv, send};
use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::counts::Refusal;
use crate::socket;

/// How long the client may take to read the line and close, before it is closed.
const FAREWELL: Duration = Duration::from_secs(1);
/// How much of what the client sent is read to keep the kernel from answering it by RST.
const UNREAD: usize = 256 << 10;

impl Refusal {
    /// The error reply, if there is one.
    pub(super) const fn line(self) -> Option<&'static [u8]> {
        Some(match self {
            Self::NotAllowed => return None,
            Self::MaxConnections => b"-ERR max number of clients reached\r\n",
            Self::ParkFull => b"-MASTERDOWN Link with MASTER is down and too many clients wait for it\r\n",
            Self::ParkTimeout => b"-MASTERDOWN Link with MASTER is down: no node took over in time\r\n",
            Self::ConnectFailed => b"-MASTERDOWN Link with MASTER is down: the node takes no connection\r\n",
            Self::ConnectTimeout => b"-MASTERDOWN Link with MASTER is down: the node does not answer\r\n",
            Self::Draining => b"-MASTERDOWN Link with MASTER is down: the forwarder is shutting down\r\n",
        })
    }
}

/// Says `refusal` to a client that was just accepted; see [`say_farewell`].
pub(super) async fn refuse(client: StdStream, refusal: Refusal) {
    // Fails if the runtime is shutting down, or has no room for another socket.
    if let Ok(client) = socket::watched(client) {
        say_farewell(client, refusal).await;
    }
}

/// Says `refusal` and waits, for a bounded time, until the client has closed.
pub(super) async fn say_farewell(mut client: TcpStream, refusal: Refusal) {
    let deadline = Instant::now() + FAREWELL;
    let mut budget = UNREAD;
    if say(&client, refusal, &mut budget) && client.shutdown().await.is_ok() {
        timeout_at(deadline, drain(&client, &mut budget)).await.ok();
    }
}

/// Says `refusal`; what the client sends after the close that follows is answered by RST.
pub(super) fn refuse_at_once(client: &StdStream, refusal: Refusal) {
    let mut budget = UNREAD;
    say(client, refusal, &mut budget);
}

/// Goes to the socket itself: the runtime does not know yet that a new socket can be written.
/// The line fits the empty send buffer of any new socket, so it needs no wait.
fn say(client: &(impl AsFd + AsRawFd), refusal: Refusal, budget: &mut usize) -> bool {
    discard(budget, |scrap| take(client, scrap));
    let Some(line) = refusal.line() else { return false };
    socket::close_in_order(client);
    send(client.as_raw_fd(), line, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) == Ok(line.len())
}

/// Reads on until the client closes or the budget is spent.
async fn drain(client: &TcpStream, budget: &mut usize) {
    let read = |scrap: &mut [u8]| client.try_io(Interest::READABLE, || take(client, scrap));
    while client.readable().await.is_ok() && discard(budget, read) {}
}

/// Reads and drops what has arrived; false: there will be no more, or the budget is spent.
fn discard(budget: &mut usize, read: impl Fn(&mut [u8]) -> io::Result<usize>) -> bool {
    let mut scrap = [0; 4096];
    while *budget > 0 {
        match read(&mut scrap) {
            Ok(0) => return false,
            Ok(n) => *budget = budget.saturating_sub(n),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    false
}

fn take(client: &impl AsRawFd, scrap: &mut [u8]) -> io::Result<usize> {
    Ok(recv(client.as_raw_fd(), scrap, MsgFlags::MSG_DONTWAIT)?)
}
