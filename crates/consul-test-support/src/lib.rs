//! Shared by the tests of all crates: real servers of Consul, a simulated agent on a socket, proxies with faults.

#![allow(missing_docs, clippy::unwrap_used, clippy::new_without_default)] // of tests

pub mod agent;
pub mod answering;
pub mod authority;
pub mod between;
pub mod browser;
pub mod cluster;
pub mod consul;
pub mod dns;
pub mod golden;
pub mod islands;
pub mod lines;
pub mod outside;
pub mod pages;
pub mod program;
pub mod prometheus;
pub mod proxy;
pub mod recipes;
pub mod schema;
pub mod trials;
pub mod world;

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

/// How long a test waits for what has to come: longer than a busy machine takes.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The limit for what does not wait, also on a busy machine, where a wait would last for [`PATIENCE`].
pub const AT_ONCE: Duration = Duration::from_secs(PATIENCE.as_secs() / 2);

/// The folder of the checkout.
pub fn root() -> &'static str {
    static ROOT: LazyLock<String> = LazyLock::new(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        root.canonicalize().expect("the checkout").to_string_lossy().into_owned()
    });
    &ROOT
}
