//! The rules of the protocol. Tests leave one out to show that it is needed.

/// A rule of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A holder executes a request only in the epoch that it knows.
    RefuseOtherEpochs,
    /// A holder refuses requests about another store of the same name.
    RefuseOtherStores,
    /// A source refuses requests before its target copies it for the last time.
    Seal,
    /// A seal outlives the process.
    SealIsStored,
    /// A seal or a fence waits for the requests that run.
    WaitForRunning,
    /// A failover's target fences as many replicas as leave no quorum in older epochs, not one.
    FenceEnough,
    /// A failover copies as many replicas as have each acknowledged write together, not one.
    CopyUnion,
    /// A target counts when the map says so, not when it has copied.
    TargetCountsLate,
    /// A target begins without what it has of the shard.
    TargetBeginsEmpty,
    /// The records of a replica in doubt are kept, and brought together with the records of others.
    KeepDoubted,
    /// Of two replicas the one of the higher horizon says what was deleted below it.
    HorizonDecides,
    /// A replica counts only if a mark on its disk says that it is whole.
    Mark,
    /// The map names the disk of each replica.
    NameTheDisk,
    /// A node drops a shard only if the newest map does not name it.
    CheckBeforeDrop,
    /// All tries of a write have one version.
    OneVersion,
    /// A write that a newer version has overtaken is repeated above it.
    RepeatAboveNewer,
    /// Records below the horizon are refused.
    Horizon,
    /// A deleted record is purged only after all N replicas were compared.
    PurgeAfterRepair,
    /// A node that stops keeps its shards.
    StopIsNotLeave,
    /// After Consul went back, the holders are asked before an entry changes.
    AskAfterSetBack,
    /// A read without a quorum says that it is incomplete.
    SayIncomplete,
    /// The next step of a change of N, W or R waits until the replicas were equal in the entry of the one before.
    EqualBeforeNumbers,
}

/// The rules in force.
pub type Rules = consul_process::rules::Rules<Rule>;
