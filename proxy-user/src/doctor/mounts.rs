//! Where bpffs and cgroup2 are mounted, as /proc/mounts has it: neither is where one expects it on
//! every machine (hybrid hosts have cgroup2 below /sys/fs/cgroup/unified).

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};

use super::{
    Check, State,
    privileges::{Capability, Held, grant},
};

/// Where the daemon looks for a bpffs, and mounts one if there is none.
const BPFFS: &str = "/sys/fs/bpf";

pub(super) fn bpffs(held: &Held) -> Check {
    const NAME: &str = "bpffs";
    let mounted = mounted("bpf");
    let Some(path) = mounted.iter().find(|it| it.as_path() == Path::new(BPFFS)).or(mounted.first()) else {
        let offered = filesystems().is_some_and(|it| has_filesystem(&it, "bpf"));
        return match (offered, held.has(Capability::SysAdmin)) {
            (true, true) => Check::ok(NAME, format!("not mounted; the daemon mounts it on {BPFFS}")),
            (true, false) => Check::bad(
                NAME,
                State::No,
                "not mounted, and mounting it needs CAP_SYS_ADMIN",
                format!("once, as root: mount -t bpf bpf {BPFFS}; or {}", grant(&["CAP_SYS_ADMIN"])),
            ),
            (false, _) => Check::bad(
                NAME,
                State::No,
                "this kernel offers none",
                "a kernel with CONFIG_BPF_SYSCALL; or datapath = \"copy\", which needs none",
            ),
        };
    };
    if access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok() {
        return Check::ok(NAME, format!("mounted on {}, writable", path.display()));
    }
    Check::bad(
        NAME,
        State::Warn,
        format!("mounted on {}, not writable for this user", path.display()),
        format!("as root: mkdir -m 700 {BPFFS}/switchmaster && chown USER {BPFFS}/switchmaster"),
    )
}

pub(super) fn cgroup2() -> Check {
    const NAME: &str = "cgroup2";
    match mounted("cgroup2").first() {
        Some(path) => Check::ok(NAME, format!("mounted on {}", path.display())),
        None => Check::bad(
            NAME,
            State::Warn,
            "not mounted; only steering needs it, which this version does not have",
            "mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}

fn mounted(kind: &str) -> Vec<PathBuf> {
    mount_points(&fs::read_to_string("/proc/mounts").unwrap_or_default(), kind)
}

/// `device point kind options 0 0`, with blanks in octal (getmntent(3)).
fn mount_points(mounts: &str, kind: &str) -> Vec<PathBuf> {
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    fields.filter(|(_, it)| *it == kind).map(|(point, _)| unescaped(point)).collect()
}

fn unescaped(point: &str) -> PathBuf {
    point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\").into()
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

    const MOUNTS: &str = "\
tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0
cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
bpf /mnt/my\\040bpf bpf rw 0 0
broken
";

    #[test]
    fn mount_points_are_found_wherever_they_are() {
        assert_eq!(mount_points(MOUNTS, "cgroup2"), [PathBuf::from("/sys/fs/cgroup/unified")]);
        assert_eq!(mount_points(MOUNTS, "bpf"), [PathBuf::from("/mnt/my bpf")]);
        assert!(mount_points(MOUNTS, "xfs").is_empty());
    }

    #[test]
    fn filesystems_are_compared_whole() {
        let list = "nodev\ttmpfs\nnodev\tbpf\n\text4\n";
        assert!(has_filesystem(list, "bpf") && has_filesystem(list, "ext4"));
        assert!(!has_filesystem(list, "ext") && !has_filesystem("nodev\tbpffs\n", "bpf"));
    }
}
