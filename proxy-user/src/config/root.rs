//! The whole of a configuration: its tables in order, then what only shows between them.

use std::path::Path;

use proxy_ebpf::bypass::MOST_PROGRAMS;

use super::{
    Admin, AdminListen, Config, Local, Name, Steering,
    check::{self, Parts},
    choice::{Choice as _, Namespaces, OnOff},
    context::Context,
    errors::Invalid,
    group,
    quantity::{duration, secs},
    raw::Value,
    route, schema,
    section::{ListShape, Placed, Section},
};

const EXCEPT: ListShape = ListShape {
    max: MOST_PROGRAMS,
    single: true,
    valid: "valid: a list such as [\"haproxy\", \"toxiproxy\"]; leave it out for [\"haproxy\"]",
};

/// Nothing if it has a problem; the problems are in the context.
pub(super) fn read(context: &Context<'_>, value: &Value) -> Option<Config> {
    let root = Section::open(context, &schema::ROOT, String::new(), Some(0), value)?;
    let state_dir = root.get("state_dir", |value| {
        let path = context.path(Section::text(value)?);
        // It is made at the start if it is missing.
        if path.is_dir() || !path.exists() { Ok(path) } else { Err(no_folder(&path, "valid: a folder of its own")) }
    });
    let orphan_grace = root.or("orphan_grace", secs(5), duration(secs(1)..=secs(3600)));
    let admin = root.section("admin", &schema::ADMIN).map(|section| admin(&section));
    let groups = root.sections("group", &schema::GROUP);
    let routes = root.sections("route", &schema::ROUTE);
    let local = root.section("local", &schema::LOCAL).map(|section| local(&section)).unwrap_or_default();

    let group_names: Vec<_> = groups.iter().map(|section| name(section.as_ref()?)).collect();
    let route_names: Vec<_> = routes.iter().map(|section| name(section.as_ref()?)).collect();
    let known: Vec<Option<Name>> = group_names.iter().map(value_of).collect();
    let groups: Vec<_> =
        groups.iter().zip(&known).map(|(section, name)| group::read(section.as_ref()?, name.clone())).collect();
    let routes: Vec<_> = (routes.iter().zip(&route_names))
        .map(|(section, name)| route::read(section.as_ref()?, value_of(name), &known))
        .collect();
    let admin_listen = admin.as_ref().and_then(|(listen, _)| listen.clone());
    check::all(context, &Parts { admin: admin_listen, group_names, route_names, groups: &groups, routes: &routes });

    let admin = match admin {
        Some((listen, token)) => Some(Admin { listen: listen?.value, token }),
        None => None,
    };
    let groups = groups.into_iter().map(|read| Some(read?.group)).collect::<Option<_>>()?;
    let routes = routes.into_iter().map(|read| Some(read?.route)).collect::<Option<_>>()?;
    Some(Config { state_dir, orphan_grace, admin, groups, routes, local })
}

fn value_of(name: &Option<Placed<Name>>) -> Option<Name> {
    name.as_ref().map(|placed| placed.value.clone())
}

fn name(section: &Section<'_>) -> Option<Placed<Name>> {
    section.require("name", "valid: a name such as \"mymaster\"", group::name)
}

fn admin(section: &Section<'_>) -> (Option<Placed<AdminListen>>, Option<super::Secret>) {
    let valid = "valid: \"127.0.0.1:9180\", \"unix:/run/switchmaster.sock\"; without [admin] there is no admin server";
    let listen = section.require("listen", valid, |value| match Section::parsed(value)? {
        AdminListen::Unix(path) => Ok(AdminListen::Unix(section.context.path(&path.to_string_lossy()))),
        tcp => Ok(tcp),
    });
    let token = section.secret_file("token_file");
    // It travels in an HTTP header.
    if token.as_ref().is_some_and(|token| !token.expose().bytes().all(|byte| byte.is_ascii_graphic())) {
        section.refuse(
            "token_file",
            Invalid::new("the file holds more than a token", "valid: one line of printable ASCII, no spaces"),
        );
    }
    (listen, token)
}

/// As the kernel names it: it cuts a longer name off.
fn program(name: &str) -> Result<String, Invalid> {
    if name.is_empty() || name.contains(['/', '\0']) {
        let valid = "valid: the name of a program as /proc/PID/comm has it, like \"haproxy\"";
        return Err(Invalid::new(format!("{} is no program's name", super::errors::quoted(name)), valid));
    }
    Ok(name.to_owned())
}

fn local(section: &Section<'_>) -> Local {
    let steering = section.or("steering", Steering::default(), Section::parsed);
    let bypass = section.or("bypass", OnOff::Off, |value| OnOff::of_word(Section::text(value)?)) == OnOff::On;
    let except = section.list("bypass_except", EXCEPT, |value| program(Section::text(value)?));
    let except = except.map(|names| names.into_iter().map(|name| name.value).collect());
    Local {
        steering,
        bypass,
        bypass_except: except.unwrap_or_else(|| Local::default().bypass_except),
        all_namespaces: section.or("namespaces", Namespaces::Own, |value| Namespaces::of_word(Section::text(value)?))
            == Namespaces::All,
        cgroup: section.get("cgroup", |value| {
            let path = section.context.path(Section::text(value)?);
            let valid = "valid: where cgroup2 is mounted (see /proc/mounts)";
            if path.is_dir() { Ok(path) } else { Err(no_folder(&path, valid)) }
        }),
    }
}

fn no_folder(path: &Path, valid: &str) -> Invalid {
    Invalid::new(format!("{} is not a folder", super::errors::quoted(&path.to_string_lossy())), valid)
}
