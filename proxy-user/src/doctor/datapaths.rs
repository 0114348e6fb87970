//! Datapath by datapath: can it work here, and if not, why and what to do. `copy` always works and is
//! offered wherever another cannot.

use std::{io, path::PathBuf};

use serde::Serialize;

use super::{
    Check, SelfTest, State,
    bpf::{Answer, Support},
    privileges::{Capability, Held, grant},
};
use crate::{config::DatapathChoice, kernel};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Yes,
    /// Privileges are all that is known to be missing.
    MissingPrivilege,
    No,
}

#[derive(Debug, Clone, Serialize)]
pub struct Ability {
    pub name: &'static str,
    pub verdict: Verdict,
    pub reason: String,
    pub remedy: String,
}

/// The name of a datapath that can be asked for by name.
pub(super) fn name(choice: DatapathChoice) -> Option<&'static str> {
    match choice {
        DatapathChoice::Auto => None,
        DatapathChoice::Xdp => Some("xdp"),
        DatapathChoice::Tc => Some("tc"),
        DatapathChoice::Sockmap => Some("sockmap"),
        DatapathChoice::Copy => Some("copy"),
    }
}

/// In the order in which `auto` would like them, then the helpers that stand in front.
/// `pinning`: the check of the bpffs, and its verdict. `interfaces`: how each did in the self-test of xdp.
pub(super) fn judge(
    held: &Held,
    support: &Support,
    pinning: (&Check, Verdict),
    self_test: Option<SelfTest>,
    interfaces: &Interfaces,
    hooks: &Hooks,
) -> Vec<Ability> {
    let sockmap = sockmap(held, support, pinning, self_test);
    let tc = tc(held, &sockmap);
    let steering = steering(held, pinning, hooks);
    vec![
        xdp(&tc, interfaces),
        tc,
        sockmap,
        Ability {
            name: "copy",
            verdict: Verdict::Yes,
            reason: "needs nothing: always possible".to_owned(),
            remedy: String::new(),
        },
        steering,
    ]
}

/// It has the cgroup of steering, and does not need steering.
pub(super) fn bypass(held: &Held, pinning: (&Check, Verdict), hooks: &Hooks, self_test: Option<SelfTest>) -> Ability {
    let obstacle = unprivileged(held).or_else(|| no_pins(pinning)).or_else(|| hooks.obstacle(&hooks.for_bypass));
    let (verdict, reason, remedy) = obstacle.unwrap_or_else(|| tested(self_test));
    Ability { name: "bypass", verdict, reason, remedy }
}

const NO_CGROUP2: &str = "cgroup2 is not mounted";
const MOUNT_CGROUP2: &str = "mount -t cgroup2 none /sys/fs/cgroup";

/// Where steering goes, what is there already, and what the kernel has for it.
#[derive(Debug)]
pub(super) struct Hooks {
    pub(super) cgroup: Option<PathBuf>,
    pub(super) support: Support,
    /// What is there of the kinds that each has, and at each cgroup that it is in.
    pub(super) for_steering: io::Result<Vec<kernel::Level>>,
    pub(super) for_bypass: io::Result<Vec<kernel::Level>>,
    pub(super) sock_destroy: State,
}

impl Hooks {
    /// What stands against a program of ours there.
    fn obstacle(&self, levels: &io::Result<Vec<kernel::Level>>) -> Option<Finding> {
        let no = |reason: String, remedy: &str| Some((Verdict::No, reason, remedy.to_owned()));
        let Some(cgroup) = &self.cgroup else {
            return no(NO_CGROUP2.to_owned(), MOUNT_CGROUP2);
        };
        let taken = match levels {
            Ok(levels) => kernel::taken(levels)?,
            Err(error) => return no(format!("the cgroup {}: {error}", cgroup.display()), "name a cgroup of cgroup2"),
        };
        let (at, how) = match &taken {
            kernel::Taken::Here(at) => (at, "beside it"),
            kernel::Taken::Above(at) => (at, "at the cgroups below"),
        };
        no(
            format!("at {} there is a program of another that lets no other {how}", at.display()),
            "give `cgroup` of [local] one where there is none, nor above it (`bpftool cgroup tree`)",
        )
    }
}

fn steering(held: &Held, pinning: (&Check, Verdict), hooks: &Hooks) -> Ability {
    let off = |(verdict, reason, _): Finding| {
        (verdict, reason, "steering = \"off\": clients of this host go to the listener".to_owned())
    };
    let unsupported = || hooks.support.obstacles().next().map(|(what, answer)| off(unsupported(what, answer)));
    let endless = || {
        let reason = || "this kernel cannot end the sockets of others (SOCK_DESTROY)".to_owned();
        (hooks.sock_destroy == State::Warn).then(|| off((Verdict::No, reason(), String::new())))
    };
    let obstacle = unprivileged(held)
        .or_else(|| no_pins(pinning))
        .or_else(unsupported)
        .or_else(endless)
        .or_else(|| hooks.obstacle(&hooks.for_steering));
    let (verdict, reason, remedy) = obstacle.unwrap_or_else(|| {
        let levels = hooks.for_steering.as_deref().unwrap_or_default();
        let mut reason = levels.first().map_or_else(String::new, |level| format!("at {}", level.cgroup.display()));
        let beside = kernel::beside(levels);
        if beside > 0 {
            let how = "there and above (`bpftool cgroup tree`); the last one to write an address wins";
            reason += &format!(", beside {beside} programs {how}");
        }
        for at in kernel::overruled(levels) {
            let how = "that gives way: it does not run any more for those in this cgroup";
            reason += &format!("; at {} there is a program of another {how}", at.display());
        }
        (Verdict::Yes, reason, String::new())
    });
    Ability { name: "steering", verdict, reason, remedy }
}

/// The host's interfaces, by name, and what is against a program at XDP on each.
pub(super) type Interfaces = Result<Vec<(String, Result<(), String>)>, String>;

/// It stands in front of tc.
fn xdp(tc: &Ability, interfaces: &Interfaces) -> Ability {
    let no = |why: String| (Verdict::No, why, "datapath = \"tc\" does the same behind the driver".to_owned());
    let (verdict, reason, remedy) = match (tc.verdict, interfaces) {
        (Verdict::Yes, Ok(interfaces)) => {
            let passed: Vec<&str> = interfaces.iter().filter(|(_, it)| it.is_ok()).map(|(name, _)| &**name).collect();
            let failed: Vec<&str> =
                interfaces.iter().filter_map(|(_, it)| it.as_ref().err().map(|why| &**why)).collect();
            let mut said = failed.join("; ");
            if !passed.is_empty() {
                said = format!("{} passed the self-test; {said}", passed.join(", "));
                (Verdict::Yes, said.trim_end_matches([';', ' ']).to_owned(), String::new())
            } else {
                no(if said.is_empty() { "no Ethernet interface is up".to_owned() } else { said })
            }
        }
        (Verdict::Yes, Err(why)) => no(why.clone()),
        (verdict, _) => (verdict, format!("needs what tc needs: {}", tc.reason), tc.remedy.clone()),
    };
    Ability { name: "xdp", verdict, reason, remedy }
}

/// It stands on sockmap, and ends idle flows through raw sockets.
fn tc(held: &Held, sockmap: &Ability) -> Ability {
    let missing = held.missing(&[Capability::NetRaw]);
    let (verdict, reason, remedy) = match sockmap.verdict {
        Verdict::Yes if missing.is_empty() => {
            (Verdict::Yes, "needs Linux 6.6, and clients and nodes on other hosts".to_owned(), String::new())
        }
        Verdict::Yes => (Verdict::MissingPrivilege, format!("{} missing", missing.join(", ")), grant(&missing)),
        verdict => (verdict, format!("needs what sockmap needs: {}", sockmap.reason), sockmap.remedy.clone()),
    };
    Ability { name: "tc", verdict, reason, remedy }
}

fn sockmap(held: &Held, support: &Support, pinning: (&Check, Verdict), self_test: Option<SelfTest>) -> Ability {
    let obstacle = unprivileged(held)
        .or_else(|| support.obstacles().next().map(|(what, answer)| unsupported(what, answer)))
        .or_else(|| no_pins(pinning));
    let (verdict, reason, remedy) = obstacle.unwrap_or_else(|| tested(self_test));
    let remedy = match (verdict, remedy.is_empty()) {
        (Verdict::Yes, _) => remedy,
        (_, true) => COPY_WORKS.to_owned(),
        (_, false) => format!("{remedy}; {COPY_WORKS}"),
    };
    Ability { name: "sockmap", verdict, reason, remedy }
}

const COPY_WORKS: &str = "datapath = \"copy\" works without";

/// Verdict, reason, remedy.
type Finding = (Verdict, String, String);

fn no_pins((bpffs, pinning): (&Check, Verdict)) -> Option<Finding> {
    (pinning != Verdict::Yes).then(|| (pinning, format!("bpffs: {}", bpffs.found), bpffs.remedy.clone()))
}

fn unprivileged(held: &Held) -> Option<Finding> {
    let missing = held.missing(&[Capability::Bpf, Capability::NetAdmin, Capability::Perfmon]);
    (!missing.is_empty())
        .then(|| (Verdict::MissingPrivilege, format!("{} missing", missing.join(", ")), grant(&missing)))
}

fn unsupported(what: &str, answer: &Answer) -> Finding {
    match answer {
        Answer::Refused => (
            Verdict::MissingPrivilege,
            "bpf(2) is refused in spite of the capabilities".to_owned(),
            "allow bpf(2) in the seccomp filter (systemd: SystemCallFilter=bpf) or in the LSM's policy".to_owned(),
        ),
        Answer::Failed(error) => (Verdict::No, format!("{what} cannot be probed: {error}"), String::new()),
        Answer::No | Answer::Yes => {
            (Verdict::No, format!("this kernel does not offer {what}"), "a newer kernel".to_owned())
        }
    }
}

fn tested(self_test: Option<SelfTest>) -> Finding {
    match self_test.map(|run| run()) {
        Some(Ok(tested)) => (Verdict::Yes, format!("self-test passed: {tested}"), String::new()),
        Some(Err(failure)) => (Verdict::No, format!("self-test failed: {failure}"), "a newer kernel".to_owned()),
        None => (Verdict::Yes, "the kernel offers all it needs (self-test not run)".to_owned(), String::new()),
    }
}
