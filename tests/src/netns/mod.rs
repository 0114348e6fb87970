//! A world of its own for a test: namespaces joined by veth pairs, `proxy` in the middle routing
//! between all others, IPv4 and IPv6, a hosts file and a bpffs that only this world's processes see.
//! Addresses repeat from world to world; names do not. Needs root and iproute2.

mod cut;
mod namespace;
mod path;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MsFlags, mount};

use self::path::Link;
pub use self::{
    namespace::Namespace,
    path::{ETHERNET, Spoke},
};
use crate::sweep;

/// The namespace in the middle.
pub const HUB: &str = "proxy";

#[derive(Debug)]
pub struct World {
    name: String,
    directory: PathBuf,
    namespaces: BTreeMap<String, Namespace>,
}

impl World {
    /// `client` - `proxy` - `db`.
    pub fn new() -> Result<Self> {
        Self::with(&["client", "db"])
    }

    /// `proxy` in the middle, and these around it.
    pub fn with(spokes: &[&str]) -> Result<Self> {
        let spokes: Vec<Spoke<'_>> = spokes.iter().copied().map(Spoke::near).collect();
        Self::along(&spokes)
    }

    /// The same, with routers on the way.
    pub fn along(spokes: &[Spoke<'_>]) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root: run this with sudo");
        let name = sweep::register()?;
        let directory = sweep::directory(&name);
        // From here on dropping the world removes what was made so far.
        let mut world = Self { name, directory, namespaces: BTreeMap::new() };
        let links = path::links(spokes);
        world.make_directory()?;
        world.make_namespaces(&links)?;
        world.write_hosts()?;
        world.make_links(&links)?;
        Ok(world)
    }

    fn make_directory(&self) -> Result<()> {
        fs::create_dir_all(&self.directory).with_context(|| self.directory.display().to_string())?;
        let bpffs = sweep::bpffs(&self.directory);
        fs::create_dir(&bpffs).context("bpffs")?;
        if Path::new("/sys/fs/bpf").exists() {
            mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).context("cannot mount a bpffs")?;
        }
        Ok(())
    }

    /// Makes the namespaces, empty but with their kernel settings: links take these over when they are made.
    fn make_namespaces(&mut self, links: &[Link]) -> Result<()> {
        let mut parts: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::from([(HUB, Vec::new())]);
        for link in links {
            parts.entry(&link.near).or_default().extend(link.near_addresses());
            parts.entry(&link.far).or_default().extend(link.far_addresses());
        }
        let lines: String = parts.keys().map(|part| format!("netns add {}\n", self.full_name(part))).collect();
        ip_batch(&[], &lines)?;
        for (part, addresses) in parts {
            let namespace = Namespace::open(&self.full_name(part), part, addresses, &self.directory)?;
            let is_router = part == HUB || links.iter().any(|link| link.near == part);
            namespace.enter(|| configure(is_router))??;
            self.namespaces.insert(part.to_owned(), namespace);
        }
        Ok(())
    }

    fn make_links(&self, links: &[Link]) -> Result<()> {
        let (mut made, mut ends, mut routes) = (String::new(), BTreeMap::new(), BTreeMap::new());
        for part in self.namespaces.keys() {
            ends.insert(part.clone(), String::from("link set dev lo up\n"));
        }
        for link in links {
            let (near, far) = (self.full_name(&link.near), self.full_name(&link.far));
            writeln!(made, "link add name {} netns {near} type veth peer name eth0 netns {far}", link.name())?;
            link.write_ends(&mut ends)?;
            link.write_routes(&mut routes)?;
        }
        ip_batch(&[], &made)?;
        // A default route is taken only where the other end is up: from `proxy` outwards.
        let outwards = std::iter::once(HUB).chain(links.iter().map(|link| link.far.as_str()));
        for part in outwards {
            ip_batch(&["-n", &self.full_name(part)], &ends[part])?;
        }
        routes.iter().try_for_each(|(part, lines)| ip_batch(&["-n", &self.full_name(part)], lines))
    }

    fn full_name(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }

    /// Every namespace is known to all processes of the world by its name (IPv4) and `NAME6` (IPv6).
    fn write_hosts(&self) -> Result<()> {
        let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for (name, namespace) in &self.namespaces {
            writeln!(hosts, "{} {name}\n{} {name}6", namespace.ipv4(), namespace.ipv6())?;
        }
        fs::write(self.directory.join("hosts"), hosts).context("hosts")
    }

    /// Makes `name` mean `address` from now on: written in place, since processes hold a bind mount of it.
    pub fn set_host(&self, name: &str, address: IpAddr) -> Result<()> {
        let path = self.directory.join("hosts");
        let old = fs::read_to_string(&path).context("hosts")?;
        let kept = old.lines().filter(|line| line.split_whitespace().nth(1) != Some(name));
        let mut text = kept.fold(String::new(), |text, line| text + line + "\n");
        writeln!(text, "{address} {name}")?;
        fs::write(&path, text).context("hosts")
    }

    /// Every sender computes its own checksums, takes frames from XDP, and waits while the ring of its veth is full, as an
    /// operator has it where veths lead to the datapath `xdp`: the kernel would leave the sums to hardware that is not
    /// there, and throw away what the ring does not take.
    pub fn whole_packets(&self) -> Result<()> {
        let around = self.namespaces.values().filter(|namespace| namespace.name() != HUB);
        for namespace in around {
            namespace.run("ethtool", &["--offload", "eth0", "tx", "off", "gro", "on"])?;
            namespace.run("tc", &["qdisc", "replace", "dev", "eth0", "root", "pfifo"])?;
        }
        Ok(())
    }

    pub fn ns(&self, name: &str) -> Result<&Namespace> {
        self.namespaces.get(name).with_context(|| format!("this world has no namespace {name}"))
    }

    /// All of them, routers too.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    pub fn proxy(&self) -> Result<&Namespace> {
        self.ns(HUB)
    }

    pub fn client(&self) -> Result<&Namespace> {
        self.ns("client")
    }

    pub fn db(&self) -> Result<&Namespace> {
        self.ns("db")
    }

    /// The name all of this world's resources begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Files of this world; gone with it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The bpffs its processes see as /sys/fs/bpf.
    pub fn bpffs(&self) -> PathBuf {
        sweep::bpffs(&self.directory)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.namespaces.clear();
        sweep::unregister(&self.name);
    }
}

/// Kernel settings of the namespace this runs in.
fn configure(router: bool) -> Result<()> {
    let set = |name: &str, value: &str| {
        fs::write(Path::new("/proc/sys/net").join(name), value).with_context(|| name.to_owned())
    };
    // Until duplicate address detection is over a router solicits no neighbour, and drops what it should forward.
    set("ipv6/conf/all/accept_dad", "0")?;
    set("ipv6/conf/default/accept_dad", "0")?;
    if router {
        set("ipv4/ip_forward", "1")?;
        set("ipv6/conf/all/forwarding", "1")?;
        set("ipv6/conf/default/forwarding", "1")?;
    }
    Ok(())
}

fn ip_batch(options: &[&str], lines: &str) -> Result<()> {
    let mut ip = Command::new("ip")
        .args(options)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip (iproute2)")?;
    ip.stdin.take().context("stdin of ip")?.write_all(lines.as_bytes()).context("ip -batch")?;
    let output = ip.wait_with_output().context("ip -batch")?;
    if !output.status.success() {
        bail!("ip {options:?} -batch failed: {}\n{lines}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
