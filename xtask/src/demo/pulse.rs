//! The state of one moment as the audience sees it: who is master, how fast writes are, who waits.

use std::time::{Duration, Instant};

use anyhow::Result;
use switchmaster_tests::client::Ack;

use super::{screen::Frame, stage::Stage};
use crate::series::quantile;

const WINDOW: Duration = Duration::from_secs(1);
/// One character of the strip.
const CELL: Duration = Duration::from_millis(200);
const CELLS: u32 = 50;
const BARS: [char; 9] = ['_', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Acknowledged writes of the last ten seconds, kept from frame to frame.
#[derive(Debug)]
pub(super) struct Pulse {
    heading: String,
    began: Instant,
    first: usize,
    next: usize,
    recent: Vec<Ack>,
}

impl Pulse {
    pub(super) fn new(heading: &str, stage: &Stage) -> Self {
        let acked = stage.writer.acked();
        Self { heading: heading.to_owned(), began: Instant::now(), first: acked, next: acked, recent: Vec::new() }
    }

    /// Number of the first acknowledgement that belongs to it.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    pub(super) fn frame(&mut self, stage: &Stage) -> Result<Frame> {
        let now = Instant::now();
        let fresh = stage.writer.acks_from(self.next);
        self.next += fresh.len();
        self.recent.extend(fresh);
        self.recent.retain(|ack| now.duration_since(ack.acked) < CELL * CELLS);
        let last: Vec<&Ack> = self.recent.iter().filter(|ack| now.duration_since(ack.acked) < WINDOW).collect();
        let mut latencies: Vec<Duration> = last.iter().map(|ack| ack.acked.duration_since(ack.sent)).collect();
        latencies.sort_unstable();
        let latency = match (quantile(&latencies, 0.5), quantile(&latencies, 0.99)) {
            (Some(p50), Some(p99)) => format!("p50 {:.2} ms, p99 {:.2} ms", ms(p50), ms(p99)),
            _ => "nothing is acknowledged".to_owned(),
        };
        let status = stage.lab.daemon.status()?;
        let (group, route) = (status.group(stage.lab.group_name())?, status.route("writes")?);
        let master = group.master.as_ref().map_or_else(|| "none".to_owned(), |master| master.addr.to_string());
        let seconds = now.duration_since(self.began).as_secs_f32();
        let rate = last.len();
        let heard = stage.audience.heard_within(WINDOW);
        let block = vec![
            format!("{}  [{seconds:.1} s]", self.heading),
            format!("  master    {master}, way {} ({})", group.way, group.reason),
            format!("  writes    {rate}/s, {latency}"),
            format!("  pub/sub   {heard} messages/s heard"),
            format!(
                "  daemon    {}: {} connections, {} parked, {} severed so far, generation {}",
                route.datapath, route.connections, route.parked, route.severed, route.generation
            ),
            format!("  writes in the last 10 s  {}", self.strip(now)),
        ];
        let line = format!(
            "[{seconds:5.1} s] master {master}, {} ({}); {rate} writes/s, {latency}; {heard} messages/s; {} parked, {} severed",
            group.way, group.reason, route.parked, route.severed
        );
        Ok(Frame { block, line })
    }

    /// A bar for each fifth of a second, full where every write was acknowledged.
    fn strip(&self, now: Instant) -> String {
        let full = CELL.as_secs_f64() * f64::from(super::stage::WRITES_PER_SECOND);
        let bar = |cell: u32| {
            let (from, until) = (CELL * (CELLS - cell), CELL * (CELLS - cell - 1));
            let age = |ack: &&Ack| now.duration_since(ack.acked);
            let count = self.recent.iter().filter(|ack| age(ack) < from && age(ack) >= until).count();
            let step = (count as f64 / full * 8.0).ceil().clamp(0.0, 8.0);
            BARS[step as usize]
        };
        (0..CELLS).map(bar).collect()
    }
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
