//! Privileges that are missing: a named datapath says which, and ends with 77; `auto` falls back to copy
//! and works. bpffs that is not mounted is mounted by who may, and asked for by who may not.

use anyhow::{Result, ensure};
use switchmaster_tests::{
    Daemon, Lab, Spec,
    lab::{Setup, check},
    wait,
};

use crate::{FOLLOW, follows};

/// Root, without what BPF needs.
const NO_BPF: &[&str] = &["setpriv", "--bounding-set=-bpf,-sys_admin,-net_admin,-perfmon", "--inh-caps=-all"];
/// Nobody: what a container without privileges is.
const NOBODY: &[&str] =
    &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"];
/// Root in a mount namespace where /sys/fs/bpf is an empty folder.
const NO_BPFFS: &[&str] =
    &["sh", "-c", "while mountpoint -q /sys/fs/bpf; do umount -l /sys/fs/bpf; done; exec \"$@\"", "sh"];
/// The same, and it may not mount.
const NO_BPFFS_NO_MOUNT: &[&str] = &[
    "sh",
    "-c",
    "while mountpoint -q /sys/fs/bpf; do umount -l /sys/fs/bpf; done; \
     exec setpriv --bounding-set=-sys_admin --inh-caps=-all \"$@\"",
    "sh",
];

fn launched_by(launcher: &'static [&'static str]) -> impl Fn(Setup) -> Setup {
    move |mut setup| {
        setup.launcher = launcher.to_vec();
        setup
    }
}

/// How a daemon that must not start ends: its exit code and its log.
fn ends(lab: &Lab, launcher: &'static [&'static str]) -> Result<(Option<i32>, String)> {
    let mut setup = Lab::setup(&lab.world, &lab.cluster, "sockmap")?;
    setup.launcher = launcher.to_vec();
    let mut daemon = Daemon::launch(&lab.world, &setup.config())?;
    let status = daemon.wait(FOLLOW)?;
    Ok((status.code(), daemon.log()))
}

fn says(log: &str, words: &[&str]) -> Result<()> {
    ensure!(words.iter().all(|word| log.contains(word)), "it does not say all of {words:?}: {log}");
    Ok(())
}

#[test]
fn a_named_datapath_that_may_not_be_is_refused_with_77() {
    check(Lab::start(Spec::bare(1), "copy", launched_by(NOBODY)), |lab| {
        lab.writes()?.ping()?;
        lab.daemon.stop(FOLLOW)?;
        for launcher in [NO_BPF, NOBODY] {
            let (code, log) = ends(lab, launcher)?;
            ensure!(code == Some(77), "{launcher:?}: it ended with {code:?}: {log}");
            says(&log, &["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "datapath = \"copy\""])?;
        }
        Ok(())
    });
}

#[test]
fn auto_falls_back_and_works() {
    for launcher in [NO_BPF, NOBODY] {
        check(Lab::start(Spec::bare(1), "auto", launched_by(launcher)), |lab| {
            let status = lab.daemon.status()?;
            let route = status.route("writes")?;
            ensure!(route.datapath == "copy", "{route:?}");
            ensure!(
                route.datapath_reason.as_deref().is_some_and(|reason| reason.contains("sockmap cannot work here")),
                "{route:?}"
            );
            lab.cluster.kill_master()?;
            lab.cluster.nodes[1].replicate(None)?;
            follows(lab, 1)
        });
    }
}

#[test]
fn bpffs_is_mounted_by_who_may() {
    check(Lab::start(Spec::bare(1), "sockmap", launched_by(NO_BPFFS)), |lab| {
        lab.writes()?.ping()?;
        lab.daemon.stop(FOLLOW)?;
        let (code, log) = ends(lab, NO_BPFFS_NO_MOUNT)?;
        ensure!(code == Some(77), "it ended with {code:?}: {log}");
        says(&log, &["mount -t bpf bpf /sys/fs/bpf", "CAP_SYS_ADMIN", "datapath = \"copy\""])
    });
}

#[test]
fn auto_works_without_a_bpffs() {
    check(Lab::start(Spec::bare(1), "auto", launched_by(NO_BPFFS_NO_MOUNT)), |lab| {
        ensure!(lab.daemon.status()?.route("writes")?.datapath == "copy", "{}", lab.daemon.log());
        wait::until(FOLLOW, "the log to say how to mount it", || {
            says(&lab.daemon.log(), &["mount -t bpf bpf /sys/fs/bpf"])
        })?;
        lab.writes()?.ping()
    });
}
