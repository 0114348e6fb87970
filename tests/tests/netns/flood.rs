//! A million spoofed SYNs at a tc route: what is established goes on, what is half-open stays bounded, and every place
//! comes back. The rate while it lasts is printed beside the one before; the sender takes a core of the same machine.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{Array, Map, MapData, MapInfo},
    programs::loaded_programs,
};
use proxy_ebpf::nat::{Flow, MOST_HALF_OPEN, flow, names};
use switchmaster_tests::{Flood, wait};

use crate::{
    order::echo,
    stage::{self, PORT, Stage},
};

const SYNS: u32 = 1_000_000;
const LIMIT: Duration = Duration::from_secs(180);
const CONNECTIONS: usize = 8;
const CALM: Duration = Duration::from_secs(2);
const BETWEEN: Duration = Duration::from_millis(1);
/// The sender has a processor to itself, and the interrupts of what it sends.
const KEPT_RATE: f64 = 0.6;
/// A round trip takes no longer than this, on the average; without the flood it is a tenth of it.
const TRIP: Duration = Duration::from_millis(1);
/// No round trip may take longer while it lasts: four retransmissions.
const PATIENCE: Duration = Duration::from_secs(3);
/// A half-open flow is kept for 60 s after its last SYN.
const KEPT: Duration = Duration::from_secs(80);
/// The first of those that SYNs come from, and the network of all of them: it lies behind the client, which has none.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);
const SPOOFED: &str = "10.128.0.0/9";

/// Round trips, and how long all of them took.
#[derive(Default)]
struct Trips {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Trips {
    fn so_far(&self) -> (u64, u64) {
        (self.count.load(Ordering::Relaxed), self.nanos.load(Ordering::Relaxed))
    }
}

/// Sends and hears, and so on after a pause, until told to stop: who never pauses takes the sender's time.
fn trips(mut stream: TcpStream, done: &Trips, stop: &AtomicBool) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE)).context("read time-out")?;
    let mut message = [b'm'; 64];
    while !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        stream.write_all(&message).context("send")?;
        stream.read_exact(&mut message).context("an established connection hears nothing")?;
        done.count.fetch_add(1, Ordering::Relaxed);
        done.nanos.fetch_add(sent.elapsed().as_nanos() as u64, Ordering::Relaxed);
        wait::pause(BETWEEN);
    }
    Ok(())
}

/// How many a second while `work` is done, and how long one took on the average.
fn rate(done: &Trips, work: impl FnOnce() -> Result<()>) -> Result<(f64, Duration)> {
    let ((count, nanos), start) = (done.so_far(), Instant::now());
    work()?;
    let (elapsed, (count_now, nanos_now)) = (start.elapsed(), done.so_far());
    let count = count_now - count;
    ensure!(count > 0, "no round trip in {elapsed:?}");
    Ok((count as f64 / elapsed.as_secs_f64(), Duration::from_nanos((nanos_now - nanos) / count)))
}

/// The table of flows of this process's packet program.
fn flows(pid: i32) -> Result<Array<MapData, Flow>> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).context("fdinfo")?;
    let paths = descriptors.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    let number = |path: &PathBuf| -> Option<u32> {
        let text = fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("prog_id:"))?.trim().parse().ok()
    };
    let own: BTreeSet<u32> = paths.iter().filter_map(number).collect();
    // Others may end while they are listed.
    let programs = loaded_programs().filter_map(Result::ok).filter(|program| own.contains(&program.id()));
    for program in programs.filter(|program| program.name_as_str() == Some(names::TC)) {
        for id in program.map_ids()?.context("no maps")? {
            if MapInfo::from_id(id)?.name_as_str() == Some(names::FLOWS) {
                return Ok(Array::try_from(Map::Array(MapData::from_id(id)?))?);
            }
        }
    }
    anyhow::bail!("process {pid} has no packet program")
}

/// How many flows there are, half-open and others.
fn held(flows: &Array<MapData, Flow>) -> Result<(usize, usize)> {
    let (mut half, mut others) = (0, 0);
    for record in flows.iter() {
        match record?.state & flow::MASK {
            flow::FREE => {}
            flow::HALF => half += 1,
            _ => others += 1,
        }
    }
    Ok((half, others))
}

fn pour(stage: &Stage) -> Result<()> {
    let (client, proxy) = (stage.world.client()?, stage.world.proxy()?);
    let SocketAddr::V4(to) = proxy.address(PORT) else { anyhow::bail!("not IPv4") };
    let flood = Flood { to: SocketAddrV4::new(*to.ip(), PORT), first: FIRST, packets: SYNS, limit: LIMIT };
    let flooded = flood.pour(client, proxy, "link1")?;
    let a_second = f64::from(flooded.packets) / flooded.took.as_secs_f64();
    eprintln!("{} SYNs in {:?}, {a_second:.0} a second", flooded.packets, flooded.took);
    ensure!(flooded.packets == SYNS, "only {} were sent", flooded.packets);
    Ok(())
}

fn under_fire(stage: &Stage) -> Result<()> {
    let proxy = stage.world.proxy()?;
    // Answers to them are routed, as they would be on the internet.
    proxy.run("ip", &["route", "add", SPOOFED, "via", &stage.world.client()?.ipv4().to_string()])?;
    let streams = (0..CONNECTIONS).map(|_| stage.connect()).collect::<Result<Vec<_>>>()?;
    let (done, stop) = (Trips::default(), AtomicBool::new(false));
    let [before, during, after] = thread::scope(|scope| {
        let threads: Vec<_> = streams.into_iter().map(|stream| scope.spawn(|| trips(stream, &done, &stop))).collect();
        let calm = || {
            rate(&done, || {
                wait::pause(CALM);
                Ok(())
            })
        };
        let rates = calm().and_then(|before| Ok([before, rate(&done, || pour(stage))?, calm()?]));
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().try_for_each(|thread| thread.join().ok().context("a thread panicked")?)?;
        rates
    })?;
    eprintln!(
        "round trips a second: {:.0} before, {:.0} meanwhile ({:.2}), {:.0} after; {:?}, {:?} and {:?} each",
        before.0,
        during.0,
        during.0 / before.0,
        after.0,
        before.1,
        during.1,
        after.1
    );
    ensure!(during.0 >= before.0 * KEPT_RATE, "of {:.0} round trips a second {:.0} were left", before.0, during.0);
    ensure!(during.1 <= TRIP, "a round trip took {:?}", during.1);
    Ok(())
}

#[test]
fn a_million_spoofed_syns() {
    let machine = stage::machine();
    stage::check(Stage::unshared("tc", echo), |stage| {
        stage.wait_translated(0)?;
        let flows = flows(stage.daemon.process().pid().as_raw())?;
        under_fire(stage)?;
        let (half, others) = held(&flows)?;
        let fates = ["new", "evicted", "listener", "no_port", "full"].map(|fate| (fate, stage.packets(fate)));
        eprintln!("{half} flows are half-open, {others} others; {fates:?}");
        ensure!((1..=MOST_HALF_OPEN as usize).contains(&half), "{half} flows are half-open");
        // Others need not wait for it, too.
        drop(machine);
        wait::until(KEPT, "the places to come back", || {
            let held = held(&flows)?;
            ensure!(held == (0, 0), "{held:?} are held, half-open and others");
            Ok(())
        })
    });
}
