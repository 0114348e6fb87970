//! Maps of one object, pinned for the moment in which another is loaded with them: aya finds maps that are there by
//! their pins alone. Leaves no pin behind.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::maps::Map;

use super::bpffs::BpffsError;

#[derive(Debug)]
pub struct Lent {
    folder: PathBuf,
    names: Vec<String>,
}

impl Lent {
    pub(super) fn pin<'a>(folder: PathBuf, maps: impl Iterator<Item = (&'a str, &'a Map)>) -> Result<Self, BpffsError> {
        let prepare = |source| BpffsError::Prepare { path: folder.clone(), source };
        remove(&folder).and_then(|()| fs::create_dir(&folder)).map_err(prepare)?;
        let mut lent = Self { folder, names: Vec::new() };
        // Those of the compiler's own begin with a dot, which bpffs takes in no name; they are each object's own.
        for (name, map) in maps.filter(|(name, _)| !name.starts_with('.')) {
            let path = lent.folder.join(name);
            map.pin(&path).map_err(|source| BpffsError::Pin { path, source })?;
            lent.names.push(name.to_owned());
        }
        Ok(lent)
    }

    pub fn path(&self) -> &Path {
        &self.folder
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.folder) {
            tracing::warn!(%error, path = %self.folder.display(), "pins that are needed no more are not removed");
        }
    }
}

/// Also what a daemon left that was killed meanwhile.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
