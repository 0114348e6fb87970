//! The daemon's place in the kernel: its pinned maps, one daemon at a time, and the objects that
//! the build embedded. Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; CAP_SYS_ADMIN where bpffs is not mounted yet.

mod bpffs;
mod btf;
mod cgroup;
pub mod contents;
mod layout;
mod lent;
mod life;
mod links;
mod load;
mod mapping;
pub mod netns;
mod targets;

pub use self::{
    bpffs::{BpffsError, DEFAULT_DIR, PinDir, Pinned, pinned},
    btf::{BtfError, Types},
    cgroup::{
        ALLOW_MULTI, ALLOW_OVERRIDE, Attached, BYPASS_KINDS, Hooks, Level, STEERING_KINDS, Taken, beside, cgroup2,
        levels, mounted, overruled, taken,
    },
    layout::{NatSizes, OF_BYPASS, load_bypass, load_bypass_alone, load_steering, load_tc, load_xdp, targets},
    life::{Life, LifeError, Ports},
    links::{Links, interfaces},
    load::{Error, Sizes, load, load_release},
    mapping::{Cell, Mapping, MappingError, Shared},
    targets::{KernelTargets, decode, encode},
};
