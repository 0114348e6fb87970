//! Real Redis and Sentinel: first views, failovers, kills, freezes, passwords, narrow ACLs, TLS.

use nix::sys::signal::Signal;

use super::{
    servers::{Cluster, cli, cluster, redis, wait},
    *,
};
use crate::config::Tls;

fn of_cluster(cluster: &Cluster) -> Group {
    group(Source::Sentinels(cluster.sentinels.iter().map(|server| local(server.port)).collect()))
}

/// When this Sentinel published its next `+switch-master`.
async fn switch_announced(port: u16) -> Instant {
    let peer = dial::Peer { addr: addr(port), host: None };
    let dialer = Dialer::new(&Access::default(), Duration::from_secs(1));
    let (mut pubsub, _allowance) = dialer.subscription(&peer).await.expect("a subscription");
    pubsub.subscribe("+switch-master").await.expect("subscribed");
    futures_util::StreamExt::next(&mut pubsub.on_message()).await.expect("an event");
    Instant::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_is_seen_by_all_sentinels_at_once() {
    let cluster = cluster(22000, "", "", &[]).await;
    // One configured Sentinel is enough to find the others.
    let mut run = Run::new(&group(Source::Sentinels(vec![local(22010)])));
    let first = run.view(addr(22010), |view| view.master == addr(22000)).await;
    let set = run.so_far.iter().position(|seen| matches!(seen, Observation::Sentinels(all) if all.len() == 3));
    let view = run.so_far.iter().position(|seen| matches!(seen, Observation::View(..)));
    assert!(set.is_some() && set < view, "the set comes before the view: {:?}", run.so_far);
    let others = [run.view(addr(22011), |_| true).await, run.view(addr(22012), |_| true).await];
    let last = others.into_iter().max().expect("two").max(first);
    let after = last.duration_since(run.started);
    println!("first views within {after:?}");
    assert!(after < Duration::from_millis(200), "first views after {after:?}");
    assert_eq!(run.node(addr(22000)).await.role, Role::Master);

    let subscribed = |run: &Run| run.discovery.status().sentinels.iter().all(|sentinel| sentinel.subscribed);
    wait("all are subscribed to", || subscribed(&run)).await;
    let announced: Vec<_> = [22010, 22011, 22012].map(|port| tokio::spawn(switch_announced(port))).into();
    tokio::time::sleep(Duration::from_millis(100)).await;
    cli(22010, &["SENTINEL", "FAILOVER", "mymaster"]);
    let mut views = std::collections::BTreeMap::new();
    while views.len() < 3 {
        let seen = tokio::time::timeout(Duration::from_secs(20), run.seen.recv()).await;
        let seen = seen.expect("a new view within 20 s").expect("discovery goes on");
        let Observation::View(of, view) = seen.observation else { continue };
        println!("{of}: {} at {}, down {}", view.master, view.epoch, view.master_down);
        assert_eq!(view.epoch > 0, view.master == addr(22001), "an address with another one's epoch: {view:?}");
        if view.epoch > 0 {
            views.entry(of).or_insert(seen.at);
        }
    }
    for (announced, viewed) in announced.into_iter().zip(views.into_values()) {
        let announced = announced.await.expect("no panic");
        let late = viewed.saturating_duration_since(announced);
        println!("a view {late:?} after its +switch-master");
        assert!(late < Duration::from_millis(50), "a view {late:?} after its +switch-master");
    }
    wait("all events are counted", || run.discovery.status().sentinels.iter().all(|sentinel| sentinel.events > 0))
        .await;
    let status = run.discovery.status();
    assert_eq!(status.pace, "fast");
    assert!(status.sentinels.iter().all(|sentinel| sentinel.counted), "{status:#?}");
    run.end().await;
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_and_frozen_servers_are_lost_and_still_counted() {
    let mut cluster = cluster(22100, "", "", &[]).await;
    let mut run = Run::new(&of_cluster(&cluster));
    for port in [22110, 22111, 22112] {
        run.view(addr(port), |_| true).await;
    }
    cluster.sentinels[0].kill();
    assert_eq!(run.sentinel_lost().await, Failure::Unreachable);
    cluster.sentinels[1].signal(Signal::SIGSTOP);
    let frozen = run.wait("frozen Sentinel", |seen| match seen {
        Observation::SentinelLost(at, failure) if *at == addr(22111) => Some(*failure),
        _ => None,
    });
    assert_eq!(frozen.await.0, Failure::TimedOut);
    assert_eq!(run.discovery.status().sentinels.iter().filter(|sentinel| sentinel.counted).count(), 3);
    cluster.sentinels[1].signal(Signal::SIGCONT);
    run.view(addr(22111), |_| true).await;
    cluster.nodes[0].signal(Signal::SIGSTOP);
    assert_eq!(run.node_lost().await, Failure::TimedOut);
    cluster.nodes[0].signal(Signal::SIGCONT);
    assert_eq!(run.node(addr(22100)).await.role, Role::Master);
    run.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_demotion_and_a_restart_show_on_the_node() {
    let mut master = redis(22200, "").await;
    let replica = redis(22201, "replicaof 127.0.0.1 22200").await;
    let mut run = Run::new(&group(Source::Nodes(vec![local(22200), local(22201)])));
    let before = run.node(addr(22200)).await;
    assert_eq!((before.role.clone(), before.backlog_active.is_some()), (Role::Master, true));
    let lag = run.wait("lag", |seen| match seen {
        Observation::Node(_, NodeReport { role: Role::Replica(link), .. }) if link.up => {
            link.lag_bytes.zip(link.master)
        }
        _ => None,
    });
    assert_eq!(lag.await.0.1, addr(22200));
    run.discovery.hurry(Instant::now() + Duration::from_secs(2));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let demoted = Instant::now();
    cli(22201, &["REPLICAOF", "NO", "ONE"]);
    let (_, seen) = run
        .wait("role change", |seen| match seen {
            Observation::Node(at, report) if *at == addr(22201) && report.role == Role::Master => Some(()),
            _ => None,
        })
        .await;
    println!("in a hurry a role change is seen after {:?}", seen.duration_since(demoted));
    assert!(seen.duration_since(demoted) < Duration::from_millis(60));
    master.kill();
    run.node_lost().await;
    let again = redis(22200, "").await;
    let id = run.wait("the stranger", |seen| match seen {
        Observation::Node(at, report) if *at == addr(22200) => report.id.clone(),
        _ => None,
    });
    assert_ne!(Some(id.await.0), before.id, "another process has another id");
    run.end().await;
    drop((replica, again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_and_narrow_acls_are_enough() {
    let nodes =
        "requirepass n0de\nmasterauth n0de\nuser probe on >pr0be -@all +hello +ping\nuser roles on >pr0be -@all +role";
    let sentinels = "sentinel auth-pass mymaster n0de\nsentinel auth-pass mymaster-2 n0de\nrequirepass s3ntinel\n\
                     sentinel sentinel-pass s3ntinel\nuser narrow on >s3ntinel -@all +sentinel|master +sentinel|get-master-addr-by-name +ping +subscribe resetchannels &+switch-master";
    let cluster = cluster(22300, nodes, sentinels, &["-a", "s3ntinel", "--no-auth-warning"]).await;
    let mut wrong = of_cluster(&cluster);
    wrong.sentinel_access = access(None, "wrong");
    let mut run = Run::new(&wrong);
    assert_eq!(run.sentinel_lost().await, Failure::Denied);
    run.end().await;

    let mut right = of_cluster(&cluster);
    right.sentinel_access = access(None, "s3ntinel");
    right.node_access = access(Some("probe"), "pr0be");
    let mut run = Run::new(&right);
    assert_eq!(run.node(addr(22300)).await.role, Role::Master);
    assert!(matches!(run.node(addr(22301)).await.role, Role::Replica(_)));
    run.end().await;

    right.node_access = access(Some("roles"), "pr0be");
    let mut run = Run::new(&right);
    let report = run.node(addr(22301)).await;
    assert!(matches!(&report.role, Role::Replica(link) if link.up && link.master == Some(addr(22300))), "{report:?}");
    run.end().await;

    // One Sentinel, by a user who may not even list the others: the majority is still of three.
    right.source = Source::Sentinels(vec![local(22310)]);
    right.sentinel_access = access(Some("narrow"), "s3ntinel");
    let mut run = Run::new(&right);
    run.view(addr(22310), |view| view.master == addr(22300)).await;
    let mut sets = run.so_far.iter().filter_map(|seen| match seen {
        Observation::Sentinels(all) => Some(all.len()),
        _ => None,
    });
    assert_eq!(sets.next_back(), Some(3));
    wait("the one channel is subscribed to", || run.discovery.status().sentinels[0].subscribed).await;
    run.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_server_whose_run_id_is_hidden_is_no_stranger() {
    let narrow = "user probe on >pr0be -@all +hello +ping +info|replication";
    let master = redis(22700, "").await;
    let replica = redis(22701, &format!("{narrow}\nreplicaof 127.0.0.1 22700")).await;
    let mut of_replica = group(Source::Nodes(vec![local(22701)]));
    of_replica.node_access = access(Some("probe"), "pr0be");
    let mut run = Run::new(&of_replica);
    let promoted = |seen: &Observation| match seen {
        Observation::Node(_, report) if report.role == Role::Master => Some(report.id.clone()),
        _ => None,
    };
    let linked = |seen: &Observation| match seen {
        Observation::Node(_, NodeReport { role: Role::Replica(link), id, .. }) if link.up => Some(id.clone()),
        _ => None,
    };
    let before = run.wait("a replica with its link up: INFO may be read", linked).await.0;
    cli(22701, &["REPLICAOF", "NO", "ONE"]);
    cli(22701, &["CLIENT", "KILL", "USER", "probe"]);
    let after = run.wait("a master", promoted).await.0;
    assert_eq!((before, after), (None, None), "master_replid changed, the server did not");
    let refused = cli(22701, &["ACL", "LOG"]);
    let count = refused.lines().find_map(|line| line.parse::<u32>().ok()).unwrap_or_default();
    assert!(count <= 3, "INFO server is asked once a connection: {refused}");
    run.end().await;
    drop((master, replica));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_verified() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| dir.path().join(name);
    let made = rcgen::generate_simple_self_signed(vec!["redis.internal".to_owned()]).expect("a certificate");
    std::fs::write(file("cert.pem"), made.cert.pem()).expect("written");
    std::fs::write(file("key.pem"), made.signing_key.serialize_pem()).expect("written");
    let path = |name: &str| file(name).display().to_string();
    let lines = format!(
        "port 0\ntls-port 22400\ntls-cert-file {0}\ntls-key-file {1}\ntls-ca-cert-file {0}\ntls-auth-clients yes",
        path("cert.pem"),
        path("key.pem")
    );
    let server = redis(22400, &lines).await;
    let full = Tls {
        ca_file: Some(file("cert.pem")),
        cert_file: Some(file("cert.pem")),
        key_file: Some(file("key.pem")),
        server_name: Some("redis.internal".into()),
    };
    let mut tls = group(Source::Nodes(vec![local(22400)]));
    tls.node_access.tls = Some(full.clone());
    let mut run = Run::new(&tls);
    assert_eq!(run.node(addr(22400)).await.role, Role::Master);
    run.end().await;
    for bad in [
        Tls { server_name: Some("other.internal".into()), ..full.clone() },
        Tls { server_name: None, ..full.clone() },
        Tls { ca_file: Some(file("absent.pem")), ..full.clone() },
        Tls { ca_file: Some(file("key.pem")), ..full.clone() },
    ] {
        tls.node_access.tls = Some(bad.clone());
        let mut run = Run::new(&tls);
        assert_eq!(run.node_lost().await, Failure::Tls, "{bad:?}");
        run.end().await;
    }
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipv6_and_names_are_followed() {
    let server = redis(22500, "bind 127.0.0.1 ::1").await;
    let places = ["::1", "localhost"].map(|host| HostPort { host: host.to_owned(), port: 22500 });
    let mut run = Run::new(&group(Source::Nodes(places.to_vec())));
    let v6 = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 22500));
    assert_eq!(run.node(v6).await.role, Role::Master);
    wait("the name is resolved", || !run.discovery.status().names.iter().all(|name| name.addrs.is_empty())).await;
    run.end().await;
    drop(server);
}
