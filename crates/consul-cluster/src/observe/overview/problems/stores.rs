//! The problems of the replicas of stores.

use super::{
    Cure, Level, Problem, error, is_cut_off, knows_no_node, listed_shards, may_be_given_up, note,
    warning,
};
use crate::nodes::node::Mode;
use crate::observe::overview::{NodeOverview, NodeState, Overview};
use crate::shell::{operand, operands, shell_word};
use crate::stores::reinit::{Remaking, reinit_off};
use crate::stores::{NumbersChanging, ShardAtRisk, StoreFault, StoreOverview, UnreadStores};
use std::collections::BTreeSet;

/// A fault of a node for a store.
pub(super) fn of_fault(node: &NodeOverview, fault: &StoreFault) -> Problem {
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
pub(super) fn is_of_unread_map(fault: &StoreFault, overview: &Overview) -> bool {
    let is_ours = |it: &UnreadStores| it.of.as_ref() == Some(&fault.store);
    fault.is_of_map && overview.unread_stores.iter().any(is_ours)
}

/// The remedy for nodes whose replicas of a store's shards are missing; whether new replicas can be made
/// without these.
pub(super) fn bring_back(
    store: &str,
    shards: &[&ShardAtRisk],
    nodes: &[NodeOverview],
    can_be_made: bool,
) -> String {
    let cure = |id: &String| {
        let Some(node) = nodes.iter().find(|node| node.id == *id) else {
            return Cure::StartWithData;
        };
        let otherwise = || match node.state {
            NodeState::Down => Cure::Start,
            _ if node.refuses_key => Cure::StartWithKey,
            _ if node.other_disks.contains(store) && can_be_made => Cure::WaitForNewDisk,
            _ if node.other_disks.contains(store) => Cure::PutDiskBack,
            _ if has_failing(node, store) => Cure::MendStorage,
            _ if node.unused.contains(store) => Cure::UseStore,
            _ => Cure::WaitForRecords,
        };
        Cure::of_answering(node).unwrap_or_else(otherwise)
    };
    let missing = BTreeSet::from_iter(shards.iter().flat_map(|shard| &shard.missing));
    Cure::listed(missing.into_iter().map(|id| (id, cure(id)))).join("; ")
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

pub(super) fn of_store(store: &StoreOverview, overview: &Overview) -> Vec<Problem> {
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

pub(super) fn of_waiting((store, why): (&String, &String)) -> Problem {
    let text = format!("store {store} has no map yet: the first one waits: {why}");
    let cure = format!(
        "wait, or start the nodes that are missing; one whose storage cannot be opened says why in its log: mend that, or \
         stop it. If nobody uses the store any more: `consul-ha forget-store {}`",
        operand(store, "")
    );
    warning("store_waits", store, text, cure)
}
