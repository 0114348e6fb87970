//! Running a program over a packet again and again, by BPF_PROG_TEST_RUN. The kernel does not put a packet back
//! that a program has changed, so a program that changes it is called by another one (`again`), which restores
//! its headers first, as those of the connection's next segment; what that costs is measured too. Needs CAP_BPF and CAP_NET_ADMIN.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};

use super::{
    MANY,
    packet::{CLIENT, HEADERS, PAYLOAD, PORT},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Tc,
    Xdp,
}

impl Hook {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Xdp => "xdp",
        }
    }

    /// The verdict that sends a packet somewhere else: TC_ACT_REDIRECT, XDP_REDIRECT.
    fn redirect(self) -> u32 {
        match self {
            Self::Tc => 7,
            Self::Xdp => 4,
        }
    }

    /// That of the bare programs: TC_ACT_OK, XDP_TX.
    fn bare(self) -> u32 {
        match self {
            Self::Tc => 0,
            Self::Xdp => 3,
        }
    }

    /// The kernel's context (`__sk_buff`, `xdp_md`) of a packet of `len` bytes that came in at this interface.
    fn context(self, ifindex: u32, len: u32) -> Vec<u8> {
        let (size, fields) = match self {
            Self::Tc => (44, vec![(40, ifindex)]),
            Self::Xdp => (16, vec![(4, len), (12, ifindex)]),
        };
        let mut context = vec![0; size];
        for (at, value) in fields {
            context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        context
    }
}

/// A packet, and where it came in.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) packet: Vec<u8>,
    /// Of its TCP header.
    pub(super) sequence: u32,
    pub(super) ifindex: Option<u32>,
    /// So many connections, as a power of two, have packets like this one, the first of them this very one.
    pub(super) flows: u32,
}

/// What the program `again` keeps of a packet: `Headers`, there.
const SAVED: usize = 88;

impl Given {
    fn saved(&self) -> Result<[u8; SAVED]> {
        let headers = self.packet.get(..HEADERS).context("a packet without headers")?;
        let [a, b, c, d] = [CLIENT, CLIENT + 1, CLIENT + 2, CLIENT + 3].map(|at| headers[at]);
        let port = u16::from_be_bytes([headers[PORT], headers[PORT + 1]]);
        let numbers = [u32::from_be_bytes([a, b, c, d]), self.sequence, PAYLOAD as u32, self.flows];
        let numbers = numbers.map(u32::to_ne_bytes).concat();
        let text = [&[0; 2], headers, &port.to_ne_bytes(), &[0; 2], &numbers].concat();
        let mut saved = [0; SAVED];
        saved[..text.len()].copy_from_slice(&text);
        Ok(saved)
    }
}

/// What is run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Program<'a> {
    /// Does nothing: what the test-run itself costs.
    Empty,
    /// Finds the headers and lets the packet go.
    Bare,
    /// The same two, as the others are run.
    EmptyAgain,
    BareAgain,
    /// Finds the headers and looks at one record of its connection.
    RecordAgain,
    /// Changes the packet and sends it on.
    Again(&'a ProgramFd),
}

pub(super) struct Harness {
    object: Ebpf,
    saved: Array<MapData, [u8; SAVED]>,
    tc: ProgramArray<MapData>,
    xdp: ProgramArray<MapData>,
}

impl Harness {
    pub(super) fn load(file: &Path) -> Result<Self> {
        let object = fs::read(file).with_context(|| file.display().to_string())?;
        let mut object = EbpfLoader::new().map_max_entries("records", 1 << MANY).load(&object)?;
        let mut map = |name: &str| object.take_map(name).with_context(|| format!("no map {name}"));
        let saved = Array::try_from(map("headers")?)?;
        let (tc, xdp) = (ProgramArray::try_from(map("measured_tc")?)?, ProgramArray::try_from(map("measured_xdp")?)?);
        for name in ["empty_tc", "bare_tc", "record_tc", "again_tc"] {
            let program: &mut SchedClassifier = object.program_mut(name).context(name)?.try_into()?;
            program.load().context(name)?;
        }
        for name in ["empty_xdp", "bare_xdp", "record_xdp", "again_xdp"] {
            let program: &mut Xdp = object.program_mut(name).context(name)?.try_into()?;
            program.load().context(name)?;
        }
        Ok(Self { object, saved, tc, xdp })
    }

    /// Nanoseconds for one packet, the mean of `repeat` runs.
    pub(super) fn run(&mut self, hook: Hook, program: Program<'_>, given: &Given, repeat: u32) -> Result<f64> {
        let fd = match program {
            Program::Empty | Program::Bare => None,
            Program::EmptyAgain => Some(self.fd("empty", hook)?),
            Program::BareAgain => Some(self.fd("bare", hook)?),
            Program::RecordAgain => Some(self.fd("record", hook)?),
            Program::Again(fd) => Some(fd.try_clone().context("a program's descriptor")?),
        };
        let name = match program {
            Program::Empty => "empty",
            Program::Bare => "bare",
            _ => "again",
        };
        if let Some(fd) = fd {
            let measured = if hook == Hook::Tc { &mut self.tc } else { &mut self.xdp };
            measured.set(0, &fd, 0).context("the kernel does not let this program be called by another")?;
            self.saved.set(0, given.saved()?, 0).context("the packet's headers")?;
        }
        let context = given.ifindex.map(|ifindex| hook.context(ifindex, given.packet.len() as u32));
        let mut options = TestRunOptions::new();
        (options.data_in, options.ctx_in, options.repeat) = (Some(given.packet.as_slice()), context.as_deref(), repeat);
        let name = format!("{name}_{}", hook.word());
        let one = self.object.program(&name).with_context(|| format!("no program {name}"))?;
        let result = match hook {
            Hook::Tc => <&SchedClassifier>::try_from(one)?.test_run(options),
            Hook::Xdp => <&Xdp>::try_from(one)?.test_run(options),
        };
        let result = result.with_context(|| format!("the test-run of {name}"))?;
        let expected = if matches!(program, Program::Again(_)) { hook.redirect() } else { hook.bare() };
        let verdict = result.return_value;
        ensure!(verdict == expected, "{program:?} at {}: its verdict is {verdict}, not {expected}", hook.word());
        Ok(result.duration.as_nanos() as f64)
    }

    fn fd(&self, name: &str, hook: Hook) -> Result<ProgramFd> {
        let name = format!("{name}_{}", hook.word());
        let program = self.object.program(&name).with_context(|| format!("no program {name}"))?;
        program.fd()?.try_clone().context(name)
    }
}

#[cfg(test)]
mod tests {
    use super::Hook;

    #[test]
    fn a_context_says_where_a_packet_came_in() {
        assert_eq!(Hook::Tc.context(7, 118)[40..], 7u32.to_ne_bytes());
        let xdp = Hook::Xdp.context(7, 118);
        assert_eq!(
            (&xdp[..4], &xdp[4..8], &xdp[12..]),
            (&[0; 4][..], &118u32.to_ne_bytes()[..], &7u32.to_ne_bytes()[..])
        );
    }
}
