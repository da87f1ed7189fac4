//! `doctor`: looks for what goes wrong in Consul and around it.

use super::arguments::{Doctor, Role};
use super::connection::{Session, View};
use super::failure::Failure;
use super::follow::is_note;
use super::output::{Shown, line, table};
use consul_api::api::{agent, catalog, health, kv, session};
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_cluster::HISTORY;
use consul_cluster::has_no_raft_leader;
use consul_cluster::nodes::is_of_operators;
use consul_cluster::nodes::rights::{Right, lacking};
use consul_cluster::shell::{kv_delete, listed, shell_word};
use consul_cluster::{Options, is_live_instance, is_of_other_cluster};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How many reads the latency is measured with.
const READS: usize = 50;

/// A Raft heartbeat longer than this is one of a `raft_multiplier` above 1.
const LONGEST_HEARTBEAT: Duration = Duration::from_millis(1500);

/// How many keys, sessions or services a text names.
const NAMED: (usize, &str) = (5, ", ");

/// Something that is wrong.
#[derive(Debug, Serialize)]
struct Finding {
    finding: String,
    text: String,
    cure: String,
}

fn finding(name: &str, text: String, cure: &str) -> Finding {
    Finding { finding: name.to_owned(), text, cure: cure.to_owned() }
}

/// The known state of Consul.
#[derive(Debug, Default, Serialize)]
struct Facts {
    version: Option<String>,
    agent: Option<String>,
    kv_max_value_size: Option<u64>,
    txn_max_req_len: Option<u64>,
    http_max_conns_per_client: Option<u64>,
    raft_heartbeat: Option<String>,
    latency: Option<Latency>,
    /// The parts that could not be looked at, and why.
    not_examined: Vec<String>,
}

/// The time of consistent reads, in milliseconds.
#[derive(Debug, Serialize)]
struct Latency {
    reads: usize,
    median_ms: f64,
    p95_ms: f64,
    longest_ms: f64,
}

/// `doctor`
pub async fn doctor(session: &Session, given: &Doctor) -> Result<Shown, Failure> {
    let (mut facts, mut found) = (Facts::default(), Vec::new());
    match examine(session, given.role, &mut facts, &mut found).await {
        Err(error) if error.kind() == Kind::RateLimited => found.push(rate_limited(&error)),
        examined => examined?,
    }
    found.sort_by(|a, b| a.finding.cmp(&b.finding));
    Ok(shown(&facts, &found))
}

fn rate_limited(error: &Error) -> Finding {
    let cure =
        "raise Consul's limits (request_limits, http_max_conns_per_client), or make fewer calls";
    finding("rate_limited", error.message().to_owned(), cure)
}

async fn examine(
    session: &Session,
    role: Role,
    facts: &mut Facts,
    found: &mut Vec<Finding>,
) -> Result<(), Error> {
    if has_no_raft_leader(&session.client).await {
        let view = session.view().await?;
        found.extend(of_problems(&view));
        let why = "Consul itself: its servers have no Raft leader; the problems of `why` are all that is known";
        facts.not_examined.push(why.to_owned());
        return Ok(());
    }
    facts.latency = permitted(session, latency(session).await, found).await?;
    let examined = agent_of(session, facts, found).await;
    permitted(session, examined, found).await?;
    let lacking = rights(session, role, facts.agent.as_deref()).await;
    let lacking = permitted(session, lacking, found).await?;
    found.extend(lacking.into_iter().flatten());
    let Some(view) = permitted(session, session.settled_view().await, found).await? else {
        return Ok(());
    };
    found.extend(of_problems(&view));
    let foreign = permitted(session, foreign_keys(session, &view).await, found).await?;
    let values = view.cluster.foreign_values().await;
    let values = permitted(session, values, found).await?.unwrap_or_default();
    let cure = "find the program that has written it; the cluster leaves it alone";
    let is_told = |problem| view.overview.problems.iter().any(|it| it.problem == problem);
    let values = values.into_iter().filter(|(problem, _)| !is_told(*problem));
    found.extend(values.map(|(_, it)| finding("foreign_value", it.message().to_owned(), cure)));
    let services = left_over_services(session, &view).await;
    let services = permitted(session, services, found).await?;
    let sessions = left_over_sessions(session, &view, facts).await;
    let sessions = permitted(session, sessions, found).await?;
    found.extend([foreign, services, sessions].into_iter().flatten().flatten());
    Ok(())
}

/// The problems of `why` that are not what an operator wanted.
fn of_problems(view: &View) -> impl Iterator<Item = Finding> {
    let worse = view.overview.problems.iter().filter(|it| !is_note(it));
    worse.map(|it| finding(it.problem, it.text.clone(), &it.cure))
}

/// The result of an examination; without the right to it, that is a finding, and the rest is examined.
async fn permitted<T>(
    session: &Session,
    examined: Result<T, Error>,
    found: &mut Vec<Finding>,
) -> Result<Option<T>, Error> {
    match examined {
        Ok(examined) => Ok(Some(examined)),
        Err(error) if error.kind() == Kind::PermissionDenied => {
            let cure = "add the right to a policy of the token";
            let error = session.with_rights(error).await;
            found.push(finding("permission", error.message().to_owned(), cure));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn latency(session: &Session) -> Result<Latency, Error> {
    let args = Args::new().arg(session.options.leader_key.as_str());
    let args = args.opt("consistent", true).opt("retry", false);
    let mut times = Vec::new();
    for _ in 0..READS {
        let begun = Instant::now();
        session.client.call(&kv::GET, &args).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let round = |ms: f64| (ms * 1e3).round() / 1e3;
    Ok(Latency {
        reads: READS,
        median_ms: round(times[READS / 2]),
        p95_ms: round(times[READS * 95 / 100]),
        longest_ms: round(times[READS - 1]),
    })
}

/// The agent's report about itself; a token may not read that, and the simulated agent has no Raft.
async fn agent_of(
    session: &Session,
    facts: &mut Facts,
    found: &mut Vec<Finding>,
) -> Result<(), Error> {
    let about = match session.client.call(&agent::SELF, &Args::new()).await {
        Ok(answer) => answer.value,
        Err(error) if error.kind() == Kind::PermissionDenied => return Ok(()),
        Err(error) => return Err(error),
    };
    let config = |name: &str| about.get("Config").and_then(|it| it.get(name));
    let debug = |name: &str| about.get("DebugConfig").and_then(|it| it.get(name));
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    facts.version = text(config("Version"));
    facts.agent = text(config("NodeName"));
    facts.kv_max_value_size = debug("KVMaxValueSize").and_then(Value::as_u64);
    facts.txn_max_req_len = debug("TxnMaxReqLen").and_then(Value::as_u64);
    facts.http_max_conns_per_client = debug("HTTPMaxConnsPerClient").and_then(Value::as_u64);
    if config("Server") == Some(&Value::Bool(false)) {
        let why = "raft_multiplier: this agent is a client; --http-addr a server's agent to know";
        facts.not_examined.push(why.to_owned());
        return Ok(());
    }
    facts.raft_heartbeat = text(debug("ConsulRaftHeartbeatTimeout"));
    let heartbeat = facts.raft_heartbeat.as_deref().and_then(seconds);
    if let Some(heartbeat) = heartbeat.filter(|it| *it > LONGEST_HEARTBEAT.as_secs_f64()) {
        let text = format!(
            "raft_multiplier is {heartbeat:.0}: after the loss of a server Consul answers nothing for \
             {:.0} s and more, and locks and leases end meanwhile",
            heartbeat * 2.0
        );
        let cure = "set performance { raft_multiplier = 1 } on the servers";
        found.push(finding("raft_multiplier", text, cure));
    }
    Ok(())
}

/// A duration as Go writes it, if it is of seconds or milliseconds.
fn seconds(text: &str) -> Option<f64> {
    match text.strip_suffix("ms") {
        Some(ms) => ms.parse::<f64>().ok().map(|ms| ms / 1e3),
        None => text.strip_suffix('s')?.parse().ok(),
    }
}

/// The rights that a process with this role needs and the token lacks; none if Consul has no ACLs.
async fn rights(session: &Session, role: Role, agent: Option<&str>) -> Result<Vec<Finding>, Error> {
    let agents = match agent {
        Some(agent) => BTreeSet::from([agent.to_owned()]),
        None => agents(session).await?,
    };
    let needed = needed(&session.options, role, agents);
    let lacking = lacking(&session.client, needed).await?.into_iter().map(|right| {
        let text = format!("the token lacks {right}, which {} needs", role.noun());
        finding("right", text, "add the right to a policy of the token")
    });
    Ok(lacking.collect())
}

/// The agents at which the cluster's nodes are registered.
async fn agents(session: &Session) -> Result<BTreeSet<String>, Error> {
    let args = Args::new().arg(session.options.service());
    let instances = session.client.call(&catalog::SERVICE, &args).await?.value;
    let agent = |it: &Value| it.get("Node").and_then(Value::as_str).map(str::to_owned);
    Ok(instances.items().iter().filter_map(agent).collect())
}

/// The rights of this role. The names of agents are not known without the right to read them.
fn needed(options: &Options, role: Role, agents: BTreeSet<String>) -> Vec<Right> {
    let Options { leader_key, nodes_prefix, shards_prefix, config_key, .. } = options;
    let service = options.service();
    let mut needed = vec![
        Right::read("key", leader_key),
        Right::read_all("key", nodes_prefix),
        Right::read_all("key", shards_prefix),
        Right::read("service", &service),
    ];
    let of_agents = |access: fn(&'static str, &str) -> Right, resource: &'static str| {
        agents.iter().map(move |agent| access(resource, agent))
    };
    let on_all = |resource| agents.is_empty().then(|| Right::read_all(resource, ""));
    needed.extend(of_agents(Right::read, "node").chain(on_all("node")));
    if role != Role::Observer {
        needed.extend([nodes_prefix, shards_prefix].map(|prefix| Right::write_all("key", prefix)));
    }
    if role == Role::Operator {
        needed.extend(of_agents(Right::read, "session").chain(on_all("session")));
    }
    if role == Role::Node {
        needed.extend([leader_key, config_key].map(|key| Right::write("key", key)));
        needed.push(Right::write("service", &service));
        needed.extend(of_agents(Right::write, "session"));
    }
    needed
}

/// Keys below the cluster's prefixes that are not the cluster's.
async fn foreign_keys(session: &Session, view: &View) -> Result<Option<Finding>, Error> {
    let Options { nodes_prefix, shards_prefix, leader_key, config_key, .. } = &session.options;
    let common = view.overview.prefix.clone();
    let prefixes =
        if common.is_empty() { vec![nodes_prefix, shards_prefix] } else { vec![&common] };
    let mut foreign = BTreeSet::new();
    for prefix in prefixes {
        let args = Args::new().arg(prefix.as_str()).opt("consistent", true);
        let keys = session.client.call(&kv::KEYS, &args).await?.value;
        foreign.extend(keys.items().iter().filter_map(Value::as_str).map(str::to_owned));
    }
    let snapshot = view.cluster.snapshot();
    let is_ours = |key: &str| {
        key == leader_key
            || key == config_key
            || key
                .strip_prefix(nodes_prefix)
                .is_some_and(|id| snapshot.nodes.contains_key(id) || is_of_operators(id))
            || key.strip_prefix(shards_prefix).is_some_and(is_of_shards)
    };
    foreign.retain(|key| !is_ours(key));
    if foreign.is_empty() {
        return Ok(None);
    }
    let text = format!(
        "keys below the cluster's prefix that are not its own: {}",
        listed(&foreign, NAMED)
    );
    let deletes = Vec::from_iter(foreign.iter().map(|key| kv_delete(key)));
    let cure = format!(
        "move them, or give the cluster another prefix; what no program needs: {}",
        listed(&deletes, NAMED)
    );
    Ok(Some(finding("foreign_key", text, &cure)))
}

/// Whether a key below the shards' prefix is of the map, or of a store.
fn is_of_shards(rest: &str) -> bool {
    let folder = rest.split('/').next().unwrap_or_default();
    let of_map = rest == "epoch" || rest == "map" || rest.starts_with("map.") || rest == HISTORY;
    of_map
        || (rest.len() > folder.len()
            && matches!(folder, "maps" | "members" | "waiting" | "forgotten"))
}

/// Instances of the nodes' service that belong to no node and do not live.
async fn left_over_services(session: &Session, view: &View) -> Result<Option<Finding>, Error> {
    let args = Args::new().arg(session.options.service()).opt("consistent", true);
    let instances = session.client.call(&health::SERVICE, &args).await?.value;
    let snapshot = view.cluster.snapshot();
    let known: BTreeSet<&str> =
        snapshot.nodes.values().map(|node| node.record.incarnation.as_str()).collect();
    let text = |it: Option<&Value>, name| {
        it.and_then(|it| it.get(name)).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let is_left = |it: &&Value| {
        let meta = it.get("Service").and_then(|service| service.get("Meta"));
        let is_live = has_own_check(it) && is_live_instance(it);
        let is_known = known.contains(text(meta, "incarnation").as_str());
        !is_known && !is_live && !is_of_other_cluster(&session.options, it)
    };
    let left = instances.items().iter().filter(is_left);
    let ids = |it: &Value| (text(it.get("Service"), "ID"), text(it.get("Node"), "Node"));
    let left: BTreeSet<(String, String)> = left.map(ids).collect();
    let of_each = |shown: &dyn Fn(&str, &str) -> String| {
        listed(Vec::from_iter(left.iter().map(|(id, agent)| shown(id, agent))), NAMED)
    };
    let deregister =
        |id: &str, _: &str| format!("`consul services deregister -id={}`", shell_word(id));
    let of_dead = |id: &str, agent: &str| {
        let body = serde_json::json!({ "Node": agent, "ServiceID": id }).to_string();
        format!("`curl -X PUT …/v1/catalog/deregister -d {}`", shell_word(&body))
    };
    let text = format!(
        "services of nodes that are gone: {}",
        of_each(&|id, agent| format!("{id} on {agent}"))
    );
    let cure = format!(
        "at the agent of each: {}; if the agent is dead: {}",
        of_each(&deregister),
        of_each(&of_dead)
    );
    Ok((!left.is_empty()).then(|| finding("left_over_service", text, &cure)))
}

/// Whether an instance has a check of its own. One without does not tell whether its process lives.
fn has_own_check(instance: &Value) -> bool {
    let checks = instance.get("Checks").map(Value::items).unwrap_or_default();
    let service = |check: &Value| check.get("ServiceID").and_then(Value::as_str).map(str::len);
    checks.iter().any(|check| service(check).is_some_and(|length| length > 0))
}

/// Sessions that hold a key of the cluster, or are for its leadership, and belong to no live node. Sessions of nodes,
/// also of contenders for the leadership, end with the check of their node.
async fn left_over_sessions(
    session: &Session,
    view: &View,
    facts: &mut Facts,
) -> Result<Option<Finding>, Error> {
    let answer = session.client.call(&session::LIST, &Args::new()).await?;
    let hidden = match answer.meta.filtered_by_acl {
        Some(true) => true,
        // The sessions of agents whose names begin otherwise may be hidden.
        _ => !lacking(&session.client, vec![Right::read_all("session", "")]).await?.is_empty(),
    };
    if hidden {
        let why = "sessions: the token lacks session:read on all agents";
        facts.not_examined.push(why.to_owned());
    }
    let sessions = answer.value;
    let snapshot = view.cluster.snapshot();
    // A problem of the cluster tells what is wrong with the session of the leader's key, with the same cure.
    let leader = snapshot.leader.as_ref().map(|leader| leader.session_id.as_str());
    let blocked = snapshot.blocked.as_ref().and_then(|it| it.session.as_deref());
    let name = format!("lock {}", session.options.leader_key);
    let holders = holders(session).await?;
    let service = session.options.service();
    let checks: BTreeSet<String> =
        snapshot.live().map(|node| format!("service:{service}-{}", node.record.id)).collect();
    let is_of_node = |it: &Value| {
        let bound = it.get("ServiceChecks").map(Value::items).unwrap_or_default();
        let mut ids = bound.iter().filter_map(|check| check.get("ID").and_then(Value::as_str));
        ids.any(|id| checks.contains(id))
    };
    let left = |it: &Value| {
        let id = it.get("ID").and_then(Value::as_str)?;
        let is_named = it.get("Name").and_then(Value::as_str) == Some(&name);
        let is_told = [leader, blocked].contains(&Some(id));
        let is_suspect = !is_told && (is_named || holders.contains(id));
        (is_suspect && !is_of_node(it)).then(|| id.to_owned())
    };
    let left: BTreeSet<String> = sessions.items().iter().filter_map(left).collect();
    let text = format!("sessions that are of no live node: {}", listed(&left, NAMED));
    let destroys = left.iter().map(|id| format!("`curl -X PUT …/v1/session/destroy/{id}`"));
    let cure = format!(
        "{}; they block the leadership, or keep keys locked",
        listed(Vec::from_iter(destroys), NAMED)
    );
    Ok((!left.is_empty()).then(|| finding("left_over_session", text, &cure)))
}

/// The sessions that hold the leader's key, or a key below the cluster's prefixes.
async fn holders(session: &Session) -> Result<BTreeSet<String>, Error> {
    let Options { nodes_prefix, shards_prefix, leader_key, .. } = &session.options;
    let mut holders = BTreeSet::new();
    let args = Args::new().arg(leader_key.as_str()).opt("consistent", true);
    let leader = session.client.call(&kv::GET, &args).await?.meta.entry;
    holders.extend(leader.and_then(|entry| entry.session));
    for prefix in [nodes_prefix, shards_prefix] {
        let args = Args::new().arg(prefix.as_str()).opt("consistent", true);
        let entries = session.client.call(&kv::LIST, &args).await?.value;
        let holder = |it: &Value| it.get("Session").and_then(Value::as_str).map(str::to_owned);
        holders.extend(entries.items().iter().filter_map(holder));
    }
    Ok(holders)
}

fn shown(facts: &Facts, found: &[Finding]) -> Shown {
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let latency = facts.latency.as_ref().map(|it| {
        let Latency { reads, median_ms, p95_ms, longest_ms } = it;
        format!("median {median_ms} ms, 95 % {p95_ms} ms, longest {longest_ms} ms of {reads} reads")
    });
    let rows = [
        ("Consul", facts.version.clone()),
        ("agent", facts.agent.clone()),
        ("latency", latency),
        ("largest value", number(facts.kv_max_value_size)),
        ("largest transaction", number(facts.txn_max_req_len)),
        ("connections per client", number(facts.http_max_conns_per_client)),
        ("Raft heartbeat", facts.raft_heartbeat.clone()),
    ];
    let rows = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value.unwrap_or_else(|| "not told".to_owned())]);
    let mut text = table(&["FACT", "VALUE"], &[], rows);
    text.push_str("\n\n");
    for Finding { finding, text: what, cure } in found {
        text.push_str(&format!("{finding}: {}\n    {}\n", line(what), line(cure)));
    }
    for what in &facts.not_examined {
        text.push_str(&format!("not examined: {}\n", line(what)));
    }
    if found.is_empty() {
        text.push_str("nothing is wrong");
    }
    let json = serde_json::json!({ "facts": facts, "findings": found });
    Shown { text, json, is_well: found.is_empty() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_needs_its_rights() {
        let options = Options {
            leader_key: "ha/leader".to_owned(),
            nodes_prefix: "ha/nodes/".to_owned(),
            shards_prefix: "ha/shards/".to_owned(),
            config_key: "ha/config".to_owned(),
            ..Options::new("n1", "a:1")
        };
        let of = |role| -> Vec<String> {
            let needed = needed(&options, role, BTreeSet::from(["a".to_owned()]));
            needed.iter().map(Right::to_string).collect()
        };
        let reads = [
            "key:read on \"ha/leader\"",
            "key:read on \"ha/nodes/\"",
            "key:read on \"ha/shards/\"",
            "service:read on \"ha-nodes\"",
            "node:read on \"a\"",
        ];
        let changes = ["key:write on \"ha/nodes/\"", "key:write on \"ha/shards/\""];
        let takes_part = [
            "key:write on \"ha/leader\"",
            "key:write on \"ha/config\"",
            "service:write on \"ha-nodes\"",
            "session:write on \"a\"",
        ];
        assert_eq!(of(Role::Observer), reads);
        assert_eq!(of(Role::Operator), [&reads[..], &changes, &["session:read on \"a\""]].concat());
        assert_eq!(of(Role::Node), [&reads[..], &changes, &takes_part].concat());
        let blind = needed(&options, Role::Observer, BTreeSet::new());
        assert!(blind.contains(&Right::read_all("node", "")), "the names of agents are not known");
    }

    #[test]
    fn the_keys_of_maps_and_stores_are_the_clusters_own() {
        for own in [
            "epoch",
            "map",
            "map.corrupt-1",
            "maps/points",
            "members/points/nodes/n1",
            "waiting/points",
            "forgotten/points",
            HISTORY,
        ] {
            assert!(is_of_shards(own), "{own}");
        }
        for other in ["", "notes", "maps", "waiting", "forgotten", "mapping/x", "epoch/x", "map/x"]
        {
            assert!(!is_of_shards(other), "{other}");
        }
    }

    #[test]
    fn durations_of_go_are_seconds() {
        assert_eq!(["5s", "1500ms", "1m5s", ""].map(seconds), [Some(5.0), Some(1.5), None, None]);
    }
    #[test]
    fn an_instance_tells_by_a_check_of_its_own_whether_its_process_lives() {
        let check = |service: &str| object([("ServiceID", service.into())]);
        let instance = |checks: Vec<Value>| object([("Checks", Value::List(checks))]);
        for (of, has) in [(&[][..], false), (&[""], false), (&["a"], true), (&["", "a"], true)] {
            let checks = of.iter().map(|service| check(service)).collect();
            assert_eq!(has_own_check(&instance(checks)), has, "{of:?}");
        }
        assert!(!has_own_check(&object([])), "no checks");
    }

    fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
        Value::Map(members.map(|(name, value)| (name.to_owned(), value)).to_vec())
    }
}
