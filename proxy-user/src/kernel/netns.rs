//! Network namespaces: what this process may see of them, and how something is asked in another one.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// Does it in that namespace, on a thread of its own, which ends there; a socket made there stays there. None: we may not go
/// there.
pub fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> Option<T> {
    let enter = || setns(namespace, CloneFlags::CLONE_NEWNET).ok().map(|()| work());
    thread::scope(|scope| scope.spawn(enter).join().ok()?)
}

/// The kernel's number for the namespace that the thread is in, which is never used twice (Linux 5.14).
pub fn cookie() -> io::Result<u64> {
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let (mut cookie, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes as much as it is told that there is room for.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Every network namespace that has a name somewhere, once: with `ip netns`, or as a process's own.
pub fn namespaces() -> Vec<PathBuf> {
    let list = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_process = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit());
    each_once(list("/run/netns").chain(list("/proc").filter(is_process).map(|path| path.join("ns/net"))))
}

/// Those of the processes at or below a cgroup.
pub fn of_cgroup(cgroup: &Path) -> Vec<PathBuf> {
    let mut folders = vec![cgroup.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(processes.lines().map(|pid| Path::new("/proc").join(pid).join("ns/net")));
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(below.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir())).map(|it| it.path()));
    }
    each_once(found)
}

fn each_once(paths: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut known = BTreeSet::new();
    let is_new = |path: &PathBuf| fs::metadata(path).is_ok_and(|it| known.insert((it.dev(), it.ino())));
    paths.into_iter().filter(is_new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_a_cookie_of_its_own() {
        let here = File::open("/proc/self/ns/net").unwrap();
        let mine = cookie().unwrap();
        assert_eq!(inside(&here, || cookie().unwrap()), Some(mine), "it is the same one");
        let other = thread::spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
            cookie().unwrap()
        });
        assert_ne!(other.join().unwrap(), mine);
    }
}
