//! The limits of a search and the rules of the protocol.

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries that the leader publishes.
    pub changes: u8,
    /// Versions of the record, up to 2.
    pub writes: u8,
    /// Whether Consul may go back by one entry, once.
    pub set_back: bool,
    /// Whether Consul may lose all entries, once, while nodes are silent for as long as it takes the leader to put
    /// one back.
    pub silent: bool,
    /// Whether a node may lose its disk, once.
    pub lost_disk: bool,
}

/// A rule of the protocol that a search can leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A source refuses reads and writes before its target copies it for the last time.
    Seal,
    /// A seal outlives the process.
    SealIsStored,
    /// A failover's target fences the replicas that it copies.
    Fence,
    /// It fences both, not one.
    FenceTwo,
    /// It copies both, not one.
    CopyTwo,
    /// A target counts when the map says that it is available, not when it has copied.
    TargetCountsLate,
    /// Acknowledgements are counted within one epoch.
    CountWithinOneEpoch,
    /// A node executes a request only in the epoch that the node itself knows.
    RefuseOtherEpochs,
    /// The map names the disk of each replica.
    NameTheDisk,
    /// After Consul went back, the leader asks the nodes before it changes an entry.
    AskAfterSetBack,
    /// A node that is asked executes nothing in older epochs from then on.
    FenceWhenAsked,
    /// A node ignores entries below its fence.
    IgnoreEntriesBelowFence,
    /// An entry that not all nodes could be asked about is put back if as many replicas have promised as leave no
    /// quorum to the others.
    EnoughPromise,
    /// Of these, none has lost its disk.
    PromisersAreWhole,
    /// A node that could not be asked is not being replaced.
    SilentAreNotReplaced,
}

impl Rule {
    pub const ALL: [Rule; 15] = [
        Rule::Seal,
        Rule::SealIsStored,
        Rule::Fence,
        Rule::FenceTwo,
        Rule::CopyTwo,
        Rule::TargetCountsLate,
        Rule::CountWithinOneEpoch,
        Rule::RefuseOtherEpochs,
        Rule::NameTheDisk,
        Rule::AskAfterSetBack,
        Rule::FenceWhenAsked,
        Rule::IgnoreEntriesBelowFence,
        Rule::EnoughPromise,
        Rule::PromisersAreWhole,
        Rule::SilentAreNotReplaced,
    ];

    /// Limits within which a write is lost without the rule.
    pub fn needed_within(self) -> Limits {
        let limits =
            Limits { changes: 2, writes: 1, set_back: false, silent: false, lost_disk: false };
        match self {
            Rule::RefuseOtherEpochs => Limits { changes: 3, ..limits },
            Rule::NameTheDisk => Limits { lost_disk: true, ..limits },
            Rule::AskAfterSetBack | Rule::FenceWhenAsked | Rule::IgnoreEntriesBelowFence => {
                Limits { changes: 3, set_back: true, ..limits }
            }
            Rule::EnoughPromise => Limits { silent: true, ..limits },
            Rule::SilentAreNotReplaced => Limits { changes: 3, silent: true, ..limits },
            Rule::PromisersAreWhole => Limits { silent: true, lost_disk: true, ..limits },
            _ => limits,
        }
    }
}

/// The subject of a search: its limits, and the rule that it leaves out.
#[derive(Clone, Copy)]
pub struct Model {
    pub limits: Limits,
    pub without: Option<Rule>,
}

impl Model {
    pub fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}
