//! What a connection costs the daemon: a spliced one no work, an idle one next to no memory.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{node::Door, wait};

use crate::{
    on_each_datapath,
    order::echo,
    stage::{self, Stage, crowd},
};

const ROUND_TRIPS: u32 = 50_000;
const IDLE: usize = 5000;
const PER_CONNECTION: u64 = 4 << 10;

on_each_datapath!(five_thousand_idle_connections);

/// User and system time of a process so far, and how often its threads gave up the processor.
fn work(pid: i32) -> Result<(Duration, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|index| fields.get(*index)?.parse::<u64>().ok()).sum();
    let mut switches = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("tasks")? {
        let status = fs::read_to_string(task.context("task")?.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        switches += line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0);
    }
    // The unit of /proc is USER_HZ, 100 on every Linux.
    Ok((Duration::from_millis(ticks * 10), switches))
}

fn round_trips(stream: &mut TcpStream, count: u32) -> Result<()> {
    let mut buffer = [b'r'; 64];
    for _ in 0..count {
        stream.write_all(&buffer).context("send")?;
        stream.read_exact(&mut buffer).context("echo")?;
    }
    Ok(())
}

/// Watched for anything but hang-up, a spliced socket would wake its worker for every message.
#[test]
fn the_daemon_sleeps_while_the_kernel_splices() {
    stage::check(Stage::alone("sockmap", echo), |stage| {
        let pid = stage.daemon.process().pid().as_raw();
        let mut stream = stage.connect()?;
        round_trips(&mut stream, 1000)?;
        let (before, redirected) = (work(pid)?, stage.verdicts("redirected")?);
        let start = Instant::now();
        round_trips(&mut stream, ROUND_TRIPS)?;
        let (took, after) = (start.elapsed(), work(pid)?);
        let (time, switches) = (after.0 - before.0, after.1 - before.1);
        eprintln!("{ROUND_TRIPS} round trips in {took:?}: the daemon worked {time:?} and slept {switches} times");
        let redirected = stage.verdicts("redirected")? - redirected;
        ensure!(redirected >= f64::from(ROUND_TRIPS) * 2.0, "only {redirected} were redirected");
        ensure!(switches < 1000, "the daemon was woken {switches} times");
        ensure!(time < Duration::from_millis(100), "the daemon worked {time:?}");
        Ok(())
    });
}

fn resident(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>().context("VmRSS")? << 10)
}

/// Every one of them has carried bytes once, as real ones have.
fn used_connections(stage: &Stage, count: usize) -> Result<Vec<TcpStream>> {
    let clients = std::sync::Mutex::new(Vec::with_capacity(count));
    let already = stage.node.kept().len();
    crowd(count, 8, |number| {
        let mut stream = stage.connect_as(number)?;
        stream.write_all(&[b'u'; 2000]).context("use")?;
        clients.lock().ok().context("poisoned")?.push(stream);
        Ok(())
    })?;
    wait::until(stage::LIMIT, "the connections to reach the node", || {
        let kept = stage.node.kept().len() - already;
        ensure!(kept == count, "{kept} of {count}");
        Ok(())
    })?;
    for mut stream in stage.node.kept().iter().skip(already) {
        stream.read_exact(&mut [0; 2000]).context("used")?;
    }
    clients.into_inner().ok().context("poisoned")
}

fn five_thousand_idle_connections(datapath: &str) {
    stage::check(Stage::alone(datapath, |_| Ok(())), |stage| {
        stage.node.set_door(Door::Keep);
        let pid = stage.daemon.process().pid().as_raw();
        let first = used_connections(stage, 100)?;
        let before = resident(pid)?;
        let rest = used_connections(stage, IDLE)?;
        let each = resident(pid)?.saturating_sub(before) / IDLE as u64;
        eprintln!("{datapath}: {each} bytes of the daemon's memory for each of {IDLE} idle connections");
        ensure!(each <= PER_CONNECTION, "an idle connection costs {each} bytes");
        drop((first, rest));
        Ok(())
    });
}
