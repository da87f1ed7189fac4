//! The shard map: the document that maps shards to nodes, written by the leader and used by every node
//! for routing.
//!
//! A key's shard is the upper half of the product of its hash (XXH3, 64 bits, seed 0) and the number
//! of shards, so it is the same in every process, on every platform and in every release. The nodes of
//! a shard are stored in the document, not computed, so all nodes with the same epoch route alike.

pub(super) mod publication;

use consul_api::error::{Error, Kind};
use consul_replication::placement::Candidate;
use consul_replication::placement::primaries::primaries;
use consul_replication::placement::rebalancer::{self, Assignment};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;
use twox_hash::XxHash3_64;

/// The version of the document's format. Documents of another version are rejected.
const FORMAT: u64 = 1;

/// The most shards of a map.
pub const MAX_SHARDS: usize = 65_536;

/// The largest epoch, and the largest integer that every Lua engine represents exactly. With a new map
/// each millisecond it is reached after 285,000 years, so a document beyond it is corrupt; if it were
/// accepted, no later map could replace it.
pub const MAX_EPOCH: u64 = (1 << 53) - 1;

/// The nodes that hold the replicas of each shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    epoch: u64,
    token: u64,
    replicas: usize,
    /// The ids of the nodes that hold a replica, sorted.
    nodes: Vec<String>,
    shards: Vec<Vec<Replica>>,
}

/// The place of a shard on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Entry", try_from = "Entry")]
pub struct Replica {
    /// The index of the node among the nodes of the map.
    pub node: usize,
    /// Whether it has the shard's data.
    pub state: ReplicaState,
}

impl Replica {
    pub(super) fn is_available(&self) -> bool {
        self.state == ReplicaState::Available
    }
}

/// Whether a replica has the data of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// It has the shard's data.
    Available,
    /// It is copying the data.
    Initializing {
        /// The index of the node that it copies from among the nodes of the map.
        source: usize,
        /// The epoch of the map that assigned the shard to the node; it distinguishes this assignment
        /// from earlier ones.
        since: u64,
    },
    /// It has the data, and keeps it until the other replicas have it.
    Leaving,
}

/// A node that the next map may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its unique name.
    pub id: String,
    /// Replicas of a shard are in different zones if there are enough zones.
    pub zone: String,
    /// Its share of the shards relative to the other members. Without a finite weight above 0 it gets
    /// none.
    pub weight: f64,
    /// The initializing shards whose data it has by now, each with the epoch that assigned the shard to
    /// it. `None`: shards are available on it at once, since there is no data to copy.
    pub ready: Option<Vec<(usize, u64)>>,
    /// Whether it is down for a short time: it keeps its shards, and gets no more if the other members
    /// can take them.
    pub is_down: bool,
}

impl Member {
    fn is_eligible(&self) -> bool {
        self.weight.is_finite() && self.weight > 0.0
    }
}

/// The shard of a key among this many.
pub(super) fn shard_of(key: &[u8], shards: usize) -> usize {
    let product = u128::from(XxHash3_64::oneshot(key)) * shards as u128;
    (product >> u64::BITS) as usize
}

impl ShardMap {
    /// The first map of a cluster, with epoch 1: `shards` shards (1 to [`MAX_SHARDS`]) with `replicas`
    /// replicas each (1 or more), or fewer if there are fewer members. `token` is the fencing token of
    /// the leader that makes the map.
    ///
    /// The order of the members does not matter.
    pub fn first(shards: usize, replicas: usize, members: &[Member], token: u64) -> Self {
        let shards = vec![Vec::new(); shards];
        let empty = ShardMap { epoch: 0, token, replicas, nodes: Vec::new(), shards };
        let (first, _) = empty.placed_on(members, token);
        first
    }

    /// The version of this map, from 1 to [`MAX_EPOCH`].
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The fencing token of the leader that made this map.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// The number of shards.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// The desired number of replicas of each shard.
    pub fn replicas(&self) -> usize {
        self.replicas
    }

    /// The shard that a key is in.
    pub fn shard_of(&self, key: &[u8]) -> usize {
        shard_of(key, self.shards.len())
    }

    /// The nodes of a shard; the first that is available is its primary.
    pub fn nodes_of(&self, shard: usize) -> impl Iterator<Item = (&str, ReplicaState)> {
        let replicas = self.shards.get(shard).into_iter().flatten();
        replicas.map(|replica| (self.nodes[replica.node].as_str(), replica.state))
    }

    /// The ids of the nodes that hold a replica, sorted.
    pub fn node_ids(&self) -> &[String] {
        &self.nodes
    }

    /// The replicas of each shard, by the indexes of their nodes.
    pub fn shards(&self) -> &[Vec<Replica>] {
        &self.shards
    }

    /// The id of the node with this index, for example of a replica's source.
    pub fn node(&self, place: usize) -> Option<&str> {
        self.nodes.get(place).map(String::as_str)
    }

    /// The shards with a replica in any state on a node, in ascending order.
    pub fn shards_of(&self, node: &str) -> Vec<usize> {
        let Some(node) = self.place(node) else { return Vec::new() };
        let has = |shard: &usize| self.shards[*shard].iter().any(|replica| replica.node == node);
        (0..self.shards.len()).filter(has).collect()
    }

    /// The next map after a change of members, and the number of moves: replicas on a node that did not
    /// have the shard, as few as even loads allow. `None` if the map does not change, also because no
    /// member can have shards.
    ///
    /// On a member with `ready`, a new replica is initializing until the member reports it ready, and
    /// for that time the replica that it replaces is leaving. On other members it is available at once.
    /// Each node is the primary of a part of the shards in proportion to its load; few shards change
    /// their primary for that.
    pub fn rebalanced(&self, members: &[Member], token: u64) -> Option<(ShardMap, usize)> {
        let (next, moves) = self.placed_on(members, token);
        let is_same = next.nodes == self.nodes && next.shards == self.shards;
        (!is_same && !next.nodes.is_empty()).then_some((next, moves))
    }

    /// The same map with another epoch, to continue after Consul has lost newer maps.
    pub fn with_epoch(self, epoch: u64) -> Self {
        ShardMap { epoch, ..self }
    }

    /// The same map, published by the leader with this token.
    pub fn with_token(self, token: u64) -> Self {
        ShardMap { token, ..self }
    }

    /// The shards whose data a node has yet to copy, each with the epoch that assigned it to the node.
    pub fn initializing(&self, node: &str) -> Vec<(usize, u64)> {
        let of_node = self.place(node);
        let since = |replica: &Replica| match replica.state {
            ReplicaState::Initializing { since, .. } if Some(replica.node) == of_node => {
                Some(since)
            }
            _ => None,
        };
        let shards = self.shards.iter().enumerate();
        shards.filter_map(|(shard, on)| Some((shard, on.iter().find_map(since)?))).collect()
    }

    /// Whether a node has a replica of any shard.
    pub fn has(&self, node: &str) -> bool {
        self.place(node).is_some()
    }

    /// The index of a node among the nodes of this map.
    fn place(&self, node: &str) -> Option<usize> {
        self.nodes.binary_search_by(|id| id.as_str().cmp(node)).ok()
    }

    /// The next map on these members, and the number of moves.
    fn placed_on(&self, members: &[Member], token: u64) -> (ShardMap, usize) {
        let mut members: Vec<&Member> = members.iter().collect();
        members.sort_by(|a, b| a.id.cmp(&b.id));
        members.dedup_by(|a, b| a.id == b.id);
        // Only members that can have shards are candidates.
        let eligible: Vec<usize> =
            (0..members.len()).filter(|it| members[*it].is_eligible()).collect();
        let candidate = |it: &usize| Candidate {
            weight: members[*it].weight,
            zone: members[*it].zone.clone(),
            max_replicas: usize::MAX,
        };
        let mut candidates: Vec<Candidate> = eligible.iter().map(candidate).collect();

        // The index of each node of this map among the members.
        let among_members = |id: &String| members.binary_search_by(|m| m.id.cmp(id)).ok();
        let now: Vec<Option<usize>> = self.nodes.iter().map(among_members).collect();
        let candidate = |replica: &Replica| eligible.binary_search(&now[replica.node]?).ok();
        let assignment = |is_in: fn(&Replica) -> bool| -> Assignment {
            let places = |shard: &Vec<Replica>| {
                shard.iter().filter(|replica| is_in(replica)).filter_map(candidate).collect()
            };
            self.shards.iter().map(places).collect()
        };
        let before = assignment(|replica| replica.state != ReplicaState::Leaving);
        let with_data = assignment(|_| true);
        let mut after = rebalancer::rebalance(&candidates, self.replicas, &before, &with_data);
        let load = |on: &Assignment, place| on.iter().flatten().filter(|it| **it == place).count();
        let down = (0..eligible.len()).filter(|place| members[eligible[*place]].is_down);
        let down: Vec<usize> = down.collect();
        if down.iter().any(|place| load(&after, *place) > load(&before, *place)) {
            down.iter().for_each(|place| candidates[*place].max_replicas = load(&before, *place));
            after = rebalancer::rebalance(&candidates, self.replicas, &before, &with_data);
        }
        let moves = rebalancer::moves(&with_data, &after);

        let epoch = self.epoch + 1;
        let shards = self.shards.iter().zip(&after).enumerate().map(|(number, (shard, places))| {
            let places: Vec<usize> = places.iter().map(|place| eligible[*place]).collect();
            Transition { number, before: shard, now: &now, members: &members, epoch }
                .replicas_on(&places)
        });
        let shards = shards.collect();
        let primary = |shard: &Vec<Replica>| {
            shard
                .iter()
                .find(|replica| replica.is_available())
                .and_then(|replica| now[replica.node])
        };
        let primaries: Vec<Option<usize>> = self.shards.iter().map(primary).collect();
        let ids = members.iter().map(|member| member.id.clone()).collect();
        let next = ShardMap { epoch, token, replicas: self.replicas, nodes: ids, shards };
        (next.with_primaries(&primaries).without_idle_nodes(), moves)
    }

    /// The same map with the primary of each shard first; `before` has the previous primaries.
    fn with_primaries(mut self, before: &[Option<usize>]) -> Self {
        let available = |shard: &Vec<Replica>| {
            shard
                .iter()
                .filter(|replica| replica.is_available())
                .map(|replica| replica.node)
                .collect()
        };
        let available: Vec<Vec<usize>> = self.shards.iter().map(available).collect();
        for (shard, primary) in self.shards.iter_mut().zip(primaries(&available, before)) {
            if let Some(place) = shard.iter().position(|replica| Some(replica.node) == primary) {
                shard.swap(0, place);
            }
        }
        self
    }

    /// The same map without the nodes that hold no replica.
    fn without_idle_nodes(self) -> Self {
        let used = BTreeSet::from_iter(self.shards.iter().flatten().map(|replica| replica.node));
        let mut place = vec![0; self.nodes.len()];
        used.iter().enumerate().for_each(|(new, old)| place[*old] = new);
        let renamed = |replica: &Replica| Replica {
            node: place[replica.node],
            state: match replica.state {
                ReplicaState::Initializing { source, since } => {
                    ReplicaState::Initializing { source: place[source], since }
                }
                state => state,
            },
        };
        let shards = self.shards.iter().map(|shard| shard.iter().map(renamed).collect()).collect();
        let nodes = used.iter().map(|old| self.nodes[*old].clone()).collect();
        ShardMap { nodes, shards, ..self }
    }
}

/// The change of one shard from a map to the next one.
struct Transition<'a> {
    number: usize,
    before: &'a [Replica],
    /// The indexes of the nodes of `before` among the members.
    now: &'a [Option<usize>],
    members: &'a [&'a Member],
    /// The epoch of the next map.
    epoch: u64,
}

impl Transition<'_> {
    /// The replicas of the shard if it is assigned to these members. Replicas elsewhere are leaving, and
    /// are kept until all new ones have the data. A new replica copies from a leaving one of its own if
    /// there are enough: so data on a quorum of the replicas stays on a quorum.
    fn replicas_on(&self, places: &[usize]) -> Vec<Replica> {
        let had = self.before.iter().filter_map(|replica| self.now[replica.node]);
        let leaving: Vec<usize> =
            had.filter(|place| !places.contains(place) && self.has_data(*place)).collect();
        let staying = places.iter().copied().find(|place| self.has_data(*place));
        let mut sources = leaving.iter().copied();
        let mut replicas: Vec<Replica> = places
            .iter()
            .map(|place| {
                let replaced = self.known(*place).is_none().then(|| sources.next()).flatten();
                let source = replaced.or(staying).or(leaving.first().copied());
                Replica { node: *place, state: self.state(*place, source) }
            })
            .collect();
        if !replicas.iter().all(Replica::is_available) {
            let leaving = leaving.iter();
            replicas.extend(leaving.map(|it| Replica { node: *it, state: ReplicaState::Leaving }));
        }
        replicas
    }

    fn known(&self, place: usize) -> Option<ReplicaState> {
        let known = self.before.iter().find(|replica| self.now[replica.node] == Some(place));
        known.map(|replica| replica.state)
    }

    fn has_data(&self, place: usize) -> bool {
        match (self.known(place), &self.members[place].ready) {
            (None, _) => false,
            (Some(ReplicaState::Initializing { since, .. }), Some(ready)) => {
                ready.contains(&(self.number, since))
            }
            _ => true,
        }
    }

    /// The state of the replica on a member; a new replica copies from `new_source`.
    fn state(&self, place: usize, new_source: Option<usize>) -> ReplicaState {
        if self.has_data(place) || self.members[place].ready.is_none() {
            return ReplicaState::Available;
        }
        let (source, since) = match self.known(place) {
            Some(ReplicaState::Initializing { source, since }) => (self.now[source], since),
            _ => (None, self.epoch),
        };
        match source.filter(|source| self.has_data(*source)).or(new_source) {
            Some(source) => ReplicaState::Initializing { source, since },
            // No other replica has the data.
            None => ReplicaState::Available,
        }
    }
}

/// The JSON document of a map.
#[derive(Serialize, Deserialize)]
struct Document<'a> {
    format: u64,
    epoch: u64,
    token: u64,
    replicas: usize,
    nodes: Cow<'a, [String]>,
    shards: Cow<'a, [Vec<Replica>]>,
}

/// A replica in the document: only the index of the node if it is available.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a replica is neither a node's index nor an object with a `node`")]
enum Entry {
    Available(usize),
    Other {
        node: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<usize>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        leaving: bool,
    },
}

impl From<Replica> for Entry {
    fn from(Replica { node, state }: Replica) -> Self {
        match state {
            ReplicaState::Available => Entry::Available(node),
            ReplicaState::Initializing { source, since } => {
                Entry::Other { node, source: Some(source), since: Some(since), leaving: false }
            }
            ReplicaState::Leaving => {
                Entry::Other { node, source: None, since: None, leaving: true }
            }
        }
    }
}

impl TryFrom<Entry> for Replica {
    type Error = &'static str;

    fn try_from(entry: Entry) -> Result<Self, Self::Error> {
        let (node, state) = match entry {
            Entry::Available(node) => (node, ReplicaState::Available),
            Entry::Other { source: Some(_), leaving: true, .. } => {
                return Err("a replica is both leaving and initializing (it has a source)");
            }
            Entry::Other { node, source: Some(source), since, .. } => {
                (node, ReplicaState::Initializing { source, since: since.unwrap_or_default() })
            }
            Entry::Other { node, leaving: true, .. } => (node, ReplicaState::Leaving),
            Entry::Other { node, .. } => (node, ReplicaState::Available),
        };
        Ok(Replica { node, state })
    }
}

impl ShardMap {
    /// The map as a document: JSON, on one line.
    pub fn encode(&self) -> Vec<u8> {
        let document = Document {
            format: FORMAT,
            epoch: self.epoch,
            token: self.token,
            replicas: self.replicas,
            nodes: Cow::Borrowed(&self.nodes),
            shards: Cow::Borrowed(&self.shards),
        };
        // Numbers and strings can always be encoded.
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// Reads the map from a document. Unknown fields, from a later release, are ignored.
    ///
    /// # Errors
    /// [`Kind::Decode`] with the reason if the document has another format, is not a shard map, or
    /// contradicts itself.
    pub fn decode(bytes: &[u8]) -> Result<ShardMap, Error> {
        let error = |why: String| Error::new(Kind::Decode, format!("invalid shard map: {why}"));
        let document = serde_json::from_slice::<Document<'_>>(bytes);
        // In another format all other fields may differ too.
        let format = match &document {
            Ok(document) => Some(document.format),
            Err(_) => serde_json::from_slice::<Header>(bytes).ok().map(|header| header.format),
        };
        if let Some(format) = format.filter(|format| *format != FORMAT) {
            return Err(error(format!("format is {format}, this release supports {FORMAT}")));
        }
        let document = document.map_err(|why| error(why.to_string()))?;
        let map = ShardMap {
            epoch: document.epoch,
            token: document.token,
            replicas: document.replicas,
            nodes: document.nodes.into_owned(),
            shards: document.shards.into_owned(),
        };
        map.check().map_err(error)?;
        Ok(map)
    }

    /// Checks that the map is consistent; the error says what is not.
    fn check(&self) -> Result<(), String> {
        let ShardMap { epoch, replicas, .. } = self;
        if !(1..=MAX_EPOCH).contains(epoch) {
            return Err(format!("epoch is {epoch}: it must be from 1 to {MAX_EPOCH}"));
        }
        if *replicas == 0 {
            return Err("replicas is 0: it must be 1 or more".to_owned());
        }
        if !(1..=MAX_SHARDS).contains(&self.shards.len()) {
            let count = self.shards.len();
            return Err(format!("it has {count} shards: it must have 1 to {MAX_SHARDS}"));
        }
        if self.nodes.iter().any(String::is_empty) {
            return Err("a node has an empty id".to_owned());
        }
        if let Some(pair) = self.nodes.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(format!("nodes are not sorted: `{}` before `{}`", pair[0], pair[1]));
        }
        let shards = self.shards.iter().enumerate();
        for (number, shard) in shards {
            self.check_shard(shard).map_err(|why| format!("shard {number} {why}"))?;
        }
        Ok(())
    }

    fn check_shard(&self, shard: &[Replica]) -> Result<(), String> {
        let count = self.nodes.len();
        for (place, Replica { node, state }) in shard.iter().enumerate() {
            if *node >= count {
                return Err(format!("is on node {node}, but there are only {count} (from 0)"));
            }
            if shard[..place].iter().any(|other| other.node == *node) {
                return Err(format!("is twice on node {node}"));
            }
            if let ReplicaState::Initializing { source, .. } = state {
                let has_data = |other: &Replica| {
                    other.node == *source
                        && !matches!(other.state, ReplicaState::Initializing { .. })
                };
                if !shard.iter().any(has_data) {
                    return Err(format!(
                        "is copied to node {node} from node {source}, which does not have the data"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The part of the document that every format has.
#[derive(Deserialize)]
struct Header {
    format: u64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests;
