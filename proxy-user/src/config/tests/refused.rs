//! Every error: the place, the key, what is wrong and what would be valid.

use super::{accepted::MINIMAL, folder, parse_in};

/// Adds lines to the group (line 5 on) of the smallest configuration.
fn group(lines: &str) -> String {
    MINIMAL.replace("[[route]]", &format!("{lines}\n[[route]]"))
}

/// Adds lines to its route (line 9 on).
fn route(lines: &str) -> String {
    format!("{MINIMAL}{lines}\n")
}

/// Each text is refused with a line that starts as the first and contains the second word.
fn refused(cases: &[(String, &str, &str)]) {
    let folder = folder();
    let prefix = format!("{}/s.toml:", folder.path().display());
    for (text, start, remedy) in cases {
        let errors = parse_in(folder.path(), text).expect_err(start).to_string();
        let found = errors
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix))
            .any(|line| line.starts_with(start) && line.contains(remedy));
        assert!(found, "{text}\nexpected {start} ... {remedy}\n{errors}");
    }
}

#[test]
fn unknown_keys() {
    refused(&[
        (group("chek = { rise = 1 }"), "5:1: group[0].chek: unknown key; ", "did you mean check?"),
        (
            group("check = { intervall = \"1s\" }"),
            "5:11: group[0].check.intervall: unknown key; ",
            "did you mean interval?",
        ),
        (group("max_lag = \"1s\""), "5:1: group[0].max_lag: unknown key; ", "max_lag belongs to [[route]]"),
        (group("password = \"x\""), "5:1: group[0].password: unknown key; ", "use password_env or password_file"),
        (group("tls = { insecure = true }"), "5:9: group[0].tls.insecure: unknown key; ", "valid: ca_file, cert_file"),
        (route("park = { limits = 1 }"), "9:10: route[0].park.limits: unknown key; ", "did you mean limit?"),
        (
            route("[other]\na = 1"),
            "9:2: other: unknown key; ",
            "valid: admin, group, route, local, state_dir, orphan_grace",
        ),
        (route("\"a\\nb\" = 1"), "9:1: route[0].\"a\\nb\": unknown key; ", "valid: name, listen"),
    ]);
}

#[test]
fn missing_parts() {
    refused(&[
        (String::new(), "1:1: group: is missing; ", "add at least one [[group]]"),
        (String::new(), "1:1: route: is missing; ", "add at least one [[route]]"),
        (MINIMAL.replace("name = \"mymaster\"", ""), "2:1: group[0].name: is missing; ", "valid: a name"),
        (
            MINIMAL.replace("sentinels", "#"),
            "2:1: group[0].sentinels: is missing; ",
            "give sentinels (they say who is master) or nodes",
        ),
        (MINIMAL.replace("listen", "#"), "5:1: route[0].listen: is missing; ", "\"0.0.0.0:6379\""),
        (MINIMAL.replace("group = ", "#"), "5:1: route[0].group: is missing; ", "valid: \"mymaster\""),
        (group("[admin]"), "5:1: admin.listen: is missing; ", "valid: \"127.0.0.1:9180\""),
    ]);
}

#[test]
fn wrong_types() {
    refused(&[
        (
            MINIMAL.replace("[[group]]", "[group]"),
            "2:2: group: is a table, not a list of tables; ",
            "[[group]] with two pairs",
        ),
        ("group = 1".into(), "1:1: group: is a whole number, not a list of tables; ", "[[group]]"),
        (
            "group = [1]\nroute = []".into(),
            "1:10: group[0]: is a whole number, not a table; ",
            "with the keys name, sentinels",
        ),
        ("group = []".into(), "1:1: group: is an empty list; ", "add at least one"),
        (group("check = \"1s\""), "5:9: group[0].check: is a string, not a table; ", "with the keys interval"),
        (group("tls = true"), "5:7: group[0].tls: is true or false, not a table; ", "ca_file"),
        (group("sentinel_tls = \"of\""), "5:16: group[0].sentinel_tls: is neither; ", "\"off\" or a table"),
        (group("username = 1"), "5:12: group[0].username: is a whole number, not a string; ", "in quotes"),
        (group("username = \"\""), "5:12: group[0].username: is empty; ", "leave the key out"),
        (
            MINIMAL.replace("[\"10.0.0.10:26379\"]", "\"10.0.0.10:26379\""),
            "4:1: group[0].sentinels: is a string, not a list; ",
            "valid: a list",
        ),
        (
            MINIMAL.replace("[\"10.0.0.10:26379\"]", "[]"),
            "4:1: group[0].sentinels: is an empty list; ",
            "valid: a list",
        ),
        (
            MINIMAL.replace("[\"10.0.0.10:26379\"]", "[26379]"),
            "4:14: group[0].sentinels[0]: is a whole number, not a string; ",
            "quotes",
        ),
        (
            route("max_connections = 1.5"),
            "9:19: route[0].max_connections: is a number with a fraction",
            "from 1 to 1000000",
        ),
        (route("connect_timeout = 4"), "9:19: route[0].connect_timeout: 4 is a number, not a string", "in quotes"),
        (route("allow = 1979-05-27"), "9:1: route[0].allow: is a date, not a list; ", "leave it out to allow everyone"),
        (route("allow = []"), "9:1: route[0].allow: is an empty list; ", "leave it out to allow everyone"),
        (route("[local]\nbypass = true"), "10:10: local.bypass: is true or false, not a string; ", "quotes"),
        (route("[local]\nbypass_except = []"), "10:1: local.bypass_except: is an empty list; ", "leave it out"),
        (
            route("[local]\nbypass_except = \"/usr/sbin/haproxy\""),
            "10:17: local.bypass_except: \"/usr/sbin/haproxy\" is no program's name; ",
            "/proc/PID/comm",
        ),
    ]);
}

#[test]
fn impossible_values() {
    refused(&[
        (
            group("check = { interval = \"1ms\" }"),
            "5:22: group[0].check.interval: \"1ms\" is out of range; ",
            "\"10ms\" to \"1h\"",
        ),
        (
            group("check = { interval = \"soon\" }"),
            "5:22: group[0].check.interval: \"soon\" is not a duration",
            "\"10ms\" to \"1h\"",
        ),
        (group("check = { fall = 0 }"), "5:18: group[0].check.fall: 0 is out of range; ", "from 1 to 1000"),
        (group("check = { rise = -1 }"), "5:18: group[0].check.rise: -1 is out of range; ", "from 1 to 1000"),
        (
            group("check = { interval = \"1s\", fast_interval = \"2s\" }"),
            "5:28: group[0].check.fast_interval: is longer than interval; ",
            "at most as long",
        ),
        (
            group("commit = \"late\""),
            "5:10: group[0].commit: \"late\" is not a choice here; ",
            "\"majority\", \"early\"",
        ),
        (
            group("quorum_grace = \"1day\""),
            "5:16: group[0].quorum_grace: \"1day\" is out of range; ",
            "or \"0s\" for no grace",
        ),
        (
            MINIMAL.replace("10.0.0.10:26379", "10.0.0.300:26379"),
            "4:14: group[0].sentinels[0]: ",
            "is not an IPv4 address; valid: HOST:PORT",
        ),
        (
            MINIMAL.replace("\"mymaster\"\nsent", "\"my master\"\nsent"),
            "3:8: group[0].name: \"my master\" is not a name; ",
            "letters, digits",
        ),
        (
            MINIMAL.replace("0.0.0.0:6379", "0.0.0.0:99999"),
            "7:10: route[0].listen: ",
            "has no port from 1 to 65535; valid: ",
        ),
        (
            MINIMAL.replace("group = \"mymaster\"", "group = \"mymastr\""),
            "8:9: route[0].group: there is no group \"mymastr\" (did you mean \"mymaster\"?)",
            "valid: \"mymaster\"",
        ),
        (
            route("target = \"slave\""),
            "9:10: route[0].target: \"slave\" is not a choice here; ",
            "\"master\", \"replica\"",
        ),
        (
            route("datapath = \"ebpf\""),
            "9:12: route[0].datapath: \"ebpf\" is not a choice here; ",
            "\"sockmap\", \"copy\"",
        ),
        (route("target = \"replica\"\nmax_lag = \"10\""), "10:11: route[0].max_lag: \"10\" is neither", "\"1mb\""),
        (
            route("allow = [\"10.0.0.0/33\"]"),
            "9:10: route[0].allow[0]: \"10.0.0.0/33\" is not a network",
            "\"10.0.0.0/8\"",
        ),
        (route("max_connections = 0"), "9:19: route[0].max_connections: 0 is out of range; ", "from 1 to 1000000"),
        (
            route("max_connections = 99999999999999999999999999999999999999999999"),
            "9:19: route[0].max_connections: ",
            "out of range",
        ),
        (route("reconnect_rate = -5"), "9:18: route[0].reconnect_rate: -5 is out of range; ", "from 0 to"),
        (route("snat = [\"10.0.0.9\", \"x\"]"), "9:21: route[0].snat[1]: \"x\" is not an IP address; ", "\"10.0.0.9\""),
        (
            route("snat = \"0.0.0.0\""),
            "9:8: route[0].snat: \"0.0.0.0\" is no address that a node can answer to",
            "of this host",
        ),
        (
            route("idle_timeout = \"1ms\""),
            "9:16: route[0].idle_timeout: \"1ms\" is out of range; ",
            "or \"0s\" for never",
        ),
        (
            route("[local]\nsteering = \"maybe\""),
            "10:12: local.steering: \"maybe\" is not a choice here; ",
            "\"auto\", \"on\", \"off\"",
        ),
        (route("[local]\nnamespaces = \"any\""), "10:14: local.namespaces: ", "valid: \"own\", \"all\""),
        (
            route("[local]\ncgroup = \"/none\""),
            "10:10: local.cgroup: \"/none\" is not a folder; ",
            "cgroup2 is mounted",
        ),
        (route("[admin]\nlisten = \"unix:\""), "10:10: admin.listen: has no path", "unix:/run/switchmaster.sock"),
    ]);
}

#[test]
fn combinations_that_cannot_be() {
    refused(&[
        (group("nodes = [\"a:1\"]"), "5:1: group[0].nodes: stands beside sentinels; ", "keep one"),
        (group("require_backlog = true"), "5:1: group[0].require_backlog: cannot be used with Sentinels; ", "nodes"),
        (
            group("sentinel_username = \"probe\""),
            "5:1: group[0].sentinel_username: stands without a password; ",
            "add sentinel_password_env or sentinel_password_file",
        ),
    ]);
}

#[test]
fn secrets_and_files() {
    refused(&[
        (
            group("password_env = \"REDIS_PASSWORD\"\npassword_file = \"node.password\""),
            "6:1: group[0].password_file: stands beside password_env; ",
            "keep one",
        ),
        (
            group("password_env = \"NOT_SET\""),
            "5:16: group[0].password_env: NOT_SET is not set in the environment; ",
            "the name of a variable",
        ),
        (group("password_env = \"EMPTY\""), "5:16: group[0].password_env: EMPTY is empty; ", "the name of a variable"),
        (group("password_file = \"none\""), "5:17: group[0].password_file: cannot read ", "No such file"),
        (group("password_file = \".\""), "5:17: group[0].password_file: ", "is not a regular file"),
        (group("password_file = \"/dev/zero\""), "5:17: group[0].password_file: ", "is not a regular file"),
        (
            group("password_file = \"empty.password\""),
            "5:17: group[0].password_file: the file is empty; ",
            "nothing but the secret",
        ),
        (
            group("password_file = \"binary\""),
            "5:17: group[0].password_file: the file is not UTF-8; ",
            "nothing but the secret",
        ),
        (
            group("tls = { ca_file = \"none.pem\" }"),
            "5:9: group[0].tls.ca_file: cannot read ",
            "starts at the configuration's folder",
        ),
        (
            group("tls = { ca_file = \"k.pem\" }"),
            "5:9: group[0].tls.ca_file: ",
            "holds no certificate; valid: a PEM file",
        ),
        (
            group("tls = { cert_file = \"c.pem\" }"),
            "5:9: group[0].tls.cert_file: stands without key_file; ",
            "give both",
        ),
        (
            group("tls = { key_file = \"k.pem\" }"),
            "5:9: group[0].tls.key_file: stands without cert_file; ",
            "give both",
        ),
        (
            group("tls = { cert_file = \"c.pem\", key_file = \"c.pem\" }"),
            "5:30: group[0].tls.key_file: ",
            "holds no private key",
        ),
        (
            group("tls = { server_name = \"a b\" }"),
            "5:23: group[0].tls.server_name: \"a b\" is not a name",
            "redis.internal",
        ),
        (
            route("[admin]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"two-words\""),
            "11:1: admin.token_file: ",
            "one line of printable ASCII",
        ),
    ]);
}

#[test]
fn things_that_are_there_twice() {
    let second = |listen: &str| route(&format!("[[route]]\nname = \"b\"\ngroup = \"mymaster\"\nlisten = {listen}"));
    refused(&[
        (
            second("\"0.0.0.0:6379\""),
            "12:10: route[1].listen: \"0.0.0.0:6379\" is listened on already (route[0].listen); ",
            "another port",
        ),
        (
            second("[\"10.0.0.1:6379\"]"),
            "12:11: route[1].listen[0]: \"10.0.0.1:6379\" meets \"0.0.0.0:6379\" (route[0].listen)",
            "another port",
        ),
        (
            second("[\"[::]:1\", \"[::1]:1\"]"),
            "12:21: route[1].listen[1]: \"[::1]:1\" meets \"[::]:1\" (route[1].listen[0])",
            "another port",
        ),
        (
            route("[admin]\nlisten = \"127.0.0.1:6379\""),
            "10:10: admin.listen: \"127.0.0.1:6379\" meets",
            "another port",
        ),
        (
            second("\"0.0.0.0:1\"").replace("\"b\"", "\"writes\""),
            "10:8: route[1].name: a route is called \"writes\" already (route[0].name); ",
            "another name",
        ),
        (
            group("[[group]]\nname = \"mymaster\"\nnodes = [\"a:1\"]"),
            "6:8: group[1].name: a group is called \"mymaster\" already (group[0].name); ",
            "another name",
        ),
        (
            MINIMAL.replace("[\"10.0.0.10:26379\"]", "[\"a:1\", \"A:1\"]"),
            "4:21: group[0].sentinels[1]: \"a:1\" is in the list twice; ",
            "once",
        ),
        (route("listen = \"0.0.0.0:1\""), "9:1: \"listen\" is written twice; ", "write it once"),
        (
            MINIMAL.replace("10.0.0.10:26379", "127.0.0.1:6379"),
            "4:14: group[0].sentinels[0]: \"127.0.0.1:6379\" is where this daemon itself listens (route[0].listen); ",
            "another port",
        ),
        (MINIMAL.replace("10.0.0.10:26379", "localhost:6379"), "4:14: group[0].sentinels[0]: ", "itself listens"),
    ]);
}

#[test]
fn what_is_no_toml() {
    refused(&[
        ("[[group]\n".into(), "1:", "not TOML: "),
        ("a = \n[[x\nb = \"c".into(), "2:4: ", "not TOML: "),
        (format!("{}a = 1", "a.".repeat(100_000)), "1:", "a key with too many dots"),
    ]);
}

#[test]
fn all_errors_of_a_file_come_at_once_and_in_its_order() {
    let folder = folder();
    let text = "
[[group]]
name = \"a b\"
nodes = [\"x\", \"y:1\", \"z\"]
commit = \"early\"
username = \"u\"
check = { fall = 0, rsie = 1 }
[[route]]
listen = [\"0.0.0.0\", \"0.0.0.0:1\"]
group = \"c\"
balance = 3
[local]
bypass = 1
";
    let errors = parse_in(folder.path(), text).expect_err("all wrong");
    let keys: Vec<&str> = errors.problems().iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "group[0].name",
            "group[0].nodes[0]",
            "group[0].nodes[2]",
            "group[0].username",
            "group[0].check.fall",
            "group[0].check.rsie",
            "route[0].name",
            "route[0].listen[0]",
            "route[0].balance",
            "local.bypass",
        ],
        "{errors}"
    );
    assert_eq!(errors.to_string().lines().count(), keys.len());
}
