//! IPv6, names, passwords, certificates: the daemon follows a failover through all of them.

use anyhow::{Result, ensure};
use switchmaster_tests::{
    Client, Lab, Spec,
    lab::{WRITES, check},
    redis::{Passwords, SERVER_NAME},
    tests_of,
};

use crate::{FAILOVER, FOLLOW, follows, on_each_way};

on_each_way!(ipv6, names, passwords);
// redis-cli waits inside of its calls, which the bypass leaves to TCP.
tests_of!(tls: copy sockmap tc xdp steered);

fn ipv6(datapath: &str) {
    check(Lab::start(Spec { ipv6: true, ..Spec::default() }, datapath, |setup| setup), |lab| {
        let listener = lab.world.proxy()?.address6(WRITES);
        Client::connect(lab.client()?, listener)?.set("x", "6")?;
        let old = lab.cluster.kill_master()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        follows(lab, new)?;
        let mut client = Client::connect(lab.client()?, listener)?;
        ensure!(client.role()? == "master", "no master over IPv6");
        lab.led(1)
    });
}

fn names(datapath: &str) {
    check(Lab::start(Spec { hostnames: true, ..Spec::default() }, datapath, |setup| setup), |lab| {
        let old = lab.cluster.kill_master()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        follows(lab, new)
    });
}

/// The daemon is an ACL user that may do nothing but `+@connection`; data clients have their own password.
fn passwords(datapath: &str) {
    let passwords = Passwords {
        node: "of-the-data".to_owned(),
        sentinel: "of-the-sentinels".to_owned(),
        probe: ("probe".to_owned(), "of-the-probe".to_owned()),
    };
    let secrets = [passwords.node.clone(), passwords.sentinel.clone(), passwords.probe.1.clone()];
    let spec = Spec { passwords: Some(passwords), ..Spec::default() };
    check(Lab::start(spec, datapath, |setup| setup), |lab| {
        let enter = |lab: &Lab| -> Result<Client> {
            let mut client = lab.writes()?;
            client.auth(None, &secrets[0])?;
            Ok(client)
        };
        enter(lab)?.set("x", "y")?;
        let old = lab.cluster.kill_master()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        lab.daemon.wait_master(lab.group_name(), lab.cluster.nodes[new].address, FOLLOW)?;
        ensure!(enter(lab)?.role()? == "master", "not on the new master");
        let seen = lab.daemon.log() + &lab.daemon.get("/api/v1/status")?.body + &lab.daemon.get("/metrics")?.body;
        ensure!(!secrets.iter().any(|secret| seen.contains(secret)), "a secret is in the log, status or metrics");
        Ok(())
    });
}

/// The probes speak TLS; the data passes through as it is, so here the client speaks it too.
fn tls(datapath: &str) {
    check(Lab::start(Spec { tls: true, ..Spec::default() }, datapath, |setup| setup), |lab| {
        tls_role(lab)?;
        let old = lab.cluster.kill_master()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        lab.daemon.wait_master(lab.group_name(), lab.cluster.nodes[new].address, FOLLOW)?;
        tls_role(lab)
    });
}

fn tls_role(lab: &Lab) -> Result<()> {
    let files = lab
        .cluster
        .tls
        .as_ref()
        .map(|tls| [&tls.ca_file, &tls.cert_file, &tls.key_file].map(|path| path.display().to_string()));
    let [ca, cert, key] = files.unwrap_or_default();
    let (host, port) = (lab.writes_address()?.ip().to_string(), WRITES.to_string());
    let arguments = ["--tls", "--sni", SERVER_NAME, "--cacert", &ca, "--cert", &cert, "--key", &key];
    let role = lab.client()?.run("redis-cli", &[&["-h", &host, "-p", &port][..], &arguments, &["ROLE"]].concat())?;
    ensure!(role.starts_with("master"), "it says {role}");
    Ok(())
}
