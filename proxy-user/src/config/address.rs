//! Addresses as they are written: `10.0.0.1:6379`, `[fd00::1]:6379`, `redis-0.redis.svc:6379`,
//! `10.0.0.0/8`, `unix:/run/x.sock`. Names are checked as names here and resolved much later.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use ipnet::IpNet;

use super::{
    AdminListen, HostPort,
    errors::{Invalid, quoted},
};

const HOST_VALID: &str = "valid: HOST:PORT, such as \"10.0.0.1:6379\", \"redis-0.redis.svc:6379\", \"[fd00::1]:6379\"";
const LISTEN_VALID: &str = "valid: an IP address of this host and a port, such as \"0.0.0.0:6379\", \"[::]:6379\"";

impl FromStr for HostPort {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // A URL may hold a password, so it is not repeated.
        if text.contains("://") || text.contains('@') {
            return Err(Invalid::new("is a URL", HOST_VALID));
        }
        let invalid = |what| Invalid::new(format!("{} {what}", quoted(text)), HOST_VALID);
        let (host, port) = split(text).map_err(invalid)?;
        let port = parse_port(port).map_err(invalid)?;
        if let Ok(address) = host.parse::<IpAddr>() {
            let address = address.to_canonical();
            if address.is_unspecified() || address.is_multicast() {
                return Err(invalid("is an address that no server can have"));
            }
            return Ok(Self { host: address.to_string(), port });
        }
        check_hostname(host).map_err(invalid)?;
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl HostPort {
    /// The socket address, if the host is an address and not a name.
    pub fn as_socket_addr(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host.parse().ok()?, self.port))
    }
}

fn split(text: &str) -> Result<(&str, &str), &'static str> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once("]:").ok_or("has no port after its bracket")?;
        return match host.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok((host, port)),
            Err(_) => Err("has no IPv6 address in its brackets"),
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
    match host.contains(':') {
        true => Err("needs brackets around its IPv6 address"),
        false => Ok((host, port)),
    }
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    // `parse` alone would take "+6379".
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match digits.then(|| text.parse()) {
        Some(Ok(port)) if port > 0 => Ok(port),
        _ => Err("has no port from 1 to 65535"),
    }
}

/// RFC 1123, and the underscore that container names have.
pub(super) fn check_hostname(host: &str) -> Result<(), &'static str> {
    let labels = host.strip_suffix('.').unwrap_or(host);
    let valid = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if labels.len() > 253 || !labels.split('.').all(valid) {
        return Err("is not a host name");
    }
    let last = labels.rsplit('.').next().unwrap_or_default();
    match last.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Err("is not an IPv4 address"),
        false => Ok(()),
    }
}

/// An address to listen on.
pub(super) fn listen(text: &str) -> Result<SocketAddr, Invalid> {
    let invalid = |what: &str| Invalid::new(format!("{} {what}", quoted(text)), LISTEN_VALID);
    if text.starts_with("unix:") {
        return Err(invalid("is a unix socket, which only [admin] can listen on"));
    }
    if text.starts_with(':') || text.starts_with('*') {
        return Err(invalid("does not say whether IPv4 or IPv6"));
    }
    let address: SocketAddr = text.parse().map_err(|_| match split(text).map(|(_, port)| parse_port(port)) {
        Ok(Ok(_)) => invalid("is not an IP address with a port"),
        Ok(Err(what)) | Err(what) => invalid(what),
    })?;
    let ip = address.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    match address.port() {
        0 => Err(invalid("has no port from 1 to 65535")),
        _ if ip.is_multicast() || broadcast => Err(invalid("is an address that no host can have")),
        // The scope of a link-local address lives in the original, a mapped IPv4 address has none.
        _ if ip.is_ipv4() => Ok(SocketAddr::new(ip, address.port())),
        _ => Ok(address),
    }
}

/// An address of this host that nodes are to see.
pub(super) fn own(text: &str) -> Result<IpAddr, Invalid> {
    let invalid = |what: &str| {
        Invalid::new(format!("{} {what}", quoted(text)), "valid: an address of this host, such as \"10.0.0.9\"")
    };
    let ip: IpAddr = text.parse().map_err(|_| invalid("is not an IP address"))?;
    let ip = ip.to_canonical();
    let special = match ip {
        IpAddr::V4(ip) => ip.is_broadcast() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let others = special || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    if others { Err(invalid("is no address that a node can answer to")) } else { Ok(ip) }
}

/// A network, or a single address.
pub(super) fn network(text: &str) -> Result<IpNet, Invalid> {
    let valid = "valid: \"10.0.0.0/8\", \"fd00::/8\", \"127.0.0.1\"";
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(
            text.parse::<IpAddr>()
                .map_err(|_| Invalid::new(format!("{} is not a network in CIDR form", quoted(text)), valid))?,
        ),
    };
    if net.addr() == net.network() {
        return Ok(net);
    }
    // 10.0.0.1/8 is either one host or a whole network: a rule of access is not the place to guess.
    let choices = format!("valid: \"{}\" or \"{}\"", net.trunc(), IpNet::from(net.addr()));
    Err(Invalid::new(format!("{} has bits of a host in a network", quoted(text)), choices))
}

/// What fits `sun_path` with its closing zero.
const UNIX_PATH_MAX: usize = 107;

impl FromStr for AdminListen {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let Some(path) = text.strip_prefix("unix:") else {
            return listen(text).map(Self::Tcp).map_err(|mut invalid| {
                invalid.valid.push_str(", \"unix:/run/switchmaster.sock\"");
                invalid
            });
        };
        let valid = format!("valid: \"unix:/run/switchmaster.sock\", a path of at most {UNIX_PATH_MAX} bytes");
        match path.len() {
            0 => Err(Invalid::new("has no path after \"unix:\"", valid)),
            1..=UNIX_PATH_MAX => Ok(Self::Unix(PathBuf::from(path))),
            _ => Err(Invalid::new("has a path that is too long for a unix socket", valid)),
        }
    }
}

impl fmt::Display for AdminListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests;
