//! What the kernel counts of a TCP socket. Needs TCP_INFO with byte counters (4.1) and SO_COOKIE (4.12).

use std::{io, net::TcpStream, os::fd::AsRawFd as _};

use proxy_ebpf::Cookie;

/// The head of `struct tcp_info` (include/uapi/linux/tcp.h) up to the fields read here; the libc
/// crate's own ends before them.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct TcpInfo {
    flags: [u8; 8],
    words: [u32; 24],
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
}

/// How far a socket's two directions have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes that were ever put into the send queue. May lag behind the truth, never ahead of it.
    pub(super) handed_over: u64,
    /// Of those, the ones not yet acknowledged by the peer.
    pub(super) unacknowledged: u64,
    /// Bytes received in order, with one more for a FIN.
    pub(super) received: u64,
}

pub(super) fn progress(socket: &TcpStream) -> io::Result<Progress> {
    // The order matters: a byte acknowledged between the two calls must not count twice.
    let info = info(socket)?;
    let unacknowledged = send_queue(socket)?;
    Ok(Progress { handed_over: info.bytes_acked + unacknowledged, unacknowledged, received: info.bytes_received })
}

/// What the kernel has counted as handed over, when nobody but the caller writes: exact, whatever is acknowledged meanwhile.
pub(super) fn handed_over(socket: &TcpStream) -> io::Result<u64> {
    let mut before = info(socket)?.bytes_acked;
    loop {
        let unacknowledged = send_queue(socket)?;
        let after = info(socket)?.bytes_acked;
        if before == after {
            return Ok(after + unacknowledged);
        }
        before = after;
    }
}

fn info(socket: &TcpStream) -> io::Result<TcpInfo> {
    let mut info = TcpInfo::default();
    get(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    Ok(info)
}

fn send_queue(socket: &TcpStream) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int to the pointer, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(bytes).unwrap_or(0))
}

pub(super) fn cookie(socket: &TcpStream) -> io::Result<Cookie> {
    let mut cookie: Cookie = 0;
    get(socket, libc::SOL_SOCKET, libc::SO_COOKIE, &mut cookie)?;
    Ok(cookie)
}

fn get<T: Copy>(socket: &TcpStream, level: libc::c_int, name: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, whose types here are plain integers.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, std::ptr::from_mut(value).cast(), &raw mut len) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
