//! Connects clients to their nodes, in the thread that will move their bytes: a connection costs one change of threads.
//! Whatever does not go by itself goes back to the caller: a node that fails, or is slow to answer, or has moved.

use std::{collections::VecDeque, net::TcpStream, os::fd::AsFd as _, time::Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};
use slab::Slab;

use super::{DIAL, Worker};
use crate::{
    datapath::{Call, Connection, Missed, Sever},
    socket::{self, HANDSHAKE},
    target::Passage,
};

#[derive(Debug, Default)]
pub(super) struct Dials {
    under_way: Slab<Dial>,
    /// When each is given back, oldest first; some have come to their end meanwhile.
    due: VecDeque<(Instant, usize, u64)>,
    begun: u64,
    /// What epoll has said something of.
    arrived: Vec<usize>,
}

#[derive(Debug)]
struct Dial {
    call: Call,
    node: TcpStream,
    /// Tells it from another in its place.
    number: u64,
}

impl Dials {
    pub(super) fn has_arrived(&mut self, index: u32) {
        self.arrived.push(index as usize);
    }

    /// When the next one is given back.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.front().map(|&(due, ..)| due)
    }

    /// One whose time is up.
    fn overdue(&mut self, now: Instant) -> Option<usize> {
        while let Some(&(due, index, number)) = self.due.front() {
            let lives = self.under_way.get(index).is_some_and(|dial| dial.number == number);
            if lives && due > now {
                return None;
            }
            self.due.pop_front();
            if lives {
                return Some(index);
            }
        }
        None
    }
}

impl Worker {
    pub(super) fn dial(&mut self, call: Call) {
        if call.lease.passage() != Passage::Free {
            return call.miss(Missed::Moved);
        }
        let node = match socket::dial(call.node) {
            Ok(node) => node,
            // There is none to be had; whoever has time for it waits for one.
            Err(error) if socket::is_short_of_files(&error) => return call.miss(Missed::Unbegun),
            Err(error) => return call.miss(Missed::Begun(Err(error))),
        };
        let entry = self.dials.under_way.vacant_entry();
        let index = entry.key();
        if let Err(error) = self.epoll.add(node.as_fd(), EpollEvent::new(EpollFlags::EPOLLOUT, DIAL | index as u64)) {
            tracing::debug!(%error, "a connect cannot be watched");
            return call.miss(Missed::Unbegun);
        }
        self.dials.begun += 1;
        entry.insert(Dial { call, node, number: self.dials.begun });
        self.dials.due.push_back((Instant::now() + HANDSHAKE, index, self.dials.begun));
    }

    /// Goes on with those who have reached their node, or have failed to. `all`: there is nobody else of whom epoll has something
    /// to say.
    pub(super) fn answer_calls(&mut self, all: bool, now: Instant) {
        for index in std::mem::take(&mut self.dials.arrived) {
            let Some(Dial { call, node, .. }) = self.dials.under_way.try_remove(index) else { continue };
            match socket::arrived(&node, call.node) {
                Err(error) => call.miss(Missed::Begun(Err(error))),
                Ok(()) if call.lease.passage() != Passage::Free || !call.caller.stands(&call.lease) => {
                    call.miss(Missed::Moved);
                }
                Ok(()) => {
                    let Call { client, lease, traffic, idle_timeout, place, caller, .. } = call;
                    let generation = lease.generation;
                    self.adopt(Connection { client, node, lease, traffic, idle_timeout, place }, true, now);
                    caller.reached(generation);
                }
            }
        }
        while all && let Some(index) = self.dials.overdue(now) {
            self.give_up(index, true);
        }
    }

    /// A switch has left these behind before they were connected.
    pub(super) fn give_up_calls(&mut self, order: &Sever) {
        let doomed = |call: &Call| call.lease.key == order.key && call.lease.generation != order.keep;
        let left: Vec<usize> =
            self.dials.under_way.iter().filter_map(|(index, dial)| doomed(&dial.call).then_some(index)).collect();
        for index in left {
            self.give_up(index, false);
        }
    }

    fn give_up(&mut self, index: usize, goes_on: bool) {
        let Some(Dial { call, node, .. }) = self.dials.under_way.try_remove(index) else { return };
        // Elsewhere it would go on to ring here.
        let watched = self.epoll.delete(node.as_fd());
        debug_assert!(watched.is_ok(), "it was watched: {watched:?}");
        call.miss(if goes_on { Missed::Begun(Ok(node)) } else { Missed::Moved });
    }
}
