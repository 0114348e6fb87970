//! The folder of the pinned maps: mounts bpffs where there is none, and keeps a second daemon out.
//! Leaves nothing behind: pins are removed when the daemon stops.

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
use proxy_ebpf::names;

use super::lent::{self, Lent};

/// Where the pins live unless a test says otherwise.
pub const DEFAULT_DIR: &str = "/sys/fs/bpf/switchmaster";

/// All that the daemon ever pins.
const PINS: [&str; 1] = [names::TARGETS];
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
    _lock: Flock<File>,
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
            let dir =
                Self { path: path.to_path_buf(), made: made || holds_only_ours(path).map_err(prepare)?, _lock: lock };
            // A daemon that was killed left its pins; nothing uses them any more, or the lock were held.
            dir.clear().map_err(prepare)?;
            return Ok(dir);
        }
        Err(BpffsError::InUse { path: path.to_path_buf() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Pins these maps for as long as the value lives, so that another object can be loaded with them.
    pub fn lend<'a>(&self, maps: impl Iterator<Item = (&'a str, &'a Map)>) -> Result<Lent, BpffsError> {
        Lent::pin(self.path.join(LENT), maps)
    }

    /// Removes what the daemon pins, and nothing else: the folder may be another program's too.
    fn clear(&self) -> io::Result<()> {
        lent::remove(&self.path.join(LENT))?;
        for name in PINS {
            match fs::remove_file(self.path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// What a daemon that was killed leaves behind.
fn holds_only_ours(path: &Path) -> io::Result<bool> {
    let mut names =
        fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.retain(|name| name != LENT && !PINS.iter().any(|pin| name == pin));
    Ok(names.is_empty())
}

impl Drop for PinDir {
    fn drop(&mut self) {
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
