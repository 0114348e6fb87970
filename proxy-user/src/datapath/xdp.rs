//! The accelerator in front of `tc`: attaches the program at XDP, in the driver, to every interface that passes the self-test
//! (`nat::native`), and lets it send frames out by exactly those. Whatever it does not send is tc's, so an interface
//! may come and go, and all of it may end with the daemon, without a packet's being lost to a connection.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aya::{
    Ebpf,
    maps::{DevMap, Map, MapData, MapError, PerCpuArray, xdp::XdpMapError},
    programs::{ProgramError, XdpMode, xdp::XdpLink},
};
use proxy_ebpf::{
    nat::{self, Counters, in_frame},
    xdp::{Interface as Entry, SLOTS, fate, names, slot},
};

use crate::{
    kernel::{Cell, Mapping, MappingError},
    nat::{
        egress::Host,
        native::{self, Facts, Families, Unfit},
    },
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the kernel object has no {0}; the daemon was built wrongly")]
    Missing(&'static str),
    #[error("the kernel refuses the program: {0}")]
    Program(#[from] ProgramError),
    #[error("the kernel refuses a map entry: {0}")]
    Map(#[from] MapError),
    #[error(transparent)]
    Mapping(#[from] MappingError),
    #[error("the kernel refuses a device in the map: {0}")]
    Device(#[from] XdpMapError),
}

/// How each interface did.
pub type Standing = BTreeMap<u32, Result<String, Unfit>>;

/// What others see of it, and tell it.
pub struct Panel {
    standing: Mutex<Standing>,
    counters: PerCpuArray<MapData, Counters>,
    wanted: AtomicBool,
}

/// The program and where it is attached; looked after by the keeper of the packet datapath.
pub struct Xdp {
    object: Ebpf,
    interfaces: Mapping<[Cell<Entry, 2>; SLOTS as usize]>,
    devices: DevMap<MapData>,
    attached: BTreeMap<u32, Attached>,
    /// Those that the driver refused, as they were then: tried again when that has changed.
    tried: BTreeMap<u32, (Facts, Unfit)>,
    families: Families,
    /// Veths too, where tc is faster: somebody has asked for it.
    veths: bool,
    panel: Arc<Panel>,
}

struct Attached {
    entry: Entry,
    /// Ends when it is dropped.
    _link: XdpLink,
}

impl Xdp {
    /// For routes of these families; attached to nothing yet, and never to a veth unless that is wanted.
    pub fn load(mut object: Ebpf, families: Families, veths: bool) -> Result<(Self, Arc<Panel>), Error> {
        program(&mut object)?.load()?;
        let panel = Arc::new(Panel {
            standing: Mutex::default(),
            counters: map(&mut object, nat::names::PACKETS)?,
            wanted: AtomicBool::new(true),
        });
        let Some(Map::Array(interfaces)) = object.take_map(names::INTERFACES) else {
            return Err(Error::Missing(names::INTERFACES));
        };
        let interfaces = Mapping::new(names::INTERFACES, &interfaces)?;
        let devices = map(&mut object, names::DEVICES)?;
        let (attached, tried) = (BTreeMap::new(), BTreeMap::new());
        Ok((Self { object, interfaces, devices, attached, tried, families, veths, panel: Arc::clone(&panel) }, panel))
    }

    /// To those of these interfaces that pass the self-test now, and to no other.
    pub fn follow(&mut self, host: &Host) {
        if !self.panel.wanted.load(Ordering::Relaxed) {
            self.leave_all();
            return;
        }
        let facts = match native::survey(host) {
            Ok(facts) => facts,
            Err(error) => return tracing::warn!(%error, "what drivers can do for xdp is not known; nothing changes"),
        };
        let is_known = |ifindex: &u32| facts.iter().any(|facts| facts.interface.ifindex == *ifindex);
        let is_there = |ifindex: &u32| host.down.contains(ifindex) || is_known(ifindex);
        let gone: Vec<u32> = self.attached.keys().filter(|ifindex| !is_there(ifindex)).copied().collect();
        gone.into_iter().for_each(|ifindex| self.leave(ifindex));
        self.tried.retain(|ifindex, _| is_there(ifindex));
        self.panel.standing().retain(|ifindex, _| is_there(ifindex));
        for facts in &facts {
            let outcome = self.look_after(facts);
            self.tell(facts, outcome);
        }
    }

    fn look_after(&mut self, facts: &Facts) -> Result<(), Unfit> {
        let ifindex = facts.interface.ifindex;
        if let Some(attached) = self.attached.get(&ifindex) {
            let same = attached.entry == entry(facts);
            return match facts.works(self.families) {
                Ok(()) if same => Ok(()),
                Ok(()) => self.open(facts),
                Err(unfit) => {
                    self.leave(ifindex);
                    Err(unfit)
                }
            };
        }
        facts.fit(self.families)?;
        if facts.is_veth() && !self.veths {
            return Err(Unfit::Slower(facts.interface.name.clone()));
        }
        if let Some((then, unfit)) = self.tried.get(&ifindex)
            && then == facts
        {
            return Err(unfit.clone());
        }
        let outcome = self.attach(facts);
        match &outcome {
            Ok(()) => self.tried.remove(&ifindex),
            Err(unfit) => self.tried.insert(ifindex, (facts.clone(), unfit.clone())),
        };
        outcome
    }

    fn attach(&mut self, facts: &Facts) -> Result<(), Unfit> {
        let ifindex = facts.interface.ifindex;
        let taken = self.attached.keys().any(|other| slot(*other) == slot(ifindex));
        if taken {
            return Err(Unfit::NoPlace(facts.interface.name.clone()));
        }
        let link = self.link(ifindex).map_err(|error| refused(facts, &error))?;
        self.attached.insert(ifindex, Attached { entry: Entry::default(), _link: link });
        let abilities = native::abilities(ifindex).unwrap_or(facts.abilities);
        let facts = facts.with(abilities);
        let opened = facts.works(self.families).and_then(|()| self.open(&facts));
        if opened.is_err() {
            self.leave(ifindex);
        }
        opened
    }

    /// In the driver only: the general mode of the kernel is slower than tc.
    fn link(&mut self, ifindex: u32) -> Result<XdpLink, Error> {
        let program = program(&mut self.object)?;
        let link = program.attach_to_if_index(ifindex, XdpMode::Driver)?;
        Ok(program.take_link(link)?)
    }

    /// Frames for it are taken, and may go out by it.
    fn open(&mut self, facts: &Facts) -> Result<(), Unfit> {
        let (ifindex, entry) = (facts.interface.ifindex, entry(facts));
        // Before frames may go out by it, and in `leave` after: so none goes out while this is half written.
        self.interfaces[0][slot(ifindex) as usize].set(&entry);
        let open = self.devices.set(slot(ifindex), ifindex, None, 0);
        open.map_err(|error| refused(facts, &error.into()))?;
        if let Some(attached) = self.attached.get_mut(&ifindex) {
            attached.entry = entry;
        }
        Ok(())
    }

    fn leave_all(&mut self) {
        let all: Vec<u32> = self.attached.keys().copied().collect();
        all.into_iter().for_each(|ifindex| self.leave(ifindex));
    }

    /// Nothing goes out by it any more before nothing comes in by it.
    fn leave(&mut self, ifindex: u32) {
        // Interface 0 is none. One that has gone the kernel forgets by itself.
        if let Err(error) = self.devices.set(slot(ifindex), 0, None, 0) {
            tracing::warn!(%error, ifindex, "xdp may send by an interface that it leaves");
        }
        self.interfaces[0][slot(ifindex) as usize].set(&Entry::default());
        self.attached.remove(&ifindex);
    }

    /// Tells of what has changed.
    fn tell(&self, facts: &Facts, outcome: Result<(), Unfit>) {
        let (ifindex, interface) = (facts.interface.ifindex, &facts.interface.name);
        let now = outcome.map(|()| interface.clone());
        let mut standing = self.panel.standing();
        if standing.get(&ifindex) == Some(&now) {
            return;
        }
        match &now {
            Ok(_) if facts.is_blind() => tracing::info!(
                interface,
                "xdp translates packets of established flows in the driver; the other end of this veth cannot be looked at: \
                 what it leaves unfinished is tc's"
            ),
            Ok(_) => tracing::info!(interface, "xdp translates packets of established flows in the driver"),
            Err(reason) => tracing::info!(%reason, interface, "not by xdp; its packets are tc's"),
        }
        standing.insert(ifindex, now);
    }
}

impl Panel {
    pub fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No route is served by it: it leaves all interfaces soon.
    pub fn retire(&self) {
        self.wanted.store(false, Ordering::Relaxed);
    }

    /// The program's counters, by `proxy_ebpf::xdp::fate`.
    pub fn fates(&self) -> Result<[u64; fate::COUNT as usize], MapError> {
        let each = self.counters.get(&0, 0)?;
        Ok(std::array::from_fn(|fate| each.iter().map(|counters| counters.fates[fate]).sum()))
    }
}

impl std::fmt::Debug for Panel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Panel").field("standing", &self.standing).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Xdp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Xdp").field("panel", &self.panel).finish_non_exhaustive()
    }
}

fn entry(facts: &Facts) -> Entry {
    Entry {
        ifindex: facts.interface.ifindex,
        takes_pieces: u32::from(facts.abilities.sends_pieces),
        mac: in_frame(facts.mac),
        _pad: 0,
    }
}

fn refused(facts: &Facts, error: &Error) -> Unfit {
    let error = std::iter::successors(Some(error as &dyn std::error::Error), |it| it.source());
    let error = error.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    Unfit::Refused { name: facts.interface.name.clone(), mtu: facts.mtu, error }
}

fn program(object: &mut Ebpf) -> Result<&mut aya::programs::Xdp, Error> {
    Ok(object.program_mut(names::XDP).ok_or(Error::Missing(names::XDP))?.try_into()?)
}

fn map<T: TryFrom<Map, Error = MapError>>(object: &mut Ebpf, name: &'static str) -> Result<T, Error> {
    Ok(T::try_from(object.take_map(name).ok_or(Error::Missing(name))?)?)
}
