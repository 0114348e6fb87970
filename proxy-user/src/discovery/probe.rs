//! What a node answers to HELLO, ROLE, PING and INFO, and what that makes it. Pure. HELLO comes first:
//! it needs only @connection. INFO, where allowed, adds lag and identity; it never says master alone.

use redis::Value;

use super::{
    dial::Reply,
    fault::Fault,
    reply::{Fields, Written, text},
};
use crate::election::Failure;

/// The role that a node says it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Master,
    Replica,
}

/// What became of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer<T> {
    Got(T),
    Loading,
    /// Not for this user, or not known to this server: do not ask again on this connection.
    Never,
    /// Not now: the server is busy with a script, or lost its master.
    NotNow,
}

/// `HELLO` without arguments. Redis 6.0 demands a version: then ROLE must do.
pub(super) fn hello(reply: &Reply) -> Result<Answer<Said>, Fault> {
    match reply {
        Reply::Refused { code, text } => refused(code, text),
        Reply::Value(value) => said(Fields::of(value)?.get("role").ok_or_else(|| no_node("no role in HELLO"))?),
    }
}

/// What ROLE says: of a replica also its master, link and offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RoleReply {
    pub(super) said: Said,
    pub(super) master: Option<Written>,
    pub(super) up: bool,
    pub(super) offset: Option<u64>,
}

pub(super) fn role(reply: &Reply) -> Result<Answer<RoleReply>, Fault> {
    let value = match reply {
        Reply::Refused { code, text } => return refused(code, text),
        Reply::Value(value) => value,
    };
    let words = value.as_sequence().ok_or_else(|| no_node("ROLE is no list"))?;
    let role = words.first().and_then(text).ok_or_else(|| no_node("no role in ROLE"))?;
    let Answer::Got(said) = said(role)? else { return Ok(Answer::Never) };
    let reply = match (&said, words) {
        (Said::Master, [_, offset, ..]) => RoleReply { said, master: None, up: false, offset: number(offset) },
        (Said::Replica, [_, host, port, state, offset, ..]) => RoleReply {
            said,
            master: text(host)
                .zip(number(port).and_then(|port| u16::try_from(port).ok()))
                .map(|(h, p)| (h.to_owned(), p)),
            up: text(state) == Some("connected"),
            offset: number(offset),
        },
        _ => return Err(no_node("ROLE is too short")),
    };
    Ok(Answer::Got(reply))
}

/// PING is the one question that a loading server refuses to every user.
pub(super) fn ping(reply: &Reply) -> Answer<()> {
    match reply {
        Reply::Refused { code, .. } if code == "LOADING" => Answer::Loading,
        Reply::Refused { .. } => Answer::NotNow,
        Reply::Value(_) => Answer::Got(()),
    }
}

/// What INFO says, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Info {
    pub(super) said: Option<Said>,
    pub(super) master: Option<Written>,
    pub(super) up: bool,
    pub(super) lag_seconds: Option<u64>,
    pub(super) master_offset: Option<u64>,
    pub(super) replica_offset: Option<u64>,
    pub(super) backlog: Option<bool>,
    pub(super) run_id: Option<String>,
    /// `master_replid` and, where there is one, `master_replid2`: the data set, as far as replication knows it. A master and its
    /// replicas share one.
    pub(super) histories: Vec<String>,
}

pub(super) fn info(reply: &Reply) -> Result<Answer<Info>, Fault> {
    match reply {
        Reply::Refused { code, text } => refused(code, text),
        Reply::Value(value) => Ok(Answer::Got(sections(text(value).ok_or_else(|| no_node("INFO is no text"))?))),
    }
}

fn sections(text: &str) -> Info {
    let mut info = Info::default();
    let (mut host, mut port) = (None, None);
    for (name, value) in text.lines().filter_map(|line| line.trim_end().split_once(':')) {
        match name {
            "role" => info.said = if value == "master" { Some(Said::Master) } else { Some(Said::Replica) },
            "master_host" => host = Some(value.to_owned()),
            "master_port" => port = value.parse().ok(),
            "master_link_status" => info.up = value == "up",
            // -1 while the link is down.
            "master_last_io_seconds_ago" => info.lag_seconds = value.parse().ok(),
            "master_repl_offset" => info.master_offset = value.parse().ok(),
            "slave_repl_offset" => info.replica_offset = value.parse().ok(),
            "repl_backlog_active" => info.backlog = Some(value == "1"),
            "run_id" => info.run_id = Some(value.to_owned()),
            // Nought: there is none.
            "master_replid" | "master_replid2" if value.bytes().any(|digit| digit != b'0') => {
                info.histories.push(value.to_owned());
            }
            _ => {}
        }
    }
    info.master = host.zip(port);
    info
}

fn said(role: &str) -> Result<Answer<Said>, Fault> {
    match role {
        "master" => Ok(Answer::Got(Said::Master)),
        "replica" | "slave" => Ok(Answer::Got(Said::Replica)),
        "sentinel" => Err(Fault::protocol("this is a Sentinel, not a node")),
        other => Err(no_node(format_args!("its role is {other}"))),
    }
}

fn refused<T>(code: &str, text: &str) -> Result<Answer<T>, Fault> {
    match code {
        "LOADING" => Ok(Answer::Loading),
        "BUSY" | "MASTERDOWN" | "TRYAGAIN" => Ok(Answer::NotNow),
        "NOAUTH" | "WRONGPASS" | "DENIED" => Err(Fault::new(Failure::Denied, text)),
        // Redis 5 knows no HELLO, 6.0 wants an argument, an ACL forbids: each time, another way may work.
        "NOPERM" | "ERR" | "NOPROTO" => Ok(Answer::Never),
        _ => Err(no_node(text)),
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    }
}

fn no_node(why: impl std::fmt::Display) -> Fault {
    Fault::protocol(format_args!("not a Redis node's answer: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn refused(code: &str) -> Reply {
        Reply::Refused { code: code.into(), text: format!("{code} why") }
    }

    fn hello_of(role: &str) -> Reply {
        let words = ["server", "redis", "proto"].map(bulk).into_iter();
        let words = words.chain([Value::Int(2), bulk("role"), bulk(role), bulk("modules"), Value::Array(vec![])]);
        Reply::Value(Value::Array(words.collect()))
    }

    #[test]
    fn hello_in_every_shape() {
        assert_eq!(hello(&hello_of("master")), Ok(Answer::Got(Said::Master)));
        assert_eq!(hello(&hello_of("replica")), Ok(Answer::Got(Said::Replica)));
        assert_eq!(hello(&refused("NOPERM")), Ok(Answer::Never));
        assert_eq!(hello(&refused("ERR")), Ok(Answer::Never));
        assert_eq!(hello(&refused("LOADING")), Ok(Answer::Loading));
        assert_eq!(hello(&refused("BUSY")), Ok(Answer::NotNow));
        for (reply, failure) in [
            (hello_of("sentinel"), Failure::Protocol),
            (hello_of("MASTER"), Failure::Protocol),
            (refused("NOAUTH"), Failure::Denied),
            (Reply::Value(Value::Int(1)), Failure::Protocol),
            (Reply::Value(Value::Array(vec![])), Failure::Protocol),
        ] {
            assert_eq!(hello(&reply).expect_err("refused").failure, failure, "{reply:?}");
        }
    }

    #[test]
    fn role_in_every_shape() {
        let master = Value::Array(vec![bulk("master"), Value::Int(5), Value::Array(vec![])]);
        let expected = RoleReply { said: Said::Master, master: None, up: false, offset: Some(5) };
        assert_eq!(role(&Reply::Value(master)), Ok(Answer::Got(expected)));
        for (state, up) in [("connected", true), ("connect", false), ("connecting", false), ("sync", false)] {
            let words = vec![bulk("slave"), bulk("fd00::1"), Value::Int(6379), bulk(state), Value::Int(-1)];
            let expected = RoleReply { said: Said::Replica, master: Some(("fd00::1".into(), 6379)), up, offset: None };
            assert_eq!(role(&Reply::Value(Value::Array(words))), Ok(Answer::Got(expected)), "{state}");
        }
        assert!(role(&Reply::Value(Value::Array(vec![bulk("slave")]))).is_err());
        assert!(role(&Reply::Value(Value::Array(vec![bulk("sentinel"), Value::Array(vec![])]))).is_err());
        assert!(role(&Reply::Value(Value::Okay)).is_err());
    }

    #[test]
    fn a_loading_server_shows_in_ping() {
        assert_eq!(ping(&refused("LOADING")), Answer::Loading);
        assert_eq!(ping(&refused("NOPERM")), Answer::NotNow);
        assert_eq!(ping(&refused("MASTERDOWN")), Answer::NotNow);
        assert_eq!(ping(&Reply::Value(Value::SimpleString("PONG".into()))), Answer::Got(()));
    }

    #[test]
    fn info_of_a_replica_and_of_a_master() {
        let text = "# Replication\r\nrole:slave\r\nmaster_host:fd00::1\r\nmaster_port:6379\r\nmaster_link_status:up\r\n\
                    master_last_io_seconds_ago:3\r\nslave_repl_offset:90\r\nmaster_replid:abc\r\nmaster_repl_offset:90\r\n";
        let info = sections(text);
        assert_eq!(info.said, Some(Said::Replica));
        assert_eq!(info.master, Some(("fd00::1".into(), 6379)));
        assert!(info.up);
        assert_eq!((info.lag_seconds, info.replica_offset), (Some(3), Some(90)));
        let down = sections("role:slave\r\nmaster_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\n");
        assert_eq!((down.up, down.lag_seconds, down.master), (false, None, None));
        let master = sections("role:master\r\nmaster_repl_offset:7\r\nrepl_backlog_active:1\r\nrun_id:x\r\n");
        assert_eq!((master.said, master.master_offset, master.backlog), (Some(Said::Master), Some(7), Some(true)));
        assert_eq!(master.run_id.as_deref(), Some("x"));
    }
}
