//! One direction of a connection moved by the daemon: read, write, and keep only what did not fit.
//! Promises order, backpressure (nothing is read while anything is pending) and a bounded turn.

use std::io;

use super::end::{End, Read};
use crate::target::{Lease, Passage};

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing left to read for now.
    Idle,
    /// The receiver is full.
    Blocked,
    /// There is more, but others wait.
    Again,
    /// The sender has finished and every byte of it was written.
    Eof,
    /// The target is paused: whoever opens it again gives the next turn.
    Held,
}

/// Bytes one direction may move before the next connection has its turn.
const TURN_BYTES: usize = 1 << 20;

/// Moves what can be moved now. An error ends the connection.
pub(super) fn turn(
    from: &mut End,
    to: &mut End,
    lease: &Lease,
    scratch: &mut [u8],
    exhaustive: bool,
) -> io::Result<Turn> {
    let mut moved = 0;
    loop {
        if !free(lease)? {
            return Ok(Turn::Held);
        }
        if !to.flush()? {
            return Ok(Turn::Blocked);
        }
        if from.eof {
            return Ok(Turn::Eof);
        }
        if !from.readable {
            return Ok(Turn::Idle);
        }
        if moved >= TURN_BYTES {
            return Ok(Turn::Again);
        }
        let Read::Bytes(n) = from.read(scratch)? else { continue };
        moved += n;
        // Read already, so they are kept here, and are the first to go on.
        let held = !free(lease)?;
        if held {
            to.keep(&scratch[..n]);
        } else {
            to.write(&scratch[..n])?;
        }
        // A short read emptied the socket, and new bytes make a new edge; but a FIN that epoll has
        // already told of makes none, and a spliced socket hands its bytes out piecemeal.
        if n < scratch.len() && !from.hung_up && !exhaustive {
            from.readable = false;
        }
        if held {
            return Ok(Turn::Held);
        }
    }
}

/// Whether bytes may move; an error if they never will again.
fn free(lease: &Lease) -> io::Result<bool> {
    match lease.passage() {
        Passage::Free => Ok(true),
        Passage::Paused => Ok(false),
        Passage::Shut => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the target is no longer valid")),
    }
}
