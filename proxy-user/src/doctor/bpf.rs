//! What the kernel's bpf(2) offers of what the objects of sockmap and of steering need. Each probe loads or creates one
//! trivial thing and lets it go at once.

use std::{io, path::Path};

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_map_supported, is_program_supported},
};

use super::{Check, State};

/// Where the kernel shows its types (CONFIG_DEBUG_INFO_BTF).
const BTF: &str = "/sys/kernel/btf/vmlinux";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    No,
    /// The probe itself was refused: privileges, or a filter on bpf(2).
    Refused,
    Failed(String),
}

/// The answers, by what was asked for.
#[derive(Debug, Clone)]
pub(super) struct Support(Vec<(&'static str, Answer)>);

impl Support {
    pub(super) fn probe() -> Self {
        let maps = [
            ("map type hash", MapType::Hash),
            ("map type percpu_array", MapType::PerCpuArray),
            ("map type ringbuf", MapType::RingBuf),
            ("map type sockhash", MapType::SockHash),
        ];
        let program = is_program_supported(ProgramType::SkSkb).map_err(|error| flatten(&error));
        let maps = maps.map(|(name, kind)| (name, answer(is_map_supported(kind).map_err(|error| flatten(&error)))));
        Self(std::iter::once(("program type sk_skb", answer(program))).chain(maps).collect())
    }

    /// What steering needs beside it.
    pub(super) fn probe_steering() -> Self {
        let programs = [
            ("program type cgroup_sock_addr", ProgramType::CgroupSockAddr),
            ("program type cgroup_sock", ProgramType::CgroupSock),
            ("program type cgroup_skb", ProgramType::CgroupSkb),
        ];
        let programs =
            programs.map(|(name, kind)| (name, answer(is_program_supported(kind).map_err(|error| flatten(&error)))));
        let storage = is_map_supported(MapType::SkStorage).map_err(|error| flatten(&error));
        Self(programs.into_iter().chain([("map type sk_storage", answer(storage))]).collect())
    }

    #[cfg(test)]
    pub(super) fn all(given: &Answer) -> Self {
        Self(vec![("program type sk_skb", given.clone()), ("map type sockhash", given.clone())])
    }

    /// What stands in the way, if anything does.
    pub(super) fn obstacles(&self) -> impl Iterator<Item = &(&'static str, Answer)> {
        self.0.iter().filter(|(_, it)| *it != Answer::Yes)
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        self.0.iter().map(|(name, answer)| check(name, answer)).collect()
    }
}

fn check(name: &'static str, answer: &Answer) -> Check {
    match answer {
        Answer::Yes => Check::ok(name, "offered by this kernel"),
        Answer::No => Check::bad(
            name,
            State::No,
            "not offered by this kernel",
            "a kernel of 5.10 or later with CONFIG_BPF_SYSCALL, CONFIG_NET and CONFIG_INET; or datapath = \"copy\"",
        ),
        // The datapath that needs it says why, and what to do: once is enough.
        Answer::Refused => Check::bad(name, State::Unknown, "cannot be probed: bpf(2) is not permitted", ""),
        Answer::Failed(error) => Check::bad(name, State::Unknown, format!("cannot be probed: {error}"), ""),
    }
}

pub(super) fn btf() -> Check {
    const NAME: &str = "BTF";
    if Path::new(BTF).exists() {
        return Check::ok(NAME, BTF);
    }
    Check::bad(
        NAME,
        State::Warn,
        format!("no {BTF}; maps cannot be dumped readably"),
        "a kernel with CONFIG_DEBUG_INFO_BTF",
    )
}

/// The errno at the bottom of an error of aya, and its whole text.
fn flatten(error: &(dyn std::error::Error + 'static)) -> (Option<i32>, String) {
    let mut errno = None;
    let mut text = error.to_string();
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            errno = error.raw_os_error();
            text = format!("{text}: {error}");
        }
        next = error.source();
    }
    (errno, text)
}

fn answer(probed: Result<bool, (Option<i32>, String)>) -> Answer {
    match probed {
        Ok(true) => Answer::Yes,
        Ok(false) => Answer::No,
        Err((Some(libc::EPERM | libc::EACCES), _)) => Answer::Refused,
        // bpf(2) itself is not there.
        Err((Some(libc::ENOSYS), _)) => Answer::No,
        Err((_, text)) => Answer::Failed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart() {
        assert_eq!(answer(Ok(true)), Answer::Yes);
        assert_eq!(answer(Ok(false)), Answer::No);
        assert_eq!(answer(Err((Some(libc::EPERM), String::new()))), Answer::Refused);
        assert_eq!(answer(Err((Some(libc::ENOSYS), String::new()))), Answer::No);
        assert_eq!(answer(Err((Some(libc::ENOMEM), "x".into()))), Answer::Failed("x".into()));
    }

    #[test]
    fn what_is_not_offered_has_a_remedy() {
        assert!(check("map type sockhash", &Answer::No).remedy.contains("CONFIG_BPF_SYSCALL"));
        assert_eq!(Support::all(&Answer::Refused).obstacles().count(), 2);
        assert_eq!(Support::all(&Answer::Yes).obstacles().count(), 0);
    }
}
