//! Addresses that are taken, and those that are refused with their reason.

use super::*;

#[test]
fn hosts_and_ports_print_as_they_are_read() {
    for (text, host) in [
        ("10.0.0.1:6379", "10.0.0.1"),
        ("[fd00::1]:26379", "fd00::1"),
        ("sentinel-2.redis.svc:26379", "sentinel-2.redis.svc"),
        ("redis_master:6379", "redis_master"),
        ("redis.example.:1", "redis.example."),
    ] {
        let parsed: HostPort = text.parse().expect(text);
        assert_eq!(parsed.host, host);
        assert_eq!(parsed.to_string(), text);
    }
    let mapped: HostPort = "[::ffff:10.0.0.1]:6379".parse().expect("a mapped address");
    assert_eq!(mapped.as_socket_addr(), "10.0.0.1:6379".parse().ok());
}

#[test]
fn wrong_hosts_say_what_is_wrong() {
    for (text, what) in [
        ("redis://user:hunter2@h:6379", "is a URL"),
        ("user:hunter2@h:6379", "is a URL"),
        ("10.0.0.1", "has no port"),
        ("10.0.0.1:", "has no port from 1 to 65535"),
        ("10.0.0.1:0", "has no port from 1 to 65535"),
        ("10.0.0.1:65536", "has no port from 1 to 65535"),
        ("10.0.0.1:+1", "has no port from 1 to 65535"),
        ("10.0.0.300:6379", "is not an IPv4 address"),
        ("10.0.1:6379", "is not an IPv4 address"),
        ("fd00::1:6379", "needs brackets"),
        ("[fd00::1]", "has no port after its bracket"),
        ("[redis]:6379", "has no IPv6 address in its brackets"),
        (":6379", "is not a host name"),
        ("-a:6379", "is not a host name"),
        ("a..b:6379", "is not a host name"),
        ("a b:6379", "is not a host name"),
        ("0.0.0.0:6379", "no server can have"),
        ("[ff02::1]:6379", "no server can have"),
    ] {
        let error = text.parse::<HostPort>().expect_err(text).to_string();
        assert!(error.contains(what) && error.contains("valid: HOST:PORT"), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert!(format!("{}:1", "a".repeat(64)).parse::<HostPort>().is_err());
}

#[test]
fn listen_takes_addresses_only() {
    assert_eq!(listen("0.0.0.0:6379"), Ok("0.0.0.0:6379".parse().expect("an address")));
    assert_eq!(listen("[::ffff:10.0.0.1]:1"), Ok("10.0.0.1:1".parse().expect("an address")));
    for (text, what) in [
        ("6379", "has no port"),
        (":6379", "whether IPv4 or IPv6"),
        ("*:6379", "whether IPv4 or IPv6"),
        ("localhost:6379", "is not an IP address with a port"),
        ("0.0.0.0:0", "has no port from 1 to 65535"),
        ("0.0.0.0:70000", "has no port from 1 to 65535"),
        ("224.0.0.1:6379", "no host can have"),
        ("unix:/run/x.sock", "only [admin]"),
    ] {
        let error = listen(text).expect_err(text).to_string();
        assert!(error.contains(what) && error.contains("[::]:6379"), "{text}: {error}");
    }
}

#[test]
fn networks_have_no_host_bits() {
    assert_eq!(network("10.0.0.0/8"), Ok("10.0.0.0/8".parse().expect("a network")));
    assert_eq!(network("fd00::1"), Ok("fd00::1/128".parse().expect("a network")));
    let error = network("10.0.0.1/8").expect_err("host bits").to_string();
    assert!(error.contains("valid: \"10.0.0.0/8\" or \"10.0.0.1/32\""), "{error}");
    for text in ["", "10.0.0.0/33", "10.0.0/8", "all"] {
        assert!(network(text).is_err(), "{text}");
    }
}

#[test]
fn admin_listens_on_tcp_or_a_unix_socket() {
    for text in ["127.0.0.1:9180", "[::1]:9180", "unix:/run/switchmaster.sock"] {
        assert_eq!(text.parse::<AdminListen>().expect(text).to_string(), text);
    }
    for text in ["unix:".to_owned(), format!("unix:/{}", "x".repeat(107)), "localhost".to_owned()] {
        let error = text.parse::<AdminListen>().expect_err(&text).to_string();
        assert!(error.contains("unix:/run/switchmaster.sock"), "{error}");
    }
}
