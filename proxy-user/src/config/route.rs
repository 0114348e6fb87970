//! `[[route]]`: one listening address (or several) bound to a group and a target.

use std::net::{IpAddr, SocketAddr};

use proxy_ebpf::nat::MOST_SNATS;

use super::{
    Balance, DatapathChoice, Fallback, Lag, Name, Park, Route, TargetRole, address,
    errors::{Invalid, quoted},
    quantity::{duration, duration_or_zero, ms, number, secs},
    schema::{self, nearest},
    section::{ListShape, Placed, Section},
};

const LISTEN: ListShape =
    ListShape { max: 64, single: true, valid: "valid: \"0.0.0.0:6379\", or [\"0.0.0.0:6379\", \"[::]:6379\"]" };
const ALLOW: ListShape = ListShape {
    max: 1024,
    single: true,
    valid: "valid: a list such as [\"127.0.0.1\", \"10.0.0.0/8\"]; leave it out to allow everyone",
};
const SNAT: ListShape = ListShape {
    max: MOST_SNATS,
    single: true,
    valid: "valid: addresses of this host, such as [\"10.0.0.9\", \"10.0.0.10\"]",
};
const MILLION: u32 = 1_000_000;
const DAY: u64 = 86_400;

/// A route, and its listening addresses with their places.
pub(super) struct Read {
    pub(super) route: Route,
    pub(super) listen: Vec<Placed<SocketAddr>>,
}

/// `groups` are the names of all groups by index; one that is wrong in itself has none.
pub(super) fn read(section: &Section<'_>, name: Option<Name>, groups: &[Option<Name>]) -> Option<Read> {
    let group = group(section, groups);
    let target = match section.has("target") {
        true => section.get("target", Section::parsed),
        false => Some(TargetRole::Master),
    };
    if !section.has("listen") {
        section.refuse("listen", Invalid::new("is missing", LISTEN.valid));
    }
    let listen = section.list("listen", LISTEN, |value| address::listen(Section::text(value)?));
    let allow = section.list("allow", ALLOW, |value| address::network(Section::text(value)?));
    let reconnect_rate = section.or("reconnect_rate", 0, number(0..=MILLION));
    if let Some(target) = target {
        check_target(section, target, reconnect_rate);
    }
    let datapath = section.or("datapath", DatapathChoice::default(), Section::parsed);
    let idle = duration_or_zero("never", secs(1)..=secs(365 * DAY));
    let route = Route {
        balance: section.or("balance", Balance::default(), Section::parsed),
        max_lag: section.or("max_lag", Lag::Time(secs(10)), Section::parsed),
        fallback: section.or("fallback", Fallback::default(), Section::parsed),
        datapath,
        max_connections: section.or("max_connections", 10_000, number(1..=MILLION)),
        connect_timeout: section.or("connect_timeout", secs(4), duration(ms(10)..=secs(300))),
        idle_timeout: section.or("idle_timeout", secs(0), idle),
        park: park(section),
        reconnect_rate,
        snat: snat(section, datapath),
        allow: allow.map(|networks| networks.into_iter().map(|placed| placed.value).collect()),
        name: name?,
        group: group?,
        target: target?,
        listen: listen.as_ref()?.iter().map(|placed| placed.value).collect(),
    };
    Some(Read { route, listen: listen? })
}

fn group(section: &Section<'_>, groups: &[Option<Name>]) -> Option<usize> {
    let known = || groups.iter().flatten().map(|name| &**name);
    let valid = || match known().take(10).map(quoted).collect::<Vec<_>>() {
        names if names.is_empty() => "add a [[group]] with this name".to_owned(),
        names => format!("valid: {}", names.join(", ")),
    };
    let found = section.require("group", &valid(), |value| {
        let name = Section::text(value)?;
        if let Some(index) = groups.iter().position(|group| group.as_deref() == Some(name)) {
            return Ok(Some(index));
        }
        if groups.is_empty() || groups.iter().any(Option::is_none) {
            // The group that could not be read may be the one that is meant: one problem, told once.
            return Ok(None);
        }
        let mut what = format!("there is no group {}", quoted(name));
        if let Some(near) = nearest(name, known()) {
            what.push_str(&format!(" (did you mean {}?)", quoted(near)));
        }
        Err(Invalid::new(what, valid()))
    });
    found?.value
}

/// Keys that mean something for one kind of target only.
fn check_target(section: &Section<'_>, target: TargetRole, reconnect_rate: u32) {
    match target {
        TargetRole::Master => {
            let keys = ["balance", "max_lag", "fallback"];
            section.idle(&keys, "has no effect on a route to the master", "remove it, or set target = \"replica\"");
        }
        TargetRole::Replica if reconnect_rate > 0 => {
            let remedy = "remove it: it paces the way to a new master";
            section.idle(&["reconnect_rate"], "has no effect on a route to replicas", remedy);
        }
        TargetRole::Replica => {}
    }
}

/// Where no packet is translated nobody is seen from there.
fn snat(section: &Section<'_>, datapath: DatapathChoice) -> Vec<IpAddr> {
    if matches!(datapath, DatapathChoice::Sockmap | DatapathChoice::Copy) {
        let remedy = "remove it, or set datapath = \"tc\"";
        section.idle(&["snat"], "has no effect where connections are accepted", remedy);
    }
    let listed = section.list("snat", SNAT, |value| address::own(Section::text(value)?)).unwrap_or_default();
    let mut known = Vec::with_capacity(listed.len());
    for Placed { value, .. } in listed {
        if !known.contains(&value) {
            known.push(value);
        }
    }
    known
}

fn park(route: &Section<'_>) -> Park {
    let default = Park::default();
    let Some(section) = route.section("park", &schema::PARK) else {
        return default;
    };
    Park {
        limit: section.or("limit", default.limit, number(0..=MILLION)),
        timeout: section.or("timeout", default.timeout, duration_or_zero("no waiting", ms(1)..=secs(3600))),
    }
}
