//! One spelling for one address: an IPv4 address mapped into IPv6 is the IPv4 address, and a flow
//! label is not part of who somebody is. Everything that is stored or compared of a group went through here.

use std::net::{IpAddr, SocketAddr};

pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, addr.port())),
        IpAddr::V6(_) => {
            let mut addr = addr;
            if let SocketAddr::V6(v6) = &mut addr {
                v6.set_flowinfo(0);
            }
            addr
        }
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn mapped_v4_is_v4_and_scope_is_kept() {
        let of = |text: &str| canonical(text.parse().expect("an address"));
        assert_eq!(of("[::ffff:10.0.0.1]:6379"), of("10.0.0.1:6379"));
        assert_ne!(of("10.0.0.1:6379"), of("10.0.0.12:6379"));
        assert_ne!(of("10.0.0.1:6379"), of("10.0.0.1:6380"));
        assert_ne!(of("[fe80::1%2]:6379"), of("[fe80::1%3]:6379"));
    }
}
