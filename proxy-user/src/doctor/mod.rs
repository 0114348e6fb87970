//! What this kernel, these privileges and this machine can do, datapath by datapath. It changes
//! nothing that lasts, works without privileges, and every "no" has its reason and its remedy.

mod bpf;
mod datapaths;
mod diag;
mod interfaces;
mod kernel;
mod limits;
mod mounts;
mod pins;
mod print;
mod privileges;

#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf};

use serde::Serialize;

pub use self::datapaths::{Ability, Verdict};
use crate::config::DatapathChoice;

/// A self-test: what was tested, or why it failed. Run only where it can be.
pub type SelfTest = Box<dyn FnOnce() -> Result<String, String>>;

#[derive(Default)]
pub struct Input {
    /// Judge by this datapath alone; `Auto` and None: by whether any works.
    pub datapath: Option<DatapathChoice>,
    /// None: this build has none, and sockmap is judged by the probes alone.
    pub sockmap_self_test: Option<SelfTest>,
    /// As above, for the bypass.
    pub bypass_self_test: Option<SelfTest>,
    /// Where a daemon pins.
    pub pin_dir: PathBuf,
    /// That of `[local]`; None: the root.
    pub cgroup: Option<PathBuf>,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("datapath", &self.datapath).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub checks: Vec<Check>,
    pub datapaths: Vec<Ability>,
    /// The name asked for by `--datapath`.
    pub asked: Option<&'static str>,
}

/// One thing looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    pub found: String,
    /// What to do about it; empty where nothing needs doing.
    pub remedy: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// Works, with a risk or a limit.
    Warn,
    No,
    /// Cannot be known from here.
    Unknown,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), remedy: String::new() }
    }

    fn bad(name: &'static str, state: State, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state, found: found.into(), remedy: remedy.into() }
    }
}

/// Looks at everything once. Blocks for as long as the self-test takes.
pub fn run(input: Input) -> Report {
    let held = privileges::Held::read();
    let support = bpf::Support::probe();
    let (bpffs, pinning) = mounts::bpffs(&held);
    let sock_destroy = diag::sock_destroy(&held);
    let cgroup = crate::kernel::cgroup2().map(|root| input.cgroup.unwrap_or(root));
    let at = |kinds| cgroup.as_ref().map_or(Ok(Vec::new()), |cgroup| crate::kernel::levels(cgroup, kinds));
    let hooks = datapaths::Hooks {
        for_steering: at(&crate::kernel::STEERING_KINDS),
        for_bypass: at(&crate::kernel::BYPASS_KINDS),
        cgroup: cgroup.clone(),
        support: bpf::Support::probe_steering(),
        sock_destroy: sock_destroy.state,
    };
    let interfaces = interfaces::look();
    let mut datapaths =
        datapaths::judge(&held, &support, (&bpffs, pinning), input.sockmap_self_test, &interfaces, &hooks);
    datapaths.push(datapaths::bypass(&held, (&bpffs, pinning), &hooks, input.bypass_self_test));
    let mut checks = vec![kernel::check(), kernel::sockmap_floor()];
    checks.extend(privileges::checks(&held));
    checks.extend([bpffs, pins::check(&input.pin_dir), mounts::cgroup2(), bpf::btf()]);
    checks.extend(support.checks());
    checks.extend([limits::unprivileged_bpf(), limits::open_files(), limits::real_time(), sock_destroy]);
    Report { checks, datapaths, asked: input.datapath.and_then(datapaths::name) }
}

impl Report {
    /// 0: what was asked for works (without a question: copy always does). 77: privileges are all
    /// that is missing. 1: it cannot work here.
    pub fn exit_code(&self) -> u8 {
        let judged = self.datapaths.iter().filter(|it| self.asked.is_none_or(|asked| it.name == asked));
        let mut code = 1;
        for ability in judged {
            match ability.verdict {
                Verdict::Yes => return 0,
                Verdict::MissingPrivilege => code = 77,
                Verdict::No => {}
            }
        }
        code
    }

    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|it| it + "\n")
    }
}
