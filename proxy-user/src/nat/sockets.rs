//! The ports on an address that sockets of this host hold now, by sock_diag. To be asked once ours are reserved.
//! Sees every TCP socket of the network namespace, of any user, those in TIME_WAIT too; those that are bound
//! and neither listen nor connect since Linux 6.8 only (TCP_BOUND_INACTIVE).

use std::net::IpAddr;

use netlink_packet_sock_diag::{
    SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use nix::sys::socket::SockProtocol;

use super::netlink::{self, NetlinkError};

/// `tcp_states.h`; older kernels know no such state and ignore it.
const BOUND_INACTIVE: u32 = 1 << 13;

#[derive(Debug, thiserror::Error)]
#[error(
    "the host's sockets cannot be listed, so that no port of {address} is known to be free: {source}; this needs the kernel's module `tcp_diag`"
)]
pub struct SocketsError {
    address: IpAddr,
    source: NetlinkError,
}

/// The local ports of all sockets that take packets to this address.
pub fn ports_on(address: IpAddr) -> Result<Vec<u16>, SocketsError> {
    let mut ports = Vec::new();
    for socket_id in [SocketId::new_v4(), SocketId::new_v6()] {
        let family = if socket_id.source_address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let question = SockDiagMessage::InetRequest(InetRequest {
            family: family as u8,
            protocol: libc::IPPROTO_TCP as u8,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all() | StateFlags::from_bits_retain(BOUND_INACTIVE),
            socket_id,
        });
        let found = netlink::dump(SockProtocol::NetlinkSockDiag, &question, |answer| match answer {
            SockDiagMessage::InetResponse(socket) => {
                let id = &socket.header.socket_id;
                takes(id.source_address, address).then_some(id.source_port)
            }
            _ => None,
        });
        match found {
            Ok(found) => ports.extend(found),
            // A kernel without IPv6 has no such sockets.
            Err(error) if family == libc::AF_INET6 && error.errno() == Some(libc::ENOENT) => {}
            Err(source) => return Err(SocketsError { address, source }),
        }
    }
    Ok(ports)
}

/// Whether a socket that is bound to `bound` takes packets to `address`. `[::]` may take IPv4 too: it counts as if it did.
pub(super) fn takes(bound: IpAddr, address: IpAddr) -> bool {
    let bound = bound.to_canonical();
    match bound {
        IpAddr::V4(ip) if ip.is_unspecified() => address.is_ipv4(),
        IpAddr::V6(ip) if ip.is_unspecified() => true,
        bound => bound == address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn a_socket_takes_what_it_is_bound_to() {
        let cases = [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.2", "10.0.0.1", false),
            ("0.0.0.0", "10.0.0.1", true),
            ("0.0.0.0", "2001:db8::1", false),
            ("::", "10.0.0.1", true),
            ("::", "2001:db8::1", true),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("2001:db8::1", "2001:db8::2", false),
        ];
        for (bound, address, takes_it) in cases {
            assert_eq!(takes(bound.parse().unwrap(), address.parse().unwrap()), takes_it, "{bound} and {address}");
        }
    }

    fn before_6_8(release: &str) -> bool {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0u32));
        (numbers.next(), numbers.next()) < (Some(6), Some(8))
    }

    #[test]
    fn listeners_and_connections_of_this_host_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ports = ports_on([127, 0, 0, 1].into()).unwrap();
        for socket in [listener.local_addr(), client.local_addr()] {
            let port = socket.unwrap().port();
            assert!(ports.contains(&port), "{port} is not among {ports:?}");
        }
        // Neither listening nor connected.
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let port = bound.local_addr().unwrap().as_socket().unwrap().port();
        let found = ports_on([127, 0, 0, 1].into()).unwrap().contains(&port);
        let kernel = nix::sys::utsname::uname().unwrap();
        assert!(found || before_6_8(&kernel.release().to_string_lossy()), "{port}");
        let elsewhere = ports_on([127, 9, 9, 9].into()).unwrap();
        assert!(!elsewhere.contains(&client.local_addr().unwrap().port()));
    }
}
