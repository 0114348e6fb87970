//! Debian packages: what is missing, and installing it without any of its services being started,
//! now or at the next boot.

use std::{
    collections::HashSet,
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

/// What a package's scripts ask before they start a service: 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const FORBID: &str = "#!/bin/sh\n# Made by `cargo xtask setup` while it installs; it may be removed.\nexit 101\n";

/// Units of the packages we install for tests alone.
const UNITS: [&str; 5] = ["redis-server", "redis-sentinel", "haproxy", "nutcracker", "nginx"];

/// Those of `packages` that are not installed.
pub(crate) fn missing(packages: &[&'static str]) -> Result<Vec<&'static str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Abbrev}${Package}\n"])
        .args(packages)
        .output()
        .context("dpkg-query is not here: only Debian and Ubuntu are known to this command")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed: HashSet<&str> = text.lines().filter_map(|line| line.strip_prefix("ii ")).collect();
    Ok(packages.iter().filter(|package| !installed.contains(**package)).copied().collect())
}

pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let _no_start = NoStart::begin()?;
    apt(&["update"])?;
    let unknown = unknown(packages)?;
    if !unknown.is_empty() {
        bail!(
            "this distribution's sources have no {}; add the release's security and updates sources and run this again",
            unknown.join(", ")
        );
    }
    apt(&[&["install", "--yes", "--no-install-recommends"], packages].concat())?;
    keep_off(packages)
}

fn apt(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .arg("--quiet")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .status()
        .context("apt-get")?;
    ensure!(status.success(), "apt-get {} failed ({status})", arguments.join(" "));
    Ok(())
}

/// Asked before anything is installed, so that a missing source is one clear message.
fn unknown<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let output = Command::new("apt-cache").arg("policy").args(packages).output().context("apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let known = |package: &&&str| {
        let block = text.split_once(&format!("{package}:\n")).map_or("", |(_, rest)| rest);
        block.lines().nth(1).is_some_and(|line| line.contains("Candidate:") && !line.contains("(none)"))
    };
    Ok(packages.iter().filter(|package| !known(package)).copied().collect())
}

/// A server that was installed for tests must not come up with the machine either.
fn keep_off(packages: &[&str]) -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    let units: Vec<&str> = UNITS.into_iter().filter(|unit| packages.contains(unit)).collect();
    if units.is_empty() {
        return Ok(());
    }
    println!("setup: disabling the services that came with them: {}", units.join(" "));
    let status = Command::new("systemctl").args(["--quiet", "disable", "--now"]).args(&units).status();
    ensure!(status.context("systemctl")?.success(), "systemctl disable {} failed", units.join(" "));
    Ok(())
}

/// While it lives, packages start no service. A policy that is there already is left as it is if it
/// is the machine's, and taken over if an interrupted setup left it.
struct NoStart {
    ours: bool,
}

impl NoStart {
    fn begin() -> Result<Self> {
        if let Ok(text) = fs::read_to_string(POLICY) {
            return Ok(Self { ours: text == FORBID });
        }
        let mut file = fs::File::options().write(true).create_new(true).mode(0o755).open(POLICY).context(POLICY)?;
        file.write_all(FORBID.as_bytes()).context(POLICY)?;
        // The umask may have taken bits away.
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).context(POLICY)?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoStart {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("setup: remove {POLICY} by hand, or no service will start on this machine: {error}");
        }
    }
}
