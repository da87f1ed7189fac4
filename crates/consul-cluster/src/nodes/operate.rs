//! The reads and changes of an operator from outside, by an observer that does not run.

use super::node::{Mode, Node, Record};
use super::pause::Pause;
use super::request::{Asked, HandOver, Leave, Reinit, Request};
use super::rights::{self, Right, lacking};
use super::weights::{self, Weights};
use super::{kept_mode, registered};
use crate::Cluster;
use crate::keys::{self, Reads, Unchanged, Update};
use crate::leader::{election, history};
use crate::shard_map::publication::{self, Announced, Announcement, Content};
use consul_api::api::{health, kv};
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::table::Endpoint;
use consul_api::value::Value;
use consul_client::coordination::{Operation, delete_unchanged, set, transact, unchanged};
use consul_client::watch::State;
use std::collections::BTreeSet;

/// The outcome of removing a node from the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// The node's key is deleted. Its instances that are still registered: their ids, each with its agent.
    Removed(Vec<(String, String)>),
    /// The node is live: it would write its key again.
    Live,
}

impl Cluster {
    /// Reads the state of the cluster once, with linearizable reads of its keys. For observers that do not run.
    ///
    /// # Errors
    /// Errors of the calls; [`Kind::PermissionDenied`] if it cannot be known which nodes live.
    pub async fn look(&self) -> Result<(), Error> {
        self.look_by(Reads::Linearizable).await
    }

    /// As [`Cluster::look`]; while Consul's servers have no Raft leader, what one of them has heard last, which the snapshot
    /// then says.
    ///
    /// # Errors
    /// As [`Cluster::look`].
    pub async fn look_also_back(&self) -> Result<(), Error> {
        self.look_by(keys::reads(&self.client).await).await
    }

    async fn look_by(&self, reads: Reads) -> Result<(), Error> {
        let (prefix, service) = (&self.options.nodes_prefix, self.options.service());
        let is_newest = reads == Reads::Linearizable;
        let records = self.whole(&kv::LIST, prefix, reads).await?;
        self.apply_records(&records, true);
        let health = self.whole(&health::SERVICE, &service, reads).await?;
        let is_listed =
            |node: &Node| registered::is_listed(&health.answer.value, &node.record.incarnation);
        let snapshot = self.snapshot();
        let is_sure = !snapshot.nodes.is_empty() && snapshot.nodes.values().all(is_listed);
        // Without a leader Consul does not tell rights.
        if is_newest && !is_sure {
            self.check_sees_all(&health).await?;
        }
        self.apply_health(&health, true);
        let (announced, _) =
            publication::read_announcement(&self.client, &self.options, reads).await?;
        let mut unreadable = Vec::new();
        match publication::read_by(&self.client, &self.options, reads).await?.map {
            Content::Map(map) => publication::adopt(self, map),
            Content::Absent => {}
            Content::Corrupt(_, error) => {
                unreadable.push(error.context(&self.options.map_key()).message().to_owned());
            }
        }
        let announced = match announced {
            Some(Announced::Document(announced)) => announced,
            Some(Announced::Other) => {
                unreadable.push(self.not_announced());
                Announcement::default()
            }
            None => Announcement::default(),
        };
        self.update(|snapshot| snapshot.unreadable = unreadable);
        publication::apply_restored(self, announced.restored);
        publication::apply_frozen(self, announced.frozen);
        let leader = self.state_of(&kv::GET, &self.options.leader_key, reads).await?;
        election::apply_leader(self, Some(&leader));
        let age_ms = [&records, &health, &leader].map(|it| it.answer.meta.last_contact_ms);
        let age_ms = age_ms.into_iter().flatten().max().unwrap_or_default();
        self.update(|snapshot| {
            snapshot.age_ms = (!is_newest).then_some(age_ms);
            snapshot.is_connected &= is_newest;
        });
        match records.answer.meta.tells_hidden() || !is_newest {
            true => Ok(()),
            false => self.check_sees_keys(&health).await,
        }
    }

    async fn state_of(
        &self,
        endpoint: &'static Endpoint,
        name: &str,
        reads: Reads,
    ) -> Result<State, Error> {
        let args = Args::new().arg(name).opt(reads.option(), true);
        let answer = self.client.call(endpoint, &args).await?;
        Ok(State { answer, is_resynchronised: false, is_after_error: false })
    }

    /// A list of nodes' keys or instances from which ACLs hide nothing.
    async fn whole(
        &self,
        endpoint: &'static Endpoint,
        name: &str,
        reads: Reads,
    ) -> Result<State, Error> {
        let state = self.state_of(endpoint, name, reads).await?;
        if state.answer.meta.filtered_by_acl != Some(true) {
            return Ok(state);
        }
        let one_of = match endpoint.name == kv::LIST.name {
            true => format!("key:read on keys below {name:?}"),
            false => "service:read or node:read".to_owned(),
        };
        let why =
            format!("{} {name:?}: ACLs hide entries: the token lacks {one_of}", endpoint.name);
        let error = Error::new(Kind::PermissionDenied, why).with_maybe_applied(false);
        let lacking = lacking(&self.client, rights::to_see_nodes(&self.options)).await;
        Err(match lacking {
            Ok(lacking) if !lacking.is_empty() => {
                error.with_note(&format!("it lacks {}", rights::listed(&lacking)))
            }
            _ => error,
        })
    }

    /// Refuses a list of instances that may lack some which ACLs hide. Consul before 1.11 does not tell that.
    async fn check_sees_all(&self, instances: &State) -> Result<(), Error> {
        if instances.answer.meta.tells_hidden() {
            return Ok(());
        }
        let lacking = lacking(&self.client, rights::to_see_nodes(&self.options)).await?;
        if lacking.is_empty() {
            return Ok(());
        }
        let why = format!(
            "which nodes live cannot be known, since ACLs may hide some: the token lacks {}",
            rights::listed(&lacking)
        );
        Err(Error::new(Kind::PermissionDenied, why).with_maybe_applied(false))
    }

    /// Refuses a list of nodes' keys that may lack some which ACLs hide, as [`Cluster::check_sees_all`] does.
    async fn check_sees_keys(&self, instances: &State) -> Result<(), Error> {
        let mut rights = vec![Right::read_all("key", &self.options.nodes_prefix)];
        rights.extend(self.rights_to_unseen(&instances.answer.value));
        let lacking = lacking(&self.client, rights).await?;
        if lacking.is_empty() {
            return Ok(());
        }
        let rights = rights::listed(&lacking);
        let why = format!("ACLs may hide keys of nodes: the token lacks {rights}");
        Err(Error::new(Kind::PermissionDenied, why).with_maybe_applied(false))
    }

    /// The rights to read the keys that this process does not see of nodes which something else names: the
    /// shard map, the leader's key, an instance. ACLs may hide them, or they are deleted.
    pub(crate) fn rights_to_unseen(&self, instances: &Value) -> Vec<Right> {
        let snapshot = self.snapshot();
        let mut named = registered::named(instances, &self.options);
        named.extend(snapshot.leader.as_ref().map(|leader| leader.node_id.clone()));
        named.extend(snapshot.map.iter().flat_map(|map| map.node_ids()).cloned());
        named.retain(|id| !snapshot.nodes.contains_key(id));
        named.iter().map(|id| Right::read("key", &self.options.node_key(id))).collect()
    }

    fn not_announced(&self) -> String {
        format!("{}: it is not the announcement of a shard map", self.options.epoch_key())
    }

    /// The condition that the shard map still has this epoch.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if it has another one; errors of the call.
    pub async fn at_epoch(&self, epoch: u64) -> Result<Unchanged, Error> {
        let (announced, index) =
            publication::read_announcement(&self.client, &self.options, Reads::Linearizable)
                .await?;
        let found = match announced {
            Some(Announced::Document(announced)) => announced.epoch,
            Some(Announced::Other) => {
                return Err(
                    Error::new(Kind::Decode, self.not_announced()).with_maybe_applied(false)
                );
            }
            None => 0,
        };
        if found == epoch {
            return Ok(Unchanged { key: self.options.epoch_key(), index });
        }
        let why = format!("the shard map has epoch {found}, not {epoch}");
        Err(Error::new(Kind::Conflict, why).with_maybe_applied(false))
    }

    /// As [`keys::update`], while another key is unchanged.
    pub(crate) async fn update_while(
        &self,
        condition: Option<&Unchanged>,
        key: &str,
        mut decide: impl FnMut(Option<&[u8]>) -> Result<Update, Error>,
    ) -> Result<(), Error> {
        let Some(condition) = condition else {
            return keys::update(&self.client, key, decide).await;
        };
        loop {
            let found = keys::read(&self.client, key).await?;
            let (value, index) = found.map_or((None, 0), |(value, index)| (Some(value), index));
            let change = match decide(value.as_deref())? {
                Update::Keep => return Ok(()),
                Update::Put(value) => vec![unchanged(key, index), set(key, value)],
                Update::Delete => vec![delete_unchanged(key, index)],
            };
            let holds: Operation = unchanged(&condition.key, condition.index);
            match transact(&self.client, std::iter::once(holds).chain(change), None).await {
                Err(error) if error.kind() == Kind::TxnFailed => {
                    if error.refused().iter().any(|refused| refused.index == 0) {
                        let why = format!("{} has changed meanwhile", condition.key);
                        let maybe_applied = error.maybe_applied();
                        let error = Error::new(Kind::Conflict, why);
                        return Err(error.with_maybe_applied(maybe_applied));
                    }
                    self.client.pause(keys::CONFLICT_PAUSE_MS).await;
                }
                changed => return changed.map(|_| ()),
            }
        }
    }

    /// Sets the mode of a node, this one or another, while another key is unchanged, and if the node has the mode that
    /// was `seen`. To make it active cancels a request to leave. The kept mode of a node that is stopped can be changed too.
    ///
    /// # Errors
    /// As [`Cluster::set_mode`]; [`Kind::Conflict`] if the other key or the mode has changed.
    pub async fn set_mode_while(
        &self,
        condition: Option<&Unchanged>,
        node_id: &str,
        seen: Option<Mode>,
        mode: Mode,
    ) -> Result<(), Error> {
        self.in_time(self.set_mode_if(condition, node_id, seen, mode)).await
    }

    async fn set_mode_if(
        &self,
        condition: Option<&Unchanged>,
        node_id: &str,
        seen: Option<Mode>,
        mode: Mode,
    ) -> Result<(), Error> {
        // An answer that was lost makes it find its own.
        let check = |found: Mode| match seen.is_none_or(|seen| found == seen || found == mode) {
            true => Ok(()),
            false => Err(raced(&format!("the mode of {node_id} to {}", found.name()))),
        };
        let set = |record: &mut Record| {
            check(record.mode)?;
            record.mode = mode;
            if mode == Mode::Active {
                record.cancel_leave();
            }
            Ok(())
        };
        match self.change_record(condition, node_id, set).await {
            Err(error) if error.kind() == Kind::NotFound => {}
            changed => return changed,
        }
        let mut is_kept = false;
        let kept_key = self.options.mode_key(node_id);
        let change = |found: Option<&[u8]>| {
            is_kept = found.is_some();
            found.and_then(kept_mode::decode).map_or(Ok(()), check)?;
            Ok(match (found, mode) {
                (None, _) => Update::Keep,
                (Some(_), Mode::Active) => Update::Delete,
                (Some(_), mode) => Update::Put(kept_mode::encode(mode)),
            })
        };
        self.update_while(condition, &kept_key, change).await?;
        match is_kept {
            true => Ok(()),
            // The node has started meanwhile and has taken its mode, or there is no such node.
            false => self.change_record(condition, node_id, set).await,
        }
    }

    /// Removes a node that is down from the members at once, instead of after `forget_after`, and the mode of a stopped
    /// node.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such node; [`Kind::Conflict`] if the other key has changed;
    /// [`Kind::PermissionDenied`] if it cannot be known whether the node lives; errors of the calls.
    pub async fn forget(
        &self,
        condition: Option<&Unchanged>,
        node_id: &str,
    ) -> Result<Forgotten, Error> {
        self.in_time(self.forget_if(condition, node_id)).await
    }

    async fn forget_if(
        &self,
        condition: Option<&Unchanged>,
        node_id: &str,
    ) -> Result<Forgotten, Error> {
        let service = self.options.service();
        let health = self.whole(&health::SERVICE, &service, Reads::Linearizable).await?;
        self.check_sees_all(&health).await?;
        let mut forgotten = Forgotten::Removed(Vec::new());
        let mut has_key = true;
        self.update_while(condition, &self.options.node_key(node_id), |found| {
            has_key = found.is_some();
            let Some(bytes) = found else { return Ok(Update::Keep) };
            let record = registered::parse(&self.options, node_id, bytes)?;
            if registered::is_listed_live(&health.answer.value, &record.incarnation) {
                forgotten = Forgotten::Live;
                return Ok(Update::Keep);
            }
            let left = registered::registered(&health.answer.value, &record.incarnation);
            forgotten = Forgotten::Removed(left);
            Ok(Update::Delete)
        })
        .await?;
        if has_key {
            return Ok(forgotten);
        }
        self.update_while(condition, &self.options.mode_key(node_id), |found| match found {
            Some(_) => Ok(Update::Delete),
            None => Err(no_such_node(node_id)),
        })
        .await?;
        Ok(forgotten)
    }

    /// Sets the mode of a node, this one or another.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such node; otherwise errors of the calls.
    pub async fn set_mode(&self, node_id: &str, mode: Mode) -> Result<(), Error> {
        self.set_mode_while(None, node_id, None, mode).await
    }

    /// Drains this node, to stop it then: the mode that it has now is the one of its next start.
    ///
    /// # Errors
    /// As [`Cluster::set_mode`].
    pub async fn drain_to_leave(&self) -> Result<(), Error> {
        self.note_leaving(self.mode());
        self.set_mode(&self.options.node_id, Mode::Draining).await
    }

    /// Changes a node's key as an operator does, while another key is unchanged.
    pub(crate) async fn change_record(
        &self,
        condition: Option<&Unchanged>,
        node_id: &str,
        mut change: impl FnMut(&mut Record) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.update_while(condition, &self.options.node_key(node_id), |found| {
            let Some(bytes) = found else { return Err(no_such_node(node_id)) };
            let mut record = registered::parse(&self.options, node_id, bytes)?;
            change(&mut record)?;
            Ok(Update::Put(record.to_bytes()))
        })
        .await
    }

    /// Lets a frozen shard map change again: an operator accepts the loss of the members.
    ///
    /// # Errors
    /// Errors of the calls.
    pub async fn thaw(&self) -> Result<(), Error> {
        self.thaw_while(None, None).await
    }

    /// As [`Cluster::thaw`], while another key is unchanged, and no other members have vanished than an operator was `shown`.
    ///
    /// # Errors
    /// Errors of the calls; [`consul_api::error::Kind::Conflict`] if the other key has changed, the announcement of the map
    /// cannot be read, or others have vanished.
    pub async fn thaw_while(
        &self,
        condition: Option<&Unchanged>,
        shown: Option<&[String]>,
    ) -> Result<(), Error> {
        let key = self.options.epoch_key();
        let update = self.update_while(condition, &key, |found| {
            let Some(found) = found else { return Ok(Update::Keep) };
            let Some(announcement) = Announcement::parse(found) else {
                let why =
                    format!("whether the map is frozen is not known: {}", self.not_announced());
                return Err(Error::new(Kind::Conflict, why).with_maybe_applied(false));
            };
            let is_new = |id: &&String| shown.is_some_and(|shown| !shown.contains(id));
            if let Some(id) = announcement.frozen.iter().find(is_new) {
                let why = format!("{id} has vanished meanwhile too: nothing was changed");
                return Err(Error::new(Kind::Conflict, why).with_maybe_applied(false));
            }
            Ok(match announcement.frozen.is_empty() {
                true => Update::Keep,
                false => {
                    Update::Put(Announcement { frozen: Vec::new(), ..announcement }.to_bytes())
                }
            })
        });
        self.in_time(update).await
    }

    /// Stops all automatic moves of shards until [`Cluster::resume_moves`], while another key is unchanged. Returns the pause
    /// that was ordered before, which stays; `None`: there was none.
    ///
    /// # Errors
    /// Errors of the calls; [`consul_api::error::Kind::Conflict`] if the other key has changed.
    pub async fn pause_moves(
        &self,
        condition: Option<&Unchanged>,
        by: &str,
        why: &str,
    ) -> Result<Option<Pause>, Error> {
        let pause = Pause { by: by.to_owned(), since_ms: self.unix_ms(), why: why.to_owned() };
        let mut before = None;
        let key = self.options.pause_key();
        let update = self.update_while(condition, &key, |found| {
            // An answer that was lost makes it find its own.
            before = found.map(Pause::decode).filter(|found| *found != pause);
            Ok(if found.is_some() { Update::Keep } else { Update::Put(pause.encode()) })
        });
        self.in_time(update).await?;
        Ok(before)
    }

    /// Ends a pause. Returns it; `None`: there was none.
    ///
    /// # Errors
    /// As [`Cluster::pause_moves`].
    pub async fn resume_moves(
        &self,
        condition: Option<&Unchanged>,
    ) -> Result<Option<Pause>, Error> {
        let mut before = None;
        let key = self.options.pause_key();
        let update = self.update_while(condition, &key, |found| {
            before = found.map(Pause::decode).or(before.take());
            Ok(if found.is_some() { Update::Delete } else { Update::Keep })
        });
        self.in_time(update).await?;
        Ok(before)
    }

    /// Gives a node another weight than its configuration has, or with `None` that one again, while another key is unchanged.
    /// It lasts over restarts. Returns the weight that an operator had set before.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if this process knows no such node; [`Kind::Argument`] for a weight that is negative or not
    /// finite; [`Kind::Conflict`] if the other key has changed, another operator has changed the weight since this process
    /// read it, or another program's value is in the key of the weights; errors of the calls.
    pub async fn set_weight(
        &self,
        condition: Option<&Unchanged>,
        node_id: &str,
        weight: Option<f64>,
    ) -> Result<Option<f64>, Error> {
        if weight.is_some_and(|weight| !weights::is_valid(weight)) {
            let why = "the weight of a node must be a number from 0 on";
            return Err(Error::new(Kind::Argument, why).not_sent());
        }
        let snapshot = self.snapshot();
        let is_known = snapshot.nodes.contains_key(node_id)
            || snapshot.kept_modes.contains_key(node_id)
            || snapshot.weights.contains_key(node_id);
        if !is_known {
            return Err(no_such_node(node_id));
        }
        let (key, mut before) = (self.options.weights_key(), None);
        // If Consul has lost the key, the nodes show what it had.
        let shown = snapshot.nodes.values().map(|node| &node.record);
        let shown = shown.filter_map(|record| Some((record.id.clone(), record.set_weight?)));
        let shown: Weights = shown.chain(snapshot.weights.clone()).collect();
        let lost = weights::encode(&shown);
        let update = self.update_while(condition, &key, |found| {
            let known = found.unwrap_or(&lost);
            let mut all = weights::members(known).ok_or_else(|| keys::foreign(&key))?;
            let has = weights::decode(known).get(node_id).copied();
            // An answer that was lost makes it find its own.
            let is_seen =
                [snapshot.weights.get(node_id), shown.get(node_id)].contains(&has.as_ref());
            if !is_seen && has != weight {
                let has = has.map_or("that of its configuration".to_owned(), |it| it.to_string());
                return Err(raced(&format!("the weight of {node_id} to {has}")));
            }
            before = has;
            match weight {
                Some(weight) => _ = all.insert(node_id.to_owned(), weight.into()),
                None => _ = all.remove(node_id),
            }
            let value = serde_json::to_vec(&all).unwrap_or_default();
            let is_same =
                found == Some(&*value) || found.is_none() && shown.is_empty() && all.is_empty();
            Ok(if is_same { Update::Keep } else { Update::Put(value) })
        });
        self.in_time(update).await?;
        Ok(before)
    }

    /// The keys of what operators set and of the history of leaders in which another program's value is: each error names one,
    /// with its cure. Before it is the problem that tells the same where it is known.
    ///
    /// # Errors
    /// Errors of the calls.
    pub async fn foreign_values(&self) -> Result<Vec<(&'static str, Error)>, Error> {
        let key = self.options.weights_key();
        let found = keys::read(&self.client, &key).await?;
        let is_foreign = found.is_some_and(|(bytes, _)| weights::members(&bytes).is_none());
        let mut foreign =
            Vec::from_iter(is_foreign.then(|| ("weights_unreadable", keys::foreign(&key))));
        match history::leaders(self).await {
            Err(error) if error.kind() == Kind::Conflict => {
                foreign.push(("history_not_kept", error));
            }
            known => _ = known?,
        }
        Ok(foreign)
    }

    /// Asks the leader to hand over the leadership that this process knows, to a node or to any other one.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if there is no leader, it is asked to hand over to another node already, or the other
    /// key has changed; otherwise errors of the calls.
    pub async fn ask_hand_over(
        &self,
        condition: Option<&Unchanged>,
        to: Option<&str>,
    ) -> Result<Asked, Error> {
        let snapshot = self.snapshot();
        let Some(leader) = &snapshot.leader else {
            return Err(Error::new(Kind::Conflict, "there is no leader").not_sent());
        };
        let hand_over = HandOver { token: leader.token, to: to.map(str::to_owned) };
        let request = Request { hand_over: Some(hand_over), ..Request::default() };
        self.ask(condition, &leader.node_id, request).await
    }

    /// Asks a node to hand over its shards, and then to stop.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if this process knows no such node; [`Kind::Conflict`] if the other key has
    /// changed; otherwise errors of the calls.
    pub async fn ask_leave(
        &self,
        condition: Option<&Unchanged>,
        node_id: &str,
    ) -> Result<Asked, Error> {
        let snapshot = self.snapshot();
        let node = snapshot.nodes.get(node_id).ok_or_else(|| no_such_node(node_id))?;
        let leave = Leave { incarnation: node.record.incarnation.clone() };
        self.ask(condition, node_id, Request { leave: Some(leave), ..Request::default() }).await
    }

    /// Asks a node to make replicas again: of each store, on this disk of the node, the replicas of these shards.
    pub(crate) async fn ask_reinit(
        &self,
        node_id: &str,
        stores: impl Iterator<Item = (&String, u64, &BTreeSet<u32>)>,
    ) -> Result<Asked, Error> {
        let snapshot = self.snapshot();
        let node = snapshot.nodes.get(node_id).ok_or_else(|| no_such_node(node_id))?;
        let order = self.client.random_u64();
        let reinit = stores.map(|(store, disk, shards)| {
            let incarnation = node.record.incarnation.clone();
            (store.clone(), Reinit { incarnation, order, disk, shards: shards.clone() })
        });
        let request = Request { reinit: reinit.collect(), ..Request::default() };
        self.ask(None, node_id, request).await
    }

    /// Adds a request to those that the node has not taken.
    async fn ask(
        &self,
        condition: Option<&Unchanged>,
        node_id: &str,
        request: Request,
    ) -> Result<Asked, Error> {
        let mut is_new = false;
        let add = |record: &mut Record| {
            let mut all = record.request.take().unwrap_or_default();
            is_new = all.add(node_id, &request)?;
            record.request = Some(all);
            Ok(())
        };
        self.in_time(self.change_record(condition, node_id, add)).await?;
        Ok(Asked { node_id: node_id.to_owned(), request, is_new })
    }

    /// Takes back what a node was asked, and nothing else. Whether the node's key still had it.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if the other key has changed; otherwise errors of the calls.
    pub async fn withdraw(
        &self,
        condition: Option<&Unchanged>,
        node_id: &str,
        request: &Request,
    ) -> Result<bool, Error> {
        let mut withdrawn = false;
        let withdraw = |record: &mut Record| {
            withdrawn = record.take_back(|all| all.remove(request));
            Ok(())
        };
        self.in_time(self.change_record(condition, node_id, withdraw)).await?;
        Ok(withdrawn)
    }
}

/// The refusal to change what another operator has changed since it was read.
fn raced(what: &str) -> Error {
    let why = format!("another operator has changed {what} meanwhile: nothing was changed");
    Error::new(Kind::Conflict, why).with_maybe_applied(false)
}

/// The error for a name that no node has.
pub(crate) fn no_such_node(node_id: &str) -> Error {
    let why = format!("there is no node {node_id:?}");
    Error::new(Kind::NotFound, why).with_maybe_applied(false)
}
