//! Limits of the machine that decide how many connections fit, and who may use bpf(2).

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use super::{Check, State};
use crate::urgent;

/// Two sockets a connection, and some for Sentinels, nodes and the daemon itself.
const FDS_PER_CONNECTION: u64 = 2;
const FDS_APART: u64 = 200;
/// A route's default `max_connections`.
const USUAL_CONNECTIONS: u64 = 10_000;

pub(super) fn open_files() -> Check {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => judge_open_files(soft, hard),
        Err(errno) => Check::bad("open files", State::Unknown, format!("getrlimit failed: {errno}"), ""),
    }
}

/// The daemon raises the soft limit to the hard one.
fn judge_open_files(soft: u64, hard: u64) -> Check {
    const NAME: &str = "open files";
    let fit = hard.saturating_sub(FDS_APART) / FDS_PER_CONNECTION;
    let found = format!("limit {soft}, hard limit {hard}: room for about {fit} connections");
    if fit >= USUAL_CONNECTIONS {
        return Check::ok(NAME, found);
    }
    let wanted = USUAL_CONNECTIONS * FDS_PER_CONNECTION + FDS_APART;
    let remedy = format!(
        "for {USUAL_CONNECTIONS} connections: LimitNOFILE={wanted} in the systemd unit, or ulimit -Hn {wanted}"
    );
    Check::bad(NAME, State::Warn, found, remedy)
}

/// Says only how the machine is set: switchmaster never asks for unprivileged BPF.
pub(super) fn unprivileged_bpf() -> Check {
    const NAME: &str = "unprivileged bpf";
    let setting = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled");
    match setting.as_deref().map(str::trim) {
        Ok("0") => Check::bad(
            NAME,
            State::Warn,
            "allowed to everyone; switchmaster does not need that",
            "sysctl kernel.unprivileged_bpf_disabled=1",
        ),
        Ok("1") => Check::ok(NAME, "disabled until the next boot"),
        Ok("2") => Check::ok(NAME, "disabled"),
        Ok(other) => Check::bad(NAME, State::Unknown, format!("kernel.unprivileged_bpf_disabled is {other}"), ""),
        Err(_) => Check::bad(NAME, State::Unknown, "this kernel has no kernel.unprivileged_bpf_disabled", ""),
    }
}

/// Without it a switch of many connections takes longer on a busy machine, and nothing else.
pub(super) fn real_time() -> Check {
    const NAME: &str = "real-time priority";
    const USE: &str = "many resets of a switch go out before the work of those who come back";
    match urgent::allowed() {
        Ok(()) => Check::ok(NAME, format!("allowed; {USE}")),
        Err(error) => Check::bad(
            NAME,
            State::Warn,
            format!("not allowed ({error}); with it {USE}"),
            "LimitRTPRIO=1 in the systemd unit, and RestrictRealtime=no; or CAP_SYS_NICE",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_decides() {
        assert_eq!(judge_open_files(1024, 1_048_576).state, State::Ok);
        let small = judge_open_files(20_000, 20_000);
        assert_eq!(small.state, State::Warn);
        assert!(small.found.contains("9900") && small.remedy.contains("LimitNOFILE=20200"), "{small:?}");
        assert_eq!(judge_open_files(u64::MAX, u64::MAX).state, State::Ok);
        assert_eq!(judge_open_files(10, 10).state, State::Warn);
    }
}
