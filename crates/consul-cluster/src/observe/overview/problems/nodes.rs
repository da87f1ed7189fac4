//! The problems of nodes.

use super::stores::{is_of_unread_map, of_fault};
use super::{
    Problem, certificate, consul_certificate, error, grouped, is_usual, listed, may_be_given_up,
    note, time_of_nodes, warning,
};
use crate::nodes::node::Mode;
use crate::observe::overview::{NodeOverview, NodeState, Overview};
use crate::shell::operand;
use crate::stores::StoreOverview;
use crate::stores::reinit::reinit_off;
use consul_process::os;
use std::collections::BTreeMap;

/// Whether it is this process that is wrong, and not the nodes: those which it has asked and which do not talk to it.
pub(super) struct Strangers<'a> {
    refusing: Vec<&'a NodeOverview>,
    silent: Vec<&'a NodeOverview>,
    /// How many there are with a data plane, beside this process.
    others: usize,
}

impl<'a> Strangers<'a> {
    pub(super) fn of(overview: &'a Overview) -> Self {
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
    pub(super) fn problem(&self, overview: &Overview) -> Option<Problem> {
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
         one key in common; a node of another cluster needs another nodes_prefix"
    );
    error("key_refused", id, text, cure)
}

/// Says of this machine's clock that it is wrong, instead of the same of each node, if most of these agree. That of an
/// operator does not concern the cluster.
pub(super) fn own_clock(ahead: i64, overview: &Overview) -> Problem {
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
pub(super) fn of_clock(node: &NodeOverview, most: Option<i64>) -> Option<Problem> {
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
    if let Some(who) = node.who_may_answer() {
        let text = format!("{id} is down, and a process answers at its data address, which {who}");
        let mut cure = format!(
            "see which process has {}: if it is {id}, mend what it says, and give it a way to Consul again",
            node.data_address
        );
        if may_be_given_up(overview) {
            let forget = operand(id, "--force");
            cure.push_str(&format!(
                "; if it is another one, and {id} is gone for good, `consul-ha forget {forget}`"
            ));
        }
        return error("node_down", id, text, cure);
    }
    if node.starts_again {
        let text = format!(
            "{id} is down, and a new start of it answers at its data address: it has yet to join"
        );
        let cure =
            format!("wait: it joins within seconds, or the log of {id} says why it does not");
        return error("node_down", id, text, cure);
    }
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
        true => format!("start it, or {}", forget(id)),
        false => "start it".to_owned(),
    };
    error("node_down", id, text, cure)
}

/// Whether a node is down, and nothing else is known of it.
pub(super) fn is_gone(node: &NodeOverview) -> bool {
    node.state == NodeState::Down && !node.lost_consul && node.ended.is_none() && !node.is_new
}

/// The command that removes a node that is gone for good.
pub(super) fn forget(id: &str) -> String {
    format!("`consul-ha forget {}`", operand(id, ""))
}

/// Says of more nodes than a text names that they are down, instead of the same of each.
pub(super) fn many_down(gone: &[&NodeOverview], overview: &Overview) -> Problem {
    let text = format!("{} are down", listed(gone.iter().map(|node| &node.id)));
    let cure = match may_be_given_up(overview) {
        true => {
            let commands = listed(gone.iter().map(|node| forget(&node.id)));
            format!("start them; what is gone for good: {commands}")
        }
        false => "start them".to_owned(),
    };
    error("node_down", "", text, cure)
}

/// Nodes that do not reach each other although this process and the leader reach both.
pub(super) fn of_pairs(overview: &Overview) -> Option<Problem> {
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

/// The problem of its state in Consul.
fn of_state(node: &NodeOverview, overview: &Overview, are_many_gone: bool) -> Option<Problem> {
    let id = node.id.as_str();
    match node.state {
        NodeState::Down if node.is_new || are_many_gone && is_gone(node) => None,
        NodeState::Down => Some(is_down(node, overview)),
        // Its check tells the same.
        NodeState::Unavailable if lack(node).is_some() => None,
        NodeState::Unavailable => {
            let text = format!("{id} lives, and its check warns: {}", node.check_output);
            let cure =
                "do what the check says; if its program does not poll, it is busy or stopped"
                    .to_owned();
            Some(error("node_unavailable", id, text, cure))
        }
        NodeState::Live if !node.check_output.is_empty() => {
            let text =
                format!("{id} lives, and a check of its agent is critical: {}", node.check_output);
            let cure =
                "mend what the check says, or end the agent's maintenance: `consul maint -disable`"
                    .to_owned();
            Some(warning("agent_check", id, text, cure))
        }
        NodeState::Live => None,
    }
}

/// Who does not reach a node that lives.
fn of_data_address(
    node: &NodeOverview,
    overview: &Overview,
    strangers: &Strangers<'_>,
) -> Option<Problem> {
    let id = node.id.as_str();
    let is_said = strangers.are_said(node, overview);
    if node.refuses_key && (node.is_refused_by_leader || !is_said) {
        Some(refuses_key(node, overview))
    } else if let Some(why) = node.silent.as_ref().filter(|_| !is_said && lack(node).is_none()) {
        let text =
            format!("{id} is live in Consul, and does not answer at its data address: {why}");
        let cure = format!(
            "check that its process runs, whose end Consul does not notice while its token lacks service:write, that other \
             machines reach {}, that cluster_key and data_tls are the same, and that \
             the log of {id} does not say that it lacks file descriptors",
            node.data_address
        );
        Some(error("node_silent", id, text, cure))
    } else if node.is_unreached_by_leader && !is_said {
        let text = format!("the leader does not reach {id}: it gets no new replicas");
        let cure = format!("check that other machines reach {}", node.data_address);
        Some(error("node_silent", id, text, cure))
    } else {
        None
    }
}

pub(super) fn of_node(
    node: &NodeOverview,
    overview: &Overview,
    strangers: &Strangers<'_>,
    are_many_gone: bool,
) -> Vec<Problem> {
    let id = node.id.as_str();
    let mut found = Vec::from_iter(of_state(node, overview, are_many_gone));
    found.extend(of_data_address(node, overview, strangers));
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
    if let Some(end) = &node.consul_expiry {
        found.extend(consul_certificate(Some(id), end, time_of_nodes(overview)));
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
    if let Some(why) = &node.unknown_token {
        let text = format!(
            "Consul does not know the token of {id}, which was deleted or has expired ({why}): it may not lead, keep its key, \
             or see the others, and Consul does not notice its death"
        );
        let cure = format!(
            "give {id} another token: what is in its token_file is read again, the option token needs a restart"
        );
        found.push(error("token_unknown", id, text, cure));
    } else if let Some(rights) = &node.no_rights {
        let hides_death = rights.contains("service:write");
        let death = if hides_death { ", and Consul does not notice its death" } else { "" };
        let text = format!(
            "the token of {id} lacks {rights}: it may not lead, keep its key, or see the others{death}"
        );
        let cure = format!("add these rights to a policy of the token of {id}");
        found.push(warning("token_lacks", id, text, cure));
    }
    if let Some(why) = &node.unusable_files {
        let text = format!(
            "{id} cannot use files that have changed, and goes on with the last ones: {why}"
        );
        let cure = format!(
            "replace them with others that it can use, which it reads within a second; until then it does not start again: \
             do not stop {id}"
        );
        found.push(warning("files_unusable", id, text, cure));
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
pub(super) fn of_versions(overview: &Overview) -> Option<Problem> {
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
pub(super) fn of_drains(overview: &Overview) -> Vec<Problem> {
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
