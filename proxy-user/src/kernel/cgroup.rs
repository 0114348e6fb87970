//! Programs at a cgroup, held by links that are pinned as those at interfaces are: they outlive the daemon, and the next
//! one puts its own program into each, without a call or a packet in between. One file for each program, named after it.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs::{self, File},
    io, mem,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use aya::{pin::PinError, programs::links::FdLink};
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info};

/// Where cgroup2 is mounted. On hybrid hosts that is below `/sys/fs/cgroup`.
pub fn cgroup2() -> Option<PathBuf> {
    mounted("cgroup2").into_iter().next()
}

/// The mount points of a kind of file system.
pub fn mounted(kind: &str) -> Vec<PathBuf> {
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

/// The links of one cgroup.
#[derive(Debug)]
pub struct Hooks {
    folder: PathBuf,
    /// The kernel's number of the cgroup.
    cgroup: u64,
}

impl Hooks {
    pub fn new(folder: PathBuf, cgroup: &Path) -> io::Result<Self> {
        // Of kernfs, whose inodes have the numbers (`kernfs_id_ino`, 64-bit).
        Ok(Self { folder, cgroup: fs::metadata(cgroup)?.ino() })
    }

    /// Puts a program into the link that is pinned. False: there is none, or it is at another cgroup, or that is gone.
    pub fn take_over(&self, name: &str, program: BorrowedFd<'_>) -> bool {
        let Ok(link) = open(&self.path(name)) else { return false };
        at(link.as_fd()).is_ok_and(|cgroup| cgroup == self.cgroup) && update(link.as_fd(), program).is_ok()
    }

    /// Whether a link is pinned that is at another cgroup: what it has done is not looked after by ours.
    pub fn is_elsewhere(&self, name: &str) -> bool {
        open(&self.path(name)).is_ok_and(|link| at(link.as_fd()).is_ok_and(|cgroup| cgroup != self.cgroup))
    }

    pub fn keep(&self, name: &str, link: FdLink) -> Result<(), PinError> {
        link.pin(self.path(name)).map(drop)
    }

    /// Detaches a program that is pinned in a folder.
    pub fn remove(folder: &Path, name: &str) -> io::Result<()> {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The cgroup that a link is at; 0: that is gone.
fn at(link: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: a struct of integers.
    let mut info: bpf_link_info = unsafe { mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = link.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_link_info>() as u32;
    attr.info.info = &raw mut info as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: integers, whatever the kernel has written.
    Ok(unsafe { info.__bindgen_anon_1.cgroup.cgroup_id })
}

fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = link.as_raw_fd() as u32;
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// The programs of one kind at a cgroup itself, by the kernel's numbers, and what they were attached with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attached {
    pub programs: Vec<u32>,
    pub flags: u32,
}

/// What is at a cgroup, kind by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    pub cgroup: PathBuf,
    pub attached: Vec<Attached>,
}

/// Why the kernel takes no link of ours at a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// A program there lets no other beside it.
    Here(PathBuf),
    /// One at a cgroup above lets none below.
    Above(PathBuf),
}

/// What is at a cgroup where programs of these kinds go, and at each that it is in, as far as that is to be seen here.
/// Needs CAP_NET_ADMIN.
pub fn levels(cgroup: &Path, kinds: &[bpf_attach_type]) -> io::Result<Vec<Level>> {
    let cgroup = cgroup.canonicalize()?;
    let mounts = mounted("cgroup2");
    let root =
        mounts.iter().find(|root| cgroup.starts_with(root)).ok_or_else(|| io::Error::other("not of a cgroup2"))?;
    let line = cgroup.ancestors().take_while(|path| path.starts_with(root));
    line.map(|path| {
        let folder = File::open(path)?;
        let attached = kinds.iter().map(|kind| attached(&folder, *kind)).collect::<io::Result<_>>()?;
        Ok(Level { cgroup: path.to_owned(), attached })
    })
    .collect()
}

/// The rule is the kernel's own (`hierarchy_allows_attach` in kernel/bpf/cgroup.c): beside another only if both say so, and below
/// another if the nearest one does not forbid it.
pub fn taken(levels: &[Level]) -> Option<Taken> {
    let (here, above) = levels.split_first()?;
    if here.attached.iter().any(|it| !it.programs.is_empty() && it.flags & ALLOW_MULTI == 0) {
        return Some(Taken::Here(here.cgroup.clone()));
    }
    let forbids = |it: &Attached| it.flags & (ALLOW_MULTI | ALLOW_OVERRIDE) == 0;
    nearest(here, above).find(|(_, it)| forbids(it)).map(|(at, _)| Taken::Above(at.cgroup.clone()))
}

/// The cgroups above whose programs do not run any more for those in this one, once ours are there (`compute_effective_progs`).
pub fn overruled(levels: &[Level]) -> BTreeSet<PathBuf> {
    let Some((here, above)) = levels.split_first() else { return BTreeSet::new() };
    let gives_way = |it: &Attached| it.flags & ALLOW_OVERRIDE != 0;
    nearest(here, above).filter(|(_, it)| gives_way(it)).map(|(at, _)| at.cgroup.clone()).collect()
}

/// Of each kind the nearest programs above.
fn nearest<'a>(here: &Level, above: &'a [Level]) -> impl Iterator<Item = (&'a Level, &'a Attached)> {
    let first = |kind: usize| {
        above.iter().find_map(|level| {
            level.attached.get(kind).filter(|it| !it.programs.is_empty()).map(|attached| (level, attached))
        })
    };
    (0..here.attached.len()).filter_map(first)
}

/// How many programs run for those in a cgroup beside ours.
pub fn beside(levels: &[Level]) -> usize {
    let run = levels.iter().flat_map(|level| &level.attached).filter(|it| it.flags & ALLOW_MULTI != 0);
    run.flat_map(|it| &it.programs).collect::<BTreeSet<_>>().len()
}

fn attached(cgroup: &File, kind: bpf_attach_type) -> io::Result<Attached> {
    let mut programs = [0u32; MOST_PROGRAMS];
    let mut attr = zeroed();
    attr.query.__bindgen_anon_1.target_fd = cgroup.as_raw_fd() as u32;
    attr.query.attach_type = kind as u32;
    attr.query.prog_ids = programs.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = programs.len() as u32;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: a struct of integers, whatever the kernel has written.
    let answer = unsafe { attr.query };
    // SAFETY: as above.
    let count = unsafe { answer.__bindgen_anon_2.prog_cnt } as usize;
    Ok(Attached { programs: programs[..count.min(programs.len())].to_vec(), flags: answer.attach_flags })
}

/// The kernel takes no more at one place of one cgroup (BPF_CGROUP_MAX_PROGS).
const MOST_PROGRAMS: usize = 64;
/// `BPF_F_ALLOW_OVERRIDE`
pub const ALLOW_OVERRIDE: u32 = 1 << 0;
/// `BPF_F_ALLOW_MULTI`: a link has it always.
pub const ALLOW_MULTI: u32 = 1 << 1;
/// Where steering goes.
pub const STEERING_KINDS: [bpf_attach_type; 7] = [
    bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
    bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
    bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME,
    bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME,
    bpf_attach_type::BPF_CGROUP_INET_EGRESS,
    bpf_attach_type::BPF_CGROUP_INET_INGRESS,
    bpf_attach_type::BPF_CGROUP_INET_SOCK_RELEASE,
];
/// Where the bypass goes.
pub const BYPASS_KINDS: [bpf_attach_type; 1] = [bpf_attach_type::BPF_CGROUP_SOCK_OPS];

fn zeroed() -> bpf_attr {
    // SAFETY: a union of structs of integers.
    unsafe { mem::zeroed() }
}

/// aya has no call for these.
fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the kernel reads and writes within the size that it is told.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, &raw mut *attr, size_of::<bpf_attr>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
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

    fn level(cgroup: &str, flags: [Option<u32>; 2]) -> Level {
        let attached = |flags: Option<u32>| Attached {
            programs: flags.map(|_| vec![7, 8]).unwrap_or_default(),
            flags: flags.unwrap_or_default(),
        };
        Level { cgroup: cgroup.into(), attached: flags.map(attached).to_vec() }
    }

    #[test]
    fn the_kernel_s_rule_of_who_may_be_beside_whom() {
        const NO: Option<u32> = None;
        let (multi, gives_way, alone) = (Some(ALLOW_MULTI), Some(ALLOW_OVERRIDE), Some(0));
        let line = |here, above, root| [level("/a/b", here), level("/a", above), level("/", root)];
        let (here, above) = (Taken::Here("/a/b".into()), |at: &str| Taken::Above(at.into()));
        for (levels, expected) in [
            (line([NO, NO], [NO, NO], [NO, NO]), None),
            (line([multi, multi], [multi, multi], [multi, multi]), None),
            (line([multi, alone], [NO, NO], [NO, NO]), Some(here.clone())),
            (line([gives_way, NO], [NO, NO], [NO, NO]), Some(here)),
            (line([NO, NO], [NO, alone], [NO, NO]), Some(above("/a"))),
            (line([NO, NO], [NO, NO], [alone, NO]), Some(above("/"))),
            // The nearest one of its kind says it.
            (line([NO, NO], [multi, NO], [alone, NO]), None),
            (line([NO, NO], [gives_way, NO], [alone, NO]), None),
            (line([NO, NO], [multi, NO], [NO, alone]), Some(above("/"))),
        ] {
            assert_eq!(taken(&levels), expected, "{levels:?}");
        }
        assert_eq!(overruled(&line([NO, NO], [multi, gives_way], [gives_way, NO])), [PathBuf::from("/a")].into());
        assert_eq!(beside(&line([multi, NO], [NO, gives_way], [NO, NO])), 2);
    }

    #[test]
    fn mount_points_are_found_wherever_they_are() {
        assert_eq!(mount_points(MOUNTS, "cgroup2"), [PathBuf::from("/sys/fs/cgroup/unified")]);
        assert_eq!(mount_points(MOUNTS, "bpf"), [PathBuf::from("/mnt/my bpf")]);
        assert!(mount_points(MOUNTS, "xfs").is_empty());
    }
}
