//! What only shows between the parts of a configuration: names and addresses that are there twice,
//! a route that would forward to itself, a group that no route uses.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    AdminListen, HostPort, Name,
    context::Context,
    errors::{Invalid, quoted},
    group, route,
    section::Placed,
};

/// What was read, right or wrong, with its places.
pub(super) struct Parts<'a> {
    pub(super) admin: Option<Placed<AdminListen>>,
    pub(super) group_names: Vec<Option<Placed<Name>>>,
    pub(super) route_names: Vec<Option<Placed<Name>>>,
    pub(super) groups: &'a [Option<group::Read>],
    pub(super) routes: &'a [Option<route::Read>],
}

pub(super) fn all(context: &Context<'_>, parts: &Parts<'_>) {
    names(context, &parts.group_names, "group");
    names(context, &parts.route_names, "route");
    let listens = listens(parts);
    addresses(context, &listens);
    loops(context, parts, &listens);
    unused(context, parts);
}

fn names(context: &Context<'_>, names: &[Option<Placed<Name>>], what: &str) {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    for name in names.iter().flatten() {
        if let Some(path) = first.get(&*name.value) {
            let (text, path) = (quoted(&name.value), (context.label)(path));
            let what = format!("a {what} is called {text} already ({path})");
            context.refuse(&name.path, name.at, Invalid::new(what, "valid: another name"));
        } else {
            first.insert(&name.value, &name.path);
        }
    }
}

fn listens(parts: &Parts<'_>) -> Vec<Placed<SocketAddr>> {
    let routes = parts.routes.iter().flatten().flat_map(|read| read.listen.iter().cloned());
    let admin = parts.admin.iter().filter_map(|admin| match admin.value {
        AdminListen::Tcp(value) => Some(Placed { value, path: admin.path.clone(), at: admin.at }),
        AdminListen::Unix(_) => None,
    });
    routes.chain(admin).collect()
}

/// Would binding the one stop the other? IPv6 listeners serve IPv6 only, so the families never meet.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

fn addresses(context: &Context<'_>, listens: &[Placed<SocketAddr>]) {
    let mut by_port: BTreeMap<u16, Vec<&Placed<SocketAddr>>> = BTreeMap::new();
    for listen in listens {
        let earlier = by_port.entry(listen.value.port()).or_default();
        if let Some(other) = earlier.iter().find(|other| overlap(other.value, listen.value)) {
            let (this, path) = (listen.value, (context.label)(&other.path));
            let what = match other.value == this {
                true => format!("\"{this}\" is listened on already ({path})"),
                false => {
                    format!("\"{this}\" meets \"{}\" ({path}), and one of them listens on every address", other.value)
                }
            };
            context.refuse(
                &listen.path,
                listen.at,
                Invalid::new(what, "valid: another port, or a specific address in each place"),
            );
        }
        earlier.push(listen);
    }
}

/// A server whose address is one of our own listeners: the route would connect to itself.
fn loops(context: &Context<'_>, parts: &Parts<'_>, listens: &[Placed<SocketAddr>]) {
    let mut by_port: BTreeMap<u16, Vec<&Placed<SocketAddr>>> = BTreeMap::new();
    for listen in listens {
        by_port.entry(listen.value.port()).or_default().push(listen);
    }
    for server in parts.groups.iter().flatten().flat_map(|read| &read.servers) {
        let Some(address) = literal(&server.value) else { continue };
        let meets = |listen: &&&Placed<SocketAddr>| {
            let ours = listen.value.ip();
            ours == address.ip()
                || (ours.is_unspecified() && ours.is_ipv4() == address.is_ipv4() && address.ip().is_loopback())
        };
        if let Some(listen) = by_port.get(&address.port()).and_then(|same| same.iter().find(meets)) {
            let what =
                format!("\"{}\" is where this daemon itself listens ({})", server.value, (context.label)(&listen.path));
            context.refuse(
                &server.path,
                server.at,
                Invalid::new(what, "valid: the server's own address, or another port to listen on"),
            );
        }
    }
}

/// `localhost` is as good as a literal here.
fn literal(server: &HostPort) -> Option<SocketAddr> {
    match server.host.as_str() {
        "localhost" => Some(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), server.port)),
        _ => server.as_socket_addr(),
    }
}

fn unused(context: &Context<'_>, parts: &Parts<'_>) {
    // A route that could not be read may be the one that uses it.
    if parts.routes.iter().any(Option::is_none) {
        return;
    }
    let used = |index| parts.routes.iter().flatten().any(|read| read.route.group == index);
    for (index, name) in parts.group_names.iter().enumerate() {
        if let Some(name) = name.as_ref().filter(|_| !used(index)) {
            let what = format!("no route uses the group {}", quoted(&name.value));
            context.warn(&name.path, name.at, Invalid::new(what, "add a [[route]] to it, or remove it"));
        }
    }
}
