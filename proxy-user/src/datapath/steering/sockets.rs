//! The sockets that steering has led to nodes, found and ended through sock_diag, in the network namespace that the thread is
//! in. What the kernel program noted with each comes with the answer, so that no other socket is ever touched.
//! Needs CAP_NET_ADMIN there, storage of sockets in the answer (Linux 5.7) and CONFIG_INET_DIAG_DESTROY.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use bytemuck::pod_read_unaligned;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable,
    Nla as _,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags, nlas::Nla},
};
use nix::sys::socket::SockProtocol;
use proxy_ebpf::steering::Steered;

use crate::nat::netlink::{self, NetlinkError};

/// `linux/sock_diag.h`
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `linux/inet_diag.h`: what is asked for, and what comes.
const REQ_SK_BPF_STORAGES: u16 = 2;
const SK_BPF_STORAGES: u16 = 20;
/// `linux/sock_diag.h`, inside of them.
const STORAGE_REQ_MAP_FD: u16 = 1;
const STORAGE: u16 = 1;
const STORAGE_MAP_VALUE: u16 = 3;
const NESTED: u16 = 1 << 15;

/// A socket and what is known of it.
#[derive(Debug, Clone)]
pub(super) struct Found {
    id: SocketId,
    family: u8,
    pub(super) steered: Steered,
}

/// All of them, orphans of closed ones too; `map` is that of their storage.
pub(super) fn find(map: BorrowedFd<'_>) -> Result<Vec<Found>, NetlinkError> {
    let mut found = Vec::new();
    for id in [SocketId::new_v4(), SocketId::new_v6()] {
        let family = if id.source_address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
        let question = Message::List { request: request(family, id), map: map.as_raw_fd() as u32 };
        match netlink::dump(SockProtocol::NetlinkSockDiag, &question, |answer| match answer {
            Message::Socket(socket) => Some(socket),
            _ => None,
        }) {
            Ok(sockets) => found.extend(sockets.into_iter().flatten()),
            // A kernel without IPv6 has no such sockets.
            Err(error) if family == libc::AF_INET6 as u8 && error.errno() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Ends them: each client's next call fails with ECONNABORTED, and the node gets a RST. Returns how many were there still.
pub(super) fn destroy<'a>(sockets: impl Iterator<Item = &'a Found>) -> Result<usize, NetlinkError> {
    let (mut ended, mut fault) = (0, None);
    let questions = sockets.map(|socket| Message::End(request(socket.family, socket.id.clone())));
    netlink::ask_each(SockProtocol::NetlinkSockDiag, questions, |outcome| match outcome {
        Ok(()) => ended += 1,
        Err(error) if error.errno() == Some(libc::ENOENT) => {}
        Err(error) => fault = Some(error),
    })?;
    fault.map_or(Ok(ended), Err)
}

fn request(family: u8, socket_id: SocketId) -> InetRequest {
    InetRequest {
        family,
        protocol: libc::IPPROTO_TCP as u8,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT,
        socket_id,
    }
}

/// What the library's own message has no room for: the storage of sockets, and their end.
#[derive(Debug, Clone)]
enum Message {
    List {
        request: InetRequest,
        map: u32,
    },
    End(InetRequest),
    /// None: one that was not led anywhere.
    Socket(Option<Found>),
}

impl Message {
    /// The attribute behind the request.
    fn attribute(&self) -> Option<DefaultNla> {
        let Self::List { map, .. } = self else { return None };
        let map = DefaultNla::new(STORAGE_REQ_MAP_FD, map.to_ne_bytes().to_vec());
        let mut value = vec![0; map.buffer_len()];
        map.emit(&mut value);
        Some(DefaultNla::new(REQ_SK_BPF_STORAGES | NESTED, value))
    }

    fn request(&self) -> Option<&InetRequest> {
        match self {
            Self::List { request, .. } | Self::End(request) => Some(request),
            Self::Socket(_) => None,
        }
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::End(_) => SOCK_DESTROY,
            _ => SOCK_DIAG_BY_FAMILY,
        }
    }

    fn buffer_len(&self) -> usize {
        self.request().map_or(0, Emitable::buffer_len) + self.attribute().map_or(0, |it| Emitable::buffer_len(&it))
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let Some(request) = self.request() else { return };
        let (head, rest) = buffer.split_at_mut(request.buffer_len());
        request.emit(head);
        if let Some(attribute) = self.attribute() {
            attribute.emit(rest);
        }
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let SockDiagMessage::InetResponse(answer) = SockDiagMessage::deserialize(header, payload)? else {
            return Err("not about a socket of IP".into());
        };
        let storage = answer.nlas.iter().find_map(|it| match it {
            Nla::Other(other) if other.kind() & !NESTED == SK_BPF_STORAGES => Some(value_of(other)),
            _ => None,
        });
        let header = answer.header;
        let found = |steered| Found { id: header.socket_id, family: header.family, steered };
        Ok(Self::Socket(storage.as_deref().and_then(steered).map(found)))
    }
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        NetlinkPayload::InnerMessage(message)
    }
}

fn value_of(attribute: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    value
}

/// One storage was asked for, so there is one or none.
fn steered(storages: &[u8]) -> Option<Steered> {
    let storage = inner(storages, STORAGE)?;
    let value = inner(storage, STORAGE_MAP_VALUE)?;
    Some(pod_read_unaligned(value.get(..size_of::<Steered>())?))
}

fn inner(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    // `struct nlattr`: length with its head, and kind; the next one begins at a multiple of four.
    while let Some((head, _)) = rest.split_first_chunk::<4>() {
        let [a, b, c, d] = *head;
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = rest.get(head.len()..length)?;
        if kind & !NESTED == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_among_others() {
        let all = [5, 0, 2, 0, 9, 0, 0, 0, 6, 0, 3, 0x80, 7, 8];
        assert_eq!((inner(&all, 2), inner(&all, 3), inner(&all, 4)), (Some(&[9][..]), Some(&[7, 8][..]), None));
        assert_eq!(inner(&[200, 0, 3, 0, 1], 3), None, "cut short");
        assert_eq!(inner(&[0; 8], 3), None, "no length");
    }
}
