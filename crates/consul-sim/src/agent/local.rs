//! The services and checks that were registered with the agent.

use super::checks::Schedule;
use crate::acl::table::Secret;
use crate::store::catalog::{Check, Node, Service};
use crate::store::timer::TimerKey;
use consul_process::clock::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The agent's services and checks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Local {
    pub services: BTreeMap<String, Service>,
    pub checks: BTreeMap<String, LocalCheck>,
    /// The tokens with which services were registered, by their ids. The agent writes a service to the catalog with
    /// this token, or else with its default one.
    pub service_tokens: BTreeMap<String, Secret>,
    /// The ids of services that the agent has still to remove from the catalog.
    pub(super) removed_services: BTreeSet<String>,
    /// The same of checks.
    pub(super) removed_checks: BTreeSet<String>,
    /// The agent's node, as the agent registers it.
    pub node: Option<Node>,
    pub(super) reaping: bool,
    pub(super) syncing: bool,
}

/// A check of the agent.
#[derive(Clone, Debug)]
pub(crate) struct LocalCheck {
    pub check: Check,
    /// The token with which it was registered, as for services.
    pub token: Option<Secret>,
    /// The time without an update after which a TTL check is critical.
    pub ttl: Option<Duration>,
    /// The schedule of a check that the agent runs.
    pub schedule: Option<Schedule>,
    /// The target of an alias check.
    pub alias: Option<Alias>,
    pub output_max_size: usize,
    /// The output of the last update since it was registered.
    pub told: String,
    pub deregister_after: Option<Duration>,
    pub critical_since: Option<Instant>,
    pub expires: Option<TimerKey>,
    pub deferred: Option<TimerKey>,
}

/// The service, or with an empty id the node, whose status an alias check mirrors.
#[derive(Clone, Debug)]
pub(crate) struct Alias {
    pub node: String,
    pub service: String,
}

impl LocalCheck {
    /// A check whose status changes only by requests.
    pub fn without_timers(check: Check) -> Self {
        Self {
            check,
            token: None,
            ttl: None,
            schedule: None,
            alias: None,
            output_max_size: 0,
            told: String::new(),
            deregister_after: None,
            critical_since: None,
            expires: None,
            deferred: None,
        }
    }
}

impl Local {
    /// The ids of the agent's checks.
    pub fn check_ids(&self) -> Vec<String> {
        self.checks.keys().cloned().collect()
    }
}
