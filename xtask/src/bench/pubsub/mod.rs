//! Publish/subscribe: one publisher, at a fixed rate, and many subscribers. What is measured is the way of a
//! message, from the moment it was due to the one in which a subscriber has read it.

mod audience;
mod message;
mod publisher;
mod schedule;

use std::{
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use switchmaster_tests::{client::Crowd, netns::Namespace};

use self::{audience::Audience, schedule::Schedule};
use crate::series::quantile;

const LIMIT: Duration = Duration::from_secs(5);
/// Latency has all of it, but a rate that cannot be kept is no fixed rate.
const BEHIND: Duration = Duration::from_secs(1);
/// The threads are up by then.
const LEAD: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) per_second: u32,
    /// Messages that are not counted: everything is cold at first.
    pub(super) first: u64,
    pub(super) counted: u64,
}

/// The connections of a run, subscribed.
#[derive(Debug)]
pub(super) struct Room {
    audience: Audience,
    publisher: TcpStream,
    subscribers: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    /// Of all messages, those not counted included, to all subscribers.
    pub(super) deliveries: u64,
    pub(super) per_second: f64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) p999: Duration,
}

impl Room {
    pub(super) fn gather(from: &Namespace, to: SocketAddr, subscribers: usize) -> Result<Self> {
        let subscribe = format!("SUBSCRIBE {}\r\n", message::CHANNEL);
        let crowd = Crowd::gather(from, to, subscribers, &subscribe, message::confirmation().len())?;
        let publisher = from.connect(to, LIMIT)?;
        publisher.set_nodelay(true).context("nodelay")?;
        publisher.set_write_timeout(Some(LIMIT)).context("write time-out")?;
        let audience = Audience::seat(crowd.into_streams(), &publisher)?;
        Ok(Self { audience, publisher, subscribers: subscribers as u64 })
    }

    pub(super) fn play(&mut self, plan: Plan) -> Result<Outcome> {
        let start = Instant::now() + LEAD;
        let schedule = Schedule::new(start, plan.per_second, plan.first + plan.counted);
        let (publisher, audience) = (&self.publisher, &mut self.audience);
        let (late, heard) = thread::scope(|scope| {
            let sending = scope.spawn(|| publisher::publish(publisher, &schedule));
            let heard = audience.listen(publisher, &schedule, plan.first);
            if heard.is_err() {
                // It would go on to the end of its schedule.
                let _ended = publisher.shutdown(Shutdown::Both);
            }
            (sending.join(), heard)
        });
        let heard = heard?;
        let late = late.map_err(|_| anyhow!("the publisher's thread panicked"))??;
        ensure!(late < BEHIND, "the publisher fell {late:?} behind: this rate is more than this way carries");
        let at = |part| quantile(&heard.latencies, part).map(Duration::from_nanos).context("no message was counted");
        let deliveries = self.subscribers * schedule.count;
        Ok(Outcome {
            deliveries,
            per_second: deliveries as f64 / heard.last.saturating_duration_since(start).as_secs_f64(),
            p50: at(0.5)?,
            p99: at(0.99)?,
            p999: at(0.999)?,
        })
    }
}
