//! What drivers can do for XDP, by the generic netlink family `netdev` (Linux 6.3; Documentation/netlink/specs/netdev.yaml).

use std::collections::HashMap;

use netlink_packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use nix::sys::socket::SockProtocol;

use super::super::netlink::{self, NetlinkError};

/// `linux/genetlink.h`
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `linux/netdev.h`
const GET_DEVICE: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;

const BASIC: u64 = 1;
const REDIRECT: u64 = 2;
const NDO_XMIT: u64 = 4;
const NDO_XMIT_SG: u64 = 64;

const HEADER: usize = 4;

/// What a driver can do for a program at XDP, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    /// Runs it, and lets it redirect.
    pub redirects: bool,
    /// Sends out frames that were redirected to it.
    pub sends: bool,
    /// Also those that lie in several pieces.
    pub sends_pieces: bool,
}

impl Abilities {
    fn of(features: u64) -> Self {
        let has = |all: u64| features & all == all;
        Self { redirects: has(BASIC | REDIRECT), sends: has(NDO_XMIT), sends_pieces: has(NDO_XMIT | NDO_XMIT_SG) }
    }
}

/// Of all interfaces, by their numbers.
pub(super) fn abilities() -> Result<HashMap<u32, Abilities>, NetlinkError> {
    let Some(family) = family()? else { return Ok(HashMap::new()) };
    let question = Message { kind: family, command: GET_DEVICE, attributes: Vec::new() };
    let found = netlink::dump(SockProtocol::NetlinkGeneric, &question, |answer| {
        let ifindex = answer.attribute(IFINDEX)?.try_into().ok().map(u32::from_ne_bytes)?;
        let features = answer.attribute(XDP_FEATURES)?.try_into().ok().map(u64::from_ne_bytes)?;
        Some((ifindex, Abilities::of(features)))
    })?;
    Ok(found.into_iter().collect())
}

/// The number of the family on this kernel, if it has it.
fn family() -> Result<Option<u16>, NetlinkError> {
    const NAME: &[u8] = b"netdev\0";
    let mut attributes = Vec::new();
    attributes.extend((HEADER as u16 + NAME.len() as u16).to_ne_bytes());
    attributes.extend(FAMILY_NAME.to_ne_bytes());
    attributes.extend(NAME);
    attributes.resize(attributes.len().next_multiple_of(4), 0);
    let question = Message { kind: CONTROL, command: GET_FAMILY, attributes };
    match netlink::ask(SockProtocol::NetlinkGeneric, &question) {
        Ok(answer) => Ok(answer.and_then(|it| Some(u16::from_ne_bytes(it.attribute(FAMILY_ID)?.try_into().ok()?)))),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A generic netlink message, its attributes as they lie in it.
#[derive(Debug, Clone)]
struct Message {
    kind: u16,
    command: u8,
    attributes: Vec<u8>,
}

impl Message {
    fn attribute(&self, kind: u16) -> Option<Vec<u8>> {
        let found = NlasIterator::new(&self.attributes).flatten().find(|it| it.kind() == kind)?;
        Some(found.value().to_vec())
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        // Command, version, two bytes of nothing.
        buffer[..HEADER].copy_from_slice(&[self.command, 1, 0, 0]);
        buffer[HEADER..].copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let too_small = || DecodeError::buffer_too_small(payload.len(), HEADER);
        let (head, attributes) = payload.split_at_checked(HEADER).ok_or_else(too_small)?;
        Ok(Self { kind: header.message_type, command: head[0], attributes: attributes.to_vec() })
    }
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_told_apart() {
        assert_eq!(Abilities::of(0), Abilities::default());
        assert!(!Abilities::of(BASIC).redirects);
        let able = Abilities::of(BASIC | REDIRECT | NDO_XMIT);
        assert_eq!(able, Abilities { redirects: true, sends: true, sends_pieces: false });
        assert!(Abilities::of(NDO_XMIT | NDO_XMIT_SG).sends_pieces);
    }

    #[test]
    fn the_kernel_answers() {
        // The loopback interface is there, and its driver has no XDP of its own.
        let found = abilities().expect("the kernel's answer");
        if !found.is_empty() {
            assert_eq!(found.get(&1), Some(&Abilities::default()));
        }
    }
}
