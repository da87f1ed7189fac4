//! Membership: a node joins, takes part and leaves. It maintains its own key, and learns which nodes are live.
//!
//! A key is written when a node starts, stops or changes. Liveness comes from the TTL check of the
//! node's service, which costs no Raft write.

use super::claim::name_taken;
use super::contest::{Contest, Found};
use super::node::{Complaint, Mode, Node, Record, Records};
use super::registered::{self, Instances, Verdict, instances, is_live, records, write};
use super::weights::Listed;
use super::{claim, kept_mode, pause, requested, restore, settings, start, weights};
use crate::Event;
use crate::cluster::Cluster;
use crate::keys::{self, Said};
use crate::leader::{election, fitness};
use crate::options::Options;
use crate::pauses::{PAUSE, WAIT};
use crate::shard_map::publication;
use crate::snapshot::{Sight, Snapshot};
use consul_api::api::{health, kv};
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::table::Endpoint;
use consul_client::coordination::{delete_unchanged, transact};
use consul_client::watch::{State, WatchOptions, states};
use consul_process::clock::Instant;
use consul_process::metrics;
use consul_process::sync::lock;
use futures_util::stream::StreamExt;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// How long nodes that Consul has lost stay as they were: after an outage, a wipe or the restoration of
/// a snapshot they are not listed until they have written their keys and registered again. Longer than
/// the pauses of two watches.
const LOSS_GRACE: Duration = Duration::from_secs(10);

/// How often the same reason for not having joined yet is logged.
const REMINDER: Duration = Duration::from_secs(60);

/// The longest wait of a blocking query for a list of all nodes.
const LIST_WAIT: Duration = Duration::from_secs(20);

/// A node whose instance another node replaces twice within this time has met a living one.
const ID_LOST_AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// How often a node that has run for a while looks who else has the id of its instance; a young one does so once in the TTL
/// of its check. Of two ids that differ by the case of letters Consul may list both, so that nothing is lost.
const ID_LOOK_INTERVAL: Duration = Duration::from_secs(45);

/// As many losses in a row, each within the TTL of the check since the one before, have a cause that lasts.
const LOST_QUICKLY: u32 = 10;

/// The pause before the next list of all nodes, for each node in the last one, and its bound. Every change makes each
/// node read a list of all, so that the work grows with the square of their number: nodes that were too busy with lists
/// to renew their checks in time would fail and return, which are changes again, without an end.
const LIST_PAUSE: Duration = Duration::from_millis(4);
const MAX_LIST_PAUSE: Duration = Duration::from_secs(1);

/// Why the node's key is not its record.
enum Differs {
    /// It shows the node of another start, at this modify index.
    Taken(Box<Record>, u64),
    /// It could not be read or written.
    Failed(Error),
}

impl From<Error> for Differs {
    fn from(error: Error) -> Self {
        Differs::Failed(error)
    }
}

impl Cluster {
    /// Runs the node until a permanent error, which is returned. An observer only reads.
    ///
    /// If this future is dropped, the other nodes see this one go down. For a graceful stop, call
    /// [`Cluster::leave`] after that.
    pub async fn run(&self) -> Error {
        let _shown = metrics::register(self.this.clone() as _);
        let joined = if self.options.observer { Ok(()) } else { self.join().await };
        let why = match joined {
            Ok(()) => {
                let error = self.participate().await;
                if !*self.leaves.borrow() {
                    tracing::error!(node = self.options.node_id, %error, "the node has ended");
                }
                error
            }
            Err(why) => why,
        };
        if (*self.leaves.borrow() || self.misfit.borrow().is_some())
            && let Err(error) = self.leave().await
        {
            tracing::info!(%error, "the node did not leave and stays until its check fails");
        }
        *lock(&self.lease) = None;
        self.emit(Event::Stopped(why.message().to_owned()));
        why
    }

    /// Leaves the cluster gracefully, after [`Cluster::run`] has ended: hands over the leadership, and
    /// removes the node's key and service.
    ///
    /// # Errors
    /// Errors of the calls, which are all made even if one fails; [`Kind::Timeout`] if they take longer than the
    /// client's time limit for one.
    pub async fn leave(&self) -> Result<(), Error> {
        let end = self.now() + self.client.settings().timeout;
        tokio::select! {
            biased;
            left = self.leave_in_time() => left,
            () = self.sleep_until(end) => {
                self.update(|snapshot| *snapshot = Snapshot::default());
                Err(Error::new(Kind::Timeout, "Consul does not answer"))
            }
        }
    }

    async fn leave_in_time(&self) -> Result<(), Error> {
        if self.options.observer {
            self.update(|snapshot| *snapshot = Snapshot::default());
            return Ok(());
        }
        let lease = lock(&self.lease).take();
        let released = match lease {
            Some(lease) if !lease.has_ended() => lease.release().await,
            _ => Ok(()),
        };
        let removed = self.remove_record().await;
        // If another node has the key, the service of this name belongs to it too.
        let withdrawn = match removed {
            Ok(false) => Ok(()),
            _ => self.presence.deregister().await,
        };
        self.update(|snapshot| *snapshot = Snapshot::default());
        released.and(removed.map(|_| ())).and(withdrawn)
    }

    /// Checks the shared settings, claims the node's name and writes its key.
    async fn join(&self) -> Result<(), Error> {
        let mut logged = None;
        loop {
            let joined = match settings::check(self).await {
                Ok(()) => match weights::read(&self.client, &self.options).await {
                    Ok(weight) => {
                        self.take_weight(weight);
                        let record = lock(&self.record).clone();
                        claim::claim_name(&self.client, &self.options, &record).await
                    }
                    Err(error) => Err(error),
                },
                Err(disagreed) => Err(disagreed),
            };
            match joined {
                Err(error) if error.is_transient() => {
                    let now = self.now();
                    let reason = (error.kind(), error.status());
                    let is_logged = |(why, at)| why == reason && now - at < REMINDER;
                    if !logged.is_some_and(is_logged) {
                        tracing::warn!(node = self.options.node_id, %error, "not joined yet");
                        logged = Some((reason, now));
                    }
                    self.client.clock().sleep(PAUSE).await;
                }
                Ok(mode) => {
                    if mode != Mode::Active {
                        let name = mode.name();
                        tracing::warn!(
                            node = self.options.node_id,
                            mode = name,
                            "the node goes on in the mode in which an operator has put it"
                        );
                    }
                    lock(&self.record).mode = mode;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn participate(&self) -> Error {
        let Options { nodes_prefix, leader_key, .. } = &self.options;
        let nodes = self.observe_list(&kv::LIST, nodes_prefix, |state| {
            self.hold_off_after_loss(state);
            self.apply_records(state, false)
        });
        let service = self.options.service();
        // The index of this query goes back whenever a server starts to stream it, so that does not
        // mean that Consul has lost data.
        let health =
            self.observe_list(&health::SERVICE, &service, |state| self.apply_health(state, false));
        let wait = self.options.profile.query_wait();
        let leader = self.observe(&kv::GET, leader_key, wait, |state| async move {
            if let Ok(state) = &state {
                self.hold_off_after_loss(state);
            }
            let state = state.as_ref().ok();
            if election::wait_for_own_candidacy(self, state).await {
                election::apply_leader(self, state);
            }
        });
        let epoch_key = self.options.epoch_key();
        let map = self.observe(&kv::GET, &epoch_key, WAIT, |state| async move {
            if let Ok(state) = state {
                self.hold_off_after_loss(&state);
                publication::apply_announcement(self, state).await;
            }
        });
        let is_member = !self.options.observer;
        tokio::select! {
            biased;
            never = self.presence.run(), if is_member => match never {},
            never = self.drop_lost_nodes() => match never {},
            never = start::note_hidden(self) => match never {},
            never = fitness::forget_outdated(self), if is_member => match never {},
            never = election::tell(self), if is_member => match never {},
            never = restore::restore(self), if is_member => match never {},
            why = self.maintain_record(), if is_member => why,
            why = requested::asked_to_leave(self), if is_member => why,
            why = settings::is_misfit(self), if is_member => why,
            why = self.maintain_instance(), if is_member => why,
            why = nodes => why,
            why = health => why,
            why = leader => why,
            why = map => why,
            never = election::campaign(self), if is_member => match never {},
        }
    }

    /// Watches an endpoint, and calls `apply` with each new state, and with the error when an outage starts.
    pub(crate) async fn observe<F: Future<Output = ()>>(
        &self,
        endpoint: &'static Endpoint,
        name: &str,
        wait: Duration,
        mut apply: impl FnMut(Result<State, Error>) -> F,
    ) -> Error {
        let args = Args::new().arg(name);
        let client = Arc::clone(&self.waiting);
        let options = WatchOptions { wait, ..WatchOptions::default() };
        let states = match states(client, endpoint, args, options) {
            Ok(states) => states,
            Err(error) => return error,
        };
        let mut states = pin!(states);
        loop {
            match states.next().await {
                Some(Ok(state)) => apply(Ok(state)).await,
                Some(Err(error)) => {
                    self.note_refusal(&error);
                    self.hold_off();
                    apply(Err(error)).await;
                }
                None => return Error::new(Kind::Closed, "a watch has ended"),
            }
        }
    }

    /// Watches a list of all nodes, and calls `apply` with each new one. If that returns a pause, the list is asked for
    /// again after it, without a wait.
    async fn observe_list(
        &self,
        endpoint: &'static Endpoint,
        name: &str,
        apply: impl Fn(&State) -> Option<Duration>,
    ) -> Error {
        let again = watch::Sender::new(None);
        let watched = self.observe(endpoint, name, LIST_WAIT, |state| {
            let (again, apply) = (&again, &apply);
            async move {
                if let Ok(state) = state {
                    again.send_replace(apply(&state));
                    // A list of many nodes is large.
                    drop(state);
                    self.pace().await;
                }
            }
        });
        let asked_again = async {
            let (mut pauses, args) = (again.subscribe(), Args::new().arg(name));
            loop {
                // The sender lives as long as this.
                let pause = pauses.wait_for(Option::is_some).await.map_or(None, |pause| *pause);
                self.client.clock().sleep(pause.unwrap_or_default()).await;
                if pauses.borrow_and_update().is_none() {
                    continue;
                }
                let answer = tokio::select! {
                    biased;
                    // The watch has a newer one.
                    _ = pauses.changed() => continue,
                    answer = self.client.call(endpoint, &args) => answer,
                };
                match answer {
                    Ok(answer) => {
                        let (is_resynchronised, is_after_error) = (false, false);
                        let state = State { answer, is_resynchronised, is_after_error };
                        again.send_replace(apply(&state));
                    }
                    Err(error) => tracing::debug!(%error, "a list was not read again"),
                }
            }
        };
        tokio::select! {
            biased;
            why = watched => why,
            never = asked_again => never,
        }
    }

    /// Pauses before the next list of all nodes is read.
    async fn pace(&self) {
        let nodes = self.snapshot().nodes.len();
        self.client.clock().sleep((LIST_PAUSE * nodes as u32).min(MAX_LIST_PAUSE)).await;
    }

    /// Reports that this node has the data of these shards; they become available on it with the next
    /// map. Shards that are not initializing on it are ignored.
    ///
    /// # Errors
    /// Errors of the calls. The report is then repeated in the background.
    pub async fn shards_ready(&self, shards: &[usize]) -> Result<(), Error> {
        if self.options.observer {
            let why = "an observer has no shards";
            return Err(Error::new(Kind::Unsupported, why).not_sent());
        }
        let snapshot = self.snapshot();
        if let Some(ready) = &mut lock(&self.record).ready {
            let waiting = self.initializing(&snapshot);
            let is_ready = |it: &(usize, u64)| ready.contains(it) || shards.contains(&it.0);
            *ready = waiting.into_iter().filter(is_ready).collect();
        }
        let reconciled = async {
            self.reconcile_record().await.map_err(|differs| match differs {
                Differs::Taken(other, _) => name_taken(&self.client, &self.options, &other),
                Differs::Failed(error) => error,
            })
        };
        self.in_time(reconciled).await
    }

    fn initializing(&self, snapshot: &Snapshot) -> Vec<(usize, u64)> {
        let map = snapshot.map.as_ref();
        map.map_or_else(Vec::new, |map| map.initializing(&self.options.node_id))
    }

    /// Removes the reports about shards that are not initializing any more.
    fn forget_ready(&self, snapshot: &Snapshot) {
        if let Some(ready) = lock(&self.record).ready.as_mut().filter(|ready| !ready.is_empty()) {
            let waiting = self.initializing(snapshot);
            ready.retain(|it| waiting.contains(it));
        }
    }

    /// Keeps the node's key equal to its record. Returns when another start has taken the name and lives.
    async fn maintain_record(&self) -> Error {
        let mut changes = self.changes();
        let mut contest = Contest::of_member(&self.options);
        loop {
            let checked = self.now();
            match self.reconcile_record().await {
                Ok(()) => {
                    if self.is_name_doubted.swap(false, Ordering::Relaxed) {
                        self.check_service();
                    }
                    contest = Contest::of_member(&self.options);
                }
                Err(Differs::Taken(other, index)) => {
                    let why = name_taken(&self.client, &self.options, &other);
                    if !self.is_name_doubted.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%why, "an answer is not believed yet; it is asked whether that one lives");
                        self.hold_off();
                    }
                    let own = &self.incarnation;
                    match contest.look(&self.client, &self.options, own, (&other, index)).await {
                        Ok(Found::Lives) => {
                            self.show_taken().await;
                            return why;
                        }
                        Ok(Found::Silent(index)) => self.take_back(index).await,
                        Ok(_) => {}
                        Err(error) => tracing::info!(%error, "it is not known who has the key"),
                    }
                    self.sleep_until(checked + PAUSE).await;
                    continue;
                }
                Err(Differs::Failed(error)) => {
                    contest.interrupted(self.now());
                    tracing::info!(%error, "the node's key could not be checked");
                }
            }
            self.sleep_until(checked + PAUSE).await;
            let is_wrong = |snapshot: &Arc<Snapshot>| {
                self.forget_ready(snapshot);
                let seen = snapshot.nodes.get(&self.options.node_id);
                seen.is_none_or(|seen| *seen.record != *lock(&self.record))
            };
            tokio::select! {
                biased;
                _ = changes.wait_for(is_wrong) => {}
                () = self.own_key_lost.notified() => {}
                () = self.sleep_until(checked + self.options.heartbeat_interval) => {
                    self.check_service();
                }
            }
        }
    }

    /// Shows the node that has taken the name as its owner, to those that look at this process after its end.
    async fn show_taken(&self) {
        let id = &self.options.node_id;
        if let Ok(Some((record, index))) = registered::read(&self.client, &self.options, id).await {
            lock(&self.reported).records.insert(id.clone(), (Arc::new(record), index));
            self.apply_members();
        }
    }

    /// Writes the node's key again, which shows a node that does not live, if that is still so.
    async fn take_back(&self, index: u64) {
        let (id, mine) = (&self.options.node_id, lock(&self.record).clone());
        tracing::warn!(
            node = id,
            "the node's key shows another start of it, which does not live; it is written again"
        );
        self.hold_off();
        match write(&self.client, &self.options, &mine, index).await {
            // The listed instance of this node may come from a restored snapshot.
            Ok(()) => {
                self.own_key_seen.store(0, Ordering::Relaxed);
                self.own_instance_lost.notify_one();
            }
            Err(error) => tracing::info!(%error, "the node's key could not be written"),
        }
    }

    /// Registers the service again if Consul does not report this node as live: an agent or servers that
    /// were restored from a backup may have the service of a previous incarnation.
    fn check_service(&self) {
        let is_connected = self.snapshot().is_connected;
        let reported = lock(&self.reported);
        let is_lost = |instances: &Instances| !is_live(instances, &self.incarnation);
        if is_connected && reported.instances.as_ref().is_some_and(is_lost) {
            self.own_instance_lost.notify_one();
        }
    }

    /// Registers the service again whenever it is lost. Returns when another node, which lives, has the same id at this agent
    /// and is the first in the order of texts: it follows the same rule, and stays.
    async fn maintain_instance(&self) -> Error {
        let (mut lost_to, mut lost_at, mut quick) = (None, None, 0);
        let begun = self.now();
        loop {
            let is_young = self.now() - begun < ID_LOST_AGAIN_WITHIN;
            let pause = if is_young { self.options.profile.check_ttl } else { ID_LOOK_INTERVAL };
            let is_lost = tokio::select! {
                biased;
                () = self.own_instance_lost.notified() => true,
                () = self.client.clock().sleep(pause) => false,
            };
            if is_lost {
                let is_quick = |at| self.now() - at < self.options.profile.check_ttl;
                quick = if lost_at.is_some_and(is_quick) { quick + 1 } else { 0 };
                self.pause_after_loss(quick).await;
                lost_at = Some(self.now());
            }
            match claim::id_holder(&self.client, &self.options).await {
                Ok(Some(holder)) => {
                    let why = claim::id_is_taken(&self.options, &holder);
                    if self.has_met(&mut lost_to, &holder) {
                        return why;
                    }
                    if is_lost {
                        tracing::warn!(%why, "the instance of this node in Consul was replaced");
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "it is not known who has the instance's id"),
            }
            if is_lost {
                self.presence.register_again();
            }
        }
    }

    /// Waits before the instance is registered again after this many quick losses in a row.
    async fn pause_after_loss(&self, quick: u32) {
        if quick == LOST_QUICKLY {
            // ACLs may hide the program that replaces it.
            tracing::warn!(
                id = self.options.service_id(),
                "Consul does not list the instance of this node, which registers it again and again: see whether its \
                 agent may register it, and whether another program registers this id, or one that differs by the \
                 case of letters"
            );
        }
        if quick >= LOST_QUICKLY {
            self.client.clock().sleep(self.options.profile.check_ttl).await;
        }
    }

    /// Whether a node that goes before this one has the id of its instance for the second time: it was registered after this
    /// node, by a process that lives, unless its agent went back.
    fn has_met(
        &self,
        last: &mut Option<(Option<String>, Instant)>,
        holder: &claim::IdHolder,
    ) -> bool {
        let now = self.now();
        let again = last.replace((holder.start.clone(), now));
        let is_again = |(start, at)| start == holder.start && now - at < ID_LOST_AGAIN_WITHIN;
        again.is_some_and(is_again) && holder.goes_first
    }

    /// Completes when the node's key and the id of its instance, read after the node is live for the others, are its own and
    /// nobody asks in the key: of two processes that start at the same time, only one gets that far.
    pub(crate) async fn has_name(&self) {
        while !self.has_name_now().await.unwrap_or_else(|error| {
            tracing::debug!(%error, "it is not known yet who has the node's name");
            false
        }) {
            self.client.clock().sleep(PAUSE).await;
        }
    }

    async fn has_name_now(&self) -> Result<bool, Error> {
        let id = &self.options.node_id;
        let found = keys::read(&self.client, &self.options.node_key(id)).await?;
        let record = found.and_then(|(bytes, _)| Record::parse(id, &bytes));
        let asks = |it: &Record| it.request.as_ref().is_some_and(|it| it.answer.is_some());
        if !record.is_some_and(|it| self.is_me(&it) && !asks(&it)) {
            return Ok(false);
        }
        // Of two whose ids differ by the case of letters both are at the agent.
        let other = claim::id_holder(&self.client, &self.options).await?;
        Ok(other.is_none_or(|it| it.is_twin && !it.goes_first))
    }

    /// Reads the node's key, and writes it if it differs from the record.
    async fn reconcile_record(&self) -> Result<(), Differs> {
        let id = &self.options.node_id;
        let found = keys::read(&self.client, &self.options.node_key(id)).await?;
        let found = found.map(|(bytes, index)| (Record::parse(id, &bytes), index));
        let mine = lock(&self.record).clone();
        let mut asked = None;
        let seen = self.own_key_seen.load(Ordering::Relaxed);
        let index = match found {
            // The key has been this node's since its start, so whatever is in it is there by mistake.
            Some((None, index)) => {
                tracing::warn!(node = id, "the node's key holds no record; it is written again");
                self.hold_off();
                index
            }
            Some((Some(other), index)) if !self.is_me(&other) => {
                return Err(Differs::Taken(Box::new(other), index));
            }
            Some((Some(record), index)) if index < seen && record != mine => {
                tracing::warn!(
                    node = id,
                    "the node's key is older than it was; it is written again"
                );
                self.hold_off();
                index
            }
            Some((Some(mut record), index)) => {
                self.own_key_seen.store(index, Ordering::Relaxed);
                // Others may change only the mode, and ask something.
                if let Some(request) = record.request.clone() {
                    requested::prepare(self, &request, &mut record);
                    if request.answer.is_some() {
                        lock(&self.record).answered = request.answer.clone();
                    }
                    asked = Some(request);
                }
                lock(&self.record).mode = record.mode;
                if record.mode != Mode::Draining {
                    *lock(&self.left_from) = None;
                }
                let mine = Record { mode: record.mode, ..mine.clone() };
                if record == mine {
                    return Ok(());
                }
                index
            }
            None => {
                tracing::warn!(node = id, "the node's key is gone; it is written again");
                self.hold_off();
                0
            }
        };
        let map_epoch = self.epoch();
        let mine = {
            let mut record = lock(&self.record);
            record.map_epoch = map_epoch;
            record.clone()
        };
        match write(&self.client, &self.options, &mine, index).await {
            // The key was changed in between; the caller's loop checks it again.
            Err(error) if error.kind() == Kind::Conflict => Ok(()),
            Ok(()) => {
                // Its index in a history of Consul that may be another one.
                self.own_key_seen.store(0, Ordering::Relaxed);
                asked.iter().for_each(|request| requested::act_on(self, request));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes this node's key, and leaves its mode in the key beside it; false if the key belongs to another node. Another
    /// program's value stays: a node that was refused has never had the key.
    async fn remove_record(&self) -> Result<bool, Error> {
        let (id, key) = (&self.options.node_id, self.options.node_key(&self.options.node_id));
        let mut may_keep = true;
        loop {
            let Some((bytes, index)) = keys::read(&self.client, &key).await? else {
                return Ok(true);
            };
            let Some(record) = Record::parse(id, &bytes) else { return Ok(true) };
            if !self.is_me(&record) {
                return Ok(false);
            }
            let kept = kept_mode::keep(&self.options, id, self.mode_to_keep(&record));
            let operations = [delete_unchanged(&key, index)].into_iter();
            let operations = operations.chain(kept.filter(|_| may_keep));
            match transact(&self.client, operations, None).await {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == Kind::PermissionDenied && may_keep => {
                    tracing::info!(node = id, %error, "the node's mode ends with this stop");
                    may_keep = false;
                }
                Err(error) if error.kind() == Kind::TxnFailed || error.maybe_applied() => {
                    self.client.pause(keys::CONFLICT_PAUSE_MS).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Applies a new list of the nodes' keys, unless it is not believed yet; a linearizable one is. Returns the pause before
    /// it is to be asked for again. Keys that ACLs hide stay as they were.
    pub(super) fn apply_records(&self, state: &State, is_certain: bool) -> Option<Duration> {
        let hides = state.answer.meta.filtered_by_acl == Some(true);
        if self.snapshot().hides_keys != hides {
            self.update(|snapshot| snapshot.hides_keys = hides);
        }
        self.keep_nodes_after_loss(state);
        let (options, listed) = (&self.options, &state.answer.value);
        let mut said = Said::after(std::mem::take(&mut lock(&self.reported).said));
        let mut records = records(options, listed, &mut said);
        let mut kept = kept_mode::listed(options, listed, &mut said);
        let mut paused = pause::listed(options, listed);
        let (mut weights, has_foreign_weights) = match weights::listed(options, listed, &mut said) {
            Listed::Absent => (None, false),
            // Until another program's value is gone, those known before count.
            Listed::Foreign => (Some(self.snapshot().weights.clone()), true),
            Listed::Weights(weights) => (Some(weights), false),
        };
        lock(&self.reported).said = said.now();
        if self.snapshot().has_foreign_weights != has_foreign_weights {
            self.update(|snapshot| snapshot.has_foreign_weights = has_foreign_weights);
        }
        let own = records.get(&self.options.node_id);
        if own.is_none_or(|(record, _)| **record != *lock(&self.record)) {
            self.own_key_lost.notify_one();
        }
        let mut reported = lock(&self.reported);
        if hides {
            for (id, known) in &reported.records {
                records.entry(id.clone()).or_insert_with(|| known.clone());
            }
        }
        let has = |records: &Records| match self.options.observer {
            false => records.get(&self.options.node_id).is_some_and(|(it, _)| self.is_me(it)),
            true => reported.records.keys().any(|id| records.contains_key(id)),
        };
        let is_lacking = !is_certain && has(&reported.records) && !has(&records);
        let newest = listed.items().iter().map(keys::index).max().unwrap_or_default();
        let newest = std::mem::replace(&mut reported.newest, newest);
        if !self.options.observer {
            restore::note_lost_weights(self, state, newest, weights.as_ref());
        }
        if (is_lacking || state.is_resynchronised) && !self.options.observer {
            restore::note_lost(self, state, newest, &records, (&kept, paused.as_ref()));
        } else {
            self.lost_modes.send_if_modified(|lost| {
                lost.found(&records, &kept);
                false
            });
        }
        let verdict = reported.of_records.judge(is_lacking, self.now());
        let pause = reported.of_records.pause(hides);
        if hides {
            kept.extend(self.snapshot().kept_modes.clone());
            paused = paused.or(self.snapshot().paused.clone());
            weights = weights.or(Some(self.snapshot().weights.clone()));
        }
        let lost_pause =
            restore::lost_pause(self, keys::listed_index(listed, &options.pause_key()));
        let paused = lost_pause.unwrap_or(paused);
        let at = keys::listed_index(listed, &options.weights_key());
        let weights = restore::lost_weights(self, at).or(weights).unwrap_or_default();
        kept.retain(|id, _| !records.contains_key(id));
        if verdict == Verdict::Apply {
            reported.records = records;
        }
        drop(reported);
        match verdict {
            Verdict::Apply => {
                let before = self.snapshot();
                let own = weights.get(&self.options.node_id).copied();
                if before.kept_modes != kept || before.paused != paused || before.weights != weights
                {
                    self.update(|snapshot| {
                        (snapshot.kept_modes, snapshot.paused) = (kept, paused);
                        snapshot.weights = weights;
                    });
                }
                if !self.options.observer && self.take_weight(own) {
                    self.own_key_lost.notify_one();
                }
                self.apply_members();
            }
            Verdict::Doubt => self.say_doubt("keys"),
            Verdict::StillDoubt => {}
        }
        pause
    }

    /// Applies a new list of the nodes' services and checks, as [`Cluster::apply_records`] does.
    pub(super) fn apply_health(&self, state: &State, is_certain: bool) -> Option<Duration> {
        let meta = &state.answer.meta;
        let sight = match meta.filtered_by_acl {
            Some(true) => Sight::Part,
            _ if meta.tells_hidden() => Sight::Whole,
            _ => Sight::Untold,
        };
        if self.snapshot().sight != sight {
            self.update(|snapshot| snapshot.sight = sight);
        }
        let others = registered::other_clusters(&self.options, &state.answer.value);
        if self.snapshot().other_clusters != others {
            self.update(|snapshot| snapshot.other_clusters = others);
        }
        self.keep_nodes_after_loss(state);
        let mut instances = instances(&state.answer.value);
        let own = (self.incarnation.clone(), self.options.service_id());
        let is_listed = |instances: &Instances| instances.contains_key(&own);
        let is_lost = !is_listed(&instances);
        let mut reported = lock(&self.reported);
        let known = reported.instances.take().unwrap_or_default();
        if sight == Sight::Part {
            for (incarnation, known) in &known {
                instances.entry(incarnation.clone()).or_insert_with(|| known.clone());
            }
        }
        let has = |instances: &Instances| match self.options.observer {
            false => is_listed(instances),
            true => known.keys().any(|it| instances.contains_key(it)),
        };
        let is_lacking = !is_certain && has(&known) && !has(&instances);
        let verdict = reported.of_instances.judge(is_lacking, self.now());
        let pause = reported.of_instances.pause(sight == Sight::Part);
        let is_first_loss = is_lost && is_listed(&known) && verdict != Verdict::StillDoubt;
        reported.instances = Some(if verdict == Verdict::Apply { instances } else { known });
        drop(reported);
        let is_doubted = self.is_name_doubted.load(Ordering::Relaxed);
        if is_first_loss && sight != Sight::Part && !is_doubted {
            self.own_instance_lost.notify_one();
        }
        match verdict {
            Verdict::Apply => self.apply_members(),
            Verdict::Doubt => self.say_doubt("instances"),
            Verdict::StillDoubt => {}
        }
        pause
    }

    fn say_doubt(&self, what: &str) {
        let lacks = if self.options.observer { "all nodes" } else { "this node itself" };
        tracing::warn!(
            node = self.options.node_id,
            "Consul's list of the nodes' {what} lacks {lacks}; it is asked again before it is believed"
        );
    }

    /// Takes the weight of this node, which is that of its configuration unless an operator has set another one. Whether it
    /// has changed.
    fn take_weight(&self, of_operator: Option<f64>) -> bool {
        let Record { weight, set_weight, .. } = &mut *lock(&self.record);
        let wanted = of_operator.unwrap_or(self.options.weight);
        let is_new = *weight != wanted || *set_weight != of_operator;
        *set_weight = of_operator;
        if *weight != wanted {
            tracing::info!(
                node = self.options.node_id,
                weight = wanted,
                before = *weight,
                "the node takes another weight"
            );
            *weight = wanted;
        }
        is_new
    }

    /// The mode that this node leaves when it stops.
    fn mode_to_keep(&self, record: &Record) -> Mode {
        lock(&self.left_from).unwrap_or(record.mode)
    }

    /// Notes from which mode this node leaves.
    pub(super) fn note_leaving(&self, from: Mode) {
        lock(&self.left_from).get_or_insert(from);
    }

    /// Keeps the nodes that Consul has lost for [`LOSS_GRACE`]. Further losses do not extend that.
    fn keep_nodes_after_loss(&self, state: &State) {
        let now = self.now();
        if state.is_resynchronised && now >= *self.kept_until.borrow() {
            self.kept_until.send_replace(now + LOSS_GRACE);
        }
    }

    /// Drops the nodes that were kept after a loss and have not registered again.
    async fn drop_lost_nodes(&self) -> Infallible {
        let mut kept_until = self.kept_until.subscribe();
        loop {
            // The sender lives as long as `self`.
            let _ = kept_until.changed().await;
            let until = *kept_until.borrow_and_update();
            self.sleep_until(until).await;
            self.apply_members();
        }
    }

    /// Combines records and liveness into the members of the snapshot, and emits the events of nodes
    /// that joined or left.
    fn apply_members(&self) {
        let now = self.now();
        let before = self.snapshot();
        let reported = lock(&self.reported);
        let mut records = reported.records.clone();
        // Until Consul has reported the live nodes, none counts as live.
        let Some(instances) = &reported.instances else {
            let unknown = |(id, (record, modify_index))| {
                let (down_since, complaint) = (Some(now), Complaint::default());
                let (is_live, vanished_at) = (false, None);
                (id, Node { record, modify_index, is_live, down_since, vanished_at, complaint })
            };
            let nodes = BTreeMap::from_iter(records.into_iter().map(unknown));
            return self.update(|snapshot| snapshot.nodes = nodes);
        };
        let mut kept = BTreeMap::new();
        if now < *self.kept_until.borrow() {
            kept.extend(before.nodes.iter().filter(|(_, node)| node.is_live));
        }
        let instance_of = |id: &str, record: &Record| {
            // The record of another node, copied to this name, has that one's incarnation.
            instances.get(&(record.incarnation.clone(), self.options.service_id_of(id)))
        };
        for (id, node) in &kept {
            let is_live = |(record, _): &(Arc<Record>, u64)| {
                let is_same = record.incarnation == node.record.incarnation;
                is_same || instance_of(id, record).is_some_and(|it| it.is_live)
            };
            if !records.get(*id).is_some_and(is_live) {
                records.insert((*id).clone(), (Arc::clone(&node.record), node.modify_index));
            }
        }
        let as_seen = |(id, (record, modify_index)): (String, (Arc<Record>, u64))| {
            let (is_live, complaint) = match instance_of(&id, &record) {
                Some(instance) => (instance.is_live, instance.complaint.clone()),
                None => {
                    let kept = kept.get(&id);
                    let is_kept =
                        kept.is_some_and(|node| node.record.incarnation == record.incarnation);
                    (is_kept, Complaint::default())
                }
            };
            let old = before.nodes.get(&id);
            let was_live = old.is_some_and(|old| old.is_live);
            let down_since = match old.and_then(|old| old.down_since) {
                _ if is_live => None,
                Some(since) => Some(since),
                None => Some(now),
            };
            let vanished_at = match old.and_then(|old| old.vanished_at) {
                _ if is_live => None,
                None if was_live => Some(now),
                since => since,
            };
            (id, Node { record, modify_index, is_live, down_since, vanished_at, complaint })
        };
        let nodes = BTreeMap::from_iter(records.into_iter().map(as_seen));
        drop(reported);
        if nodes == before.nodes {
            return;
        }
        let live_in = |nodes: &BTreeMap<String, Node>, id: &str| {
            nodes.get(id).is_some_and(|node| node.is_live)
        };
        let joined = nodes.keys().filter(|id| live_in(&nodes, id) && !live_in(&before.nodes, id));
        let joined: Vec<String> = joined.cloned().collect();
        let left = before.nodes.keys();
        let left = left.filter(|id| live_in(&before.nodes, id) && !live_in(&nodes, id));
        let left: Vec<String> = left.cloned().collect();
        self.update(|snapshot| snapshot.nodes = nodes);
        joined.into_iter().for_each(|id| self.emit(Event::NodeJoined(id)));
        left.into_iter().for_each(|id| self.emit(Event::NodeLeft(id)));
        self.note_first_look();
    }
}
