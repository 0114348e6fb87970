//! The TCP options of every socket of a route, on both ends of a connection alike.
//! Promises: a connection may be silent for days; a peer that is gone is found in five minutes.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};

/// Silence after which the kernel asks the peer whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// The kernel goes by this count only without a user time-out (tcp_keepalive_timer); it is set
/// for sockets that lose theirs.
const KEEPALIVE_PROBES: u32 = 6;
/// How long a peer may leave probes or data unacknowledged. The kernel also ends a peer by it that
/// acknowledges but reads nothing for so long (tcp_probe_timer, measured on 6.18: a time-out of 3 s
/// ended a living reader that stalled for 3.3 s). So it is minutes, not the seconds that would do
/// to find dead peers: a stalled subscriber is not dead. Without it, data in flight to a dead peer
/// keeps the connection for a quarter of an hour (tcp_retries2).
const USER_TIMEOUT: Duration = Duration::from_secs(300);

/// Sets the options that hold for both ends.
pub(super) fn tune<S: std::os::fd::AsFd>(socket: &S) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// Makes the coming close an RST, which leaves no TIME_WAIT behind. A failure only means a FIN.
pub(super) fn reset_on_close<S: std::os::fd::AsFd>(socket: &S) {
    SockRef::from(socket).set_linger(Some(Duration::ZERO)).ok();
}
