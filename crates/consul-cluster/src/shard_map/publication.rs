//! The shard map in Consul: the document in one key, and its announcement in a small key that every
//! node watches.

use super::ShardMap;
use crate::Event;
use crate::cluster::Cluster;
use crate::keys::{self, Reads};
use crate::nodes::settings;
use crate::options::Options;
use crate::pauses::{MAP_HOLD_OFF, PAUSE};
use consul_api::error::{Error, Kind};
use consul_api::value::Value;
use consul_client::Client;
use consul_client::coordination::{Operation, are_refused, set, transact, unchanged};
use consul_client::watch::State;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use twox_hash::XxHash3_64;

/// The longest random pause before a node reads the map, so that not all nodes read it at once.
const MAX_JITTER: Duration = Duration::from_millis(50);

/// The small document that announces a map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Announcement {
    pub epoch: u64,
    /// Distinguishes two maps of the same epoch, which occur after Consul was restored from a backup.
    pub digest: String,
    /// The members whose loss has frozen the map; empty: it is not frozen.
    #[serde(default)]
    pub frozen: Vec<String>,
    /// Whether a node has put back this map, which Consul had lost. The leader raises the epoch then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
}

impl Announcement {
    pub fn of(map: &ShardMap, frozen: &[String]) -> Self {
        let (epoch, frozen) = (map.epoch(), frozen.to_vec());
        Announcement { epoch, digest: digest(map), frozen, restored: false }
    }

    /// Reads the value of the key; `None` if it is not an announcement.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Whether it announces this map.
    pub fn is_of(&self, map: &ShardMap) -> bool {
        self.epoch == map.epoch() && self.digest == digest(map)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn digest(map: &ShardMap) -> String {
    format!("{:016x}", XxHash3_64::oneshot(&map.encode()))
}

/// The state of the map's key.
pub(crate) struct Stored {
    pub map: Content,
    /// The key's modify index; 0: it does not exist.
    pub index: u64,
}

pub(crate) enum Content {
    Absent,
    Map(ShardMap),
    /// Other bytes, and the reason why they are not a map.
    Corrupt(Vec<u8>, Error),
}

/// The value of the key that announces the map.
pub(crate) enum Announced {
    Document(Announcement),
    /// Something else.
    Other,
}

/// Reads the announcement's key with a linearizable read; with its modify index, 0: it does not exist.
pub(crate) async fn read_announcement(
    client: &Client,
    options: &Options,
    reads: Reads,
) -> Result<(Option<Announced>, u64), Error> {
    let found = keys::read_by(client, &options.epoch_key(), reads).await?;
    Ok(found.map_or((None, 0), |(bytes, index)| {
        let announced = Announcement::parse(&bytes);
        (Some(announced.map_or(Announced::Other, Announced::Document)), index)
    }))
}

/// Reads the map's key with a linearizable read.
pub(crate) async fn read(client: &Client, options: &Options) -> Result<Stored, Error> {
    read_by(client, options, Reads::Linearizable).await
}

/// As [`read`], from the leader or from any server.
pub(crate) async fn read_by(
    client: &Client,
    options: &Options,
    reads: Reads,
) -> Result<Stored, Error> {
    Ok(match keys::read_by(client, &options.map_key(), reads).await? {
        None => Stored { map: Content::Absent, index: 0 },
        Some((bytes, index)) => {
            let map = match ShardMap::decode(&bytes) {
                Ok(map) => Content::Map(map),
                Err(error) => Content::Corrupt(bytes, error),
            };
            Stored { map, index }
        }
    })
}

/// The operations that replace the stored map if its key has not changed since. A document that is not
/// a map is kept under another key.
pub(crate) fn replacement(
    options: &Options,
    stored: &Stored,
    map: &ShardMap,
    announcement: &Announcement,
) -> Vec<Operation> {
    let key = options.map_key();
    let mut operations = vec![unchanged(&key, stored.index)];
    if let Content::Corrupt(bytes, error) = &stored.map {
        let backup = format!("{key}.{}", stored.index);
        tracing::error!(key, backup, %error, "not a shard map; it is moved to the backup key");
        operations.push(set(&backup, bytes.clone()));
    }
    operations.push(set(&key, map.encode()));
    operations.push(announce(options, announcement));
    operations
}

/// The operation that writes an announcement.
pub(crate) fn announce(options: &Options, announcement: &Announcement) -> Operation {
    set(&options.epoch_key(), announcement.to_bytes())
}

/// Reads an announced map that this node does not have yet, or restores its own map if Consul has
/// lost it.
pub(crate) async fn apply_announcement(cluster: &Cluster, state: State) {
    let mut announced = match &state.answer.value {
        Value::Bytes(bytes) => Announcement::parse(bytes),
        _ => None,
    };
    loop {
        let held = cluster.snapshot().map.clone();
        let stored = match (&announced, &held) {
            (None, None) => return,
            (Some(announced), Some(held)) if announced.is_of(held) => {
                apply_restored(cluster, announced.restored);
                return apply_frozen(cluster, announced.frozen.clone());
            }
            (announced, Some(held))
                if announced
                    .as_ref()
                    .is_none_or(|it| cluster.presence.is_outdated(it.epoch, held.epoch())) =>
            {
                match cluster.options.observer {
                    true => match take_earlier(cluster, held).await {
                        // The nodes put it back, which the watch reports.
                        Ok(None) => return,
                        taken => taken,
                    },
                    false => restore_map(cluster, held).await,
                }
            }
            (announced, _) => fetch_map(cluster, announced).await,
        };
        match stored {
            Ok(now) => announced = now,
            Err(error) => {
                tracing::info!(%error, "the shard map could not be read or restored; it is retried");
                cluster.client.clock().sleep(PAUSE).await;
            }
        }
    }
}

/// Lets an observer take a map with a lower epoch than its own. The nodes put a map back that Consul has lost; if Consul's map
/// stays and no live node has a later one, the cluster has begun again, as after an operator has deleted its keys.
async fn take_earlier(cluster: &Cluster, held: &ShardMap) -> Result<Option<Announcement>, Error> {
    cluster.client.clock().sleep(MAP_HOLD_OFF).await;
    let stored = read(&cluster.client, &cluster.options).await?;
    let Content::Map(map) = stored.map else { return Ok(None) };
    confirm(cluster, stored.index).await?;
    let snapshot = cluster.snapshot();
    let mut live = snapshot.live().peekable();
    let has_begun_again = live.peek().is_some()
        && live.all(|node| node.record.map_epoch <= map.epoch())
        && map.epoch() < held.epoch();
    if !has_begun_again {
        return Ok(None);
    }
    tracing::warn!(
        epoch = map.epoch(),
        held = held.epoch(),
        "the cluster's shard maps have begun again; the earlier one is used no more"
    );
    let announcement = Announcement::of(&map, &[]);
    cluster.update(|snapshot| snapshot.map = None);
    adopt(cluster, map);
    Ok(Some(announcement))
}

/// Reads the stored map and adopts it if it is newer; returns the announcement of that map.
async fn fetch_map(
    cluster: &Cluster,
    announced: &Option<Announcement>,
) -> Result<Option<Announcement>, Error> {
    jitter(cluster).await;
    let stored = read(&cluster.client, &cluster.options).await?;
    match stored.map {
        Content::Map(map) if settings::is_foreign(cluster, &map) => {
            let held = cluster.snapshot().map.clone().filter(|_| settings::is_settled(cluster));
            let Some(held) = held else {
                let is_other = |bytes: &[u8]| {
                    ShardMap::decode(bytes).is_ok_and(|map| settings::is_foreign(cluster, &map))
                };
                // One answer may be that of another cluster.
                if keys::stays(&cluster.client, &cluster.options.map_key(), is_other).await? {
                    settings::end_as_foreign(cluster, &map);
                }
                return Err(settings::foreign(cluster, &map));
            };
            restore_map(cluster, &held).await
        }
        Content::Map(map) => {
            confirm(cluster, stored.index).await?;
            let frozen = announced.as_ref().map_or(&[][..], |it| &it.frozen);
            let announcement = Announcement::of(&map, frozen);
            adopt(cluster, map);
            Ok(Some(announcement))
        }
        Content::Absent => Ok(None),
        Content::Corrupt(_, error) => Err(error.context(&cluster.options.map_key())),
    }
}

/// A map of another Consul would be kept for good if its epoch is higher, and be written over the right one.
///
/// # Errors
/// [`Kind::NotReady`] if the key that was read has not this index; errors of a transaction.
pub(crate) async fn confirm(cluster: &Cluster, index: u64) -> Result<(), Error> {
    let key = cluster.options.map_key();
    match are_refused(&cluster.presence, [unchanged(&key, index)]).await? {
        false => Ok(()),
        true => {
            let why = "it was read otherwise than a transaction sees it";
            Err(Error::new(Kind::NotReady, format!("{key}: {why}")).retryable())
        }
    }
}

/// Writes this node's map, or the announcement of the stored one, to Consul again, which has lost it; returns
/// the announcement of the map that is stored then.
async fn restore_map(cluster: &Cluster, held: &ShardMap) -> Result<Option<Announcement>, Error> {
    jitter(cluster).await;
    let stored = read(&cluster.client, &cluster.options).await?;
    match stored.map {
        Content::Map(map)
            if map.epoch() >= held.epoch() && !settings::is_foreign(cluster, &map) =>
        {
            let announcement = announced(cluster, &map, stored.index).await?;
            adopt(cluster, map);
            return Ok(Some(announcement));
        }
        _ => {}
    }
    cluster.hold_off();
    let mut restored = held.clone();
    if let Content::Map(map) = &stored.map
        && map.epoch() >= held.epoch()
    {
        restored = restored.with_epoch(cluster.beyond(map.epoch()));
    }
    tracing::warn!(epoch = restored.epoch(), "Consul has lost the shard map; it is restored");
    let announcement = Announcement::of(&restored, &cluster.snapshot().frozen);
    let announcement = Announcement { restored: true, ..announcement };
    let operations = replacement(&cluster.options, &stored, &restored, &announcement);
    transact(&cluster.client, operations, None).await?;
    adopt(cluster, restored);
    Ok(Some(announcement))
}

/// The announcement of the stored map, which has this index. It is written again if it is gone.
async fn announced(cluster: &Cluster, map: &ShardMap, index: u64) -> Result<Announcement, Error> {
    let (client, options) = (&cluster.client, &cluster.options);
    let (found, at) = read_announcement(client, options, Reads::Linearizable).await?;
    if let Some(Announced::Document(found)) = found
        && found.is_of(map)
    {
        confirm(cluster, index).await?;
        return Ok(found);
    }
    let announcement = Announcement::of(map, &cluster.snapshot().frozen);
    let announcement = Announcement { restored: cluster.snapshot().is_restored, ..announcement };
    // A map of another Consul has not this index.
    let is_there = unchanged(&options.map_key(), index);
    let is_gone = unchanged(&options.epoch_key(), at);
    transact(client, [is_there, is_gone, announce(options, &announcement)], None).await?;
    tracing::warn!(epoch = map.epoch(), "the shard map's announcement is written again");
    Ok(announcement)
}

/// Makes a map the current one unless a newer one is known.
pub(crate) fn adopt(cluster: &Cluster, map: ShardMap) {
    let epoch = map.epoch();
    settings::note_first_map(cluster);
    cluster.note_leadership(epoch, map.token());
    let is_new = cluster.snapshot.send_if_modified(|snapshot| {
        let is_new = match &snapshot.map {
            Some(known) => !cluster.presence.is_outdated(epoch, known.epoch()) && **known != map,
            None => true,
        };
        if is_new {
            *snapshot = Arc::new(snapshot.with(|next| next.map = Some(Arc::new(map))));
        }
        is_new
    });
    if is_new {
        cluster.emit(Event::ShardsChanged(epoch));
        cluster.note_first_look();
    }
}

/// Applies the list of members whose loss has frozen the map.
pub(crate) fn apply_frozen(cluster: &Cluster, frozen: Vec<String>) {
    let before = cluster.snapshot();
    if before.frozen == frozen {
        return;
    }
    cluster.emit(Event::Frozen(frozen.clone()));
    cluster.update(|snapshot| {
        if frozen.is_empty() {
            snapshot.nodes.values_mut().for_each(|node| node.vanished_at = None);
        }
        snapshot.frozen = frozen;
    });
}

/// Applies whether the map was put back and no leader has made another one since.
pub(crate) fn apply_restored(cluster: &Cluster, is_restored: bool) {
    if cluster.snapshot().is_restored != is_restored {
        cluster.update(|snapshot| snapshot.is_restored = is_restored);
    }
}

/// Waits for a short random time.
async fn jitter(cluster: &Cluster) {
    cluster.client.clock().sleep(MAX_JITTER.mul_f64(cluster.client.random_fraction())).await;
}
