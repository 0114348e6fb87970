//! The free places of one SNAT address: a queue in the kernel, longest free first, so that a port rests as long
//! as possible before the same node sees it again (it may hold the old connection in TIME_WAIT for 60 s).

use std::collections::BTreeSet;

use aya::maps::{MapData, MapError, Queue};
use proxy_ebpf::nat::Snat;

#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error(
        "the queue of free ports of {address} holds {capacity}, and {ports} are ours: it is of another configuration"
    )]
    Short { address: std::net::IpAddr, capacity: u32, ports: u16 },
    #[error("the queue of free ports cannot be written: {0}")]
    Queue(#[from] MapError),
}

pub struct Pool {
    snat: Snat,
    queue: Queue<MapData, u32>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("snat", &self.snat).finish_non_exhaustive()
    }
}

impl Pool {
    /// `queue` is the one in `free` with the number that `snat` has in `globals`.
    pub fn new(snat: Snat, queue: Queue<MapData, u32>) -> Result<Self, PoolError> {
        if queue.capacity() < u32::from(snat.ports) {
            let address = super::address::decode(snat.addr);
            return Err(PoolError::Short { address, capacity: queue.capacity(), ports: snat.ports });
        }
        Ok(Self { snat, queue })
    }

    pub fn holds(&self, place: u32) -> bool {
        place.checked_sub(self.snat.first).is_some_and(|at| at < u32::from(self.snat.ports))
    }

    pub fn ports(&self) -> u16 {
        self.snat.ports
    }

    /// Fills a new queue with all its places, but those whose ports are `held` by somebody else. Where it begins is the caller's: at
    /// another place each time, since of the connections of a daemon before nodes may still hold some in TIME_WAIT.
    pub fn fill(&mut self, held: &BTreeSet<u16>, begin: u16) -> Result<u32, PoolError> {
        let mut filled = 0;
        let begin = begin % self.snat.ports.max(1);
        for at in (begin..self.snat.ports).chain(0..begin) {
            if !held.contains(&self.snat.first_port.wrapping_add(at)) {
                self.give(self.snat.first + u32::from(at))?;
                filled += 1;
            }
        }
        Ok(filled)
    }

    /// Puts a place at the end of the queue. It has to be the caller's own.
    pub(super) fn give(&mut self, place: u32) -> Result<(), PoolError> {
        debug_assert!(self.holds(place));
        Ok(self.queue.push(place, 0)?)
    }

    /// Takes the place that has been free for longest, if there is one.
    pub(super) fn take(&mut self) -> Result<Option<u32>, PoolError> {
        match self.queue.pop(0) {
            Ok(place) => Ok(Some(place)),
            Err(MapError::ElementNotFound) => Ok(None),
            // An empty queue is ENOENT (kernel/bpf/queue_stack_maps.c).
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
