//! Configurations that are right, and what they mean.

use std::time::Duration;

use crate::config::{
    Admin, AdminListen, Balance, Check, Commit, DatapathChoice, Fallback, Lag, Local, Park, Secret, Source, Steering,
    TargetRole,
};

use super::{NODE_PASSWORD, SENTINEL_PASSWORD, TOKEN, folder, parse_in};

/// Section 6 of the design, with the paths of the test's own folder.
pub(super) const CONTRACT: &str = include_str!("contract.toml");

/// As little as there can be.
pub(super) const MINIMAL: &str = "
[[group]]
name = \"mymaster\"
sentinels = [\"10.0.0.10:26379\"]
[[route]]
name = \"writes\"
listen = \"0.0.0.0:6379\"
group = \"mymaster\"
";

#[test]
fn the_contract_is_accepted_as_it_is_written() {
    let folder = folder();
    let loaded = parse_in(folder.path(), CONTRACT).unwrap_or_else(|errors| panic!("{errors}"));
    let warned: Vec<&str> = loaded.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(warned, ["route[0].balance", "route[0].max_lag"], "its route goes to the master");
    let config = loaded.config;
    let listen = AdminListen::Tcp("127.0.0.1:9180".parse().expect("an address"));
    assert_eq!(config.admin, Some(Admin { listen, token: Some(Secret::new(TOKEN.into())) }));

    let [group] = &config.groups[..] else { panic!("one group") };
    let Source::Sentinels(sentinels) = &group.source else { panic!("Sentinels") };
    assert_eq!(
        sentinels.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.10:26379", "10.0.0.20:26379", "sentinel-2.redis.svc:26379"]
    );
    assert_eq!((&*group.name, group.commit, group.require_backlog), ("mymaster", Commit::Majority, false));
    assert_eq!((group.quorum_grace, &group.check), (Duration::from_secs(10), &Check::default()));
    assert_eq!(group.node_access.username.as_deref(), Some("probe"));
    assert_eq!(group.node_access.password, Some(Secret::new(NODE_PASSWORD.into())));
    assert_eq!(group.sentinel_access.password, Some(Secret::new(SENTINEL_PASSWORD.into())));
    let tls = group.node_access.tls.as_ref().expect("TLS");
    assert_eq!(tls.ca_file, Some(folder.path().join("ca.pem")));
    assert_eq!(tls.server_name.as_deref(), Some("redis.internal"));
    assert_eq!(group.sentinel_access.tls.as_ref(), Some(tls));

    let [route] = &config.routes[..] else { panic!("one route") };
    assert_eq!(route.listen, ["0.0.0.0:6379".parse().expect("an address")]);
    assert_eq!((route.group, route.target, route.datapath), (0, TargetRole::Master, DatapathChoice::Auto));
    assert_eq!(route.allow.as_ref().map(Vec::len), Some(2));
    assert_eq!((route.max_connections, route.reconnect_rate), (10_000, 0));
    assert_eq!((route.connect_timeout, route.idle_timeout), (Duration::from_secs(4), Duration::ZERO));
    assert_eq!(route.park, Park { limit: 10_000, timeout: Duration::from_secs(10) });
    assert_eq!(config.local.steering, Steering::Auto);
    assert!(!config.local.bypass && !config.local.all_namespaces && config.local.cgroup.is_some());
}

#[test]
fn programs_that_are_not_bypassed_are_listed_by_name() {
    let folder = folder();
    let excepted = |text: &str| parse_in(folder.path(), text).expect("valid").config.local.bypass_except;
    assert_eq!(excepted(MINIMAL), ["haproxy"]);
    assert_eq!(excepted(&format!("{MINIMAL}\n[local]\nbypass_except = \"relay\"\n")), ["relay"]);
    assert_eq!(excepted(&format!("{MINIMAL}\n[local]\nbypass_except = [\"a\", \"b\"]\n")), ["a", "b"]);
}

#[test]
fn what_is_left_out_has_its_default() {
    let folder = folder();
    let config = parse_in(folder.path(), MINIMAL).expect("valid").config;
    assert_eq!((&config.admin, &config.local), (&None, &Local::default()));
    let group = &config.groups[0];
    assert_eq!((&group.node_access, &group.sentinel_access), (&Default::default(), &Default::default()));
    assert_eq!((&group.check, group.quorum_grace), (&Check::default(), Duration::from_secs(10)));
    let route = &config.routes[0];
    assert_eq!(
        (route.target, route.balance, route.fallback),
        (TargetRole::Master, Balance::RoundRobin, Fallback::None)
    );
    assert_eq!((route.max_lag, &route.allow), (Lag::Time(Duration::from_secs(10)), &None));
    assert_eq!((route.max_connections, route.connect_timeout), (10_000, Duration::from_secs(4)));
    assert_eq!((route.idle_timeout, route.park, &route.snat), (Duration::ZERO, Park::default(), &Vec::new()));
}

#[test]
fn each_way_to_write_a_value_is_accepted() {
    let folder = folder();
    for (replaced, by) in [
        ("listen = \"0.0.0.0:6379\"", "listen = [\"0.0.0.0:6379\", \"[::]:6379\", \"10.0.0.1:6380\"]"),
        ("listen = \"0.0.0.0:6379\"", "listen = \"[fd00::1]:6379\"\ntarget = \"replica\"\nmax_lag = \"1mb\""),
        ("listen = \"0.0.0.0:6379\"", "listen = \"0.0.0.0:6379\"\nallow = \"10.0.0.0/8\"\npark = { limit = 0 }"),
        ("listen = \"0.0.0.0:6379\"", "listen = \"0.0.0.0:6379\"\nsnat = [\"10.0.0.9\", \"fd00::9\"]"),
        ("sentinels = [\"10.0.0.10:26379\"]", "nodes = [\"[fd00::1]:6379\"]\nrequire_backlog = true"),
        ("[[route]]", "tls = {}\nsentinel_tls = \"off\"\n[[route]]"),
        ("[[route]]", "sentinel_tls = { ca_file = \"ca.pem\" }\n[[route]]"),
        ("[[route]]", "password_file = \"node.password\"\n[[route]]"),
        ("[[route]]", "check.interval = \"50ms\"\n[[route]]"),
        ("[[route]]", "[group.check]\nrise = 2\n[[route]]"),
        ("[[route]]", "[admin]\nlisten = \"unix:admin.sock\"\n[[route]]"),
        ("[[route]]", "[local]\nsteering = \"off\"\nbypass = \"on\"\nnamespaces = \"all\"\n[[route]]"),
    ] {
        let text = MINIMAL.replace(replaced, by);
        parse_in(folder.path(), &text).unwrap_or_else(|errors| panic!("{by}\n{errors}"));
    }
}

#[test]
fn passwords_and_tls_of_sentinels_stand_apart() {
    let folder = folder();
    let text =
        MINIMAL.replace("[[route]]", "password_file = \"node.password\"\ntls = {}\nsentinel_tls = \"off\"\n[[route]]");
    let config = parse_in(folder.path(), &text).expect("valid").config;
    let group = &config.groups[0];
    // The line end of the file is no part of it.
    assert_eq!(group.node_access.password, Some(Secret::new(NODE_PASSWORD.into())));
    assert!(group.node_access.tls.is_some());
    assert_eq!(group.sentinel_access, Default::default());
}

#[test]
fn a_fast_interval_left_out_is_never_slower_than_the_interval() {
    let folder = folder();
    let text = MINIMAL.replace("[[route]]", "check = { interval = \"20ms\" }\n[[route]]");
    let config = parse_in(folder.path(), &text).expect("valid").config;
    assert_eq!(config.groups[0].check.fast_interval, Duration::from_millis(20));
}

#[test]
fn what_is_unwise_is_a_warning() {
    let folder = folder();
    let text = MINIMAL.replace(
        "[[route]]",
        "password_file = \"open.password\"\n[[group]]\nname = \"b\"\nnodes = [\"a:1\"]\n[[route]]",
    );
    let warnings = parse_in(folder.path(), &text).expect("valid").warnings;
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let [open, unused] = &warnings[..] else { panic!("two warnings: {warnings:?}") };
    assert!(open.contains("s.toml:5:1: group[0].password_file: ") && open.contains("chmod o-r"), "{open}");
    assert!(unused.contains("s.toml:7:8: group[1].name: no route uses the group \"b\""), "{unused}");
}

#[test]
fn a_route_to_replicas_has_its_choice_of_datapaths() {
    let folder = folder();
    for datapath in ["auto", "xdp", "tc", "sockmap", "copy"] {
        for balance in ["round-robin", "least-connections", "source-hash"] {
            let text = format!("{MINIMAL}target = \"replica\"\ndatapath = \"{datapath}\"\nbalance = \"{balance}\"\n");
            let warnings = parse_in(folder.path(), &text).expect("valid").warnings;
            assert!(warnings.is_empty(), "{datapath}, {balance}: {warnings:?}");
        }
    }
}

#[test]
fn keys_without_effect_are_warnings() {
    let folder = folder();
    let nodes = MINIMAL.replace("sentinels = [\"10.0.0.10:26379\"]", "nodes = [\"a:1\"]\ncommit = \"majority\"");
    let replica = format!("{MINIMAL}target = \"replica\"\nreconnect_rate = 5\n");
    for (text, expected) in [
        (nodes, "s.toml:5:1: group[0].commit: has no effect without Sentinels; remove it"),
        (
            format!("{MINIMAL}fallback = \"none\""),
            "s.toml:9:1: route[0].fallback: has no effect on a route to the master; ",
        ),
        (replica, "s.toml:10:1: route[0].reconnect_rate: has no effect on a route to replicas; "),
    ] {
        let warnings = parse_in(folder.path(), &text).expect(expected).warnings;
        let [warning] = &warnings[..] else { panic!("one warning: {warnings:?}") };
        assert!(warning.to_string().contains(expected), "{warning}");
    }
}
