//! The links that attach a packet program to interfaces, pinned: the program stays attached when the daemon is killed, and
//! the next one puts its own program into the same link, without a packet in between. The pin alone holds a link:
//! who removes it detaches the program. One file for each program and interface, named after both.

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use aya::{
    pin::PinError,
    programs::links::{FdLink, LinkError, PinnedLink},
};

#[derive(Debug)]
pub struct Links {
    folder: PathBuf,
    program: &'static str,
}

impl Links {
    pub fn new(folder: PathBuf, program: &'static str) -> Self {
        Self { folder, program }
    }

    /// The interfaces that the program is attached to, by whichever daemon.
    pub fn found(&self) -> io::Result<BTreeSet<u32>> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            found.extend(name.to_str().and_then(parse).filter(|(program, _)| *program == self.program).map(|it| it.1));
        }
        Ok(found)
    }

    /// The link that is pinned for this interface. What it is attached to may be gone.
    pub fn open(&self, ifindex: u32) -> Result<FdLink, LinkError> {
        PinnedLink::from_pin(self.path(ifindex)).map(FdLink::from)
    }

    pub fn keep(&self, ifindex: u32, link: FdLink) -> Result<(), PinError> {
        link.pin(self.path(ifindex)).map(drop)
    }

    /// Detaches the program.
    pub fn remove(&self, ifindex: u32) -> io::Result<()> {
        match fs::remove_file(self.path(ifindex)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn path(&self, ifindex: u32) -> PathBuf {
        // A name on bpffs has no dots.
        self.folder.join(format!("{}-{ifindex}", self.program))
    }
}

fn parse(name: &str) -> Option<(&str, u32)> {
    let (program, ifindex) = name.rsplit_once('-')?;
    Some((program, ifindex.parse().ok()?))
}

/// The interfaces of all pinned links, for whoever looks from outside.
pub fn interfaces(names: &[String]) -> BTreeSet<u32> {
    names.iter().filter_map(|name| parse(name)).map(|(_, ifindex)| ifindex).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_found_by_its_program() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["nat_tc-3", "nat_tc-17", "nat_xdp-3", "nat_tc", "other"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let links = Links::new(folder.path().to_owned(), "nat_tc");
        assert_eq!(links.found().unwrap(), BTreeSet::from([3, 17]));
        links.remove(17).unwrap();
        links.remove(17).unwrap();
        assert_eq!(links.found().unwrap(), BTreeSet::from([3]));
    }
}
