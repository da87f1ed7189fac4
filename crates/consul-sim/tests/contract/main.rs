//! The contract: what Consul promises to a client, as a list of behaviours, each run against every
//! target. A difference between targets is a bug in the simulated agent or in the client.
//!
//! `cargo test --package consul-sim --test contract -- kv` runs a part of it. A target that is
//! not available is reported as SKIPPED and its behaviours count as ignored.

#![allow(clippy::unwrap_used)] // a test that panics has failed

mod acl;
mod agent;
mod body;
mod catalog;
mod config_entry;
mod coordinate;
mod datacenter;
mod dns;
mod event;
mod health;
mod http;
mod intention;
mod kv;
mod observer;
mod odd;
mod operator;
mod proxy;
mod query;
mod session;
mod snapshot;
mod status;
mod target;
mod txn;
mod unsimulated;
mod wake;

use consul_test_support as support;

use libtest_mimic::{Arguments, Failed, Trial};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use support::consul;
use target::{Behaviour, T, Target};

const AREAS: &[(&str, &[Behaviour])] = &[
    ("kv", kv::BEHAVIOURS),
    ("txn", txn::BEHAVIOURS),
    ("session", session::BEHAVIOURS),
    ("agent", agent::BEHAVIOURS),
    ("agent", agent::health::BEHAVIOURS),
    ("agent", agent::member::BEHAVIOURS),
    ("sidecar", agent::sidecar::BEHAVIOURS),
    ("certificate", agent::certificate::BEHAVIOURS),
    ("check", agent::check::BEHAVIOURS),
    ("catalog", catalog::BEHAVIOURS),
    ("body", body::BEHAVIOURS),
    ("health", health::BEHAVIOURS),
    ("status", status::BEHAVIOURS),
    ("event", event::BEHAVIOURS),
    ("coordinate", coordinate::BEHAVIOURS),
    ("datacenter", datacenter::BEHAVIOURS),
    ("http", http::BEHAVIOURS),
    ("proxy", proxy::BEHAVIOURS),
    ("query", query::BEHAVIOURS),
    ("dns", dns::BEHAVIOURS),
    ("operator", operator::BEHAVIOURS),
    ("config_entry", config_entry::BEHAVIOURS),
    ("intention", intention::BEHAVIOURS),
    ("snapshot", snapshot::BEHAVIOURS),
    ("wake", wake::BEHAVIOURS),
    ("unsimulated", unsimulated::BEHAVIOURS),
    ("acl", acl::BEHAVIOURS),
    ("permissions", acl::permissions::BEHAVIOURS),
    ("registrations", acl::registrations::BEHAVIOURS),
    ("logins", acl::logins::BEHAVIOURS),
    ("roles", acl::roles::BEHAVIOURS),
    ("templates", acl::templates::BEHAVIOURS),
    ("observer", observer::BEHAVIOURS),
    ("odd", odd::BEHAVIOURS),
];

/// Behaviours that change or check the state of the whole agent: they run alone on their target, like the behaviours of
/// snapshots. A reload drops registrations over the API; a check of the node counts for each of its services; defaults
/// of proxies count for all services.
const ALONE: &[&str] = &[
    "a_new_configuration_of_the_authority_is_stored",
    "entries_are_removed_with_the_token_of_the_agent",
    "the_recovery_token_changes_the_agent",
    "an_entry_that_comes_again_is_not_removed",
    "new_certificates_have_the_configured_lifetime",
    "an_earlier_certificate_outlives_a_new_configuration",
    "another_root_replaces_the_first",
    "a_query_waits_for_another_root",
    "a_service_gets_a_certificate_of_the_new_root",
    "a_root_is_made_for_a_given_key",
    "what_is_not_a_root_is_refused",
    "proxy_defaults_have_one_name",
    "members_that_are_read_and_not_shown",
    "the_logs_and_failovers_of_proxies_are_checked",
    "entries_of_the_mesh_are_written_as_they_were_read",
    "the_configuration_of_the_authority_is_written_as_it_was_read",
    "an_unknown_provider_of_the_authority_is_refused",
    "a_lifetime_under_an_hour_is_refused",
    "the_authority_has_a_configuration",
    "each_method_requires_its_own_permission",
    "the_health_of_an_instance_is_a_status",
    "the_health_of_a_service_is_its_worst_instances",
    "a_service_in_maintenance_is_critical",
    "a_write_wakes_the_queries_that_it_wakes_on_consul",
    "services_are_exported_to_peers",
    "callers_without_permission_learn_what_is_unknown",
];

/// Most behaviours wait for a timer, so many more than there are processors can run at once.
const THREADS: usize = 16;

thread_local! {
    /// The place and message of the last panic on this thread.
    static FAILURE: RefCell<String> = const { RefCell::new(String::new()) };
}

fn main() {
    std::panic::set_hook(Box::new(|panic| FAILURE.set(panic.to_string())));
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let names = ["simulated", "consul-sim", "1.21", "1.8"].into_iter();
    let targets = names.filter(|name| support::trials::is_in_part(name)).map(Target::new);
    let mut trials = Vec::new();
    for target in targets {
        if let Some(why) = &target.missing {
            consul::say_skipped(&format!("the contract on Consul {}", target.name), why);
        }
        if !target.has_sockets() {
            consul::say_skipped("the contract of DNS on the simulated agent", "it has no sockets");
        }
        let target = Arc::new(target);
        for (area, behaviours) in AREAS {
            trials.extend(behaviours.iter().map(|behaviour| trial(area, behaviour, &target)));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    print_differences();
    // Not `exit`: the servers end when the trials, which hold the targets, are dropped.
    if conclusion.has_failed() {
        std::process::exit(101);
    }
}

/// The table of the differences between the oldest and the newest Consul that a user can see.
/// Everything else is the same on every target, the simulated agent included.
#[allow(clippy::print_stdout)]
fn print_differences() {
    let differences = target::DIFFERENCES.lock().expect("the behaviours have ended");
    if !differences.is_empty() {
        println!("Consul 1.8 differs from all other targets:");
    }
    for (behaviour, difference) in differences.iter() {
        println!("  {difference}  ({behaviour})");
    }
}

fn trial(area: &'static str, behaviour: &'static Behaviour, target: &Arc<Target>) -> Trial {
    let name = format!("{area}::{} [{}]", behaviour.name, target.name);
    let skip = target.missing.is_some() || area == "dns" && !target.has_sockets();
    let target = Arc::clone(target);
    Trial::test(name, move || {
        let held = Arc::clone(&target);
        let alone = area == "snapshot" || ALONE.contains(&behaviour.name);
        let _alone = alone.then(|| held.turns.write().unwrap_or_else(PoisonError::into_inner));
        let _beside = (!alone).then(|| held.turns.read().unwrap_or_else(PoisonError::into_inner));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let test = T::new(target, behaviour.name);
        let run = || runtime.block_on((behaviour.run)(test));
        catch_unwind(AssertUnwindSafe(run)).map_err(|_| Failed::from(FAILURE.take()))
    })
    .with_ignored_flag(skip)
}
