//! What Sentinels answer, as plain fields. Pure. Every reply is a list of name and value pairs, flat in
//! RESP2; names that are not known are left alone, so that newer servers may add to them.

use redis::Value;

use super::fault::Fault;

/// An address as a Sentinel writes it: the host may be a name (`announce-hostnames`).
pub(super) type Written = (String, u16);

/// `SENTINEL MASTER name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MasterReply {
    /// The server this Sentinel watches as master: during a failover that it leads, still the old one.
    pub(super) watched: Written,
    pub(super) epoch: u64,
    pub(super) down: bool,
    /// How many Sentinels this one knows of, itself included.
    pub(super) sentinels: usize,
}

/// One entry of `SENTINEL SENTINELS name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PeerReply {
    pub(super) at: Written,
    pub(super) id: String,
}

/// `SENTINEL GET-MASTER-ADDR-BY-NAME name`: where this Sentinel sends clients. None: it knows no such name.
pub(super) fn address(value: &Value) -> Result<Option<Written>, Fault> {
    if *value == Value::Nil {
        return Ok(None);
    }
    let words = value.as_sequence().ok_or_else(|| missing("address"))?;
    let [host, port] = words else { return Err(missing("address")) };
    let port = text(port).and_then(|port| port.parse().ok()).filter(|port| *port != 0);
    let host = text(host).filter(|host| !host.is_empty());
    host.zip(port).map(|(host, port)| Some((host.to_owned(), port))).ok_or_else(|| missing("address"))
}

/// The address that the epoch between two answers belongs to; None if it changed meanwhile.
///
/// `SENTINEL MASTER` alone will not do: the leader of a failover has the new epoch from the moment of
/// the promotion, but goes on watching the old address until the replicas follow. Where it sends clients changes
/// in the same step as the epoch, so the same address before and after is the epoch's own.
pub(super) fn steady(before: Option<Written>, after: Option<&Written>) -> Option<Written> {
    before.filter(|before| Some(before) == after)
}

pub(super) fn master(value: &Value) -> Result<MasterReply, Fault> {
    let fields = Fields::of(value)?;
    let flags = fields.get("flags").unwrap_or_default();
    let down = flags.split(',').any(|flag| matches!(flag, "s_down" | "o_down" | "failover_in_progress"));
    let epoch = fields.number("config-epoch").ok_or_else(|| missing("config-epoch"))?;
    let others = fields.number("num-other-sentinels").unwrap_or(0);
    let sentinels = usize::try_from(others).unwrap_or(usize::MAX).saturating_add(1);
    Ok(MasterReply { watched: fields.address().ok_or_else(|| missing("ip or port"))?, epoch, down, sentinels })
}

/// `SENTINEL SENTINELS`; an entry without an address is one that the Sentinel itself cannot reach yet.
pub(super) fn sentinels(value: &Value, most: usize) -> Result<Vec<PeerReply>, Fault> {
    let peers = entries(value, most)?.filter_map(|fields| {
        let at = fields.address()?;
        let id =
            fields.get("runid").filter(|id| !id.is_empty()).map_or_else(|| format!("{}:{}", at.0, at.1), str::to_owned);
        Some(PeerReply { at, id })
    });
    Ok(peers.collect())
}

/// `SENTINEL REPLICAS`, or `SLAVES` of old servers.
pub(super) fn replicas(value: &Value, most: usize) -> Result<Vec<Written>, Fault> {
    Ok(entries(value, most)?.filter_map(|fields| fields.address()).collect())
}

/// A simple or bulk string.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

fn entries(value: &Value, most: usize) -> Result<impl Iterator<Item = Fields<'_>>, Fault> {
    let list = value.as_sequence().ok_or_else(|| Fault::protocol("not a Sentinel's list"))?;
    Ok(list.iter().take(most).filter_map(|entry| Fields::of(entry).ok()))
}

fn missing(field: &str) -> Fault {
    Fault::protocol(format_args!("not a Sentinel's answer: no valid {field} in it"))
}

/// Name and value pairs, as they came.
pub(super) struct Fields<'a>(Vec<(&'a str, &'a Value)>);

impl<'a> Fields<'a> {
    pub(super) fn of(value: &'a Value) -> Result<Self, Fault> {
        let pairs = value.as_map_iter().ok_or_else(|| Fault::protocol("not a list of names and values"))?;
        Ok(Self(pairs.filter_map(|(name, value)| Some((text(name)?, value))).collect()))
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == name).and_then(|(_, value)| text(value))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    fn address(&self) -> Option<Written> {
        let host = self.get("ip").filter(|host| !host.is_empty())?;
        let port = self.get("port")?.parse().ok().filter(|port| *port != 0)?;
        Some((host.to_owned(), port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(words: &[&str]) -> Value {
        Value::Array(words.iter().map(|word| Value::BulkString(word.as_bytes().to_vec())).collect())
    }

    #[test]
    fn a_master_reply_is_read() {
        let value = flat(&[
            "name",
            "m",
            "ip",
            "10.0.0.12",
            "port",
            "6379",
            "flags",
            "master,o_down",
            "config-epoch",
            "7",
            "num-other-sentinels",
            "2",
            "from-the-future",
            "x",
        ]);
        let expected = MasterReply { watched: ("10.0.0.12".into(), 6379), epoch: 7, down: true, sentinels: 3 };
        assert_eq!(master(&value), Ok(expected));
    }

    #[test]
    fn flags_are_matched_whole() {
        for (flags, down) in [
            ("master", false),
            ("master,s_down", true),
            ("master,failover_in_progress", true),
            ("master,not_s_down", false),
            ("", false),
        ] {
            let value = flat(&["ip", "::1", "port", "1", "config-epoch", "0", "flags", flags]);
            assert_eq!(master(&value).expect("valid").down, down, "{flags}");
        }
    }

    #[test]
    fn a_reply_that_lacks_the_epoch_or_the_address_is_refused() {
        for words in [
            &["ip", "10.0.0.1", "port", "6379"][..],
            &["ip", "", "port", "6379", "config-epoch", "1"],
            &["ip", "10.0.0.1", "port", "0", "config-epoch", "1"],
            &["ip", "10.0.0.1", "port", "65536", "config-epoch", "1"],
            &["ip", "10.0.0.1", "port", "6379", "config-epoch", "-1"],
            &[],
        ] {
            assert!(master(&flat(words)).is_err(), "{words:?}");
        }
        assert!(master(&Value::Okay).is_err());
        assert!(master(&Value::Nil).is_err());
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let expected: Written = ("fd00::1".into(), 6379);
        assert_eq!(address(&flat(&["fd00::1", "6379"])), Ok(Some(expected)));
        assert_eq!(address(&Value::Nil), Ok(None));
        for words in [&[][..], &["10.0.0.1"], &["10.0.0.1", "0"], &["10.0.0.1", "x"], &["", "1"], &["a", "1", "2"]] {
            assert!(address(&flat(words)).is_err(), "{words:?}");
        }
        assert!(address(&Value::Okay).is_err());
    }

    /// A promotion between any two of the three answers. The leader's address and epoch change at once.
    #[test]
    fn no_address_is_paired_with_another_ones_epoch() {
        let at = |promoted: bool| -> (Option<Written>, u64) {
            if promoted { (Some(("new".into(), 1)), 8) } else { (Some(("old".into(), 1)), 7) }
        };
        // How many of the three questions were answered before the promotion.
        for (unaware, expected) in [(3, Some(("old", 7))), (2, None), (1, None), (0, Some(("new", 8)))] {
            let [(before, _), (_, epoch), (after, _)] = [0, 1, 2].map(|asked| at(asked >= unaware));
            let paired = steady(before, after.as_ref()).map(|(host, _)| (host, epoch));
            assert_eq!(paired, expected.map(|(host, epoch)| (host.to_owned(), epoch)), "{unaware}");
        }
        assert_eq!(steady(None, None), None);
    }

    #[test]
    fn lists_are_cut_at_the_bound_and_skip_what_has_no_address() {
        let entry = flat(&["ip", "10.0.0.2", "port", "26379", "runid", "abc"]);
        let without = flat(&["ip", "", "port", "26379", "runid", "abc"]);
        let list = Value::Array(vec![without, entry.clone(), entry.clone(), entry]);
        assert_eq!(sentinels(&list, 3).expect("a list").len(), 2);
        assert_eq!(replicas(&list, 64).expect("a list").len(), 3);
        assert!(sentinels(&Value::Int(1), 3).is_err());
    }
}
