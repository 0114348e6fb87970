//! Whether this kernel can end a foreign socket (CONFIG_INET_DIAG_DESTROY), by asking it to end one
//! that cannot exist: the cookie in the request was never given out, so nothing is ever ended.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
        sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};

use super::{
    Check, State,
    privileges::{Capability, Held},
};

/// include/uapi/linux/sock_diag.h
const SOCK_DESTROY: u16 = 21;
/// `struct nlmsghdr`, then `struct inet_diag_req_v2`.
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;

pub(super) fn sock_destroy(held: &Held) -> Check {
    const NAME: &str = "SOCK_DESTROY";
    if !held.has(Capability::NetAdmin) {
        let found = "cannot be tried without CAP_NET_ADMIN; only steering needs it";
        return Check::bad(NAME, State::Unknown, found, "");
    }
    match ask() {
        // The kernel searched, so it could have ended one.
        Ok(0 | libc::ENOENT | libc::ESTALE) => Check::ok(NAME, "offered by this kernel"),
        Ok(libc::EOPNOTSUPP | libc::EINVAL) => Check::bad(
            NAME,
            State::Warn,
            "not offered by this kernel; only steering needs it",
            "a kernel with CONFIG_INET_DIAG_DESTROY",
        ),
        Ok(errno) => unknown(NAME, &io::Error::from_raw_os_error(errno)),
        Err(error) => unknown(NAME, &error),
    }
}

fn unknown(name: &'static str, error: &io::Error) -> Check {
    Check::bad(name, State::Unknown, format!("the kernel's answer says neither yes nor no: {error}"), "")
}

/// The errno in the kernel's acknowledgement.
fn ask() -> io::Result<i32> {
    let fd: OwnedFd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    setsockopt(&fd, ReceiveTimeout, &TimeVal::new(1, 0))?;
    sendto(fd.as_raw_fd(), &request(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut reply = [0u8; 256];
    let length = recv(fd.as_raw_fd(), &mut reply, MsgFlags::empty())?;
    errno_of(&reply[..length]).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn request() -> [u8; REQUEST] {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut bytes = [0u8; REQUEST];
    bytes[0..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DESTROY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[HEADER] = libc::AF_INET as u8;
    bytes[HEADER + 1] = libc::IPPROTO_TCP as u8;
    // Ports and addresses stay 0. The cookie: not INET_DIAG_NOCOOKIE, which is all ones, and never
    // reached by the kernel's counter of sockets.
    bytes[REQUEST - 8..].copy_from_slice(&(u64::MAX - 1).to_ne_bytes());
    bytes
}

/// From `NLMSG_ERROR`: a header, then the errno, negative or 0.
fn errno_of(reply: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(reply.get(4..6)?.try_into().ok()?);
    let errno = i32::from_ne_bytes(reply.get(HEADER..HEADER + 4)?.try_into().ok()?);
    (i32::from(kind) == libc::NLMSG_ERROR).then(|| errno.wrapping_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_with_care() {
        let mut reply = [0u8; 36];
        reply[4..6].copy_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        reply[16..20].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        assert_eq!(errno_of(&reply), Some(libc::ENOENT));
        assert_eq!(errno_of(&reply[..18]), None);
        assert_eq!(errno_of(&[]), None);
        assert_eq!(errno_of(&[0; 36]), None);
    }

    #[test]
    fn the_kernel_understands_the_request() {
        let check = sock_destroy(&Held::read());
        assert!(check.state != State::Unknown || check.found.contains("CAP_NET_ADMIN"), "{check:?}");
    }
}
