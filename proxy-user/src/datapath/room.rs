//! Room in a socket's send queue beyond its usual limit. sockmap's own queue stands before the send
//! queue, is shared by both directions, and is charged to nobody: bytes that wait there for a slow
//! peer also hold up, uncounted, whatever its peer sends the other way. With room they go on into the
//! send queue, where TCP counts them. Needs CAP_NET_ADMIN, as sockmap does.

use std::{io, net::TcpStream, os::fd::AsRawFd as _};

use libc::{c_int, c_uint};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

/// linux/asm-generic/socket.h, since 5.15; the libc crate knows it for no GNU target.
const SO_BUF_LOCK: c_int = 72;

/// What a send queue was limited to before it was given more room.
#[derive(Debug)]
pub(super) struct Room {
    usual: usize,
}

impl Room {
    /// Lets `bytes` more into the queue at once: raising the limit wakes the worker that waits for it.
    pub(super) fn make(socket: &TcpStream, bytes: usize) -> io::Result<Self> {
        let usual = getsockopt(socket, sockopt::SndBuf)?;
        // The operator's net.ipv4.tcp_notsent_lowat is a second limit of the same queue.
        set(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, c_uint::MAX)?;
        limit(socket, usual + bytes)?;
        Ok(Self { usual })
    }

    /// Back to the usual limit, so that the socket is full for everybody else until its peer reads.
    pub(super) fn give_back(self, socket: &TcpStream) -> io::Result<()> {
        limit(socket, self.usual)?;
        set(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, 0)?;
        // A limit that was set by hand is one that the kernel does not adjust any more, unless it is told
        // to. Before 5.15 it cannot be told: then the limit stays what it was.
        let _before_5_15 = set(socket, libc::SOL_SOCKET, SO_BUF_LOCK, 0);
        Ok(())
    }
}

/// The kernel doubles what it is told, and reports the double.
fn limit(socket: &TcpStream, bytes: usize) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::SndBufForce, &(bytes / 2))?)
}

fn set(socket: &TcpStream, level: c_int, name: c_int, value: c_uint) -> io::Result<()> {
    let len = size_of::<c_uint>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes from `value`, which outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_queue_is_as_before_once_the_room_is_given_back() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let socket = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let limit = || getsockopt(&socket, sockopt::SndBuf).expect("a limit");
        let usual = limit();
        let Ok(room) = Room::make(&socket, 8 << 20) else {
            assert!(!nix::unistd::geteuid().is_root(), "root may");
            return;
        };
        assert!(limit() >= usual + (8 << 20), "more room: {}", limit());
        room.give_back(&socket).expect("give back");
        assert_eq!(limit(), usual);
    }
}
