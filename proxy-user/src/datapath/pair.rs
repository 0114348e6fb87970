//! A connection: two ends and the flow each way, moved by the kernel or by the daemon (`handover`).

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use nix::sys::epoll::EpollFlags;
use proxy_ebpf::Meter;

use super::{
    Connection, Place, Traffic,
    end::End,
    flow::{Flow, Via},
    handover::BRIEF,
    relay::{self, Turn},
    splice::Splice,
};
use crate::{
    socket,
    target::{Lease, Passage},
};

pub(super) const CLIENT: usize = 0;
pub(super) const NODE: usize = 1;

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) ends: [End; 2],
    /// `flows[i]` goes from `ends[i]` to the other end.
    pub(super) flows: [Flow; 2],
    /// What epoll was last told to watch each end for.
    pub(super) watched: [EpollFlags; 2],
    pub(super) lease: Lease,
    traffic: Arc<Traffic>,
    idle_timeout: Duration,
    moved_at: (u64, Instant),
    /// Both ends are each other's target in the kernel.
    pub(super) joined: bool,
    /// What the kernel program calls the client's flow; the node's is the next.
    pub(super) token: u32,
    /// How often the daemon has moved something, and from when on it goes to the kernel.
    pub(super) moves: u64,
    pub(super) splice_at: u64,
    /// Tells it from whoever has its index later.
    pub(super) number: u64,
    place: Option<Place>,
    /// Its client has left in a pause, and its place is another's.
    vacated: bool,
    /// The client was reset; nothing happens here any more but the close.
    pub(super) dismissed: bool,
}

/// What a worker lends a connection for a step.
pub(super) struct Means<'a> {
    pub(super) splice: Option<&'a mut Splice>,
    pub(super) scratch: &'a mut [u8],
    pub(super) now: Instant,
}

/// What a flow needs next.
#[derive(Debug)]
pub(super) enum Step {
    /// An event.
    Wait,
    /// Another turn soon.
    Again,
    /// A look at that time.
    Later(Instant),
    /// Nothing: both flows are finished.
    Done,
}

impl Pair {
    pub(super) fn new(connection: Connection, token: u32, number: u64, now: Instant) -> Self {
        Self {
            ends: [End::new(connection.client), End::new(connection.node)],
            flows: [Flow::new(now), Flow::new(now)],
            watched: [EpollFlags::empty(); 2],
            lease: connection.lease,
            traffic: connection.traffic,
            idle_timeout: connection.idle_timeout,
            moved_at: (0, now),
            joined: false,
            token,
            moves: 0,
            splice_at: BRIEF,
            number,
            place: Some(connection.place),
            vacated: false,
            dismissed: false,
        }
    }

    /// What epoll should tell of an end now.
    pub(super) fn interest(&self, side: usize) -> EpollFlags {
        let mut flags = EpollFlags::EPOLLET | EpollFlags::EPOLLRDHUP;
        if self.flows[side].via == Via::Daemon {
            flags |= EpollFlags::EPOLLIN;
        }
        // While draining too: a receiver that reads again is what it waits for.
        if self.flows[1 - side].via != Via::Kernel {
            flags |= EpollFlags::EPOLLOUT;
        }
        flags
    }

    pub(super) fn step(&mut self, side: usize, means: &mut Means<'_>) -> io::Result<Step> {
        match (self.flows[side].via, &mut means.splice) {
            (Via::Kernel, Some(splice)) => self.step_kernel(side, splice, means.now),
            (Via::Draining, Some(_)) => self.step_draining(side, means),
            _ => self.step_daemon(side, means),
        }
    }

    pub(super) fn step_daemon(&mut self, side: usize, means: &mut Means<'_>) -> io::Result<Step> {
        let spliced = self.flows[side].spliced;
        if self.flows[side].done {
            return Ok(Step::Wait);
        }
        let (from, to) = both(&mut self.ends, side);
        let already = to.written;
        let turn = relay::turn(from, to, &self.lease, means.scratch, spliced)?;
        self.flows[side].held = turn == Turn::Held;
        let written = to.written - already;
        self.traffic.add(side, written);
        self.moves += u64::from(written > 0);
        if turn == Turn::Idle
            && !self.joined
            && let Some(splice) = &mut means.splice
        {
            self.consider_splice(splice, means.now)?;
            return Ok(Step::Wait);
        }
        match (turn, means.splice.as_deref_mut().filter(|_| spliced)) {
            (Turn::Again, _) => Ok(Step::Again),
            // Nothing is polled for: whoever ends the pause gives the next turn.
            (Turn::Held, _) => Ok(Step::Wait),
            (Turn::Blocked, Some(splice)) => {
                self.evict(1 - side, splice, means.now)?;
                Ok(Step::Wait)
            }
            (Turn::Idle, Some(splice)) => self.consider_kernel(side, splice, means.now),
            (Turn::Blocked | Turn::Idle, None) => Ok(Step::Wait),
            (Turn::Eof, splice) => self.finish(side, splice, means.now),
        }
    }

    /// Every byte of the sender is read: pass its FIN on, once nothing is left behind in the kernel.
    fn finish(&mut self, side: usize, splice: Option<&mut Splice>, now: Instant) -> io::Result<Step> {
        if let Some(splice) = splice
            && let Some(step) = self.left_behind(side, splice, now)?
        {
            return Ok(step);
        }
        self.flows[side].done = true;
        if self.flows[1 - side].done {
            // The close that follows says so too.
            return Ok(Step::Done);
        }
        self.ends[1 - side].finish()?;
        Ok(Step::Wait)
    }

    pub(super) fn count(&mut self, side: usize, redirected: u64) {
        let flow = &mut self.flows[side];
        self.traffic.add(side, redirected.saturating_sub(flow.counted));
        flow.counted = redirected;
    }

    pub(super) fn paused(&self) -> bool {
        self.lease.passage() == Passage::Paused
    }

    /// Something of it waits for the end of a pause.
    pub(super) fn is_held(&self) -> bool {
        self.flows.iter().any(|flow| flow.held)
    }

    /// The client may have left, which only a write to it would tell, and none is made now. What it is owed
    /// waits for it all the same, but not in the way of others. True if it had a place.
    pub(super) fn vacate(&mut self) -> bool {
        let had_one = self.place.take().is_some();
        self.vacated |= had_one;
        had_one
    }

    pub(super) fn is_vacated(&self) -> bool {
        self.vacated
    }

    pub(super) fn timed(&self) -> bool {
        !self.idle_timeout.is_zero()
    }

    pub(super) fn idle_too_long(&mut self, splice: Option<&Splice>, now: Instant) -> bool {
        if !self.timed() {
            return false;
        }
        let redirected =
            |end: &End| splice.and_then(|splice| splice.meter(end.cookie).ok()).map_or(0, |meter| meter.bytes);
        let moved: u64 = self.ends.iter().map(|end| end.read + redirected(end)).sum();
        // Nothing can move in a pause: that is nobody's idleness.
        if moved != self.moved_at.0 || self.paused() {
            self.moved_at = (moved, now);
        }
        now.duration_since(self.moved_at.1) >= self.idle_timeout
    }

    /// Adds what the kernel has moved since it was last asked.
    pub(super) fn refresh(&mut self, splice: &Splice) {
        for side in [CLIENT, NODE] {
            self.read_meter(side, splice);
        }
    }

    fn read_meter(&mut self, side: usize, splice: &Splice) -> Option<Meter> {
        if !self.flows[side].spliced {
            return None;
        }
        let meter = splice.meter(self.ends[side].cookie).ok()?;
        self.count(side, meter.bytes);
        Some(meter)
    }

    /// Both flows are finished: the sockets may close in order. Any other end is a reset.
    pub(super) fn part_in_order(&self) {
        self.ends.iter().for_each(|end| socket::close_in_order(end.socket()));
    }

    /// The client learns at once that it has to go elsewhere, and its place is free before it is back: a route that is
    /// full would turn it away. Both sockets are still to be closed; should files run short until then, whoever comes
    /// waits for them.
    pub(super) fn dismiss_client(&mut self, splice: Option<&Splice>, scratch: &mut [u8]) {
        if let Some(splice) = splice {
            self.take_leave_of(CLIENT, splice, scratch);
        }
        drop(self.place.take());
        self.ends[CLIENT].reset();
        self.dismissed = true;
    }

    pub(super) fn take_leave(&mut self, splice: &Splice, scratch: &mut [u8]) {
        for side in [CLIENT, NODE] {
            self.take_leave_of(side, splice, scratch);
        }
    }

    /// The last look at a flow that ends: counts what the kernel moved, and reads away what it passed
    /// and nobody read. Sockets with such bytes left upset the kernel's count of their memory
    /// (inet_sock_destruct warns); there rarely are any, and thousands may have to end at once.
    fn take_leave_of(&mut self, side: usize, splice: &Splice, scratch: &mut [u8]) {
        if self.read_meter(side, splice).is_some_and(|meter| meter.passed > self.ends[side].read) {
            self.ends[side].discard(scratch);
        }
    }

    pub(super) fn into_parts(self) -> (End, End, Remains) {
        let cookies = [self.ends[CLIENT].cookie, self.ends[NODE].cookie];
        let [client, node] = self.ends;
        let remains = Remains { cookies, flows: self.flows, joined: self.joined, lease: self.lease, place: self.place };
        (client, node, remains)
    }
}

/// What is left of a connection when its sockets are closed.
#[derive(Debug)]
pub(super) struct Remains {
    cookies: [u64; 2],
    flows: [Flow; 2],
    joined: bool,
    lease: Lease,
    place: Option<Place>,
}

impl Remains {
    pub(super) fn settle(self, splice: Option<&mut Splice>) {
        if let (true, Some(splice)) = (self.joined, splice) {
            for (side, flow) in self.flows.iter().enumerate() {
                splice.forget(self.cookies[side], flow.spliced);
            }
        }
        drop((self.lease, self.place));
    }
}

impl Traffic {
    fn add(&self, side: usize, bytes: u64) {
        let counter = if side == CLIENT { &self.to_node } else { &self.to_client };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn both(ends: &mut [End; 2], side: usize) -> (&mut End, &mut End) {
    let [client, node] = ends;
    if side == CLIENT { (client, node) } else { (node, client) }
}
