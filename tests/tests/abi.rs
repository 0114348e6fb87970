//! The built kernel objects against the ABI: the maps and programs the daemon will look for are there,
//! by name, with keys and values of the agreed size, and nothing else is.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::RawFd,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya_obj::Object;
use proxy_ebpf::{
    Cookie, Link, Meter, Target, TargetKey,
    balance::{self, Balance, Load},
    bypass,
    index::Bucket,
    names,
    nat::{self, Address, Allowed, Egress, Endpoint, First, Flow, Globals},
    parking,
    steering::{self, Counts, Dialled, Listen, Reached, Steered},
    xdp,
};

/// Map name, key size, value size. A map of sockets or of maps is given descriptors (and cannot be read
/// back by userspace, which would take 8 bytes: aya writes 4); a ring buffer has neither key nor value.
type Map = (&'static str, usize, usize);
type Maps = &'static [Map];

const SOCKMAP: Maps = &[
    (names::TARGETS, size_of::<TargetKey>(), size_of::<Target>()),
    (names::LINKS, size_of::<Cookie>(), size_of::<Link>()),
    (names::METERS, size_of::<Cookie>(), size_of::<Meter>()),
    (names::PEERS, size_of::<Cookie>(), size_of::<RawFd>()),
    (names::SPLICED, size_of::<Cookie>(), size_of::<RawFd>()),
    (names::EVENTS, 0, 0),
    (names::COUNTERS, size_of::<u32>(), size_of::<u64>()),
];

const NAT: Maps = &[
    (names::TARGETS, size_of::<TargetKey>(), size_of::<Target>()),
    (nat::names::DOOR_OF, size_of::<Endpoint>(), size_of::<u32>()),
    (nat::names::GLOBALS, size_of::<u32>(), size_of::<Globals>()),
    (nat::names::SNAT_OF, size_of::<Address>(), size_of::<u32>()),
    (nat::names::ALLOW, size_of::<u32>() + size_of::<Allowed>(), size_of::<u32>()),
    (nat::names::EGRESS, size_of::<TargetKey>(), size_of::<Egress>()),
    (nat::names::FLOW_OF, size_of::<u32>(), size_of::<Bucket>()),
    (nat::names::GATES, size_of::<u32>(), size_of::<u64>()),
    (nat::names::FLOWS, size_of::<u32>(), size_of::<Flow>()),
    (nat::names::TAKEN, size_of::<u32>(), size_of::<u64>()),
    (nat::names::FREE, size_of::<u32>(), size_of::<RawFd>()),
    (nat::names::HALF_OPEN, size_of::<u32>(), size_of::<u64>()),
    (nat::names::OUTS, size_of::<u32>(), size_of::<nat::Out>()),
    (nat::names::FIRSTS, size_of::<u32>(), size_of::<First>()),
    (nat::names::USAGE, size_of::<u32>(), size_of::<u64>()),
    (balance::names::BALANCE, size_of::<u32>(), size_of::<Balance>()),
    (balance::names::TURN, size_of::<u32>(), size_of::<u64>()),
    (balance::names::MAGLEV, size_of::<u32>(), size_of::<RawFd>()),
    (balance::names::LOADS, size_of::<u32>(), size_of::<Load>()),
    (nat::names::PACKETS, size_of::<u32>(), size_of::<nat::Counters>()),
    (parking::names::PARKED, 0, 0),
    (parking::names::SYN_TURNS, size_of::<u32>(), size_of::<u64>()),
];

/// Beside those of tc, all of which it shares.
const XDP: Maps = &[
    (xdp::names::INTERFACES, size_of::<u32>(), xdp::SLOTS as usize * size_of::<xdp::Interface>()),
    (xdp::names::DEVICES, size_of::<u32>(), size_of::<[u32; 2]>()),
];

/// The same of steering.
const STEERING: Maps = &[
    (steering::names::DIALLED, size_of::<Dialled>(), size_of::<Listen>()),
    (steering::names::REACHED, size_of::<Reached>(), size_of::<u32>()),
    (steering::names::STEERED, size_of::<i32>(), size_of::<Steered>()),
    (steering::names::STEERS, size_of::<u32>(), size_of::<u64>()),
    (steering::names::STEERINGS, size_of::<u32>(), size_of::<Counts>()),
];

/// And of the bypass, which knows whom steering has led.
const BYPASS: Maps = &[
    (bypass::names::NODES, size_of::<Dialled>(), size_of::<u32>()),
    (bypass::names::SOCKETS, size_of::<bypass::End>(), size_of::<RawFd>()),
    (bypass::names::ENDS, size_of::<bypass::End>(), size_of::<bypass::Entered>()),
    (bypass::names::PATHS, size_of::<i32>(), size_of::<bypass::Path>()),
    (bypass::names::ORDERS, size_of::<u32>(), size_of::<bypass::Orders>()),
    (bypass::names::CLIENTS, size_of::<u32>(), size_of::<u64>()),
    (bypass::names::SUMS, size_of::<u32>(), size_of::<u64>()),
    (bypass::names::LATE, size_of::<u64>(), size_of::<bypass::Late>()),
    (bypass::names::HURRY, 0, 0),
    (bypass::names::PROGRAMS, size_of::<bypass::Program>(), size_of::<u32>()),
    (bypass::names::COUNTS, size_of::<u32>(), size_of::<bypass::Counts>()),
    (steering::names::STEERED, size_of::<i32>(), size_of::<Steered>()),
];

const STEER: [&str; 7] = [
    steering::names::CONNECT4,
    steering::names::CONNECT6,
    steering::names::EGRESS,
    steering::names::INGRESS,
    steering::names::PEER4,
    steering::names::PEER6,
    steering::names::RELEASE,
];

/// Every object of the daemon: its maps, and its programs.
const OBJECTS: [(&str, &[Maps], &[&str]); 6] = [
    ("sockmap", &[SOCKMAP], &[names::VERDICT]),
    ("tc", &[NAT], &[nat::names::TC]),
    ("xdp", &[NAT, XDP], &[xdp::names::XDP]),
    ("steering", &[NAT, STEERING], &STEER),
    ("bypass", &[NAT, BYPASS], &[bypass::names::CONNECTIONS, bypass::names::SEND, bypass::names::REMIND]),
    ("release", &[], &[parking::names::RELEASE]),
];

/// Built once: a build removes what an earlier one made.
fn object(name: &str) -> Result<Object> {
    static BUILT: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        ebpf_build::build(&workspace, &workspace.join("target/bpf")).map_err(|error| format!("{error:#}"))
    });
    let folder = BUILT.as_ref().map_err(|error| anyhow!(error.clone()))?;
    Object::parse(&fs::read(folder.join(name)).context(name.to_owned())?).context(name.to_owned())
}

#[test]
fn every_object_has_the_maps_and_the_program_of_the_abi() -> Result<()> {
    // `bare` is what programs are measured beside; the daemon does not know it.
    let known: Vec<&str> = OBJECTS.iter().map(|(name, ..)| *name).chain(["bare"]).collect();
    ensure!(known == ebpf_build::OBJECTS, "an object is not looked at here");
    for (name, maps, programs) in OBJECTS {
        as_agreed(&object(name)?, &maps.concat(), programs).with_context(|| name.to_owned())?;
    }
    Ok(())
}

fn as_agreed(object: &Object, maps: &[Map], expected: &[&str]) -> Result<()> {
    for &(name, key, value) in maps {
        let map = object.maps.get(name).with_context(|| format!("no map {name}"))?;
        let found = (map.key_size() as usize, map.value_size() as usize);
        ensure!(found == (key, value), "{name}: key and value are {found:?}, not {:?}", (key, value));
        ensure!(name.len() <= 15, "the kernel would cut the name {name}");
    }
    let known: BTreeSet<&str> = maps.iter().map(|(name, ..)| *name).collect();
    let extra: Vec<&String> =
        object.maps.keys().filter(|name| !name.starts_with('.') && !known.contains(name.as_str())).collect();
    ensure!(extra.is_empty(), "maps outside the ABI: {extra:?}");
    let programs: BTreeSet<&str> = object.programs.keys().map(String::as_str).collect();
    ensure!(programs == expected.iter().copied().collect(), "programs: {programs:?}");
    Ok(())
}

#[test]
fn every_object_carries_btf_and_a_licence() -> Result<()> {
    for name in ebpf_build::OBJECTS {
        let object = object(name)?;
        ensure!(object.btf.is_some(), "{name}: without BTF bpftool shows no field names");
        ensure!(object.license.to_string_lossy().contains("GPL"), "{name}: its helpers need a GPL-compatible licence");
    }
    Ok(())
}
