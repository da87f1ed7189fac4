//! How long a process waits where no option says it.

use std::time::Duration;

/// How long the leader leaves the map unchanged after Consul has lost data or was unreachable, so that
/// a node with a newer map can restore it. Longer than the pause of a watch after failures, and longer
/// than a blocking query waits that was sent after the loss with an index from before it.
pub(crate) const MAP_HOLD_OFF: Duration = Duration::from_secs(6);

/// The pause before an operation is retried after a transient failure.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// The pause before this node stands for leader again after a refusal.
pub(crate) const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// The longest wait of a blocking query for a single key; Consul adds up to a sixteenth. It limits how
/// long a silently dead connection goes unnoticed.
pub(crate) const WAIT: Duration = Duration::from_secs(5);

/// How long a key has to show the same before something follows that cannot be undone: six reads.
pub(crate) const CERTAIN_AFTER: Duration = Duration::from_secs(3);
