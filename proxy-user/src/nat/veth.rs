//! The other end of a veth: whether a program at XDP waits there, which the kernel tells from here, and whether its host
//! computes its TCP checksums, or leaves them to hardware that is not there. That is told in the end's own network
//! namespace only; where we may not go there, nobody can say.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
    nsid::{NsidAttribute, NsidMessage},
};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::netlink;
use crate::kernel::netns::{inside, namespaces};

/// `linux/ethtool.h`: whether any checksum is left to the device.
const GET_TX_CHECKSUM: u32 = 0x16;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Peer {
    pub(super) name: Option<String>,
    /// None: it cannot be seen from here.
    pub(super) computes: Option<bool>,
}

impl Peer {
    /// `namespace`: our number for where it is; None: here.
    pub(super) fn look(ifindex: u32, namespace: Option<i32>) -> Self {
        let there = match namespace {
            None => here().ok(),
            Some(wanted) => find(wanted).and_then(|namespace| inside(&namespace, here)?.ok()),
        };
        let Some(socket) = there else { return Self::default() };
        let Ok(name) = name_of(&socket, ifindex) else { return Self::default() };
        let computes = leaves_checksums(&socket, &name).ok().map(|leaves| !leaves);
        Self { name: Some(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()), computes }
    }
}

/// Whether a program at XDP sees what comes in at that end. None: the kernel does not say.
pub(super) fn runs_xdp(ifindex: u32, namespace: i32) -> Option<bool> {
    let mut question = LinkMessage::default();
    question.header.index = ifindex;
    question.attributes.push(LinkAttribute::IfNetnsId(namespace));
    match netlink::ask(SockProtocol::NetlinkRoute, &RouteNetlinkMessage::GetLink(question)) {
        Ok(Some(RouteNetlinkMessage::NewLink(link))) => Some(link.attributes.iter().any(|attribute| {
            let LinkAttribute::Xdp(facts) = attribute else { return false };
            facts.iter().any(|fact| matches!(fact, LinkXdp::Attached(how) if *how != XdpAttached::None))
        })),
        _ => None,
    }
}

/// The namespace that has this number here.
fn find(wanted: i32) -> Option<File> {
    let mut files = namespaces().into_iter().filter_map(|path| File::open(path).ok());
    files.find(|file| number(file) == Some(wanted))
}

/// Our number for a namespace, if it has one.
fn number(namespace: &File) -> Option<i32> {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd() as u32));
    match netlink::ask(SockProtocol::NetlinkRoute, &RouteNetlinkMessage::GetNsId(message)) {
        Ok(Some(RouteNetlinkMessage::NewNsId(answer))) => answer.attributes.iter().find_map(|it| match it {
            NsidAttribute::Id(number) => Some(*number),
            _ => None,
        }),
        _ => None,
    }
}

fn here() -> nix::Result<OwnedFd> {
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    Ok(fd)
}

type Name = [u8; libc::IFNAMSIZ];

fn name_of(socket: &OwnedFd, ifindex: u32) -> io::Result<Name> {
    let mut request = request([0; libc::IFNAMSIZ]);
    request.ifr_ifru.ifru_ifindex = ifindex as i32;
    // SAFETY: the kernel writes the name into the request.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFNAME, &raw mut request) })?;
    Ok(request.ifr_name.map(|byte| byte as u8))
}

fn leaves_checksums(socket: &OwnedFd, name: &Name) -> io::Result<bool> {
    // `struct ethtool_value`: the command, and its answer.
    let mut value = [GET_TX_CHECKSUM, 0];
    let mut request = request(*name);
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: the request leads to a value that lives as long, and has the size that the command wants.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) })?;
    Ok(value[1] != 0)
}

fn request(name: Name) -> libc::ifreq {
    // SAFETY: plain data, of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name = name.map(|byte| byte as libc::c_char);
    request
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
