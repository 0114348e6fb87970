//! The sockets of a route, on both ends of a connection alike: their options, and how a node is dialled.
//! Promises: a connection may be silent for days; a peer that is gone is found in five minutes; a close is a reset,
//! also when the daemon is killed, until it is said that it may be one in order.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Silence after which the kernel asks the peer whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a peer may leave probes or data unacknowledged. The kernel also ends a peer by it that
/// acknowledges but reads nothing for so long (tcp_probe_timer, measured on 6.18: a time-out of 3 s
/// ended a living reader that stalled for 3.3 s). So it is minutes, not the seconds that would do
/// to find dead peers: a stalled subscriber is not dead. Without it, data in flight to a dead peer
/// keeps the connection for a quarter of an hour (tcp_retries2). The kernel counts no probes beside it (tcp_keepalive_timer).
const USER_TIMEOUT: Duration = Duration::from_secs(300);

/// Longer than a handshake takes within a site.
pub(crate) const HANDSHAKE: Duration = Duration::from_millis(100);

/// Sets the options that hold for both ends. Whoever is accepted inherits those of the listening socket
/// (`tcp_create_openreq_child`): seven system calls less for each client.
pub(crate) fn tune<S: AsFd>(socket: &S) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL))?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    // An urgent byte that reads skip would be missing in every count.
    socket.set_out_of_band_inline(true)?;
    // A FIN would tell the peer that it has got everything: only who comes to its end is let go in order.
    socket.set_linger(Some(Duration::ZERO))
}

/// The coming close may take the time it needs: the peer has got everything, or will.
pub(crate) fn close_in_order<S: AsFd>(socket: &S) {
    // A socket that refuses is already gone, and its peer knows.
    SockRef::from(socket).set_linger(None).ok();
}

/// Begins to connect to a node. The socket can be written as soon as it is connected, or has failed; see [`arrived`].
pub(crate) fn dial(node: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(node), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    tune(&socket)?;
    match socket.connect(&node.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// How a connect that [`dial`] has begun came out, once the socket can be written.
pub(crate) fn arrived<S: AsFd>(socket: &S, node: SocketAddr) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    // A connect to a dead local node can draw the node's own port and meet itself.
    if socket.local_addr()?.as_socket() == Some(node) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(())
}

/// An accepted socket, for a task to wait on. Needs a runtime.
pub(crate) fn watched(accepted: TcpStream) -> io::Result<tokio::net::TcpStream> {
    accepted.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(accepted)
}

/// Whether there was no file left for a socket, in the process or on the machine.
pub(crate) fn is_short_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}
