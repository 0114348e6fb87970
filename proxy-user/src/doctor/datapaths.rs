//! Datapath by datapath: can it work here, and if not, why and what to do. `copy` always works and is
//! offered wherever another cannot.

use serde::Serialize;

use super::{
    SelfTest,
    bpf::{Answer, Support},
    privileges::{Capability, Held, grant},
};
use crate::config::DatapathChoice;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Yes,
    /// Privileges are all that is known to be missing.
    MissingPrivilege,
    No,
    NotInThisVersion,
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
pub(super) fn judge(held: &Held, support: &Support, self_test: Option<SelfTest>) -> Vec<Ability> {
    vec![
        later("xdp"),
        later("tc"),
        sockmap(held, support, self_test),
        Ability {
            name: "copy",
            verdict: Verdict::Yes,
            reason: "needs nothing: always possible".to_owned(),
            remedy: String::new(),
        },
        later("steering"),
        later("bypass"),
    ]
}

fn later(name: &'static str) -> Ability {
    Ability {
        name,
        verdict: Verdict::NotInThisVersion,
        reason: "not in this version".to_owned(),
        remedy: String::new(),
    }
}

fn sockmap(held: &Held, support: &Support, self_test: Option<SelfTest>) -> Ability {
    let ability = |verdict, reason: String, remedy: String| Ability { name: "sockmap", verdict, reason, remedy };
    let missing = held.missing(&[Capability::Bpf, Capability::NetAdmin]);
    if !missing.is_empty() {
        let reason = format!("{} missing", missing.join(" and "));
        let remedy = format!("{}; datapath = \"copy\" works without", grant(&missing));
        return ability(Verdict::MissingPrivilege, reason, remedy);
    }
    if let Some((what, answer)) = support.obstacles().next() {
        let copy = "datapath = \"copy\" works without";
        return match answer {
            Answer::Refused => ability(
                Verdict::MissingPrivilege,
                "bpf(2) is refused in spite of the capabilities".to_owned(),
                format!(
                    "allow bpf(2) in the seccomp filter (systemd: SystemCallFilter=bpf) or the LSM's policy; {copy}"
                ),
            ),
            Answer::Failed(error) => ability(Verdict::No, format!("{what} cannot be probed: {error}"), copy.to_owned()),
            Answer::No | Answer::Yes => {
                ability(Verdict::No, format!("this kernel does not offer {what}"), format!("a newer kernel; {copy}"))
            }
        };
    }
    match self_test.map(|run| run()) {
        Some(Ok(tested)) => ability(Verdict::Yes, format!("self-test passed: {tested}"), String::new()),
        Some(Err(failure)) => ability(
            Verdict::No,
            format!("self-test failed: {failure}"),
            "a newer kernel (see the lines above); datapath = \"copy\" works without".to_owned(),
        ),
        None => ability(Verdict::Yes, "the kernel offers all it needs (self-test not run)".to_owned(), String::new()),
    }
}
