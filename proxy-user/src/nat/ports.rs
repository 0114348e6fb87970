//! The source ports on an address that are ours alone: pure. They must be none that the kernel gives to the
//! host's own sockets, or the answers to those would be taken for ours.

use std::{collections::BTreeSet, fmt, num::ParseIntError};

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

/// Below where every common kernel begins to give ports to its own sockets (32768).
pub const DEFAULT: PortRange = PortRange { first: 10000, last: 31999 };

pub const LOCAL_RANGE: &str = "net.ipv4.ip_local_port_range";
pub const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PortsError {
    #[error("{text:?} is no list of ports and ranges such as \"8080,10000-31999\": {why}")]
    Syntax { text: String, why: String },
    #[error(
        "the source ports {ours} overlap those that the kernel gives to the host's own connections \
         ({LOCAL_RANGE} is {theirs}): reserve them (`sysctl -w {RESERVED}={proposal}`), or choose others"
    )]
    Overlap { ours: PortRange, theirs: PortRange, proposal: Reserved },
}

impl PortRange {
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    pub fn count(self) -> u32 {
        u32::from(self.last) + 1 - u32::from(self.first)
    }

    /// As `ip_local_port_range` is written: two numbers with white space between.
    pub fn parse_local(text: &str) -> Result<Self, PortsError> {
        let wrong = |why: &str| PortsError::Syntax { text: text.trim().to_owned(), why: why.to_owned() };
        let mut numbers = text.split_ascii_whitespace();
        let (Some(first), Some(last), None) = (numbers.next(), numbers.next(), numbers.next()) else {
            return Err(wrong("it is not two numbers"));
        };
        Self::new(first, last).map_err(|why| wrong(&why))
    }

    fn new(first: &str, last: &str) -> Result<Self, String> {
        let port = |text: &str| text.trim().parse().map_err(|error: ParseIntError| error.to_string());
        let range = Self { first: port(first)?, last: port(last)? };
        if range.first > range.last { Err("it ends before it begins".to_owned()) } else { Ok(range) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// A set of ports, as ranges: apart from each other and in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reserved(Vec<PortRange>);

impl Reserved {
    /// As `ip_local_reserved_ports` is written: ports and ranges with commas between, or nothing.
    pub fn parse(text: &str) -> Result<Self, PortsError> {
        let mut ranges = Vec::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = PortRange::new(first, last);
            ranges.push(range.map_err(|why| PortsError::Syntax { text: text.trim().to_owned(), why })?);
        }
        Ok(Self::merged(ranges))
    }

    /// These ports and a range more.
    pub fn with(&self, range: PortRange) -> Self {
        Self::merged(self.0.iter().copied().chain([range]).collect())
    }

    /// These ports without those.
    pub fn without(&self, others: &Self) -> Self {
        Self(
            others
                .0
                .iter()
                .fold(self.0.clone(), |left, cut| left.into_iter().flat_map(|range| cut_out(range, *cut)).collect()),
        )
    }

    pub fn contains(&self, range: PortRange) -> bool {
        self.0.iter().any(|own| own.first <= range.first && range.last <= own.last)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn merged(mut ranges: Vec<PortRange>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.first <= last.last.saturating_add(1) => last.last = last.last.max(range.last),
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl From<PortRange> for Reserved {
    fn from(range: PortRange) -> Self {
        Self(vec![range])
    }
}

/// What is left of a range before and after another one.
fn cut_out(range: PortRange, cut: PortRange) -> impl Iterator<Item = PortRange> {
    let before = cut.first.checked_sub(1).map(|last| PortRange { first: range.first, last: last.min(range.last) });
    let after = cut.last.checked_add(1).map(|first| PortRange { first: first.max(range.first), last: range.last });
    before.into_iter().chain(after).filter(|left| left.first <= left.last)
}

impl fmt::Display for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Whether the kernel leaves `ours` alone: `local` is what it gives out, but for what is reserved.
pub fn check(ours: PortRange, local: PortRange, reserved: &Reserved) -> Result<(), PortsError> {
    let shared = PortRange { first: ours.first.max(local.first), last: ours.last.min(local.last) };
    if shared.first > shared.last || reserved.contains(shared) {
        return Ok(());
    }
    Err(PortsError::Overlap { ours, theirs: local, proposal: reserved.with(ours) })
}

/// Those of our ports on an address that a socket of this host holds now: they are not for us.
pub fn held(ours: PortRange, sockets: impl IntoIterator<Item = u16>) -> BTreeSet<u16> {
    sockets.into_iter().filter(|port| ours.contains(*port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }

    fn reserved(text: &str) -> Reserved {
        Reserved::parse(text).unwrap()
    }

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(PortRange::parse_local("32768\t60999\n"), Ok(range(32768, 60999)));
        for wrong in ["", "1", "1 2 3", "9 8", "1 65536", "a b", "-1 5"] {
            assert!(PortRange::parse_local(wrong).is_err(), "{wrong:?}");
        }
        assert!(reserved("\n").is_empty());
        assert_eq!(reserved("8080,9000-9100\n").to_string(), "8080,9000-9100");
        assert_eq!(reserved("7-9,1-3,4,8-20,65535").to_string(), "1-4,7-20,65535");
        for wrong in ["x", "1-", "-", "5-4", "70000", "1 2"] {
            assert!(Reserved::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_range_goes_in_and_comes_out_again_as_it_was() {
        let before = reserved("100-200,11000,65535");
        let with = before.with(DEFAULT);
        assert_eq!(with.to_string(), "100-200,10000-31999,65535");
        let added = Reserved::from(DEFAULT).without(&before);
        assert_eq!(added.to_string(), "10000-10999,11001-31999");
        assert_eq!(with.without(&added), before);
        assert_eq!(reserved("0-65535").without(&reserved("0-65535")), Reserved::default());
        assert_eq!(reserved("5-9").without(&reserved("0-4,10-20")), reserved("5-9"));
        assert_eq!(reserved("0-9").without(&reserved("0,9")), reserved("1-8"));
    }

    #[test]
    fn ports_that_the_kernel_gives_out_are_refused_unless_reserved() {
        let local = range(32768, 60999);
        let none = Reserved::default();
        let cases = [
            (DEFAULT, "", true),
            (range(32767, 32767), "", true),
            (range(32768, 32768), "", false),
            (range(61000, 65535), "", true),
            (range(60999, 65535), "", false),
            (range(1024, 65535), "", false),
            (range(20000, 40000), "32768-40000", true),
            (range(20000, 40000), "20000-39999", false),
            (range(20000, 40000), "20000-35000,35001-40000", true),
            (range(40000, 40010), "40000-40004,40006-40010", false),
        ];
        for (ours, text, fine) in cases {
            assert_eq!(check(ours, local, &reserved(text)).is_ok(), fine, "{ours} with {text:?}");
        }
        let error = check(range(30000, 40000), local, &none.with(range(8080, 8080))).unwrap_err().to_string();
        assert!(error.contains("net.ipv4.ip_local_reserved_ports=8080,30000-40000"), "{error}");
    }

    #[test]
    fn ports_of_sockets_are_held() {
        assert_eq!(held(range(10, 20), [9, 10, 15, 15, 20, 21]), BTreeSet::from([10, 15, 20]));
        assert_eq!((DEFAULT.count(), range(0, 65535).count()), (22_000, 65_536));
    }
}
