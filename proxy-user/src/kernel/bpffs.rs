//! The folder of the pinned maps: mounts bpffs where there is none, and keeps a second daemon out.
//! Leaves nothing behind: pins are removed when the daemon stops.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Where the pins live unless a test says otherwise.
pub const DEFAULT_DIR: &str = "/sys/fs/bpf/switchmaster";

#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    #[error("{path} is no bpffs and cannot be made one ({source}); mount it: mount -t bpf bpf {path}")]
    Mount { path: PathBuf, source: nix::Error },
    #[error("{path} cannot be prepared: {source}")]
    Prepare { path: PathBuf, source: io::Error },
    #[error("another switchmaster uses {path}; stop it, or give this one a folder of its own with --pin-dir")]
    InUse { path: PathBuf },
}

/// The folder, held for this process alone as long as the value lives.
#[derive(Debug)]
pub struct PinDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl PinDir {
    pub fn claim(path: &Path) -> Result<Self, BpffsError> {
        let root = path.parent().unwrap_or(path);
        ensure_mounted(root)?;
        let prepare = |source| BpffsError::Prepare { path: path.to_path_buf(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(prepare)?;
        let lock = Flock::lock(File::open(path).map_err(prepare)?, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, _)| BpffsError::InUse { path: path.to_path_buf() })?;
        let dir = Self { path: path.to_path_buf(), _lock: lock };
        // A daemon that was killed left its pins; nothing uses them any more, or the lock were held.
        dir.clear().map_err(prepare)?;
        Ok(dir)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        let removed = self.clear().and_then(|()| match fs::remove_dir(&self.path) {
            // Made for us by somebody with more privileges, who keeps it: empty is all that it must be.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            removed => removed,
        });
        if let Err(error) = removed {
            tracing::warn!(%error, path = %self.path.display(), "the pins are not removed");
        }
    }
}

fn ensure_mounted(root: &Path) -> Result<(), BpffsError> {
    let mounted = || statfs(root).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC);
    if mounted() {
        return Ok(());
    }
    mount(Some("bpf"), root, Some("bpf"), MsFlags::empty(), None::<&str>)
        .map_err(|source| BpffsError::Mount { path: root.to_path_buf(), source })
}
