//! The packet program on every interface of the host, by links that are pinned: they outlive the daemon. One that an
//! earlier daemon left is given this build's program, without a packet in between.

use std::collections::BTreeSet;

use aya::{
    Ebpf,
    programs::{
        SchedClassifier, TcAttachType,
        links::FdLink,
        tc::{SchedClassifierLink, SchedClassifierLinkId},
    },
};
use proxy_ebpf::nat::names;

use super::Error;
use crate::{
    datapath::Xdp,
    kernel::Links,
    nat::{
        egress::{Host, Interface},
        keeper::Attach,
        outs::Outs,
    },
};

pub(super) struct Attached {
    /// First: what stands in front goes first. Its links are not pinned: without it all is tc's.
    xdp: Option<Xdp>,
    object: Ebpf,
    outs: Outs,
    links: Links,
    attached: BTreeSet<u32>,
    /// Told of, and tried again all the same.
    refused: BTreeSet<u32>,
}

impl Attached {
    pub(super) fn new(xdp: Option<Xdp>, object: Ebpf, outs: Outs, links: Links) -> Self {
        Self { xdp, object, outs, links, attached: BTreeSet::new(), refused: BTreeSet::new() }
    }
}

/// Where no packet is translated.
pub(super) struct Nowhere;

impl Attach for Nowhere {
    fn follow(&mut self, _host: &Host) -> BTreeSet<u32> {
        BTreeSet::new()
    }
}

impl Attach for Attached {
    fn follow(&mut self, host: &Host) -> BTreeSet<u32> {
        self.refused.retain(|ifindex| host.has(*ifindex));
        let known = self.links.found().unwrap_or_default();
        // One that is down may be up again before anybody looks, and then packets of flows must not reach the host's own stack, which
        // would answer them by RST.
        for &ifindex in known.iter().chain(&self.attached).filter(|ifindex| !host.has(**ifindex)) {
            self.remove(ifindex);
        }
        self.attached.retain(|ifindex| host.has(*ifindex));
        for interface in &host.interfaces {
            if !self.attached.contains(&interface.ifindex) {
                self.attach(interface);
            }
        }
        self.outs.follow(host);
        if let Some(xdp) = &mut self.xdp {
            xdp.follow(host);
        }
        self.attached.clone()
    }
}

impl Attached {
    fn attach(&mut self, interface: &Interface) {
        let (ifindex, interface) = (interface.ifindex, &interface.name);
        let done = match self.take_over(ifindex) {
            Some(()) => Ok("the program of another daemon is replaced by ours"),
            None => self.attach_anew(ifindex, interface).map(|()| "packets are translated where they come in"),
        };
        match done {
            Ok(what) => {
                tracing::info!(interface, "{what}");
                self.refused.remove(&ifindex);
                self.attached.insert(ifindex);
            }
            Err(error) if self.refused.insert(ifindex) => {
                tracing::warn!(%error, interface, "the program cannot be attached; clients that come in here go to the listener");
            }
            Err(_) => {}
        }
    }

    /// Puts our program into the link that is pinned. `None`: there is none, or what it was attached to is gone.
    fn take_over(&mut self, ifindex: u32) -> Option<()> {
        let link = SchedClassifierLink::try_from(self.links.open(ifindex).ok()?).ok()?;
        let program = self.program().ok()?;
        let id = program.attach_to_link(link).ok()?;
        // Its pin holds it.
        program.take_link(id).ok().map(drop)
    }

    fn attach_anew(&mut self, ifindex: u32, interface: &str) -> Result<(), Error> {
        self.links.remove(ifindex).map_err(Error::Unpin)?;
        let program = self.program()?;
        let id: SchedClassifierLinkId = program.attach(interface, TcAttachType::Ingress)?;
        let link = FdLink::try_from(program.take_link(id)?).map_err(|_not_a_link| Error::Kernel)?;
        Ok(self.links.keep(ifindex, link)?)
    }

    fn remove(&self, ifindex: u32) {
        if let Err(error) = self.links.remove(ifindex) {
            tracing::warn!(%error, ifindex, "the program stays attached to this interface");
        }
    }

    fn program(&mut self) -> Result<&mut SchedClassifier, Error> {
        Ok(self.object.program_mut(names::TC).ok_or(Error::Missing(names::TC))?.try_into()?)
    }
}
