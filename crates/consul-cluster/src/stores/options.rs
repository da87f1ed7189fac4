//! The options of a replicated store.

use super::remote::service_name;
use crate::Options;
use crate::data_plane::MAX_NAME_BYTES;
use crate::options::check_name;
use consul_api::error::{Error, Kind};
use consul_replication::map::Quorums;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The most shards of a store: its map must fit into a transaction of Consul, which has up to 512 KiB.
pub const MAX_SHARDS: u32 = 8192;

/// The most replicas of a store's shards together, for the same reason.
pub(super) const MAX_REPLICAS: usize = 3 * MAX_SHARDS as usize;

/// How durable the records of a storage are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Survives {
    /// Applied records are there after a crash of the machine.
    #[default]
    Machine,
    /// Applied records are there after a crash of the process, and not after a crash of the machine.
    Process,
    /// It ends with the process.
    Nothing,
}

/// The options of a replicated store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Its name, the same on all nodes.
    pub name: String,
    /// The number of shards, 1 to [`MAX_SHARDS`]; the same on all nodes.
    pub shards: u32,
    /// N, W and R of the first map, the same on all nodes then. Later the map's numbers count, which an operator changes.
    pub quorums: Quorums,
    /// How durable the records are.
    pub survives: Survives,
    /// How often the replicas of a shard are compared.
    pub repair_every: Duration,
    /// How long a node keeps the records of a shard that was moved away from it.
    pub drop_after: Duration,
    /// The leader cancels a change that makes no progress for so long; whole seconds.
    pub move_timeout: Duration,
    /// Versions further ahead of this machine's clock are refused.
    pub max_skew: Duration,
    /// The time limit of one request between nodes.
    pub timeout: Duration,
}

/// The most replicas of a shard.
pub(super) const MAX_OF_A_SHARD: usize = 16;

/// The options that all nodes must agree on before the first map; after that the number of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shared {
    pub shards: u32,
    pub replicas: usize,
    pub write_quorum: usize,
    pub read_quorum: usize,
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { replicas, write_quorum, read_quorum, .. } = self;
        write!(
            f,
            "replicas = {replicas}, write_quorum = {write_quorum}, read_quorum = {read_quorum}"
        )
    }
}

impl Shared {
    /// N, W and R.
    pub fn quorums(self) -> Quorums {
        Quorums { replicas: self.replicas, write: self.write_quorum, read: self.read_quorum }
    }

    /// The same number of shards with other numbers of replicas.
    pub fn with(self, quorums: Quorums) -> Self {
        let Quorums { replicas, write: write_quorum, read: read_quorum } = quorums;
        Shared { replicas, write_quorum, read_quorum, ..self }
    }

    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// [`Kind::Config`], naming the option, its value and what is allowed.
    pub fn check(self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::new(Kind::Config, why).not_sent());
        let Shared { shards, replicas, write_quorum: write, read_quorum: read } = self;
        if !(1..=MAX_OF_A_SHARD).contains(&replicas) {
            return refuse(format!(
                "replicas is {replicas}: it must be from 1 to {MAX_OF_A_SHARD}"
            ));
        }
        let product = shards as usize * replicas;
        if product > MAX_REPLICAS {
            return refuse(format!(
                "shards is {shards} and replicas is {replicas}, {product} together: up to {MAX_REPLICAS} fit into the \
                 map"
            ));
        }
        for (name, value) in [("write_quorum", write), ("read_quorum", read)] {
            if !(1..=replicas).contains(&value) {
                return refuse(format!(
                    "{name} is {value}: it must be from 1 to replicas, which is {replicas}"
                ));
            }
        }
        if write + read <= replicas {
            return refuse(format!(
                "write_quorum is {write} and read_quorum is {read}: together they must be more than replicas, \
                 which is {replicas}, so that each read meets each write"
            ));
        }
        Ok(())
    }
}

impl StoreOptions {
    /// The defaults for a store of this name: shards and replicas as in the cluster, and majorities.
    pub fn new(name: impl Into<String>, cluster: &Options) -> Self {
        StoreOptions {
            name: name.into(),
            shards: (cluster.shards as u32).min(MAX_SHARDS),
            quorums: Quorums::majorities(cluster.replicas),
            survives: Survives::default(),
            repair_every: Duration::from_secs(600),
            drop_after: Duration::from_secs(30),
            move_timeout: Duration::from_secs(60),
            max_skew: Duration::from_secs(2),
            timeout: Duration::from_secs(5),
        }
    }

    /// Checks the value of each option, and that the options fit together.
    ///
    /// # Errors
    /// [`Kind::Config`], naming the option, its value and what is allowed.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::new(Kind::Config, why).not_sent());
        check_name("name", &self.name)?;
        let most = MAX_NAME_BYTES - service_name("").len();
        if self.name.len() > most {
            return refuse(format!("name has {} bytes: up to {most} are allowed", self.name.len()));
        }
        if !(1..=MAX_SHARDS).contains(&self.shards) {
            return refuse(format!("shards is {}: it must be from 1 to {MAX_SHARDS}", self.shards));
        }
        self.shared().check()
    }

    pub(super) fn shared(&self) -> Shared {
        let Quorums { replicas, write, read } = self.quorums;
        Shared { shards: self.shards, replicas, write_quorum: write, read_quorum: read }
    }
}
