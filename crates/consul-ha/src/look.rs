//! The verbs that only show.

use super::arguments::{Shards, Which};
use super::connection::{Session, View, check_node};
use super::failure::Failure;
use super::follow::utc;
use super::output::{Shown, ago, counted, line, number, say, table};
use consul_api::api::{kv, session};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_client::coordination::lock::LOCK_FLAGS;
use consul_client::coordination::semaphore::{HOLDER_FLAGS, SEMAPHORE_FLAGS, is_document};
use consul_cluster::nodes::rights::{self, Right};
use consul_cluster::observe::overview::{NodeOverview, NodeState};
use consul_cluster::shard_map::{ReplicaState, ShardMap};
use consul_cluster::shell::{kv_delete, operand};
use consul_cluster::stores::{NumbersChanging, StoreOverview};
use consul_cluster::{Blocked, PastLeaders, Snapshot, past_leaders};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// `nodes`
pub async fn nodes(session: &Session) -> Result<Shown, Failure> {
    let View { overview, .. } = session.settled_view().await?;
    let leader = overview.leader.as_ref().map(|leader| leader.node_id.as_str());
    let leading = overview.leading().map(|leader| leader.node_id.as_str());
    let mut text = node_table(&overview.nodes, leading, !overview.stores.is_empty());
    say_age(overview.age_ms);
    if overview.nodes.is_empty() {
        text = format!(
            "no nodes below {}: --prefix names another cluster's keys",
            session.options.nodes_prefix
        );
    } else if !overview.frozen.is_empty() {
        text.push_str(&format!("\nfrozen: {} vanished", line(&overview.frozen.join(", "))));
    }
    if let Some(pause) = &overview.paused {
        text.push_str(&format!("\npaused by {}: no shard moves", line(&pause.by)));
    }
    for node in overview.nodes.iter().filter(|node| node.weight != 1.0) {
        let by = if overview.weights.contains_key(&node.id) { ", set by an operator" } else { "" };
        text.push_str(&format!("\nweight of {}: {}{by}", line(&node.id), number(node.weight)));
    }
    for (id, mode) in &overview.kept_modes {
        text.push_str(&format!("\nstopped: {}, {} when it starts", line(id), mode.name()));
    }
    let json = json!({
        "nodes": overview.nodes, "leader": leader, "frozen": overview.frozen,
        "paused": overview.paused, "kept_modes": overview.kept_modes,
        "weights": overview.weights, "age_ms": overview.age_ms,
    });
    Ok(Shown::well(text, json))
}

/// Says that Consul has no leader, and how old what it shows is.
pub fn say_age(age_ms: Option<u64>) {
    if let Some(age_ms) = age_ms {
        let age = age_ms / 1000;
        say(&format!("consul-ha: Consul's servers have no Raft leader: this is {age} s old"));
    }
}

fn node_table(nodes: &[NodeOverview], leader: Option<&str>, has_stores: bool) -> String {
    let row = |node: &NodeOverview| {
        let state = match node.state {
            NodeState::Live => "live",
            NodeState::Unavailable => "unavailable",
            NodeState::Down => "down",
        };
        let stores = has_stores.then(|| node.store_replicas.to_string());
        let cells = [
            node.id.clone(),
            node.address.clone(),
            node.zone.clone(),
            node.mode.name().to_owned(),
            state.to_owned(),
            if leader == Some(node.id.as_str()) { "leader" } else { "" }.to_owned(),
            node.primaries.to_string(),
            node.replicas.to_string(),
            format!("{}/{}", node.moving_in, node.moving_out),
            node.map_lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string()),
        ];
        cells.into_iter().chain(stores).collect()
    };
    let mut header = vec![
        "NODE",
        "ADDRESS",
        "ZONE",
        "MODE",
        "STATE",
        "ROLE",
        "PRIMARIES",
        "REPLICAS",
        "IN/OUT",
        "LAG",
    ];
    if has_stores {
        header.push("STORES");
    }
    table(&header, &[6, 7, 8, 9, 10], nodes.iter().map(row))
}

/// `shards`
pub async fn shards(session: &Session, given: &Shards) -> Result<Shown, Failure> {
    let View { cluster, overview, .. } = session.view().await?;
    say_age(overview.age_ms);
    let snapshot = cluster.snapshot();
    let Some(map) = snapshot.map.as_deref() else {
        let why =
            snapshot.unreadable.first().map_or("the cluster has no shard map", String::as_str);
        return Err(Failure::Refused(why.to_owned()));
    };
    if let Some(key) = &given.key {
        let mut shown = shard_of_key(&snapshot, map, key.as_bytes());
        shown.json["age_ms"] = overview.age_ms.into();
        return Ok(shown);
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
    let mut text = format!("{head}\n\n{rows}");
    if !overview.stores.is_empty() {
        text.push_str(&format!("\n\n{}", stores(&overview.stores)));
    }
    let unread = Vec::from_iter(overview.unread_stores.iter().map(|it| &it.why));
    for why in &unread {
        text.push_str(&format!("\n\nnot all stores are known: {why}"));
    }
    let json = json!({
        "map": overview.map, "listed": listed, "stores": overview.stores,
        "unread_stores": unread, "age_ms": overview.age_ms,
    });
    Ok(Shown::well(text, json))
}

fn stores(stores: &[StoreOverview]) -> String {
    let row = |store: &StoreOverview| {
        let StoreOverview { replicas, write_quorum, read_quorum, .. } = store;
        vec![
            store.name.clone(),
            store.shards.to_string(),
            format!("{replicas}/{write_quorum}/{read_quorum}"),
            store.map_version.to_string(),
            store.moving.len().to_string(),
            store.repairing.len().to_string(),
            store.at_risk.len().to_string(),
        ]
    };
    let header = ["STORE", "SHARDS", "N/W/R", "VERSION", "MOVING", "REPAIRING", "REPLICA MISSING"];
    let mut text = table(&header, &[1, 2, 3, 4, 5, 6], stores.iter().map(row));
    for store in stores {
        if let Some(NumbersChanging { shards, waits_for }) = &store.changing {
            let shards = counted(*shards, "shard");
            text.push_str(&format!(
                "\n\nstore {}: {shards} have not these N/W/R yet: {waits_for}",
                store.name
            ));
        }
    }
    text
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
        line(node.unwrap_or("no node")),
        line(&replicas.join(", "))
    );
    let mut json = placement(map, shard);
    json["requests_go_to"] = node.into();
    json["epoch"] = map.epoch().into();
    Shown { text, json, is_well: node.is_some() }
}

/// `leader`
pub async fn leader(session: &Session) -> Result<Shown, Failure> {
    let View { overview, .. } = session.view().await?;
    say_age(overview.age_ms);
    let Some(leader) = &overview.leader else {
        let text = "there is no leader".to_owned();
        let json = json!({ "leader": null, "age_ms": overview.age_ms });
        return Ok(Shown { text, json, is_well: false });
    };
    let is_well = overview.leading().is_some();
    let text = format!(
        "{} at {}, elected {}, fencing token {}{}",
        leader.node_id,
        if leader.address.is_empty() { "no address" } else { &leader.address },
        ago(leader.elected_at_ms),
        leader.token,
        if is_well { "" } else { ": it is named by the leader's key and does not lead" },
    );
    Ok(Shown {
        text: line(&text),
        json: json!({ "leader": leader, "age_ms": overview.age_ms }),
        is_well,
    })
}

/// `history`
pub async fn history(session: &Session) -> Result<Shown, Failure> {
    let PastLeaders { leaders, age_ms } = past_leaders(&*session.observer()?).await?;
    say_age(age_ms);
    let rows = leaders.iter().enumerate().map(|(place, it)| {
        let until = leaders.get(place + 1).map(|next| next.elected_at_ms);
        let led = until.and_then(|until| until.checked_sub(it.elected_at_ms)).map(|ms| ms / 1000);
        vec![
            utc(it.elected_at_ms),
            it.node_id.clone(),
            it.token.to_string(),
            it.version.clone(),
            led.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s")),
        ]
    });
    let header = ["ELECTED (UTC)", "NODE", "TOKEN", "VERSION", "UNTIL THE NEXT"];
    let text = match leaders.is_empty() {
        true => {
            "no leaders are known: this release keeps them from the next election on".to_owned()
        }
        false => table(&header, &[2, 4], rows),
    };
    Ok(Shown::well(text, json!({ "leaders": leaders, "age_ms": age_ms })))
}

/// `names`: those that mean the same in every shell.
pub async fn names(session: &Session) -> Result<Shown, Failure> {
    let cluster = session.observer()?;
    cluster.look_also_back().await?;
    let snapshot = cluster.snapshot();
    let all = snapshot.nodes.keys().chain(snapshot.kept_modes.keys());
    let names: Vec<&str> = all.map(String::as_str).filter(|id| operand(id, "") == *id).collect();
    Ok(Shown::well(names.join("\n"), json!({ "names": names })))
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
        let session = entry.get("Session").and_then(Value::as_str).map(str::to_owned);
        let session = session.filter(|id| !id.is_empty());
        let kind = match entry.get("Flags").and_then(Value::as_u64) {
            Some(LOCK_FLAGS) => "lock",
            Some(SEMAPHORE_FLAGS | HOLDER_FLAGS) => "semaphore",
            // Nobody acquires a lock of this key before the session ends.
            _ if session.is_some() => "other",
            _ => return None,
        };
        let key = entry.get("Key").and_then(Value::as_str)?.to_owned();
        let token = entry.get("ModifyIndex").and_then(Value::as_u64).unwrap_or_default();
        Some(Held { key, kind, session, token })
    }
}

/// The keys that keep a lock, a permit or the leadership from those who wait for it, each with why, and the command against
/// it. A value without a session is that only where the operator names its key.
fn blocking(entries: &Value, leader_key: &str, asked: &str) -> BTreeMap<String, String> {
    let documents = other_documents(entries);
    let why = |entry: &Value| {
        let key = entry.get("Key").and_then(Value::as_str)?;
        let why = if key == leader_key {
            let blocked = Blocked::of_entry(entry)?;
            format!("{}: {}", blocked.text(), blocked.cure())
        } else if documents.contains(key) {
            format!(
                "{key} is not the document of a semaphore: when nobody holds a permit, {} makes room",
                kv_delete(key)
            )
        } else {
            not_a_lock(entry, key, asked)?
        };
        Some((key.to_owned(), why))
    };
    entries.items().iter().filter_map(why).collect()
}

/// Why nobody acquires a lock of this key, if that is so.
fn not_a_lock(entry: &Value, key: &str, asked: &str) -> Option<String> {
    let number = |name| entry.get(name).and_then(Value::as_u64).unwrap_or_default();
    let flags = number("Flags");
    match entry.get("Session").and_then(Value::as_str).filter(|id| !id.is_empty()) {
        _ if [LOCK_FLAGS, SEMAPHORE_FLAGS, HOLDER_FLAGS].contains(&flags) => None,
        Some(session) => Some(format!(
            "session {session} holds {key} without the flags of a lock: a lock of this name waits for it; if no program needs \
             it, `curl -X PUT …/v1/session/destroy/{session}` makes room"
        )),
        // A key that was a lock, or is empty, is taken over.
        None if key != asked || flags == 0 && (number("LockIndex") > 0 || is_empty(entry)) => None,
        None => Some(format!(
            "{key} exists and is not a lock: if no program needs it, {} makes room",
            kv_delete(key)
        )),
    }
}

fn is_empty(entry: &Value) -> bool {
    !matches!(entry.get("Value"), Some(Value::Bytes(bytes)) if !bytes.is_empty())
}

/// The keys that have the place of a semaphore's document beside its contenders, and are none.
fn other_documents(entries: &Value) -> BTreeSet<String> {
    let key = |entry: &Value| entry.get("Key").and_then(Value::as_str).map(str::to_owned);
    let is_contender = |entry: &&Value| Held::of(entry).is_some_and(|it| it.kind == "semaphore");
    let contenders = entries.items().iter().filter(is_contender).filter_map(key);
    let documents: BTreeSet<String> =
        contenders.filter_map(|key| Some(format!("{}/.lock", key.rsplit_once('/')?.0))).collect();
    let others = entries.items().iter().filter(|entry| !is_document(entry)).filter_map(key);
    others.filter(|key| documents.contains(key)).collect()
}

/// `locks`
pub async fn locks(session: &Session, prefix: &str) -> Result<Shown, Failure> {
    let reads = consul_cluster::reads(&session.client).await;
    let args = Args::new().arg(prefix).opt(reads.option(), true);
    let entries = session.client.call(&kv::LIST, &args).await?;
    let args = Args::new().opt(reads.option(), true);
    let sessions = session.client.call(&session::LIST, &args).await?;
    let age_ms = reads.age_ms(&entries.meta);
    say_age(age_ms);
    let hidden = [
        (&entries.meta, Right::read_all("key", prefix)),
        (&sessions.meta, Right::read_all("session", "")),
    ];
    // Without a leader Consul does not tell rights.
    let lacking = match age_ms {
        Some(_) => Vec::new(),
        None => rights::to_see_lists(&session.client, hidden).await?,
    };
    let (entries, sessions) = (entries.value, sessions.value);
    let of_session = |id: &str| {
        let is = |it: &&Value| it.get("ID").and_then(Value::as_str) == Some(id);
        let text = |it: &Value, name| it.get(name).and_then(Value::as_str).map(str::to_owned);
        let found = sessions.items().iter().find(is);
        found.map_or_else(Default::default, |it| (text(it, "Name"), text(it, "Node")))
    };
    let leader_key = &session.options.leader_key;
    let mut blocking = blocking(&entries, leader_key, prefix);
    let is_leaders = |it: &Value| it.get("Key").and_then(Value::as_str) == Some(leader_key);
    if entries.items().iter().any(is_leaders)
        && !blocking.contains_key(leader_key)
        && let Ok(View { overview, .. }) = session.view().await
        && let Some(it) = overview.problems.iter().find(|it| it.problem == "leader_unknown")
    {
        blocking.insert(leader_key.clone(), format!("{leader_key}: {}: {}", it.text, it.cure));
    }
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
    let mut text = match rows.is_empty() {
        true => "no locks".to_owned(),
        false => table(&header, &[6], rows),
    };
    for why in blocking.values() {
        text.push_str(&format!("\n{}", line(why)));
    }
    if !lacking.is_empty() {
        let rights = rights::listed(&lacking);
        text.push_str(&format!("\nACLs may hide some: the token lacks {}", line(&rights)));
    }
    let lacks: Vec<String> = lacking.iter().map(Right::to_string).collect();
    let keys: Vec<&String> = blocking.keys().collect();
    let json = json!({ "locks": list, "blocking": keys, "cures": blocking, "token_lacks": lacks, "age_ms": age_ms });
    Ok(Shown::well(text, json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use consul_cluster::Mode;

    fn node(id: &str, state: NodeState) -> NodeOverview {
        NodeOverview {
            id: id.to_owned(),
            address: "a:1".to_owned(),
            data_address: String::new(),
            zone: "z".to_owned(),
            weight: 1.0,
            mode: Mode::Active,
            version: String::new(),
            unknown_mode: None,
            state,
            down_for_ms: None,
            map_epoch: None,
            map_lag: None,
            primaries: 11,
            replicas: 12,
            moving_in: 13,
            moving_out: 14,
            store_replicas: 15,
            check_output: String::new(),
            silent: None,
            refuses_key: false,
            is_refused_by_leader: false,
            lost_consul: false,
            doubt: None,
            starts_again: false,
            is_new: false,
            ended: None,
            no_history: None,
            certificate_expires_ms: None,
            consul_expiry: None,
            clock_ahead_ms: None,
            asked: Default::default(),
            no_rights: None,
            unknown_token: None,
            lacking: None,
            unusable_files: None,
            is_unreached_by_leader: false,
            avoids: Vec::new(),
            faults: Vec::new(),
            cannot_lead: None,
            other_disks: Default::default(),
            unused: Default::default(),
        }
    }

    #[test]
    fn each_number_of_a_node_is_in_its_column() {
        let behind = NodeOverview { map_lag: Some(3), ..node("n1", NodeState::Live) };
        let nodes = [behind, node("n2", NodeState::Unavailable), node("n3", NodeState::Down)];
        let shown = node_table(&nodes, Some("n2"), true);
        let lines: Vec<Vec<&str>> =
            shown.lines().map(|line| line.split_whitespace().collect()).collect();
        let rest = ["11", "12", "13/14"];
        let expected = [
            [
                &["NODE", "ADDRESS", "ZONE", "MODE", "STATE", "ROLE"][..],
                &["PRIMARIES", "REPLICAS", "IN/OUT", "LAG", "STORES"],
            ]
            .concat(),
            [&["n1", "a:1", "z", "active", "live"], &rest[..], &["3", "15"]].concat(),
            [&["n2", "a:1", "z", "active", "unavailable", "leader"], &rest[..], &["-", "15"]]
                .concat(),
            [&["n3", "a:1", "z", "active", "down"], &rest[..], &["-", "15"]].concat(),
        ];
        assert_eq!(lines, expected, "{shown}");
    }

    #[test]
    fn a_replica_says_whether_it_comes_or_goes() {
        let map = br#"{"format":1,"epoch":7,"token":1,"replicas":2,"nodes":["n1","n2","n3"],
            "shards":[[1,{"node":2,"source":0,"since":6},{"node":0,"leaving":true}]]}"#;
        let map = ShardMap::decode(map).expect("a map");
        let words: Vec<String> = replicas(&map, 0).collect();
        assert_eq!(words, ["n2", "n3 (copies from n1)", "n1 (leaves)"]);
    }
}
