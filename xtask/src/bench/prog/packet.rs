//! The packet that the programs are run over: Ethernet, IPv4 and TCP without options, and some payload, with
//! checksums that are right.

use std::net::SocketAddrV4;

use super::super::link::Mac;

/// What the harness restores before each run.
pub(super) const HEADERS: usize = 14 + 20 + 20;
pub(super) const PAYLOAD: usize = 64;
/// Where the client's address is, and its port.
pub(super) const CLIENT: usize = 14 + 12;
pub(super) const PORT: usize = 14 + 20;
const ACK_AND_PUSH: u8 = 0x18;

#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) from_mac: Mac,
    pub(super) to_mac: Mac,
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
}

/// A segment in the middle of a connection.
pub(super) fn segment(ends: &Ends) -> Vec<u8> {
    let mut ip = [&[0x45, 0][..], &length(20 + 20 + PAYLOAD), &[0, 1, 0x40, 0, 64, 6, 0, 0]].concat();
    ip.extend(ends.from.ip().octets());
    ip.extend(ends.to.ip().octets());
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum);

    let mut tcp = [ends.from.port().to_be_bytes(), ends.to.port().to_be_bytes()].concat();
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, ACK_AND_PUSH, 2, 0, 0, 0, 0, 0]);
    tcp.extend([b'x'; PAYLOAD]);
    // The pseudo header: both addresses, the protocol, the length.
    let sum = checksum(&[&ip[12..20], &[0, 6], &length(20 + PAYLOAD), &tcp]);
    tcp[16..18].copy_from_slice(&sum);

    [&ends.to_mac[..], &ends.from_mac, &[8, 0], &ip, &tcp].concat()
}

fn length(bytes: usize) -> [u8; 2] {
    (bytes as u16).to_be_bytes()
}

/// The Internet checksum; every part but the last has an even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let word = |bytes: &[u8]| u32::from(bytes[0]) << 8 | bytes.get(1).map_or(0, |&low| u32::from(low));
    let mut sum: u32 = words.map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_that_of_the_rfc() {
        // RFC 1071, section 3.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), [0x22, 0x0d]);
    }

    #[test]
    fn what_has_a_right_checksum_sums_up_to_nothing() {
        let (from, to) = ("10.0.0.2:5555".parse().unwrap(), "10.0.0.1:6379".parse().unwrap());
        let packet = segment(&Ends { from_mac: [2; 6], to_mac: [4; 6], from, to });
        assert_eq!(packet.len(), HEADERS + PAYLOAD);
        let (ip, tcp) = (&packet[14..34], &packet[34..]);
        assert_eq!(checksum(&[ip]), [0, 0]);
        assert_eq!(checksum(&[&ip[12..20], &[0, 6], &length(tcp.len()), tcp]), [0, 0]);
    }
}
