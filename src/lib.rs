//! A Consul client for Lua engines, and an in-memory Consul agent that stands in for a server.
//!
//! The layers, from the bottom: [`wire`] is Consul's language without I/O; [`transport`] carries
//! requests; [`client`] makes calls; [`cluster`] divides work among processes; [`simulate`] is the agent
//! in memory; [`connect`] puts a client together from a [`config`]; [`guard`] acts for a process that is gone; `lua` is what
//! `require("consul_ffi")` returns.

pub mod client;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod connect;
pub mod error;
pub mod guard;
#[cfg(feature = "binding")]
mod lua;
pub mod os;
pub mod ring;
pub mod simulate;
mod sync;
pub mod transport;
pub mod wire;
