//! Who listens on an address already, from /proc. Needs nothing; says less without the right to
//! look into other users' processes. Used only to word an error, and bounded in what it reads.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

/// The state of a listening socket in /proc/net/tcp (TCP_LISTEN).
const LISTEN: &str = "0A";

/// A listening socket as /proc/net/tcp shows it.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    address: SocketAddr,
    uid: u32,
    inode: u64,
}

/// Words for the process that keeps `wanted` from being bound.
pub(super) fn holder(wanted: SocketAddr) -> Option<String> {
    let table =
        if wanted.is_ipv4() { ["/proc/net/tcp", "/proc/net/tcp6"] } else { ["/proc/net/tcp6", "/proc/net/tcp"] };
    let entry = table.iter().find_map(|path| find(&fs::read_to_string(path).ok()?, wanted))?;
    let Some(pid) = owner(entry.inode) else {
        return Some(format!("a process of user {}", entry.uid));
    };
    if pid == std::process::id() {
        return Some("this very process, for another route or listener".to_owned());
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (process {pid})", name.trim()))
}

fn find(table: &str, wanted: SocketAddr) -> Option<Entry> {
    table.lines().filter_map(parse).find(|entry| overlaps(entry.address, wanted))
}

fn overlaps(held: SocketAddr, wanted: SocketAddr) -> bool {
    let (a, b) = (held.ip().to_canonical(), wanted.ip().to_canonical());
    held.port() == wanted.port() && (a == b || a.is_unspecified() || b.is_unspecified())
}

/// One line: `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...`.
fn parse(line: &str) -> Option<Entry> {
    let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
    let &[_, local, _, LISTEN, _, _, _, uid, _, inode] = fields.as_slice() else { return None };
    Some(Entry { address: parse_address(local)?, uid: uid.parse().ok()?, inode: inode.parse().ok()? })
}

/// The address is printed as 32-bit words in the host's byte order, the port as a number.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |n: usize| u32::from_str_radix(ip.get(n * 8..n * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            Ipv6Addr::from(<[u8; 16]>::try_from(words.as_flattened()).ok()?).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The process that has the socket among its open files.
fn owner(inode: u64) -> Option<u32> {
    let socket = format!("socket:[{inode}]");
    let holds = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"));
        files.is_ok_and(|files| {
            files.flatten().any(|f| fs::read_link(f.path()).is_ok_and(|to| to == Path::new(&socket)))
        })
    };
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn reads_the_kernels_tables() {
        let v4 = "   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000   107        0 20512 1 0 100 0";
        let seen = parse(v4).unwrap();
        assert_eq!(seen, Entry { address: "127.0.0.1:6379".parse().unwrap(), uid: 107, inode: 20512 });
        let v6 =
            "  0: 00000000000000000000000001000000:18EB 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 77 1";
        assert_eq!(parse(v6).unwrap().address, "[::1]:6379".parse().unwrap());
        assert_eq!(parse(&v4.replace(" 0A ", " 01 ")), None, "established");
        assert_eq!(parse("  sl  local_address rem_address   st tx_queue"), None);
    }

    #[test]
    fn a_wildcard_stands_in_everybodys_way() {
        let overlap = |a: &str, b: &str| overlaps(a.parse().unwrap(), b.parse().unwrap());
        assert!(overlap("0.0.0.0:1", "10.0.0.1:1") && overlap("10.0.0.1:1", "0.0.0.0:1"));
        assert!(!overlap("10.0.0.1:1", "10.0.0.2:1") && !overlap("10.0.0.1:1", "10.0.0.1:2"));
    }

    #[test]
    fn finds_itself() {
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let words = holder(socket.local_addr().unwrap()).unwrap();
        assert!(words.contains("this very process"), "{words}");
    }
}
