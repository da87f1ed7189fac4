//! Which store of its name a process takes part in, and what it announces before it knows that.
//!
//! Two stores may have one name: the stores of two clusters whose disks are mixed up, and the new store of a cluster
//! whose Consul lost everything while no node with an old disk was there. Each has the random id of its first
//! map, which each disk keeps. A node never brings the records of two ids together.

use super::document::{Announcement, FORMAT};
use super::{Store, announcement_key, read_map, waiting_key};
use crate::keys;
use crate::pauses::PAUSE;
use consul_api::api::kv;
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_process::sync::lock;
use consul_replication::map::StoreId;
use std::convert::Infallible;
use std::time::Duration;

/// How often a node looks whether its announcement is there, and a process without a map why.
const INTERVAL: Duration = Duration::from_secs(1);

impl Store {
    /// Compares the id in a map that others have written with that of this node's records.
    pub(super) fn check_map(&self, map: Option<StoreId>) -> Result<(), Error> {
        self.identify(map, |map, own| {
            format!(
                "the map in Consul is that of the store with the id {map}, and this node has records of another \
                 store of that name, {own}"
            )
        })
    }

    /// Compares the id that a disk has kept with that in the map that this process knows.
    pub(super) fn check_disk(&self, disk: Option<StoreId>) -> Result<(), Error> {
        self.identify(disk, |disk, own| {
            format!(
                "the storage has records of the store with the id {disk}, and the map in Consul is that of \
                 another store of that name, {own}"
            )
        })
    }

    /// Takes the first id that this process sees for its own, and refuses any other.
    fn identify(
        &self,
        seen: Option<StoreId>,
        why: impl FnOnce(StoreId, StoreId) -> String,
    ) -> Result<(), Error> {
        // Observers go on with a new store, and releases before ids gave none.
        let Some(seen) = seen.filter(|_| self.storage.is_some()) else { return Ok(()) };
        let own = *lock(&self.id).get_or_insert(seen);
        if own == seen {
            return Ok(());
        }
        let cure = "nothing was dropped or changed: give the node its own disk or an empty one, or see \"Two stores \
                    of one name\" in docs/data.md";
        let why = format!("{}; {cure}", why(seen, own));
        Err(Error::new(Kind::Conflict, why).with_maybe_applied(false))
    }

    /// Whether a map is that of another store of this name.
    pub(super) fn is_foreign(&self, map: Option<StoreId>) -> bool {
        StoreId::differ(*lock(&self.id), map)
    }

    /// Reads the map again whenever the current one may be that of an earlier store: a node has refused a request as
    /// one about another store, or an answer was about another one. Ends with the reason why the store cannot be used.
    pub(super) async fn verify_map(&self) -> Error {
        loop {
            self.router.entries.suspected().await;
            while let Err(error) = self.learn_stored().await {
                match error.kind() {
                    Kind::Conflict | Kind::Unsupported => return error,
                    // It is read again when it changes.
                    Kind::Decode => break,
                    _ => {}
                }
                let store = &self.options.name;
                tracing::debug!(store, %error, "the map is not known for sure; it is read again");
                self.sleep(PAUSE).await;
            }
            self.sleep(PAUSE).await;
        }
    }

    /// Puts the map that the disk has kept into Consul if that has none. If this fails, the watch of the map
    /// tries it again.
    pub(super) async fn restore(&self) {
        let current = self.map.borrow().clone();
        let restored = async {
            let (stored, _) = read_map(&self.cluster, &self.options.name).await?;
            match (stored, current) {
                (None, Some(current)) => self.put_back(&current).await.map(|_| ()),
                _ => Ok(()),
            }
        };
        if let Err(error) = restored.await {
            let store = &self.options.name;
            tracing::info!(store, %error, "the map was not put back; it is tried again");
        }
    }

    /// Announces that this node is about to open its storage, so that no first map is made without it, and again
    /// when Consul has lost that.
    pub(super) async fn announce(&self) -> Infallible {
        let cluster = &self.cluster;
        let key = announcement_key(cluster.options(), &self.options.name);
        let announcement =
            Announcement { format: FORMAT, incarnation: cluster.incarnation.clone() };
        let bytes = announcement.encode();
        loop {
            let announced = async {
                let stored = keys::read(cluster.client(), &key).await?;
                if stored.is_some_and(|(stored, _)| stored == bytes) {
                    return Ok(());
                }
                let args = Args::new().arg(key.as_str()).arg(bytes.clone());
                cluster.client().call(&kv::PUT, &args).await.map(|_| ())
            };
            if let Err(error) = announced.await {
                let store = &self.options.name;
                tracing::info!(store, %error, "that the storage is opened was not announced");
            }
            self.sleep(INTERVAL).await;
        }
    }

    /// Takes the announcement back, since the node's record is there.
    pub(super) async fn end_announcement(&self) {
        let key = announcement_key(self.cluster.options(), &self.options.name);
        let removed = self.cluster.client().call(&kv::DELETE, &Args::new().arg(key)).await;
        if let Err(error) = removed {
            tracing::debug!(store = self.options.name, %error, "the announcement stays");
        }
    }

    /// Learns from the leader why there is no map, as long as there is none.
    pub(super) async fn learn_why_it_waits(&self) {
        let key = waiting_key(self.cluster.options(), &self.options.name);
        let mut maps = self.map.subscribe();
        loop {
            tokio::select! {
                biased;
                _ = maps.wait_for(Option::is_some) => break,
                () = self.sleep(INTERVAL) => {}
            }
            if let Ok(found) = keys::read(self.cluster.client(), &key).await {
                let text = found.map(|(text, _)| String::from_utf8_lossy(&text).into_owned());
                *lock(&self.waits_for) = text;
            }
        }
        *lock(&self.waits_for) = None;
    }

    /// An error, with what the first map waits for.
    pub(super) fn with_wait(&self, error: Error) -> Error {
        match self.waits_for() {
            Some(why) => error.with_note(&format!("the first map waits: {why}")),
            None => error,
        }
    }

    /// The reason why the first map waits, if the leader has written it.
    pub fn waits_for(&self) -> Option<String> {
        lock(&self.waits_for).clone()
    }
}
