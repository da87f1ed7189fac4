//! The claim of a node's name and of its instance's id, which no two live nodes have.

use super::contest::{Contest, Found};
use super::kept_mode;
use super::node::{Mode, Record};
use super::registered::{
    cluster, incarnation, is_live_instance, is_live_start, other_cluster, read, service_id, write,
};
use crate::keys;
use crate::options::Options;
use consul_api::api::{agent, health};
use consul_api::error::{Error, Kind};
use consul_api::request::Args;
use consul_api::value::Value;
use consul_client::Client;
use consul_client::coordination::transact;

/// Claims the node's name unless another live node has it. A node that has died is live for Consul until its check expires,
/// so this waits for that long; a node that only a restored snapshot has is live until its agent compares its services.
/// Returns the mode of the node: the mode that an operator has given to an earlier start, or to the node while it was
/// stopped.
///
/// # Errors
/// [`Kind::Conflict`], naming the address and the start of the node that has the name.
pub(crate) async fn claim_name(
    client: &Client,
    options: &Options,
    record: &Record,
) -> Result<Mode, Error> {
    let clock = client.clock();
    let deadline = clock.now() + options.profile.check_ttl + options.profile.beat * 2;
    let mut contest = Contest::of_start(options);
    loop {
        if let Some(why) = id_taken(client, options).await? {
            if clock.now() >= deadline {
                return Err(why);
            }
            clock.sleep(options.profile.beat).await;
            continue;
        }
        let found = read(client, options, &record.id).await?;
        let (kept, kept_index) = kept_mode::read(client, options, &record.id).await?;
        // The answer to an earlier write was lost.
        let mode = found.as_ref().map_or(kept.unwrap_or(record.mode), |(found, _)| found.mode);
        let record = Record { mode, ..record.clone() };
        if found.as_ref().is_some_and(|(found, _)| *found == record) {
            return Ok(mode);
        }
        let before = found.as_ref().map_or(0, |(_, index)| *index);
        if let Some((other, index)) = &found
            && other.incarnation != record.incarnation
        {
            // A node that does not pass is asked nothing, which costs a write: another node may take its name.
            let is_down = !contest.has_asked(&other.incarnation)
                && !is_live_start(client, options, &other.incarnation).await?;
            let found = match is_down {
                true => Found::Silent(*index),
                false => {
                    contest.look(client, options, &record.incarnation, (other, *index)).await?
                }
            };
            let is_free = match found {
                Found::Silent(_) if is_down => true,
                Found::Asked => continue,
                // Of two that start at the same time, the other one answers before it takes part. A node that takes
                // part is listed as live by now.
                Found::Unanswered => !is_live_start(client, options, &other.incarnation).await?,
                Found::Answered => false,
                Found::Lives => return Err(name_taken(client, options, other)),
                // It may be unable to write its key, such as without the right, while its agent reports its beats.
                Found::Silent(_) if is_live_start(client, options, &other.incarnation).await? => {
                    return Err(name_taken(client, options, other));
                }
                Found::Silent(_) => true,
            };
            if !is_free {
                clock.sleep(options.profile.beat).await;
                continue;
            }
        }
        let written = match kept_index {
            0 => write(client, options, &record, before).await,
            kept => {
                let taken = kept_mode::taken(options, &record, before, kept);
                transact(client, taken, None).await.map(|_| ())
            }
        };
        match written {
            Err(error) if matches!(error.kind(), Kind::Conflict | Kind::TxnFailed) => {
                client.pause(keys::CONFLICT_PAUSE_MS).await;
            }
            written => return written.map(|()| mode),
        }
    }
}

/// The node or program that has the id of this node's instance at its agent, or an id that is the same for Consul.
pub(super) struct IdHolder {
    whose: String,
    service: String,
    /// Its id: the own one, or another that differs from it by the case of letters.
    id: String,
    /// Whether that is another id.
    pub(super) is_twin: bool,
    pub(super) start: Option<String>,
    /// Whether it is a node that stays, if both live. Another program follows no rule.
    pub(super) goes_first: bool,
}

/// Who else has this node's instance's id at its agent. A process may not be allowed to know that.
///
/// The agent takes ids that differ by the case of letters for two, and the catalog for one: each registration there replaces
/// the other.
///
/// Source: measured on Consul 1.8.7 and 1.21.0.
pub(super) async fn id_holder(
    client: &Client,
    options: &Options,
) -> Result<Option<IdHolder>, Error> {
    let own = options.service_id();
    let found = match client.call(&agent::SERVICES, &Args::new()).await {
        Ok(found) => found.value,
        Err(error) if error.is_transient() => return Err(error),
        Err(error) => {
            tracing::debug!(%error, "it is not known whether the id of the instance is free");
            return Ok(None);
        }
    };
    let Value::Map(services) = found else { return Ok(None) };
    let folded = folded(&own);
    let same = services.iter().filter(|(id, _)| self::folded(id) == folded);
    for holder in same.filter_map(|(id, service)| IdHolder::of(options, id, service)) {
        if !holder.is_twin || may_live(client, &holder.id).await? {
            return Ok(Some(holder));
        }
        // Its agent would write it to the catalog again, in the place of this node's instance.
        if holder.start.is_some() {
            let removed =
                client.call(&agent::SERVICE_DEREGISTER, &Args::new().arg(holder.id)).await;
            if let Err(error) = removed {
                tracing::debug!(%error, "the instance of a dead node could not be removed");
            }
        }
    }
    Ok(None)
}

/// An id as the catalog compares it: letter by letter, as Go does.
fn folded(id: &str) -> String {
    id.chars().filter_map(|letter| letter.to_lowercase().next()).collect()
}

/// Whether the agent does not take the process of this instance for dead, whose instance it keeps for a minute.
async fn may_live(client: &Client, id: &str) -> Result<bool, Error> {
    let checks = client.call(&agent::CHECKS, &Args::new()).await?.value;
    let check = checks.get(&format!("service:{id}"));
    let status = check.and_then(|it| it.get("Status")).and_then(Value::as_str);
    Ok(status != Some("critical"))
}

impl IdHolder {
    /// The holder of this id, which is the own one or differs from it by the case of letters; `None`: it is this node.
    fn of(options: &Options, id: &str, found: &Value) -> Option<Self> {
        let text = |name| found.get(name).and_then(Value::as_str);
        let service = text("Service")?;
        let (whose, goes_first) = match other_cluster(options, found) {
            Some(theirs) => {
                (format!("the cluster with nodes_prefix {theirs:?}"), theirs < cluster(options))
            }
            // Of a release that does not tell.
            None if service != options.service() => {
                (format!("the service {service:?}"), service < options.service().as_str())
            }
            None if id != options.service_id() => {
                ("this cluster".to_owned(), id < options.service_id().as_str())
            }
            None => return None,
        };
        let start = found.get("Meta").and_then(|meta| meta.get("incarnation"));
        let start = start.and_then(Value::as_str).map(str::to_owned);
        let goes_first = goes_first && start.is_some();
        let is_twin = id != options.service_id();
        let (service, id) = (service.to_owned(), id.to_owned());
        Some(IdHolder { whose, service, id, is_twin, start, goes_first })
    }
}

/// Why this node cannot have its instance's id: at its agent, another live node has it.
async fn id_taken(client: &Client, options: &Options) -> Result<Option<Error>, Error> {
    let Some(holder) = id_holder(client, options).await? else { return Ok(None) };
    let args = Args::new().arg(holder.service.as_str()).opt("consistent", true);
    let entries = client.call_past_caches(&health::SERVICE, args).await?.value;
    let is_it = |it: &Value| {
        service_id(it) == Some(&holder.id) && incarnation(it) == holder.start.as_deref()
    };
    if !entries.items().iter().any(|it| is_it(it) && is_live_instance(it)) {
        return Ok(None);
    }
    Ok(Some(id_is_taken(options, &holder)))
}

/// The error for an instance's id that another live node has.
pub(super) fn id_is_taken(options: &Options, holder: &IdHolder) -> Error {
    let IdHolder { whose, id, is_twin, .. } = holder;
    let own = options.service_id();
    let of = "of its instance is that of a live node of";
    let cause = match is_twin {
        false => format!("{of} {whose}, since names of services have `-` for `/`"),
        true => {
            format!("{of} {whose}, {id:?}, for Consul, to which the case of letters is the same")
        }
    };
    let why = format!(
        "node_id {:?}: at its agent, the id {own:?} {cause}: give one of the two another node_id, or another \
         nodes_prefix",
        options.node_id,
    );
    Error::new(Kind::Conflict, why).with_maybe_applied(false)
}

/// The error for a name that another live node has.
pub(super) fn name_taken(client: &Client, options: &Options, other: &Record) -> Error {
    let now_ms = options.wall_clock.unix_ms(client.clock().now());
    let age_s = now_ms.saturating_sub(other.started_ms) / 1000;
    let address = if other.address.is_empty() { "an unknown address" } else { &other.address };
    let why = format!(
        "node_id {:?} is taken: the node at {address} has it, started {age_s} s ago; \
         give one of the two another node_id",
        other.id
    );
    Error::new(Kind::Conflict, why).with_maybe_applied(false)
}
