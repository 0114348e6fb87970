//! What operators get wrong, on real servers: the daemon says what and where, keeps the route closed
//! for it and for nothing else, and goes on once it is right.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{
    Client, Daemon, Lab, Spec,
    daemon::{Config, Group, Route, quoted},
    lab::check,
    redis::Passwords,
    wait,
};

use crate::FOLLOW;

/// A second daemon in the lab's world, with a group of its own making.
fn second(lab: &Lab, name: &str, adjust: impl FnOnce(Group) -> Group) -> Result<Daemon> {
    let proxy = lab.world.proxy()?;
    let route = Route::new("second", name, "master", "copy", &[proxy.address(7379)]).park(10, Duration::from_secs(1));
    let config = Config::named("second", 9181).group(adjust(Group::new(name))).route(route);
    let config = config.argument("--pin-dir").argument("/sys/fs/bpf/second");
    let daemon = Daemon::launch(&lab.world, &config)?;
    wait::until(FOLLOW, "the second daemon to live", || daemon.get("/healthz").map(|_| ()))
        .with_context(|| daemon.log())?;
    Ok(daemon)
}

/// Waits until the daemon says why it cannot ask somebody, and what to do; nothing is let through meanwhile.
fn refuses(lab: &Lab, daemon: &Daemon, name: &str, failure: &str, remedy: &str) -> Result<()> {
    wait::until(FOLLOW, format_args!("the failure {failure}"), || {
        let status = daemon.status()?;
        let group = status.group(name)?;
        let all: Vec<_> = group.sentinels.iter().chain(&group.nodes).collect();
        ensure!(all.iter().any(|one| one["failure"] == failure && !one["error"].is_null()), "the status says {all:?}");
        ensure!(group.way == "closed" && group.master.is_none(), "it is {} with {:?}", group.way, group.master);
        let log = daemon.log();
        ensure!(log.contains(remedy), "the log does not say {remedy:?}: {log}");
        Ok(())
    })?;
    ensure!(daemon.get("/readyz")?.code == 503, "it says that it is ready");
    let mut client = Client::connect(lab.client()?, lab.world.proxy()?.address(7379))?;
    client.send(&redis::cmd("PING"))?;
    let answer = format!("{:?}", client.receive()?);
    ensure!(answer.contains("MASTERDOWN") || answer.contains("MasterDown"), "a client was answered {answer}");
    Ok(())
}

fn list(addresses: &[String]) -> String {
    format!("[{}]", addresses.iter().map(quoted).collect::<Vec<_>>().join(", "))
}

#[test]
fn an_address_in_use_is_named_with_its_holder() {
    check(Lab::start(Spec::bare(1), "copy", |setup| setup), |lab| {
        let proxy = lab.world.proxy()?;
        let _taken = proxy.enter(|| TcpListener::bind(proxy.address(7379)))??;
        let route = Route::new("second", "mymaster", "master", "copy", &[proxy.address(7379)]);
        let config = Config::named("second", 9181).group(Group::of(&lab.cluster)).route(route);
        let mut daemon = Daemon::launch(&lab.world, &config.argument("--pin-dir").argument("/sys/fs/bpf/second"))?;
        let (status, log) = (daemon.wait(FOLLOW)?, daemon.log());
        ensure!(status.code() == Some(1), "it ended with {status}: {log}");
        let words = [&proxy.address(7379).to_string(), "in use", "choose another address"];
        ensure!(words.iter().all(|word| log.contains(*word)), "{log}");
        ensure!(!lab.world.bpffs().join("second").exists(), "its pins are left");
        Ok(())
    });
}

#[test]
fn a_redis_server_is_no_sentinel() {
    check(Lab::start(Spec::bare(1), "copy", |setup| setup), |lab| {
        let node = lab.cluster.nodes[0].address.to_string();
        let daemon = second(lab, "mymaster", |group| group.set("sentinels", list(&[node])))?;
        refuses(lab, &daemon, "mymaster", "protocol", "check that the address is a Sentinel's")?;
        ensure!(daemon.log().contains("this is no Sentinel"), "{}", daemon.log());
        Ok(())
    });
}

#[test]
fn sentinels_that_know_another_name() {
    check(Lab::start(Spec::default(), "copy", |setup| setup), |lab| {
        let sentinels: Vec<String> = lab.cluster.sentinels.iter().map(|one| one.address.to_string()).collect();
        let daemon = second(lab, "othermaster", |group| group.set("sentinels", list(&sentinels)))?;
        refuses(lab, &daemon, "othermaster", "unknown-group", "sentinel monitor")
    });
}

#[test]
fn wrong_passwords_and_users_without_rights() {
    let passwords = Passwords {
        node: "of-the-data".to_owned(),
        sentinel: "of-the-sentinels".to_owned(),
        probe: ("probe".to_owned(), "of-the-probe".to_owned()),
    };
    // A user that may log in and no more.
    let mute = "user mute on >of-the-mute -@all +auth".to_owned();
    let spec = Spec { passwords: Some(passwords.clone()), node_lines: vec![mute], ..Spec::default() };
    check(Lab::start(spec, "copy", |setup| setup), |lab| {
        let password = |key: &str, word: &str| -> Result<String> {
            let file = lab.world.directory().join(key);
            std::fs::write(&file, word).context("password file")?;
            Ok(quoted(file.display()))
        };
        let sentinels: Vec<String> = lab.cluster.sentinels.iter().map(|one| one.address.to_string()).collect();
        let right = (password("sentinel", &passwords.sentinel)?, password("probe", &passwords.probe.1)?);
        let (wrong, mute) = (password("wrong", "xyzzy-wrong")?, password("mute", "of-the-mute")?);
        for sentinel in &lab.cluster.sentinels {
            let mut user = redis::cmd("ACL");
            user.arg("SETUSER").arg(&["mute", "on", ">of-the-mute", "-@all", "+auth"]);
            sentinel.client()?.call::<String>(&user)?;
        }
        let cases = [
            (None, &wrong, "probe", &right.1, "check sentinel_username and sentinel_password"),
            (Some("mute"), &mute, "probe", &right.1, "the user needs +sentinel"),
            (None, &right.0, "probe", &wrong, "check username and password"),
        ];
        let start = |sentinel_user: Option<&str>, sentinel: &str, user: &str, node: &str| {
            second(lab, "mymaster", |group| {
                let group = group.set("sentinels", list(&sentinels)).set("sentinel_password_file", sentinel);
                let group = group.set("username", quoted(user)).set("password_file", node);
                sentinel_user.map_or(group.clone(), |user| group.set("sentinel_username", quoted(user)))
            })
        };
        for (sentinel_user, sentinel, user, node, remedy) in cases {
            let daemon = start(sentinel_user, sentinel, user, node)?;
            refuses(lab, &daemon, "mymaster", "denied", remedy).context(remedy)?;
            let said = daemon.log() + &daemon.get("/api/v1/status")?.body;
            ensure!(!said.contains("xyzzy") && !said.contains("of-the-mute"), "a secret is told: {said}");
        }
        // No ACL can forbid HELLO, and its reply has the role: on a node any login will do.
        let daemon = start(None, &right.0, "mute", &mute)?;
        daemon.wait_master("mymaster", lab.cluster.nodes[0].address, FOLLOW)
    });
}

/// A name that nobody knows counts as one Sentinel that is silent, and stands in nobody's way.
#[test]
fn names_that_do_not_resolve() {
    check(Lab::start(Spec::default(), "copy", |setup| setup), |lab| {
        let real = |index: usize| lab.cluster.sentinels[index].address.to_string();
        let nowhere = "sentinel.invalid:26379".to_owned();
        let daemon =
            second(lab, "mymaster", |group| group.set("sentinels", list(&[nowhere.clone(), real(0), real(1)])))?;
        daemon.wait_master("mymaster", lab.cluster.nodes[0].address, FOLLOW)?;
        let log = daemon.log();
        ensure!(log.contains("does not resolve") && log.contains("sentinel.invalid"), "{log}");
        drop(daemon);
        let daemon = second(lab, "mymaster", |group| group.set("sentinels", list(&[nowhere])))?;
        wait::until(FOLLOW, "the log to say so", || {
            ensure!(daemon.log().contains("does not resolve"), "{}", daemon.log());
            Ok(())
        })?;
        let status = daemon.status()?;
        let group = status.group("mymaster")?;
        ensure!(group.way == "closed" && group.master.is_none(), "{group:?}");
        Ok(())
    });
}

/// Sixty-four files in all: what does not fit waits, is not spun on, and the daemon keeps its view of the master.
#[test]
fn a_full_table_of_files() {
    for datapath in ["copy", "sockmap"] {
        let launcher = ["sh", "-c", "ulimit -n 64 && exec \"$@\"", "sh"];
        let adjust = |mut setup: switchmaster_tests::lab::Setup| {
            setup.launcher = launcher.to_vec();
            setup
        };
        check(Lab::start(Spec::default(), datapath, adjust), |lab| {
            ensure!(lab.daemon.log().contains("limit of open files"), "it does not warn: {}", lab.daemon.log());
            let mut held = lab.writes()?;
            held.ping()?;
            let (namespace, to) = (lab.client()?, lab.writes_address()?);
            let crowd = namespace.enter(|| {
                (0..200).map(|_| std::net::TcpStream::connect(to).context("connect")).collect::<Result<Vec<_>>>()
            })??;
            let pid = lab.daemon.process().pid();
            wait::pause(Duration::from_millis(500));
            let (start, before) = (Instant::now(), cpu_ticks(pid)?);
            wait::throughout(Duration::from_secs(2), "service to those who are in", || held.ping())?;
            let (busy, elapsed) = (cpu_ticks(pid)? - before, start.elapsed().as_millis() as u64 / 10);
            ensure!(busy * 5 < elapsed, "{busy} of {elapsed} ticks were spent with a full table");
            let told = lab.daemon.log().matches("cannot accept connections").count();
            ensure!(told <= 2, "{told} lines of log");
            drop(crowd);
            wait::until(FOLLOW * 2, "new connections to be served again", || lab.writes()?.ping())?;
            held.ping()?;
            lab.daemon.wait_master(lab.group_name(), lab.cluster.nodes[0].address, FOLLOW)?;
            ensure!(lab.daemon.status()?.route("writes")?.switches == 0, "it switched");
            Ok(())
        });
    }
}

/// User and system time, in hundredths of a second.
fn cpu_ticks(pid: impl std::fmt::Display) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}
