//! The end of a move: what a cut-over has stopped may go on, and what the job has put on both sides is removed.

use crate::etcd::{Etcd, KeyValue, Pages, Range, Refused};
use crate::job::source::restored;
use crate::job::{Keys, Phase, Record};
use crate::mapping::shown::shown;
use crate::mapping::{JOBS, Mapping, Op, part_of};
use crate::switch::cutover::{keys_below, lift, whose};
use crate::switch::rollback::{check_names, marks, rollback_has_begun, value_in_consul};
use crate::tally::Tally;
use crate::target::names::Names;
use crate::target::{Check, Outcome, Stored};
use crate::{Run, Stop};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// The keys of etcd that are named.
const NAMED: u64 = 1000;

/// The keys that are compared at once.
const IN_FLIGHT: usize = 8;

/// The work that has been done, and the rest in etcd.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Finished {
    /// Whether etcd was left alone, so that nothing is known of what it has.
    pub without_etcd: bool,
    /// The writes that etcd still refuses, or without it refuses if it comes back, and what undoes that.
    pub not_lifted: Vec<String>,
    /// Whether etcd's user may not ask for alarms, so that another one may be on.
    pub alarms_unknown: bool,
    /// The keys of both sides at the cut-over; `None` if a version has cut over that did not note it. Not serialized.
    #[serde(skip)]
    pub keys: Option<Tally>,
    /// Whether an alarm was lifted, or a right given back to roles.
    pub lifted: bool,
    /// The number of keys of Consul that have lost their mark, whatever number of parts they have.
    pub unmarked: u64,
    /// The number of keys that etcd still has with the prefix of the job; `None` without etcd.
    pub left: Option<u64>,
    /// The number of keys that etcd has in all; `None` if its user may not read them.
    pub all: Option<u64>,
    /// The first keys, as text, that programs have set in etcd since the cut-over.
    pub set_since: Vec<String>,
    /// The other jobs that are in Consul.
    pub jobs: Vec<String>,
}

/// Ends a job that is cut over, and forgets it: the last thing that goes is its record, so that it can be killed and run
/// again. A way back that has begun and not ended is refused, unless this abandons it.
///
/// # Errors
/// See [`Stop`]; that the job is not cut over.
pub async fn finish(run: &Run<'_>, abandons_rollback: bool) -> Result<Finished, Stop> {
    let record = run.job.record();
    may_finish(run.etcd, &record, &run.job.keys, abandons_rollback).await?;
    check_names(run).await?;
    let mut done = Finished { keys: record.tally.clone(), ..Finished::default() };
    end_in_etcd(run, &record, &mut done).await?;
    end_in_consul(run, &record, &mut done).await?;
    Ok(done)
}

/// Refuses to end a job that is not cut over, is on its way back, or has an etcd that does not tell what programs have set there.
///
/// # Errors
/// See [`Stop`].
pub async fn may_finish(
    etcd: &Etcd,
    record: &Record,
    keys: &Keys,
    abandons_rollback: bool,
) -> Result<(), Stop> {
    if record.phase != Phase::Switched {
        record.refuse_finishing()?;
        return Err(Stop::Refused(format!(
            "the job is not cut over: `cutover` comes before. To give it up, stop its tail and delete its keys in Consul, those \
             that begin with {}",
            keys.record
        )));
    }
    let abandons_rollback = abandons_rollback || record.finishing;
    if !abandons_rollback && rollback_has_begun(etcd, record, keys).await? {
        return Err(Stop::Refused(
            "a rollback of the job has begun and has not ended, so that etcd has only a part of what Consul has: run rollback \
             again; or finish --abandon-rollback, and etcd stays as it is now"
                .to_owned(),
        ));
    }
    let Some(why) = restored(etcd, record, keys).await? else { return Ok(()) };
    let own = Range::prefix(&keys.sentinels(&record.mapping));
    let of_job = Range::prefix(&record.mapping.etcd_prefix);
    match etcd.count(&of_job, 0).await?.0 > etcd.count(&own, 0).await?.0 {
        false => Ok(()),
        true => {
            let back = match record.finishing {
                true => "",
                false => "`rollback` makes etcd as Consul is, or names them; ",
            };
            Err(Stop::Refused(format!(
                "{why}. So it is not known which of its keys programs have set since, and Consul does not have these: {back}\
                 `finish --without-etcd` ends the job and leaves etcd as it is"
            )))
        }
    }
}

/// The same of a job whose etcd is gone, however far the job is: only what is in Consul is removed.
///
/// # Errors
/// See [`Stop`].
pub async fn finish_without_etcd(run: &Run<'_>) -> Result<Finished, Stop> {
    let record = run.job.record();
    let keys = record.tally.clone().filter(|_| record.phase == Phase::Switched);
    let mut done = Finished { without_etcd: true, keys, ..Finished::default() };
    if !record.alarms.is_empty() {
        done.not_lifted.push("all writes, by an alarm: `etcdctl alarm disarm`".to_owned());
    }
    done.not_lifted.extend(record.may_be_taken().iter().map(|right| format!("writes: {right}")));
    run.job.save(Record { finishing: true, ..record.clone() }, &[]).await?;
    end_in_consul(run, &record, &mut done).await?;
    Ok(done)
}

async fn end_in_etcd(run: &Run<'_>, record: &Record, done: &mut Finished) -> Result<(), Stop> {
    let range = Range::prefix(&record.mapping.etcd_prefix);
    let since = record.switched_revision.unwrap_or(u64::MAX - 1) + 1;
    let own = run.job.keys.sentinels(&record.mapping);
    done.set_since = set_since(run, record, since, &own).await?;
    done.lifted = lift(run.etcd, &run.job).await?;
    still_refused(run, done).await?;
    // From here on a restored etcd does not show itself: no way back can follow, and the next run does not take the absence of the
    // keys for a restore.
    run.job.save(Record { left: None, finishing: true, ..run.job.record() }, &[]).await?;
    let found = keys_below(run, &own).await?;
    // Another instance that takes over puts its own after that.
    run.job.apply(&[]).await?;
    run.etcd.delete_unchanged(&found).await?;
    done.left = Some(run.etcd.count(&range, 0).await?.0);
    done.all = match run.etcd.count(&Range::prefix(b""), 0).await {
        Ok((all, _)) => Some(all),
        // A role that has this prefix alone.
        Err(Refused::Failed(error)) if error.kind() == Kind::PermissionDenied => None,
        Err(refused) => return Err(refused.into()),
    };
    Ok(())
}

/// Asks etcd what it still refuses: alarms of others, and rights that are not as they were.
async fn still_refused(run: &Run<'_>, done: &mut Finished) -> Result<(), Stop> {
    match run.etcd.alarms().await {
        Ok(on) if on.is_empty() => {}
        Ok(on) => done
            .not_lifted
            .push(whose(run.job.target, &run.job.keys, Some(&run.job.record()), &on).await?),
        Err(Refused::Failed(error)) if error.kind() == Kind::PermissionDenied => {
            done.alarms_unknown = true;
        }
        Err(refused) => return Err(refused.into()),
    }
    let given_back = run.job.record().given_back();
    let missing = match run.etcd.not_given_back(&given_back).await {
        // They were given back before: it may lack the right to ask.
        Err(Refused::Failed(error)) if error.kind() == Kind::PermissionDenied => Vec::new(),
        missing => missing?,
    };
    done.not_lifted.extend(missing.into_iter().map(|right| format!("writes: {right}")));
    Ok(())
}

/// The first keys that programs have set in etcd since a revision, and that Consul does not have so. Keys that a way
/// back has set are not a program's.
async fn set_since(
    run: &Run<'_>,
    record: &Record,
    since: u64,
    sentinels: &[u8],
) -> Result<Vec<String>, Stop> {
    let marks = marks(&record.mapping, &run.job.keys);
    let mut pages = Pages::new(run.etcd, Range::prefix(&marks), 0, run.pace.page);
    let mut own = HashSet::new();
    while let Some(page) = pages.next().await? {
        own.extend(page.kvs.iter().map(|mark| mark.mod_revision.0));
    }
    let mut range = Range::prefix(&record.mapping.etcd_prefix);
    let mut named = Vec::new();
    let mut done = 0;
    loop {
        let set = run.etcd.set_since(&range, since, NAMED).await?;
        let is_of_program =
            |kv: &&KeyValue| !kv.key.0.starts_with(sentinels) && !own.contains(&kv.mod_revision.0);
        let looks = set.iter().filter(is_of_program).map(|kv| differs(run, record, &kv.key.0));
        let differing: Vec<Option<String>> =
            stream::iter(looks.collect::<Vec<_>>()).buffered(IN_FLIGHT).try_collect().await?;
        named.extend(differing.into_iter().flatten());
        done += set.len() as u64;
        run.report.progress("looked at", done, None);
        match set.last() {
            Some(last) if set.len() as u64 == NAMED && (named.len() as u64) < NAMED => {
                range.start = [&last.key.0[..], b"\0"].concat().into();
            }
            _ => break,
        }
    }
    named.truncate(NAMED as usize);
    Ok(named)
}

/// A key of etcd as text, if Consul has another value or none.
async fn differs(run: &Run<'_>, record: &Record, key: &Bytes) -> Result<Option<String>, Stop> {
    let Some(kv) = run.etcd.get(key, 0).await? else { return Ok(None) };
    let found = value_in_consul(run.job.target, &record.mapping, key).await?;
    let is_alike = found.is_ok_and(|found| found.is_some_and(|it| it.value == kv.value.0));
    Ok((!is_alike).then(|| shown(key)))
}

async fn end_in_consul(run: &Run<'_>, record: &Record, done: &mut Finished) -> Result<(), Stop> {
    done.unmarked = unmark(run, record).await?;
    let others = crate::job::others(run.job.target, &run.job.keys).await?;
    done.jobs = others.into_iter().map(|(name, _)| name).collect();
    let keys = &run.job.keys;
    match run.job.delete().await {
        // By a request whose answer was lost, or that a proxy has repeated.
        Err(Stop::Refused(_)) if crate::job::record(run.job.target, keys).await?.is_none() => {
            Ok(())
        }
        ended => ended,
    }
}

/// Takes the mark from the keys that are as the job wrote them; returns how many they are.
async fn unmark(run: &Run<'_>, record: &Record) -> Result<u64, Stop> {
    if record.mapping.mark == 0 {
        return Ok(0);
    }
    let target = run.job.target;
    let mut unmarked = 0;
    let mut prefixes = vec![record.mapping.plain_prefix(), record.mapping.encoded_prefix()];
    if prefixes[1].starts_with(&prefixes[0]) {
        prefixes.truncate(1);
    }
    for prefix in prefixes {
        let mut names = Names::new(target, &prefix, async |_| Ok(0)).await?;
        let (mut waiting, mut is_over) = (Vec::new(), false);
        while !is_over {
            match names.next().await? {
                Some(name) if name.starts_with(JOBS) => continue,
                Some(name) => waiting.push(name),
                None => is_over = true,
            }
            if waiting.len() >= target.max_ops || is_over {
                unmarked += unmark_some(run, record, std::mem::take(&mut waiting)).await?;
                run.report.progress("unmarked", unmarked, None);
            }
        }
    }
    Ok(unmarked)
}

async fn unmark_some(run: &Run<'_>, record: &Record, names: Vec<String>) -> Result<u64, Stop> {
    let (target, mapping) = (run.job.target, &record.mapping);
    let mut unmarked = 0;
    let mut rest = names;
    // The answer to the attempt with this value may have been lost, or that of a proxy which has repeated it.
    let mut tried: HashMap<String, Bytes> = HashMap::new();
    while !rest.is_empty() {
        let asked: Vec<&str> = rest.iter().map(String::as_str).collect();
        let found = target.entries(&asked).await?;
        let is_marked = |(name, stored): (&String, Option<Stored>)| {
            stored
                .filter(|stored| stored.flags == mapping.mark)
                .map(|stored| (name.clone(), stored))
        };
        for (key, stored) in rest.iter().zip(&found) {
            let before = tried.remove(key);
            let is_done = stored
                .as_ref()
                .is_some_and(|it| it.flags == 0 && Some(&it.value) == before.as_ref());
            unmarked += u64::from(is_done && is_counted(mapping, key));
        }
        let marked: Vec<_> = rest.iter().zip(found).filter_map(is_marked).collect();
        let mut later = Vec::new();
        let mut now = &marked[..];
        while let [first, others @ ..] = now {
            let ops = now.iter().map(|(key, stored)| Op::set(key.clone(), stored.value.clone()));
            let ops: Vec<Op> = ops.collect();
            let fitting = target.fitting(&ops, 1);
            if fitting == 0 {
                let (key, stored) = first;
                match target.put(key, &stored.value, 0, stored.index).await {
                    Ok(true) => unmarked += u64::from(is_counted(mapping, key)),
                    Err(error) if !may_be_repeated(&error) => return Err(error.into()),
                    // It is looked at again.
                    _ => {
                        tried.insert(key.clone(), stored.value.clone());
                        later.push(key.clone());
                    }
                }
                now = others;
                continue;
            }
            let (some, after) = now.split_at(fitting);
            let swap = |(key, stored): &(String, Stored)| {
                Check::Swap(key.clone(), stored.index, stored.value.to_vec())
            };
            let checks: Vec<Check> =
                std::iter::once(run.job.fence()).chain(some.iter().map(swap)).collect();
            match target.txn(&checks, &[]).await {
                Ok(Outcome::Applied(_)) => {
                    let counted = some.iter().filter(|(key, _)| is_counted(mapping, key));
                    unmarked += counted.count() as u64;
                }
                Ok(Outcome::Oversized) => continue,
                Ok(Outcome::Refused(0, _)) => return run.job.apply(&[]).await.map(|_| unmarked),
                Err(error) if !may_be_repeated(&error) => return Err(error.into()),
                // A program has changed one meanwhile, or the answer was lost.
                _ => {
                    target.clock().sleep(crate::target::PAUSE).await;
                    later.extend(some.iter().map(|(key, _)| key.clone()));
                    tried.extend(
                        some.iter().map(|(key, stored)| (key.clone(), stored.value.clone())),
                    );
                }
            }
            now = after;
        }
        rest = later;
    }
    Ok(unmarked)
}

/// Whether it is a whole key of Consul, or the first part of one.
fn is_counted(mapping: &Mapping, key: &str) -> bool {
    let part = key.strip_prefix(&mapping.encoded_prefix()).and_then(part_of);
    part.is_none_or(|(_, place, _)| place == 0)
}

fn may_be_repeated(error: &Error) -> bool {
    error.is_transient() || error.maybe_applied()
}
