//! The verbs that change something. Each looks first, so that a refusal says how the cluster is.

use super::arguments::{
    AcceptLoss, Change, Consent, Drain, Forget, ForgetStore, HandOver, Leave, Loss, Maintenance,
    OfNode, Pause, Reinit, SetWeight, StoreSet, Thaw,
};
use super::connection::{Session, check_node, check_node_or_kept};
use super::failure::Failure;
use super::output::{Output, counted, number, say};
use super::signals::Signals;
use super::wait::{Orders, Seen, during_wait, has_taken, lost_data, until_empty, until_gone};
use super::words;
use consul_api::value::shape::unknown;
use consul_cluster::shell::{operand, shell_word};
use consul_cluster::stores::Quorums;
use consul_cluster::stores::outside::{Numbers, NumbersChange};
use consul_cluster::stores::reinit as remake;
use consul_cluster::{Asked, Cluster, Forgotten, Mode, Node, Request, Snapshot, Unchanged, stores};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pause between two looks for a short wait.
const SHORT_PAUSE: Duration = Duration::from_millis(200);

/// How long a node may take to take a request from its key, in seconds.
const TAKEN_WITHIN: u64 = 15;

/// The cluster as it is now, and the condition that the operator has set.
async fn looked(
    session: &Session,
    change: &Change,
) -> Result<(Arc<Cluster>, Option<Unchanged>), Failure> {
    let cluster = session.look().await?;
    let condition = match change.expect_epoch {
        Some(epoch) => Some(cluster.at_epoch(epoch).await?),
        None => None,
    };
    Ok((cluster, condition))
}

/// `drain`
pub async fn drain(session: &Session, drain: &Drain, output: Output) -> Result<(), Failure> {
    let (node, mode) = (&drain.of.node, if drain.off { Mode::Active } else { Mode::Draining });
    let (cluster, condition) = looked(session, &drain.of.change).await?;
    let snapshot = cluster.snapshot();
    let is_there = check_node_or_kept(&snapshot, node)?;
    if drain.wait && !is_there {
        return Err(Failure::Refused(format!("{node} is stopped: a wait for it would not end")));
    }
    let had = mode_of(&snapshot, node);
    match (drain.off, had) {
        (true, Mode::Maintenance) => {
            let why = format!("{node} does not drain, it is in maintenance");
            return Err(ends_otherwise(&why, "maintenance", node));
        }
        (true, _) => {}
        (false, was) => {
            if was == Mode::Maintenance {
                say(&format!("consul-ha: {node} is in maintenance, which the drain ends"));
            }
            if is_there {
                warn_of_obstacles(&cluster, node, drain.wait).await?;
            }
        }
    }
    let is_dry = drain.of.change.dry_run;
    let waits = drain.wait && !is_dry;
    let seen = if waits { Some(Seen::of(&cluster, node).await?) } else { None };
    set_mode(session, &cluster, (condition.as_ref(), is_there), &drain.of, (had, mode)).await?;
    if let Some(seen) = seen {
        let done = until_empty(session, node, seen, drain.limit, output).await;
        let off = operand(node, "--off");
        done.map_err(|it| it.after(&format!("{node} drains: `consul-ha drain {off}` ends that")))?;
    }
    let text = match (drain.off, waits) {
        (true, _) => format!("{node} gets shards again"),
        (false, true) => format!("{node} has no shard"),
        (false, false) => format!("{node} drains"),
    };
    let text = text + when(is_there);
    output.done(session, &text, json!({ "node": node, "mode": mode.name() }), is_dry).await
}

/// When a change of a node's mode takes effect.
fn when(is_there: bool) -> &'static str {
    if is_there { "" } else { ", when it starts" }
}

fn mode_of(snapshot: &Snapshot, node: &str) -> Mode {
    let kept = || snapshot.kept_modes.get(node).copied().unwrap_or_default();
    snapshot.nodes.get(node).map_or_else(kept, |node| node.record.mode)
}

/// The refusal to end one mode of a node with the verb of another.
fn ends_otherwise(why: &str, verb: &str, node: &str) -> Failure {
    Failure::Refused(format!("{why}: `consul-ha {verb} {}` ends that", operand(node, "--off")))
}

/// Why no node leads when this one may not; `None`: another one may.
fn leaderless(snapshot: &Snapshot, node: &str) -> Option<String> {
    let mut others = snapshot.live().map(|node| &node.record);
    let may_lead = others.any(|it| it.id != node && it.mode == Mode::Active);
    let leads = snapshot.leader.as_ref().is_some_and(|leader| leader.node_id == node);
    (leads && !may_lead)
        .then(|| format!("no other node may lead: without {node} there is no leader"))
}

/// The stores whose replicas a node keeps, because too few other nodes may have them.
async fn kept_stores(cluster: &Cluster, node: &str) -> Vec<String> {
    let needed = match stores::outside::needed_nodes(cluster, node).await {
        Ok(needed) => needed,
        Err(error) => {
            return vec![format!(
                "the maps of the stores cannot be read: {}",
                words::message(&error)
            )];
        }
    };
    let snapshot = cluster.snapshot();
    let others = snapshot.live().map(|node| &node.record);
    let others = others.filter(|it| it.id != node && it.may_get_shards()).count();
    let kept = |(store, replicas): (String, usize)| {
        let needed = counted(replicas, "node");
        format!(
            "store {store} needs {needed} for its replicas, {others} would be left: {node} keeps them"
        )
    };
    needed.into_iter().filter(|(_, replicas)| others < *replicas).map(kept).collect()
}

/// Says why a drain may not end, and refuses to wait for a drain that cannot end.
async fn warn_of_obstacles(cluster: &Cluster, node: &str, waits: bool) -> Result<(), Failure> {
    let snapshot = cluster.snapshot();
    let mut others = snapshot.live().map(|node| &node.record);
    let takes = others.any(|it| it.id != node && it.mode == Mode::Active && it.weight > 0.0);
    let mut obstacles = Vec::new();
    if !takes {
        obstacles.push(format!("no other node is live and active: {node} keeps its shards"));
    }
    obstacles.extend(kept_stores(cluster, node).await);
    if !snapshot.frozen.is_empty() {
        let lost = snapshot.frozen.join(", ");
        obstacles.push(format!("the shard map is frozen since {lost} vanished: see `thaw`"));
    }
    if let Some(pause) = &snapshot.paused {
        obstacles.push(format!("moves are paused by {}: `consul-ha resume` ends that", pause.by));
    }
    if snapshot.leader.is_none() {
        obstacles.push("there is no leader, which would move shards".to_owned());
    }
    obstacles.extend(leaderless(&snapshot, node));
    if waits && !obstacles.is_empty() {
        return Err(Failure::Refused(obstacles.join("; ")));
    }
    obstacles.iter().for_each(|it| say(&format!("consul-ha: {it}")));
    Ok(())
}

/// Sets the mode of a node, or that of its next start if it is not there.
async fn set_mode(
    session: &Session,
    cluster: &Cluster,
    (condition, is_there): (Option<&Unchanged>, bool),
    of: &OfNode,
    (seen, mode): (Mode, Mode),
) -> Result<(), Failure> {
    if is_there && !is_live(&cluster.snapshot(), &of.node) {
        say(&format!("consul-ha: {} is down: its next start takes the mode", of.node));
    }
    let key = session.key_of(&of.node, is_there);
    let set = cluster.set_mode_while(condition, &of.node, Some(seen), mode);
    session.written(&key, of.change.dry_run, set).await.map(|_| ())
}

/// `maintenance`
pub async fn maintenance(
    session: &Session,
    maintenance: &Maintenance,
    output: Output,
) -> Result<(), Failure> {
    let Maintenance { of, off } = maintenance;
    let mode = if *off { Mode::Active } else { Mode::Maintenance };
    let (cluster, condition) = looked(session, &of.change).await?;
    let snapshot = cluster.snapshot();
    let is_there = check_node_or_kept(&snapshot, &of.node)?;
    let had = mode_of(&snapshot, &of.node);
    if had == Mode::Draining {
        return Err(ends_otherwise(&format!("{} drains", of.node), "drain", &of.node));
    }
    if let Some(why) = leaderless(&snapshot, &of.node).filter(|_| !off) {
        say(&format!("consul-ha: {why}"));
    }
    set_mode(session, &cluster, (condition.as_ref(), is_there), of, (had, mode)).await?;
    let state = if *off { "gets requests again" } else { "is in maintenance" };
    let json = json!({ "node": of.node, "mode": mode.name() });
    let text = format!("{} {state}{}", of.node, when(is_there));
    output.done(session, &text, json, of.change.dry_run).await
}

/// `set-weight`
pub async fn set_weight(
    session: &Session,
    given: &SetWeight,
    output: Output,
) -> Result<(), Failure> {
    let SetWeight { of: OfNode { node, change }, weight, .. } = given;
    let (cluster, condition) = looked(session, change).await?;
    let snapshot = cluster.snapshot();
    let is_kept = snapshot.weights.contains_key(node) && !snapshot.nodes.contains_key(node);
    let is_there = if is_kept { false } else { check_node_or_kept(&snapshot, node)? };
    let of_node = snapshot.nodes.get(node);
    let takes_nothing = |it: &Node| it.record.id == *node || it.record.weight == 0.0;
    if *weight == Some(0.0) && snapshot.live().all(takes_nothing) {
        say(&format!("consul-ha: no other live node has a weight: {node} keeps its shards"));
    }
    let before = match change.dry_run {
        true => snapshot.set_weight_of(node),
        false => cluster.set_weight(condition.as_ref(), node, *weight).await?,
    };
    let is_live = of_node.is_some_and(|node| node.is_live);
    if is_live && !change.dry_run {
        let end = Instant::now() + Duration::from_secs(TAKEN_WITHIN);
        loop {
            let weighed = weight_of(session, node, *weight).await;
            match weighed.map_err(|it| it.after("the weight stays set"))? {
                Weighed::Taken => break,
                Weighed::Replaced(other) => {
                    let other = other.map_or("that of its configuration".to_owned(), number);
                    return Err(Failure::Refused(format!(
                        "another operator has changed the weight of {node} meanwhile: it is to have {other}"
                    )));
                }
                Weighed::Waits => {}
            }
            if Instant::now() >= end {
                return Err(Failure::Limit(format!(
                    "{node} has not taken the weight within {TAKEN_WITHIN} s: it hangs, it cannot write its key, or its \
                     release does not know it; the weight stays set"
                )));
            }
            tokio::time::sleep(SHORT_PAUSE).await;
        }
    }
    let text = match weight {
        Some(weight) => format!("{node} has weight {}", number(*weight)),
        None => format!("{node} has the weight of its configuration"),
    };
    let text = text + when(is_there && is_live);
    let json = json!({ "node": node, "weight": weight, "before": before });
    match before == *weight && change.dry_run {
        true => output.unchanged(&text, json, true),
        false => output.done(session, &text, json, change.dry_run).await,
    }
}

/// How far a weight is that an operator has set.
enum Weighed {
    /// The node shows it, or has gone meanwhile.
    Taken,
    /// Somebody has set this one since, or has ended it.
    Replaced(Option<f64>),
    Waits,
}

async fn weight_of(session: &Session, node: &str, weight: Option<f64>) -> Result<Weighed, Failure> {
    let Some(cluster) = during_wait(session.look().await)? else { return Ok(Weighed::Waits) };
    let snapshot = cluster.snapshot();
    let set = snapshot.weights.get(node).copied();
    let is_live = snapshot.nodes.get(node).is_some_and(|node| node.is_live);
    Ok(match set == weight {
        false => Weighed::Replaced(set),
        true if !is_live || snapshot.has_taken_weight(node, weight) => Weighed::Taken,
        true => Weighed::Waits,
    })
}

/// `hand-over`
pub async fn hand_over(session: &Session, given: &HandOver, output: Output) -> Result<(), Failure> {
    let (cluster, condition) = looked(session, &given.change).await?;
    let snapshot = cluster.snapshot();
    let to = given.node.as_deref();
    to.map_or(Ok(()), |to| check_node(&snapshot, to))?;
    let Some(leader) = &snapshot.leader else {
        return Err(Failure::Refused("there is no leader".to_owned()));
    };
    let from = &leader.node_id;
    if given.withdraw {
        let how = (condition.as_ref(), given.change.dry_run);
        return withdraw_hand_over(session, &cluster, how, (from, output)).await;
    }
    if to == Some(from) {
        let (text, json) =
            (format!("{from} is the leader"), json!({ "from": from, "leader": from }));
        return output.unchanged(&text, json, given.change.dry_run);
    }
    let mut others = snapshot.live().map(|node| &node.record);
    let may_lead = |id: &str| id != from && to.is_none_or(|to| to == id);
    if !others.any(|it| it.mode == Mode::Active && may_lead(&it.id)) {
        let who = to.unwrap_or("no other node");
        let why = if to.is_some() { "is not live and active" } else { "is live and active" };
        return Err(Failure::Refused(format!("{who} {why}: {from} stays the leader")));
    }
    let mut signals = Signals::new()?;
    let ask = cluster.ask_hand_over(condition.as_ref(), to);
    let key = session.key_of(from, true);
    let Some(asked) = session.written(&key, given.change.dry_run, ask).await? else {
        let text = format!("{from} hands over to {}", to.unwrap_or("another node"));
        return output.done(session, &text, json!({ "from": from, "to": to }), true).await;
    };
    let next = next_leader(session, &leader.session_id, given.limit);
    let Some(next) = asked_wait(&cluster, &asked, &mut signals, next).await? else {
        return Err(not_taken(&cluster, &asked, given.limit).await);
    };
    if to.is_some_and(|to| to != next) {
        let why = format!("{next} has become the leader, not {}", to.unwrap_or_default());
        return Err(Failure::Refused(why));
    }
    output
        .done(
            session,
            &format!("{next} is the leader"),
            json!({ "from": from, "leader": next }),
            false,
        )
        .await
}

/// The leader after the one with this session; `None`: there is none within the limit.
async fn next_leader(
    session: &Session,
    session_id: &str,
    limit: u64,
) -> Result<Option<String>, Failure> {
    let end = Instant::now() + Duration::from_secs(limit);
    loop {
        tokio::time::sleep(SHORT_PAUSE).await;
        let now = during_wait(session.look().await)?.and_then(|it| it.snapshot().leader.clone());
        match now {
            Some(now) if now.session_id != session_id => return Ok(Some(now.node_id)),
            _ if Instant::now() < end => {}
            _ => return Ok(None),
        }
    }
}

/// `hand-over --withdraw`
async fn withdraw_hand_over(
    session: &Session,
    cluster: &Cluster,
    (condition, is_dry): (Option<&Unchanged>, bool),
    (from, output): (&str, Output),
) -> Result<(), Failure> {
    let snapshot = cluster.snapshot();
    let asked = snapshot.nodes.get(from).and_then(|node| node.record.request.clone());
    let hand_over = asked.and_then(|asked| asked.hand_over);
    let request = Request { hand_over, ..Request::default() };
    let is_pending = request.hand_over.is_some();
    let json = json!({ "from": from, "was_asked": is_pending });
    if !is_pending {
        return output.unchanged(&format!("{from} is not asked to hand over"), json, is_dry);
    }
    let withdraw = cluster.withdraw(condition, from, &request);
    session.written(&session.key_of(from, true), is_dry, withdraw).await?;
    let text = format!("the request to {from} to hand over is withdrawn");
    output.done(session, &text, json, is_dry).await
}

/// A wait for what was asked, which is taken back if a signal or a failed call ends the wait.
async fn asked_wait<T>(
    cluster: &Cluster,
    asked: &Asked,
    signals: &mut Signals,
    wait: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let failed = tokio::select! {
        done = wait => match done {
            Err(failed @ Failure::Call(_)) => Some(failed),
            done => return done,
        },
        () = signals.next() => None,
    };
    let state = tokio::select! {
        state = taken_back(cluster, asked) => state,
        () = signals.next() => "the request may still take effect".to_owned(),
    };
    let interrupted = || Failure::Interrupted(format!("interrupted; {state}"));
    Err(failed.map_or_else(interrupted, |it| it.after(&state)))
}

/// Takes a request back that a node has not taken. Returns the outcome.
async fn taken_back(cluster: &Cluster, asked: &Asked) -> String {
    if !asked.is_new {
        let undo = match (&asked.request.leave, asked.request.reinit.is_empty()) {
            (Some(_), _) => format!("drain {}", operand(&asked.node_id, "--off")),
            (None, false) => format!("reinit {}", operand(&asked.node_id, "--off")),
            (None, true) => "hand-over --withdraw".to_owned(),
        };
        return format!(
            "somebody else had asked the same, which stays: `consul-ha {undo}` takes it back"
        );
    }
    match cluster.withdraw(None, &asked.node_id, &asked.request).await {
        Ok(true) => "the request is withdrawn".to_owned(),
        Ok(false) => {
            "the request is gone: it was taken at last, or somebody has withdrawn it".to_owned()
        }
        Err(error) => format!(
            "the request may still take effect, it was not withdrawn: {}",
            words::message(&error)
        ),
    }
}

/// The failure of a wait for a node that has not taken a request, which is taken back.
async fn not_taken(cluster: &Cluster, asked: &Asked, limit: u64) -> Failure {
    let state = taken_back(cluster, asked).await;
    Failure::Limit(format!(
        "{} has not acted within {limit} s: it hangs, it cannot write its key, or its release does not know \
         the request; {state}",
        asked.node_id
    ))
}

/// `leave`
pub async fn leave(session: &Session, given: &Leave, output: Output) -> Result<(), Failure> {
    let node = &given.of.node;
    let (cluster, condition) = looked(session, &given.of.change).await?;
    let snapshot = cluster.snapshot();
    check_node(&snapshot, node)?;
    if !snapshot.nodes.get(node).is_some_and(|node| node.is_live) {
        return Err(Failure::Refused(format!(
            "{node} is down: `consul-ha forget {}`",
            operand(node, "")
        )));
    }
    warn_of_obstacles(&cluster, node, true).await?;
    let json = json!({ "node": node });
    if given.of.change.dry_run {
        return output
            .done(session, &format!("{node} hands over its shards and stops"), json, true)
            .await;
    }
    let mut seen = Seen::of(&cluster, node).await?;
    let mut signals = Signals::new()?;
    let asked = cluster.ask_leave(condition.as_ref(), node).await?;
    let within = given.limit.min(TAKEN_WITHIN);
    let taken = is_taken(session, &asked, &mut seen, within);
    if !asked_wait(&cluster, &asked, &mut signals, taken).await? {
        return Err(match seen.lost() {
            Some(lost) => lost_data(lost, &format!("it is not known whether {node} leaves")),
            None => not_taken(&cluster, &asked, within).await,
        });
    }
    if !given.wait {
        return output
            .done(session, &format!("{node} hands over its shards, then it stops"), json, false)
            .await;
    }
    let off = operand(node, "--off");
    let leaves = format!("{node} leaves: `consul-ha drain {off}` cancels it");
    tokio::select! {
        gone = until_gone(session, node, seen, given.limit, output) => {
            gone.map_err(|it| it.after(&leaves))?;
        }
        () = signals.next() => {
            return Err(Failure::Interrupted(format!("interrupted; {leaves}")));
        }
    }
    output.done(session, &format!("{node} has left"), json, false).await
}

/// Whether a node takes the request to leave within this time.
async fn is_taken(
    session: &Session,
    asked: &Asked,
    seen: &mut Seen,
    within: u64,
) -> Result<bool, Failure> {
    let end = Instant::now() + Duration::from_secs(within);
    while !during_wait(has_taken(session, asked, seen).await)?.unwrap_or(false) {
        if Instant::now() >= end {
            return Ok(false);
        }
        tokio::time::sleep(SHORT_PAUSE).await;
    }
    Ok(true)
}

/// `thaw`
pub async fn thaw(session: &Session, given: &Thaw, output: Output) -> Result<(), Failure> {
    let Thaw { change, loss } = given;
    let (cluster, condition) = looked(session, change).await?;
    let snapshot = cluster.snapshot();
    let (frozen, epoch_key) = (&snapshot.frozen, session.options.epoch_key());
    let json = json!({ "was_frozen_by": frozen });
    if frozen.is_empty() {
        let unread = snapshot.unreadable.iter().find(|why| why.starts_with(&epoch_key));
        return match unread {
            Some(why) => Err(Failure::Refused(format!(
                "it is not known whether the shard map is frozen: {why}"
            ))),
            None => output.unchanged("the shard map was not frozen", json, change.dry_run),
        };
    }
    check_lost(session, &cluster, frozen.iter().map(String::as_str), loss).await?;
    let lost = frozen.join(", ");
    if !change.dry_run {
        let question =
            format!("the shard map is thawed: {lost} count as lost, and others get their shards");
        consent(&loss.consent, &question)?;
        cluster.thaw_while(condition.as_ref(), Some(frozen)).await?;
    }
    let text = format!("the shard map is thawed; lost: {lost}");
    output.done(session, &text, json, change.dry_run).await
}

/// Refuses to give up nodes that may live: no node has a key, or one answers although Consul does not see it.
async fn check_lost<'a>(
    session: &Session,
    cluster: &Arc<Cluster>,
    mut lost: impl Iterator<Item = &'a str>,
    loss: &Loss,
) -> Result<(), Failure> {
    if cluster.snapshot().nodes.is_empty() {
        return Err(Failure::Refused(
            "no node has a key in Consul: it is not known which nodes live".to_owned(),
        ));
    }
    if loss.force {
        return Ok(());
    }
    let overview = session.overviews(cluster)?.overview().await;
    let answering = |id: &str| overview.nodes.iter().find(|it| it.id == *id && it.lost_consul);
    let Some(node) = lost.find_map(answering) else { return Ok(()) };
    let id = &node.id;
    Err(Failure::Refused(match node.who_may_answer() {
        Some(who) => format!(
            "a process answers at the data address of {id}, which {who}. See which one it is; --force gives {id} up all the \
             same"
        ),
        None if node.starts_again => format!(
            "{id} has been started again, and has yet to join: it answers at its data address. Wait, or see its log; --force \
             gives it up all the same"
        ),
        None => format!(
            "{id} lives: it answers at its data address, and only Consul does not see it. Check its agent; --force gives it \
             up all the same"
        ),
    }))
}

fn is_live(snapshot: &Snapshot, node: &str) -> bool {
    snapshot.nodes.get(node).is_some_and(|node| node.is_live)
}

/// Requires consent to what no other verb undoes: in advance, or on a terminal.
fn consent(given: &Consent, question: &str) -> Result<(), Failure> {
    match given.yes || agreed(question)? {
        true => Ok(()),
        false => Err(Failure::Refused("nothing was changed".to_owned())),
    }
}

/// `pause`
pub async fn pause(session: &Session, given: &Pause, output: Output) -> Result<(), Failure> {
    let Pause { change, why, by } = given;
    let (cluster, condition) = looked(session, change).await?;
    let by = by.clone().unwrap_or_else(operator);
    let before = match change.dry_run {
        true => cluster.snapshot().paused.clone(),
        false => cluster.pause_moves(condition.as_ref(), &by, why).await?,
    };
    let json = json!({ "was_paused": before, "by": by, "why": why });
    if let Some(before) = &before {
        let text = format!("they were paused already, by {}", before.by);
        return output.unchanged(&text, json, change.dry_run);
    }
    let text = "all automatic moves of shards are paused, until `consul-ha resume`";
    output.done(session, text, json, change.dry_run).await
}

/// The user of this process, at its machine.
fn operator() -> String {
    let names = ["SUDO_USER", "USER", "LOGNAME"].into_iter();
    let user = names.filter_map(|name| std::env::var(name).ok()).find(|name| !name.is_empty());
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let machine = machine.trim();
    let user = user.unwrap_or_else(|| "an operator".to_owned());
    if machine.is_empty() { user } else { format!("{user}@{machine}") }
}

/// `resume`
pub async fn resume(session: &Session, change: &Change, output: Output) -> Result<(), Failure> {
    let (cluster, condition) = looked(session, change).await?;
    let before = match change.dry_run {
        true => cluster.snapshot().paused.clone(),
        false => cluster.resume_moves(condition.as_ref()).await?,
    };
    let snapshot = cluster.snapshot();
    if !snapshot.frozen.is_empty() {
        say("consul-ha: the shard map is frozen: see `consul-ha why`, and `thaw`");
    }
    let json = json!({ "was_paused": before });
    let Some(before) = &before else {
        return output.unchanged("moves of shards were not paused", json, change.dry_run);
    };
    let text = format!("shards move again; they were paused by {}", before.by);
    output.done(session, &text, json, change.dry_run).await
}

/// `forget`
pub async fn forget(session: &Session, given: &Forget, output: Output) -> Result<(), Failure> {
    let Forget { of, loss } = given;
    let node = &of.node;
    let (cluster, condition) = looked(session, &of.change).await?;
    let snapshot = cluster.snapshot();
    let is_there = check_node_or_kept(&snapshot, node)?;
    let live = || {
        let leave = format!("`consul-ha leave {}`", operand(node, ""));
        Failure::Refused(format!("{node} is live: stop it, or {leave}"))
    };
    if is_live(&snapshot, node) {
        return Err(live());
    }
    if is_there {
        check_lost(session, &cluster, std::iter::once(node.as_str()), loss).await?;
    }
    let is_dry = of.change.dry_run;
    if !is_dry {
        consent(&loss.consent, &format!("{node} is not a member any more"))?;
    }
    let forget = cluster.forget(condition.as_ref(), node);
    let services = match session.written(&session.key_of(node, is_there), is_dry, forget).await? {
        Some(Forgotten::Live) => return Err(live()),
        Some(Forgotten::Removed(left)) => left,
        None => Vec::new(),
    };
    for (service, agent) in &services {
        let command = format!("consul services deregister -id={}", shell_word(service));
        say(&format!("consul-ha: {service} is still registered: `{command}` at the agent {agent}"));
    }
    let ids: Vec<&String> = services.iter().map(|(service, _)| service).collect();
    let json = json!({ "node": node, "registered_services": ids });
    output.done(session, &format!("{node} is not a member any more"), json, is_dry).await
}

/// `accept-loss`
pub async fn accept_loss(
    session: &Session,
    given: &AcceptLoss,
    output: Output,
) -> Result<(), Failure> {
    let AcceptLoss { store, shard, nodes, dry_run, expect_epoch, loss } = given;
    let cluster = session.look().await?;
    let found = stores::outside::missing(&cluster, store, *shard, nodes, *expect_epoch).await?;
    let lost: Option<Vec<String>> = found.map(|it| it.iter().map(ToString::to_string).collect());
    let what = match &lost {
        None if cluster.snapshot().leader.is_none() => {
            return Err(Failure::Refused(format!(
                "it is not known which replicas of shard {shard} are missing, and there is no leader, which would find out"
            )));
        }
        None => format!("the loss of what is missing of shard {shard} when the leader knows it"),
        Some(lost) if lost.is_empty() => {
            return Err(Failure::Refused(format!("no replica of shard {shard} is missing")));
        }
        Some(lost) => format!("the loss of the replicas of shard {shard} on {}", lost.join(", ")),
    };
    let named = lost.iter().flatten();
    let named = named.map(String::as_str);
    check_lost(session, &cluster, named.clone(), loss).await?;
    if let Some(node) = named.filter(|_| !loss.force).find(|id| is_live(&cluster.snapshot(), id)) {
        return Err(Failure::Refused(format!(
            "{node} lives, and may have what is missing soon: see its log. --node names others; --force gives its replica up \
             all the same"
        )));
    }
    if !dry_run {
        let question =
            format!("acknowledged writes of store {store} may be lost: accepted is {what}");
        consent(&loss.consent, &question)?;
        // The loss that was shown, if more is missing by now.
        let of = lost.as_deref().unwrap_or(nodes);
        stores::outside::accept_loss(&cluster, store, *shard, of, *expect_epoch).await?;
    }
    let json = json!({ "store": store, "shard": shard, "lost": lost });
    output.done(session, &format!("accepted: {what}"), json, *dry_run).await
}

/// `forget-store`
pub async fn forget_store(
    session: &Session,
    given: &ForgetStore,
    output: Output,
) -> Result<(), Failure> {
    let ForgetStore { store, consent: given, dry_run, limit } = given;
    let cluster = session.look().await?;
    let Some(found) = stores::forget::find(&cluster, store).await? else {
        let known = stores::outside::names(&cluster).await?;
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        return Err(Failure::Refused(unknown("store", store, &known)));
    };
    let in_use = |users: &BTreeSet<String>| {
        let users = Vec::from_iter(users.iter().map(String::as_str)).join(", ");
        Failure::Refused(format!(
            "{users} have store {store} open: stop them, or start them without it"
        ))
    };
    if !found.users.is_empty() {
        return Err(in_use(&found.users));
    }
    if cluster.snapshot().leader.is_none() {
        return Err(Failure::Refused("there is no leader, which would remove it".to_owned()));
    }
    let disks = Vec::from_iter(&found.disks);
    let stays = match disks.is_empty() {
        true => "no disk is known to have records of it".to_owned(),
        false => {
            let disks: Vec<&str> = disks.iter().map(|it| it.as_str()).collect();
            format!(
                "its records stay on the disks of {}, which no node opens then",
                disks.join(", ")
            )
        }
    };
    let json = json!({ "store": store, "disks": disks });
    let text = format!("store {store} is forgotten; {stays}");
    if *dry_run {
        return output.done(session, &text, json, true).await;
    }
    consent(given, &text)?;
    stores::forget::ask(&cluster, store, &operator()).await?;
    let end = Instant::now() + Duration::from_secs(*limit);
    loop {
        tokio::time::sleep(SHORT_PAUSE).await;
        let seen = async {
            let cluster = session.look().await?;
            stores::forget::find(&cluster, store).await.map_err(Failure::from)
        };
        let stays = |it: Failure| it.after("the request may still take effect");
        match during_wait(seen.await).map_err(stays)? {
            Some(None) => break,
            Some(Some(now)) if !now.is_asked && !now.users.is_empty() => {
                return Err(in_use(&now.users));
            }
            _ if Instant::now() < end => {}
            _ => {
                let withdrawn = stores::forget::withdraw(&cluster, store).await;
                withdrawn.map_err(|it| stays(it.into()))?;
                return Err(Failure::Limit(format!(
                    "the leader has not acted within {limit} s: it hangs, or its release does not know the request; \
                     the request is withdrawn"
                )));
            }
        }
    }
    output.done(session, &text, json, false).await
}

/// The orders to make replicas again that the node has not taken yet.
fn pending_orders(snapshot: &Snapshot, given: &Reinit) -> Request {
    let asked = snapshot.nodes.get(&given.node).and_then(|it| it.record.request.clone());
    let mut reinit = asked.unwrap_or_default().reinit;
    reinit.retain(|name, _| given.store.as_ref().is_none_or(|store| store == name));
    Request { reinit, ..Request::default() }
}

/// Refuses to end orders if it is not known whether the node has them, unless others are pending.
fn check_told(
    node: &str,
    found: &BTreeMap<String, remake::Replicas>,
    pending: &Request,
) -> Result<(), Failure> {
    let Some(why) = found.values().find_map(|replicas| replicas.untold.as_ref()) else {
        return Ok(());
    };
    let why = format!(
        "it is not known whether {node} has an order on its disk, which would stay and go on: {why}"
    );
    if pending.reinit.is_empty() {
        return Err(Failure::Refused(why));
    }
    say(&format!("consul-ha: {why}"));
    Ok(())
}

/// `reinit`
pub async fn reinit(session: &Session, given: &Reinit, output: Output) -> Result<(), Failure> {
    let Reinit { node, store, shards, off, dry_run, .. } = given;
    let cluster = session.look().await?;
    check_node(&cluster.snapshot(), node)?;
    let shards = BTreeSet::from_iter(shards.iter().copied());
    let mut found = remake::find(&cluster, node, store.as_deref(), &shards).await?;
    let mut pending = Request::default();
    if *off {
        pending = pending_orders(&cluster.snapshot(), given);
        check_told(node, &found, &pending)?;
        found.retain(|_, replicas| replicas.are_being_made());
    } else {
        let checked = remake::check(node, &found);
        checked.map_err(|why| Failure::Refused(why.message().to_owned()))?;
    }
    let names: BTreeSet<&str> =
        found.keys().chain(pending.reinit.keys()).map(String::as_str).collect();
    let names = Vec::from_iter(names).join(", ");
    // Somebody has ordered the others before, maybe this operator.
    let new = found.iter().filter(|(_, it)| *off || !it.are_being_made());
    let new: BTreeMap<&str, &BTreeSet<u32>> =
        new.map(|(store, it)| (store.as_str(), &it.shards)).collect();
    let json = json!({ "node": node, "stores": new });
    let mut signals = Signals::new()?;
    let (asked, text) = if *off {
        if names.is_empty() {
            let text = format!("{node} makes no replica again");
            return output.unchanged(&text, json, *dry_run);
        }
        let text = format!("{node} makes no more replicas of {names} again");
        if *dry_run {
            return output.done(session, &text, json, true).await;
        }
        if !pending.reinit.is_empty() {
            cluster.withdraw(None, node, &pending).await?;
        }
        let ended = match found.is_empty() {
            true => None,
            false => Some(remake::end(&cluster, node, &found).await?),
        };
        (ended, text)
    } else if new.is_empty() {
        let text = format!("{node} makes replicas of {names} again already");
        if !given.wait || *dry_run {
            return output.unchanged(&text, json, *dry_run);
        }
        say(&format!("consul-ha: {text}"));
        (None, text)
    } else {
        let count: usize = new.values().map(|it| it.len()).sum();
        let of = Vec::from_iter(new.keys().copied()).join(", ");
        let replicas = format!("{} of {of}", counted(count, "replica"));
        let text = format!("{node} makes {replicas} again, one after the other");
        if *dry_run {
            return output.done(session, &text, json, true).await;
        }
        let question = format!(
            "{node} drops its {replicas}, one after the other, and copies them from other nodes"
        );
        consent(&given.consent, &question)?;
        (remake::ask(&cluster, node, &found).await?, text)
    };
    let known = found.iter().filter(|(store, _)| !new.contains_key(store.as_str()));
    let known = known.filter_map(|(it, of)| Some((it.clone(), of.remaking.as_ref()?.order)));
    let asked_for = asked.iter().flat_map(|asked| &asked.request.reinit);
    let orders = asked_for.map(|(it, of)| (it.clone(), of.order)).chain(known).collect();
    let orders = Orders { node, orders };
    if let Some(asked) = &asked {
        let taken = orders.are_taken(session, TAKEN_WITHIN);
        if !asked_wait(&cluster, asked, &mut signals, taken).await? {
            return Err(not_taken(&cluster, asked, TAKEN_WITHIN).await);
        }
    }
    if !given.wait {
        return output.done(session, &text, json, false).await;
    }
    let goes_on = format!("{node} goes on: `consul-ha reinit {}` ends it", operand(node, "--off"));
    tokio::select! {
        done = orders.until_made(session, given.limit, output) => {
            done.map_err(|it| it.after(&goes_on))?;
        }
        () = signals.next() => {
            return Err(Failure::Interrupted(format!("interrupted; {goes_on}")));
        }
    }
    output
        .done(session, &format!("{node} has made its replicas of {names} again"), json, false)
        .await
}

/// Asks on the terminal.
fn agreed(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("without a terminal it needs --yes".to_owned()));
    }
    say(&format!("consul-ha: {question}. Type yes to go on:"));
    let mut answer = String::new();
    match std::io::stdin().read_line(&mut answer) {
        Ok(_) => Ok(answer.trim() == "yes"),
        Err(error) => Err(Failure::Usage(format!("no answer: {error}"))),
    }
}

/// `store-set`
pub async fn store_set(session: &Session, given: &StoreSet, output: Output) -> Result<(), Failure> {
    let StoreSet { store, replicas, write_quorum, read_quorum, dry_run, expect_epoch } = given;
    let change = NumbersChange { replicas: *replicas, write: *write_quorum, read: *read_quorum };
    let cluster = session.look().await?;
    let shown = stores::outside::numbers(&cluster, store, change, *expect_epoch).await?;
    let Numbers { now, wanted, changing, nodes } = shown;
    if wanted.replicas > nodes.max(now.replicas) {
        let needed = counted(wanted.replicas, "node");
        return Err(Failure::Refused(format!(
            "store {store} would need {needed} for its replicas, {nodes} may have them: start others first"
        )));
    }
    if wanted.replicas > 1 && wanted.write == wanted.replicas && wanted.write > now.write {
        say(
            "consul-ha: with as many for a write as there are replicas, a node that is away stops writes",
        );
    }
    if changing > 0 {
        let shards = counted(changing, "shard");
        say(&format!("consul-ha: {shards} have not the numbers of an earlier change yet"));
    }
    if !dry_run {
        stores::outside::set_numbers(&cluster, store, &shown, *expect_epoch).await?;
    }
    let said = |it: Quorums| format!("{}/{}/{}", it.replicas, it.write, it.read);
    let text = match now == wanted {
        true => format!("store {store} is to have N/W/R {}, as before", said(wanted)),
        false => format!(
            "store {store} gets N/W/R {} in place of {}: `consul-ha shards` shows how far it is",
            said(wanted),
            said(now)
        ),
    };
    let json = |it: Quorums| json!({ "replicas": it.replicas, "write_quorum": it.write, "read_quorum": it.read });
    let json = json!({ "store": store, "before": json(now), "wanted": json(wanted) });
    output.done(session, &text, json, *dry_run).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use consul_cluster::shard_map::ShardMap;
    use consul_cluster::{Complaint, Leader, Record};

    /// Two live nodes; n1 leads and has the only shard.
    fn snapshot(of_n1: Mode, of_n2: Mode) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (id, mode) in [("n1", of_n1), ("n2", of_n2)] {
            let record = json!({
                "id": id, "address": "a:1", "weight": 1.0, "mode": mode.name(), "started_ms": 1, "incarnation": "i",
            });
            let record: Record = serde_json::from_value(record).expect("a record");
            let node = Node {
                record: record.into(),
                modify_index: 1,
                is_live: true,
                down_since: None,
                vanished_at: None,
                complaint: Complaint::default(),
            };
            snapshot.nodes.insert(id.to_owned(), node);
        }
        snapshot.leader = Some(Leader {
            node_id: "n1".to_owned(),
            address: "a:1".to_owned(),
            session_id: "s".to_owned(),
            token: 1,
            elected_at_ms: 1,
        });
        let map = br#"{"format":1,"epoch":7,"token":1,"replicas":1,"nodes":["n1"],"shards":[[0]]}"#;
        snapshot.map = Some(Arc::new(ShardMap::decode(map).expect("a map")));
        snapshot
    }

    #[test]
    fn only_the_last_node_that_may_lead_leaves_no_leader() {
        let why = leaderless(&snapshot(Mode::Active, Mode::Maintenance), "n1");
        assert!(why.is_some_and(|why| why.contains("without n1 there is no leader")));
        assert_eq!(leaderless(&snapshot(Mode::Active, Mode::Active), "n1"), None);
        let follower = leaderless(&snapshot(Mode::Draining, Mode::Active), "n2");
        assert_eq!(follower, None, "n1 leads");
    }
}
