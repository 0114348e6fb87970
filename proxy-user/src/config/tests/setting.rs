//! A configuration from flags: the same rules as a file, and problems that name the flag.

use crate::config::{Errors, Loaded, Setting, Source, load::parse_flags};

use super::{MARK, env};

fn flags(given: &[(&'static str, &[&str])]) -> Result<Loaded, Errors> {
    let settings: Vec<Setting> = (given.iter())
        .map(|(flag, values)| Setting { flag, values: values.iter().map(ToString::to_string).collect() })
        .collect();
    parse_flags(&settings, &env)
}

#[test]
fn flags_alone_make_a_configuration() {
    let config = flags(&[
        ("--listen", &["0.0.0.0:6379", "[::]:6379"]),
        ("--master", &["mymaster"]),
        ("--sentinel", &["a:26379", "b:26379", "c:26379"]),
        ("--password-env", &["REDIS_PASSWORD"]),
        ("--tls", &[]),
        ("--sentinel-tls-off", &[]),
        ("--max-connections", &["500"]),
        ("--admin-listen", &["127.0.0.1:9180"]),
    ])
    .unwrap_or_else(|errors| panic!("{errors}"))
    .config;
    assert_eq!((config.groups.len(), config.routes.len()), (1, 1));
    assert_eq!((&*config.groups[0].name, &*config.routes[0].name), ("mymaster", "default"));
    assert!(config.groups[0].node_access.password.is_some() && config.groups[0].node_access.tls.is_some());
    assert_eq!(config.groups[0].sentinel_access, Default::default());
    assert_eq!((config.routes[0].listen.len(), config.routes[0].max_connections), (2, 500));
    assert!(config.admin.is_some());
}

#[test]
fn nodes_need_no_master_name() {
    let config = flags(&[("--listen", &["0.0.0.0:6379"]), ("--node", &["a:6379", "b:6379"])]).expect("valid").config;
    assert!(matches!(&config.groups[0].source, Source::Nodes(nodes) if nodes.len() == 2));
    assert_eq!(&*config.groups[0].name, "default");
}

#[test]
fn problems_name_the_flag() {
    let whole: &[(&str, &[&str])] = &[("--listen", &["0.0.0.0:6379"]), ("--master", &["m"]), ("--sentinel", &["a:1"])];
    for (changed, expected) in [
        (("--listen", &["0.0.0.0"][..]), "--listen: \"0.0.0.0\" has no port; valid: an IP address"),
        (("--sentinel", &["a:1", "b"]), "--sentinel: \"b\" has no port; valid: HOST:PORT"),
        (("--node", &["a:6379"]), "--node: stands beside --sentinel; keep one of the two"),
        (("--datapath", &["xpd"]), "--datapath: \"xpd\" is not a choice here (did you mean \"xdp\"?); valid: "),
        (("--max-connections", &["many"]), "--max-connections: \"many\" is not a whole number; valid: "),
        (("--username", &["probe"]), "--username: stands without a password; add --password-env or --password-file"),
        (("--sentinel-tls-key-file", &["/none"]), "--sentinel-tls-key-file: stands without --sentinel-tls-cert-file"),
        (("--password-file", &["/none"]), "--password-file: cannot read \"/none\": No such file"),
        (("--password-env", &[MARK]), "--password-env: the variable that it names is not set"),
        (("--admin-listen", &["9180"]), "--admin-listen: \"9180\" has no port; valid: "),
        (("--admin-token-file", &["/none"]), "--admin-listen: is missing; valid: "),
        (("--allow", &["10.0.0.1/8"]), "--allow: \"10.0.0.1/8\" has bits of a host"),
    ] {
        let kept = whole.iter().copied().filter(|(flag, _)| *flag != changed.0);
        let errors = flags(&kept.chain([changed]).collect::<Vec<_>>()).expect_err(expected).to_string();
        assert!(errors.lines().any(|line| line.starts_with(expected)), "{expected}\n{errors}");
        assert!(!errors.contains(MARK), "{errors}");
    }
}

#[test]
fn what_is_missing_is_named_by_its_flag() {
    let errors = flags(&[]).expect_err("nothing was said").to_string();
    for expected in ["--listen: is missing; ", "--master: is missing; ", "--sentinel: is missing; give --sentinel "] {
        assert!(errors.contains(expected), "{expected}\n{errors}");
    }
}
