//! Numbers, durations and sizes as they are written, with the range that makes sense for each.
//! A parser here is a closure over its range, so that a key is one line where it is read.

use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use humantime::{format_duration, parse_duration};

use super::{
    Lag,
    errors::{Invalid, quoted},
    raw::{Kind, Value},
};

pub(super) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(super) const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A whole number. Text is read too, for flags: in a file it is a mistake, but a harmless one.
pub(super) fn number(range: RangeInclusive<u32>) -> impl Fn(&Value) -> Result<u32, Invalid> {
    move |value| {
        let valid = || format!("valid: a whole number from {} to {}", range.start(), range.end());
        let number = match &value.kind {
            Kind::Integer(number) => *number,
            Kind::Text(text) => {
                text.parse().map_err(|_| Invalid::new(format!("{} is not a whole number", quoted(text)), valid()))?
            }
            other => return Err(Invalid::new(format!("is {}, not a whole number", other.describe()), valid())),
        };
        u32::try_from(number)
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| Invalid::new(format!("{number} is out of range"), valid()))
    }
}

/// A duration within the range.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Value) -> Result<Duration, Invalid> {
    move |value| within(read_duration(value, &span(&range))?, &range, &span(&range))
}

/// Zero (with the meaning given), or a duration within the range.
pub(super) fn duration_or_zero(
    zero: &str,
    range: RangeInclusive<Duration>,
) -> impl Fn(&Value) -> Result<Duration, Invalid> {
    let valid = format!("{}, or \"0s\" for {zero}", span(&range));
    move |value| match read_duration(value, &valid)? {
        Duration::ZERO => Ok(Duration::ZERO),
        duration => within(duration, &range, &valid),
    }
}

fn span(range: &RangeInclusive<Duration>) -> String {
    format!("valid: \"{}\" to \"{}\"", format_duration(*range.start()), format_duration(*range.end()))
}

fn within(duration: Duration, range: &RangeInclusive<Duration>, valid: &str) -> Result<Duration, Invalid> {
    if range.contains(&duration) {
        return Ok(duration);
    }
    Err(Invalid::new(format!("\"{}\" is out of range", format_duration(duration)), valid))
}

fn read_duration(value: &Value, valid: &str) -> Result<Duration, Invalid> {
    let unit = "with a unit (ms, s, m, h, d)";
    match &value.kind {
        Kind::Text(text) => {
            parse_duration(text).map_err(|_| Invalid::new(format!("{} is not a duration {unit}", quoted(text)), valid))
        }
        Kind::Integer(number) => {
            Err(Invalid::new(format!("{number} is a number, not a string {unit}"), format!("{valid}, in quotes")))
        }
        other => Err(Invalid::new(format!("is {}, not a duration {unit}", other.describe()), valid)),
    }
}

/// The longer units first: each of them ends in `b` too.
const SIZES: [(&str, u64); 4] = [("kb", 1 << 10), ("mb", 1 << 20), ("gb", 1 << 30), ("b", 1)];
const LAG_VALID: &str =
    "valid: a duration from \"1s\" to \"1day\", or bytes such as \"4096b\", \"64kb\", \"1mb\", \"1gb\"";

impl FromStr for Lag {
    type Err = Invalid;

    /// A duration (`10s`), or bytes (`4096b`, `64kb`, `1mb`). `10m` is ten minutes, as everywhere else.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |what| Invalid::new(format!("{} {what}", quoted(text)), LAG_VALID);
        if let Ok(duration) = parse_duration(text) {
            let fits = (secs(1)..=secs(86_400)).contains(&duration);
            return fits.then_some(Self::Time(duration)).ok_or_else(|| invalid("is out of range"));
        }
        let lower = text.to_ascii_lowercase();
        let neither = || invalid("is neither a duration nor a number of bytes");
        let sized = SIZES.iter().find_map(|(unit, size)| Some((lower.strip_suffix(unit)?, size)));
        let (count, size) = sized.ok_or_else(neither)?;
        let count: u64 = count.parse().map_err(|_| neither())?;
        count.checked_mul(*size).filter(|bytes| *bytes > 0).map(Self::Bytes).ok_or_else(|| invalid("is out of range"))
    }
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(duration) => format_duration(*duration).fmt(f),
            Self::Bytes(bytes) => write!(f, "{bytes}b"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_a_time_or_bytes() {
        for (text, lag) in [
            ("10s", Lag::Time(secs(10))),
            ("10m", Lag::Time(secs(600))),
            ("4096b", Lag::Bytes(4096)),
            ("64kb", Lag::Bytes(65_536)),
            ("1mb", Lag::Bytes(1 << 20)),
            ("1GB", Lag::Bytes(1 << 30)),
        ] {
            assert_eq!(text.parse(), Ok(lag), "{text}");
            assert_eq!(lag.to_string().parse(), Ok(lag), "{text} printed and read again");
        }
        for text in ["", "10", "0b", "0s", "mb", "-1mb", "1tb", "99999999999gb", "3days", "500ms"] {
            assert!(text.parse::<Lag>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_needs_its_unit_and_its_range() {
        let read = duration(ms(10)..=secs(60));
        let of = |kind| read(&Value { at: None, kind });
        assert_eq!(of(Kind::Text("1m".into())), Ok(secs(60)));
        for (kind, what) in [
            (Kind::Text("5ms".into()), "\"5ms\" is out of range; valid: \"10ms\" to \"1m\""),
            (Kind::Text("500".into()), "is not a duration with a unit"),
            (Kind::Integer(500), "500 is a number, not a string with a unit"),
            (Kind::Boolean(true), "is true or false, not a duration"),
        ] {
            let error = of(kind).expect_err(what).to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_number_has_its_range() {
        let read = number(1..=10);
        let of = |kind| read(&Value { at: None, kind });
        assert_eq!(of(Kind::Integer(10)), Ok(10));
        assert_eq!(of(Kind::Text("7".into())), Ok(7));
        for kind in [Kind::Integer(0), Kind::Integer(-1), Kind::Integer(i128::MAX), Kind::Text("x".into()), Kind::Float]
        {
            let error = of(kind).expect_err("out of range").to_string();
            assert!(error.ends_with("valid: a whole number from 1 to 10"), "{error}");
        }
    }
}
