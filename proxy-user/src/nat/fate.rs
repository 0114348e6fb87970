//! Whether a flow has ended, from its own record: pure, timed by an argument. What the ends said (FIN, RST) is
//! believed only once they have been silent for a while, for a late packet may still need the flow. A silent
//! flow that nobody ended is kept for ever, unless its route has an `idle_timeout`: a subscriber may be silent for days.

use std::time::Duration;

use proxy_ebpf::nat::{End, Flow, flow};

use super::ticks::{later, since, ticks};

/// The TCP flags (RFC 9293, 3.1) that end a connection.
const FIN: u8 = 0x01;
const RST: u8 = 0x04;

#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Keep,
    Free(Reason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Both ends closed it.
    Closed,
    /// One end closed it, and neither has said anything since.
    HalfClosed,
    /// An end reset it.
    Reset,
    /// Its handshake was never finished.
    HalfOpen,
    /// Its generation has ended.
    Severed,
    /// Silent for its route's `idle_timeout`.
    Idle,
}

impl Reason {
    pub const ALL: [Self; 6] = [Self::Closed, Self::HalfClosed, Self::Reset, Self::HalfOpen, Self::Severed, Self::Idle];

    /// The label value in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfClosed => "half_closed",
            Self::Reset => "reset",
            Self::HalfOpen => "half_open",
            Self::Severed => "severed",
            Self::Idle => "idle",
        }
    }

    /// Whether an end may still believe in the connection, and has to be told by RST.
    pub fn resets(self) -> bool {
        matches!(self, Self::HalfClosed | Self::Idle)
    }
}

/// How long each end has to be silent before a flow is freed, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lingers {
    /// After both FINs were acknowledged: only a lost acknowledgement is sent again. Short, for it bounds how
    /// many connections a second the ports of an address can serve.
    pub closed: u32,
    /// After both FINs, not all of which were acknowledged: they are sent again, at growing intervals.
    pub closing: u32,
    /// After one FIN. A node keeps a connection that it closed for net.ipv4.tcp_fin_timeout (60 s), and closes
    /// one that its client closed at once.
    pub half_closed: u32,
    /// After a RST: what was under way to its sender comes in still.
    pub reset: u32,
    /// After the client's last SYN: it repeats it after 1, 3, 7, 15, 31 and 63 s.
    pub half_open: u32,
    /// After the RSTs of a switch: who missed them hears of it at its next packet.
    pub severed: u32,
}

impl Default for Lingers {
    fn default() -> Self {
        let secs = |secs| ticks(Duration::from_secs(secs));
        Self {
            closed: secs(1),
            closing: secs(60),
            half_closed: secs(300),
            reset: secs(1),
            half_open: secs(60),
            severed: secs(2),
        }
    }
}

/// The generations of a slot that a switch has ended, all of whose flows were sent their RSTs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Severing {
    /// The latest of them, its low half as in [`Flow::generation`].
    pub through: u32,
    /// When that was done.
    pub at: u32,
}

/// What is to be known of a flow's route and slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// The route's `idle_timeout`, in ticks.
    pub idle_timeout: Option<u32>,
    pub severed: Option<Severing>,
}

/// What is to become of this flow.
pub fn fate(flow: &Flow, now: u32, lingers: &Lingers, standing: Standing) -> Fate {
    let silent = since(later(flow.client.seen, flow.node.seen), now);
    let (reason, waited, linger) = if let Some(severed) = ended_by(flow, standing) {
        (Reason::Severed, since(severed.at, now), lingers.severed)
    } else if (flow.client_flags | flow.node_flags) & RST != 0 {
        (Reason::Reset, silent, lingers.reset)
    } else if flow.client_flags & flow.node_flags & FIN != 0 {
        (Reason::Closed, silent, if finished(flow) { lingers.closed } else { lingers.closing })
    } else if flow.state & flow::MASK == flow::HALF {
        // The node repeats its SYN-ACK to a client that does not exist.
        (Reason::HalfOpen, since(flow.client.seen, now), lingers.half_open)
    } else if (flow.client_flags | flow.node_flags) & FIN != 0 {
        (Reason::HalfClosed, silent, lingers.half_closed)
    } else if let Some(timeout) = standing.idle_timeout {
        (Reason::Idle, silent, timeout)
    } else {
        return Fate::Keep;
    };
    match waited >= linger {
        true => Fate::Free(reason),
        false => Fate::Keep,
    }
}

impl Severing {
    /// Whether it ended this flow. Generations are compared over their wrap.
    pub fn includes(&self, flow: &Flow) -> bool {
        (self.through.wrapping_sub(flow.generation) as i32) >= 0
    }
}

/// The severing that ended this flow, if one did.
fn ended_by(flow: &Flow, standing: Standing) -> Option<Severing> {
    standing.severed.filter(|severed| severed.includes(flow))
}

/// Whether both ends know that it has ended.
pub fn is_over(flow: &Flow) -> bool {
    (flow.client_flags | flow.node_flags) & RST != 0 || flow.client_flags & flow.node_flags & FIN != 0
}

/// Whether each end has acknowledged all that the other sent.
fn finished(flow: &Flow) -> bool {
    let has_all = |receiver: &End, sender: &End| (receiver.acked.wrapping_sub(sender.next) as i32) >= 0;
    has_all(&flow.client, &flow.node) && has_all(&flow.node, &flow.client)
}
