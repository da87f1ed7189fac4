//! Safety rules that a history can omit, to show that each of them is needed.

use consul_client::coordination::{Rule, Rules};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OmittedRule {
    LeaseFromTheReply,
    NoLockDelay,
    RenewalAsProof,
    LockIndexAsToken,
    NoTokenCheck,
    RemovalWithoutLock,
    AnyEpoch,
    /// The clock of a machine stands still while it is suspended.
    ClockThatStops,
}

impl OmittedRule {
    /// The rules of locks. Clusters depend on them too, but require a profile with a lock delay.
    pub const OF_LOCKS: &'static [OmittedRule] = &[
        OmittedRule::LeaseFromTheReply,
        OmittedRule::NoLockDelay,
        OmittedRule::RenewalAsProof,
        OmittedRule::LockIndexAsToken,
        OmittedRule::NoTokenCheck,
    ];

    /// The rules of semaphores only.
    pub const OF_SEMAPHORES: &'static [OmittedRule] = &[OmittedRule::RemovalWithoutLock];

    /// The rules of clusters only.
    pub const OF_CLUSTERS: &'static [OmittedRule] = &[OmittedRule::AnyEpoch];

    /// The rules of locks that the suspension of machines needs.
    pub const OF_SUSPENDED: &'static [OmittedRule] =
        &[OmittedRule::ClockThatStops, OmittedRule::NoLockDelay];

    /// The rule with this name.
    pub fn named(name: &str) -> Option<OmittedRule> {
        let all = Self::OF_LOCKS.iter().chain(Self::OF_SEMAPHORES).chain(Self::OF_CLUSTERS);
        let mut all = all.chain(Self::OF_SUSPENDED);
        all.find(|rule| format!("{rule:?}") == name).copied()
    }

    /// The rules of the library without the omitted one.
    pub fn rules(self) -> Rules {
        match self {
            OmittedRule::LeaseFromTheReply => Rules::without(Rule::LeaseFromStart),
            OmittedRule::RenewalAsProof => Rules::without(Rule::RenewalIsNoProof),
            OmittedRule::LockIndexAsToken => Rules::without(Rule::TokenIsModifyIndex),
            OmittedRule::RemovalWithoutLock => Rules::without(Rule::RemovalNeedsLock),
            OmittedRule::AnyEpoch => Rules::without(Rule::EpochOnlyGrows),
            // The history itself leaves these out.
            OmittedRule::NoLockDelay | OmittedRule::NoTokenCheck | OmittedRule::ClockThatStops => {
                Rules::default()
            }
        }
    }
}
