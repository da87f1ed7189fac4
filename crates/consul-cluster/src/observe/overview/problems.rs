//! All that is not well in a cluster, with its cure.

use super::{EndpointState, LeaderOverview, NodeOverview, NodeState, Overview, Placed};
use crate::nodes::node::Mode;
use crate::nodes::pause::Pause;
use crate::shell::{self, operand, operands, shell_word};
use crate::stores::reinit::{Remaking, reinit_off};
use crate::stores::{NumbersChanging, ShardAtRisk, StoreFault, StoreOverview, UnreadStores};
use consul_process::os;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

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
    let mut found = of_cluster(overview);
    let most_ahead = most_ahead(overview);
    found.extend(most_ahead.map(|ahead| own_clock(ahead, overview)));
    if let Some(end) = overview.own_certificate_ms {
        found.extend(certificate(None, end, time_of_nodes(overview)));
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

/// Whether the leader's key names none of the nodes, while all of them are seen.
fn is_unknown(leader: &LeaderOverview, overview: &Overview) -> bool {
    let sees_all = overview.hidden.is_empty() && overview.may_hide.is_none();
    sees_all
        && !overview.nodes.is_empty()
        && overview.nodes.iter().all(|node| node.id != leader.node_id)
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
        let (cut_off, gone): (Vec<_>, Vec<_>) =
            overview.frozen.iter().partition(|id| is_cut_off(overview, id));
        let mut cures = Vec::from_iter(way_to_consul(&cut_off));
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
            "`consul-ha {verb} {}` when the work is done; if it does not come back, `consul-ha forget {}`",
            operand(id, "--off"),
            operand(id, "")
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
    } else if let Some(leader) = overview.leader.as_ref().filter(|it| it.leads == Some(false)) {
        let id = &leader.node_id;
        let text =
            format!("{id} has the leader's key and does not lead: it has no proof that it may");
        let cure = format!(
            "wait: when the session of the key has ended, another node leads. After a snapshot of Consul was \
             restored that takes up to 30 s; if none leads then, {}. `consul-ha doctor` checks the nodes' rights",
            ends(leader)
        );
        Some(error("leader_does_not_lead", id, text, cure))
    } else if let Some(leader) = overview.leader.as_ref().filter(|it| is_unknown(it, overview)) {
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

/// Whether it is this process that is wrong, and not the nodes: those which it has asked and which do not talk to it.
struct Strangers<'a> {
    refusing: Vec<&'a NodeOverview>,
    silent: Vec<&'a NodeOverview>,
    /// How many there are with a data plane, beside this process.
    others: usize,
}

impl<'a> Strangers<'a> {
    fn of(overview: &'a Overview) -> Self {
        let own = overview.told_by.as_deref();
        let is_other = |node: &&NodeOverview| {
            node.state != NodeState::Down
                && !node.data_address.is_empty()
                && Some(node.id.as_str()) != own
        };
        let others = || overview.nodes.iter().filter(is_other);
        let silent = others().filter(|node| node.silent.is_some());
        let (refusing, silent) = silent.partition(|node| refuses_ours(node));
        Strangers { refusing, silent, others: others().count() }
    }

    /// A node that refuses another may be wrong itself, but hardly two, or all that an observer has asked.
    fn are_most(&self, nodes: &[&NodeOverview], overview: &Overview) -> bool {
        let is_all_of_observer = overview.told_by.is_none() && nodes.len() == self.others;
        !nodes.is_empty()
            && (is_all_of_observer || nodes.len() >= 2 && nodes.len() * 2 > self.others)
    }

    /// The problem of this process, instead of the same for each node.
    fn problem(&self, overview: &Overview) -> Option<Problem> {
        let why = |nodes: &[&NodeOverview]| {
            let first = nodes.first().and_then(|node| node.silent.clone());
            let names = listed(nodes.iter().map(|node| &node.id));
            format!("{names} ({})", first.unwrap_or_default())
        };
        let (own, whose) = match &overview.told_by {
            Some(id) => (id.as_str(), format!("the cluster_key of {id}")),
            None => ("", "the cluster_key of this program".to_owned()),
        };
        if self.are_most(&self.refusing, overview) {
            let text = format!(
                "{whose} is not that of the nodes: it and theirs are refused: {}",
                why(&self.refusing)
            );
            let cure = match own {
                "" => "give it the nodes' key (`--cluster-key-file`), and start `consul-ha serve` again after a rotation"
                    .to_owned(),
                id => format!("start {id} with the cluster_key of the others"),
            };
            return Some(error("own_key_refused", own, text, cure));
        }
        if self.others >= 2 && self.are_most(&self.silent, overview) {
            let text = format!(
                "most nodes do not answer this process at their data addresses: {}",
                why(&self.silent)
            );
            let cure = "check that this machine reaches these addresses, and that its cluster_key, its data_tls and \
                        its clock are as the nodes have them";
            return Some(error("nodes_silent", own, text, cure.to_owned()));
        }
        None
    }

    /// Whether a problem of this process already tells why a node does not talk to it.
    fn are_said(&self, node: &NodeOverview, overview: &Overview) -> bool {
        let is_in = |nodes: &[&NodeOverview]| nodes.iter().any(|it| it.id == node.id);
        let said = |nodes: &[&NodeOverview]| is_in(nodes) && self.are_most(nodes, overview);
        said(&self.refusing)
            || self.others >= 2 && !self.are_most(&self.refusing, overview) && said(&self.silent)
    }
}

/// Whether it and this process refuse each other's `cluster_key`.
fn refuses_ours(node: &NodeOverview) -> bool {
    node.refuses_key && node.silent.is_some()
}

/// No copy reaches a node whose key the leader refuses, and no write.
fn refuses_key(node: &NodeOverview, overview: &Overview) -> Problem {
    let id = node.id.as_str();
    let (whose, why) = match &node.silent {
        Some(why) => ("our", format!(" ({why})")),
        None => ("the leader's", String::new()),
    };
    let is_of = |of: Option<&String>| of.is_some_and(|of| of == id);
    let leader = overview.leader.as_ref().map(|leader| &leader.node_id);
    let we_lead = leader.is_some() && leader == overview.told_by.as_ref();
    let effect = match node.is_refused_by_leader || we_lead {
        _ if is_of(leader) => ": while it leads, the replicas of stores stay where they are",
        true => ": the leader does not count on its replicas of stores, and gives it no others",
        false => "",
    };
    // The shard map counts it in, as any live node.
    let calls = match node.primaries {
        0 => String::new(),
        _ if effect.is_empty() => String::new(),
        count => format!("; calls about shards whose primary it is fail: {count}"),
    };
    let text = format!("{id} refuses {whose} cluster_key, or we refuse its{why}{effect}{calls}");
    let cure = format!(
        "start {id} with the cluster_key of the others, or this process with theirs; during a rotation each two need \
         one key in common"
    );
    error("key_refused", id, text, cure)
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

/// Says of this machine's clock that it is wrong, instead of the same of each node, if most of these agree. That of an
/// operator does not concern the cluster.
fn own_clock(ahead: i64, overview: &Overview) -> Problem {
    let own = overview.told_by.as_deref();
    let (seconds, side) =
        (ahead.unsigned_abs() as f64 / 1e3, if ahead > 0 { "behind" } else { "ahead of" });
    let (whose, level) = match own {
        Some(id) => (format!("the clock of {id}"), warning as fn(_, &str, _, _) -> Problem),
        None => ("this machine's clock".to_owned(), note as _),
    };
    let text = format!("{whose} is {seconds:.1} s {side} those of the nodes");
    let cure = "synchronize it (NTP)".to_owned();
    level("own_clock", own.unwrap_or_default(), text, cure)
}

/// A node's clock that differs from this machine's, or from most nodes' clocks if this machine's is wrong.
fn of_clock(node: &NodeOverview, most: Option<i64>) -> Option<Problem> {
    let ahead = node.clock_ahead_ms?.saturating_sub(most.unwrap_or_default());
    if is_usual(ahead, 0) {
        return None;
    }
    let (side, seconds) =
        (if ahead > 0 { "ahead of" } else { "behind" }, ahead.unsigned_abs() as f64 / 1e3);
    let (whose, cure) = match most {
        Some(_) => ("most nodes' clocks", "synchronize it (NTP)"),
        None => ("this machine's", "synchronize the clocks of both machines (NTP)"),
    };
    let text = format!("the clock of {} is {seconds:.1} s {side} {whose}", node.id);
    Some(warning("clock", &node.id, text, cure.to_owned()))
}

/// A node that is down: the process may be gone, or its way to Consul.
fn is_down(node: &NodeOverview, overview: &Overview) -> Problem {
    let id = node.id.as_str();
    if node.lost_consul {
        let text = format!("{id} lives, and is down for Consul: it answers at its data address");
        let cure = "check its Consul agent and its way there; it goes on with the shard map that it has. Do not forget it";
        return error("node_lost_consul", id, text, cure.to_owned());
    }
    if let Some(why) = &node.ended {
        let text = format!("{id} has ended, and its process still runs: {why}");
        let cure = format!(
            "mend what it says, and start {id} again; its program sees the event `stopped`"
        );
        return error("node_down", id, text, cure);
    }
    let seconds = node.down_for_ms.unwrap_or_default() / 1000;
    let text = match seconds {
        0 => format!("{id} is down"),
        _ => format!("{id} has been down for {seconds} s"),
    };
    let cure = match may_be_given_up(overview) {
        true => format!("start it, or `consul-ha forget {}`", operand(id, "")),
        false => "start it".to_owned(),
    };
    error("node_down", id, text, cure)
}

/// Whether a node lives that is down for Consul: none of its data is lost, and nobody gives it up.
fn is_cut_off(overview: &Overview, id: &str) -> bool {
    overview.nodes.iter().any(|node| node.id == *id && node.lost_consul)
}

/// The remedy for nodes that live and are down for Consul.
fn way_to_consul<T: ToString>(nodes: &[T]) -> Option<String> {
    let give = || format!("give {} a way to Consul again", listed(nodes.iter().map(T::to_string)));
    (!nodes.is_empty()).then(give)
}

/// Whether a node is down, and nothing else is known of it.
fn is_gone(node: &NodeOverview) -> bool {
    node.state == NodeState::Down && !node.lost_consul && node.ended.is_none()
}

/// Says of more nodes than a text names that they are down, instead of the same of each.
fn many_down(gone: &[&NodeOverview], overview: &Overview) -> Problem {
    let text = format!("{} are down", listed(gone.iter().map(|node| &node.id)));
    let forget = |node: &&NodeOverview| format!("`consul-ha forget {}`", operand(&node.id, ""));
    let cure = match may_be_given_up(overview) {
        true => {
            format!("start them; what is gone for good: {}", listed(gone.iter().map(forget)))
        }
        false => "start them".to_owned(),
    };
    error("node_down", "", text, cure)
}

/// Nodes that do not reach each other although this process and the leader reach both.
fn of_pairs(overview: &Overview) -> Option<Problem> {
    let reached = |id: &str| {
        overview.nodes.iter().find(|node| {
            let is_told = node.silent.is_some() || node.is_unreached_by_leader || node.refuses_key;
            node.id == id && node.state != NodeState::Down && !is_told && lack(node).is_none()
        })
    };
    let mut pairs = BTreeMap::new();
    for node in &overview.nodes {
        for other in node.avoids.iter().filter_map(|id| reached(id)) {
            let is_mutual = other.avoids.contains(&node.id);
            if reached(&node.id).is_some() && !(is_mutual && other.id < node.id) {
                let how =
                    if is_mutual { "and {} do not reach each other" } else { "does not reach {}" };
                let text = format!("{} {}", node.id, how.replace("{}", &other.id));
                pairs.insert((node.id.as_str(), other.id.as_str()), text);
            }
        }
    }
    let (one, other) = pairs.keys().next()?;
    let text =
        format!("{}: of the replicas that both have one counts as lost", listed(pairs.values()));
    let cure = "check the network between these machines, and stop no other node before: writes that need both would fail";
    Some(error("nodes_apart", &format!("{one}, {other}"), text, cure.to_owned()))
}

fn of_node(
    node: &NodeOverview,
    overview: &Overview,
    strangers: &Strangers<'_>,
    are_many_gone: bool,
) -> Vec<Problem> {
    let id = node.id.as_str();
    let mut found = Vec::new();
    match node.state {
        NodeState::Down if are_many_gone && is_gone(node) => {}
        NodeState::Down => found.push(is_down(node, overview)),
        // Its check tells the same.
        NodeState::Unavailable if lack(node).is_some() => {}
        NodeState::Unavailable => {
            let text = format!("{id} lives, and its check warns: {}", node.check_output);
            let cure =
                "do what the check says; if its program does not poll, it is busy or stopped"
                    .to_owned();
            found.push(error("node_unavailable", id, text, cure));
        }
        NodeState::Live if !node.check_output.is_empty() => {
            let text =
                format!("{id} lives, and a check of its agent is critical: {}", node.check_output);
            let cure =
                "mend what the check says, or end the agent's maintenance: `consul maint -disable`"
                    .to_owned();
            found.push(warning("agent_check", id, text, cure));
        }
        NodeState::Live => {}
    }
    let is_said = strangers.are_said(node, overview);
    if node.refuses_key && (node.is_refused_by_leader || !is_said) {
        found.push(refuses_key(node, overview));
    } else if let Some(why) = node.silent.as_ref().filter(|_| !is_said && lack(node).is_none()) {
        let text = format!("{id} lives and does not answer at its data address: {why}");
        let cure = format!(
            "check that other machines reach {}, that cluster_key and data_tls are the same, and that the log of {id} does \
             not say that it lacks file descriptors",
            node.data_address
        );
        found.push(error("node_silent", id, text, cure));
    } else if node.is_unreached_by_leader && !is_said {
        let text = format!("the leader does not reach {id}: it gets no new replicas");
        let cure = format!("check that other machines reach {}", node.data_address);
        found.push(error("node_silent", id, text, cure));
    }
    if let (Some(epoch), Some(lag @ 1..)) = (node.map_epoch, node.map_lag) {
        let newest = epoch + lag;
        let text =
            format!("{id} still has the shard map of epoch {epoch}, the newest one has {newest}");
        let cure = "check its connection to Consul".to_owned();
        found.push(warning("map_lag", id, text, cure));
    }
    if let Some(end) = node.certificate_expires_ms {
        found.extend(certificate(Some(id), end, time_of_nodes(overview)));
    }
    if let Some(mode) = &node.unknown_mode {
        let text = format!("the mode in the key of {id} is {mode}, which counts as active");
        let cure = "set it to active, draining or maintenance".to_owned();
        found.push(warning("unknown_mode", id, text, cure));
    }
    if let Some(why) = &node.cannot_lead {
        found.push(cannot_lead(id, why, overview));
    }
    if let Some(why) = &node.no_history {
        let text = format!("{id} leads, and is not in the history of leaders: {why}");
        let cure = format!(
            "give the token of {id} key:write on the key, or make room there; the leadership does not suffer"
        );
        found.push(warning("history_not_kept", id, text, cure));
    }
    if let Some(rights) = &node.no_rights {
        let text = format!(
            "the token of {id} lacks {rights}: it may not lead, keep its key, or see the others"
        );
        let cure = format!("add these rights to a policy of the token of {id}");
        found.push(warning("token_lacks", id, text, cure));
    }
    if let Some(why) = lack(node) {
        let text = format!("{id} lives and could not accept a connection within the last minute");
        found.push(error("no_descriptors", id, text, why.to_owned()));
    }
    let faults = node.faults.iter().filter(|fault| !is_of_unread_map(fault, overview));
    found.extend(grouped(faults.map(|fault| (fault.store.as_str(), of_fault(node, fault)))));
    found.extend(of_requests(node));
    match node.mode {
        Mode::Active => {}
        Mode::Maintenance => {
            let text = format!("{id} is in maintenance: no requests are routed to it");
            let cure =
                format!("`consul-ha maintenance {}` when the work is done", operand(id, "--off"));
            found.push(note("node_maintenance", id, text, cure));
        }
        Mode::Draining => {
            found.push(draining(node, !overview.unread_stores.is_empty()));
        }
    }
    found
}

/// The lack that keeps a live node from accepting connections, as it tells a caller or, if it can answer none, by its check.
fn lack(node: &NodeOverview) -> Option<&str> {
    let by_check = os::is_lack(&node.check_output).then_some(node.check_output.as_str());
    node.lacking.as_deref().or(by_check.filter(|_| node.state != NodeState::Down))
}

/// Nodes of different releases, as there are in the middle of an upgrade.
fn of_versions(overview: &Overview) -> Option<Problem> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    // Untold numbers of a node are unknown.
    let tells = |it: &&NodeOverview| it.state != NodeState::Down && !it.version.is_empty();
    for node in overview.nodes.iter().filter(tells) {
        versions.entry(&node.version).or_default().push(&node.id);
    }
    if versions.len() < 2 {
        return None;
    }
    let of =
        |(version, nodes): (&&str, &Vec<&str>)| format!("{version} ({})", listed(nodes.iter()));
    let all: Vec<String> = versions.iter().map(of).collect();
    let text = format!("the nodes have different versions: {}", all.join(", "));
    let cure = "finish the upgrade: \"Upgrading\" in docs/operating.md".to_owned();
    Some(note("versions_differ", "", text, cure))
}

/// The problem of a certificate that ends soon.
fn certificate(node: Option<&str>, end_ms: u64, now_ms: u64) -> Option<Problem> {
    let left_ms = end_ms.saturating_sub(now_ms);
    let (id, whose) = (node.unwrap_or_default(), node.unwrap_or("this process"));
    let cure = format!(
        "renew the certificate of {whose} (data_tls.cert_file): the new file is read without a restart"
    );
    if left_ms == 0 {
        let who = if node.is_some() { "other nodes" } else { "nodes" };
        let text = format!("the certificate of {whose} has expired: {who} refuse it");
        return Some(error("certificate_expires", id, text, cure));
    }
    let text = match left_ms / DAY_MS {
        0 => format!("the certificate of {whose} expires in {} h", left_ms / 3_600_000),
        days => format!("the certificate of {whose} expires in {days} d"),
    };
    match left_ms {
        ..DAY_MS => Some(error("certificate_expires", id, text, cure)),
        DAY_MS..RENEWAL_MS => Some(warning("certificate_expires", id, text, cure)),
        _ => None,
    }
}

/// A leader whose writes are refused keeps its lock.
fn cannot_lead(id: &str, why: &str, overview: &Overview) -> Problem {
    let cure = format!("add the right to a policy of the token of {id}");
    match overview.leader.as_ref().is_some_and(|leader| leader.node_id == id) {
        true => {
            let text = format!("{id} leads and may not do a leader's work: {why}");
            error("cannot_lead", id, text, format!("{cure}; until then shards stay where they are"))
        }
        false => {
            let text = format!("{id} leaves the leadership to others: {why}");
            warning("cannot_lead", id, text, cure)
        }
    }
}

/// A fault of a node for a store.
fn of_fault(node: &NodeOverview, fault: &StoreFault) -> Problem {
    let StoreFault { store, functions, why, .. } = fault;
    let id = node.id.as_str();
    if functions.is_empty() {
        let text = format!("{id} cannot use store {store}: {why}");
        let cure = format!("mend what it says, and start {id} again");
        return error("store_unusable", id, text, cure);
    }
    let functions = functions.join(", ");
    let text = format!("{id} does not keep store {store}: its storage fails in {functions}: {why}");
    let cure = "make room on its disk, mend the storage, or see what it waits for; stop no other node before: its \
                replicas are missing until the storage works again, which ends this by itself";
    error("storage_fails", id, text, cure.to_owned())
}

/// Whether a node cannot use a store since it cannot read the map, as this process cannot: that is told once.
fn is_of_unread_map(fault: &StoreFault, overview: &Overview) -> bool {
    let is_ours = |it: &UnreadStores| it.of.as_ref() == Some(&fault.store);
    fault.is_of_map && overview.unread_stores.iter().any(is_ours)
}

/// The requests that a node has yet to take, which takes a moment.
fn of_requests(node: &NodeOverview) -> Vec<Problem> {
    let id = node.id.as_str();
    let pending = |what: &str, cure: &str| {
        let text = format!("{id} has yet to take the request to {what}");
        let cure = format!("wait: a node that hangs takes it later; or {cure} takes it back");
        note("request_pending", id, text, cure)
    };
    let stores = node.asked.reinit.keys().map(|store| {
        pending(&format!("make its replicas of store {store} again"), &reinit_off(id, store))
    });
    let leave = node.asked.leave.as_ref().map(|_| pending("leave", &drain_off(id)));
    let hand_over = node.asked.hand_over.as_ref().map(|it| {
        let to = it.to.as_deref().unwrap_or("another node");
        let what = format!("hand over the leadership to {to}");
        pending(&what, "`consul-ha hand-over --withdraw`")
    });
    leave.into_iter().chain(hand_over).chain(stores).collect()
}

/// The command that ends a drain.
fn drain_off(id: &str) -> String {
    format!("`consul-ha drain {}`", operand(id, "--off"))
}

/// The drains that cannot end, because too few other nodes may have what the nodes have.
fn of_drains(overview: &Overview) -> Vec<Problem> {
    let live = || overview.nodes.iter().filter(|node| node.state != NodeState::Down);
    let draining = |has: fn(&NodeOverview) -> usize| -> Vec<&NodeOverview> {
        live().filter(|node| node.mode == Mode::Draining && has(node) > 0).collect()
    };
    let stuck = |of: &str, nodes: &[&NodeOverview], why: String| {
        let names = listed(nodes.iter().map(|node| &node.id));
        let verb = if nodes.len() == 1 { "cannot drain" } else { "cannot all drain" };
        let off = nodes.first().map(|node| drain_off(&node.id)).unwrap_or_default();
        let cure = format!("start other nodes, or end a drain: {off}");
        error("drain_stuck", of, format!("{names} {verb}: {why}"), cure)
    };
    let mut found = Vec::new();
    let of_map = draining(|node| node.primaries + node.replicas);
    if !of_map.is_empty() && !live().any(|node| node.mode == Mode::Active && node.weight > 0.0) {
        let why = "no live and active node is left to take shards".to_owned();
        found.push(stuck("", &of_map, why));
    }
    let of_stores = draining(|node| node.store_replicas);
    let others = live().filter(|node| node.mode != Mode::Draining && node.weight > 0.0).count();
    if !of_stores.is_empty() {
        let stores = overview.stores.iter().filter(|store| store.replicas > others);
        found.extend(grouped(stores.map(|StoreOverview { name, replicas, .. }| {
            let why = format!(
                "store {name} needs {replicas} nodes for its replicas; others that may have them: {others}"
            );
            (name.as_str(), stuck(name, &of_stores, why))
        })));
    }
    found
}

fn draining(node: &NodeOverview, hides_stores: bool) -> Problem {
    let id = node.id.as_str();
    let off = drain_off(id);
    let (text, cure) = match (node.primaries + node.replicas, node.store_replicas) {
        (0, 0) if hides_stores => (
            format!(
                "{id} has no shards of the map; whether it has replicas of stores is not known"
            ),
            format!("do not stop it before that is known; {off} makes it active"),
        ),
        (0, 0) => (
            format!("{id} is drained: it has no shards"),
            format!("stop it; or {off} makes it active"),
        ),
        (shards, 0) => (
            format!("{id} is draining: {shards} shards are left"),
            format!("stop it when it has no shards; or {off} makes it active"),
        ),
        (shards, replicas) => (
            format!("{id} is draining: {shards} shards and {replicas} replicas of stores are left"),
            format!("stop it when it has none; or {off} makes it active"),
        ),
    };
    note("node_draining", id, text, cure)
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
    let cure = "start the nodes that are down, or give them a way to Consul again; after replace_after_s others get their \
                shards";
    found.push(error("shards_without_node", "", text, cure.to_owned()));
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

/// The remedy for nodes whose replicas of a store's shards are missing; whether new replicas can be made
/// without these.
fn bring_back(
    store: &str,
    shards: &[&ShardAtRisk],
    nodes: &[NodeOverview],
    can_be_made: bool,
) -> String {
    let (mut down, mut gone, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
    let (mut in_doubt, mut other_disk, mut cut_off) = (Vec::new(), Vec::new(), Vec::new());
    let (mut failing, mut unused) = (Vec::new(), Vec::new());
    for id in BTreeSet::from_iter(shards.iter().flat_map(|shard| &shard.missing)) {
        match nodes.iter().find(|node| node.id == *id) {
            None => gone.push(id),
            Some(node) if node.lost_consul => cut_off.push(id),
            Some(node) if node.state == NodeState::Down => down.push(id),
            Some(node) if node.refuses_key => foreign.push(id),
            Some(node) if node.other_disks.contains(store) => other_disk.push(id),
            Some(node) if has_failing(node, store) => failing.push(id),
            Some(node) if node.unused.contains(store) => unused.push(id),
            Some(_) => in_doubt.push(id),
        }
    }
    let (until_disk, has_disk) = match can_be_made {
        true => ("wait until the new disk of", "has the replicas"),
        false => ("put back the disk of", "that the map names, or a backup of it"),
    };
    let cures = [
        (down, "start", ""),
        (gone, "start", "with the data again: no member"),
        (cut_off, "give", "a way to Consul again"),
        (foreign, "start", "with the cluster_key of the others"),
        (other_disk, until_disk, has_disk),
        (failing, "mend the storage of", "or make room there: nothing of it is lost"),
        (unused, "let the program of", "use the store again: it lives without it"),
        (in_doubt, "wait for the records of", "or see the log there"),
    ];
    let cures = cures.into_iter().filter(|(ids, ..)| !ids.is_empty());
    let cure = |(ids, before, after): (Vec<&String>, &str, &str)| {
        format!("{before} {} {after}", listed(ids.iter())).trim().to_owned()
    };
    cures.map(cure).collect::<Vec<_>>().join("; ")
}

/// The calls that fail for lack of these replicas, at the end of a sentence.
fn refused(shards: &[&ShardAtRisk]) -> &'static str {
    let writes = shards.iter().any(|shard| !shard.takes_writes);
    let reads = shards.iter().any(|shard| !shard.takes_reads);
    match (writes, reads) {
        (true, true) => "; writes and reads are refused",
        (true, false) => "; writes are refused",
        (false, true) => "; reads are refused",
        (false, false) => "",
    }
}

/// Whether a node lives and its storage of a store fails.
fn has_failing(node: &NodeOverview, store: &str) -> bool {
    node.state != NodeState::Down && node.faults.iter().any(|fault| fault.store == store)
}

/// When a store has all replicas again without the nodes that are missing. While their storage fails they live, and keep
/// their replicas.
fn later(store: &StoreOverview, shards: &[&ShardAtRisk], overview: &Overview) -> String {
    let missing = BTreeSet::from_iter(shards.iter().flat_map(|shard| &shard.missing));
    let fails = |id: &str| {
        overview.nodes.iter().any(|node| node.id == id && has_failing(node, &store.name))
    };
    let may_have = |node: &&NodeOverview| {
        node.state != NodeState::Down
            && node.mode != Mode::Draining
            && node.weight > 0.0
            && !fails(&node.id)
    };
    let others = overview.nodes.iter().filter(may_have).count();
    if overview.paused.is_some() {
        return "`consul-ha resume` lets others get new replicas, if there are enough".to_owned();
    }
    if others < store.replicas {
        let needed = store.replicas;
        return format!(
            "no other node can take their place: {needed} are needed, {others} are there"
        );
    }
    let from = match overview.frozen.is_empty() {
        true if missing.iter().all(|id| fails(id)) => "or stop it: after replace_after_s",
        true => "after replace_after_s",
        false => "after `consul-ha thaw`",
    };
    format!("{from} others get new replicas")
}

/// The command that comes first where shards are to go to other nodes: a frozen map gives them nothing.
fn thaw(overview: &Overview) -> &'static str {
    if overview.frozen.is_empty() { "" } else { "`consul-ha thaw`, and " }
}

/// The command that accepts the loss of a shard's replicas.
fn accept_loss(store: &str, shard: u32, flags: &str) -> String {
    format!("`consul-ha accept-loss {}`", operands(&[store, &shard.to_string()], flags))
}

/// The shards of a store that have lost acknowledged writes if nothing comes back.
fn shards_at_risk(store: &StoreOverview, lost: &[&ShardAtRisk], overview: &Overview) -> Problem {
    let name = store.name.as_str();
    let shards = listed_shards(lost.iter().map(|shard| shard.shard));
    let text = format!(
        "store {name}: too few replicas of {shards} are left to make new ones without the loss of \
         acknowledged writes{}",
        refused(lost)
    );
    let mut cure = bring_back(name, lost, &overview.nodes, false);
    let is_whole = |id: &String| {
        let is_failing = |node: &NodeOverview| node.id == *id && has_failing(node, name);
        is_cut_off(overview, id) || overview.nodes.iter().any(is_failing)
    };
    let missing = || lost.iter().flat_map(|shard| &shard.missing);
    let mut given_up = lost.iter().filter(|shard| !shard.missing.iter().all(is_whole));
    if let Some(first) = given_up.next().filter(|_| may_be_given_up(overview)) {
        let lives = |id: &String| {
            overview.nodes.iter().any(|it| it.id == *id && it.state != NodeState::Down)
        };
        let thaw = thaw(overview);
        let force = match missing().any(lives) {
            true => ", with --force for a node that lives",
            false => "",
        };
        let others: Vec<u32> = given_up.map(|shard| shard.shard).collect();
        let likewise = match &others[..] {
            [] => String::new(),
            others => format!(", and likewise for {}", listed_shards(others.iter())),
        };
        let (whole, gone): (Vec<_>, Vec<_>) = first.missing.iter().partition(|id| is_whole(id));
        let alone: Vec<String> = match whole.is_empty() {
            true => Vec::new(),
            false => gone.iter().map(|id| format!("--node={}", shell_word(id))).collect(),
        };
        cure.push_str(&format!(
            "; what is lost for good: {thaw}{}{likewise}{force}",
            accept_loss(name, first.shard, &alone.join(" "))
        ));
        if !store.is_open {
            let store = operand(name, "");
            cure.push_str(&format!(
                "; if nobody uses the store any more: `consul-ha forget-store {store}`"
            ));
        }
    }
    error("shard_at_risk", name, text, cure)
}

fn of_store(store: &StoreOverview, overview: &Overview) -> Vec<Problem> {
    let name = store.name.as_str();
    if !overview.in_touch && overview.nodes.is_empty() {
        let text = format!(
            "what the shards of store {name} need is not known: this process knows no node yet"
        );
        let cure = "wait until Consul answers this process".to_owned();
        return vec![error("stores_unknown", name, text, cure)];
    }
    if knows_no_node(overview) {
        return Vec::new();
    }
    // An operator wanted it so.
    let is_remade = |shard: &&ShardAtRisk| {
        !shard.is_short() && shard.missing.iter().all(|id| store.remaking.contains_key(id))
    };
    let at_risk = store.at_risk.iter().filter(|shard| !is_remade(shard));
    let (lost, fewer): (Vec<_>, Vec<_>) = at_risk.partition(|shard| shard.left < shard.needed);
    let mut found = Vec::new();
    if !lost.is_empty() {
        found.push(shards_at_risk(store, &lost, overview));
    }
    let (refusing, fewer): (Vec<_>, Vec<_>) = fewer.into_iter().partition(|shard| shard.is_short());
    for (shards, level) in [(refusing, Level::Error), (fewer, Level::Warning)] {
        if shards.is_empty() {
            continue;
        }
        let named = listed_shards(shards.iter().map(|shard| shard.shard));
        let text = format!("store {name}: replicas of {named} are missing{}", refused(&shards));
        let cure = format!(
            "{}; {}",
            bring_back(name, &shards, &overview.nodes, true),
            later(store, &shards, overview)
        );
        found.push(Problem { level, ..warning("replicas_missing", name, text, cure) });
    }
    if store.vacant > 0 && store.changing.is_none() {
        let StoreOverview { vacant, replicas, .. } = store;
        let text = format!("store {name}: no node is there for {vacant} of its replicas");
        let cure = format!(
            "start a node more: each shard has {replicas} replicas on as many nodes; the next loss may stop writes"
        );
        found.push(warning("replicas_vacant", name, text, cure));
    }
    if let Some(first) = store.unrecovered.first() {
        let count = store.unrecovered.len();
        let text = format!(
            "store {name}: Consul went back; the leader has yet to ask who has {count} of its shards"
        );
        let mut cure =
            "start the nodes that are down or give them a way to Consul again, and mend storages that fail: enough holders \
             of each shard have to answer"
                .to_owned();
        if may_be_given_up(overview) {
            let thaw = thaw(overview);
            cure.push_str(&format!(
                "; if one is lost for good, {thaw}{}, and likewise for each other shard that it has had",
                accept_loss(name, *first, "")
            ));
        }
        found.push(error("store_unrecovered", name, text, cure));
    }
    if let Some(NumbersChanging { shards, waits_for }) = &store.changing {
        let StoreOverview { replicas, write_quorum, read_quorum, .. } = store;
        let text = format!(
            "store {name}: {shards} of its shards have not {replicas} replicas, write_quorum {write_quorum} and \
             read_quorum {read_quorum} yet: {waits_for}"
        );
        let cure = "wait; start the nodes that are away, or as many as it needs".to_owned();
        found.push(note("store_changing", name, text, cure));
    }
    for (id, Remaking { left, waits_for, .. }) in &store.remaking {
        let mut text = format!(
            "store {name}: {id} makes its replicas again, one after the other, as an operator has ordered: {left} are left, and do \
             not move before"
        );
        if !waits_for.is_empty() {
            text.push_str(&format!("; the next one waits: {waits_for}"));
        }
        let cure = format!("wait; {} leaves the rest as it is", reinit_off(id, name));
        found.push(note("replicas_made_again", id, text, cure));
    }
    found
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

fn of_waiting((store, why): (&String, &String)) -> Problem {
    let text = format!("store {store} has no map yet: the first one waits: {why}");
    let cure = format!(
        "wait, or start the nodes that are missing; one whose storage cannot be opened says why in its log: mend that, or \
         stop it. If nobody uses the store any more: `consul-ha forget-store {}`",
        operand(store, "")
    );
    warning("store_waits", store, text, cure)
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
