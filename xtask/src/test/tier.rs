//! The tiers: what each tests, what it needs, and which cargo arguments run it.

use std::{fmt, path::Path};

use clap::ValueEnum;

use crate::is_root;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tier {
    /// Pure functions and single modules
    Unit,
    /// The built kernel objects against the ABI
    Abi,
    /// Kernel programs, run by the kernel's test facility, and the daemon on maps of the kernel
    Prog,
    /// The traffic suite in network namespaces
    Netns,
    /// Real servers, real failovers
    Ha,
}

impl Tier {
    pub(crate) const ALL: [Self; 5] = [Self::Unit, Self::Abi, Self::Prog, Self::Netns, Self::Ha];

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Unit => "pure functions and single modules",
            Self::Abi => "the built kernel objects against the ABI",
            Self::Prog => "kernel programs, run by the kernel's test facility, and the daemon on maps of the kernel",
            Self::Netns => "the traffic suite in network namespaces",
            Self::Ha => "real servers, real failovers",
        }
    }

    pub(crate) fn needs_daemon(self) -> bool {
        matches!(self, Self::Netns | Self::Ha)
    }

    /// The integration tests of the `tests` crate that make up the tier.
    fn targets(self) -> &'static [&'static str] {
        match self {
            Self::Unit => &[],
            Self::Abi => &["abi"],
            Self::Prog => &["prog", "prog-xdp"],
            Self::Netns => &["harness", "netns"],
            Self::Ha => &["ha"],
        }
    }

    /// After `cargo test`, one list for each time that it runs. Always of the whole workspace: for a package alone cargo chooses
    /// other features, and builds what it needs once more.
    pub(crate) fn arguments(self) -> Vec<Vec<&'static str>> {
        let targets = self.targets().iter().flat_map(|target| ["--test", target]);
        let suite = ["--workspace"].into_iter().chain(targets).collect();
        match self {
            Self::Unit => vec![vec!["--workspace", "--lib", "--bins"]],
            // The daemon's half of the datapaths, on maps, links and sockets of the kernel.
            Self::Prog => vec![suite, vec!["--workspace", "--lib", "--", "--ignored"]],
            _ => vec![suite],
        }
    }

    /// Why it cannot run here, if it cannot.
    pub(crate) fn obstacle(self) -> Option<String> {
        match self {
            Self::Unit | Self::Abi => None,
            _ if !is_root() => Some("it needs root: run this with sudo".to_owned()),
            Self::Netns | Self::Ha if !Path::new("/proc/self/ns/net").exists() => {
                Some("this kernel has no network namespaces".to_owned())
            }
            _ => None,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unit => "unit",
            Self::Abi => "abi",
            Self::Prog => "prog",
            Self::Netns => "netns",
            Self::Ha => "ha",
        })
    }
}
