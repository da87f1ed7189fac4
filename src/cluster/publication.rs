//! How the shard map is kept in Consul: the document in one key, and in another, which is small and
//! which every node watches, what announces it.

use super::keys::{self, Then};
use super::options::Options;
use super::shard_map::ShardMap;
use super::{Cluster, Event, PAUSE};
use crate::client::Client;
use crate::client::coordination::{Operation, transact};
use crate::client::watch::State;
use crate::error::Error;
use crate::wire::value::Value;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use twox_hash::XxHash3_64;

/// The longest that nodes wait, each for a time by chance, before they all ask for the same.
const STAGGER: Duration = Duration::from_millis(50);

/// What announces a map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Announcement {
    pub epoch: u64,
    /// Tells two maps apart that have the same epoch, as after Consul was set back to an old state.
    pub digest: String,
    /// The members whose absence has frozen the map.
    #[serde(default)]
    pub frozen: Vec<String>,
}

impl Announcement {
    pub fn of(map: &ShardMap, frozen: &[String]) -> Self {
        Announcement { epoch: map.epoch(), digest: digest(map), frozen: frozen.to_vec() }
    }

    /// What a key's value says; none when it says nothing that can be understood.
    fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Whether it announces this very map.
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

/// What the map's key holds.
pub(super) struct Stored {
    pub map: Document,
    /// The key's modify index; 0: there is no key.
    pub index: u64,
}

pub(super) enum Document {
    Absent,
    Map(ShardMap),
    /// Something else, and what is wrong with it.
    Garbled(Vec<u8>, Error),
}

/// Reads the map so that the answer is true at some moment since now.
pub(super) async fn read(client: &Client, options: &Options) -> Result<Stored, Error> {
    Ok(match keys::read(client, &options.map_key()).await? {
        None => Stored { map: Document::Absent, index: 0 },
        Some((bytes, index)) => {
            let map = match ShardMap::decode(&bytes) {
                Ok(map) => Document::Map(map),
                Err(error) => Document::Garbled(bytes, error),
            };
            Stored { map, index }
        }
    })
}

/// What puts a map into the place of what is stored, if that is still what it was. A document that
/// is no map is kept under another key.
pub(super) fn replacement(
    options: &Options,
    stored: &Stored,
    map: &ShardMap,
    frozen: &[String],
) -> Vec<Operation> {
    let key = options.map_key();
    let mut operations = vec![match stored.index {
        0 => vec![("Verb", "check-not-exists".into()), ("Key", key.as_str().into())],
        index => vec![
            ("Verb", "check-index".into()),
            ("Key", key.as_str().into()),
            ("Index", index.into()),
        ],
    }];
    if let Document::Garbled(bytes, error) = &stored.map {
        let aside = format!("{key}.{}", stored.index);
        tracing::error!(key, aside, %error, "not a shard map; it is kept aside");
        operations.push(set(aside, bytes.clone()));
    }
    operations.push(set(key, map.encode()));
    operations.push(announce(options, &Announcement::of(map, frozen)));
    operations
}

/// What announces a map.
pub(super) fn announce(options: &Options, announcement: &Announcement) -> Operation {
    set(options.epoch_key(), announcement.to_bytes())
}

fn set(key: String, value: Vec<u8>) -> Operation {
    vec![("Verb", "set".into()), ("Key", key.into()), ("Value", value.into())]
}

impl Cluster {
    /// Lets the shard map change again after it was frozen: an operator accepts that the members are
    /// gone.
    ///
    /// # Errors
    /// Those of the calls.
    pub async fn thaw(&self) -> Result<(), Error> {
        keys::change(&self.client, &self.options.epoch_key(), |found| {
            let announcement = found.and_then(Announcement::parse);
            Ok(match announcement.filter(|announcement| !announcement.frozen.is_empty()) {
                Some(announcement) => {
                    Then::Put(Announcement { frozen: Vec::new(), ..announcement }.to_bytes())
                }
                None => Then::Keep,
            })
        })
        .await
    }

    /// Fetches a map that is announced and not known, and puts one back that Consul has lost.
    pub(super) async fn take_announcement(&self, state: State) {
        let mut announced = match &state.answer.value {
            Value::Bytes(bytes) => Announcement::parse(bytes),
            _ => None,
        };
        loop {
            let held = self.snapshot().map.clone();
            let stored = match (&announced, &held) {
                (None, None) => return,
                (Some(announced), Some(held)) if announced.is_of(held) => {
                    return self.take_frozen(announced.frozen.clone());
                }
                (announced, Some(held))
                    if announced.as_ref().is_none_or(|it| {
                        self.presence.rules().is_outdated(it.epoch, held.epoch())
                    }) =>
                {
                    self.put_back(held).await
                }
                (announced, _) => self.fetch_map(announced).await,
            };
            match stored {
                Ok(now) => announced = now,
                Err(error) => {
                    tracing::info!(%error, "the shard map is tried again");
                    self.client.clock().sleep(PAUSE).await;
                }
            }
        }
    }

    /// Reads the stored map and takes it when it is newer; what it would be announced by.
    async fn fetch_map(
        &self,
        announced: &Option<Announcement>,
    ) -> Result<Option<Announcement>, Error> {
        self.stagger().await;
        let stored = read(&self.client, &self.options).await?;
        match stored.map {
            Document::Map(map) => {
                let frozen = announced.as_ref().map_or(&[][..], |it| &it.frozen);
                let announcement = Announcement::of(&map, frozen);
                self.adopt(map);
                Ok(Some(announcement))
            }
            Document::Absent => Ok(None),
            Document::Garbled(_, error) => Err(error.context(&self.options.map_key())),
        }
    }

    /// Writes a map again that Consul does not have any more.
    async fn put_back(&self, held: &ShardMap) -> Result<Option<Announcement>, Error> {
        self.stagger().await;
        let stored = read(&self.client, &self.options).await?;
        match stored.map {
            Document::Map(map) if map.epoch() >= held.epoch() => {
                let announcement = Announcement::of(&map, &self.snapshot().frozen);
                self.adopt(map);
                return Ok(Some(announcement));
            }
            _ => {}
        }
        self.unsettle();
        tracing::warn!(epoch = held.epoch(), "Consul has lost the shard map; it is put back");
        let frozen = self.snapshot().frozen.clone();
        let operations = replacement(&self.options, &stored, held, &frozen);
        transact(&self.client, operations, None).await?;
        Ok(Some(Announcement::of(held, &frozen)))
    }

    /// Takes a map, unless a newer one is known.
    pub(super) fn adopt(&self, map: ShardMap) {
        let epoch = map.epoch();
        let is_new = self.snapshot.send_if_modified(|snapshot| {
            let is_new = match &snapshot.map {
                Some(known) => {
                    let rules = self.presence.rules();
                    !rules.is_outdated(epoch, known.epoch()) && **known != map
                }
                None => true,
            };
            if is_new {
                *snapshot = Arc::new(snapshot.with(|next| next.map = Some(Arc::new(map))));
            }
            is_new
        });
        if is_new {
            self.events.tell(Event::ShardsChanged(epoch));
        }
    }

    pub(super) fn take_frozen(&self, frozen: Vec<String>) {
        let before = self.snapshot();
        if before.frozen == frozen {
            return;
        }
        self.events.tell(Event::Frozen(frozen.clone()));
        self.update(|snapshot| {
            if frozen.is_empty() {
                snapshot.nodes.values_mut().for_each(|node| node.vanished = None);
            }
            snapshot.frozen = frozen;
        });
    }

    /// Waits for a short time by chance.
    async fn stagger(&self) {
        self.client.clock().sleep(STAGGER.mul_f64(self.client.chance())).await;
    }
}
