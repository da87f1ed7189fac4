//! What the agent itself knows: the services and checks that were registered with it. It keeps its
//! node's entries in the catalog like its own.

use super::SERF_HEALTH;
use super::checks::Schedule;
use super::store::State;
use super::store::catalog::{Check, Node, Service};
use super::store::timer::{Timer, TimerKey};
use super::store::watch::Topic;
use crate::clock::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often the agent looks for services that were critical for too long.
///
/// Source: `DeregisterCriticalServiceAfter` in Consul's HTTP reference of checks.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// How often the agent compares the catalog with what it knows.
///
/// Source: the chapter on anti-entropy of Consul's documentation, for clusters of up to 128 nodes.
const SYNC_INTERVAL: Duration = Duration::from_secs(60);

/// A check whose output alone changed is written to the catalog after half of this to one and a
/// half of it, since so little news is not worth a write.
///
/// Source: `check_update_interval` in Consul's agent configuration reference.
const CHECK_UPDATE_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// The services and checks of the agent.
#[derive(Clone, Debug, Default)]
pub(super) struct Local {
    pub services: BTreeMap<String, Service>,
    pub checks: BTreeMap<String, LocalCheck>,
    /// The agent's own node, as it registers it.
    node: Option<Node>,
    sweeping: bool,
    syncing: bool,
}

/// A check of the agent.
#[derive(Clone, Debug)]
pub(super) struct LocalCheck {
    pub check: Check,
    /// How long a TTL check lives without an update.
    pub ttl: Option<Duration>,
    /// How a check is run that the agent runs itself.
    pub schedule: Option<Schedule>,
    /// What an alias mirrors.
    pub alias: Option<Alias>,
    pub output_max_size: usize,
    pub deregister_after: Option<Duration>,
    pub critical_since: Option<Instant>,
    pub expires: Option<TimerKey>,
    pub deferred: Option<TimerKey>,
}

/// A service, or with an empty id a node, whose state a check mirrors.
#[derive(Clone, Debug)]
pub(super) struct Alias {
    pub node: String,
    pub service: String,
}

impl LocalCheck {
    /// A check whose state changes only when somebody says so.
    pub fn without_timers(check: Check) -> Self {
        Self {
            check,
            ttl: None,
            schedule: None,
            alias: None,
            output_max_size: 0,
            deregister_after: None,
            critical_since: None,
            expires: None,
            deferred: None,
        }
    }
}

impl Local {
    /// The agent's own node.
    /// The ids of the agent's checks.
    pub fn check_ids(&self) -> Vec<String> {
        self.checks.keys().cloned().collect()
    }

    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }
}

impl State {
    /// Remembers the agent's own node as the catalog has it.
    pub fn remember_own_node(&mut self) {
        self.local.node = self.catalog.node(&self.node_name).map(|record| record.node.clone());
    }

    /// Registers a service with its checks. Checks that it had and that are not named stay, unless
    /// they are to be replaced. What is the same as before is not written to the catalog again.
    pub fn register_service(&mut self, service: Service, checks: Vec<LocalCheck>, replace: bool) {
        let id = service.id.clone();
        let changed = self.local.services.get(&id) != Some(&service);
        self.local.services.insert(id.clone(), service);
        self.touch(Topic::LocalService(id.clone()));
        let mut named = Vec::new();
        let mut news = Vec::new();
        for check in checks {
            let check_id = check.check.check_id.clone();
            if self.put_local_check(check) {
                news.push(check_id.clone());
            }
            named.push(check_id);
        }
        if changed {
            let index = self.next_index();
            self.sync_service(&id, index);
            news.iter().for_each(|check| self.sync_check(check, index));
        } else {
            news.iter().for_each(|check| self.sync_check_now(check));
        }
        if replace {
            let own = self.checks_of_service(&id);
            for check in own.iter().filter(|check| !named.contains(check)) {
                self.deregister_check(check);
            }
        }
    }

    /// Takes a service out with its checks.
    pub fn deregister_service(&mut self, id: &str) {
        for check in self.checks_of_service(id) {
            self.forget_check(&check);
        }
        self.local.services.remove(id);
        self.touch(Topic::LocalService(id.to_owned()));
        let index = self.next_index();
        let node = self.node_name.clone();
        self.delete_service(&node, id, index);
    }

    fn checks_of_service(&self, id: &str) -> Vec<String> {
        let checks = self.local.checks.iter();
        checks.filter(|(_, check)| check.check.service_id == id).map(|(id, _)| id.clone()).collect()
    }

    /// Registers a check.
    pub fn register_check(&mut self, check: LocalCheck) {
        let id = check.check.check_id.clone();
        if self.put_local_check(check) {
            self.sync_check_now(&id);
        }
    }

    /// Takes a check out.
    pub fn deregister_check(&mut self, id: &str) {
        self.forget_check(id);
        let index = self.next_index();
        let node = self.node_name.clone();
        self.delete_check(&node, id, index);
    }

    fn forget_check(&mut self, id: &str) {
        if let Some(check) = self.local.checks.remove(id) {
            let run = check.schedule.and_then(|schedule| schedule.next);
            let timers = [check.expires, check.deferred, run];
            timers.into_iter().flatten().for_each(|key| self.timers.cancel(key));
        }
    }

    /// Puts a check in. One that was there before keeps its state, whatever the new definition
    /// says. True when it is not the same as before.
    fn put_local_check(&mut self, mut check: LocalCheck) -> bool {
        let id = check.check.check_id.clone();
        let mut changed = true;
        if let Some(before) = self.local.checks.get(&id) {
            check.check.status.clone_from(&before.check.status);
            check.check.output.clone_from(&before.check.output);
            check.critical_since = before.critical_since;
            changed = check.check != before.check;
        }
        if check.check.status == "critical" && check.critical_since.is_none() {
            check.critical_since = Some(self.now);
        }
        if check.deregister_after.is_some() && !self.local.sweeping {
            self.local.sweeping = true;
            self.sweep_later();
        }
        self.forget_check(&id);
        self.local.checks.insert(id.clone(), check);
        self.start_check_ttl(&id);
        self.schedule_check(&id);
        changed
    }

    /// Gives a TTL check its whole time.
    pub fn start_check_ttl(&mut self, id: &str) {
        let Some(check) = self.local.checks.get_mut(id) else { return };
        let Some(ttl) = check.ttl else { return };
        if let Some(key) = check.expires.take() {
            self.timers.cancel(key);
        }
        check.expires = Some(self.timers.set(self.now + ttl, Timer::CheckExpires(id.to_owned())));
    }

    /// A beat of a TTL check: sets its state and starts its TTL anew.
    pub fn beat(&mut self, id: &str, status: &str, output: &str) {
        let Some(check) = self.local.checks.get(id) else { return };
        let output = cut(output, check.output_max_size);
        self.start_check_ttl(id);
        self.set_status(id, status, output);
    }

    /// A TTL check got no update in time.
    pub fn expire_check(&mut self, id: &str) {
        let Some(check) = self.local.checks.get_mut(id) else { return };
        check.expires = None;
        let output = match check.check.output.as_str() {
            "" => "TTL expired".to_owned(),
            last => format!("TTL expired (last output before timeout follows): {last}"),
        };
        self.set_status(id, "critical", output);
    }

    /// A new status is written to the catalog at once, a new output alone much later.
    pub fn set_status(&mut self, id: &str, status: &str, output: String) {
        let now = self.now;
        let Some(local) = self.local.checks.get_mut(id) else { return };
        if local.check.status == status && local.check.output == output {
            return;
        }
        local.check.output = output;
        if local.check.status != status {
            local.check.status = status.to_owned();
            local.critical_since =
                (status == "critical").then(|| local.critical_since.unwrap_or(now));
            self.sync_check_now(id);
        } else if local.deferred.is_none() {
            let part = self.rng.f64() + 0.5;
            let at = now + CHECK_UPDATE_INTERVAL.mul_f64(part);
            local.deferred = Some(self.timers.set(at, Timer::SyncCheck(id.to_owned())));
        }
    }

    /// Writes a check to the catalog.
    pub fn sync_check_now(&mut self, id: &str) {
        let index = self.next_index();
        self.sync_check(id, index);
    }

    /// Brings a service's entry in the catalog up to date.
    fn sync_service(&mut self, id: &str, index: u64) {
        let Some(service) = self.local.services.get(id).cloned() else { return };
        self.sync_node(index);
        let node = self.node_name.clone();
        // The node is there, which is all that can be missing.
        let _ = self.ensure_service(&node, service, index);
    }

    /// Brings a check's entry in the catalog up to date, and its service's, which it needs.
    fn sync_check(&mut self, id: &str, index: u64) {
        let Some(local) = self.local.checks.get_mut(id) else { return };
        if let Some(key) = local.deferred.take() {
            self.timers.cancel(key);
        }
        let check = local.check.clone();
        self.sync_node(index);
        if !check.service_id.is_empty() {
            self.sync_service(&check.service_id, index);
        }
        // Node and service are there, which is all that can be missing.
        let _ = self.ensure_check(check, index);
    }

    fn sync_node(&mut self, index: u64) {
        if self.catalog.node(&self.node_name).is_none()
            && let Some(node) = self.local.node.clone()
        {
            self.ensure_node(node, index);
        }
    }

    /// The catalog was changed past the agent, which notices at its next comparison.
    pub fn sync_later(&mut self) {
        if !self.local.syncing {
            self.local.syncing = true;
            self.timers.set(self.now + SYNC_INTERVAL, Timer::Sync);
        }
    }

    /// Makes the catalog's entries of the own node what the agent and its server say.
    pub fn sync_all(&mut self) {
        self.local.syncing = false;
        let own = self.catalog.node(&self.node_name);
        let services = own.into_iter().flat_map(|record| record.services.values());
        let services: Vec<_> = services.map(|service| service.id.clone()).collect();
        let checks = own.into_iter().flat_map(|record| record.checks.values());
        let checks: Vec<_> = checks.map(|check| check.check_id.clone()).collect();
        let node = self.node_name.clone();
        let index = self.next_index();
        self.sync_node(index);
        for id in services {
            if id != "consul" && !self.local.services.contains_key(&id) {
                self.delete_service(&node, &id, index);
            }
        }
        for id in checks {
            if id != SERF_HEALTH && !self.local.checks.contains_key(&id) {
                self.delete_check(&node, &id, index);
            }
        }
        super::catalog::restore_server(self, index);
        for id in self.local.services.keys().cloned().collect::<Vec<_>>() {
            self.sync_service(&id, index);
        }
        for id in self.local.checks.keys().cloned().collect::<Vec<_>>() {
            self.sync_check(&id, index);
        }
    }

    /// The agent's sweeps are at fixed moments, whenever something is registered.
    fn sweep_later(&mut self) {
        let interval = SWEEP_INTERVAL.as_nanos();
        let sweeps = self.now.since_origin().as_nanos() / interval + 1;
        let at = u64::try_from(sweeps * interval).unwrap_or(u64::MAX);
        self.timers.set(Instant::from_origin(Duration::from_nanos(at)), Timer::SweepCritical);
    }

    /// Takes out the services that were critical for too long.
    pub fn sweep_critical(&mut self) {
        let now = self.now;
        let is_over = |check: &&LocalCheck| {
            let since = check.critical_since.zip(check.deregister_after);
            since.is_some_and(|(since, after)| now - since > after)
        };
        let over = self.local.checks.values().filter(is_over);
        let services: Vec<_> = over.map(|check| check.check.service_id.clone()).collect();
        for id in services {
            if self.local.services.contains_key(&id) {
                self.deregister_service(&id);
            }
        }
        self.local.sweeping =
            self.local.checks.values().any(|check| check.deregister_after.is_some());
        if self.local.sweeping {
            self.sweep_later();
        }
    }
}

/// The beginning of an output that is too long, and a note that says so.
fn cut(output: &str, most: usize) -> String {
    let length = output.len();
    if length <= most {
        return output.to_owned();
    }
    let kept = super::request::lossy(&output.as_bytes()[..most]);
    format!("{kept} ... (captured {most} of {length} bytes)")
}
