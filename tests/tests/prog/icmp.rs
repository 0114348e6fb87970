//! ICMP and ICMPv6 errors: told to the end whose packet they quote, as if that end's own packet were quoted.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use proxy_ebpf::{nat::packet, state};

use crate::{
    wire::{ETHERNET, Report, Segment},
    world::{Addresses, REDIRECT, SHOT, UNSPEC, World, v4, v6},
};

/// An established flow; each end has sent a hundred bytes that the other has not yet acknowledged.
pub(crate) struct Talk {
    world: World,
    at: Addresses,
    own: SocketAddr,
}

/// Which end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Client,
    Node,
}

pub(crate) const ENDS: [End; 2] = [End::Client, End::Node];
const PAYLOAD: [u8; 100] = [b'p'; 100];
const DEEPEST: usize = 1000;

impl Talk {
    pub(crate) fn begin(at: Addresses) -> Result<Self> {
        let mut world = World::open(at, 64)?;
        let port = world.connect(at.client)?;
        let mut talk = Self { world, at, own: SocketAddr::new(at.snat, port) };
        for end in ENDS {
            let sent = talk.sent(end);
            talk.world.send(&sent)?;
        }
        Ok(talk)
    }

    /// What this end has under way, as it sent it.
    fn sent(&self, end: End) -> Segment {
        match end {
            End::Client => Segment::new(self.at.client, self.at.door).seq(1001).ack(5001).payload(&PAYLOAD),
            End::Node => Segment::new(self.at.node, self.own).seq(5001).ack(1001).payload(&PAYLOAD),
        }
    }

    /// The same as it went on from here.
    fn went_on(&self, end: End) -> Segment {
        match end {
            End::Client => self.sent(end).translated(self.own, self.at.node),
            End::Node => self.sent(end).translated(self.at.door, self.at.client),
        }
    }

    /// Somewhere beyond us, where that packet could not go on.
    fn router(&self) -> IpAddr {
        match self.at.door.ip() {
            IpAddr::V4(_) => [100, 64, 0, 1].into(),
            IpAddr::V6(_) => [0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1].into(),
        }
    }

    /// What a router says that quotes so many bytes of it, and what the end has to hear.
    fn report(&self, end: End, length: usize) -> (Report, Report) {
        self.report_of(end, length, |segment| segment)
    }

    /// The same of a segment that the end has sent otherwise.
    fn report_of(&self, end: End, length: usize, otherwise: impl Fn(Segment) -> Segment) -> (Report, Report) {
        let said = Report::about(&otherwise(self.went_on(end)), self.router(), length);
        let (hops, facing) = match end {
            End::Client => (63, self.at.door.ip()),
            End::Node => (63, self.at.snat),
        };
        let heard = Report::about(&otherwise(self.sent(end).hops(hops)), facing, length);
        (kinds(self.at)[0].apply(said), Report { hops: 59, ..kinds(self.at)[0].apply(heard) })
    }

    fn counter(end: End) -> u32 {
        match end {
            End::Client => packet::ICMP_TO_CLIENT,
            End::Node => packet::ICMP_TO_NODE,
        }
    }

    fn told(&mut self, end: End, (said, heard): &(Report, Report)) -> Result<()> {
        let outcome = self.world.run(&said.bytes())?;
        ensure!(outcome.verdict == REDIRECT, "verdict {}, counted {:?}", outcome.verdict, outcome.counted);
        let out = Report::read(&outcome.packet)?;
        ensure!(out == *heard, "{out:?} came out, not {heard:?}");
        outcome.counted(&[Self::counter(end)])
    }

    /// The end hears of an error that quotes so many bytes of its packet.
    pub(crate) fn tells(&mut self, end: End, length: usize) -> Result<()> {
        let report = self.report(end, length);
        self.told(end, &report).with_context(|| format!("{end:?}, {length} bytes"))
    }

    fn left_alone(&mut self, name: &str, bytes: &[u8], counter: u32) -> Result<()> {
        let outcome = self.world.run(bytes).with_context(|| name.to_owned())?;
        ensure!(outcome.verdict == UNSPEC && outcome.packet == bytes, "{name}: it was touched: {outcome:?}");
        outcome.counted(&[counter]).with_context(|| name.to_owned())
    }
}

/// A type and a code.
#[derive(Debug, Clone, Copy)]
struct Kind(u8, u8);

impl Kind {
    fn apply(self, report: Report) -> Report {
        report.kind(self.0, self.1)
    }
}

/// Every kind of error, the one about a packet that was too big first.
fn kinds(at: Addresses) -> Vec<Kind> {
    let codes = |kind, codes: std::ops::RangeInclusive<u8>| codes.map(move |code| Kind(kind, code));
    if at.door.is_ipv4() {
        let unreachable = codes(3, 0..=15);
        [Kind(3, 4)].into_iter().chain(unreachable).chain(codes(11, 0..=1)).chain(codes(12, 0..=2)).collect()
    } else {
        [Kind(2, 0)].into_iter().chain(codes(1, 0..=8)).chain(codes(3, 0..=1)).chain(codes(4, 0..=3)).collect()
    }
}

/// The bytes of a quoted packet up to its TCP header.
fn ip_header(at: Addresses) -> usize {
    if at.door.is_ipv4() { 20 } else { 40 }
}

#[test]
fn errors_of_every_kind_reach_the_end_that_they_are_about() -> Result<()> {
    for at in [v4(), v6()] {
        let mut talk = Talk::begin(at)?;
        for end in ENDS {
            for kind in kinds(at) {
                let (said, heard) = talk.report(end, DEEPEST);
                talk.told(end, &(kind.apply(said), kind.apply(heard))).with_context(|| format!("{end:?}, {kind:?}"))?;
            }
        }
    }
    Ok(())
}

/// A router quotes as much as it likes, but at least eight bytes of the TCP header (RFC 792): the ports and the
/// sequence number. Whatever is there of the TCP checksum is right only if all of it is.
#[test]
fn what_is_quoted_may_end_at_any_byte_from_the_sequence_number_on() -> Result<()> {
    for at in [v4(), v6()] {
        let mut talk = Talk::begin(at)?;
        let whole = ip_header(at) + 20 + PAYLOAD.len();
        for end in ENDS {
            for length in 0..=whole {
                let report = talk.report(end, length);
                if length < ip_header(at) + 8 {
                    talk.left_alone(&format!("{length} bytes"), &report.0.bytes(), packet::ICMP_CUT)?;
                } else {
                    let cut_in_checksum = length == ip_header(at) + 17;
                    let told = talk.told(end, &without_half_a_checksum(report, cut_in_checksum));
                    told.with_context(|| format!("{end:?}, {length} bytes"))?;
                }
            }
        }
    }
    Ok(())
}

/// Half a checksum is left as it is: nobody can check it.
fn without_half_a_checksum((said, mut heard): (Report, Report), half: bool) -> (Report, Report) {
    if half && let (Some(old), Some(new)) = (said.quoted.last(), heard.quoted.last_mut()) {
        *new = *old;
    }
    (said, heard)
}

/// Errors that say more than there is of them, cut at every byte from the end of the IP header on.
#[test]
fn truncated_at_every_byte() -> Result<()> {
    for at in [v4(), v6()] {
        let mut talk = Talk::begin(at)?;
        let whole = talk.report(End::Client, DEEPEST).0.bytes();
        for length in ETHERNET + ip_header(at)..whole.len() {
            let outcome = talk.world.run(&whole[..length])?;
            ensure!(outcome.verdict == UNSPEC && outcome.packet == whole[..length], "{length} bytes: it was touched");
            ensure!(outcome.counted.len() == 1, "{length} bytes: {:?}", outcome.counted);
        }
    }
    Ok(())
}

/// RFC 5927, 4.1: what is quoted must be under way.
#[test]
fn only_what_is_under_way_can_have_met_an_error() -> Result<()> {
    for at in [v4(), v6()] {
        let mut talk = Talk::begin(at)?;
        for (end, first) in [(End::Client, 1001_u32), (End::Node, 5001)] {
            for seq in [first, first + 50, first + 100] {
                let report = talk.report_of(end, DEEPEST, |segment| segment.seq(seq));
                talk.told(end, &report).with_context(|| format!("{end:?}, {seq}"))?;
            }
            for seq in [first - 1, first + 101, first ^ 1 << 31, 0, u32::MAX] {
                let (said, _) = talk.report_of(end, DEEPEST, |segment| segment.seq(seq));
                talk.left_alone(&format!("{end:?}, {seq}"), &said.bytes(), packet::ICMP_STALE)?;
            }
        }
    }
    Ok(())
}

/// Nobody has acknowledged anything yet: an error about the SYN itself.
#[test]
fn a_client_hears_that_its_syn_did_not_arrive() -> Result<()> {
    for at in [v4(), v6()] {
        let mut world = World::open(at, 64)?;
        let syn = Segment::syn(at.client, at.door).seq(1000);
        let went_on = Segment::read(&world.send(&syn)?.packet)?;
        let mut talk = Talk { world, at, own: went_on.from };
        let about = |segment: &Segment, from| kinds(at)[1].apply(Report::about(segment, from, DEEPEST));
        let said = about(&went_on, talk.router());
        let heard = about(&syn.clone().hops(63), at.door.ip()).hops(59);
        talk.told(End::Client, &(said, heard))?;
        for seq in [999, 1002, 0] {
            let guess = about(&went_on.clone().seq(seq), talk.router());
            talk.left_alone("a guess", &guess.bytes(), packet::ICMP_STALE)?;
        }
        // The node has not answered: nothing of it can be under way.
        let from_node = Segment::syn(at.door, at.client).seq(0).ack(1001);
        talk.left_alone("no answer yet", &about(&from_node, talk.router()).bytes(), packet::ICMP_STALE)?;
    }
    Ok(())
}

#[test]
fn what_is_no_error_about_a_flow_is_left_alone() -> Result<()> {
    let at = v4();
    let mut talk = Talk::begin(at)?;
    let (said, _) = talk.report(End::Client, DEEPEST);
    let plain = said.bytes();
    let changed = |offset: usize, byte: u8| {
        let mut bytes = plain.clone();
        bytes[offset] = byte;
        bytes
    };
    let (quoted, ports) = (ETHERNET + 20 + 8, ETHERNET + 20 + 8 + 20);
    let elsewhere = Report { to: [203, 0, 113, 77].into(), ..said.clone() };
    let cases = [
        ("an echo request", said.clone().kind(8, 0).bytes(), packet::NOT_TCP),
        ("an echo reply", said.clone().kind(0, 0).bytes(), packet::NOT_TCP),
        ("a redirect", said.clone().kind(5, 1).bytes(), packet::NOT_TCP),
        ("a source quench", said.clone().kind(4, 0).bytes(), packet::NOT_TCP),
        ("options in what is quoted", changed(quoted, 0x46), packet::ICMP_CUT),
        ("a quoted header of no version", changed(quoted, 0x55), packet::ICMP_CUT),
        ("a quoted header that is too short", changed(quoted, 0x44), packet::ICMP_CUT),
        ("a quoted first fragment", changed(quoted + 6, 0x20), packet::ICMP_CUT),
        ("a quoted later fragment", changed(quoted + 7, 1), packet::ICMP_CUT),
        ("quoted UDP", changed(quoted + 9, 17), packet::NOT_TCP),
        ("a port of no flow", changed(ports, 0x4f), packet::ICMP_NO_FLOW),
        ("a port of no node", changed(ports + 2, 0x4f), packet::ICMP_NO_FLOW),
        ("of another node", changed(quoted + 19, 77), packet::ICMP_NO_FLOW),
        ("not for whom it quotes", elsewhere.bytes(), packet::ICMP_NO_FLOW),
        ("itself a fragment", changed(ETHERNET + 6, 0x20), packet::FRAGMENT),
    ];
    for (name, bytes, counter) in cases {
        talk.left_alone(name, &bytes, counter)?;
    }
    Ok(())
}

#[test]
fn what_is_no_error_about_a_flow_is_left_alone_v6() -> Result<()> {
    let at = v6();
    let mut talk = Talk::begin(at)?;
    let (said, _) = talk.report(End::Node, DEEPEST);
    let plain = said.bytes();
    let changed = |offset: usize, byte: u8| {
        let mut bytes = plain.clone();
        bytes[offset] = byte;
        bytes
    };
    let (quoted, ports) = (ETHERNET + 40 + 8, ETHERNET + 40 + 8 + 40);
    let mut cases = vec![
        ("an echo request".to_owned(), said.clone().kind(128, 0).bytes(), packet::NOT_TCP),
        ("a neighbour solicitation".to_owned(), said.clone().kind(135, 0).bytes(), packet::NOT_TCP),
        ("a redirect".to_owned(), said.clone().kind(137, 0).bytes(), packet::NOT_TCP),
        ("a quoted header of no version".to_owned(), changed(quoted, 0x45), packet::ICMP_CUT),
        ("quoted UDP".to_owned(), changed(quoted + 6, 17), packet::NOT_TCP),
        ("a port of no door".to_owned(), changed(ports, 0x4f), packet::ICMP_NO_FLOW),
        ("a port of no client".to_owned(), changed(ports + 2, 0x4f), packet::ICMP_NO_FLOW),
        ("not for whom it quotes".to_owned(), changed(quoted + 23, 0x77), packet::ICMP_NO_FLOW),
    ];
    for next in [0, 43, 44, 51, 60, 135] {
        cases.push((format!("a quoted header {next}"), changed(quoted + 6, next), packet::ICMP_CUT));
    }
    // The shortest of ICMPv6, shorter than any TCP segment: it is whole all the same.
    let short = Report { quoted: Vec::new(), ..said.clone().kind(133, 0) };
    cases.push(("a router solicitation".to_owned(), short.bytes(), packet::NOT_TCP));
    for (name, bytes, counter) in cases {
        talk.left_alone(&name, &bytes, counter)?;
    }
    Ok(())
}

#[test]
fn an_error_passes_no_gate_that_a_segment_does_not() -> Result<()> {
    for at in [v4(), v6()] {
        let mut talk = Talk::begin(at)?;
        talk.world.lead(state::PAUSED, 0, 7)?;
        for end in ENDS {
            let outcome = talk.world.run(&talk.report(end, DEEPEST).0.bytes())?;
            ensure!(outcome.verdict == SHOT, "{end:?}, paused: verdict {}", outcome.verdict);
            outcome.counted(&[packet::HELD])?;
        }
        talk.world.lead(state::OPEN, 8, 8)?;
        for end in ENDS {
            let (said, _) = talk.report(end, DEEPEST);
            talk.left_alone("of an old generation", &said.bytes(), packet::RESET)?;
        }
    }
    Ok(())
}

#[test]
fn an_error_at_its_last_hop_goes_no_further() -> Result<()> {
    for at in [v4(), v6()] {
        let mut talk = Talk::begin(at)?;
        let (said, _) = talk.report(End::Client, DEEPEST);
        let outcome = talk.world.run(&said.hops(1).bytes())?;
        ensure!(outcome.verdict == SHOT, "verdict {}", outcome.verdict);
        outcome.counted(&[packet::EXPIRED])?;
    }
    Ok(())
}

/// Nothing is made good: neither the error's own checksum nor those of what it quotes.
#[test]
fn wrong_checksums_stay_wrong() -> Result<()> {
    for at in [v4(), v6()] {
        let mut talk = Talk::begin(at)?;
        let plain = talk.report(End::Client, DEEPEST).0.bytes();
        let run_with = |talk: &mut Talk, offset: usize| -> Result<Vec<u8>> {
            let mut bytes = plain.clone();
            bytes[offset] ^= 0x40;
            let outcome = talk.world.run(&bytes)?;
            outcome.counted(&[packet::ICMP_TO_CLIENT])?;
            Ok(outcome.packet)
        };
        let (icmp, quoted) = (ETHERNET + ip_header(at), ETHERNET + ip_header(at) + 8);
        let out = run_with(&mut talk, icmp + 2)?;
        ensure!(Report::read(&out).is_err(), "the outer one was made good");
        let out = run_with(&mut talk, quoted + ip_header(at) + 16)?;
        let fault = Segment::read(&[&out[..ETHERNET], &out[quoted..]].concat());
        ensure!(fault.is_err_and(|fault| fault.to_string().contains("TCP checksum")), "the inner one was made good");
    }
    Ok(())
}
