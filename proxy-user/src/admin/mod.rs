//! The daemon seen from outside: health, readiness, metrics and status over HTTP, on TCP or a unix
//! socket. Promises: bounded connections, header sizes and times; it reads and never changes state.
//! The commands status and events are the clients of it.

pub mod client;
mod follow;
mod listener;
mod readiness;
mod routes;
mod server;
pub mod status;
mod table;
mod timeline;

#[cfg(test)]
mod tests;

pub use self::{
    listener::{BindError, Listener},
    readiness::{Latch, Readiness},
    routes::Views,
    server::serve,
    status::{Status, StatusSource},
    table::table,
};
