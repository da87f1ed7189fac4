//! `near=`: sorts the entries of an answer by their distance from a node.

use crate::http::reply::Reply;
use crate::http::request::Call;
use crate::store::State;
use serde::Serialize;

/// A reply with the entries, the nearest first if the query asks for it. Nodes without a coordinate
/// come last. If the node of `near` has none, the order stays.
pub(crate) fn sorted<T: Serialize>(
    state: &State,
    call: &Call,
    entries: Vec<T>,
    node: impl Fn(&T) -> &str,
) -> Reply {
    let from = match call.query.get("near") {
        "_agent" => state.node_name.as_str(),
        name => name,
    };
    let Some(from) = state.coordinates.get(from) else {
        return Reply::json(call.style, &entries);
    };
    let distance = |entry: &T| match state.coordinates.get(node(entry)) {
        Some(coordinate) => coordinate.distance(from),
        None => f64::INFINITY,
    };
    let order = nearest_first(entries.iter().map(distance).collect());
    let sorted: Vec<&T> = order.into_iter().map(|index| &entries[index]).collect();
    Reply::json(call.style, &sorted)
}

/// The indexes of the distances in their order. The code that sorts is large: here it is in the module once for all
/// types of entries.
fn nearest_first(distances: Vec<f64>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..distances.len()).collect();
    order.sort_by(|one, other| distances[*one].total_cmp(&distances[*other]));
    order
}
