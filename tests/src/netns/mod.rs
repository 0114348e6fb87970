//! A world of its own for a test: namespaces joined by veth pairs, `proxy` in the middle routing
//! between all others, IPv4 and IPv6, a hosts file and a bpffs that only this world's processes see.
//! Addresses repeat from world to world; names do not. Needs root and iproute2.

mod cut;
mod namespace;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MsFlags, mount};

pub use self::namespace::Namespace;
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
        ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root: run this with sudo");
        let name = sweep::register()?;
        let directory = sweep::directory(&name);
        // From here on dropping the world removes what was made so far.
        let mut world = Self { name, directory, namespaces: BTreeMap::new() };
        world.make_directory()?;
        world.make_namespaces(spokes)?;
        world.write_hosts()?;
        world.make_links(spokes)?;
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
    fn make_namespaces(&mut self, spokes: &[&str]) -> Result<()> {
        let hub = (1u8..).zip(spokes).flat_map(|(subnet, _)| addresses(subnet, 1)).collect();
        let each = (1u8..).zip(spokes).map(|(subnet, spoke)| (*spoke, addresses(subnet, 2).to_vec()));
        let parts: Vec<(&str, Vec<IpAddr>)> = std::iter::once((HUB, hub)).chain(each).collect();
        let lines: String = parts.iter().map(|(part, _)| format!("netns add {}\n", self.full_name(part))).collect();
        ip_batch(&[], &lines)?;
        for (part, addresses) in parts {
            let namespace = Namespace::open(&self.full_name(part), part, addresses, &self.directory)?;
            namespace.enter(|| configure(part == HUB))??;
            self.namespaces.insert(part.to_owned(), namespace);
        }
        Ok(())
    }

    fn make_links(&self, spokes: &[&str]) -> Result<()> {
        let hub_name = self.full_name(HUB);
        let (mut host, mut hub) = (String::new(), String::from("link set dev lo up\n"));
        let mut insides = Vec::new();
        for (subnet, spoke) in (1u8..).zip(spokes) {
            let (link, spoke) = (format!("link{subnet}"), self.full_name(spoke));
            let (near, far) = (addresses(subnet, 1), addresses(subnet, 2));
            writeln!(host, "link add name {link} netns {hub_name} type veth peer name eth0 netns {spoke}")?;
            hub += &interface(&link, &near);
            let routes = format!("route add default via {}\nroute add default via {}\n", near[0], near[1]);
            insides.push((spoke, format!("link set dev lo up\n{}{routes}", interface("eth0", &far))));
        }
        ip_batch(&[], &host)?;
        ip_batch(&["-n", &hub_name], &hub)?;
        for (spoke, inside) in &insides {
            ip_batch(&["-n", spoke], inside)?;
        }
        Ok(())
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

    pub fn ns(&self, name: &str) -> Result<&Namespace> {
        self.namespaces.get(name).with_context(|| format!("this world has no namespace {name}"))
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

/// The IPv4 and IPv6 address of one end of a link.
fn addresses(subnet: u8, host: u8) -> [IpAddr; 2] {
    [
        Ipv4Addr::new(10, 77, subnet, host).into(),
        Ipv6Addr::new(0xfd77, subnet.into(), 0, 0, 0, 0, 0, host.into()).into(),
    ]
}

fn interface(link: &str, [v4, v6]: &[IpAddr; 2]) -> String {
    format!("addr add {v4}/24 dev {link}\naddr add {v6}/64 dev {link} nodad\nlink set dev {link} up\n")
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
