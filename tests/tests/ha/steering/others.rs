//! Clients as people have them, unmodified, and programs of others at the same cgroup.

use std::{os::fd::AsRawFd as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use io_uring::{IoUring, opcode, types::Fd};
use serde_json::Value;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use switchmaster_tests::{
    Client, Daemon, Lab,
    daemon::{self, Config, Refusal, Route, quoted},
    lab::check,
};

use super::{cgroup::Cgroup, counted, ensure_direct, lab, local_to, outcome};
use crate::{FOLLOW, clients};

#[test]
fn io_uring_is_led_too() {
    check(lab("copy"), |lab| {
        let proxy = lab.world.proxy()?;
        let socket = proxy.enter(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)))?.context("socket")?;
        let to = SockAddr::from(lab.writes_address()?);
        let mut ring = match IoUring::new(2) {
            // Hardened hosts have it off (kernel.io_uring_disabled).
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                println!("skipped: this host lets nobody use io_uring");
                return Ok(());
            }
            made => made.context("io_uring")?,
        };
        // SAFETY: an address of the kernel's layout, which outlives the call.
        let address = unsafe { to.as_ptr().cast::<libc::sockaddr>().as_ref() }.context("no address")?;
        let connect = opcode::Connect::new(Fd(socket.as_raw_fd()), address, to.len()).build();
        // SAFETY: socket and address are there until it has ended.
        unsafe { ring.submission().push(&connect) }.context("the ring is full")?;
        ring.submit_and_wait(1).context("io_uring")?;
        let result = ring.completion().next().context("no completion")?.result();
        ensure!(result == 0, "{}", std::io::Error::from_raw_os_error(-result));
        ensure_direct(&mut Client::over(socket.into(), FOLLOW)?)
    });
}

#[test]
fn clients_as_people_have_them_are_led() {
    check(lab("copy"), |lab| {
        clients::each_works(lab)?;
        ensure!(outcome(lab, "steered")? == 7, "{} of 7 connections were led", outcome(lab, "steered")?);
        counted(lab, 0)?;
        Ok(())
    });
}

/// Its verdict of steering at a cgroup, and why.
fn doctor(cgroup: &Path) -> Result<(String, String)> {
    let output = Command::new(daemon::binary()?).args(["doctor", "--json", "--cgroup"]).arg(cgroup).output()?;
    let report: Value = serde_json::from_slice(&output.stdout).context("its report")?;
    let all = report["datapaths"].as_array().context("no datapaths")?;
    let steering = all.iter().find(|it| it["name"] == "steering").context("no steering")?;
    let said = |what: &str| steering[what].as_str().unwrap_or_default().to_owned();
    Ok((said("verdict"), said("reason")))
}

/// Beside the first daemon, at a cgroup of its own.
fn second(lab: &Lab, cgroup: &Cgroup) -> Result<Config> {
    let at = lab.world.proxy()?.address(7777);
    Ok(Config::named("second", 9181)
        .group(Lab::setup(&lab.world, &lab.cluster, "copy")?.group)
        .route(Route::new("other", lab.group_name(), "master", "copy", &[at]))
        .local("steering", "\"on\"")
        .local("cgroup", quoted(cgroup.path().display()))
        .argument("--pin-dir")
        .argument("/sys/fs/bpf/second"))
}

#[test]
fn beside_a_program_of_another_it_leads_and_where_that_is_not_let_it_says_so() {
    check(lab("copy"), |lab| {
        let cgroup = Cgroup::new(&format!("{}-others", lab.world.name()))?;
        let path = cgroup.path().to_str().context("path")?.to_owned();
        // Any program that is loaded: the first daemon's, which knows nothing of the second one's sockets.
        let proxy = lab.world.proxy()?;
        let link = "/sys/fs/bpf/switchmaster/links/steer_egress";
        let shown: Value = serde_json::from_str(&proxy.run("bpftool", &["-j", "link", "show", "pinned", link])?)?;
        let shown = shown.as_array().and_then(|list| list.first()).unwrap_or(&shown);
        let program = shown["prog_id"].as_u64().context("no program")?.to_string();
        // bpftool sees the cgroup where this process does: it is told no namespace.
        let bpftool = |action: &str, flags: &[&str]| -> Result<()> {
            let words = ["cgroup", action, &path, "egress", "id", &program];
            let output = Command::new("bpftool").args(words).args(flags).output().context("bpftool")?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        };
        bpftool("attach", &[])?;
        let below = cgroup.path().join("below");
        std::fs::create_dir(&below).context("a cgroup below")?;
        let judged = [doctor(cgroup.path()), doctor(&below)];
        std::fs::remove_dir(&below).context("the cgroup below")?;
        let [here, below] = judged;
        let (here, below) = (here?, below?);
        ensure!(here.0 == "no" && here.1.contains("lets no other beside it"), "{here:?}");
        ensure!(below.0 == "no" && below.1.contains("lets no other at the cgroups below"), "{below:?}");
        let refused = Daemon::start(&lab.world, &second(lab, &cgroup)?).err().context("it has started")?;
        let why = refused.downcast_ref::<Refusal>().context("it has not said why")?.why().to_owned();
        ensure!(why.contains("steering") && why.contains("lets no other beside it"), "{why}");
        bpftool("detach", &[])?;

        bpftool("attach", &["multi"])?;
        let beside = doctor(cgroup.path())?;
        // How many there are above is for the tests beside this one to say.
        ensure!(beside.0 == "yes" && beside.1.contains("beside"), "{beside:?}");
        let daemon = Daemon::start(&lab.world, &second(lab, &cgroup)?)?;
        let to = proxy.address(7777);
        let (host, port) = (to.ip().to_string(), to.port().to_string());
        let words = ["redis-cli", "-h", &host, "-p", &port, "client", "info"];
        let said = cgroup.command(proxy, &words).output().context("redis-cli")?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let metric = "switchmaster_steering_total{outcome=\"steered\"} 1";
        ensure!(daemon.get("/metrics")?.body.contains(metric), "it was not led: {said}");
        bpftool("detach", &[])?;
        // Who is not in the cgroup is not led by the second.
        local_to(lab, to)?.ping()?;
        ensure!(daemon.get("/metrics")?.body.contains(metric), "somebody else was led");
        drop(daemon);
        Ok(())
    });
}
