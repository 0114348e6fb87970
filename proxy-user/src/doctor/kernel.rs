//! The kernel's version, against the list of sockmap faults that stable kernels had.
//! A distribution may have mended its kernel without telling by the number, so this only warns.

use std::{fmt, fs};

use super::{Check, State};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl Version {
    /// `6.1.142-1-amd64` is 6.1.142; `6.16-rc1` is 6.16.0.
    fn parse(release: &str) -> Option<Self> {
        let plain = release.split(['-', '+', '_', ' ']).next()?;
        let mut numbers = plain.trim().split('.').map(|it| it.parse::<u32>().ok());
        Some(Self(numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// CVE-2025-38154: a socket is used after it was freed when a queued redirect meets close(2). The
/// fix is in each of these and in what follows within the series; 6.16 and later were born with it.
const MENDED: [Version; 5] =
    [Version(5, 15, 186), Version(6, 1, 142), Version(6, 6, 94), Version(6, 12, 34), Version(6, 15, 3)];
const BORN_MENDED: Version = Version(6, 16, 0);
/// A verdict program without a parser: 5.10 (ef5659280eb1).
const SOCKMAP_MIN: Version = Version(5, 10, 0);

/// `None`: no known fault. Otherwise what to move to.
fn floor(version: Version) -> Option<String> {
    if version >= BORN_MENDED {
        return None;
    }
    match MENDED.iter().find(|it| (it.0, it.1) == (version.0, version.1)) {
        Some(mended) if version >= *mended => None,
        Some(mended) => Some(format!("update to {mended} or later of this series")),
        None => Some("update to a kernel of a maintained series: 6.12.34, 6.16 or later".to_owned()),
    }
}

pub(super) fn check() -> Check {
    match release() {
        Some(release) => Check::ok("kernel", release),
        None => Check::bad("kernel", State::Unknown, "/proc/sys/kernel/osrelease cannot be read", "mount /proc"),
    }
}

pub(super) fn sockmap_floor() -> Check {
    judge(release().as_deref().and_then(Version::parse))
}

fn judge(version: Option<Version>) -> Check {
    const NAME: &str = "kernel's sockmap";
    let Some(version) = version else {
        return Check::bad(NAME, State::Unknown, "the kernel's version cannot be read", "");
    };
    if version < SOCKMAP_MIN {
        let found = format!("{version} is older than {SOCKMAP_MIN}, the first that can splice without a parser");
        return Check::bad(NAME, State::No, found, "use a newer kernel, or datapath = \"copy\"");
    }
    match floor(version) {
        None => Check::ok(NAME, "no known fault in this version"),
        Some(update) => Check::bad(
            NAME,
            State::Warn,
            format!("{version} may lack the fix of CVE-2025-38154 (unless the distribution backported it)"),
            format!("{update}, or use datapath = \"copy\""),
        ),
    }
}

pub(super) fn release() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_parse() {
        for (release, version) in [
            ("6.18.44-fc-v657", Some(Version(6, 18, 44))),
            ("6.1.0-37-amd64", Some(Version(6, 1, 0))),
            ("6.16-rc1", Some(Version(6, 16, 0))),
            ("5.15.186+", Some(Version(5, 15, 186))),
            ("5.15.167.4-microsoft-standard-WSL2", Some(Version(5, 15, 167))),
            ("six", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(release), version, "{release}");
        }
    }

    #[test]
    fn the_floor_of_each_series() {
        for (version, state) in [
            (Version(4, 19, 300), State::No),
            (Version(5, 10, 240), State::Warn),
            (Version(5, 15, 185), State::Warn),
            (Version(5, 15, 186), State::Ok),
            (Version(6, 1, 141), State::Warn),
            (Version(6, 6, 94), State::Ok),
            (Version(6, 8, 12), State::Warn),
            (Version(6, 12, 33), State::Warn),
            (Version(6, 15, 2), State::Warn),
            (Version(6, 16, 0), State::Ok),
            (Version(7, 0, 0), State::Ok),
        ] {
            let check = judge(Some(version));
            assert_eq!(check.state, state, "{version}");
            assert_eq!(check.remedy.is_empty(), state == State::Ok, "{version}");
        }
    }
}
