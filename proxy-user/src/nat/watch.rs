//! Says that something changed in the host's network: an interface, an address, a route or a rule.
//! Promises: no change after [`Watch::open`] goes unnoticed; several may be told as one.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockFlag, SockProtocol, recv},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::netlink::{self, NetlinkError};

/// Groups by number (`rtnetlink.h`), as the bits of `sockaddr_nl`.
const GROUPS: u32 = group(libc::RTNLGRP_LINK)
    | group(libc::RTNLGRP_IPV4_IFADDR)
    | group(libc::RTNLGRP_IPV4_ROUTE)
    | group(libc::RTNLGRP_IPV4_RULE)
    | group(libc::RTNLGRP_IPV6_IFADDR)
    | group(libc::RTNLGRP_IPV6_ROUTE)
    | group(RTNLGRP_IPV6_RULE);
const RTNLGRP_IPV6_RULE: u32 = 19;
/// A flood of changes (a full routing table) is told as one, and as another if it goes on.
const MOST_AT_ONCE: usize = 1024;

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

#[derive(Debug)]
pub struct Watch {
    socket: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Needs a runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        let fd = netlink::open(SockProtocol::NetlinkRoute, SockFlag::SOCK_NONBLOCK, GROUPS)?;
        // SAFETY: an `OwnedFd` is one and the same descriptor, open as long as it lives.
        let socket = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)?;
        Ok(Self { socket })
    }

    /// Returns once something has changed since the last return. May be cancelled.
    pub async fn changed(&self) -> Result<(), NetlinkError> {
        loop {
            let mut ready = self.socket.readable().await?;
            if drain(&self.socket)? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

/// Reads what has come, and looks at none of it; true if there was anything.
fn drain(socket: &AsyncFd<OwnedFd>) -> Result<bool, NetlinkError> {
    for read in 0..MOST_AT_ONCE {
        match recv(socket.as_raw_fd(), &mut [0; 64], MsgFlags::MSG_DONTWAIT) {
            // The rest of a message is dropped with it. ENOBUFS: so much changed that some was lost.
            Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(read > 0),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}
