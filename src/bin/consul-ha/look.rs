//! The verbs that only show.

use super::arguments::{Shards, Which};
use super::connection::{Session, check_node};
use super::failure::Failure;
use super::output::{Shown, ago, counted, table};
use consul_ffi::client::coordination::lock::LOCK_FLAGS;
use consul_ffi::client::coordination::semaphore::SEMAPHORE_FLAGS;
use consul_ffi::cluster::Snapshot;
use consul_ffi::cluster::shard_map::{ReplicaState, ShardMap};
use consul_ffi::wire::api::{kv, session};
use consul_ffi::wire::request::Args;
use consul_ffi::wire::value::Value;
use serde_json::json;
use std::collections::BTreeMap;

/// How many shards a node has in which part.
#[derive(Clone, Copy, Default)]
struct Load {
    primaries: usize,
    replicas: usize,
    moving_in: usize,
    moving_out: usize,
}

/// The loads of the nodes of a map.
fn loads(map: Option<&ShardMap>) -> BTreeMap<&str, Load> {
    let mut loads: BTreeMap<&str, Load> = BTreeMap::new();
    let Some(map) = map else { return loads };
    for shard in 0..map.shard_count() {
        let primary = primary(map, shard);
        for (node, state) in map.nodes_of(shard) {
            let load = loads.entry(node).or_default();
            match state {
                ReplicaState::Initializing { .. } => load.moving_in += 1,
                ReplicaState::Leaving => load.moving_out += 1,
                ReplicaState::Available => {}
            }
            if Some(node) == primary { load.primaries += 1 } else { load.replicas += 1 }
        }
    }
    loads
}

/// The first replica of a shard that is available.
fn primary(map: &ShardMap, shard: usize) -> Option<&str> {
    let mut nodes = map.nodes_of(shard);
    nodes.find(|(_, state)| *state == ReplicaState::Available).map(|(node, _)| node)
}

/// `nodes`
pub async fn nodes(session: &Session) -> Result<Shown, Failure> {
    let snapshot = session.look().await?.snapshot();
    let map = snapshot.map.as_deref();
    let (loads, epoch) = (loads(map), map.map_or(0, ShardMap::epoch));
    let leader = snapshot.leader.as_ref().map(|leader| leader.node_id.as_str());
    let (mut rows, mut list) = (Vec::new(), Vec::new());
    for (id, node) in &snapshot.nodes {
        let record = &node.record;
        let load = loads.get(id.as_str()).copied().unwrap_or_default();
        let state = if node.is_live { "live" } else { "down" };
        let lag = epoch.saturating_sub(record.map_epoch);
        let mark = if leader == Some(id) { "leader" } else { "" };
        rows.push(vec![
            id.clone(),
            record.address.clone(),
            record.zone.clone(),
            record.mode.name().to_owned(),
            state.to_owned(),
            mark.to_owned(),
            load.primaries.to_string(),
            load.replicas.to_string(),
            format!("{}/{}", load.moving_in, load.moving_out),
        ]);
        list.push(json!({
            "id": id, "address": record.address, "data_address": record.data_address,
            "zone": record.zone, "weight": record.weight, "mode": record.mode.name(),
            "state": state, "map_epoch": record.map_epoch, "map_lag": lag,
            "primaries": load.primaries, "replicas": load.replicas,
            "moving_in": load.moving_in, "moving_out": load.moving_out,
        }));
    }
    let header =
        ["NODE", "ADDRESS", "ZONE", "MODE", "STATE", "ROLE", "PRIMARIES", "REPLICAS", "IN/OUT"];
    let mut text = table(&header, &[6, 7, 8], rows);
    if snapshot.nodes.is_empty() {
        text = format!("no nodes below {}", session.options.nodes_prefix);
    } else if !snapshot.frozen.is_empty() {
        text.push_str(&format!("\nfrozen: {} vanished", snapshot.frozen.join(", ")));
    }
    Ok(Shown::well(text, json!({ "nodes": list, "leader": leader, "frozen": snapshot.frozen })))
}

/// `shards`
pub async fn shards(session: &Session, given: &Shards) -> Result<Shown, Failure> {
    let snapshot = session.look().await?.snapshot();
    let Some(map) = snapshot.map.as_deref() else {
        return Err(Failure::Refused("the cluster has no shard map".to_owned()));
    };
    if let Some(key) = &given.key {
        return Ok(shard_of_key(&snapshot, map, key.as_bytes()));
    }
    if let Some(node) = &given.node {
        check_node(&snapshot, node)?;
    }
    let is_listed = |shard: &usize| {
        let moves = || map.nodes_of(*shard).any(|(_, state)| state != ReplicaState::Available);
        let is_on = |id: &str| map.nodes_of(*shard).any(|(node, _)| node == id);
        (given.only == Which::All || moves()) && given.node.as_deref().is_none_or(is_on)
    };
    let listed: Vec<usize> = (0..map.shard_count()).filter(is_listed).collect();
    let row = |shard: &usize| {
        let replicas: Vec<String> = replicas(map, *shard).collect();
        vec![shard.to_string(), replicas.join(" ")]
    };
    let head = format!(
        "epoch {}, {} of {} {}",
        map.epoch(),
        counted(map.shard_count(), "shard"),
        map.replicas(),
        if map.replicas() == 1 { "replica" } else { "replicas" },
    );
    let rows = table(&["SHARD", "NODES (primary first)"], &[0], listed.iter().map(row));
    let placement: Vec<_> = listed.iter().map(|shard| placement(map, *shard)).collect();
    let json = json!({
        "epoch": map.epoch(), "shards": map.shard_count(), "replicas": map.replicas(),
        "listed": placement,
    });
    Ok(Shown::well(format!("{head}\n\n{rows}"), json))
}

/// The replicas of a shard as words, the primary first.
fn replicas(map: &ShardMap, shard: usize) -> impl Iterator<Item = String> {
    map.nodes_of(shard).map(|(node, state)| match state {
        ReplicaState::Available => node.to_owned(),
        ReplicaState::Leaving => format!("{node} (leaves)"),
        ReplicaState::Initializing { source, .. } => match map.node(source) {
            Some(source) => format!("{node} (copies from {source})"),
            None => format!("{node} (copies)"),
        },
    })
}

fn placement(map: &ShardMap, shard: usize) -> serde_json::Value {
    let replicas: Vec<_> = map
        .nodes_of(shard)
        .map(|(node, state)| match state {
            ReplicaState::Available => json!({ "node": node, "state": "available" }),
            ReplicaState::Leaving => json!({ "node": node, "state": "leaving" }),
            ReplicaState::Initializing { source, .. } => {
                json!({ "node": node, "state": "initializing", "from": map.node(source) })
            }
        })
        .collect();
    json!({ "shard": shard, "replicas": replicas })
}

fn shard_of_key(snapshot: &Snapshot, map: &ShardMap, key: &[u8]) -> Shown {
    let shard = map.shard_of(key);
    let node = snapshot.node_for(key).map(|node| node.record.id.as_str());
    let replicas: Vec<String> = replicas(map, shard).collect();
    let text = format!(
        "shard {shard} of {}\nrequests go to {}\nreplicas: {}",
        map.shard_count(),
        node.unwrap_or("no node"),
        replicas.join(", ")
    );
    let mut json = placement(map, shard);
    json["requests_go_to"] = node.into();
    json["epoch"] = map.epoch().into();
    Shown { text, json, is_well: node.is_some() }
}

/// `leader`
pub async fn leader(session: &Session) -> Result<Shown, Failure> {
    let snapshot = session.look().await?.snapshot();
    let Some(leader) = &snapshot.leader else {
        let text = "there is no leader".to_owned();
        return Ok(Shown { text, json: json!({ "leader": null }), is_well: false });
    };
    let text = format!(
        "{} at {}, elected {}",
        leader.node_id,
        if leader.address.is_empty() { "no address" } else { &leader.address },
        ago(leader.elected_at_ms)
    );
    let json = json!({
        "node_id": leader.node_id, "address": leader.address, "elected_at_ms": leader.elected_at_ms,
    });
    Ok(Shown::well(text, json!({ "leader": json })))
}

/// A lock or a contender of a semaphore, without its value.
struct Held {
    key: String,
    kind: &'static str,
    session: Option<String>,
    token: u64,
}

impl Held {
    fn of(entry: &Value) -> Option<Self> {
        let kind = match entry.get("Flags").and_then(Value::as_u64) {
            Some(LOCK_FLAGS) => "lock",
            Some(SEMAPHORE_FLAGS) => "semaphore",
            _ => return None,
        };
        let key = entry.get("Key").and_then(Value::as_str)?.to_owned();
        let session = entry.get("Session").and_then(Value::as_str).map(str::to_owned);
        let token = entry.get("ModifyIndex").and_then(Value::as_u64).unwrap_or_default();
        Some(Held { key, kind, session: session.filter(|id| !id.is_empty()), token })
    }
}

/// `locks`
pub async fn locks(session: &Session, prefix: &str) -> Result<Shown, Failure> {
    let args = Args::new().arg(prefix).opt("consistent", true);
    let entries = session.client.call(&kv::LIST, &args).await?.value;
    let sessions = session.client.call(&session::LIST, &Args::new()).await?.value;
    let of_session = |id: &str| {
        let is = |it: &&Value| it.get("ID").and_then(Value::as_str) == Some(id);
        let text = |it: &Value, name| it.get(name).and_then(Value::as_str).map(str::to_owned);
        let found = sessions.items().iter().find(is);
        found.map_or_else(Default::default, |it| (text(it, "Name"), text(it, "Node")))
    };
    let (mut rows, mut list) = (Vec::new(), Vec::new());
    for held in entries.items().iter().filter_map(Held::of) {
        // The document of a semaphore is not a contender.
        if held.kind == "semaphore" && held.key.ends_with("/.lock") {
            continue;
        }
        let (name, agent) = held.session.as_deref().map(of_session).unwrap_or_default();
        let token = held.session.as_ref().map(|_| held.token);
        let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        rows.push(vec![
            held.key.clone(),
            held.kind.to_owned(),
            if held.session.is_some() { "held" } else { "free" }.to_owned(),
            shown(&name),
            shown(&agent),
            shown(&held.session),
            token.map_or_else(|| "-".to_owned(), |token| token.to_string()),
        ]);
        list.push(json!({
            "key": held.key, "kind": held.kind, "session": held.session, "token": token,
            "session_name": name, "agent": agent,
        }));
    }
    let header = ["KEY", "KIND", "STATE", "SESSION NAME", "AGENT", "SESSION", "TOKEN"];
    let text = match rows.is_empty() {
        true => "no locks".to_owned(),
        false => table(&header, &[6], rows),
    };
    Ok(Shown::well(text, json!({ "locks": list })))
}
