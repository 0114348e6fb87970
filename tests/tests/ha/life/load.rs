//! The daemon killed by SIGKILL and started again under load: nobody loses a connection, and no request fails.
//! `LIFE_ROUNDS` says how often, 3 times otherwise; the bar is 100.

use std::{
    env,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{Client, Daemon, Lab, Spec, Subscriber, Writer, lab::check, wait};

use super::kill;
use crate::FOLLOW;

const WRITERS: usize = 6;
const PER_SECOND: u32 = 200;
/// Longer than a SYN or a segment that was lost and sent again takes.
const LIMIT: Duration = Duration::from_secs(5);

/// A connection for each request.
#[derive(Debug, Default)]
struct Dials {
    stop: AtomicBool,
    served: AtomicUsize,
    slowest_us: AtomicUsize,
}

impl Dials {
    /// Dials from the namespace that it runs in; ends with the first failure.
    fn run(&self, to: SocketAddr) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let stream = TcpStream::connect_timeout(&to, LIMIT).context("connect")?;
            Client::over(stream, LIMIT)?.ping().with_context(|| format!("request {}", self.count()))?;
            let took = usize::try_from(start.elapsed().as_micros()).unwrap_or(usize::MAX);
            self.slowest_us.fetch_max(took, Ordering::Relaxed);
            self.served.fetch_add(1, Ordering::Relaxed);
            wait::pause(Duration::from_millis(2));
        }
        Ok(())
    }

    fn count(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }
}

/// With the grace of five seconds that a configuration has which says nothing of it. A start that fails is tried once
/// more, as systemd does: connections must not depend on it. Returns how often it was.
fn restart(lab: &mut Lab) -> Result<u32> {
    let config = Lab::setup(&lab.world, &lab.cluster, "tc")?.config();
    let (daemon, again) = match Daemon::start(&lab.world, &config) {
        Ok(daemon) => (daemon, 0),
        Err(error) => {
            println!("started again: {error:#}");
            (Daemon::start(&lab.world, &config)?, 1)
        }
    };
    lab.daemon = daemon;
    Ok(again)
}

fn rounds() -> u32 {
    env::var("LIFE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3)
}

fn play(lab: &mut Lab, writers: &[Writer], dials: &Dials) -> Result<()> {
    let mut again = 0;
    for round in 0..rounds() {
        wait::pause(Duration::from_millis(200));
        let (acked, served): (Vec<usize>, usize) = (writers.iter().map(Writer::acked).collect(), dials.count());
        kill(lab)?;
        // From a restart at once to one well within the grace.
        wait::pause(Duration::from_millis(u64::from(round % 4) * 250));
        again += restart(lab).with_context(|| format!("round {round}"))?;
        for (writer, before) in writers.iter().zip(acked) {
            let outages = writer.outages();
            ensure!(outages.is_empty(), "round {round}: a writer lost its connection: {outages:?}");
            wait::until_true(FOLLOW, "a writer to go on", || writer.acked() > before)?;
        }
        wait::until_true(FOLLOW, "requests with a connection each", || dials.count() > served)?;
    }
    ensure!(again <= 1 + rounds() / 50, "{again} of {} starts failed", rounds());
    println!("{again} of {} starts were tried twice", rounds());
    Ok(())
}

#[test]
fn killed_and_restarted_under_load() {
    check(Lab::start(Spec::default(), "tc", |setup| setup), |lab| {
        let (client, to) = (lab.client()?.clone(), lab.writes_address()?);
        let writers: Vec<Writer> = (0..WRITERS).map(|_| Writer::start(&client, to, PER_SECOND, None)).collect();
        let subscriber = Subscriber::start(&client, to, "news")?;
        let dials = Dials::default();
        let played = std::thread::scope(|scope| {
            let dialling = scope.spawn(|| client.enter(|| dials.run(to)));
            let played = play(lab, &writers, &dials);
            dials.stop.store(true, Ordering::Relaxed);
            dialling.join().ok().context("the dials panicked")???;
            played
        });
        played?;
        println!(
            "{} rounds: {} requests with a connection each, the slowest took {} us",
            rounds(),
            dials.count(),
            dials.slowest_us.load(Ordering::Relaxed)
        );
        counts_only_what_lives(lab)?;
        lab.cluster.nodes[lab.cluster.master()?]
            .client()?
            .call::<i64>(redis::cmd("PUBLISH").arg("news").arg("still"))?;
        subscriber.wait_message("still", FOLLOW)?;
        one_connection_each(writers)
    });
}

/// The listener's connections died with each daemon, and every request has ended.
fn counts_only_what_lives(lab: &Lab) -> Result<()> {
    wait::until(FOLLOW * 2, "the connections to be counted right", || {
        let connections = lab.daemon.status()?.route("writes")?.connections;
        ensure!(connections == WRITERS as u64 + 1, "{connections} are counted");
        Ok(())
    })
}

/// None has dialled twice.
fn one_connection_each(writers: Vec<Writer>) -> Result<()> {
    let records: Vec<_> = writers.into_iter().map(Writer::stop).collect();
    let links: u32 = records.iter().filter_map(|record| record.acks.iter().map(|ack| ack.link).max()).sum();
    let acked: usize = records.iter().map(|record| record.acks.len()).sum();
    println!("{acked} writes acknowledged on {links} connections of {WRITERS} writers");
    ensure!(links == WRITERS as u32, "{WRITERS} writers made {links} connections");
    Ok(())
}
