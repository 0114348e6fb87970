//! Our source ports in net.ipv4.ip_local_reserved_ports, for as long as they are ours.
//! Needs CAP_NET_ADMIN over the network namespace to write. Promises: takes back what it added, and no port more.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::ports::{LOCAL_RANGE, PortRange, PortsError, RESERVED, Reserved, check};

/// Shows the settings of the network namespace that the thread is in.
const SYSCTL: &str = "/proc/sys";

#[derive(Debug, thiserror::Error)]
pub enum ReservationError {
    #[error("the setting {name} cannot be read: {source}")]
    Read { name: &'static str, source: io::Error },
    #[error("the ports {ours} cannot be reserved: {source}; do it for us: `sysctl -w {RESERVED}={proposal}`")]
    Write { ours: PortRange, proposal: Reserved, source: io::Error },
    #[error("the ports {0} stay in the setting {RESERVED}: {1}")]
    Release(Reserved, #[source] io::Error),
    #[error(transparent)]
    Ports(#[from] PortsError),
}

/// Ports that were reserved by us. Stay so if this is dropped without [`Reservation::release`], as a daemon that is
/// killed leaves its flows to the kernel.
#[derive(Debug)]
pub struct Reservation {
    root: PathBuf,
    /// What was not reserved before.
    added: Reserved,
}

/// Whether the kernel leaves these ports alone as things are.
pub fn checked(ours: PortRange) -> Result<(), ReservationError> {
    checked_at(Path::new(SYSCTL), ours)
}

fn checked_at(root: &Path, ours: PortRange) -> Result<(), ReservationError> {
    let local = PortRange::parse_local(&read(root, LOCAL_RANGE)?)?;
    Ok(check(ours, local, &Reserved::parse(&read(root, RESERVED)?)?)?)
}

impl Reservation {
    /// Reserves these ports, also where the kernel gives out others now: that is set by somebody else.
    pub fn make(ours: PortRange) -> Result<Self, ReservationError> {
        Self::make_at(Path::new(SYSCTL), ours)
    }

    fn make_at(root: &Path, ours: PortRange) -> Result<Self, ReservationError> {
        let before = Reserved::parse(&read(root, RESERVED)?)?;
        let added = Reserved::from(ours).without(&before);
        let this = Self { root: root.to_owned(), added };
        if !this.added.is_empty() {
            let proposal = before.with(ours);
            write(root, &proposal).map_err(|source| ReservationError::Write { ours, proposal, source })?;
        }
        Ok(this)
    }

    /// What was added, for whoever has to take it back after a crash: [`Reservation::of`].
    pub fn added(&self) -> &Reserved {
        &self.added
    }

    /// The reservation of an earlier daemon.
    pub fn of(added: Reserved) -> Self {
        Self { root: SYSCTL.into(), added }
    }

    /// Takes back what was added. What others reserved meanwhile stays.
    pub fn release(self) -> Result<(), ReservationError> {
        if self.added.is_empty() {
            return Ok(());
        }
        let left = Reserved::parse(&read(&self.root, RESERVED)?)?.without(&self.added);
        write(&self.root, &left).map_err(|source| ReservationError::Release(self.added, source))
    }
}

fn path(root: &Path, name: &str) -> PathBuf {
    root.join(name.replace('.', "/"))
}

fn read(root: &Path, name: &'static str) -> Result<String, ReservationError> {
    fs::read_to_string(path(root, name)).map_err(|source| ReservationError::Read { name, source })
}

/// In one call: each is a setting of its own. An empty line empties it (proc_do_large_bitmap).
fn write(root: &Path, ports: &Reserved) -> io::Result<()> {
    fs::write(path(root, RESERVED), format!("{ports}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(local: &str, reserved: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("net/ipv4")).unwrap();
        fs::write(path(dir.path(), LOCAL_RANGE), local).unwrap();
        fs::write(path(dir.path(), RESERVED), reserved).unwrap();
        dir
    }

    #[test]
    fn a_reservation_is_taken_back_and_nothing_else() {
        let ours = PortRange { first: 40000, last: 40009 };
        let dir = settings("32768\t60999\n", "8080,40005\n");
        assert!(matches!(checked_at(dir.path(), ours), Err(ReservationError::Ports(PortsError::Overlap { .. }))));
        let reservation = Reservation::make_at(dir.path(), ours).unwrap();
        assert_eq!(reservation.added().to_string(), "40000-40004,40006-40009");
        checked_at(dir.path(), ours).unwrap();
        // Somebody else reserves a port meanwhile.
        fs::write(path(dir.path(), RESERVED), "8080,9090,40000-40009\n").unwrap();
        reservation.release().unwrap();
        assert_eq!(read(dir.path(), RESERVED).unwrap(), "8080,9090,40005\n");
    }

    #[test]
    fn what_is_reserved_already_is_left_alone() {
        let ours = PortRange { first: 40000, last: 40009 };
        let dir = settings("32768\t60999\n", "39000-41000\n");
        let reservation = Reservation::make_at(dir.path(), ours).unwrap();
        assert!(reservation.added().is_empty());
        reservation.release().unwrap();
        assert_eq!(read(dir.path(), RESERVED).unwrap(), "39000-41000\n");
    }

    #[test]
    fn this_kernel_s_settings_are_understood() {
        // Whether they fit is the host's affair.
        if let Err(error) = checked(super::super::ports::DEFAULT) {
            assert!(matches!(error, ReservationError::Ports(PortsError::Overlap { .. })), "{error}");
        }
    }
}
