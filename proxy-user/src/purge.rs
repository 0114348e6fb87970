//! Removes every trace of a daemon from the kernel: its connections are told by RST, then its links, programs and maps go.
//! Needs the capabilities of a daemon. What belongs to another version is removed without being told of.

use std::{fmt, io, path::Path};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use nix::net::if_::if_indextoname;
use proxy_ebpf::nat::{Door, Snat, names};

use crate::{
    datapath::{discard_bypass, discard_steering},
    kernel::{self, BpffsError, Cell, Life, PinDir, Pinned, Ports, interfaces},
    nat::{fate::is_over, flows::Flows, globals::Globals, ports, reset::Resetter},
};

/// The source ports of this build.
pub const PORTS: Ports = (ports::DEFAULT.first, ports::DEFAULT.last);

#[derive(Debug)]
pub struct Purged {
    pub pinned: Pinned,
    /// Connections that were told; or why they were not.
    pub told: Result<usize>,
}

/// `switchmaster purge`. Refuses to take a running daemon's maps away unless it is told to.
pub fn command(folder: &Path, force: bool) -> Result<Purged> {
    if kernel::pinned(folder).is_ok_and(|pinned| pinned == Pinned::default()) {
        return Ok(Purged { pinned: Pinned::default(), told: Ok(0) });
    }
    let mut pins = match PinDir::claim(folder) {
        Err(BpffsError::InUse { .. }) if force => PinDir::seize(folder),
        Err(error @ BpffsError::InUse { .. }) => {
            return Err(error).context("a daemon runs with these pins: stopped by SIGTERM, it leaves nothing; --force takes them from under it");
        }
        claimed => claimed?,
    };
    purge(&mut pins).with_context(|| format!("{} cannot be purged", folder.display()))
}

/// Nothing is translated from here on, and nothing is left.
pub fn purge(pins: &mut PinDir) -> io::Result<Purged> {
    let pinned = kernel::pinned(pins.path())?;
    let flows = Left::open(pins);
    let steered = discard_steering(pins).context("clients of this host");
    let bypassed = discard_bypass(pins).context("the bypass");
    // First: else packets that are under way would move the numbers that the resets need.
    pins.detach()?;
    let told = flows.and_then(|left| left.reset()).and_then(|told| Ok(told + steered?));
    pins.clear()?;
    let told = told.and_then(|told| bypassed.map(|()| told));
    Ok(Purged { pinned, told })
}

/// The flows of a daemon.
struct Left {
    flows: Flows,
    doors: Vec<Door>,
    snats: Vec<Snat>,
}

impl Left {
    fn open(pins: &PinDir) -> Result<Self> {
        ensure!(Life::is_ours(pins, PORTS)?, "there are none of this version in this network namespace");
        let map = |name: &str| MapData::from_pin(pins.maps().join(name)).with_context(|| name.to_owned());
        let flows = Flows::open(&map(names::FLOWS)?, &map(names::TAKEN)?)?;
        let globals = Globals::open(&map(names::GLOBALS)?)?;
        let (doors, snats) = (globals.doors.iter().map(Cell::get), globals.snats.iter().map(Cell::get));
        Ok(Self { flows, doors: doors.collect(), snats: snats.collect() })
    }

    fn reset(&self) -> Result<usize> {
        let resetter = Resetter::open()?;
        let flows = self.flows.scan(0..self.flows.places());
        let live: Vec<_> = flows.filter(|(_, flow)| !is_over(flow)).collect();
        let outcome = resetter.end(&live, |door| self.doors.get(usize::from(door)), &self.snats);
        match outcome.error {
            Some(error) => Err(error).context("some resets were not sent"),
            None => Ok(live.len()),
        }
    }
}

impl Purged {
    pub fn is_nothing(&self) -> bool {
        self.pinned == Pinned::default()
    }
}

impl fmt::Display for Purged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_nothing() {
            return writeln!(f, "nothing was pinned");
        }
        for link in &self.pinned.links {
            let Some(ifindex) = interfaces(std::slice::from_ref(link)).into_iter().next() else {
                writeln!(f, "removed the link {link}")?;
                continue;
            };
            let name = if_indextoname(ifindex);
            let interface = name.map_or_else(|_| "gone".to_owned(), |name| name.to_string_lossy().into_owned());
            writeln!(f, "removed the link {link} (interface {interface})")?;
        }
        for map in &self.pinned.maps {
            writeln!(f, "removed the map {map}")?;
        }
        match &self.told {
            Ok(told) => writeln!(f, "{told} connections were reset"),
            Err(error) if self.pinned.links.is_empty() => writeln!(f, "no connection was to be reset ({error:#})"),
            Err(error) => writeln!(f, "flows were not all reset ({error:#}): they end at their next packet"),
        }
    }
}
