//! A thread that owns connections: it waits on epoll, edge-triggered, and moves bytes or, with the
//! in-kernel splice, watches its sockets for hang-up only (any wider interest would wake it for
//! every message: sk_psock_verdict_data_ready still calls the socket's waiters).

mod dialling;
mod ending;
mod kernel_events;
#[cfg(test)]
mod tests;
mod timers;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    io,
    os::fd::AsFd as _,
    time::Instant,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use proxy_ebpf::TargetKey;
use slab::Slab;

pub(super) use self::kernel_events::KernelEvents;
use self::{dialling::Dials, ending::Ending};
use super::{
    Connection,
    flow::Via,
    mailbox::{Mail, Mailbox},
    pair::{CLIENT, Means, NODE, Pair, Step},
    splice::Splice,
};
use crate::target::Passage;

const MAIL: u64 = u64::MAX;
const KERNEL: u64 = u64::MAX - 1;
/// Of a socket whose connect is under way: the others' fit into 32 bits.
const DIAL: u64 = 1 << 32;
const SCRATCH: usize = 64 << 10;
/// After so many brief connections the next ones have to show first that they are none: the splice costs as much as a few
/// questions and their answers.
pub(super) const MOST_BRIEF: u32 = 8;
/// Connections whose clients have left in a pause, and whose places others have: their files are beyond what
/// `max_connections` was fitted to, so they are few.
const MOST_VACATED: usize = 64;

pub(super) struct Worker {
    epoll: Epoll,
    mailbox: Mailbox,
    pub(super) splice: Option<Splice>,
    /// How many of the connections that ended lately were brief.
    brief: u32,
    kernel: Option<KernelEvents>,
    pairs: Slab<Pair>,
    /// Connections taken over so far: their numbers.
    adopted: u64,
    dials: Dials,
    /// Flows that had more than a turn's worth.
    again: Vec<u32>,
    /// Flows to be looked at later.
    later: BinaryHeap<Reverse<(Instant, u32, u64)>>,
    /// Connections with an idle time limit.
    timed: usize,
    /// Connections without a place.
    vacated: usize,
    next_tick: Option<Instant>,
    /// Connections that met their shut gate before the order to sever came.
    early: HashMap<TargetKey, (usize, Instant)>,
    endings: VecDeque<Ending>,
    /// They wait until then.
    respite: Instant,
    scratch: Vec<u8>,
}

impl Worker {
    pub(super) fn new(mailbox: Mailbox, splice: Option<Splice>, kernel: Option<KernelEvents>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(mailbox.bell().as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, MAIL))?;
        if let Some(kernel) = &kernel {
            use std::os::fd::{AsRawFd as _, BorrowedFd};
            // SAFETY: the ring lives as long as the worker, and so does its descriptor.
            let ring = unsafe { BorrowedFd::borrow_raw(kernel.ring.as_raw_fd()) };
            epoll.add(ring, EpollEvent::new(EpollFlags::EPOLLIN, KERNEL))?;
        }
        let hears_kernel = kernel.is_some();
        Ok(Self {
            epoll,
            mailbox,
            splice,
            brief: 0,
            kernel,
            pairs: Slab::new(),
            adopted: 0,
            dials: Dials::default(),
            again: Vec::new(),
            later: BinaryHeap::new(),
            timed: 0,
            vacated: 0,
            next_tick: hears_kernel.then(|| Instant::now() + timers::TICK),
            early: HashMap::new(),
            endings: VecDeque::new(),
            respite: Instant::now(),
            scratch: vec![0; SCRATCH],
        })
    }

    /// Runs until it is told to stop; then every connection left is reset.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = vec![EpollEvent::empty(); 512];
        while self.turn(&mut events)? {}
        Ok(())
    }

    /// Waits for something to do and does it; false: it was told to stop, and nothing is left.
    fn turn(&mut self, events: &mut [EpollEvent]) -> io::Result<bool> {
        let ready = match self.epoll.wait(events, self.timeout()) {
            Ok(ready) => ready,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let now = Instant::now();
        let mut mail = false;
        for event in &events[..ready] {
            match event.data() {
                MAIL => mail = true,
                KERNEL => self.hear_kernel(now),
                dial if dial & DIAL != 0 => self.dials.has_arrived(dial as u32),
                token => self.on_socket(token as u32, event.events(), now),
            }
        }
        for token in std::mem::take(&mut self.again) {
            self.step(token, now);
        }
        self.look_later(now);
        // Last, so that a slot freed above is not reused while its old events are at hand.
        self.answer_calls(ready < events.len(), now);
        if mail && !self.open_mail(now) {
            self.sever_all();
            return Ok(false);
        }
        self.close_when_due();
        Ok(true)
    }

    fn open_mail(&mut self, now: Instant) -> bool {
        for mail in self.mailbox.take() {
            match mail {
                Mail::Adopt(connection) => self.adopt(connection, false, now),
                Mail::Dial(call) => self.dial(call),
                Mail::Sever(order, urgent) => self.carry_out(&order, urgent),
                Mail::Resume(key) => self.resume(key, now),
                Mail::Kernel(event) => self.on_kernel(event, now),
                Mail::Audit => self.audit(now),
                Mail::Refresh => self.refresh(),
                Mail::Stop => return false,
            }
        }
        true
    }

    /// `dialled`: its node's socket is watched already.
    fn adopt(&mut self, connection: Connection, dialled: bool, now: Instant) {
        let timed = !connection.idle_timeout.is_zero();
        self.adopted += 1;
        let index = self.pairs.vacant_key();
        let mut pair = Pair::new(connection, token(index, CLIENT), self.adopted, now);
        if pair.lease.passage() == Passage::Shut {
            // The switch came between the connect and now, and its order has already passed here.
            return;
        }
        if let Err(error) = self.install(&mut pair, index, dialled, now) {
            tracing::debug!(%error, "a connection ended before it was watched");
            return self.bury(pair);
        }
        self.timed += usize::from(timed);
        if timed {
            self.next_tick.get_or_insert(now + timers::TICK);
        }
        // Most clients have spoken by now.
        let is_ours = pair.flows[CLIENT].via == Via::Daemon;
        pair.ends[CLIENT].readable |= is_ours;
        self.pairs.insert(pair);
        if is_ours {
            self.step(token(index, CLIENT), now);
        }
    }

    fn install(&mut self, pair: &mut Pair, index: usize, dialled: bool, now: Instant) -> io::Result<()> {
        if let Some(splice) = &mut self.splice
            && self.brief < MOST_BRIEF
        {
            pair.splice(splice, now)?;
        }
        for side in 0..2 {
            pair.watched[side] = pair.interest(side);
            let mut event = EpollEvent::new(pair.watched[side], u64::from(token(index, side)));
            if dialled && side == NODE {
                self.epoll.modify(pair.ends[side].as_fd(), &mut event)?;
            } else {
                self.epoll.add(pair.ends[side].as_fd(), event)?;
            }
        }
        Ok(())
    }

    fn on_socket(&mut self, token: u32, flags: EpollFlags, now: Instant) {
        let (index, side) = place(token);
        let Some(pair) = live(&mut self.pairs, index) else { return };
        if flags.contains(EpollFlags::EPOLLERR) {
            // A dead peer: whatever the other one sends would vanish, so it has to know now.
            return self.end(index);
        }
        let end = &mut pair.ends[side];
        let hung_up = flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP);
        end.hung_up |= hung_up;
        end.readable |= hung_up || flags.contains(EpollFlags::EPOLLIN);
        let writable = flags.contains(EpollFlags::EPOLLOUT);
        end.writable |= writable;
        let readable = end.readable;
        if hung_up && side == CLIENT && self.vacated < MOST_VACATED && pair.paused() && pair.vacate() {
            self.vacated += 1;
        }
        if readable {
            self.step(token, now);
        }
        if writable {
            self.step(self::token(index, 1 - side), now);
        }
    }

    /// Takes one flow as far as it goes now.
    fn step(&mut self, token: u32, now: Instant) {
        let (index, side) = place(token);
        let Some(pair) = live(&mut self.pairs, index) else { return };
        pair.flows[side].queued = false;
        let mut means = Means { splice: self.splice.as_mut(), scratch: &mut self.scratch, now };
        match pair.step(side, &mut means) {
            Ok(Step::Wait) => {}
            Ok(Step::Again) => {
                pair.flows[side].queued = true;
                self.again.push(token);
            }
            Ok(Step::Later(due)) => self.later.push(Reverse((due, token, pair.number))),
            Ok(Step::Done) => {
                pair.part_in_order();
                if let Some(splice) = &self.splice {
                    self.brief = if pair.was_brief(splice) { (self.brief + 1).min(MOST_BRIEF) } else { 0 };
                }
                return self.end(index);
            }
            Err(error) => {
                tracing::trace!(%error, "a connection is reset");
                if pair.lease.passage() == Passage::Shut {
                    self.early.entry(pair.lease.key).or_insert_with(|| (0, Instant::now())).0 += 1;
                }
                return self.end(index);
            }
        }
        let Some(pair) = self.pairs.get_mut(index) else { return };
        for (side, flow) in pair.flows.iter_mut().enumerate() {
            if std::mem::take(&mut flow.nudged) && !flow.queued {
                flow.queued = true;
                self.again.push(self::token(index, side));
            }
        }
        for side in 0..2 {
            let interest = pair.interest(side);
            if interest != pair.watched[side] {
                pair.watched[side] = interest;
                let mut event = EpollEvent::new(interest, u64::from(self::token(index, side)));
                if let Err(error) = self.epoll.modify(pair.ends[side].as_fd(), &mut event) {
                    tracing::warn!(%error, "a connection cannot be watched any more");
                    return self.end(index);
                }
            }
        }
    }

    fn refresh(&mut self) {
        let Some(splice) = &self.splice else { return };
        self.pairs.iter_mut().for_each(|(_, pair)| pair.refresh(splice));
    }

    /// Gives every flow that was held its turn; those in the kernel's hands go by the kernel's gate.
    fn resume(&mut self, key: TargetKey, now: Instant) {
        let paused = self.pairs.iter().filter(|(_, pair)| pair.lease.key == key);
        let sides = paused
            .flat_map(|(index, pair)| (0..2).filter(|side| pair.flows[*side].held).map(move |side| token(index, side)));
        for token in sides.collect::<Vec<_>>() {
            self.step(token, now);
        }
    }
}

/// A connection that is more than two sockets to be closed.
fn live(pairs: &mut Slab<Pair>, index: usize) -> Option<&mut Pair> {
    pairs.get_mut(index).filter(|pair| !pair.dismissed)
}

/// What epoll and the kernel program call a flow, and the socket it comes from.
fn token(index: usize, side: usize) -> u32 {
    (index * 2 + side) as u32
}

fn place(token: u32) -> (usize, usize) {
    (token as usize / 2, token as usize % 2)
}
