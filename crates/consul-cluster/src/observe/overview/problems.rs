//! All that is not well in a cluster, with its cure.

mod nodes;
mod stores;

use super::{
    ConsulExpiry, EndpointState, LeaderOverview, NodeOverview, NodeState, Overview, Placed,
};
use crate::nodes::node::Mode;
use crate::nodes::pause::Pause;
use crate::shell::{self, operand, operands};
use crate::stores::UnreadStores;
use nodes::{
    Strangers, forget, is_gone, many_down, of_clock, of_drains, of_node, of_pairs, of_versions,
    own_clock,
};
use serde::Serialize;
use std::collections::BTreeMap;
use stores::{of_store, of_waiting};

/// How many shards or nodes a text names.
const NAMED: usize = 5;

/// How far the clocks of two machines may be apart, and the time of a call.
const USUAL_CLOCK_MS: u64 = 2000;

/// A certificate is renewed this long before its end, and urgently in its last day.
const RENEWAL_MS: u64 = 14 * DAY_MS;
const DAY_MS: u64 = 86_400_000;

/// The cure of Consul's servers without a leader.
const NO_RAFT_LEADER: &str = "start the servers that are missing; `consul operator raft list-peers -stale` names them. If they \
                              are lost for good: \"A lost quorum\" in docs/operating.md. Nodes serve meanwhile with the map \
                              that they have";

/// The cure of a node that is missing, in the order in which cures are told.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Cure {
    Start,
    StartWithData,
    GiveWay,
    SeeWhoAnswers,
    WaitForStart,
    StartWithKey,
    WaitForNewDisk,
    PutDiskBack,
    MendStorage,
    UseStore,
    WaitForRecords,
}

impl Cure {
    /// Its words before the names of the nodes, and after.
    fn words(&self) -> (&'static str, &'static str) {
        match self {
            Cure::Start => ("start", ""),
            Cure::StartWithData => {
                ("start", "with its data again, although it is not a member any more")
            }
            Cure::GiveWay => ("give", "a way to Consul again"),
            Cure::SeeWhoAnswers => ("see which process answers at the data address of", ""),
            Cure::WaitForStart => ("wait until", "has joined again, or see its log"),
            Cure::StartWithKey => ("start", "with the cluster_key of the others"),
            Cure::WaitForNewDisk => ("wait until the new disk of", "has the replicas"),
            Cure::PutDiskBack => ("put back the disk of", "that the map names, or a backup of it"),
            Cure::MendStorage => {
                ("mend the storage of", "or make room there: nothing of it is lost")
            }
            Cure::UseStore => ("let the program of", "use the store again: it lives without it"),
            Cure::WaitForRecords => ("wait for the records of", "or see the log there"),
        }
    }

    /// Of a node that is down for Consul, and may live or has just begun to.
    fn of_answering(node: &NodeOverview) -> Option<Cure> {
        if node.doubt.is_some() {
            Some(Cure::SeeWhoAnswers)
        } else if node.starts_again || node.is_new {
            Some(Cure::WaitForStart)
        } else {
            node.lost_consul.then_some(Cure::GiveWay)
        }
    }

    /// Each cure with the nodes that it is for.
    fn listed<'a>(nodes: impl Iterator<Item = (&'a String, Cure)>) -> Vec<String> {
        let mut cures: BTreeMap<Cure, Vec<&String>> = BTreeMap::new();
        nodes.for_each(|(id, cure)| cures.entry(cure).or_default().push(id));
        let text = |(cure, ids): (Cure, Vec<&String>)| {
            let (before, after) = cure.words();
            format!("{before} {} {after}", listed(ids.iter())).trim().to_owned()
        };
        cures.into_iter().map(text).collect()
    }
}

/// Something that is not well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its name, such as `node_down`.
    pub problem: &'static str,
    /// How bad it is.
    pub level: Level,
    /// Its subject: a node, a store, an endpoint; empty: the cluster.
    pub of: String,
    /// The description of the problem.
    pub text: String,
    /// The remedy for an operator.
    pub cure: String,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something does not work, or data may be lost.
    Error,
    /// It works, with less in reserve.
    Warning,
    /// An operator wanted it so.
    Note,
}

/// All that is not well, the worst first.
pub fn problems(overview: &Overview) -> Vec<Problem> {
    if overview.is_starting {
        let id = overview.told_by.as_deref().unwrap_or_default();
        let text = format!("{id} has just started, and has yet to learn the state of the cluster");
        return vec![note("starting", id, text, "wait a moment".to_owned())];
    }
    let mut found = of_cluster(overview);
    let most_ahead = most_ahead(overview);
    found.extend(most_ahead.map(|ahead| own_clock(ahead, overview)));
    if let Some(end) = overview.own_certificate_ms {
        found.extend(certificate(None, end, time_of_nodes(overview)));
    }
    if let Some(end) = &overview.own_consul_expiry {
        found.extend(consul_certificate(None, end, time_of_nodes(overview)));
    }
    let strangers = Strangers::of(overview);
    found.extend(strangers.problem(overview));
    let gone: Vec<_> = overview.nodes.iter().filter(|node| is_gone(node)).collect();
    let are_many_gone = gone.len() > NAMED;
    found.extend(are_many_gone.then(|| many_down(&gone, overview)));
    for node in &overview.nodes {
        found.extend(of_node(node, overview, &strangers, are_many_gone));
        found.extend(of_clock(node, most_ahead));
    }
    found.extend(of_pairs(overview));
    found.extend(of_versions(overview));
    found.extend(of_drains(overview));
    found.extend(of_map(overview));
    let of_stores = overview.stores.iter().flat_map(|store| {
        of_store(store, overview).into_iter().map(move |it| (store.name.as_str(), it))
    });
    found.extend(grouped(of_stores));
    let waiting = overview.waiting.iter();
    found.extend(grouped(waiting.map(|it| (it.0.as_str(), of_waiting(it)))));
    found.extend(of_endpoints(overview));
    found.sort_by_key(|problem| problem.level);
    found
}

fn error(problem: &'static str, of: &str, text: String, cure: String) -> Problem {
    Problem { problem, level: Level::Error, of: of.to_owned(), text, cure }
}

fn warning(problem: &'static str, of: &str, text: String, cure: String) -> Problem {
    Problem { level: Level::Warning, ..error(problem, of, text, cure) }
}

fn note(problem: &'static str, of: &str, text: String, cure: String) -> Problem {
    Problem { level: Level::Note, ..error(problem, of, text, cure) }
}

/// Up to [`NAMED`] of a list, and the number of the rest.
fn listed<T: ToString>(items: impl ExactSizeIterator<Item = T>) -> String {
    shell::listed(items, (NAMED, ", "))
}

/// Up to [`NAMED`] shards: `shard 3`, or `shards 3, 4`.
fn listed_shards<T: ToString>(shards: impl ExactSizeIterator<Item = T>) -> String {
    let noun = if shards.len() == 1 { "shard" } else { "shards" };
    format!("{noun} {}", listed(shards))
}

/// How an operator ends the leadership of the holder of the leader's key.
fn ends(leader: &LeaderOverview) -> String {
    format!("`curl -X PUT …/v1/session/destroy/{}` makes room for another leader", leader.session)
}

fn of_cluster(overview: &Overview) -> Vec<Problem> {
    let mut found = Vec::from_iter(of_leader(overview));
    found.extend(of_rights(overview));
    if knows_no_node(overview) {
        let text = "no node has a key in Consul: which nodes live is not known".to_owned();
        let cure = "wait: a node that runs writes its key again within seconds; if none does, start the nodes";
        found.push(error("no_members", "", text, cure.to_owned()));
    }
    for UnreadStores { why, .. } in &overview.unread_stores {
        let text = format!("what the stores' shards need is not known: {why}");
        let cure = match overview.in_touch {
            true => {
                "if the token lacks a right, give it key:read below the shards' prefix; if a map is named that a later \
                 release has written, let all nodes run that; if it is another program's, delete its key and start the nodes \
                 again, which put their map back"
            }
            false => "wait until Consul answers this process",
        };
        found.push(error("stores_unknown", "", text, cure.to_owned()));
    }
    if !overview.other_clusters.is_empty() {
        let theirs = listed(overview.other_clusters.iter());
        let text = format!(
            "nodes of another cluster are instances of the same service in Consul: nodes_prefix {theirs}"
        );
        let cure = "give one of the clusters a prefix that differs in more than `/` and `-`: two nodes of one id cannot \
                    have one agent, and who looks the service up finds both";
        found.push(warning("service_shared", "", text, cure.to_owned()));
    }
    for why in &overview.unread_map {
        let text = format!("the shard map in Consul cannot be read: {why}");
        let cure = "wait 5 s: the leader writes the map again, and keeps what is there under a name of its own; if it \
                    does not, delete the key that ends in `epoch`: then a node that runs does so";
        found.push(error("map_unreadable", "", text, cure.to_owned()));
    }
    if !overview.frozen.is_empty() {
        let frozen = listed(overview.frozen.iter());
        let text = format!("the shard map is frozen: {frozen} vanished at once");
        let node = |id: &String| overview.nodes.iter().find(|it| it.id == *id);
        let cure = |id: &String| node(id).and_then(Cure::of_answering);
        let mut cures = Cure::listed(overview.frozen.iter().filter_map(|id| Some((id, cure(id)?))));
        let gone: Vec<_> = overview.frozen.iter().filter(|id| cure(id).is_none()).collect();
        if !gone.is_empty() {
            cures.push(format!(
                "start {}; if they are lost, `consul-ha thaw` gives their shards to others, and lets stores make new \
                 replicas",
                listed(gone.iter())
            ));
        }
        found.push(error("frozen", "", text, cures.join("; ")));
    }
    if let Some(pause) = &overview.paused {
        let Pause { by, since_ms, why } = pause;
        // Another program's value, or none.
        let since = match since_ms {
            0 => "since a time that its key does not tell".to_owned(),
            _ => format!("for {} min", time_of_nodes(overview).saturating_sub(*since_ms) / 60_000),
        };
        let mut text = format!("all moves of shards are paused {since}, by {by}");
        if !why.is_empty() {
            text.push_str(&format!(": {why}"));
        }
        let cure = "`consul-ha resume` when the work is done: until then nothing takes the place of a replica that is lost";
        found.push(note("paused", "", text, cure.to_owned()));
    }
    for (id, mode) in &overview.kept_modes {
        let (verb, does) = match mode {
            Mode::Maintenance => ("maintenance", "is in maintenance"),
            _ => ("drain", "drains"),
        };
        let text = format!("{id} is stopped, and {does} when it starts");
        let cure = format!(
            "`consul-ha {verb} {}` when the work is done; if it does not come back, {}",
            operand(id, "--off"),
            forget(id)
        );
        found.push(note("mode_kept", id, text, cure));
    }
    if let Some(why) = &overview.foreign_weights {
        let text = format!("{why}; the weights of nodes known before count until a node starts");
        let cure = "find the program that has written it; when its value is gone, the leader writes the weights again";
        found.push(warning("weights_unreadable", "", text, cure.to_owned()));
    }
    if overview.restored {
        let text = "Consul had lost the shard map; a node has put it back".to_owned();
        let cure = "nothing: the next leader's map ends this".to_owned();
        found.push(warning("map_restored", "", text, cure));
    }
    found
}

/// Why no node leads, or why that is not known.
fn of_leader(overview: &Overview) -> Option<Problem> {
    if let Some(age_ms) = overview.age_ms {
        let text = format!(
            "Consul's servers have no Raft leader: what is shown is {} s old, and nothing can be changed",
            age_ms / 1000
        );
        Some(error("no_raft_leader", "", text, NO_RAFT_LEADER.to_owned()))
    } else if overview.has_no_raft_leader {
        let text = "Consul's servers have no Raft leader: nothing can be changed".to_owned();
        Some(error("no_raft_leader", "", text, NO_RAFT_LEADER.to_owned()))
    } else if let (false, Some(rights)) = (overview.in_touch, &overview.no_rights) {
        let text = format!(
            "Consul refuses this process, whose token lacks {rights}: what is shown is what was known last"
        );
        let cure = "add these rights to a policy of the token of this process".to_owned();
        Some(error("not_in_touch", "", text, cure))
    } else if !overview.in_touch {
        let text = "this process gets no answers from Consul: what is shown is what was known last";
        let cure = "check the Consul agent of this process, and whether Consul's servers have a leader \
                    (`consul operator raft list-peers`)";
        Some(error("not_in_touch", "", text.to_owned(), cure.to_owned()))
    } else if let Some(leader) = overview.leader.as_ref().filter(|it| it.does_not_lead()) {
        let id = &leader.node_id;
        let text =
            format!("{id} has the leader's key and does not lead: it has no proof that it may");
        let cure = format!(
            "wait: when the session of the key has ended, another node leads. After a snapshot of Consul was \
             restored that takes up to 30 s; if none leads then, {}. `consul-ha doctor` checks the nodes' rights",
            ends(leader)
        );
        Some(error("leader_does_not_lead", id, text, cure))
    } else if let Some(leader) = overview.leader.as_ref().filter(|it| overview.is_unknown(it)) {
        let id = &leader.node_id;
        let text = format!(
            "the leader's key names {id}, which is not a node of the cluster: no node leads"
        );
        let cure = format!("find out which program has made the session; {}", ends(leader));
        Some(error("leader_unknown", id, text, cure))
    } else if let Some(blocked) = &overview.blocked {
        Some(error("leader_key_blocked", "", blocked.text(), blocked.cure()))
    } else if overview.leader.is_none() {
        let text = "the cluster has no leader: no shards are assigned".to_owned();
        let cure = if overview.nodes.iter().any(may_lead) {
            "wait for an election; if there is none, `consul-ha doctor` checks the nodes' rights"
        } else if overview.nodes.is_empty() && overview.told_by.is_none() {
            "start a node; or the cluster has other keys: see `--prefix`"
        } else {
            "start a node, or make one active: no live node may lead"
        };
        Some(error("no_leader", "", text, cure.to_owned()))
    } else {
        None
    }
}

/// The rights that this process lacks to see all.
fn of_rights(overview: &Overview) -> Vec<Problem> {
    let mut found = Vec::new();
    if !overview.hidden.is_empty() {
        let text = format!("ACLs hide {} from this process", overview.hidden.join(" and "));
        let cure = "give its token key:read, service:read and node:read".to_owned();
        found.push(error("hidden_by_acl", "", text, cure));
    }
    if let Some(rights) = &overview.may_hide {
        let text = format!("ACLs may hide nodes from this process: the token lacks {rights}");
        let cure = "add the right to a policy of the token; until then nodes may be missing here, or shown as down";
        found.push(error("hidden_by_acl", "", text, cure.to_owned()));
    }
    let is_told = !overview.in_touch || !overview.hidden.is_empty() || overview.may_hide.is_some();
    if let Some(rights) = overview.no_rights.as_ref().filter(|_| !is_told)
        && overview.told_by.is_none()
    {
        let text = format!("ACLs may hide changes from this process: its token lacks {rights}");
        let cure = "add these rights to a policy of the token; until then what is shown may be old"
            .to_owned();
        found.push(error("hidden_by_acl", "", text, cure));
    }
    found
}

/// Whether the cluster has maps and no nodes.
fn knows_no_node(overview: &Overview) -> bool {
    let has_maps = overview.map.is_some() || !overview.stores.is_empty();
    overview.in_touch && overview.nodes.is_empty() && has_maps
}

fn may_lead(node: &NodeOverview) -> bool {
    node.state != NodeState::Down && node.mode == Mode::Active
}

/// Whether the leader gives it shards of others.
fn takes_shards(node: &NodeOverview) -> bool {
    may_lead(node) && node.weight > 0.0
}

/// Whether it is known what is lost: nothing else tells an operator to give up data or nodes.
fn may_be_given_up(overview: &Overview) -> bool {
    overview.in_touch && overview.nodes.iter().any(|node| node.state != NodeState::Down)
}

/// How far the clocks of most other nodes are ahead of this process's, if that is too much: then this one is wrong.
fn most_ahead(overview: &Overview) -> Option<i64> {
    let others = overview.nodes.iter().filter(|node| Some(&node.id) != overview.told_by.as_ref());
    let told: Vec<i64> = others.filter_map(|node| node.clock_ahead_ms).collect();
    let agreeing = |one: &i64| told.iter().filter(|it| is_usual(**it, *one)).count();
    // Of several the first one.
    let most = told.iter().rev().max_by_key(|one| agreeing(one))?;
    let are_most = agreeing(most) >= 2 && agreeing(most) * 2 > told.len();
    (are_most && !is_usual(*most, 0)).then_some(*most)
}

/// The time by which ages are told: that of most nodes, if the clock of this process is wrong.
fn time_of_nodes(overview: &Overview) -> u64 {
    overview.at_ms.saturating_add_signed(most_ahead(overview).unwrap_or_default())
}

/// Whether two clocks may be so far apart.
fn is_usual(one: i64, other: i64) -> bool {
    one.abs_diff(other) <= USUAL_CLOCK_MS
}

/// Whether a node lives that is down for Consul: none of its data is lost, and nobody gives it up.
fn is_cut_off(overview: &Overview, id: &str) -> bool {
    overview.nodes.iter().any(|node| node.id == *id && node.lost_consul)
}

/// How bad it is that something expires so soon, and the text; `None`: there is time.
fn expiring((what, then): (&str, &str), left_ms: u64) -> Option<(Level, String)> {
    let (level, when) = match left_ms {
        0 => (Level::Error, format!("has expired: {then}")),
        1..DAY_MS => (Level::Error, format!("expires in {} h", left_ms / 3_600_000)),
        DAY_MS..RENEWAL_MS => (Level::Warning, format!("expires in {} d", left_ms / DAY_MS)),
        _ => return None,
    };
    Some((level, format!("{what} {when}")))
}

/// The problem of a certificate for calls between nodes that expires soon.
fn certificate(node: Option<&str>, end_ms: u64, now_ms: u64) -> Option<Problem> {
    let (id, whose) = (node.unwrap_or_default(), node.unwrap_or("this process"));
    let who = if node.is_some() { "other nodes" } else { "nodes" };
    let (what, then) = (format!("the certificate of {whose}"), format!("{who} refuse it"));
    let (level, text) = expiring((&what, &then), end_ms.saturating_sub(now_ms))?;
    let cure = format!(
        "renew the certificate of {whose} (data_tls.cert_file): the new file is read without a restart"
    );
    Some(Problem { level, ..error("certificate_expires", id, text, cure) })
}

/// The problem of certificates for connections to Consul that expire soon.
fn consul_certificate(node: Option<&str>, end: &ConsulExpiry, now_ms: u64) -> Option<Problem> {
    let (id, whose) = (node.unwrap_or_default(), node.unwrap_or("this process"));
    let ConsulExpiry { option, at_ms } = end;
    let (what, then, cure) = match option.starts_with("tls_ca") {
        true => ("the last authority", "it trusts no Consul", "name the new authority in"),
        false => ("the certificate", "Consul refuses it", "renew the certificate in"),
    };
    let what = format!("{what} in {option} of {whose}");
    let (level, text) = expiring((&what, then), at_ms.saturating_sub(now_ms))?;
    let cure = format!("{cure} {option} of {whose}: the new file is read without a restart");
    Some(Problem { level, ..error("consul_certificate_expires", id, text, cure) })
}

fn of_map(overview: &Overview) -> Vec<Problem> {
    let mut found = Vec::from_iter(few_weights(overview));
    let Some(map) = &overview.map else {
        // An unreadable map is told already.
        if !overview.in_touch || overview.leader.is_none() || !overview.unread_map.is_empty() {
            return found;
        }
        let text = "there is no shard map yet".to_owned();
        let cure = "wait for the leader's first map; it needs min_nodes live nodes".to_owned();
        found.push(error("no_map", "", text, cure));
        return found;
    };
    if knows_no_node(overview) {
        return found;
    }
    let is_live = |id: &String| {
        let mut nodes = overview.nodes.iter();
        nodes.any(|node| node.id == *id && node.state != NodeState::Down)
    };
    let live: Vec<bool> = map.nodes.iter().map(is_live).collect();
    let has_live = |places: &[Placed]| places.iter().any(|placed| live[placed.node()]);
    let shards = map.placement.iter().enumerate();
    let without: Vec<usize> =
        shards.filter(|(_, places)| !has_live(places)).map(|(shard, _)| shard).collect();
    if without.is_empty() {
        return found;
    }
    let text = format!("no live node has {}", listed_shards(without.iter()));
    let mut cure = "start the nodes that are down, or give them a way to Consul again".to_owned();
    let leads = overview.leading().is_some() && !overview.has_no_raft_leader && overview.in_touch;
    let may_move = leads && overview.paused.is_none() && overview.frozen.is_empty();
    if may_move && overview.nodes.iter().any(takes_shards) {
        cure.push_str("; after replace_after_s others get their shards, if min_nodes nodes live");
    }
    found.push(error("shards_without_node", "", text, cure));
    found
}

/// Shards have fewer replicas than they should, because nodes have the weight 0 that could have them.
fn few_weights(overview: &Overview) -> Option<Problem> {
    let wanted = overview.map.as_ref()?.replicas;
    let may_have =
        |node: &&NodeOverview| node.state != NodeState::Down && node.mode != Mode::Draining;
    let (without, with): (Vec<_>, Vec<_>) =
        overview.nodes.iter().filter(may_have).partition(|node| node.weight == 0.0);
    if without.is_empty() || with.len() >= wanted {
        return None;
    }
    let text = format!(
        "{} have weight 0: shards have fewer than {wanted} replicas, on {} nodes",
        listed(without.iter().map(|node| &node.id)),
        with.len()
    );
    let set = |id: &str| format!("`consul-ha set-weight {}`", operands(&[id, "1"], ""));
    let cure = format!(
        "give them a weight: {}; or start other nodes",
        listed(without.iter().map(|node| set(&node.id)))
    );
    Some(warning("few_weights", "", text, cure))
}

/// Says of more stores than a text names that they have one problem, instead of the same of each.
fn grouped<'a>(of_stores: impl Iterator<Item = (&'a str, Problem)>) -> Vec<Problem> {
    let mut groups: BTreeMap<_, Vec<(&str, Problem)>> = BTreeMap::new();
    for (store, it) in of_stores {
        let node = if it.of == store { String::new() } else { it.of.clone() };
        groups.entry((it.level, it.problem, node)).or_default().push((store, it));
    }
    let mut found = Vec::new();
    for ((.., of), mut group) in groups {
        if group.len() > NAMED {
            let others = listed(group.drain(1..).map(|(store, _)| store));
            for (_, it) in &mut group {
                it.of.clone_from(&of);
                it.text.push_str(&format!("; the same holds for stores {others}"));
                it.cure.push_str("; likewise for each of the others");
            }
        }
        found.extend(group.into_iter().map(|(_, it)| it));
    }
    found
}

fn of_endpoints(overview: &Overview) -> Vec<Problem> {
    let mut benched: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for it in overview.endpoints.iter().filter(|it| it.state == EndpointState::Benched) {
        benched.entry(&it.address).or_default().push(&it.told_by);
    }
    let problem = |(address, told_by): (&str, Vec<&str>)| {
        let text = format!("{address} does not answer {}", listed(told_by.iter()));
        let cure = "check the Consul agent at that address".to_owned();
        warning("endpoint_benched", address, text, cure)
    };
    benched.into_iter().map(problem).collect()
}

#[cfg(test)]
mod tests;
