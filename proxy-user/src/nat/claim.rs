//! One daemon in a network namespace has the source ports of packets that are translated: a second one would give out the same,
//! and each would take the other's flows for its own.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::{Mutex, PoisonError},
};

/// An abstract name is the namespace's, and free when its process has ended, however that was.
const NAME: &str = "switchmaster/source-ports";

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(
        "another daemon in this network namespace translates packets, by the same source ports; its routes or these have to be \
served by sockmap or copy, or one of the two in a namespace of its own"
    )]
    Taken,
    #[error("the source ports cannot be claimed: {0}")]
    Socket(#[source] io::Error),
}

/// From here on they are this process's.
pub fn claim() -> Result<(), ClaimError> {
    static HELD: Mutex<Option<UnixDatagram>> = Mutex::new(None);
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if held.is_none() {
        *held = Some(bind().map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => ClaimError::Taken,
            _ => ClaimError::Socket(error),
        })?);
    }
    Ok(())
}

fn bind() -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(NAME)?)
}
