//! The agent's local state: the services and checks that were registered with it. Anti-entropy
//! makes the catalog's entries of the agent's node the same.

use super::local::LocalCheck;
use super::sidecar;
use crate::SERF_HEALTH;
use crate::acl::{Access, Resource, Secret};
use crate::log::Level;
use crate::store::State;
use crate::store::catalog::{Check, Node, Service};
use crate::store::coordinate::Coordinate;
use crate::store::server;
use crate::store::timer::Timer;
use crate::store::watch::Topic;
use consul_process::clock::Instant;
use std::time::Duration;

/// The interval at which the agent looks for services that were critical for too long.
///
/// Source: `DeregisterCriticalServiceAfter` in Consul's HTTP reference of checks.
const REAP_INTERVAL: Duration = Duration::from_secs(30);

/// The interval at which the agent compares the catalog with its local state.
///
/// Source: the chapter on anti-entropy of Consul's documentation, for clusters of up to 128 nodes.
const SYNC_INTERVAL: Duration = Duration::from_secs(60);

/// A changed output alone is written to the catalog after 0.5 to 1.5 times this, to save writes.
///
/// Source: `check_update_interval` in Consul's agent configuration reference.
const CHECK_UPDATE_INTERVAL: Duration = Duration::from_secs(5 * 60);

impl State {
    /// Registers a service with its checks. Its other checks stay, unless `replace` is set. Entries
    /// that did not change are not written to the catalog again.
    pub fn register_service(
        &mut self,
        service: Service,
        checks: Vec<LocalCheck>,
        replace: bool,
        token: Option<&Secret>,
    ) {
        let id = service.id.clone();
        let changed = self.local.services.get(&id) != Some(&service);
        self.local.services.insert(id.clone(), service);
        self.local.removed_services.remove(&id);
        match token {
            Some(token) => self.local.service_tokens.insert(id.clone(), token.clone()),
            None => self.local.service_tokens.remove(&id),
        };
        self.touch(Topic::LocalService(id.clone()));
        let mut named = Vec::new();
        let mut news = Vec::new();
        for check in checks {
            let check_id = check.check.check_id.clone();
            if self.put_local_check(LocalCheck { token: token.cloned(), ..check }) {
                news.push(check_id.clone());
            }
            named.push(check_id);
        }
        if changed {
            let index = self.next_index();
            self.sync_removed(index);
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

    /// Deregisters a service and its checks, and its sidecar with those.
    pub fn deregister_service(&mut self, id: &str) {
        for check in self.checks_of_service(id) {
            self.remove_local_check(&check);
            self.local.removed_checks.insert(check);
        }
        self.local.services.remove(id);
        self.local.service_tokens.remove(id);
        self.local.removed_services.insert(id.to_owned());
        self.touch(Topic::LocalService(id.to_owned()));
        let index = self.next_index();
        self.sync_removed(index);
        let sidecar = sidecar::id_of(id);
        if self.local.services.get(&sidecar).is_some_and(|service| service.is_sidecar) {
            self.deregister_service(&sidecar);
        }
    }

    fn checks_of_service(&self, id: &str) -> Vec<String> {
        let checks = self.local.checks.iter();
        checks.filter(|(_, check)| check.check.service_id == id).map(|(id, _)| id.clone()).collect()
    }

    pub fn register_check(&mut self, check: LocalCheck) {
        let id = check.check.check_id.clone();
        let before = self.local.checks.get(&id).map(|before| &before.check.status);
        let is_same = before.is_none_or(|before| *before == check.check.status);
        if self.put_local_check(check) || !is_same {
            self.sync_check_now(&id);
        }
    }

    pub fn deregister_check(&mut self, id: &str) {
        self.remove_local_check(id);
        self.local.removed_checks.insert(id.to_owned());
        let index = self.next_index();
        self.sync_removed(index);
    }

    fn remove_local_check(&mut self, id: &str) {
        if let Some(check) = self.local.checks.remove(id) {
            let run = check.schedule.and_then(|schedule| schedule.next);
            let timers = [check.expires, check.deferred, run];
            timers.into_iter().flatten().for_each(|key| self.timers.cancel(key));
        }
    }

    /// Adds a check. One with the same id keeps its status, whatever the new definition says.
    /// Returns whether it changed.
    fn put_local_check(&mut self, mut check: LocalCheck) -> bool {
        let id = check.check.check_id.clone();
        let mut changed = true;
        if let Some(before) = self.local.checks.get(&id) {
            check.check.status.clone_from(&before.check.status);
            check.check.output.clone_from(&before.check.output);
            check.critical_since = before.critical_since;
            // An output that was not yet sent is sent along.
            changed = !check.check.same_as(&before.check) || before.deferred.is_some();
            // A TTL runs on when a check of another kind takes its id.
            check.ttl = check.ttl.or(before.ttl);
        }
        if check.check.status == "critical" && check.critical_since.is_none() {
            check.critical_since = Some(self.now);
        }
        if check.deregister_after.is_some() && !self.local.reaping {
            self.local.reaping = true;
            self.reap_critical_later();
        }
        self.remove_local_check(&id);
        self.local.checks.insert(id.clone(), check);
        self.local.removed_checks.remove(&id);
        self.start_check_ttl(&id);
        self.schedule_check(&id);
        changed
    }

    /// Restarts the TTL of a check.
    pub fn start_check_ttl(&mut self, id: &str) {
        let Some(check) = self.local.checks.get_mut(id) else { return };
        let Some(ttl) = check.ttl else { return };
        if let Some(key) = check.expires.take() {
            self.timers.cancel(key);
        }
        check.expires = Some(self.timers.set(self.now + ttl, Timer::CheckExpires(id.to_owned())));
    }

    /// An update of a TTL check: sets its status and restarts its TTL.
    pub fn update_check(&mut self, id: &str, status: &str, output: &str) {
        let Some(check) = self.local.checks.get_mut(id) else { return };
        let output = truncated(output, check.output_max_size);
        check.told.clone_from(&output);
        self.start_check_ttl(id);
        self.set_status(id, status, output);
    }

    /// A TTL check had no update in time.
    pub fn expire_check(&mut self, id: &str) {
        let Some(check) = self.local.checks.get_mut(id) else { return };
        check.expires = None;
        let output = match check.told.as_str() {
            "" => "TTL expired".to_owned(),
            last => format!("TTL expired (last output before timeout follows): {last}"),
        };
        self.set_status(id, "critical", output);
    }

    /// Sets status and output. A new status is written to the catalog at once, a new output alone
    /// much later.
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
            if status != "passing" {
                let message = match status {
                    "critical" => "Check is now critical",
                    _ => "Check is now warning",
                };
                self.log(Level::Warn, "agent", message, &[("check", id)]);
            }
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
        self.sync_removed(index);
        self.sync_check(id, index);
    }

    /// Updates a service in the catalog.
    fn sync_service(&mut self, id: &str, index: u64) {
        let Some(service) = self.local.services.get(id).cloned() else { return };
        if !self.may_register(self.local.service_tokens.get(id), Some(&service), false) {
            return self.blocked("Service registration blocked by ACLs", "service", id);
        }
        self.sync_node(index);
        let node = self.node_name.clone();
        let written = |state: &State| state.catalog.service(&node, id).map(|s| s.modify_index);
        let before = written(self);
        // It cannot fail: only a missing node is refused.
        let _ = self.ensure_service(&node, service, index);
        if written(self) != before {
            self.log(Level::Info, "agent", "Synced service", &[("service", id)]);
        }
    }

    /// Updates a check in the catalog, and the service that it needs.
    fn sync_check(&mut self, id: &str, index: u64) {
        let Some(local) = self.local.checks.get_mut(id) else { return };
        if let Some(key) = local.deferred.take() {
            self.timers.cancel(key);
        }
        let (check, token) = (local.check.clone(), local.token.clone());
        let service = self.local.services.get(&check.service_id).cloned();
        if !self.may_register(token.as_ref(), service.as_ref(), check.service_id.is_empty()) {
            return self.blocked("Check registration blocked by ACLs", "check", id);
        }
        self.sync_node(index);
        let node = self.node_name.clone();
        let written = |state: &State| state.catalog.check(&node, id).map(|c| c.modify_index);
        let before = written(self);
        // They cannot fail: only a missing node or service is refused.
        if let Some(service) = service {
            let _ = self.ensure_service(&node, service, index);
        }
        let _ = self.ensure_check(check, index);
        if written(self) != before {
            self.log(Level::Info, "agent", "Synced check", &[("check", id)]);
        }
    }

    /// Removes from the catalog what is no longer registered with the agent. Only the agent's token counts.
    fn sync_removed(&mut self, index: u64) {
        let authority = self.agent_authority();
        let may = |resource, name: &str| authority.allows(resource, name, Access::Write);
        let node = self.node_name.clone();
        let may_all = may(Resource::Node, &node);
        for id in self.local.removed_services.clone() {
            let name = self.catalog.service(&node, &id).map(|service| &service.name);
            if name.is_some_and(|name| !may_all && !may(Resource::Service, name)) {
                self.blocked("Service deregistration blocked by ACLs", "service", &id);
            } else {
                self.local.removed_services.remove(&id);
                self.delete_service(&node, &id, index);
                self.log(Level::Info, "agent", "Deregistered service", &[("service", &id)]);
            }
        }
        for id in self.local.removed_checks.clone() {
            let check = self.catalog.check(&node, &id);
            let may = |check: &Check| {
                may_all
                    || !check.service_id.is_empty() && may(Resource::Service, &check.service_name)
            };
            if check.is_some_and(|check| !may(check)) {
                self.blocked("Check deregistration blocked by ACLs", "check", &id);
            } else {
                self.local.removed_checks.remove(&id);
                self.delete_check(&node, &id, index);
            }
        }
    }

    /// Whether an entry of the agent's node may be written with the token of its registration.
    fn may_register(
        &self,
        token: Option<&Secret>,
        service: Option<&Service>,
        of_node: bool,
    ) -> bool {
        let authority = match token {
            Some(token) => self.authority_of(token),
            None => self.own_authority(),
        };
        let may = |resource, name: &str| authority.allows(resource, name, Access::Write);
        let own = self.catalog.node(&self.node_name);
        let may_node = own.is_some() && !of_node || may(Resource::Node, &self.node_name);
        let may_service = |service: &Service| {
            let present = own.and_then(|own| own.services.get(&service.id));
            may(Resource::Service, &service.name)
                && present.is_none_or(|present| may(Resource::Service, &present.name))
        };
        may_node && service.is_none_or(may_service)
    }

    /// ACLs refuse to change the catalog: the agent tries again when it compares.
    fn blocked(&mut self, message: &'static str, kind: &'static str, id: &str) {
        self.log(Level::Warn, "agent", message, &[(kind, id)]);
        self.sync_later();
    }

    fn sync_node(&mut self, index: u64) {
        if self.catalog.node(&self.node_name).is_none()
            && let Some(node) = self.local.node.clone()
        {
            self.ensure_node(node, index);
        }
    }

    /// A request changed the catalog's entries of a node. The agent corrects its own node's at its next comparison.
    pub fn catalog_changed(&mut self, node: &str) {
        if node.eq_ignore_ascii_case(&self.node_name) {
            self.sync_later();
        }
    }

    fn sync_later(&mut self) {
        if !self.local.syncing {
            self.local.syncing = true;
            self.timers.set(self.now + SYNC_INTERVAL, Timer::Sync);
        }
    }

    /// Writes the entries of the agent and its server to the agent's node in the catalog.
    pub fn sync_all(&mut self) {
        self.local.syncing = false;
        let node = self.node_name.clone();
        let index = self.next_index();
        server::restore(self, index);
        let authority = self.agent_authority();
        if authority.known().is_err() {
            // The servers refuse to tell what they have.
            let error = [("error", "ACL not found")];
            self.log(Level::Error, "agent.anti_entropy", "failed to sync remote state", &error);
            return self.sync_later();
        }
        let may = |resource, name: &str, access| authority.allows(resource, name, access);
        let own = self.catalog.node(&node).filter(|_| may(Resource::Node, &node, Access::Read));
        let sees = |service: &str| may(Resource::Service, service, Access::Read);
        let is_same = |node: &Node| {
            let of =
                |node: &Node| (node.id.clone(), node.tagged_addresses.clone(), node.meta.clone());
            own.is_some_and(|own| of(&own.node) == of(node))
        };
        let changed = self.local.node.clone().filter(|node| !is_same(node));
        let services = own.into_iter().flat_map(|record| record.services.values());
        let services = services.filter(|service| sees(&service.name)).map(|service| &service.id);
        let services =
            services.filter(|id| *id != "consul" && !self.local.services.contains_key(*id));
        let checks = own.into_iter().flat_map(|record| record.checks.values());
        let checks =
            checks.filter(|check| check.service_id.is_empty() || sees(&check.service_name));
        let checks = checks.map(|check| &check.check_id);
        let checks = checks.filter(|id| *id != SERF_HEALTH && !self.local.checks.contains_key(*id));
        let (services, checks): (Vec<_>, Vec<_>) =
            (services.cloned().collect(), checks.cloned().collect());
        self.local.removed_services.extend(services);
        self.local.removed_checks.extend(checks);
        let may_node = may(Resource::Node, &node, Access::Write);
        match changed {
            Some(node) if may_node => self.ensure_node(node, index),
            Some(own) => self.blocked("Node info update blocked by ACLs", "node", &own.id),
            None => {}
        }
        if may_node && self.coordinates.get(&node).is_none() {
            self.coordinates.put(&node, Coordinate::default(), index);
            self.touch(Topic::Coordinates);
        }
        self.sync_removed(index);
        for id in self.local.services.keys().cloned().collect::<Vec<_>>() {
            self.sync_service(&id, index);
        }
        for id in self.local.checks.keys().cloned().collect::<Vec<_>>() {
            self.sync_check(&id, index);
        }
    }

    /// Reaping happens at multiples of the interval, independent of registrations.
    fn reap_critical_later(&mut self) {
        let interval = REAP_INTERVAL.as_nanos();
        let reaps = self.now.since_origin().as_nanos() / interval + 1;
        let at = u64::try_from(reaps * interval).unwrap_or(u64::MAX);
        self.timers.set(Instant::from_origin(Duration::from_nanos(at)), Timer::ReapCritical);
    }

    /// Deregisters the services that were critical for too long.
    pub fn reap_critical(&mut self) {
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
        self.local.reaping =
            self.local.checks.values().any(|check| check.deregister_after.is_some());
        if self.local.reaping {
            self.reap_critical_later();
        }
    }
}

/// The beginning of a long output, with a note that it was cut.
fn truncated(output: &str, most: usize) -> String {
    let length = output.len();
    if length <= most {
        return output.to_owned();
    }
    let kept = crate::go::lossy(&output.as_bytes()[..most]);
    format!("{kept} ... (captured {most} of {length} bytes)")
}
