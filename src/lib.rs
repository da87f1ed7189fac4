//! A Consul client for Lua engines, and an in-memory Consul agent that stands in for a server.
//!
//! The layers, from the bottom: [`wire`] is Consul's language without I/O; [`transport`] sends
//! requests; [`client`] makes calls; [`cluster`] divides work among processes; [`simulate`] is the
//! agent in memory; [`connect`] makes a client from a [`config`]; [`guard`] releases the locks of a
//! process that has died; [`status`] shows operators a process and its clusters; [`mod@reference`] describes endpoints and options to people and editors;
//! `lua` is the result of `require("consul_ffi")`.
//!
//! ```
//! use consul_ffi::config::Config;
//! use consul_ffi::connect::connect;
//! use consul_ffi::wire::api::kv;
//! use consul_ffi::wire::request::Args;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! // With a simulated agent; without the option, the agent at `http://127.0.0.1:8500`.
//! let client = connect(&Config::new(&[("simulate".to_owned(), "readme".into())], |_| None)?)?;
//! client.call(&kv::PUT, &Args::new().arg("greeting").arg("hello")).await?;
//! let answer = client.call(&kv::GET, &Args::new().arg("greeting")).await?;
//! assert_eq!(answer.value, "hello".into());
//! # Ok(()) }) }
//! ```

pub mod reference;

pub mod client;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod connect;
pub mod error;
mod files;
pub mod guard;
pub mod hosts;
#[cfg(any(feature = "binding", test))]
mod log_file;
pub mod logs;
#[cfg(feature = "binding")]
mod lua;
pub mod metrics;
#[cfg(feature = "tools")]
pub mod migrate;
pub mod os;
pub mod ring;
pub mod simulate;
pub mod status;
mod sync;
pub mod transport;
pub mod wire;
