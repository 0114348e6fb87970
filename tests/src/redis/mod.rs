//! Real Redis: `redis-server` and `redis-sentinel` processes in namespaces, each with its own folder.
//! A cluster is handed out only when its replicas are linked and all Sentinels know each other.
//! Persistence is off; the harness talks to the servers over unix sockets, so that no cut is in its way.

mod cluster;
mod node;
mod sentinel;
mod server;
mod spec;
mod tls;
mod watch;

pub use self::{
    cluster::Cluster,
    node::Node,
    sentinel::Sentinel,
    server::Door,
    spec::{Passwords, Spec},
    tls::{SERVER_NAME, Tls},
    watch::{MajorityWatch, RoleWatch},
};
