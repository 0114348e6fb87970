//! Who we are and what we may do, from /proc/self/status. Capabilities count, not the uid: root in a
//! container may have none.

use std::fs;

use super::{Check, State};

/// A capability that some part of switchmaster uses (include/uapi/linux/capability.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Capability {
    NetAdmin = 12,
    NetRaw = 13,
    SysAdmin = 21,
    Perfmon = 38,
    Bpf = 39,
}

impl Capability {
    pub(super) const ALL: [Self; 5] = [Self::Bpf, Self::NetAdmin, Self::Perfmon, Self::NetRaw, Self::SysAdmin];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }

    fn needed_for(self) -> &'static str {
        match self {
            Self::Bpf => "loading BPF programs and maps: sockmap needs it",
            Self::NetAdmin => "BPF that touches the network: sockmap needs it",
            Self::Perfmon => "BPF programs that read the kernel's own numbers: sockmap needs it",
            Self::NetRaw => "ending idle flows by RST: tc and xdp need it",
            Self::SysAdmin => "mounting a bpffs; not needed where one is mounted",
        }
    }
}

/// What this process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    uid: Option<u32>,
    /// None: /proc/self/status cannot be read.
    effective: Option<u64>,
}

impl Held {
    pub(super) fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    pub(super) fn parse(status: &str) -> Self {
        let field = |name: &str| status.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(':'));
        Self {
            // Real, effective, saved, filesystem: the second counts.
            uid: field("Uid").and_then(|it| it.split_ascii_whitespace().nth(1)?.parse().ok()),
            effective: field("CapEff").and_then(|it| u64::from_str_radix(it.trim(), 16).ok()),
        }
    }

    /// CAP_SYS_ADMIN contains CAP_BPF and CAP_PERFMON (bpf_capable, perfmon_capable).
    pub(super) fn has(self, capability: Capability) -> bool {
        let holds = |it: Capability| self.effective.is_some_and(|set| set >> (it as u32) & 1 == 1);
        let implied = matches!(capability, Capability::Bpf | Capability::Perfmon) && holds(Capability::SysAdmin);
        holds(capability) || implied
    }

    /// Which of `wanted` are missing, by name.
    pub(super) fn missing(self, wanted: &[Capability]) -> Vec<&'static str> {
        wanted.iter().filter(|it| !self.has(**it)).map(|it| it.name()).collect()
    }
}

pub(super) fn checks(held: &Held) -> Vec<Check> {
    let user = match held.uid {
        Some(0) => Check::ok("user", "uid 0"),
        Some(uid) => Check::ok("user", format!("uid {uid}")),
        None => Check::bad("user", State::Unknown, "/proc/self/status cannot be read", "mount /proc"),
    };
    let capabilities = Capability::ALL.iter().map(|it| match (held.has(*it), it) {
        (true, _) => Check::ok(it.name(), format!("held; {}", it.needed_for())),
        (false, Capability::Bpf | Capability::NetAdmin | Capability::Perfmon) => {
            Check::bad(it.name(), State::No, format!("not held; {}", it.needed_for()), grant(&[it.name()]))
        }
        (false, _) => Check::ok(it.name(), format!("not held; {}", it.needed_for())),
    });
    std::iter::once(user).chain(capabilities).collect()
}

/// How a process gets capabilities.
pub(super) fn grant(names: &[&str]) -> String {
    format!("run as root, or grant {} (systemd: AmbientCapabilities=; containers: capabilities.add)", names.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: &str = "Name:\tx\nUid:\t0\t65534\t65534\t65534\nCapEff:\t0000000000000000\n";

    #[test]
    fn nobody_has_nothing() {
        let held = Held::parse(NOBODY);
        assert_eq!(held.uid, Some(65534));
        assert_eq!(held.missing(&[Capability::Bpf, Capability::NetAdmin]), ["CAP_BPF", "CAP_NET_ADMIN"]);
        assert!(checks(&held).iter().filter(|it| it.state == State::No).all(|it| it.remedy.contains(it.name)));
    }

    #[test]
    fn single_capabilities_are_told_apart() {
        let bpf = Held::parse("CapEff:\t0000008000000000\n");
        assert!(bpf.has(Capability::Bpf) && !bpf.has(Capability::NetAdmin) && !bpf.has(Capability::SysAdmin));
        let admin = Held::parse("CapEff:\t0000000000200000\n");
        assert!(admin.has(Capability::SysAdmin) && admin.has(Capability::Bpf) && !admin.has(Capability::NetAdmin));
    }

    #[test]
    fn garbage_is_nothing() {
        let held = Held::parse("CapEff:\tzz\nUid:\t1\n");
        assert_eq!(held, Held { uid: None, effective: None });
        assert!(!held.has(Capability::Bpf));
    }
}
