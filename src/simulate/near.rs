//! `near=`: the entries of an answer by their distance from a node.

use super::reply::{Refusal, Reply};
use super::request::Call;
use super::store::State;
use serde::Serialize;

/// Answers with the entries, the nearest first when the call asks for it. Nodes without a
/// coordinate come last; without one of the node in question there is no order.
pub(super) fn sorted<T: Serialize>(
    state: &State,
    call: &Call,
    entries: Result<Vec<T>, Refusal>,
    node: impl Fn(&T) -> &str,
) -> Reply {
    let mut entries = match entries {
        Ok(entries) => entries,
        Err(refusal) => return refusal.into(),
    };
    let from = match call.query.get("near") {
        "_agent" => state.node_name.as_str(),
        name => name,
    };
    if let Some(from) = state.coordinates.get(from) {
        entries.sort_by(|one, other| {
            let distance = |entry| match state.coordinates.get(node(entry)) {
                Some(coordinate) => coordinate.distance(from),
                None => f64::INFINITY,
            };
            distance(one).total_cmp(&distance(other))
        });
    }
    Reply::json(call.style, &entries)
}
