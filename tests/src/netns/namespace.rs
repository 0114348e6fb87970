//! One network namespace: programs and sockets inside it. A socket made in `enter` stays there
//! wherever it is used later; a program started by `command` also sees the world's hosts and bpffs.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    panic,
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

use super::cut::{self, Deafness};

/// Cheap to clone; it does not keep the namespace alive beyond its world.
#[derive(Debug, Clone)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    full_name: String,
    name: String,
    file: File,
    addresses: Vec<IpAddr>,
    /// What a program sees elsewhere than this process does: (ours, theirs).
    binds: Vec<(CString, CString)>,
}

impl Namespace {
    pub(super) fn open(full_name: &str, name: &str, addresses: Vec<IpAddr>, directory: &Path) -> Result<Self> {
        let file = File::open(Path::new("/run/netns").join(full_name)).with_context(|| full_name.to_owned())?;
        let bind = |ours: &str, theirs: &str| -> Result<(CString, CString)> {
            let ours = directory.join(ours).into_os_string().into_encoded_bytes();
            Ok((CString::new(ours).context("path")?, CString::new(theirs).context("path")?))
        };
        let mut binds = vec![bind("hosts", "/etc/hosts")?];
        if Path::new("/sys/fs/bpf").exists() {
            binds.push(bind("bpf", "/sys/fs/bpf")?);
        }
        Ok(Self(Arc::new(Inner { full_name: full_name.to_owned(), name: name.to_owned(), file, addresses, binds })))
    }

    /// Its short name: `client`, `proxy`, `db`...
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The name `ip netns` knows it by.
    pub fn full_name(&self) -> &str {
        &self.0.full_name
    }

    pub fn addresses(&self) -> &[IpAddr] {
        &self.0.addresses
    }

    /// Its first IPv4 address; of `proxy` it is the one facing the first namespace, `client` by default.
    pub fn ipv4(&self) -> IpAddr {
        self.0.addresses[0]
    }

    pub fn ipv6(&self) -> IpAddr {
        self.0.addresses[1]
    }

    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ipv4(), port)
    }

    pub fn address6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ipv6(), port)
    }

    /// A program that will run in here.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let inner = Arc::clone(&self.0);
        // SAFETY: only system calls between fork and exec, on memory that was allocated before.
        unsafe { command.pre_exec(move || inner.become_inside()) };
        command
    }

    /// Runs `work` on a thread inside the namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || -> Result<T> {
            setns(&self.0.file, CloneFlags::CLONE_NEWNET).with_context(|| self.0.full_name.clone())?;
            Ok(work())
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(cause) => panic::resume_unwind(cause),
        })
    }

    /// Dials from in here.
    pub fn connect(&self, to: SocketAddr, limit: Duration) -> Result<TcpStream> {
        self.enter(|| TcpStream::connect_timeout(&to, limit))?.with_context(|| format!("{} to {to}", self.name()))
    }

    /// Runs a program in here to its end and returns what it printed; a failure carries its errors.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.command(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            bail!("{program} {arguments:?} in {}: {}", self.name(), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// From now on this namespace hears nothing from `from`, which still hears it.
    pub fn ignore(&self, from: &Self) -> Result<()> {
        cut::cut(self, from, Deafness::Everything)
    }

    /// From now on it hears of no new TCP connection from `from`; those that are there go on.
    pub fn ignore_new(&self, from: &Self) -> Result<()> {
        cut::cut(self, from, Deafness::NewConnections)
    }

    /// Hears `from` again.
    pub fn listen_to(&self, from: &Self) -> Result<()> {
        cut::heal(self, from)
    }

    /// From now on nothing passes between this namespace and `peer`, in silence, as when a cable is
    /// cut further away: both ends keep their sockets and hear nothing. `proxy` still reaches both.
    pub fn cut(&self, peer: &Self) -> Result<()> {
        cut::cut(self, peer, Deafness::Everything)?;
        cut::cut(peer, self, Deafness::Everything)
    }

    /// Undoes every `cut` between the two.
    pub fn heal(&self, peer: &Self) -> Result<()> {
        cut::heal(self, peer)?;
        cut::heal(peer, self)
    }
}

impl Inner {
    fn become_inside(&self) -> io::Result<()> {
        // SAFETY: plain system calls; the descriptor is open as long as `self`.
        check(unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) })?;
        // SAFETY: the child has one thread.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        let none = std::ptr::null();
        let private = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: the strings end in NUL; the kernel ignores the null ones for a change of propagation.
        check(unsafe { libc::mount(none, c"/".as_ptr(), none, private, none.cast()) })?;
        for (ours, theirs) in &self.binds {
            // SAFETY: both strings end in NUL.
            check(unsafe { libc::mount(ours.as_ptr(), theirs.as_ptr(), none, libc::MS_BIND, none.cast()) })?;
        }
        Ok(())
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
