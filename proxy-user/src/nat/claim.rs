//! One daemon in a network namespace has the source ports of packets that are translated: a second one would give out the same,
//! and each would take the other's flows for its own.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::programs::{SchedClassifier, TcAttachType};
use proxy_ebpf::nat::names;

use super::egress::Host;
use crate::kernel::Links;

/// An abstract name is the namespace's, and free when its process has ended, however that was. It is for two that start at once:
/// what one has attached the other sees only later.
const NAME: &str = "switchmaster/source-ports";

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(
        "another daemon in this network namespace translates packets, by the same source ports; its routes or these have to be \
served by sockmap or copy, or one of the two in a namespace of its own"
    )]
    Taken,
    #[error(
        "another daemon's program translates packets at {0}, by the same source ports; if that daemon was killed, `switchmaster \
purge --pin-dir` with its folder removes what it left"
    )]
    Attached(String),
    #[error("the source ports cannot be claimed: {0}")]
    Socket(#[source] io::Error),
}

static HELD: Mutex<Option<UnixDatagram>> = Mutex::new(None);

/// From here on they are this process's, which has these links.
pub fn claim(own: &Links) -> Result<(), ClaimError> {
    let mut held = held();
    if held.is_some() {
        return Ok(());
    }
    if let Some(interface) = foreign(own) {
        return Err(ClaimError::Attached(interface));
    }
    *held = Some(bind().map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ClaimError::Taken,
        _ => ClaimError::Socket(error),
    })?);
    Ok(())
}

/// It translates nothing after all.
pub fn release() {
    held().take();
}

fn held() -> MutexGuard<'static, Option<UnixDatagram>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An interface with a program of ours by name that none of our links holds. Without CAP_SYS_ADMIN the kernel tells no names, and
/// nobody is found.
fn foreign(own: &Links) -> Option<String> {
    let ours = own.found().unwrap_or_default();
    let host = Host::read().unwrap_or_default();
    let found = host.interfaces.into_iter().find(|interface| {
        let all = SchedClassifier::query_tcx(&interface.name, TcAttachType::Ingress);
        let all = all.map_or_else(|_| Vec::new(), |(_, programs)| programs);
        let translating = all.iter().filter(|program| program.name_as_str() == Some(names::TC)).count();
        translating > usize::from(ours.contains(&interface.ifindex))
    });
    found.map(|interface| interface.name)
}

fn bind() -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(NAME)?)
}
