//! The state of the agent and its server, and the effects of a change of one table on the others.

pub(super) mod catalog;
pub(super) mod coordinate;
pub(super) mod event;
pub(super) mod image;
pub(super) mod kv;
mod rollback;
pub(super) mod server;
pub(super) mod session;
pub(super) mod timer;
pub(super) mod tree;
pub(super) mod watch;

use super::Options;
use super::acl::table::{AclTable, Secret};
use super::agent::authority::{Authority, AuthorityConfig};
use super::agent::checks::DueCheck;
use super::agent::local::Local;
use super::agent::samples::Samples;
use super::entry::table::EntryTable;
use super::go;
use super::log::Log;
use super::query::table::QueryTable;
use super::settings::Settings;
use catalog::{CatalogTable, Check, Node, Service};
use consul_process::clock::Instant;
use coordinate::CoordinateTable;
use event::Events;
use kv::{Entry, KvTable};
use session::{Behavior, Session, SessionId, SessionTable};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use timer::{Timer, Timers};
use watch::{Topic, Watches};

/// The time for which a tombstone is kept, and the granularity of that.
///
/// Source: the server's fixed tombstone TTL of 15 minutes with a granularity of 30 seconds.
const TOMBSTONE_TTL: Duration = Duration::from_secs(15 * 60);
const TOMBSTONE_GRANULARITY: Duration = Duration::from_secs(30);

/// The limit of a session's lock delay.
const MAX_LOCK_DELAY: Duration = Duration::from_secs(consul_api::api::session::MAX_LOCK_DELAY_S);

/// The newest index of a fresh server, which has used the first ones.
const FIRST_INDEX: u64 = 10;

/// How the configuration is read again.
#[derive(Clone)]
pub(super) struct Reload(pub Arc<Read>);

type Read = dyn Fn(&mut State) -> Result<(), String> + Send + Sync;

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reload")
    }
}

/// All mutable state of an agent.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// The time of the current request or timer.
    pub now: Instant,
    /// The name of the agent's node.
    pub node_name: String,
    pub settings: Arc<Settings>,
    /// Reads the configuration files again, if there are any.
    pub reload: Option<Reload>,
    /// The log that monitors of the agent see.
    pub log: Log,
    /// Notified when the agent is told to leave.
    pub left: Arc<tokio::sync::Notify>,
    /// How long requests took.
    pub samples: Arc<Mutex<Samples>>,
    /// The configuration of DNS.
    pub dns: Option<Arc<super::settings::DnsSettings>>,
    pub rng: fastrand::Rng,
    pub kv: KvTable,
    pub sessions: SessionTable,
    pub queries: QueryTable,
    pub entries: EntryTable,
    pub catalog: CatalogTable,
    pub acl: AclTable,
    pub coordinates: CoordinateTable,
    pub events: Events,
    /// Whether the certificate authority of the mesh is on.
    pub connect: bool,
    /// The certificate authority of the mesh, from its first use.
    pub authority: Arc<OnceLock<Result<Authority, String>>>,
    pub authority_config: AuthorityConfig,
    pub local: Local,
    /// The due runs of checks.
    pub due_checks: Vec<DueCheck>,
    /// The number of checks that were scheduled so far.
    pub last_generation: u64,
    pub timers: Timers,
    pub watches: Watches,
    /// The reads in the agent's cache.
    pub cached: BTreeSet<(Option<Secret>, String)>,
    /// The date of the clock's origin, as the time since 1970.
    epoch: Duration,
    /// The newest index of the Raft log.
    index: u64,
    /// The number of snapshots that were restored.
    pub restores: u64,
    /// The server's tables before the last one.
    before_restore: Option<Box<image::Image>>,
    touched: Vec<Topic>,
    lock_delays: HashMap<Box<[u8]>, Instant>,
    /// The tombstones of each 30 seconds: when they are reaped, and their newest index.
    tombstone_batches: VecDeque<(Instant, u64)>,
}

impl State {
    /// The state of a fresh server: its own node with the service `consul`.
    pub fn new(now: Instant, options: &Options) -> Self {
        let mut state = Self {
            now,
            node_name: options.node_name.clone(),
            settings: Arc::new(options.settings.clone()),
            reload: None,
            log: Log::default(),
            left: Arc::default(),
            samples: Arc::default(),
            dns: None,
            rng: fastrand::Rng::with_seed(options.seed),
            kv: KvTable::default(),
            sessions: SessionTable::default(),
            queries: QueryTable::default(),
            entries: EntryTable::default(),
            catalog: CatalogTable::default(),
            acl: AclTable::new(options.acl.clone()),
            coordinates: CoordinateTable::default(),
            events: Events::default(),
            connect: options.connect,
            authority: Arc::default(),
            authority_config: AuthorityConfig::default(),
            local: Local::default(),
            due_checks: Vec::new(),
            last_generation: 0,
            timers: Timers::default(),
            watches: Watches::default(),
            cached: BTreeSet::new(),
            epoch: options.epoch,
            index: FIRST_INDEX,
            restores: 0,
            before_restore: None,
            touched: Vec::new(),
            lock_delays: HashMap::new(),
            tombstone_batches: VecDeque::new(),
        };
        state.start_acl();
        let node_id = options.node_id.clone().unwrap_or_else(|| state.new_id());
        server::register(&mut state, node_id, &options.node_meta);
        state
    }

    /// The address of the server for other servers.
    pub fn server_address(&self) -> String {
        SocketAddr::new(self.settings.address, self.settings.ports.server).to_string()
    }

    /// The name of the server among the servers of all datacenters.
    pub fn wan_name(&self) -> String {
        format!("{}.{}", self.node_name, self.settings.datacenter)
    }

    /// Reads the configuration files again, if there are any.
    pub fn reload(&mut self) -> Result<(), String> {
        match self.reload.clone() {
            Some(Reload(reload)) => reload(self),
            None => Ok(()),
        }
    }

    /// Restarts with the state on disk: state in memory is lost, and all TTLs restart.
    pub fn restart(&mut self) {
        self.lock_delays.clear();
        self.cached.clear();
        self.events = Events::default();
        for session in
            self.sessions.all().map(|session| Arc::clone(&session.id)).collect::<Vec<_>>()
        {
            self.start_ttl(&session);
        }
        for check in self.local.check_ids() {
            self.start_check_ttl(&check);
        }
    }

    /// Adds an entry to the Raft log and returns its index. Every write has one, whether it changes
    /// anything or not.
    pub fn next_index(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    /// The newest index of the Raft log.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Marks a topic as changed.
    pub fn touch(&mut self, topic: Topic) {
        self.touched.push(topic);
    }

    /// Wakes the queries that wait for the changed topics.
    pub fn publish(&mut self) {
        for topic in self.touched.drain(..) {
            self.watches.publish(&topic, &self.kv);
        }
    }

    /// Drops the changed topics, after a rollback.
    pub fn forget_touched(&mut self) {
        self.touched.clear();
    }

    /// The date after this time from now, in RFC 3339.
    pub fn date(&self, from_now: Duration) -> String {
        go::date_text(self.since_1970() + from_now)
    }

    /// The time since 1970.
    pub fn since_1970(&self) -> Duration {
        self.epoch + self.now.since_origin()
    }

    /// The date of the start, in RFC 3339.
    pub fn start_date(&self) -> String {
        go::date_text(self.epoch)
    }

    /// A random UUID.
    pub fn new_id(&mut self) -> String {
        let bits = self.rng.u128(..);
        let hex = format!("{bits:032x}");
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }

    /// Writes a key as a plain put does: an existing lock stays, but its lock index becomes 0.
    pub fn kv_set(&mut self, key: &[u8], value: &[u8], flags: u64, index: u64) {
        let session = self.kv.get(key).and_then(|entry| entry.session.clone());
        self.kv_put(key, value, flags, session, 0, index);
    }

    /// Writes a key if its modify index is `expected`; 0 means that the key must not exist.
    pub fn kv_cas(
        &mut self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        expected: u64,
        index: u64,
    ) -> bool {
        let present = self.kv.get(key).map_or(0, |entry| entry.modify_index);
        let matches = present == expected;
        if matches {
            self.kv_set(key, value, flags, index);
        }
        matches
    }

    /// Writes a key and locks it; `Ok(false)` if another session holds it.
    pub fn kv_lock(
        &mut self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        session: &str,
        index: u64,
    ) -> Result<bool, String> {
        if session.is_empty() {
            return Err("missing session".to_owned());
        }
        let Some(session) = self.sessions.get(session).map(|session| Arc::clone(&session.id))
        else {
            return Err(format!("invalid session {}", go::quoted(session)));
        };
        let lock_index = match self.kv.get(key).map(|entry| (&entry.session, entry.lock_index)) {
            Some((Some(holder), lock_index)) if *holder == session => lock_index,
            Some((Some(_), _)) => return Ok(false),
            Some((None, lock_index)) => lock_index + 1,
            None => 1,
        };
        self.kv_put(key, value, flags, Some(session), lock_index, index);
        Ok(true)
    }

    /// Writes a key and unlocks it; `Ok(false)` if this session does not hold it.
    pub fn kv_unlock(
        &mut self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        session: &str,
        index: u64,
    ) -> Result<bool, String> {
        if session.is_empty() {
            return Err("missing session".to_owned());
        }
        match self.kv.get(key).map(|entry| (entry.session.as_deref(), entry.lock_index)) {
            Some((Some(holder), lock_index)) if holder == session => {
                self.kv_put(key, value, flags, None, lock_index, index);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn kv_put(
        &mut self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        session: Option<SessionId>,
        lock_index: u64,
        index: u64,
    ) {
        let entry = Entry {
            value: value.into(),
            flags,
            session,
            lock_index,
            create_index: 0,
            modify_index: 0,
        };
        if self.kv.put(key, entry, index) {
            self.touch(Topic::Key(key.into()));
        }
    }

    pub fn kv_delete(&mut self, key: &[u8], index: u64) {
        if self.kv.delete(key, index) {
            self.touch(Topic::Key(key.into()));
            self.reap_later(index);
        }
    }

    /// Deletes a key if its modify index is `expected`; a missing key is a success.
    pub fn kv_delete_cas(&mut self, key: &[u8], expected: u64, index: u64) -> bool {
        match self.kv.get(key) {
            Some(entry) if entry.modify_index != expected => return false,
            Some(_) => self.kv_delete(key, index),
            None => {}
        }
        true
    }

    pub fn kv_delete_tree(&mut self, prefix: &[u8], index: u64) {
        let keys = self.kv.delete_under(prefix, index);
        if !keys.is_empty() {
            self.reap_later(index);
        }
        self.touched.extend(keys.into_iter().map(Topic::Key));
    }

    fn reap_later(&mut self, index: u64) {
        let end = self.now + TOMBSTONE_TTL;
        match self.tombstone_batches.back_mut() {
            Some((at, newest)) if end <= *at => *newest = index,
            _ => {
                let at = end + TOMBSTONE_GRANULARITY;
                self.tombstone_batches.push_back((at, index));
                self.timers.set(at, Timer::ReapTombstones);
            }
        }
    }

    /// Reaps the oldest batch of tombstones.
    pub fn reap(&mut self) {
        if let Some((_, newest)) = self.tombstone_batches.pop_front() {
            self.next_index();
            self.kv.reap(newest);
        }
    }

    /// Whether the lock delay of a key is not over.
    pub fn lock_is_delayed(&self, key: &[u8]) -> bool {
        self.lock_delays.get(key).is_some_and(|end| *end > self.now)
    }

    /// The timer of a lock delay fired. A later delay of the same key has its own timer.
    pub fn end_lock_delay(&mut self, key: &[u8]) {
        if !self.lock_is_delayed(key) {
            self.lock_delays.remove(key);
        }
    }

    /// Restarts a session's TTL: the session expires after twice that.
    ///
    /// Source: "double the TTL" in the chapter on sessions of Consul's documentation.
    pub fn start_ttl(&mut self, id: &str) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if let Some(key) = session.expires.take() {
            self.timers.cancel(key);
        }
        if !session.ttl.is_zero() {
            let at = self.now + session.ttl * 2;
            let timer = Timer::SessionExpires(Arc::clone(&session.id));
            session.expires = Some(self.timers.set(at, timer));
        }
    }

    /// Adds a validated session.
    pub fn insert_session(&mut self, session: Session, index: u64) {
        let id = Arc::clone(&session.id);
        self.touch_session(&session);
        self.sessions.insert(session, index);
        self.start_ttl(&id);
    }

    /// Ends a session: its locks are released or its keys deleted, and its lock delay starts.
    pub fn end_session(&mut self, id: &str, index: u64) {
        let Some(session) = self.sessions.remove(id, index) else { return };
        if let Some(key) = session.expires {
            self.timers.cancel(key);
        }
        self.touch_session(&session);
        self.queries.end_session(&session.id, index, &mut self.touched);
        let delay = u64::try_from(session.lock_delay_ns).unwrap_or(0);
        let delay = Duration::from_nanos(delay).min(MAX_LOCK_DELAY);
        for key in self.kv.locked_by(&session.id) {
            self.drop_lock(&key, session.behavior, index);
            if !delay.is_zero() {
                let end = self.now + delay;
                self.lock_delays.insert(key.clone(), end);
                self.timers.set(end, Timer::LockDelayEnds(key));
            }
        }
    }

    fn drop_lock(&mut self, key: &[u8], behavior: Behavior, index: u64) {
        if behavior == Behavior::Delete {
            return self.kv_delete(key, index);
        }
        if let Some(entry) = self.kv.get(key).cloned() {
            self.kv.put(key, Entry { session: None, ..entry }, index);
            self.touch(Topic::Key(key.into()));
        }
    }

    fn touch_session(&mut self, session: &Session) {
        self.touched.extend([
            Topic::Sessions,
            Topic::Session(Arc::clone(&session.id)),
            Topic::NodeSessions(session.node.to_lowercase()),
        ]);
    }

    /// Whether the catalog has the same node.
    pub fn has_node(&self, node: &Node) -> bool {
        self.catalog.node(&node.node).is_some_and(|record| node.same_as(&record.node))
    }

    /// Adds a node, unless the catalog has the same.
    pub fn ensure_node(&mut self, mut node: Node, index: u64) {
        if node.datacenter.is_empty() {
            node.datacenter.clone_from(&self.settings.datacenter);
        }
        if !self.has_node(&node) {
            self.catalog.put_node(node, index, &mut self.touched);
        }
    }

    /// Adds an instance, unless the catalog has the same.
    pub fn ensure_service(
        &mut self,
        node: &str,
        mut service: Service,
        index: u64,
    ) -> Result<(), String> {
        node.clone_into(&mut service.node);
        if self.catalog.node(node).is_none() {
            return Err("Missing node registration".to_owned());
        }
        self.catalog.add_virtual_address(&mut service);
        let present = self.catalog.service(node, &service.id);
        let same = present.is_some_and(|present| service.same_as(present));
        if !same {
            self.catalog.put_service(node, service, index, &mut self.touched);
        }
        Ok(())
    }

    /// Adds a check, unless the catalog has the same. A critical one ends its sessions.
    pub fn ensure_check(&mut self, mut check: Check, index: u64) -> Result<(), String> {
        if self.catalog.node(&check.node).is_none() {
            return Err("Missing node registration".to_owned());
        }
        if check.status.is_empty() {
            check.status = "critical".to_owned();
        }
        if !check.service_id.is_empty() {
            let Some(service) = self.catalog.service(&check.node, &check.service_id) else {
                return Err("Missing service registration".to_owned());
            };
            check.service_name.clone_from(&service.name);
            check.service_tags.clone_from(&service.tags);
        }
        if check.status == "critical" {
            self.end_sessions_of(&check.node, &check.check_id, index);
        }
        let present = self.catalog.check(&check.node, &check.check_id);
        let same = present.is_some_and(|present| check.same_as(present));
        if !same {
            self.catalog.put_check(check, index, &mut self.touched);
        }
        Ok(())
    }

    /// Deletes a check and ends its sessions.
    pub fn delete_check(&mut self, node: &str, id: &str, index: u64) {
        if self.catalog.check(node, id).is_some() {
            self.catalog.remove_check(node, id, index, &mut self.touched);
            self.end_sessions_of(node, id, index);
        }
    }

    /// Refuses to delete an instance if a check spells its id in another way.
    pub fn check_deletable(&self, node: &str, id: &str) -> Result<(), String> {
        let record = self.catalog.node(node);
        let service = self.catalog.service(node, id);
        let Some((record, service)) = record.zip(service) else { return Ok(()) };
        let mut ids = record.checks.values().map(|check| &check.service_id);
        match ids.any(|own| own.eq_ignore_ascii_case(id) && *own != service.id) {
            true => Err("Missing service registration".to_owned()),
            false => Ok(()),
        }
    }

    /// Deletes an instance and its checks.
    pub fn delete_service(&mut self, node: &str, id: &str, index: u64) {
        let Some(record) = self.catalog.node(node) else { return };
        let own = record.checks.values().filter(|check| check.service_id.eq_ignore_ascii_case(id));
        let checks: Vec<_> = own.map(|check| check.check_id.clone()).collect();
        if self.catalog.service(node, id).is_some() {
            for check in checks {
                self.delete_check(node, &check, index);
            }
            self.catalog.remove_service(node, id, index, &mut self.touched);
        }
    }

    /// Deletes a node and everything on it, its sessions included.
    pub fn delete_node(&mut self, name: &str, index: u64) {
        let Some(record) = self.catalog.node(name) else { return };
        let services: Vec<_> = record.services.values().map(|service| service.id.clone()).collect();
        for id in services {
            self.delete_service(name, &id, index);
        }
        let checks = self.catalog.node(name).into_iter().flat_map(|record| record.checks.values());
        let checks: Vec<_> = checks.map(|check| check.check_id.clone()).collect();
        for id in checks {
            self.delete_check(name, &id, index);
        }
        self.catalog.remove_node(name, index, &mut self.touched);
        self.coordinates.remove(name, index);
        self.touch(Topic::Coordinates);
        let sessions: Vec<_> =
            self.sessions.of_node(name).map(|session| Arc::clone(&session.id)).collect();
        for id in sessions {
            self.end_session(&id, index);
        }
    }

    fn end_sessions_of(&mut self, node: &str, check: &str, index: u64) {
        for id in self.sessions.bound_to(node, check) {
            self.end_session(&id, index);
        }
    }
}
