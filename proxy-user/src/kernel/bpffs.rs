//! The folder of the pins: mounts bpffs where there is none, and keeps a second daemon out. A daemon that stops removes
//! them; one that is killed leaves them to the next, with the flows that the kernel goes on with. Below the folder:
//! `targets`, the maps of the packet datapaths in `nat`, and in `links` what attaches their programs.

use std::{
    fs::{self, DirBuilder, File, Metadata},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::maps::Map;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use proxy_ebpf::{names, nat::names as nat};

use super::lent::{self, Lent};

/// Where the pins live unless a test says otherwise.
pub const DEFAULT_DIR: &str = "/sys/fs/bpf/switchmaster";

/// Folders below the one of the pins.
const MAPS: &str = "nat";
const LINKS: &str = "links";
/// The folder of those that another object is being loaded with.
const LENT: &str = "lent";

#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    #[error("{path} is no bpffs and cannot be made one ({source}); mount it: mount -t bpf bpf {path}")]
    Mount { path: PathBuf, source: nix::Error },
    #[error("{path} cannot be prepared: {source}")]
    Prepare { path: PathBuf, source: io::Error },
    #[error("a map cannot be pinned in {path}: {source}")]
    Pin { path: PathBuf, source: aya::pin::PinError },
    #[error("another switchmaster uses {path}; stop it, or give this one a folder of its own with --pin-dir")]
    InUse { path: PathBuf },
}

/// The folder, held for this process alone as long as the value lives.
#[derive(Debug)]
pub struct PinDir {
    path: PathBuf,
    /// We made the folder, and so we remove it.
    made: bool,
    /// Connections go on by what another daemon has pinned, whatever becomes of this process.
    holds_life: bool,
    /// `None`: taken whoever uses it.
    _lock: Option<Flock<File>>,
}

/// What was pinned, by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pinned {
    pub links: Vec<String>,
    pub maps: Vec<String>,
}

impl PinDir {
    pub fn claim(path: &Path) -> Result<Self, BpffsError> {
        ensure_mounted(path.parent().unwrap_or(path))?;
        let prepare = |source| BpffsError::Prepare { path: path.to_path_buf(), source };
        // Between the open and the lock, a daemon that ends may have removed the folder: then again.
        for _ in 0..3 {
            let made = match DirBuilder::new().mode(0o700).create(path) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                Err(error) => return Err(prepare(error)),
            };
            let folder = match File::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(prepare)?,
            };
            let lock = Flock::lock(folder, FlockArg::LockExclusiveNonblock)
                .map_err(|(_, _)| BpffsError::InUse { path: path.to_path_buf() })?;
            let same = |now: Metadata| lock.metadata().is_ok_and(|locked| locked.ino() == now.ino());
            if !fs::metadata(path).is_ok_and(same) {
                continue;
            }
            let made = made || holds_only_ours(path).map_err(prepare)?;
            let holds_life = path.join(MAPS).join(nat::LIFE).exists();
            return Ok(Self { path: path.to_path_buf(), made, holds_life, _lock: Some(lock) });
        }
        Err(BpffsError::InUse { path: path.to_path_buf() })
    }

    /// Whether nobody uses it now. Changes nothing.
    pub fn probe(path: &Path) -> Result<(), BpffsError> {
        let opened = File::open(path).map_err(|source| BpffsError::Prepare { path: path.to_path_buf(), source })?;
        let lock = Flock::lock(opened, FlockArg::LockSharedNonblock);
        lock.map(drop).map_err(|(_, _)| BpffsError::InUse { path: path.to_path_buf() })
    }

    /// Without asking whether a daemon uses it.
    pub fn seize(path: &Path) -> Self {
        Self { path: path.to_path_buf(), made: true, holds_life: false, _lock: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Pins these maps for as long as the value lives, so that another object can be loaded with them.
    pub fn lend<'a>(&self, maps: impl Iterator<Item = (&'a str, &'a Map)>) -> Result<Lent, BpffsError> {
        Lent::pin(self.path.join(LENT), maps)
    }

    /// Where the maps of the packet datapaths are.
    pub fn maps(&self) -> PathBuf {
        self.path.join(MAPS)
    }

    /// Where their links are.
    pub fn links(&self) -> PathBuf {
        self.path.join(LINKS)
    }

    /// Makes both.
    pub fn make_folders(&self) -> io::Result<()> {
        [self.maps(), self.links()].into_iter().try_for_each(|folder| {
            match DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            }
        })
    }

    /// The orderly end: nothing stays. Without it what another daemon left stays for the next one, which may do better.
    pub fn release(mut self) {
        self.holds_life = false;
    }

    /// Detaches all programs.
    pub fn detach(&self) -> io::Result<()> {
        empty(&self.links())
    }

    /// Removes what daemons pin, and nothing else: the folder may be another program's too. Links first: no program is
    /// to be left without its maps.
    pub fn clear(&mut self) -> io::Result<()> {
        self.detach()?;
        lent::remove(&self.path.join(LENT))?;
        empty(&self.maps())?;
        self.holds_life = false;
        gone(fs::remove_file(self.path.join(names::TARGETS)))
    }
}

/// What is pinned below the folder; nothing where there is none.
pub fn pinned(path: &Path) -> io::Result<Pinned> {
    let mut maps = names(&path.join(MAPS))?;
    maps.extend(names(path)?.into_iter().filter(|name| name == names::TARGETS));
    Ok(Pinned { links: names(&path.join(LINKS))?, maps })
}

/// Removes a folder and what is in it.
fn empty(folder: &Path) -> io::Result<()> {
    for name in names(folder)? {
        gone(fs::remove_file(folder.join(name)))?;
    }
    gone(fs::remove_dir(folder))
}

/// Nothing there to be removed is as good as removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The names in a folder; none where there is no folder.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<String>>>()?;
    names.sort();
    Ok(names)
}

/// What a daemon that was killed leaves behind.
fn holds_only_ours(path: &Path) -> io::Result<bool> {
    Ok(names(path)?.iter().all(|name| [names::TARGETS, MAPS, LINKS, LENT].contains(&name.as_str())))
}

impl Drop for PinDir {
    fn drop(&mut self) {
        if self.holds_life {
            return;
        }
        let removed = self.clear().and_then(|()| if self.made { fs::remove_dir(&self.path) } else { Ok(()) });
        match removed {
            // Made for us by somebody with more privileges, who keeps it: empty is all that it must be.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => tracing::warn!(%error, path = %self.path.display(), "the pins are not removed"),
            Ok(()) => {}
        }
    }
}

/// Mounts a bpffs on its usual place only: anywhere else it would hide what is there.
fn ensure_mounted(root: &Path) -> Result<(), BpffsError> {
    if statfs(root).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    let usual = Path::new(DEFAULT_DIR).parent();
    let mounted = if usual == Some(root) {
        mount(Some("bpf"), root, Some("bpf"), MsFlags::empty(), None::<&str>)
    } else {
        Err(Errno::EINVAL)
    };
    mounted.map_err(|source| BpffsError::Mount { path: root.to_path_buf(), source })
}
