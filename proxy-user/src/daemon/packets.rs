//! Which routes are served as packets, by tc alone or with xdp in front of it, and why another is not; and whether this host's
//! own clients are led to nodes without a hop, in front of all of them. What is named and cannot work is an error; `auto`
//! takes the best that can.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    Ebpf,
    maps::{Map, MapInfo},
};
use proxy_ebpf::{TargetKey, balance::kind, nat::names};

use super::paths::{Chosen, InKernel, refuse};
use crate::{
    admin::status,
    config::{Config, DatapathChoice, Route, Source, Steering as Wish, TargetRole},
    datapath::{
        Bypass, BypassSetup, Datapath, PreparedSteering, Sockmap, Steering, SteeringRoute, SteeringSetup, Tc, TcError,
        TcParts, TcSetup, Xdp, XdpPanel, XdpStanding, discard_bypass, discard_bypass_elsewhere, discard_steering,
        discard_steering_elsewhere, selftest_bypass,
    },
    kernel::{self, KernelTargets, Life, NatSizes, PinDir},
    nat::{
        self, claim,
        egress::{Host, way_to},
        links::{self, Link},
        native::{self, Families, Unfit},
        numbers::numbers,
    },
    purge::{PORTS, purge},
};

/// Own addresses that nodes see a packet datapath under, beside those in `snat`: one for each interface that leads to nodes,
/// in either family.
const MOST_ADDRESSES: u32 = 4;
/// Where no packet is translated: the least that loads.
const NO_FLOWS: u32 = 64;
/// A byte says which of all own addresses a flow has.
const MOST_NUMBERS: usize = 256;

pub(super) struct Packets {
    pub(super) tc: Option<Arc<Tc>>,
    pub(super) xdp: Option<Arc<XdpPanel>>,
    /// By route: what serves it, or why that is not packets.
    pub(super) of: Vec<Result<Chosen, String>>,
    /// By which number the kernel knows each route.
    pub(super) numbers: Vec<u32>,
    /// Whether this host's clients are led to nodes, or why not.
    pub(super) steering: Result<Arc<Steering>, String>,
    /// Whether they and nodes of this host's need no TCP between them, or why not.
    pub(super) bypass: Result<Arc<Bypass>, String>,
}

impl Packets {
    /// No route is served as packets, each for its reason.
    pub(super) fn none(config: &Config, why: impl Fn(&Route) -> String, no_local: [String; 2]) -> Result<Self> {
        let of = config.routes.iter().map(|route| Err(why(route))).collect();
        let numbers = (0..u32::try_from(config.routes.len())?).collect();
        let [no_steering, no_bypass] = no_local;
        Ok(Self { tc: None, xdp: None, of, numbers, steering: Err(no_steering), bypass: Err(no_bypass) })
    }

    /// Puts steering and the bypass in front of what serves a route whose packets are not translated.
    pub(super) fn before(&self, route: usize, config: &Route, most: u32, beneath: Chosen) -> Result<Chosen> {
        let Some(tc) = self.tc.as_ref().filter(|_| self.steering.is_ok() || self.bypass.is_ok()) else {
            return Ok(beneath);
        };
        let Chosen { datapath, reason } = beneath;
        let parts = TcParts {
            number: u16::try_from(self.numbers[route])?,
            name: datapath.name(),
            beneath: datapath,
            translated: false,
            most,
            kind: balance(config),
        };
        Ok(Chosen { datapath: Arc::new(tc.route(parts)), reason })
    }
}

/// Whether any packet may be translated for it.
fn may_serve(route: &Route) -> bool {
    serves(route).is_ok()
}

/// Whether it may have connections that outlive the daemon.
fn may_outlive(config: &Config, route: &Route) -> bool {
    may_serve(route) || is_local(config)
}

/// Whether anything is to be done for clients of this host.
fn is_local(config: &Config) -> bool {
    config.local.steering != Wish::Off || config.local.bypass
}

/// Whether any route may.
fn any_may_outlive(config: &Config) -> bool {
    config.routes.iter().any(|route| may_outlive(config, route))
}

/// Whether packets are to be translated at all; an error where that is asked for by name and cannot be.
fn translates(config: &Config, pins: &PinDir) -> Result<bool, TcError> {
    let mut served = config.routes.iter().filter(|route| may_serve(route)).peekable();
    if served.peek().is_none() {
        return Ok(false);
    }
    match can_translate(pins) {
        Err(error) if served.any(is_named) => Err(error),
        checked => Ok(checked.is_ok()),
    }
}

/// Why packets are not translated.
fn why_not(config: &Config, pins: &PinDir) -> anyhow::Error {
    let is_asked_for = config.routes.iter().any(may_serve);
    let fault = is_asked_for.then(|| can_translate(pins).err()).flatten();
    fault.map_or_else(|| anyhow!("no route asks for it"), Into::into)
}

fn can_translate(pins: &PinDir) -> Result<(), TcError> {
    Tc::check()?;
    Tc::claim(pins.links())
}

/// Whether this configuration can go on with what an earlier daemon left: flows need somebody who translates them, and
/// the other way round maps with room for any.
pub(super) fn goes_on(config: &Config, pins: &PinDir) -> bool {
    let had_flows = MapInfo::from_pin(pins.maps().join(names::FLOWS)).is_ok_and(|map| map.max_entries() > NO_FLOWS);
    any_may_outlive(config) && translates(config, pins).is_ok_and(|translates| translates == had_flows)
}

pub(super) fn sizes(config: &Config, pins: &PinDir) -> Result<NatSizes> {
    let listed: BTreeSet<&IpAddr> = config.routes.iter().flat_map(|route| &route.snat).collect();
    let most = MOST_NUMBERS - MOST_ADDRESSES as usize;
    ensure!(listed.len() <= most, "the routes list {} addresses in snat; at most {most}", listed.len());
    let flows = (MOST_ADDRESSES + u32::try_from(listed.len())?) * nat::ports::DEFAULT.count();
    let flows = if translates(config, pins).unwrap_or(true) { flows } else { NO_FLOWS };
    Ok(NatSizes { routes: u32::try_from(config.routes.len())?, flows })
}

/// Whether packets are asked for, or may be.
fn serves(route: &Route) -> Result<(), &'static str> {
    match route.datapath {
        DatapathChoice::Sockmap | DatapathChoice::Copy => Err("configured"),
        DatapathChoice::Auto | DatapathChoice::Xdp | DatapathChoice::Tc => Ok(()),
    }
}

fn is_named(route: &Route) -> bool {
    matches!(route.datapath, DatapathChoice::Tc | DatapathChoice::Xdp)
}

fn wants_xdp(route: &Route) -> bool {
    serves(route).is_ok() && matches!(route.datapath, DatapathChoice::Auto | DatapathChoice::Xdp)
}

/// Starts what any route needs, with sockmap beneath for what is left to the listener.
pub(super) fn start(config: &Config, flows: &[u32], kernel: &mut InKernel) -> Result<Packets> {
    let nothing = |why: &str, local: &str| {
        Packets::none(config, |route| serves(route).err().unwrap_or(why).to_owned(), no_local(config, local))
    };
    if !any_may_outlive(config) {
        return nothing("", "");
    }
    let named = config.routes.iter().find(|route| may_serve(route) && is_named(route));
    let attached = match translates(config, &kernel.pins) {
        Ok(false) if !is_local(config) => Err(why_not(config, &kernel.pins)),
        Ok(translates) => attach(config, flows, kernel, translates),
        Err(error) => Err(error.into()),
    };
    match attached {
        Ok(attached) => divide(config, flows, attached, kernel),
        Err(error) => match named {
            Some(route) => Err(refuse(route, route.datapath, &error)),
            None if config.local.steering == Wish::On => Err(error),
            None => {
                claim::release();
                // Nobody looks after what an earlier daemon attached, or after what was begun here.
                purge(&mut kernel.pins).context("what is pinned")?;
                let why = format!("{error:#}");
                nothing(&format!("tc cannot work here: {why}"), &why)
            }
        },
    }
}

/// What stands in front of tc: nothing where no interface is fit for it, or why it could not be loaded.
type Front = Result<Option<Arc<XdpPanel>>, String>;

struct Attached {
    host: Host,
    tc: Arc<Tc>,
    front: Front,
    numbers: Vec<u32>,
    translates: bool,
    steering: Result<Arc<Steering>, String>,
    bypass: Result<Arc<Bypass>, String>,
}

/// Why there is no steering, and why no bypass: that is what it was to be, or this.
pub(super) fn no_local(config: &Config, why: &str) -> [String; 2] {
    let off = |is_off: bool| if is_off { CONFIGURED } else { why }.to_owned();
    [off(config.local.steering == Wish::Off), off(!config.local.bypass)]
}

const CONFIGURED: &str = "configured";

fn attach(config: &Config, flows: &[u32], kernel: &mut InKernel, translates: bool) -> Result<Attached> {
    let host = Host::read().context("the host's interfaces")?;
    let sizes = sizes(config, &kernel.pins)?;
    let seed = kernel.left.as_ref().map_or_else(rand::random, Life::seed);
    let object = kernel::load_tc(sizes, &kernel.pins, seed)?;
    let Some(Map::Array(gates)) = object.map(names::GATES) else { bail!("the kernel object has no gates") };
    kernel.targets.set_gates(gates)?;
    let (numbers, left) = take_over(config, sizes, seed, kernel)?;
    let nodes: Vec<SocketAddr> = left.iter().flat_map(BTreeMap::values).copied().collect();
    let steering = match config.local.steering {
        Wish::Off => Err(Ok(CONFIGURED.to_owned())),
        Wish::Auto | Wish::On => prepare_steering(config, &object, sizes, seed, &nodes, kernel)
            .map_err(|error| refuse_if_asked(config, &error)),
    };
    let steering = match steering {
        Ok(prepared) => Ok(prepared),
        Err(why) => {
            told(discard_steering(&kernel.pins)?);
            Err(why?)
        }
    };
    let bypass = bypass(config, &object, sizes, nodes, kernel)?;
    let setup = TcSetup {
        links: kernel.pins.links(),
        maps: kernel.pins.maps(),
        listening: config.routes.iter().flat_map(|route| &route.listen).copied().collect(),
        orphan_grace: config.orphan_grace,
        seed,
        left,
        translates,
    };
    let families = families(config);
    let asked = config.routes.iter().any(|route| route.datapath == DatapathChoice::Xdp);
    let load = || -> Result<_> { Ok(Xdp::load(kernel::load_xdp(&object, &kernel.pins, seed)?, families, asked)?) };
    let wanted = translates && worth_trying(config, &host, families);
    let (xdp, front) = match wanted.then(load).transpose() {
        Ok(None) => (None, Ok(None)),
        Ok(Some((xdp, panel))) => (Some(xdp), Ok(Some(panel))),
        Err(error) => (None, Err(format!("{error:#}"))),
    };
    let routes = described(config, flows, &numbers, translates)?;
    let steers = steering.as_ref().map_or_else(|_| Default::default(), PreparedSteering::steers);
    let tc = Arc::new(Tc::start(object, kernel::load_release()?, routes, setup, xdp, steers)?);
    let steering = match steering {
        Ok(prepared) => Ok(Arc::new(Steering::start(prepared, steered(config, flows, &numbers))?)),
        Err(why) => Err(why),
    };
    if let Ok(steering) = &steering {
        tc.steer(Arc::clone(steering));
    }
    if let Ok(bypass) = &bypass {
        tc.bypass(Arc::clone(bypass));
    }
    Ok(Attached { host, tc, front, numbers, translates, steering, bypass })
}

/// Why there is no steering. Only `auto` goes on without.
fn refuse_if_asked(config: &Config, error: &anyhow::Error) -> Result<String> {
    if config.local.steering == Wish::On { Err(super::paths::refuse_steering(error)) } else { Ok(format!("{error:#}")) }
}

fn told(ended: usize) {
    if ended > 0 {
        tracing::info!(ended, "clients of this host that an earlier daemon had led were reset");
    }
}

fn prepare_steering(
    config: &Config,
    tc: &Ebpf,
    sizes: NatSizes,
    seed: u64,
    nodes: &[SocketAddr],
    kernel: &InKernel,
) -> Result<PreparedSteering> {
    let cgroup = cgroup(config)?;
    told(discard_steering_elsewhere(&kernel.pins, &cgroup)?);
    let object = kernel::load_steering(tc, sizes, &kernel.pins, seed)?;
    let (links, all_namespaces) = (kernel.pins.links(), config.local.all_namespaces);
    let nodes = nodes.iter().map(SocketAddr::ip).collect();
    let setup = SteeringSetup { cgroup, links, all_namespaces, nodes };
    Ok(PreparedSteering::attach(object, setup)?)
}

fn cgroup(config: &Config) -> Result<PathBuf> {
    let cgroup = config.local.cgroup.clone().or_else(kernel::cgroup2);
    cgroup.context("cgroup2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

/// What a kernel cannot do is no reason not to serve: without the bypass everything is as it should be, only slower.
fn bypass(
    config: &Config,
    tc: &Ebpf,
    sizes: NatSizes,
    nodes: Vec<SocketAddr>,
    kernel: &InKernel,
) -> Result<Result<Arc<Bypass>, String>> {
    let why = if config.local.bypass {
        match start_bypass(config, tc, sizes, nodes, kernel) {
            Ok(bypass) => return Ok(Ok(Arc::new(bypass))),
            Err(error) => format!("{error:#}"),
        }
    } else {
        CONFIGURED.to_owned()
    };
    discard_bypass(&kernel.pins)?;
    Ok(Err(why))
}

fn start_bypass(
    config: &Config,
    tc: &Ebpf,
    sizes: NatSizes,
    nodes: Vec<SocketAddr>,
    kernel: &InKernel,
) -> Result<Bypass> {
    let cgroup = cgroup(config)?;
    discard_bypass_elsewhere(&kernel.pins, &cgroup)?;
    let tested = selftest_bypass()?;
    let object = kernel::load_bypass(tc, sizes, &kernel.pins)?;
    let (links, all_namespaces) = (kernel.pins.links(), config.local.all_namespaces);
    let except = config.local.bypass_except.clone();
    Ok(Bypass::start(object, BypassSetup { cgroup, links, all_namespaces, nodes, except, tested })?)
}

fn steered(config: &Config, flows: &[u32], numbers: &[u32]) -> Vec<SteeringRoute> {
    let routes = config.routes.iter().zip(flows).zip(numbers);
    let route = |((route, flows), number): ((&Route, &u32), &u32)| SteeringRoute {
        number: *number as u16,
        listen: route.listen.clone(),
        max_connections: *flows,
    };
    routes.map(route).collect()
}

/// The number of each route, by which an earlier daemon knew it too, and where that one has led those that go on.
type Left = (Vec<u32>, Option<BTreeMap<TargetKey, SocketAddr>>);

fn take_over(config: &Config, sizes: NatSizes, seed: u64, kernel: &mut InKernel) -> Result<Left> {
    let taken_over = kernel.left.is_some();
    let mut life = match kernel.left.take() {
        Some(life) => life,
        None => Life::begin(&kernel.pins, sizes, PORTS, seed)?,
    };
    let names: Vec<String> = config.routes.iter().map(|route| name(config, route)).collect();
    let left = life.names()?;
    let numbers = numbers(&names, &left);
    // Before an address of ours leads to a number that was another route's, and before it has our name.
    let goes_on = |key: TargetKey| {
        let route = numbers.iter().position(|number| *number == key.route);
        route.is_some_and(|at| {
            left.get(key.route as usize) == Some(&names[at]) && may_outlive(config, &config.routes[at])
        })
    };
    kernel.targets.shut(|key| !goes_on(key))?;
    for (name, number) in names.iter().zip(&numbers) {
        life.name(*number, name)?;
    }
    let left = if taken_over { Some(led(config, &numbers, &kernel.targets)?) } else { None };
    Ok((numbers, left))
}

/// What makes a route the same one for the next daemon.
fn name(config: &Config, route: &Route) -> String {
    let target = status::target_word(route.target);
    format!("{} to the {target} of {}", route.name, config.groups[route.group].name)
}

/// Where an earlier daemon led the routes of this configuration.
fn led(config: &Config, numbers: &[u32], targets: &KernelTargets) -> Result<BTreeMap<TargetKey, SocketAddr>> {
    let routes = config.routes.iter().zip(numbers).filter(|(it, _)| may_outlive(config, it));
    let ours: Vec<u32> = routes.map(|(_, it)| *it).collect();
    let entries = targets.entries()?.into_iter().filter(|(key, _)| ours.contains(&key.route));
    Ok(entries.filter_map(|(key, entry)| Some((key, kernel::decode(&entry)?))).collect())
}

fn described(config: &Config, flows: &[u32], numbers: &[u32], translates: bool) -> Result<Vec<nat::keeper::Route>> {
    let routes = config.routes.iter().zip(flows).zip(numbers).filter(|((route, _), _)| may_outlive(config, route));
    let route = |((route, flows), number): ((&Route, &u32), &u32)| {
        Ok(nat::keeper::Route {
            number: u16::try_from(*number)?,
            listen: route.listen.clone(),
            max_connections: *flows,
            translated: translates && may_serve(route),
            by_xdp: false,
            allow: route.allow.clone(),
            idle_timeout: route.idle_timeout,
            snat: route.snat.clone(),
        })
    };
    routes.map(route).collect()
}

/// How the packet program shares out a route's new flows.
fn balance(route: &Route) -> u32 {
    match route.target {
        TargetRole::Master => kind::MASTER,
        TargetRole::Replica => nat::balancer::kind_of(route.balance),
    }
}

/// Of the routes that xdp may serve.
fn families(config: &Config) -> Families {
    let mut families = Families::default();
    for at in config.routes.iter().filter(|route| wants_xdp(route)).flat_map(|route| &route.listen) {
        if at.ip().to_canonical().is_ipv4() { families.v4 = true } else { families.v6 = true }
    }
    families
}

/// Before anything is attached to a driver: whether any route could have it.
fn worth_trying(config: &Config, host: &Host, families: Families) -> bool {
    let standing = survey(host, families);
    let veths = veths(host);
    config.routes.iter().any(|route| {
        let standing = standing_for(route, &standing, &veths);
        wants_xdp(route) && verdict(&involved(config, route, host), &standing).is_ok()
    })
}

/// What a route may have: where the choice is ours, a veth is left to tc, which passes by it.
fn standing_for<'a>(route: &Route, standing: &'a XdpStanding, veths: &BTreeMap<u32, String>) -> Cow<'a, XdpStanding> {
    if route.datapath != DatapathChoice::Auto {
        return Cow::Borrowed(standing);
    }
    let judge = |(ifindex, passed): (&u32, &Result<String, Unfit>)| {
        let veth = veths.get(ifindex).filter(|_| passed.is_ok());
        (*ifindex, veth.map_or_else(|| passed.clone(), |name| Err(Unfit::Slower(name.clone()))))
    };
    Cow::Owned(standing.iter().map(judge).collect())
}

fn veths(host: &Host) -> BTreeMap<u32, String> {
    let links = links::links().unwrap_or_else(|error| {
        tracing::warn!(%error, "which interfaces are veths is not known");
        Vec::new()
    });
    let is_ours = |link: &Link| host.interfaces.iter().any(|it| it.ifindex == link.ifindex);
    links.into_iter().filter(|link| link.is_veth && is_ours(link)).map(|link| (link.ifindex, link.name)).collect()
}

fn survey(host: &Host, families: Families) -> XdpStanding {
    let facts = native::survey(host).unwrap_or_else(|error| {
        tracing::warn!(%error, "what drivers can do for xdp is not known");
        Vec::new()
    });
    facts.iter().map(|it| (it.interface.ifindex, it.fit(families).map(|()| it.interface.name.clone()))).collect()
}

/// Gives each route what it asks for, or the best there is.
fn divide(config: &Config, flows: &[u32], attached: Attached, kernel: &InKernel) -> Result<Packets> {
    let Attached { host, tc, front, numbers, translates, steering, bypass } = attached;
    if !translates {
        let why = format!("tc cannot work here: {}", why_not(config, &kernel.pins));
        let of = config.routes.iter().map(|route| Err(serves(route).err().map_or_else(|| why.clone(), str::to_owned)));
        return Ok(Packets { tc: Some(tc), xdp: None, of: of.collect(), numbers, steering, bypass });
    }
    let (panel, fault) = match front {
        Ok(panel) => (panel, None),
        Err(fault) => (None, Some(fault)),
    };
    let standing = panel.as_ref().map_or_else(|| survey(&host, families(config)), |panel| panel.standing().clone());
    let veths = veths(&host);
    let (mut by_xdp, mut of) = (Vec::new(), Vec::new());
    for ((route, number), flows) in config.routes.iter().zip(&numbers).zip(flows) {
        let number = u16::try_from(*number)?;
        if let Err(why) = serves(route) {
            of.push(Err(why.to_owned()));
            continue;
        }
        let judge = || match &fault {
            Some(fault) => Err(fault.clone()),
            None => verdict(&involved(config, route, &host), &standing_for(route, &standing, &veths)),
        };
        let judged = wants_xdp(route).then(judge);
        let (name, reason) = match (judged, route.datapath) {
            (None, _) => ("tc", "configured".to_owned()),
            (Some(Ok(passed)), choice) => {
                // No interface was fit when it would have been loaded, and one is now.
                ensure!(panel.is_some(), "xdp is not loaded");
                by_xdp.push(number);
                let asked = if choice == DatapathChoice::Xdp { "configured; " } else { "" };
                ("xdp", format!("{asked}self-test passed: {passed}"))
            }
            (Some(Err(why)), DatapathChoice::Xdp) => {
                return Err(anyhow!(
                    "route {}: the datapath xdp cannot work here: {why}; or set datapath = \"auto\", which takes tc then",
                    route.name
                ));
            }
            (Some(Err(why)), _) => ("tc", format!("not xdp: {why}")),
        };
        let beneath: Arc<dyn Datapath> = Arc::<Sockmap>::clone(&kernel.sockmap);
        let parts = TcParts { number, name, beneath, translated: true, most: *flows, kind: balance(route) };
        of.push(Ok(Chosen { datapath: Arc::new(tc.route(parts)), reason }));
    }
    let taken = !by_xdp.is_empty();
    if taken {
        tc.by_xdp(by_xdp);
    } else if let Some(panel) = &panel {
        panel.retire();
    }
    Ok(Packets { tc: Some(tc), xdp: panel.filter(|_| taken), of, numbers, steering, bypass })
}

/// The interfaces that the packets of a route are sure to pass: those with an address that it names, and those by which
/// the nodes that its group names are reached. Of addresses like 0.0.0.0, of names, and of Sentinels nothing is sure.
fn involved(config: &Config, route: &Route, host: &Host) -> BTreeSet<u32> {
    let listen = route.listen.iter().map(|at| at.ip().to_canonical()).filter(|ip| !ip.is_unspecified());
    let mut involved = native::carrying(&listen.collect()).unwrap_or_default();
    if let Source::Nodes(nodes) = &config.groups[route.group].source {
        let known = nodes.iter().filter_map(|node| node.host.parse::<IpAddr>().ok());
        involved.extend(known.filter_map(|node| Some(way_to(node).ok()?.ifindex)));
    }
    involved.retain(|ifindex| host.interfaces.iter().any(|interface| interface.ifindex == *ifindex));
    involved
}

/// All that are involved must have passed; where nothing is sure, one. Says which, or why not.
fn verdict(involved: &BTreeSet<u32>, standing: &XdpStanding) -> Result<String, String> {
    let counts = |ifindex: &u32| involved.is_empty() || involved.contains(ifindex);
    let of_them = || standing.iter().filter(|(ifindex, _)| counts(ifindex)).map(|(_, it)| it);
    let passed: Vec<&str> = of_them().filter_map(|it| it.as_deref().ok()).collect();
    let failed: Vec<String> = of_them().filter_map(|it| Some(it.as_ref().err()?.to_string())).collect();
    let unseen = involved.iter().any(|ifindex| !standing.contains_key(ifindex));
    if !passed.is_empty() && (involved.is_empty() || failed.is_empty() && !unseen) {
        return Ok(passed.join(", "));
    }
    Err(if failed.is_empty() { "no Ethernet interface is up".to_owned() } else { failed.join("; ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> XdpStanding {
        let bad = |name: &str| Err(Unfit::NotNative(name.to_owned()));
        [(2, Ok("eth0".to_owned())), (3, bad("eth1")), (4, Ok("eth2".to_owned()))].into()
    }

    #[test]
    fn every_interface_that_is_sure_to_be_used_must_pass() {
        let standing = standing();
        assert_eq!(verdict(&[2, 4].into(), &standing), Ok("eth0, eth2".to_owned()));
        for involved in [[2, 3].into(), [3].into(), [2, 9].into()] {
            assert!(verdict(&involved, &standing).is_err(), "{involved:?}");
        }
        assert!(verdict(&[2, 3].into(), &standing).is_err_and(|why| why.starts_with("eth1: ")));
    }

    #[test]
    fn where_nothing_is_sure_one_is_enough() {
        let mut standing = standing();
        assert_eq!(verdict(&BTreeSet::new(), &standing), Ok("eth0, eth2".to_owned()));
        standing.retain(|_, it| it.is_err());
        assert!(verdict(&BTreeSet::new(), &standing).is_err());
        assert!(verdict(&BTreeSet::new(), &XdpStanding::new()).is_err());
    }
}
