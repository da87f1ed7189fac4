//! The questions of nodes to each other about a shard.

use super::map::{Entry, StoreId};
use super::record::{HybridTime, Range, Record, Version};
use bytes::Bytes;
use std::fmt;

/// A request about one shard, with the entry by which the caller made it. A node that knows an older
/// one learns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The store that the caller knows: holders of another one of the same name refuse it.
    pub store: Option<StoreId>,
    /// The shard's number.
    pub shard: u32,
    /// The caller's entry.
    pub entry: Entry,
    /// The action.
    pub action: Action,
}

/// The actions of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store records, as one of the replicas that count.
    Write(Vec<Record>),
    /// Read a page, as one of the replicas that count.
    Read {
        /// The ids.
        range: Range,
        /// The most records.
        limit: usize,
    },
    /// Refuse requests from now on: the replica's target copies it for the last time.
    Seal,
    /// Refuse requests of older epochs from now on, as any node that knows the entry does, and say whether
    /// the replica is whole: a failover copies it, or is to be made again.
    Fence,
    /// Refuse requests below the entry's epoch from now on, and say the newest entry: Consul went back.
    Recover,
    /// Read a page of a replica that is whole, for a copy.
    Copy {
        /// The last id of the page before.
        after: Option<Bytes>,
        /// The most records.
        limit: usize,
    },
    /// The sums of the records of a part of the shard by buckets of their ids, 2^bits, without deleted ones below the
    /// higher of the two horizons.
    Sums {
        /// The bits of a bucket's number.
        bits: u32,
        /// The caller's horizon.
        horizon: Version,
        /// The part begins behind this id.
        after: Option<Bytes>,
        /// It ends with this id; `None`: with the shard.
        through: Option<Bytes>,
    },
    /// The ids and versions of the records in buckets.
    Versions {
        /// The bits of a bucket's number.
        bits: u32,
        /// The buckets.
        buckets: Vec<u32>,
        /// The horizon of the sums.
        horizon: Version,
        /// The last id of the answer before, or that behind which the part begins.
        after: Option<Bytes>,
        /// The last id of the part.
        through: Option<Bytes>,
    },
    /// The records of these ids, in their order. An answer that is not the last page has only the first
    /// ones of them.
    Fetch(Vec<Bytes>),
    /// Store records that a repair found missing.
    Repair(Vec<Record>),
    /// Refuse writes below a version from now on.
    Floor {
        /// The lowest version that is written from now on.
        below: Version,
    },
    /// Every replica has all records below: purge deleted ones, and refuse older records.
    Purge {
        /// The new horizon.
        below: Version,
    },
    /// Whether the replica counts.
    Ping,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The clock of the node.
    pub time: HybridTime,
    /// The outcome.
    pub outcome: Outcome,
}

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// The records are stored, but for those that newer versions have overtaken: their indexes, and the
    /// version to exceed.
    Stored {
        /// Index and version.
        overtaken: Vec<(usize, Version)>,
    },
    /// A page of about [`PAGE_BYTES`](super::storage::PAGE_BYTES) at most; whether it is the last one.
    Page {
        /// The records, deleted ones too.
        records: Vec<Record>,
        /// Whether there are no more.
        is_last: bool,
        /// The replica's horizon.
        horizon: Version,
    },
    /// The sums.
    Sums {
        /// The sum of each bucket.
        sums: Vec<u64>,
        /// The higher of the two horizons.
        horizon: Version,
        /// Where the part ends: where it was to end, or earlier.
        through: Option<Bytes>,
    },
    /// Ids and versions, in the order of ids; whether there are no more.
    Versions {
        /// Each id with its version.
        versions: Vec<(Bytes, Version)>,
        /// Whether there are no more.
        is_last: bool,
    },
    /// The newest entry that the node knows, and the epoch below which it executed nothing before.
    Known {
        /// The entry.
        entry: Option<Entry>,
        /// The epoch.
        fence: u64,
    },
    /// The node knows a newer entry.
    Stale(Entry),
    /// The replica does not count, for this reason.
    NotReady(NotReady),
    /// The storage has failed.
    Failed(String),
    /// The node has records of another store of that name, which has this id.
    OtherStore(StoreId),
}

/// Why a replica does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// The entry does not name it as a replica that counts.
    NotAHolder,
    /// It is not whole: its disk is new, or it has dropped the shard.
    NotWhole,
    /// It is sealed: a move copies it for the last time.
    Sealed,
    /// It was fenced in a newer epoch.
    Fenced,
    /// It is whole, and is to be made again from the others: a failover takes from it what these lack.
    ToRemake,
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotReady::NotAHolder => "it does not hold the shard",
            NotReady::NotWhole => "its replica is not whole",
            NotReady::Sealed => "its replica is sealed for a move",
            NotReady::Fenced => "it waits for a newer map",
            NotReady::ToRemake => "its replica is to be made again",
        })
    }
}

/// Why a node with records of the store with this id has refused a request.
pub(super) fn other_store(id: StoreId) -> String {
    format!("it has records of another store of that name, with the id {id}")
}
