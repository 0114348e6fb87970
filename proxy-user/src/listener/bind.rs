//! Listening sockets. Promises: an address is this route's alone; an IPv6 address takes IPv6 only,
//! so that "0.0.0.0" and "[::]" go together; an error names the address and what to do.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::holder::holder;
use crate::socket;

/// The kernel takes the smaller of this and net.core.somaxconn.
const BACKLOG: i32 = 4096;

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}{}", remedy(*address, source))]
pub struct BindError {
    pub address: SocketAddr,
    #[source]
    pub source: io::Error,
}

/// A non-blocking listening socket, and the address it got.
pub(super) fn bind(address: SocketAddr) -> Result<(SocketAddr, TcpListener), BindError> {
    let listen = || {
        let listening = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            listening.set_only_v6(true)?;
        }
        // Connections of an earlier run may linger in TIME_WAIT; two listeners are refused still.
        listening.set_reuse_address(true)?;
        listening.set_nonblocking(true)?;
        socket::tune(&listening)?;
        listening.bind(&address.into())?;
        listening.listen(BACKLOG)?;
        let listening = TcpListener::from(listening);
        Ok((listening.local_addr()?, listening))
    };
    listen().map_err(|source| BindError { address, source })
}

/// What to do, to be put behind the error.
pub(crate) fn remedy(address: SocketAddr, error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => {
            let holder = holder(address).map_or_else(String::new, |holder| format!(" by {holder}"));
            format!("{holder}; stop what listens there, or choose another address for `listen`")
        }
        Some(Errno::EACCES) => "; ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE: \
             grant it, or choose a port of 1024 or above"
            .to_owned(),
        Some(Errno::EADDRNOTAVAIL) => "; no interface of this host (or network namespace) has the address: \
             check `ip address`, or set net.ipv4.ip_nonlocal_bind (net.ipv6.ip_nonlocal_bind) for a floating address"
            .to_owned(),
        Some(Errno::EAFNOSUPPORT) => "; this kernel has no IPv6: remove the address from `listen`".to_owned(),
        Some(Errno::EMFILE | Errno::ENFILE) => "; raise the limit on open files (LimitNOFILE, ulimit -n)".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_do() {
        let words = |errno: Errno| {
            let address = ([192, 0, 2, 1], 443).into();
            BindError { address, source: errno.into() }.to_string()
        };
        assert!(words(Errno::EACCES).contains("CAP_NET_BIND_SERVICE"));
        assert!(words(Errno::EACCES).starts_with("cannot listen on 192.0.2.1:443: "));
        assert!(words(Errno::EMFILE).contains("LimitNOFILE"));
        assert!(words(Errno::EAFNOSUPPORT).contains("no IPv6"));
    }
}
