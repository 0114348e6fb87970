//! Where bpffs and cgroup2 are mounted, as /proc/mounts has it: neither is where one expects it on
//! every machine (hybrid hosts have cgroup2 below /sys/fs/cgroup/unified).

use std::{fs, path::Path};

use nix::unistd::{AccessFlags, access};

use super::{
    Check, State, Verdict,
    privileges::{Capability, Held},
};
use crate::kernel::{self, mounted};

/// Where the daemon looks for a bpffs, and mounts one if there is none.
const BPFFS: &str = "/sys/fs/bpf";
/// The daemon's own folder in it.
const PINS: &str = "switchmaster";
const NAME: &str = "bpffs";

/// Whether maps can be pinned, which sockmap needs: the check, and the verdict on it.
pub(super) fn bpffs(held: &Held) -> (Check, Verdict) {
    let mounted = mounted("bpf");
    let Some(path) = mounted.iter().find(|it| it.as_path() == Path::new(BPFFS)).or(mounted.first()) else {
        let offered = filesystems().is_none_or(|it| has_filesystem(&it, "bpf"));
        return unmounted(offered, held.has(Capability::SysAdmin));
    };
    let ours = path.join(PINS);
    if writable(path) || writable(&ours) {
        return (Check::ok(NAME, format!("mounted on {}, writable", path.display())), Verdict::Yes);
    }
    let found = format!("mounted on {}, not writable for this user", path.display());
    let remedy =
        format!("as root: mkdir -m 700 {0} && chown USER {0} && chmod o+x {1}", ours.display(), path.display());
    (Check::bad(NAME, State::No, found, remedy), Verdict::MissingPrivilege)
}

fn unmounted(offered: bool, may_mount: bool) -> (Check, Verdict) {
    if !offered {
        let remedy = "a kernel with CONFIG_BPF_SYSCALL";
        return (Check::bad(NAME, State::No, "this kernel offers none", remedy), Verdict::No);
    }
    if may_mount {
        return (Check::ok(NAME, format!("not mounted; the daemon mounts it on {BPFFS}")), Verdict::Yes);
    }
    let remedy = format!("once, as root: mount -t bpf bpf {BPFFS}");
    let check = Check::bad(NAME, State::No, "not mounted, and mounting it needs CAP_SYS_ADMIN", remedy);
    (check, Verdict::MissingPrivilege)
}

fn writable(path: &Path) -> bool {
    access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

pub(super) fn cgroup2() -> Check {
    const NAME: &str = "cgroup2";
    match kernel::cgroup2() {
        Some(path) => Check::ok(NAME, format!("mounted on {}", path.display())),
        None => Check::bad(
            NAME,
            State::Warn,
            "not mounted; only steering and the bypass need it",
            "mount -t cgroup2 none /sys/fs/cgroup, or steering = \"off\"",
        ),
    }
}

fn filesystems() -> Option<String> {
    fs::read_to_string("/proc/filesystems").ok()
}

fn has_filesystem(filesystems: &str, kind: &str) -> bool {
    filesystems.lines().any(|it| it.split('\t').next_back() == Some(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_bpffs_it_depends_on_who_may_mount_one() {
        assert_eq!(unmounted(true, true).1, Verdict::Yes);
        let (check, verdict) = unmounted(true, false);
        assert_eq!(verdict, Verdict::MissingPrivilege);
        assert!(check.found.contains("CAP_SYS_ADMIN") && check.remedy.contains("mount -t bpf"));
        assert_eq!(unmounted(false, true).1, Verdict::No);
    }

    #[test]
    fn filesystems_are_compared_whole() {
        let list = "nodev\ttmpfs\nnodev\tbpf\n\text4\n";
        assert!(has_filesystem(list, "bpf") && has_filesystem(list, "ext4"));
        assert!(!has_filesystem(list, "ext") && !has_filesystem("nodev\tbpffs\n", "bpf"));
    }
}
