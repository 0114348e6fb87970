//! Notices a client that goes away while it waits, without reading a byte of what it sent.
//! A client that speaks first, or speaks and half-closes, has not left: it waits for its reply.

use std::{io, os::fd::AsRawFd};

use nix::sys::socket::{MsgFlags, recv};
use tokio::{io::Interest, net::TcpStream};

/// Returns when the client has left: by FIN before it said anything, or by RST.
/// Cancel safe. Wakes once for each segment that arrives, never on bytes that lie there.
pub(super) async fn left(client: &TcpStream) {
    loop {
        match client.ready(Interest::READABLE).await {
            Ok(ready) if ready.is_read_closed() => break,
            Ok(_) => forget_readable(client),
            Err(_) => return,
        }
    }
    if !spoke(client) {
        return;
    }
    // Half-closed after its request, or reset. The end of its stream is final and known, so only
    // an error can tell more. A failure to wait is the runtime's end.
    client.ready(Interest::ERROR).await.ok();
}

/// Makes the next wait last until something new arrives. The bytes stay where they are.
fn forget_readable(client: &TcpStream) {
    let nothing: io::Result<()> = client.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
    debug_assert!(nothing.is_err());
}

/// Whether bytes of the client wait to be read.
fn spoke(client: &TcpStream) -> bool {
    matches!(recv(client.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT), Ok(1..))
}
