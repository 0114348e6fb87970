//! A connection: two ends and the flow each way. Decides, flow by flow, who moves the bytes, and
//! when a flow may change hands without a byte lost, doubled or overtaken.

use std::{
    io,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    time::{Duration, Instant},
};

use nix::sys::epoll::EpollFlags;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Connection, Traffic,
    end::End,
    flow::{FIRST_WAIT, Flow, Via},
    relay::{self, Turn},
    splice::{Label, Splice},
};
use crate::target::Lease;

pub(super) const CLIENT: usize = 0;
pub(super) const NODE: usize = 1;

/// A flow that came back to the daemon stays at least so long: a receiver that stalls once often
/// stalls again, and each change of hands costs a dozen system calls.
const STAY: Duration = Duration::from_millis(100);
/// A receiver with no more than this unacknowledged keeps up, and may be served by the kernel again.
const CAUGHT_UP: u64 = 64 << 10;
/// So much may wait in the kernel for one receiver beyond its credit. Far more than any receive buffer
/// that the kernel's defaults allow (net.ipv4.tcp_rmem, 6 MiB): two peers that both send in bulk and both
/// read were seen to let more than 16 MiB pile up while the daemon waits for its turn.
const MOST_PASSED: u64 = 128 << 20;
/// A flow that the kernel never finishes is given up (by RST, never by a silent cut).
const GIVE_UP: Duration = Duration::from_secs(600);

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
    joined: bool,
    token: u32,
    place: OwnedSemaphorePermit,
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
    pub(super) fn new(connection: Connection, now: Instant) -> io::Result<Self> {
        Ok(Self {
            ends: [End::new(connection.client)?, End::new(connection.node)?],
            flows: [Flow::new(now), Flow::new(now)],
            watched: [EpollFlags::empty(); 2],
            lease: connection.lease,
            traffic: connection.traffic,
            idle_timeout: connection.idle_timeout,
            moved_at: (0, now),
            joined: false,
            token: 0,
            place: connection.place,
        })
    }

    /// Prepares the splice. A connection that cannot have it is served by the daemon.
    pub(super) fn join(&mut self, splice: &mut Splice, index: u32) {
        self.token = index * 2;
        match splice.join(&self.ends) {
            Ok(()) => self.joined = true,
            // EOPNOTSUPP: the client has half-closed already (CLOSE_WAIT).
            Err(error) => tracing::debug!(%error, "a connection stays with the daemon"),
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

    pub(super) fn step(
        &mut self,
        side: usize,
        splice: Option<&mut Splice>,
        scratch: &mut [u8],
        now: Instant,
    ) -> io::Result<Step> {
        if let (true, Some(splice)) =
            (self.flows[side].spliced && self.flows[side].via != Via::Kernel, splice.as_deref())
        {
            self.bound(side, splice)?;
        }
        match (self.flows[side].via, splice) {
            (Via::Kernel, Some(splice)) => self.step_kernel(side, splice, now),
            (Via::Draining, Some(splice)) => self.step_draining(side, splice, scratch, now),
            (_, splice) => self.step_daemon(side, splice, scratch, now),
        }
    }

    fn step_daemon(
        &mut self,
        side: usize,
        splice: Option<&mut Splice>,
        scratch: &mut [u8],
        now: Instant,
    ) -> io::Result<Step> {
        if self.flows[side].done {
            return Ok(Step::Wait);
        }
        let (from, to) = both(&mut self.ends, side);
        let already = to.written;
        let turn = relay::turn(from, to, &self.lease, scratch, self.flows[side].spliced)?;
        let written = to.written - already;
        self.traffic.add(side, written);
        match turn {
            // Looked at meanwhile for the sake of the bound.
            Turn::Blocked if self.flows[side].spliced => self.look_again(side, now),
            Turn::Blocked => Ok(Step::Wait),
            Turn::Again => Ok(Step::Again),
            Turn::Idle => match splice {
                Some(splice) => self.consider_kernel(side, splice, now),
                None => Ok(Step::Wait),
            },
            Turn::Eof => self.finish(side, splice, now),
        }
    }

    /// Every byte of the sender is read: pass its FIN on, once nothing is left behind in the kernel.
    fn finish(&mut self, side: usize, splice: Option<&mut Splice>, now: Instant) -> io::Result<Step> {
        if let (true, Some(splice)) = (self.flows[side].spliced, splice)
            && !(self.kernel_is_empty(side, splice)? && self.accounted(side, splice)?)
        {
            // What is still on its way to us inside the kernel has to be read before the end is.
            let from = &mut self.ends[side];
            (from.eof, from.readable) = (false, true);
            return self.look_again(side, now);
        }
        self.ends[1 - side].finish()?;
        self.flows[side].done = true;
        Ok(if self.flows.iter().all(|flow| flow.done) { Step::Done } else { Step::Wait })
    }

    fn step_kernel(&mut self, side: usize, splice: &mut Splice, now: Instant) -> io::Result<Step> {
        if self.ends[side].hung_up {
            // The kernel does not pass a FIN on; and passed on too early it would cut off the bytes
            // that still wait for the kernel's worker. So the daemon finishes the flow.
            self.flows[side].go(Via::Draining, now);
            return self.look_again(side, now);
        }
        let meter = splice.meter(self.ends[side].cookie)?;
        self.count(side, meter.bytes);
        let to = &self.ends[1 - side];
        let waiting = (meter.bytes + to.written).saturating_sub(to.progress()?.handed_over);
        if waiting > splice.credit() / 4 {
            return self.look_again(side, now);
        }
        splice.grant(&self.ends[side], self.label(side), meter.charged, self.ends[side].read)?;
        self.flows[side].go(Via::Kernel, now);
        Ok(Step::Wait)
    }

    fn step_draining(
        &mut self,
        side: usize,
        splice: &mut Splice,
        scratch: &mut [u8],
        now: Instant,
    ) -> io::Result<Step> {
        self.ends[side].kick()?;
        if !self.kernel_is_empty(side, splice)? {
            return self.look_again(side, now);
        }
        self.flows[side].go(Via::Daemon, now);
        self.ends[side].readable = true;
        self.ends[1 - side].writable = true;
        self.step_daemon(side, Some(splice), scratch, now)
    }

    /// What is passed to us stays in the kernel until we read it. TCP's window bounds it, except where the
    /// same socket's queue is busy with the other direction: there it is bounded here, by a reset.
    fn bound(&mut self, side: usize, splice: &Splice) -> io::Result<()> {
        let passed = splice.meter(self.ends[side].cookie)?.passed;
        if passed.saturating_sub(self.ends[side].read) > MOST_PASSED {
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "too much waits for a receiver that does not read"));
        }
        let flow = &mut self.flows[side];
        if flow.passed != passed {
            (flow.passed, flow.wait) = (passed, FIRST_WAIT);
        }
        Ok(())
    }

    /// A flow with nothing to do, and nothing of it waiting to be written: may the kernel have it back?
    fn consider_kernel(&mut self, side: usize, splice: &mut Splice, now: Instant) -> io::Result<Step> {
        let flow = &self.flows[side];
        if !flow.spliced || self.ends[side].hung_up || flow.due.is_some_and(|due| due > now) {
            return Ok(Step::Wait);
        }
        let settled = flow.since + STAY;
        if settled > now {
            self.flows[side].due = Some(settled);
            return Ok(Step::Later(settled));
        }
        if self.ends[1 - side].progress()?.unacknowledged > CAUGHT_UP {
            return self.look_again(side, now);
        }
        let read = self.ends[side].read;
        let spent = splice.meter(self.ends[side].cookie)?.charged;
        splice.grant(&self.ends[side], self.label(side), spent, read)?;
        // From here on the program redirects again, unless a segment was passed before it saw the grant:
        // then it goes on passing, and this flow is ours until the next try. A verdict under way right
        // now either shows in the meter or sees the grant, and tells.
        fence(Ordering::SeqCst);
        if splice.meter(self.ends[side].cookie)?.passed != read {
            return self.look_again(side, now);
        }
        self.flows[side].go(Via::Kernel, now);
        Ok(Step::Wait)
    }

    /// Gives a new flow to the kernel. Nothing of it may have been read by the daemon.
    pub(super) fn enter(&mut self, side: usize, splice: &mut Splice, now: Instant) -> io::Result<()> {
        if !self.joined {
            return Ok(());
        }
        if let Err(error) = splice.enter(&self.ends[side], self.label(side)) {
            // EOPNOTSUPP: it has half-closed since it was joined.
            tracing::debug!(%error, "a flow stays with the daemon");
            return Ok(());
        }
        self.flows[side].spliced = true;
        self.flows[side].go(Via::Kernel, now);
        self.ends[side].kick()
    }

    /// Everything redirected has reached the receiver's own send queue.
    fn kernel_is_empty(&self, side: usize, splice: &Splice) -> io::Result<bool> {
        let redirected = splice.meter(self.ends[side].cookie)?.bytes;
        let to = &self.ends[1 - side];
        Ok(to.progress()?.handed_over >= redirected + to.written)
    }

    /// Everything the sender sent, its FIN included, was redirected or read: nothing hides in a queue.
    fn accounted(&self, side: usize, splice: &Splice) -> io::Result<bool> {
        const FIN: u64 = 1;
        let from = &self.ends[side];
        let received = from.progress()?.received;
        Ok(splice.meter(from.cookie)?.bytes + from.read + FIN >= received)
    }

    fn look_again(&mut self, side: usize, now: Instant) -> io::Result<Step> {
        let flow = &mut self.flows[side];
        let finishing = flow.via == Via::Draining || self.ends[side].hung_up;
        if finishing && now.duration_since(flow.since) > GIVE_UP {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not finish a flow"));
        }
        if flow.due.is_some_and(|due| due > now && due <= now + flow.wait) {
            return Ok(Step::Wait);
        }
        Ok(Step::Later(flow.back_off(now)))
    }

    fn label(&self, side: usize) -> Label {
        Label { target: self.lease.key, generation: self.lease.generation, token: self.token + side as u32 }
    }

    fn count(&mut self, side: usize, redirected: u64) {
        let flow = &mut self.flows[side];
        self.traffic.add(side, redirected.saturating_sub(flow.counted));
        flow.counted = redirected;
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
        if moved != self.moved_at.0 {
            self.moved_at = (moved, now);
        }
        now.duration_since(self.moved_at.1) >= self.idle_timeout
    }

    /// Adds what the kernel has moved since it was last asked.
    pub(super) fn refresh(&mut self, splice: &Splice) {
        for side in [CLIENT, NODE] {
            if self.flows[side].spliced
                && let Ok(meter) = splice.meter(self.ends[side].cookie)
            {
                self.count(side, meter.bytes);
            }
        }
    }

    /// Both flows are finished: the sockets may close in order. Any other end is a reset.
    pub(super) fn part_in_order(&self) {
        self.ends.iter().for_each(End::disarm_reset);
    }

    /// Reads away what was passed to a connection that ends: sockets with such bytes left upset the
    /// kernel's count of their memory (inet_sock_destruct warns).
    pub(super) fn discard(&mut self, scratch: &mut [u8]) {
        for (end, flow) in self.ends.iter_mut().zip(&self.flows) {
            if flow.spliced {
                end.discard(scratch);
            }
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
    place: OwnedSemaphorePermit,
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
