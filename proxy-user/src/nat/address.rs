//! Addresses as the ABI has them: an IPv4 one is ::ffff:a.b.c.d, a port is in network byte order.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use proxy_ebpf::nat::{Address, Endpoint, Port};

pub fn encode(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

pub fn decode(address: Address) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

pub fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { addr: encode(address.ip()), port: address.port().to_be_bytes(), _pad: [0; 2] }
}

pub fn socket_address(address: Address, port: Port) -> SocketAddr {
    SocketAddr::new(decode(address), u16::from_be_bytes(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_went() {
        for text in ["10.0.0.1:6379", "[2001:db8::1]:1", "[::1]:65535", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            let there = endpoint(address);
            assert_eq!(socket_address(there.addr, there.port), address);
        }
        let four = endpoint(([10, 1, 2, 3], 0x1234).into());
        assert_eq!(four.addr, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3]);
        assert_eq!(four.port, [0x12, 0x34]);
    }
}
