//! Which nodes hold which shards, and which shard a key is in: a document that the leader writes and
//! every node routes by.
//!
//! A key's shard is the upper half of the product of its hash (XXH3, 64 bits, seed 0) and the number
//! of shards, so it is the same in every process, on every platform and in every release. Which nodes
//! hold a shard is what the document says, not what somebody calculates: whoever has the same epoch
//! routes alike.

use super::primaries::primaries;
use super::rebalancer::{self, Assignment, Candidate};
use crate::error::{Error, Kind};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;
use twox_hash::XxHash3_64;

/// The document's format. A release that writes another one is not understood by this one.
const FORMAT: u64 = 1;

/// How many shards a map may have.
pub const MOST_SHARDS: usize = 65_536;

/// The last epoch: the largest number that each Lua engine holds exactly. A map of each millisecond
/// would reach it after 285,000 years, so a document beyond it is garbled, and believing it would end
/// all changes for ever.
pub const LAST_EPOCH: u64 = (1 << 53) - 1;

/// Which nodes hold which shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    epoch: u64,
    token: u64,
    replicas: usize,
    /// The ids of those that hold something, in their order.
    nodes: Vec<String>,
    shards: Vec<Vec<Replica>>,
}

/// One node's part of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Entry", try_from = "Entry")]
pub struct Replica {
    /// The node, by its place among those of the map.
    pub node: usize,
    /// What it can be asked for.
    pub state: ReplicaState,
}

impl Replica {
    fn is_available(&self) -> bool {
        self.state == ReplicaState::Available
    }
}

/// How far a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// It has the shard's data.
    Available,
    /// It is getting the data.
    Initializing {
        /// The replica that it comes from, by its place among the nodes of the map.
        source: usize,
        /// The epoch of the map that gave the node this shard; it tells this time from others.
        since: u64,
    },
    /// It has the data until others have it.
    Leaving,
}

/// A node that can have shards.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name, which no other has.
    pub id: String,
    /// Replicas of a shard are in different zones as long as there are enough of them.
    pub zone: String,
    /// Its share beside the others'. What is no finite number above 0 gives it none.
    pub weight: f64,
    /// The shards whose data it has got, each with the epoch since which it was to. None: shards are
    /// available on it at once, because there are no data.
    pub ready: Option<Vec<(usize, u64)>>,
    /// It is down, and expected back: it keeps shards, and gets no more if the others can have them.
    pub is_away: bool,
}

impl Member {
    fn is_able(&self) -> bool {
        self.weight.is_finite() && self.weight > 0.0
    }
}

impl ShardMap {
    /// The first map of a cluster, its epoch is 1: so many shards (1 to [`MOST_SHARDS`]), so many
    /// replicas of each (1 or more) as far as there are members for them. `token` is the fencing
    /// token of the leader who makes it.
    ///
    /// The same members give the same map, whatever their order.
    pub fn first(shards: usize, replicas: usize, members: &[Member], token: u64) -> Self {
        let shards = vec![Vec::new(); shards];
        let empty = ShardMap { epoch: 0, token, replicas, nodes: Vec::new(), shards };
        let (first, _) = empty.laid_out(members, token);
        first
    }

    /// Tells this map from earlier ones and later ones; from 1 to [`LAST_EPOCH`].
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The fencing token of the leader who made this map.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// How many replicas of each shard are wanted.
    pub fn replicas(&self) -> usize {
        self.replicas
    }

    /// The shard that a key is in.
    pub fn shard_of(&self, key: &[u8]) -> usize {
        let product = u128::from(XxHash3_64::oneshot(key)) * self.shards.len() as u128;
        (product >> u64::BITS) as usize
    }

    /// The nodes of a shard; the first that is available is its primary.
    pub fn nodes_of(&self, shard: usize) -> impl Iterator<Item = (&str, ReplicaState)> {
        let replicas = self.shards.get(shard).into_iter().flatten();
        replicas.map(|replica| (self.nodes[replica.node].as_str(), replica.state))
    }

    /// The id of a node by its place, such as a replica's source.
    pub fn node(&self, place: usize) -> Option<&str> {
        self.nodes.get(place).map(String::as_str)
    }

    /// The shards that a node has, in whatever state, in their order.
    pub fn shards_of(&self, node: &str) -> Vec<usize> {
        let Some(node) = self.place(node) else { return Vec::new() };
        let has = |shard: &usize| self.shards[*shard].iter().any(|replica| replica.node == node);
        (0..self.shards.len()).filter(has).collect()
    }

    /// The next map, after a change of members, and how many replicas are on a node that did not
    /// have the shard: the fewest that even loads allow. None when the map stays as it is; so it does
    /// when no member can have shards, since there is nobody to give them to.
    ///
    /// What comes to a member that gets data is initializing until the member is ready, and as long
    /// who had the shard before is leaving, and not gone. What comes to others is available at once.
    /// Each node is the primary of as many shards as its load gives it, and few shards change their
    /// primary for that.
    pub fn rebalanced(&self, members: &[Member], token: u64) -> Option<(ShardMap, usize)> {
        let (next, moves) = self.laid_out(members, token);
        let is_same = next.nodes == self.nodes && next.shards == self.shards;
        (!is_same && !next.nodes.is_empty()).then_some((next, moves))
    }

    /// The same map under another epoch, for one that is taken over after Consul lost its data.
    pub fn with_epoch(self, epoch: u64) -> Self {
        ShardMap { epoch, ..self }
    }

    /// The shards whose data a node has yet to get, each with the epoch since which it is to.
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

    /// Whether a node has any shard.
    pub fn has(&self, node: &str) -> bool {
        self.place(node).is_some()
    }

    /// The place of a node among those of this map.
    fn place(&self, node: &str) -> Option<usize> {
        self.nodes.binary_search_by(|id| id.as_str().cmp(node)).ok()
    }

    /// The next map on these members, and its moves.
    fn laid_out(&self, members: &[Member], token: u64) -> (ShardMap, usize) {
        let mut members: Vec<&Member> = members.iter().collect();
        members.sort_by(|a, b| a.id.cmp(&b.id));
        members.dedup_by(|a, b| a.id == b.id);
        // The rebalancer counts those alone that can have shards.
        let able: Vec<usize> = (0..members.len()).filter(|it| members[*it].is_able()).collect();
        let candidate = |it: &usize| Candidate {
            weight: members[*it].weight,
            zone: members[*it].zone.clone(),
            most: usize::MAX,
        };
        let mut candidates: Vec<Candidate> = able.iter().map(candidate).collect();

        // Where each node of this map is among the members.
        let among_members = |id: &String| members.binary_search_by(|m| m.id.cmp(id)).ok();
        let now: Vec<Option<usize>> = self.nodes.iter().map(among_members).collect();
        let is_staying = |replica: &&Replica| replica.state != ReplicaState::Leaving;
        let candidate = |replica: &Replica| able.binary_search(&now[replica.node]?).ok();
        let before: Assignment = self
            .shards
            .iter()
            .map(|shard| shard.iter().filter(is_staying).filter_map(candidate).collect())
            .collect();
        let mut after = rebalancer::rebalance(&candidates, self.replicas, &before);
        let load = |on: &Assignment, place| on.iter().flatten().filter(|it| **it == place).count();
        let away = (0..able.len()).filter(|place| members[able[*place]].is_away);
        let away: Vec<usize> = away.collect();
        if away.iter().any(|place| load(&after, *place) > load(&before, *place)) {
            away.iter().for_each(|place| candidates[*place].most = load(&before, *place));
            after = rebalancer::rebalance(&candidates, self.replicas, &before);
        }
        let moves = rebalancer::moves(&before, &after);

        let epoch = self.epoch + 1;
        let shards = self.shards.iter().zip(&after).enumerate().map(|(number, (shard, places))| {
            let places: Vec<usize> = places.iter().map(|place| able[*place]).collect();
            Moving { number, before: shard, now: &now, members: &members, epoch }.to(&places)
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

    /// The same map with each shard's primary in front; `before` is who it was.
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

    /// The same map with only those nodes that hold something.
    fn without_idle_nodes(self) -> Self {
        let used: BTreeSet<usize> =
            self.shards.iter().flatten().map(|replica| replica.node).collect();
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

/// A shard of which the next map is made.
struct Moving<'a> {
    number: usize,
    before: &'a [Replica],
    /// Where the nodes of `before` are among the members.
    now: &'a [Option<usize>],
    members: &'a [&'a Member],
    /// That of the next map.
    epoch: u64,
}

impl Moving<'_> {
    /// Its replicas when they are to be on these members. Those that were elsewhere leave, and are
    /// kept until all that come have the data. Who comes gets them from one that leaves, as long as
    /// there are enough of these: so what is on a quorum of nodes stays on a quorum.
    fn to(&self, places: &[usize]) -> Vec<Replica> {
        let had = self.before.iter().filter_map(|replica| self.now[replica.node]);
        let leaving: Vec<usize> =
            had.filter(|place| !places.contains(place) && self.has_data(*place)).collect();
        let staying = places.iter().copied().find(|place| self.has_data(*place));
        let mut givers = leaving.iter().copied();
        let mut replicas: Vec<Replica> = places
            .iter()
            .map(|place| {
                let before = self.known(*place).is_none().then(|| givers.next()).flatten();
                let giver = before.or(staying).or(leaving.first().copied());
                Replica { node: *place, state: self.state(*place, giver) }
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

    /// The state of a replica that is to be on a member, which gets the data from `giver`.
    fn state(&self, place: usize, giver: Option<usize>) -> ReplicaState {
        if self.has_data(place) || self.members[place].ready.is_none() {
            return ReplicaState::Available;
        }
        let (source, since) = match self.known(place) {
            Some(ReplicaState::Initializing { source, since }) => (self.now[source], since),
            _ => (None, self.epoch),
        };
        match source.filter(|source| self.has_data(*source)).or(giver) {
            Some(source) => ReplicaState::Initializing { source, since },
            // Nobody has more of the data.
            None => ReplicaState::Available,
        }
    }
}

/// A map as it is written.
#[derive(Serialize, Deserialize)]
struct Document<'a> {
    format: u64,
    epoch: u64,
    token: u64,
    replicas: usize,
    nodes: Cow<'a, [String]>,
    shards: Cow<'a, [Vec<Replica>]>,
}

/// A replica as it is written: the node alone when it is available.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a replica is neither a node's place nor an object with a `node`")]
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
                return Err("a replica is leaving and has a source");
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
        // Numbers and strings are always JSON.
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// The map of a document. What it has besides, from a later release, is ignored.
    ///
    /// # Errors
    /// [`Kind::Decode`] when it is of another format, no shard map, or one that contradicts itself;
    /// the message says why.
    pub fn decode(bytes: &[u8]) -> Result<ShardMap, Error> {
        let error = |why: String| Error::new(Kind::Decode, format!("no shard map: {why}"));
        let document = serde_json::from_slice::<Document<'_>>(bytes);
        // Of another format all else may be other, too.
        let format = match &document {
            Ok(document) => Some(document.format),
            Err(_) => serde_json::from_slice::<Header>(bytes).ok().map(|header| header.format),
        };
        if let Some(format) = format.filter(|format| *format != FORMAT) {
            let why =
                format!("its format is {format}, of another release; this one knows {FORMAT}");
            return Err(error(why));
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

    /// Whether what it says fits together; if not, what does not.
    fn check(&self) -> Result<(), String> {
        let ShardMap { epoch, replicas, .. } = self;
        if !(1..=LAST_EPOCH).contains(epoch) {
            return Err(format!("its epoch is {epoch}, not from 1 to {LAST_EPOCH}"));
        }
        if *replicas == 0 {
            return Err("it wants 0 replicas of a shard, not 1 or more".to_owned());
        }
        if !(1..=MOST_SHARDS).contains(&self.shards.len()) {
            return Err(format!(
                "it has {} shards, not from 1 to {MOST_SHARDS}",
                self.shards.len()
            ));
        }
        if self.nodes.iter().any(String::is_empty) {
            return Err("one of its nodes has an empty id".to_owned());
        }
        if let Some(pair) = self.nodes.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(format!("its nodes are not in order: `{}` before `{}`", pair[0], pair[1]));
        }
        let shards = self.shards.iter().enumerate();
        for (number, shard) in shards {
            self.check_shard(shard).map_err(|why| format!("its shard {number} {why}"))?;
        }
        Ok(())
    }

    fn check_shard(&self, shard: &[Replica]) -> Result<(), String> {
        let count = self.nodes.len();
        for (place, Replica { node, state }) in shard.iter().enumerate() {
            if *node >= count {
                return Err(format!("is on node {node} of {count}, counted from 0"));
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
                        "is copied to node {node} from node {source}, which does not have it"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What a document of any format has.
#[derive(Deserialize)]
struct Header {
    format: u64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests;
