//! What the verdict program tells the daemon, and what it could not tell because its ring was full.

use std::time::Instant;

use aya::maps::{MapData, PerCpuArray, RingBuf};
use proxy_ebpf::{Event, counter, event, sequence};

use super::{Worker, live, place, token};
use crate::datapath::{
    flow::Via,
    mailbox::{Mail, Mailbox},
};

/// The verdict program's voice, heard by one worker for all.
pub(in crate::datapath) struct KernelEvents {
    pub(in crate::datapath) ring: RingBuf<MapData>,
    pub(in crate::datapath) counters: PerCpuArray<MapData, u64>,
    pub(in crate::datapath) workers: Vec<Mailbox>,
    pub(in crate::datapath) lost: u64,
}

impl Worker {
    pub(super) fn hear_kernel(&mut self, now: Instant) {
        let Some(mut kernel) = self.kernel.take() else { return };
        while let Some(item) = kernel.ring.next() {
            let Ok(event) = bytemuck::try_pod_read_unaligned::<Event>(&item) else { continue };
            match kernel.workers.get(event.worker as usize) {
                _ if event.worker == 0 => self.on_kernel(event, now),
                Some(mailbox) => mailbox.send(Mail::Kernel(event)),
                None => {}
            }
        }
        self.kernel = Some(kernel);
    }

    /// The ring is full only while thousands of flows pass at once; what it lost is found by asking.
    pub(super) fn look_for_lost_events(&mut self) {
        let Some(kernel) = &mut self.kernel else { return };
        let lost = kernel.counters.get(&counter::EVENT_LOST, 0).map_or(0, |values| values.iter().sum());
        if lost != kernel.lost {
            kernel.lost = lost;
            kernel.workers.iter().for_each(|mailbox| mailbox.send(Mail::Audit));
        }
    }

    pub(super) fn on_kernel(&mut self, event: Event, now: Instant) {
        let (index, side) = place(event.token);
        let Some(pair) = live(&mut self.pairs, index) else { return };
        if pair.ends[side].cookie != event.cookie {
            return;
        }
        match (pair.flows[side].via, event.kind) {
            (_, event::BROKEN) => {
                tracing::warn!(
                    gap = event.gap,
                    "the kernel handed over a segment that does not continue its stream; the connection is reset"
                );
                return self.end(index);
            }
            (Via::Kernel, event::PASSING) => pair.leave(side, now),
            // An evicted flow has met its limit; or the receiver of one that stays falls behind.
            (Via::Draining, event::PASSING) | (Via::Kernel, _) => {}
            _ => return,
        }
        self.step(event.token, now);
    }

    pub(super) fn audit(&mut self, now: Instant) {
        let Some(splice) = &self.splice else { return };
        let (mut unheard, mut broken) = (Vec::new(), Vec::new());
        for (index, pair) in &mut self.pairs {
            for side in 0..2 {
                let Ok(meter) = splice.meter(pair.ends[side].cookie) else { continue };
                if meter.sequence == sequence::BROKEN {
                    broken.push(index);
                    break;
                }
                if pair.flows[side].via != Via::Kernel || meter.passing == 0 && meter.notified == 0 {
                    continue;
                }
                if meter.passing != 0 {
                    pair.leave(side, now);
                }
                unheard.push(token(index, side));
            }
        }
        // First: a step may end a connection as well, and none has two ends.
        for index in broken {
            self.end(index);
        }
        for token in unheard {
            self.step(token, now);
        }
    }
}
