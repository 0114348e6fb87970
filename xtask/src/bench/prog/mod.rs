//! `cargo xtask bench prog`: what a packet program costs by itself, without a network: the kernel runs it over
//! a packet of an established connection again and again, beside a program that only finds the headers. A
//! program that changes its packet is run by one that restores it; what that adds is taken off again.

mod flow;
mod harness;
mod packet;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use proxy_ebpf::nat::{MOST_SNATS, TICK_SHIFT};
use serde_json::{Value, json};
use switchmaster_tests::{daemon::Refusal, wait};

use self::{
    flow::{Flow, Spread, tick},
    harness::{Given, Harness, Hook, Program},
    packet::{Ends, PAYLOAD, segment},
};
use super::{Run, peer::Peer};
use crate::{
    daemon, json, need_root, page,
    series::Series,
    setting::{self, Setting},
    setup,
    table::Table,
    unless_interrupted, workspace,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Interleaved rounds; the figures are their medians
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Packets in a round of each program
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    packets: u32,
    /// Write every round to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put the table into this page, in place of its old one
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// The datapaths that are packet programs, and what the daemon calls these.
const SUBJECTS: [(Peer, Hook, &str); 2] = [(Peer::Tc, Hook::Tc, "nat_tc"), (Peer::Xdp, Hook::Xdp, "nat_xdp")];

/// A thousand connections, and a million, as powers of two.
const FEW: u32 = 10;
const MANY: u32 = 20;

/// For so long a next hop is remembered.
const STRETCH: Duration = Duration::from_nanos(32 << TICK_SHIFT);

/// Packets of a flow at a time: some 50 ms of them.
const BOUT: u32 = 100_000;

/// The rounds of one hook, in ns a packet.
#[derive(Debug, Default)]
struct Measured {
    bare: Vec<f64>,
    /// The bare program by way of the harness, less what that adds: it should be `bare` again.
    check: Vec<f64>,
    /// What the harness adds.
    added: Vec<f64>,
    ours: Vec<f64>,
    /// The same over packets of a thousand connections, and of a million.
    few: Vec<f64>,
    many: Vec<f64>,
    /// What each of these takes a program that does no more than look at their records.
    few_records: Vec<f64>,
    many_records: Vec<f64>,
    /// Why there is none of ours.
    absent: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode> {
    need_root("running kernel programs")?;
    setup::ensure_ready(arguments.yes)?;
    let program = daemon::chosen()?;
    let setting = Setting::look(&program, None)?;
    let run = Run {
        program,
        congestion_control: None,
        whole_packets: false,
        queued: false,
        spare_addresses: MOST_SNATS as u8 - 1,
    };
    let measured = measure_all(&run, arguments);
    unless_interrupted()?;
    let measured = measured?;
    let table = table(&measured);
    println!("\n{table}");
    if let Some(file) = &arguments.json {
        let hooks: Vec<Value> = SUBJECTS.iter().zip(&measured).map(|(&(_, hook, _), one)| one.json(hook)).collect();
        let command = setting::command();
        json::write(
            file,
            &json!({ "command": command, "setting": setting, "packets": arguments.packets, "hooks": hooks }),
        )?;
    }
    if let Some(file) = &arguments.markdown {
        let text = format!("Made by `{}`:\n\n{}\n{table}", setting::command(), setting.text());
        page::put(file, "Bench", "bench programs", &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure_all(run: &Run, arguments: &Arguments) -> Result<Vec<Measured>> {
    let objects = ebpf_build::build(&workspace(), &workspace().join("target/bpf"))?;
    let mut harness = Harness::load(&objects.join("bare")).context("the kernel refuses the bare programs")?;
    let each = SUBJECTS.into_iter().map(|(peer, hook, name)| {
        let flow = match Flow::open(run, peer, name) {
            Ok(flow) => Ok(flow),
            Err(error) => match error.downcast_ref::<Refusal>() {
                Some(refusal) => Err(format!("not in this build: {}", refusal.why())),
                None => return Err(error.context(format!("a connection through {peer}"))),
            },
        };
        measure(&mut harness, hook, flow, arguments)
    });
    each.collect()
}

fn measure(
    harness: &mut Harness,
    hook: Hook,
    mut flow: Result<Flow, String>,
    arguments: &Arguments,
) -> Result<Measured> {
    let mut measured = Measured::default();
    let anybody = Given { packet: segment(&anybodys()?), sequence: 0, ifindex: None, flows: 0 };
    let spread = flow.as_mut().ok().map(|flow| flow.spread(MANY)).transpose()?;
    for _ in 0..arguments.rounds {
        let mut one = |program| harness.run(hook, program, &anybody, arguments.packets);
        let (empty, bare) = (one(Program::Empty)?, one(Program::Bare)?);
        let added = one(Program::EmptyAgain)? - empty;
        measured.bare.push(bare);
        measured.added.push(added);
        measured.check.push(one(Program::BareAgain)? - added);
        if let Ok(flow) = &mut flow {
            measured.ours.push(through(harness, hook, flow, arguments.packets)? - added);
        }
        for (flows, times, records) in [
            (FEW, &mut measured.few, &mut measured.few_records),
            (MANY, &mut measured.many, &mut measured.many_records),
        ] {
            let several = Given { flows, ..anybody.clone() };
            let mut one = |program| harness.run(hook, program, &several, arguments.packets);
            let added = one(Program::EmptyAgain)? - empty;
            records.push(one(Program::RecordAgain)? - added);
            if let (Ok(flow), Some(spread)) = (&flow, &spread) {
                times.push(over(harness, hook, flow, (spread, flows), arguments.packets)? - added);
            }
        }
    }
    measured.absent = flow.err();
    Ok(measured)
}

/// In bouts, each over a connection of its own: shorter than the silence after which XDP leaves a packet to tc, and than the
/// window in which a flow's record believes a sequence number.
fn through(harness: &mut Harness, hook: Hook, flow: &mut Flow, packets: u32) -> Result<f64> {
    let mut total = 0.0;
    for begun in (0..packets).step_by(BOUT as usize) {
        let (given, bout) = (flow.connect()?, BOUT.min(packets - begun));
        let again = Program::Again(&flow.program);
        // Interfaces are known by their numbers, and those are the namespace's.
        let mean = flow.stage.proxy()?.enter(|| harness.run(hook, again, &given, bout))??;
        total += mean * f64::from(bout);
    }
    Ok(total / f64::from(packets))
}

/// Over packets of so many connections, as a power of two, each of which was heard a moment ago and has had a packet since.
fn over(harness: &mut Harness, hook: Hook, flow: &Flow, (spread, flows): (&Spread, u32), packets: u32) -> Result<f64> {
    // From the beginning of a stretch of time in which the programs remember next hops; it lasts for 4.3 s.
    wait::until(STRETCH * 2, "the programs' clock", || {
        ensure!(tick()? & 31 <= 1, "in the middle of a stretch");
        Ok(())
    })?;
    let stretch = tick()? >> 5;
    let first = flow.hear_of(spread, flows)?;
    let proxy = flow.stage.proxy()?;
    let again = Program::Again(&flow.program);
    proxy.enter(|| harness.run(hook, again, &first, 1 << flows))?.context("at first")?;
    let next = Given { sequence: first.sequence + PAYLOAD as u32, ..first };
    // No more than can be had in the time.
    let packets = packets.clamp(1 << flows, 1 << (MANY + 1));
    let before = flow.sent()?;
    let mean = proxy.enter(|| harness.run(hook, again, &next, packets))?.context("of many connections")?;
    let sent = flow.sent()? - before;
    // One checksum in 65,536 looks unfinished.
    ensure!(sent + u64::from(packets / 1000) >= u64::from(packets), "{sent} of {packets} packets were sent on");
    ensure!(tick()? >> 5 == stretch, "it took longer than the programs remember next hops");
    Ok(mean)
}

/// The bare programs look no further than to the kind of a packet.
fn anybodys() -> Result<Ends> {
    let address = |text: &str| text.parse().context("an address");
    let (from, to) = (address("10.0.0.2:50000")?, address("10.0.0.1:6379")?);
    Ok(Ends { from_mac: [2, 0, 0, 0, 0, 1], to_mac: [2, 0, 0, 0, 0, 2], from, to })
}

impl Measured {
    fn json(&self, hook: Hook) -> Value {
        json!({
            "hook": hook.word(),
            "bare_ns": self.bare,
            "bare_by_the_harness_ns": self.check,
            "harness_adds_ns": self.added,
            "established_flow_ns": self.ours,
            "a_thousand_flows_ns": self.few,
            "a_million_flows_ns": self.many,
            "a_thousand_records_ns": self.few_records,
            "a_million_records_ns": self.many_records,
            "absent": self.absent,
        })
    }
}

fn table(measured: &[Measured]) -> String {
    let mut table = Table::new(&["program", "ns/packet", "/ bare"]);
    for (&(_, hook, name), one) in SUBJECTS.iter().zip(measured) {
        let series = |values: &[f64]| values.iter().copied().collect::<Series>();
        let bare = series(&one.bare);
        let mut row = |what: String, values: &[f64]| {
            let ratio = series(values).median().zip(bare.median()).map(|(value, bare)| format!("{:.2}", value / bare));
            table.row(vec![what, series(values).text(1), ratio.unwrap_or_else(|| "-".to_owned())]);
        };
        let word = hook.word();
        row(format!("{word}: finds the headers, lets the packet go"), &one.bare);
        row(format!("{word}: the same by way of the harness, less what that adds"), &one.check);
        for (flows, records) in [(FEW, &one.few_records), (MANY, &one.many_records)] {
            row(format!("{word}: finds the headers, looks at one record of {}", 1 << flows), records);
        }
        match &one.absent {
            Some(why) => row(format!("{word}: {name}: {why}"), &[]),
            None => {
                row(format!("{word}: {name}, an established connection"), &one.ours);
                row(format!("{word}: {name}, packets spread over {} of them", 1 << FEW), &one.few);
                row(format!("{word}: {name}, packets spread over {} of them", 1 << MANY), &one.many);
            }
        }
    }
    table.text()
}
