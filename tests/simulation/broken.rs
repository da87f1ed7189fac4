//! Rules that are left out, to show that they are needed.

use consul_ffi::client::coordination::Rules;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    LeaseFromTheReply,
    NoLockDelay,
    RenewalAsProof,
    LockIndexAsToken,
    NoTokenCheck,
    AnyEpoch,
}

impl Broken {
    /// Those of locks. Clusters depend on them too, but take no profile without a lock delay.
    pub const OF_LOCKS: &'static [Broken] = &[
        Broken::LeaseFromTheReply,
        Broken::NoLockDelay,
        Broken::RenewalAsProof,
        Broken::LockIndexAsToken,
        Broken::NoTokenCheck,
    ];

    /// Those of clusters alone.
    pub const OF_CLUSTERS: &'static [Broken] = &[Broken::AnyEpoch];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Broken> {
        let mut all = Self::OF_LOCKS.iter().chain(Self::OF_CLUSTERS);
        all.find(|rule| format!("{rule:?}") == name).copied()
    }

    /// The rules that are left, as far as they are the library's.
    pub fn rules(self) -> Rules {
        Rules {
            lease_from_start: self != Broken::LeaseFromTheReply,
            renewal_is_no_proof: self != Broken::RenewalAsProof,
            token_is_modify_index: self != Broken::LockIndexAsToken,
            epoch_only_grows: self != Broken::AnyEpoch,
        }
    }
}
