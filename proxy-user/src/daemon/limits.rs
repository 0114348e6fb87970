//! The process's limit of open files, which bounds the connections before anything else does.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::{DatapathChoice, Route};

/// What the daemon itself needs: listeners, maps, the admin server.
const OWN: u64 = 192;
/// And each group: connections to a dozen Sentinels and to its nodes, with their timers.
const EACH_GROUP: u64 = 64;
/// What a route has if it says nothing.
const USUAL: u32 = 10_000;

/// Raises the soft limit to the hard one, and lowers `max_connections` to what it has room for. A
/// client takes two files, and one that is parked must find its second when a master comes. Of a route on packets
/// that is what the listener may accept.
pub(super) fn fit_open_files(routes: &mut [Route], groups: usize) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let limit = if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() { soft } else { hard };
    for (name, asked, room) in fit(routes, groups, limit) {
        tracing::warn!(
            route = name,
            max_connections = asked,
            lowered_to = room,
            limit,
            "the limit of open files is too low for the sum of max_connections; raise it (LimitNOFILE=) or lower them"
        );
    }
}

/// Lowers all routes in the same proportion; returns those that were lowered.
fn fit(routes: &mut [Route], groups: usize, limit: u64) -> Vec<(String, u32, u32)> {
    let own = OWN + EACH_GROUP * groups as u64;
    let room = limit.saturating_sub(own.min(limit / 2)) / 2;
    let sum = |of: fn(&Route) -> u32| routes.iter().map(|route| u64::from(of(route))).sum::<u64>();
    if sum(|route| route.max_connections) <= room {
        return Vec::new();
    }
    let asked = sum(accepted).max(room);
    let share = |max: u32| u32::try_from(u64::from(max) * room / asked).unwrap_or(max).max(1);
    routes
        .iter_mut()
        .map(|route| {
            let (before, after) = (route.max_connections, share(accepted(route)));
            route.max_connections = after;
            (route.name.to_string(), before, after)
        })
        .filter(|(_, before, after)| after < before)
        .collect()
}

/// How many connections the files of a route have to do for: where packets are translated, those that are parked, and
/// whoever else is left to the listener.
fn accepted(route: &Route) -> u32 {
    match route.datapath {
        DatapathChoice::Tc | DatapathChoice::Xdp => route.max_connections.min(route.park.limit.max(USUAL)),
        _ => route.max_connections,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Setting};

    fn routes(max: &[u32]) -> Vec<Route> {
        let setting = |flag, value: &str| Setting { flag, values: vec![value.to_owned()] };
        let flags =
            [setting("--listen", "127.0.0.1:6379"), setting("--master", "m"), setting("--sentinel", "127.0.0.1:1")];
        let config: Config = crate::config::from_flags(&flags).unwrap().config;
        max.iter().map(|&max| Route { max_connections: max, ..config.routes[0].clone() }).collect()
    }

    #[test]
    fn what_fits_is_left_alone() {
        let mut routes = routes(&[1000, 2000]);
        assert_eq!(fit(&mut routes, 1, 20_000), []);
        assert_eq!(routes[1].max_connections, 2000);
    }

    #[test]
    fn what_does_not_fit_is_lowered_in_proportion_and_leaves_two_files_a_client() {
        let mut routes = routes(&[10_000, 30_000]);
        assert_eq!(fit(&mut routes, 1, 20_000).len(), 2);
        let lowered: Vec<u32> = routes.iter().map(|route| route.max_connections).collect();
        assert_eq!(lowered, [2468, 7404]);
        assert!(lowered.iter().sum::<u32>() * 2 + 256 <= 20_000);
        fit(&mut routes, 3, 20_000);
        assert!(routes.iter().map(|route| route.max_connections).sum::<u32>() * 2 + 256 + 2 * 64 <= 20_000);
    }

    #[test]
    fn flows_of_packets_take_no_files_from_the_others() {
        let mut routes = routes(&[1_000_000, 5000]);
        routes[0].datapath = DatapathChoice::Tc;
        assert_eq!(fit(&mut routes, 1, 40_000).len(), 1);
        let left: Vec<u32> = routes.iter().map(|route| route.max_connections).collect();
        assert_eq!(left, [10_000, 5000]);
        routes[0].max_connections = 1_000_000;
        assert_eq!(fit(&mut routes, 1, 10_000).len(), 2);
        assert!(routes.iter().map(|route| route.max_connections).sum::<u32>() * 2 + 256 <= 10_000);
    }

    #[test]
    fn a_tiny_limit_still_leaves_a_place() {
        let mut routes = routes(&[10_000]);
        fit(&mut routes, 1, 64);
        assert_eq!(routes[0].max_connections, 16);
    }
}
