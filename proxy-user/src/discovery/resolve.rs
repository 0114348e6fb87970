//! Names to addresses, with a time limit, a short memory, and a bound on lookups in flight. An address
//! as text needs no lookup. IPv4-mapped IPv6 addresses become IPv4, so that one server has one address.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{net::lookup_host, sync::Semaphore, time::timeout};

use super::fault::Fault;
use crate::election::{Failure, canonical};

/// How long an answer is believed.
pub(super) const MEMORY: Duration = Duration::from_secs(10);
/// A failed server's name is asked again, but no more often than this.
const SOONEST: Duration = Duration::from_secs(1);
/// Each lookup holds a thread of the runtime until the system's resolver gives up, maybe long after us.
const IN_FLIGHT: usize = 8;
const REMEMBERED: usize = 512;
/// Addresses of one name.
const MOST: usize = 64;

type Key = (String, u16);
type Answer = Result<Vec<SocketAddr>, Fault>;

#[derive(Debug)]
pub(super) struct Resolver {
    limit: Duration,
    lookups: Arc<Semaphore>,
    known: Mutex<HashMap<Key, (Instant, Answer)>>,
    /// The last good answers, however old.
    last: Mutex<HashMap<Key, SocketAddr>>,
}

impl Resolver {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, lookups: Arc::new(Semaphore::new(IN_FLIGHT)), known: Mutex::default(), last: Mutex::default() }
    }

    /// Every address of the name, at least one. A name with addresses of both families stands for the
    /// same servers twice: the family that the system prefers is taken.
    pub(super) async fn all(&self, host: &str, port: u16) -> Answer {
        if let Some(addr) = literal(host, port) {
            return Ok(vec![addr]);
        }
        let key = (host.to_owned(), port);
        if let Some(answer) = self.remembered(&key) {
            return answer;
        }
        let answer = self.ask(host, port).await;
        self.remember(key, answer.clone());
        answer
    }

    /// The one server that a Sentinel means by a name.
    pub(super) async fn one(&self, host: &str, port: u16) -> Result<SocketAddr, Fault> {
        let addrs = self.all(host, port).await?;
        addrs.first().copied().ok_or_else(|| unresolved(host, "it has no address"))
    }

    /// The same for who cannot wait: what the name stood for last, if it is not known better.
    pub(super) async fn one_at_once(&self, host: &str, port: u16, limit: Duration) -> Option<SocketAddr> {
        let key = (host.to_owned(), port);
        if literal(host, port).is_none()
            && !matches!(self.remembered(&key), Some(Ok(_)))
            && let Some(addr) = self.last.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
        {
            return Some(*addr);
        }
        timeout(limit, self.one(host, port)).await.ok()?.ok()
    }

    /// A server at this name failed: the next question about it goes to the resolver.
    pub(super) fn doubt(&self, host: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(name, _), (at, _)| name != host || at.elapsed() < SOONEST);
    }

    fn remembered(&self, key: &Key) -> Option<Answer> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|remembered| fresh(remembered)).map(|(_, answer)| answer.clone())
    }

    fn remember(&self, key: Key, answer: Answer) {
        if let Some(addr) = answer.as_ref().ok().and_then(|addrs| addrs.first()) {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() < REMEMBERED || last.contains_key(&key) {
                last.insert(key.clone(), *addr);
            }
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, remembered| fresh(remembered));
        }
        if known.len() < REMEMBERED {
            known.insert(key, (Instant::now(), answer));
        }
    }

    /// No lookup goes on while this is held.
    #[cfg(test)]
    pub(super) async fn stall(&self) -> tokio::sync::OwnedSemaphorePermit {
        let all = u32::try_from(IN_FLIGHT).expect("few");
        Arc::clone(&self.lookups).acquire_many_owned(all).await.expect("never closed")
    }

    async fn ask(&self, host: &str, port: u16) -> Answer {
        let target = (host.to_owned(), port);
        let lookups = Arc::clone(&self.lookups);
        let asking = async {
            let permit = lookups.acquire_owned().await.map_err(io::Error::other)?;
            // A task of its own: the permit goes back when the lookup ends, not when we stop waiting.
            let lookup = tokio::spawn(async move {
                let found = lookup_host(target).await.map(|found| found.take(MOST).collect::<Vec<_>>());
                drop(permit);
                found
            });
            lookup.await.map_err(io::Error::other)?
        };
        let found = timeout(self.limit, asking)
            .await
            .map_err(|_| unresolved(host, "the resolver did not answer in time"))?
            .map_err(|error| unresolved(host, error))?;
        let addrs = one_family(found);
        if addrs.is_empty() { Err(unresolved(host, "it has no address")) } else { Ok(addrs) }
    }
}

/// The address that `host` is already, without a lookup.
pub(super) fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().ok().map(|ip| canonical(SocketAddr::new(ip, port)))
}

/// A failure is forgotten sooner: the name may be there any moment.
fn fresh((at, answer): &(Instant, Answer)) -> bool {
    at.elapsed() < if answer.is_ok() { MEMORY } else { SOONEST }
}

fn one_family(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut addrs: Vec<SocketAddr> = Vec::new();
    for addr in found.into_iter().map(canonical) {
        let same_family = addrs.first().is_none_or(|first| first.is_ipv4() == addr.is_ipv4());
        if same_family && !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    addrs
}

fn unresolved(host: &str, why: impl std::fmt::Display) -> Fault {
    Fault::new(Failure::Unresolved, format_args!("{host} does not resolve: {why}"))
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::join_all};

    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn literals_are_canonical() {
        for (host, expected) in [
            ("10.0.0.1", Some("10.0.0.1:1")),
            ("::1", Some("[::1]:1")),
            ("[fd00::1]", Some("[fd00::1]:1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1:1")),
            ("FD00:0:0::1", Some("[fd00::1]:1")),
            ("redis.svc", None),
            ("10.0.0", None),
            ("", None),
        ] {
            assert_eq!(literal(host, 1), expected.map(addr), "{host}");
        }
    }

    #[test]
    fn a_dual_stack_name_is_taken_in_one_family_without_doubles() {
        let found = ["[fd00::1]:1", "10.0.0.1:1", "[fd00::2]:1", "[fd00::1]:1"].map(addr).to_vec();
        assert_eq!(one_family(found), ["[fd00::1]:1", "[fd00::2]:1"].map(addr));
    }

    #[tokio::test]
    async fn localhost_resolves_and_nonsense_does_not() {
        let resolver = Resolver::new(Duration::from_secs(5));
        assert!(resolver.one("localhost", 7).await.expect("localhost").ip().is_loopback());
        assert_eq!(resolver.all("no such name", 7).await.expect_err("nonsense").failure, Failure::Unresolved);
        resolver.doubt("localhost");
    }

    /// Who has a sign to pass on gets what was known last, at once; who was never looked up is given up in time.
    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_hangs_holds_nobody_up_and_gathers_no_lookups() {
        let limit = Duration::from_millis(20);
        let resolver = Resolver::new(Duration::from_secs(5));
        let (name, addr) = (("redis.svc".to_owned(), 7), addr("10.0.0.1:7"));
        resolver.remember(name.clone(), Ok(vec![addr]));
        let hanging = resolver.stall().await;
        for answer in [None, Some(Err(unresolved("redis.svc", "a test")))] {
            // Too old to be believed, and then a failure that is newer than the last good answer.
            resolver.known.lock().expect("no panic").remove(&name);
            if let Some(failure) = answer {
                resolver.remember(name.clone(), failure);
            }
            for _ in 0..2 * IN_FLIGHT {
                assert_eq!(resolver.one_at_once("redis.svc", 7, limit).now_or_never(), Some(Some(addr)));
            }
        }
        let asked = tokio::time::Instant::now();
        let strangers = (0..2 * IN_FLIGHT).map(|_| resolver.one_at_once("valkey.svc", 7, limit));
        assert_eq!(join_all(strangers).await, vec![None; 2 * IN_FLIGHT]);
        assert!((limit..2 * limit).contains(&asked.elapsed()), "given up after {:?}", asked.elapsed());
        drop(hanging);
        tokio::task::yield_now().await;
        assert_eq!(resolver.lookups.available_permits(), IN_FLIGHT, "nobody asks any more for who has gone");
    }
}
