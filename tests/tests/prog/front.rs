//! The program at XDP, sharing the maps of tc's, and a ground for it: a network namespace of its own, without a name, with
//! one interface, a way to everywhere and neighbours that are known.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, DevMap, PerCpuArray},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};
use proxy_ebpf::{
    index,
    nat::{self, Counters, in_frame},
    xdp::{Interface, SLOTS, fate, names, slot},
};

use crate::{
    wire::OWN_MAC,
    world::{INDEX_MASK, SEED, object},
};

/// Whom everything is sent to.
pub(crate) const NEXT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const BPFFS: &str = "/sys/fs/bpf";
/// Less than a page, with what drivers keep free.
const LINEAR: usize = 3000;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

#[derive(Debug)]
pub(crate) struct Ground {
    namespace: File,
    ifindex: u32,
}

impl Ground {
    /// Of all tests that change nothing of it.
    pub(crate) fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<Option<Arc<Ground>>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.is_none() {
            *shared = Some(Self::new("")?);
        }
        shared.clone().context("just made")
    }

    /// `more`: lines for `ip`, with `out` as the interface.
    pub(crate) fn new(more: &str) -> Result<Arc<Self>> {
        let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        let (own, next) = (mac(OWN_MAC), mac(NEXT_MAC));
        let lines = format!(
            "link set lo up\nlink add out address {own} mtu 9000 type veth peer name far\nlink set out up\nlink set far up\n\
             addr add 198.18.0.1/24 dev out\naddr add fd00:18::1/64 dev out nodad\n\
             neigh add 198.18.0.2 lladdr {next} nud permanent dev out\n\
             neigh add fd00:18::2 lladdr {next} nud permanent dev out\n\
             route add default via 198.18.0.2 dev out\nroute add default via fd00:18::2 dev out\n{more}"
        );
        let make = || -> Result<Self> {
            unshare(CloneFlags::CLONE_NEWNET).context("a network namespace: this needs root")?;
            let namespace = File::open("/proc/thread-self/ns/net").context("the namespace")?;
            for family in ["ipv4", "ipv6"] {
                let path = format!("/proc/sys/net/{family}/conf/default/forwarding");
                fs::write(&path, "1").context(path)?;
            }
            ip(&lines)?;
            let ifindex = nix::net::if_::if_nametoindex("out").context("the interface")?;
            Ok(Self { namespace, ifindex })
        };
        Ok(Arc::new(on_a_thread(make)??))
    }
}

fn ip(lines: &str) -> Result<()> {
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    ip.stdin.take().context("stdin")?.write_all(lines.as_bytes())?;
    let output = ip.wait_with_output()?;
    ensure!(output.status.success(), "ip: {}\n{lines}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// One that may change what it sees of the machine, and ends at once.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join().ok().context("a thread panicked"))
}

pub(crate) struct Front {
    ground: Arc<Ground>,
    object: Ebpf,
    seen: [u64; fate::COUNT as usize],
}

impl Front {
    /// Beside `tc`, with its interface able.
    pub(crate) fn open(ground: Arc<Ground>, tc: &Ebpf) -> Result<Self> {
        let loaded = on_a_thread(|| load(&ground, tc))??;
        let mut front = Self { ground, object: loaded, seen: [0; fate::COUNT as usize] };
        front.know(OWN_MAC, true)?;
        front.able(true)?;
        Ok(front)
    }

    pub(crate) fn ifindex(&self) -> u32 {
        self.ground.ifindex
    }

    /// What is known of the interface.
    pub(crate) fn know(&mut self, mac: [u8; 6], takes_pieces: bool) -> Result<()> {
        let ifindex = self.ifindex();
        let interface = Interface { ifindex, takes_pieces: u32::from(takes_pieces), mac: in_frame(mac), _pad: 0 };
        let map = self.object.map_mut(names::INTERFACES).context("no interfaces")?;
        let mut map = Array::<_, [Interface; SLOTS as usize]>::try_from(map)?;
        let mut interfaces = map.get(&0, 0)?;
        interfaces[slot(ifindex) as usize] = interface;
        Ok(map.set(0, interfaces, 0)?)
    }

    /// Whether frames may go out by it.
    pub(crate) fn able(&mut self, able: bool) -> Result<()> {
        let (ifindex, ground) = (self.ifindex(), Arc::clone(&self.ground));
        let mut devices = DevMap::try_from(self.object.map_mut(names::DEVICES).context("no devices")?)?;
        let change = || -> Result<()> {
            setns(&ground.namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(devices.set(slot(ifindex), if able { ifindex } else { 0 }, None, 0)?)
        };
        on_a_thread(change)?
    }

    /// What became of it, and what it is now if it was sent.
    pub(crate) fn run(&mut self, packet: &[u8]) -> Result<(&'static str, Option<Vec<u8>>)> {
        let mut out = vec![0; packet.len() + 256];
        // The rest is in pieces.
        let context = xdp_context(self.ifindex(), packet.len().min(LINEAR) as u32);
        let program: &mut Xdp = self.object.program_mut(names::XDP).context("the program")?.try_into()?;
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let ground = Arc::clone(&self.ground);
        let result = ground.inside(|| program.test_run(options).context("test run of xdp"))??;
        out.truncate(result.data_size_out as usize);
        let fate = self.fate()?;
        match result.return_value {
            XDP_REDIRECT => {
                ensure!(out[..12] == [NEXT_MAC, OWN_MAC].concat(), "sent from and to {:x?}", &out[..12]);
                ensure!(fate == "sent", "sent, and counted as {fate}");
                Ok((fate, Some(out)))
            }
            XDP_PASS => {
                ensure!(out == packet, "it was touched, and passed: {fate}");
                Ok((fate, None))
            }
            verdict => bail!("verdict {verdict}, counted as {fate}"),
        }
    }

    /// The one counter that rose by one.
    fn fate(&mut self) -> Result<&'static str> {
        let map = self.object.map(nat::names::PACKETS).context("no counters")?;
        let each = PerCpuArray::<_, Counters>::try_from(map)?.get(&0, 0)?;
        let mut rose = Vec::new();
        for (index, name) in fate::NAMES.iter().enumerate() {
            let now: u64 = each.iter().map(|counters| counters.fates[index]).sum();
            if now != self.seen[index] {
                rose.push((*name, now - self.seen[index]));
                self.seen[index] = now;
            }
        }
        let [(name, 1)] = rose[..] else { bail!("counted {rose:?}") };
        Ok(name)
    }

    /// Runs on the ground.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.ground.inside(work)
    }
}

impl Ground {
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_a_thread(|| {
            setns(&self.namespace, CloneFlags::CLONE_NEWNET).context("the ground")?;
            Ok(work())
        })?
    }
}

/// Maps find into another object by their pins alone: a bpffs that only this thread sees has them meanwhile.
fn load(ground: &Ground, tc: &Ebpf) -> Result<Ebpf> {
    setns(&ground.namespace, CloneFlags::CLONE_NEWNET).context("the ground")?;
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("private mounts")?;
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none).context("a bpffs")?;
    let mut loader = EbpfLoader::new();
    let mut paths = Vec::new();
    for (name, map) in tc.maps().filter(|(name, _)| !name.starts_with('.')) {
        let path = format!("{BPFFS}/{name}");
        map.pin(&path).context(name.to_owned())?;
        paths.push((name, path));
    }
    for (name, path) in &paths {
        loader.map_pin_path(name, Path::new(path));
    }
    loader.override_global(index::names::MASK, &INDEX_MASK, true).override_global(index::names::SEED, &SEED, true);
    let mut object = loader.load(&object("xdp")?).context("load xdp")?;
    let program: &mut Xdp = object.program_mut(names::XDP).context("the program")?.try_into()?;
    program.load()?;
    Ok(object)
}

/// The kernel's `struct xdp_md` of a packet that came in there; `len`: how much of it lies in the first piece.
fn xdp_context(ifindex: u32, len: u32) -> Vec<u8> {
    [0, len, 0, ifindex].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}
