//! Ends idle flows at both ends, by RST through raw sockets: a switch has to be noticed by who says nothing.
//! Needs CAP_NET_RAW. Sends from nothing but a flow's own addresses (`segment`). Waits for the kernel to take
//! packets once in each thread, for [`PATIENCE`]; what it refuses is counted, and the rest is sent all the same.

use std::{
    io::{self, IoSlice},
    net::{SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, SockaddrStorage, sendmmsg,
            setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};
use proxy_ebpf::nat::{Door, Flow, Snat};

use super::segment::{Packet, Rst};
use crate::urgent::Urgent;

/// Packets a system call, and what a thread takes at a time.
const BATCH: usize = 128;
const PATIENCE: TimeVal = TimeVal::new(0, 100_000);
/// Below this many a thread takes longer to start than to do its part.
const FEW: usize = 512;
/// Room for about two thousand packets that wait for the interface.
const SEND_BUFFER: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    #[error("raw sockets need CAP_NET_RAW: without it idle connections do not notice a switch")]
    Privilege,
    #[error("a raw socket cannot be made: {0}")]
    Socket(#[source] Errno),
}

/// What became of the packets.
#[derive(Debug, Default)]
pub struct Outcome {
    pub sent: usize,
    /// Not taken by the kernel: no route, or a firewall; the end hears of it at its next packet.
    pub failed: usize,
    /// Why the last of them was not.
    pub error: Option<io::Error>,
}

#[derive(Debug)]
pub struct Resetter {
    v4: OwnedFd,
    /// `None` where the kernel has no IPv6.
    v6: Option<OwnedFd>,
}

impl Resetter {
    pub fn open() -> Result<Self, ResetError> {
        let v6 = match raw(AddressFamily::Inet6) {
            Ok(fd) => Some(fd),
            Err(Errno::EAFNOSUPPORT) => None,
            Err(error) => return Err(refused(error)),
        };
        Ok(Self { v4: raw(AddressFamily::Inet).map_err(refused)?, v6 })
    }

    /// Ends both ends of these flows, which are told with their places: all clients first, since they go on writing. A door or an
    /// address that is not known any more has nobody left to be told. Blocks until all are sent: not on a thread that has other
    /// duties.
    pub fn end<'a>(
        &self,
        flows: &[(u32, Flow)],
        door: impl Fn(u16) -> Option<&'a Door> + Sync,
        snats: &[Snat],
    ) -> Outcome {
        let client = |(_, flow): &(u32, Flow)| Rst::to_client(flow, door(flow.client.through)?);
        let node = |(place, flow): &(u32, Flow)| Rst::to_node(flow, snats.get(usize::from(flow.node.through))?, *place);
        self.share(2 * flows.len(), |index| match flows.get(index) {
            Some(flow) => client(flow),
            None => node(flows.get(index - flows.len())?),
        })
    }

    /// Sends them in this order. Most of the time is the kernel's, which takes a packet all the way to its receiver: where there are
    /// many, two threads share them, and one that comes late, as on a busy machine, finds nothing left to do.
    fn share(&self, count: usize, segment: impl Fn(usize) -> Option<Rst> + Sync) -> Outcome {
        let (next, began) = (AtomicUsize::new(0), Instant::now());
        let take = || {
            let from = next.fetch_add(BATCH, Ordering::Relaxed);
            (from < count).then(|| (from..count.min(from + BATCH)).filter_map(&segment))
        };
        if count < FEW {
            return self.send(began, take);
        }
        thread::scope(|scope| {
            let work = || self.send(began, take);
            let other = thread::Builder::new().name("tc-reset".to_owned()).spawn_scoped(scope, work);
            let outcome = work();
            let panicked = |_| Outcome { error: Some(io::Error::other("a thread panicked")), ..Outcome::default() };
            other.map_or_else(|_| Outcome::default(), |other| other.join().unwrap_or_else(panicked)).and(outcome)
        })
    }

    /// Sends one part after the other.
    fn send<P: Iterator<Item = Rst>>(&self, began: Instant, take: impl Fn() -> Option<P>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut urgent = Urgent::here_since(began);
        let mut v4 = Batch::new(Some(&self.v4));
        let mut v6 = Batch::new(self.v6.as_ref());
        loop {
            // Not with a part in hand: the other one would go on to those who come after it.
            urgent.yield_if_long();
            let Some(part) = take() else { return outcome };
            for segment in part {
                let batch = if segment.to.is_ipv4() { &mut v4 } else { &mut v6 };
                match segment.packet() {
                    Some(packet) => batch.add(packet, destination(&segment), &mut outcome),
                    None => outcome.fail(1, Errno::EAFNOSUPPORT),
                }
            }
            v4.flush(&mut outcome);
            v6.flush(&mut outcome);
        }
    }

    #[cfg(test)]
    pub(super) fn send_all(&self, segments: &[Rst]) -> Outcome {
        self.share(segments.len(), |index| segments.get(index).copied())
    }
}

impl Outcome {
    fn and(self, other: Self) -> Self {
        let (sent, failed) = (self.sent + other.sent, self.failed + other.failed);
        Self { sent, failed, error: other.error.or(self.error) }
    }

    fn fail(&mut self, packets: usize, error: Errno) {
        self.failed += packets;
        self.error = Some(error.into());
    }
}

fn refused(error: Errno) -> ResetError {
    match error {
        Errno::EPERM | Errno::EACCES => ResetError::Privilege,
        error => ResetError::Socket(error),
    }
}

/// A socket of IPPROTO_RAW takes whole packets, header included, in both families (net/ipv4/af_inet.c,
/// net/ipv6/af_inet6.c), and receives nothing.
fn raw(family: AddressFamily) -> nix::Result<OwnedFd> {
    let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    setsockopt(&fd, sockopt::SendTimeout, &PATIENCE)?;
    // Without CAP_NET_ADMIN it is what net.core.wmem_max allows, which is enough, only slower.
    if setsockopt(&fd, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
        setsockopt(&fd, sockopt::SndBuf, &SEND_BUFFER)?;
    }
    Ok(fd)
}

/// Where the kernel routes it to; the packet itself has the port.
fn destination(segment: &Rst) -> SockaddrStorage {
    match segment.to {
        SocketAddr::V4(to) => SockaddrStorage::from(to),
        SocketAddr::V6(to) => {
            let scope = if to.ip().is_unicast_link_local() { segment.ifindex } else { 0 };
            SockaddrStorage::from(SocketAddrV6::new(*to.ip(), 0, 0, scope))
        }
    }
}

struct Batch<'a> {
    fd: Option<&'a OwnedFd>,
    packets: Vec<Packet>,
    destinations: Vec<Option<SockaddrStorage>>,
    /// The kernel has taken nothing for as long as we wait: not once more.
    stuck: bool,
}

impl<'a> Batch<'a> {
    fn new(fd: Option<&'a OwnedFd>) -> Self {
        Self { fd, packets: Vec::with_capacity(BATCH), destinations: Vec::with_capacity(BATCH), stuck: false }
    }

    fn add(&mut self, packet: Packet, to: SockaddrStorage, outcome: &mut Outcome) {
        self.packets.push(packet);
        self.destinations.push(Some(to));
        if self.packets.len() == BATCH {
            self.flush(outcome);
        }
    }

    fn flush(&mut self, outcome: &mut Outcome) {
        let mut from = 0;
        while from < self.packets.len() {
            let left = self.packets.len() - from;
            match self.send(from) {
                Ok(sent) => {
                    outcome.sent += sent;
                    from += sent;
                }
                Err(Errno::EINTR) => {}
                // As it is for this one, it is for the rest of them.
                Err(error @ (Errno::EAGAIN | Errno::EAFNOSUPPORT)) => {
                    self.stuck = true;
                    outcome.fail(left, error);
                    break;
                }
                // The kernel reports the first packet of a call only: it is that one.
                Err(error) => {
                    outcome.fail(1, error);
                    from += 1;
                }
            }
        }
        self.packets.clear();
        self.destinations.clear();
    }

    fn send(&self, from: usize) -> nix::Result<usize> {
        let fd = self.fd.ok_or(Errno::EAFNOSUPPORT)?;
        let packets = &self.packets[from..];
        let slices: Vec<_> = packets.iter().map(|packet| [IoSlice::new(packet.as_ref())]).collect();
        let flags = if self.stuck { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
        let mut headers = MultiHeaders::preallocate(slices.len(), None);
        let sent = sendmmsg(fd.as_raw_fd(), &mut headers, &slices, &self.destinations[from..], [], flags)?;
        Ok(sent.count())
    }
}
