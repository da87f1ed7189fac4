//! The keys that a leader may not write.

use consul_process::clock::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest reason in a node's key, in bytes.
const MAX_REASON: usize = 300;

/// The keys that a leader may not write.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    /// By the keys.
    pub(super) keys: BTreeMap<String, Refusal>,
    /// When this node handed the leadership over for this reason.
    pub(super) handed_over: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) at: Instant,
    pub(super) why: String,
}

impl Refused {
    /// The keys whose last refusal was so long ago.
    pub(super) fn older_than(&self, now: Instant, age: Duration) -> Vec<String> {
        let old = self.keys.iter().filter(|(_, refusal)| now - refusal.at >= age);
        old.map(|(key, _)| key.clone()).collect()
    }

    /// The reason for operators; `None`: nothing is refused.
    pub(super) fn reason(&self) -> Option<String> {
        let (key, refusal) = self.keys.first_key_value()?;
        let mut reason = format!("{key}: {}", refusal.why);
        let end = (0..=MAX_REASON).rev().find(|end| reason.is_char_boundary(*end));
        reason.truncate(end.unwrap_or_default());
        Some(reason)
    }
}
