//! The daemon as it is released: building it, where it lies then, and what it is told to do.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{
    Cluster,
    daemon::{Config, Group, Route},
};

use crate::{cargo, workspace};

/// The program to look at: the one that somebody named, whatever the sources are, or one built from them.
pub(crate) fn chosen() -> Result<PathBuf> {
    std::env::var_os("SWITCHMASTER_BIN").map_or_else(build, |program| Ok(PathBuf::from(program)))
}

/// The daemon in front of a cluster with one route, `writes`, with pins of its own.
pub(crate) fn in_front(cluster: &Cluster, program: &Path, datapath: &str, listen: SocketAddr) -> Config {
    seen_as(&[], cluster, program, datapath, listen)
}

/// With own addresses to list, as those that nodes see.
pub(crate) fn seen_as(
    snat: &[IpAddr],
    cluster: &Cluster,
    program: &Path,
    datapath: &str,
    listen: SocketAddr,
) -> Config {
    let name = format!("switchmaster-{datapath}");
    let mut route = Route::new("writes", &cluster.spec.name, "master", datapath, &[listen]);
    if !snat.is_empty() {
        route = route.set("snat", format_args!("{:?}", snat.iter().map(IpAddr::to_string).collect::<Vec<_>>()));
    }
    Config::named(&name, 9180 + listen.port() % 1000)
        .program(program.to_owned())
        .argument("--pin-dir")
        .argument(format!("/sys/fs/bpf/{name}"))
        .group(Group::of(cluster).set("check", r#"{ interval = "200ms" }"#))
        .route(route)
}

pub(crate) fn build() -> Result<PathBuf> {
    println!("\n=== the daemon, as it is released");
    let build = ["build", "--release", "--locked", "--package", "switchmaster"];
    let status = cargo().args(build).status().context("cargo build")?;
    ensure!(status.success(), "the daemon does not build ({status})");
    Ok(program())
}

pub(crate) fn program() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("release/switchmaster")
}
