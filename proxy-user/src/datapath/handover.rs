//! A flow changes hands between the kernel and the daemon. Promises that no byte is lost, doubled or
//! overtaken by it, and that what waits in the kernel's own queues is bounded: both flows of a
//! connection leave the kernel together, because their queues are shared.

use std::{
    io,
    sync::atomic::{Ordering, fence},
    time::{Duration, Instant},
};

use proxy_ebpf::{CHARGE_PER_SEGMENT, Meter};

use super::{
    end::End,
    flow::Via,
    pair::{CLIENT, Means, NODE, Pair, Step},
    splice::{Label, MOST_CREDIT, Splice},
};

/// A flow that came back to the daemon stays at least so long: a receiver that stalls once often
/// stalls again, and each change of hands costs a dozen system calls.
const STAY: Duration = Duration::from_millis(100);
/// A receiver with no more than this unacknowledged keeps up, and may be served by the kernel again.
const CAUGHT_UP: u64 = 64 << 10;
/// All that the kernel can have redirected to one receiver: a credit and what was left of the last.
const ROOM: usize = 2 * MOST_CREDIT as usize;
/// A flow that the kernel never finishes is given up (by RST, never by a silent cut).
const GIVE_UP: Duration = Duration::from_secs(600);

/// Segments, both ways, from which on a connection is no brief one.
pub(super) const BRIEF: u64 = 8;

impl Pair {
    /// Gives the connection to the kernel. What the daemon has read of it must be written.
    pub(super) fn splice(&mut self, splice: &mut Splice, now: Instant) -> io::Result<()> {
        self.join(splice);
        self.enter(CLIENT, splice, now)?;
        self.enter(NODE, splice, now)
    }

    /// The same for one of which the daemon has moved some: once it is no brief one any more, and at a moment when the daemon
    /// holds nothing of it.
    pub(super) fn consider_splice(&mut self, splice: &mut Splice, now: Instant) -> io::Result<()> {
        let is_whole = |end: &End| !end.is_full() && !end.hung_up && !end.eof;
        if self.joined || self.moves < self.splice_at || !self.ends.iter().all(is_whole) {
            return Ok(());
        }
        // Should the kernel refuse.
        self.splice_at = self.moves + BRIEF;
        self.splice(splice, now)
    }

    /// It has come to its end with so little said that the splice was not worth it.
    pub(super) fn was_brief(&self, splice: &Splice) -> bool {
        let redirected =
            |end: &End| splice.meter(end.cookie).map_or(0, |it| (it.charged - it.bytes) / CHARGE_PER_SEGMENT);
        self.moves + self.ends.iter().map(redirected).sum::<u64>() < BRIEF
    }

    /// Prepares the splice. A connection that cannot have it is served by the daemon.
    fn join(&mut self, splice: &mut Splice) {
        let joined = self.ends.iter_mut().try_for_each(End::identify);
        match joined.and_then(|()| splice.join(&self.ends)) {
            Ok(()) => self.joined = true,
            // EOPNOTSUPP: the client has half-closed already (CLOSE_WAIT).
            Err(error) => tracing::debug!(%error, "a connection stays with the daemon"),
        }
    }

    /// Gives a flow to the kernel. What the daemon has read of it must be written.
    fn enter(&mut self, side: usize, splice: &mut Splice, now: Instant) -> io::Result<()> {
        if !self.joined {
            return Ok(());
        }
        if let Err(error) = splice.enter(&self.ends[side], self.label(side)) {
            // EOPNOTSUPP: it has half-closed since it was joined.
            tracing::debug!(%error, "a flow stays with the daemon");
            return Ok(());
        }
        self.flows[side].spliced = true;
        self.flows[side].held = false;
        self.flows[side].go(Via::Kernel, now);
        self.ends[side].kick()
    }

    pub(super) fn step_kernel(&mut self, side: usize, splice: &mut Splice, now: Instant) -> io::Result<Step> {
        if self.ends[side].hung_up {
            // The kernel does not pass a FIN on; and passed on too early it would cut off the bytes
            // that still wait for the kernel's worker. So the daemon finishes the flow.
            self.leave(side, now);
            return Ok(self.look_again(side, now));
        }
        let meter = splice.meter(self.ends[side].cookie)?;
        self.count(side, meter.bytes);
        let to = &self.ends[1 - side];
        let waiting = (meter.bytes + to.written).saturating_sub(to.progress()?.handed_over);
        if waiting > splice.credit() / 4 {
            return Ok(self.look_again(side, now));
        }
        splice.grant(&self.ends[side], self.label(side), meter.charged, self.ends[side].read)?;
        self.flows[side].go(Via::Kernel, now);
        Ok(Step::Wait)
    }

    /// The program redirects no more of this flow, or will not with its next segment.
    pub(super) fn leave(&mut self, side: usize, now: Instant) {
        self.flows[side].go(Via::Draining, now);
    }

    pub(super) fn step_draining(&mut self, side: usize, means: &mut Means<'_>) -> io::Result<Step> {
        let Means { splice: Some(splice), now, .. } = means else { return Ok(Step::Wait) };
        let now = *now;
        self.ends[1 - side].make_room(ROOM)?;
        self.ends[side].kick()?;
        self.evict(1 - side, splice, now)?;
        // Asked for first: once a segment was passed that nobody has read, none is redirected any more, and what is
        // empty then stays empty.
        let passed = splice.meter(self.ends[side].cookie)?.passed;
        if !self.kernel_is_empty(side, splice)? {
            return self.wait_for_kernel(side, now);
        }
        self.ends[1 - side].give_room_back()?;
        if !self.ends[side].hung_up && passed == self.ends[side].read {
            // There is nothing to read, and the program may still redirect. It was evicted and has met no segment since,
            // or what it told is long read.
            return self.consider_kernel(side, splice, now);
        }
        self.flows[side].go(Via::Daemon, now);
        self.ends[side].readable = true;
        self.ends[1 - side].writable = true;
        self.step_daemon(side, means)
    }

    /// Takes a flow out of the kernel because the other one clogs the queues they share.
    pub(super) fn evict(&mut self, side: usize, splice: &mut Splice, now: Instant) -> io::Result<()> {
        let other = 1 - side;
        if self.flows[side].via != Via::Kernel || self.ends[other].hung_up {
            return Ok(());
        }
        splice.revoke(&self.ends[side], self.label(side), self.ends[side].read)?;
        self.leave(side, now);
        self.flows[side].nudged = true;
        Ok(())
    }

    /// Whether bytes of a flow wait for its receiver outside TCP's own queues. Nothing may be redirected
    /// the other way then: it would stand before what is passed there.
    fn clogged(&self, side: usize, splice: &Splice) -> io::Result<bool> {
        Ok(match self.flows[side].via {
            Via::Kernel => false,
            Via::Draining => !self.kernel_is_empty(side, splice)?,
            Via::Daemon => self.ends[1 - side].is_full(),
        })
    }

    /// A flow with nothing to do, and nothing of it waiting to be written: may the kernel have it back?
    pub(super) fn consider_kernel(&mut self, side: usize, splice: &mut Splice, now: Instant) -> io::Result<Step> {
        let flow = &self.flows[side];
        if !flow.spliced || self.ends[side].hung_up || flow.due.is_some_and(|due| due > now) {
            return Ok(Step::Wait);
        }
        let settled = flow.since + STAY;
        if settled > now {
            self.flows[side].due = Some(settled);
            return Ok(Step::Later(settled));
        }
        if self.clogged(1 - side, splice)? || self.ends[1 - side].progress()?.unacknowledged > CAUGHT_UP {
            return Ok(self.look_again(side, now));
        }
        let read = self.ends[side].read;
        let before = splice.meter(self.ends[side].cookie)?;
        splice.grant(&self.ends[side], self.label(side), before.charged, read)?;
        self.look_at_grant(side, splice, before, now)
    }

    /// From a grant on the program redirects again, unless a segment was passed before it saw the grant: then it
    /// goes on passing, and this flow is ours until the next try. A verdict under way right now either shows in the
    /// meter or sees the grant, and tells.
    fn look_at_grant(&mut self, side: usize, splice: &Splice, before: Meter, now: Instant) -> io::Result<Step> {
        fence(Ordering::SeqCst);
        let from = &self.ends[side];
        if splice.meter(from.cookie)?.passed == from.read {
            self.flows[side].go(Via::Kernel, now);
            return Ok(Step::Wait);
        }
        // Or it saw the grant, redirected until the credit was spent, and passed what came then: that must not be
        // written before what it redirected. Asked for again, because a copy of a meter is not made in one step.
        if splice.meter(from.cookie)?.bytes != before.bytes {
            self.leave(side, now);
        }
        Ok(self.look_again(side, now))
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

    /// Looks again until the kernel has finished with a flow; it always has, unless it is broken.
    fn wait_for_kernel(&mut self, side: usize, now: Instant) -> io::Result<Step> {
        let since = *self.flows[side].unfinished.get_or_insert(now);
        if now.duration_since(since) > GIVE_UP {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not finish a flow"));
        }
        Ok(self.look_again(side, now))
    }

    fn look_again(&mut self, side: usize, now: Instant) -> Step {
        let flow = &mut self.flows[side];
        if flow.due.is_some_and(|due| due > now && due <= now + flow.wait) {
            return Step::Wait;
        }
        Step::Later(flow.back_off(now))
    }

    /// What is still on its way to us inside the kernel has to be read before the end is: the step to wait
    /// for it, or None once there is nothing.
    pub(super) fn left_behind(&mut self, side: usize, splice: &Splice, now: Instant) -> io::Result<Option<Step>> {
        if self.kernel_is_empty(side, splice)? && self.accounted(side, splice)? {
            return Ok(None);
        }
        let from = &mut self.ends[side];
        (from.eof, from.readable) = (false, true);
        self.wait_for_kernel(side, now).map(Some)
    }

    fn label(&self, side: usize) -> Label {
        Label { target: self.lease.key, generation: self.lease.generation, token: self.token + side as u32 }
    }
}

#[cfg(test)]
mod tests;
