//! The work of each verb.

use super::arguments::{CommandLine, Copy, Hold, Verb};
use super::connection::{Session, is_dead};
use super::document::document;
use super::failure::Failure;
use super::report::ReportFile;
use super::{end, lines, switch};
use consul_api::value::shape::check_key;
use consul_cli::print::{PROGRAM, counted, inert, print, print_json, say, table};
use consul_migrate::etcd::Range;
use consul_migrate::job::{self, Instance, Job, Keys, Phase, Record, source};
use consul_migrate::mapping::{Mapping, Op};
use consul_migrate::snapshot::survey::{Kept, Survey, survey};
use consul_migrate::verify::Found;
use consul_migrate::{
    LIFTED, Left, Report, Run, Stop, Until, alarm_of_others, alarm_refused, lift_left_of, load,
    nothing, restart, roles_refused, tail, taken_late, verify,
};
use futures_util::future::{Either, select};
use serde_json::{Value, json};
use std::cell::Cell;
use std::fmt::Display;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The keys that are named for each problem, and the differences, when people read them.
pub const SHOWN: usize = 20;

/// With more differences a comparison ends, and the first are looked at again.
const MAX_DIFFERENCES: usize = 10_000;
const LOOKED_AT: usize = 200;

/// For how long the result of a verb waits until the job is let go.
const RELEASED_WITHIN: Duration = Duration::from_secs(1);

/// A job's mark is below this, which each language has exactly; the flags of `etcd_ffi` are above it.
const MARKS: u64 = 1 << 48;

impl Verb {
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Plan => "plan",
            Verb::Copy(_) => "copy",
            Verb::Tail(_) => "tail",
            Verb::Verify => "verify",
            Verb::Cutover(_) => "cutover",
            Verb::Rollback(_) => "rollback",
            Verb::Finish(_) => "finish",
            Verb::Export(_) => "export",
            Verb::Import(_) => "import",
            Verb::Status => "status",
            Verb::Report { .. } => "report",
            Verb::Completion { .. } => "completion",
        }
    }
}

/// The result of a verb: as text, as JSON, and whether it is well.
pub struct Done {
    /// Empty if standard output has something else.
    pub text: String,
    pub json: Value,
    pub is_well: bool,
}

pub async fn run(
    session: &Session,
    line: &CommandLine,
    report: &ReportFile,
) -> Result<(), Failure> {
    let done = match &line.verb {
        Verb::Plan => plan(session, &line.job.name).await?,
        Verb::Copy(it) => copy(session, &line.job.name, it).await?,
        Verb::Tail(it) => follow(session, &line.job.name, it).await?,
        Verb::Verify => compare(session, &line.job.name).await?,
        Verb::Cutover(it) => switch::cutover(session, line, it, report).await?,
        Verb::Rollback(it) => switch::rollback(session, &line.job.name, it).await?,
        Verb::Finish(it) => end::finish(session, &line.job.name, it).await?,
        Verb::Export(it) => lines::export(session, it).await?,
        Verb::Import(it) => lines::import(session, it).await?,
        Verb::Status => status(session, &line.job.name).await?,
        Verb::Report { .. } | Verb::Completion { .. } => return Ok(()),
    };
    session.progress.end();
    let Done { text, json, is_well } = done;
    let json = match line.json || line.report.is_some() {
        true => document(session, line, json).await,
        false => json,
    };
    match line.json {
        _ if text.is_empty() => {}
        true => print_json(&json),
        false => print(&inert(text.trim_end())),
    }
    let written = report.write(&json);
    if let Err(why) = &written {
        say(&format!("{PROGRAM}: {why}; the verb has done what it says above"));
    }
    if is_well && written.is_ok() { Ok(()) } else { Err(Failure::NotWell) }
}

/// Some lines of a list, and how many more there are.
pub fn listed<L: Display>(
    lines: impl IntoIterator<Item = L>,
    count: usize,
    where_all: &str,
) -> String {
    let mut text = String::new();
    lines.into_iter().take(SHOWN).for_each(|line| text += &format!("  {line}\n"));
    match count.checked_sub(SHOWN) {
        None | Some(0) => text,
        Some(more) => text + &format!("  and {more} more ({where_all})\n"),
    }
}

async fn plan(session: &Session, name: &str) -> Result<Done, Failure> {
    let begun = Instant::now();
    let record = job::record(&session.target, &Keys::new(name)).await?.map(|(record, _)| record);
    let asked = planned(&session.mapping, record.as_ref());
    let found = look(session, &asked).await?;
    let mapping = found.completed(&asked);
    let refused = found.refused(&mapping);
    let existing = existing(session, &mapping).await?;
    let other = match &record {
        Some(record) => match check_plan(session, name, record).await {
            Ok(()) => None,
            Err(Stop::Refused(why)) => Some(why),
            Err(stop) => return Err(stop.into()),
        },
        None => None,
    };
    let mut text = format!(
        "{} of {} in etcd at revision {}, the largest value {} bytes\n{}\n",
        counted(found.keys as usize, "key"),
        bytes(found.bytes),
        found.revision,
        found.largest_value,
        found.tally
    );
    if found.by_put > 0 {
        text += &format!(
            "{} above 380,000 bytes, which take a PUT each\n",
            counted(found.by_put as usize, "value")
        );
    }
    if let Some(key) = &found.beside {
        let prefix = String::from_utf8_lossy(&mapping.etcd_prefix);
        text += &format!(
            "--etcd-prefix {prefix:?} does not end with a slash, and has other keys too, such as {key}\n"
        );
    }
    let seconds = begun.elapsed().as_secs_f64();
    text += &format!(
        "etcd was read in {seconds:.1} s; writing to Consul takes about as long, or longer on slow disks\n"
    );
    text += &problems(&found, &mapping);
    if let Some(key) = &existing
        && record.is_none()
    {
        text += &format!(
            "Consul has keys in their place already, such as {key:?}: --replace deletes those that etcd does not have\n"
        );
    }
    let not_writable = not_writable(session, name, &mapping, &found).await?;
    let nothing = nothing(&session.etcd, &mapping).await?;
    let alarm = alarm_refused(&session.etcd, &mapping.etcd_prefix, false)
        .await?
        .map(|stop| stop.to_string());
    let roles = roles_refused(&session.etcd, &mapping.etcd_prefix).await?;
    let cutover =
        alarm_of_others(&session.etcd, &session.target, &Keys::new(name), record.as_ref())
            .await?
            .map(|why| format!("a cut-over would be refused: {why}"));
    for why in [&other, &not_writable, &nothing, &alarm, &roles, &cutover].into_iter().flatten() {
        text += &format!("{why}\n");
    }
    let is_well = refused.is_empty()
        && nothing.is_none()
        && not_writable.is_none()
        && (existing.is_none() || record.is_some())
        && other.is_none();
    let is_copied = record.is_some_and(|record| is_copied(&record));
    text += match is_well {
        true if is_copied => "the snapshot is copied already: go on with tail",
        true => "nothing is in the way of a copy",
        false if nothing.is_some() => "a cut-over would be refused",
        false => "a copy would be refused",
    };
    let json = json!({
        "verb": "plan", "keys": found.tally, "revision": found.revision, "survey": found, "refused": refused,
        "existing": existing, "other": other, "nothing": nothing, "alarm_refused": alarm, "roles_refused": roles,
        "cutover_refused": cutover,
        "not_writable": not_writable, "seconds": seconds, "ready": is_well,
    });
    Ok(Done { text, json, is_well })
}

/// The mapping of a job that has begun, with the choices that are given now.
fn planned(asked: &Mapping, record: Option<&Record>) -> Mapping {
    let is_same = |record: &&Record| {
        let begun = &record.mapping;
        asked.etcd_prefix == begun.etcd_prefix && asked.consul_prefix == begun.consul_prefix
    };
    let Some(record) = record.filter(is_same) else { return asked.clone() };
    let mut mapping = record.mapping.clone();
    mapping.on.extend(&asked.on);
    mapping
}

/// Which key the token may not write.
async fn not_writable(
    session: &Session,
    job: &str,
    mapping: &Mapping,
    found: &Survey,
) -> Result<Option<String>, Failure> {
    let (target, place) = (&session.target, mapping.plain_prefix());
    let record = Keys::new(job).record;
    let of_key =
        |key: &str| format!("the token may not write {key:?} in Consul: a copy ends with status 5");
    if !target.may_write_all(&record).await? {
        return Ok(Some(of_key(&record)));
    }
    if found.tally.moved == 0 || target.may_write_all(&place).await? {
        return Ok(None);
    }
    // A right for some keys, or for what begins with more than the prefix, is enough if it is for all that are moved.
    let ops = found.kept.kvs.iter().flat_map(|kv| mapping.load(kv)).collect::<Vec<_>>();
    let keys: Vec<&str> = ops.iter().map(Op::key).collect();
    match target.not_writable(&keys).await? {
        Some(key) => Ok(Some(of_key(key))),
        None if !keys.is_empty() => Ok(None),
        None => Ok(Some(format!(
            "the token may not write all keys of Consul that begin with {place:?}, and these are too many to ask for each: a \
             copy may end with status 5"
        ))),
    }
}

/// Refuses what a copy would refuse of a job.
async fn check_plan(session: &Session, name: &str, record: &Record) -> Result<(), Stop> {
    check_begun(session, name, record).await?;
    record.refuse_finishing()?;
    source::check_revision(&session.etcd, record).await
}

fn is_copied(record: &Record) -> bool {
    matches!(record.phase, Phase::Tail | Phase::Switched)
}

async fn look(session: &Session, mapping: &Mapping) -> Result<Survey, Failure> {
    let Session { etcd, target, pace, progress, .. } = session;
    Ok(survey(etcd, target, mapping, *pace, &**progress).await?)
}

/// A key that Consul has in the place of the copy.
pub async fn existing(session: &Session, mapping: &Mapping) -> Result<Option<String>, Failure> {
    let names = session.target.keys(&mapping.plain_prefix(), Some("/")).await?;
    Ok(names.into_iter().find(|name| !mapping.is_own(name)))
}

fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} bytes"),
        10_000..10_000_000 => format!("{} kB", count / 1000),
        _ => format!("{} MB", count / 1_000_000),
    }
}

fn problems(found: &Survey, mapping: &Mapping) -> String {
    if found.problems.is_empty() {
        return String::new();
    }
    let rows = found.problems.iter().map(|(problem, affected)| {
        let chosen = mapping.choice(*problem).to_string();
        vec![
            problem.name().to_owned(),
            affected.count.to_string(),
            chosen,
            problem.meaning().to_owned(),
        ]
    });
    let mut text = format!("\n{}\n", table(&["KIND", "KEYS", "CHOICE", "MEANING"], &[1], rows));
    for (problem, affected) in &found.problems {
        text += &format!("\n{problem}:\n");
        text += &listed(&affected.keys, affected.count as usize, "--json names 1000");
    }
    text + "\n"
}

async fn copy(session: &Session, name: &str, asked: &Copy) -> Result<Done, Failure> {
    switch::require_consent(asked.yes || !asked.replace)?;
    let begun = Instant::now();
    let mut kept = Kept::default();
    let job = match open(session, name, &asked.hold).await? {
        Some(job) => job,
        None => {
            let new;
            (new, kept) = begin(session, name, asked).await?;
            create(session, name, &asked.hold, Some(new)).await?
        }
    };
    let run = of(session, job);
    let before = run.job.record();
    let is_copied = is_copied(&before);
    if is_copied && !asked.again {
        let checked = source::check_revision(run.etcd, &before).await;
        run.job.release().await;
        checked?;
        return Err(Stop::Refused(
            "the snapshot is copied already: go on with tail, or use --again for a new snapshot"
                .to_owned(),
        )
        .into());
    }
    held(session, &run, async || {
        if asked.again && asked.replace {
            agree_to_replace(session, &before.mapping, asked).await?;
            run.job.replace_all().await?;
        }
        if asked.again && (is_copied || source::check_revision(run.etcd, &before).await.is_err()) {
            restart(&run, "--again").await?;
        }
        load(&run, kept).await
    })
    .await?;
    let record = run.job.record();
    let keys = record.tally.unwrap_or_default();
    let seconds = begun.elapsed().as_secs_f64();
    let mut text = format!(
        "copied {} of revision {} in {seconds:.1} s; `tail` applies what has changed since\n{keys}",
        counted(keys.moved as usize, "key"),
        record.snapshot
    );
    if let Some(why) = nothing(&session.etcd, &record.mapping).await? {
        text += &format!("\n{why}");
    }
    let json =
        json!({ "verb": "copy", "keys": keys, "revision": record.snapshot, "seconds": seconds });
    Ok(Done { text, json, is_well: true })
}

/// Tells how many keys `--replace` deletes, and asks if there are any.
async fn agree_to_replace(session: &Session, mapping: &Mapping, asked: &Copy) -> Result<(), Stop> {
    refuse_to_delete_all(session, mapping).await?;
    let (etcd, target) = (&session.etcd, &session.target);
    let (_, revision) = etcd.count(&Range::prefix(&mapping.etcd_prefix), 0).await?;
    let (mut count, mut first) = (0, None);
    let found = async |difference: verify::Difference| {
        if difference.what == verify::What::Extra {
            check_key(&difference.key).map_err(|_| not_deleted(&difference.key))?;
            count += 1;
            first.get_or_insert(difference.key);
        }
        Ok(())
    };
    verify::extras(etcd, target, mapping, revision, session.pace, found).await?;
    let Some(first) = first else { return Ok(()) };
    let keys = counted(count, "key");
    let text =
        format!("--replace deletes {keys} of Consul that etcd does not have, such as {first:?}.");
    switch::agree(session, &text, asked.yes).await
}

/// A key that the client sends in no request.
fn not_deleted(key: &str) -> Stop {
    Stop::Refused(format!(
        "nothing was written: no request of ours deletes the key {key:?} of Consul; delete it by a transaction, a PUT to /v1/txn \
         with [{{\"KV\":{{\"Verb\":\"delete\",\"Key\":{key:?}}}}}]"
    ))
}

/// Refuses to replace all keys of Consul by none.
async fn refuse_to_delete_all(session: &Session, mapping: &Mapping) -> Result<(), Stop> {
    let names = session.target.keys(&mapping.plain_prefix(), Some("/")).await?;
    let Some(key) = names.iter().find(|name| !mapping.is_own(name)) else { return Ok(()) };
    match nothing(&session.etcd, mapping).await? {
        Some(why) => Err(Stop::Refused(format!(
            "nothing was written: --replace would delete all keys of Consul in their place, such as {key:?}, and {why}"
        ))),
        None => Ok(()),
    }
}

/// The record of a new job, if nothing is in its way, and what was kept of its snapshot.
async fn begin(session: &Session, name: &str, asked: &Copy) -> Result<(Record, Kept), Failure> {
    job::refuse_switched(&session.target, &Keys::new(name), &session.mapping).await?;
    let found = look(session, &session.mapping).await?;
    let mapping = Mapping { mark: fastrand::u64(1..MARKS), ..found.completed(&session.mapping) };
    let refused = found.refused(&mapping);
    if let Some(problem) = refused.first() {
        let affected = &found.problems[problem];
        let all: Vec<&str> = refused.iter().map(|problem| problem.name()).collect();
        return Err(Stop::Refused(format!(
            "nothing was written: Consul does not take some keys as they are ({}), such as {}; `plan` lists them, \
             and --on KIND=skip or KIND=encode goes on",
            all.join(", "),
            affected.keys.first().map_or("", String::as_str)
        ))
        .into());
    }
    if let (Some(key), false) = (existing(session, &mapping).await?, asked.replace) {
        // They belong to an instance that has begun the job since the look of this one.
        if let Some((instance, _)) = job::holder(&session.target, &Keys::new(name)).await? {
            return Err(Stop::Held(instance.shown()).into());
        }
        return Err(Stop::Refused(format!(
            "nothing was written: Consul has keys in their place already, such as {key:?}; use --consul-prefix, or \
             --replace, which deletes those that etcd does not have"
        ))
        .into());
    }
    if asked.replace {
        agree_to_replace(session, &mapping, asked).await?;
    }
    let record = Record::new(found.cluster_id, mapping, found.revision, asked.replace);
    Ok((record, found.kept))
}

async fn follow(session: &Session, name: &str, asked: &Hold) -> Result<Done, Failure> {
    let Some(job) = open(session, name, asked).await? else { return Err(without(name)) };
    let run = of(session, job);
    if session.is_patient {
        session.etcd.wait_without_end();
        session.target.wait_without_end();
    }
    let until = Until::Dropped;
    held(session, &run, async || tail(&run, &until).await).await?;
    let json = json!({ "verb": "tail", "revision": run.job.record().revision });
    Ok(Done { text: "the tail has ended".to_owned(), json, is_well: true })
}

pub fn without(name: &str) -> Failure {
    Stop::Refused(format!("there is no job {name:?} in Consul: begin it with copy")).into()
}

/// Holds a job that exists, of this cluster of etcd.
pub async fn open<'s>(
    session: &'s Session,
    name: &str,
    hold: &Hold,
) -> Result<Option<Job<'s>>, Failure> {
    open_if(session, name, hold, async |record| record.refuse_finishing()).await
}

/// The same, if its record is not refused.
pub async fn open_if<'s>(
    session: &'s Session,
    name: &str,
    hold: &Hold,
    may: impl AsyncFnOnce(&Record) -> Result<(), Stop>,
) -> Result<Option<Job<'s>>, Failure> {
    let Some((record, _)) = job::record(&session.target, &Keys::new(name)).await? else {
        return Ok(None);
    };
    check_begun(session, name, &record).await?;
    // A refusal that can be known before replaces no instance.
    let record = record.choosing(&session.mapping.on)?;
    may(&record).await?;
    let job = create(session, name, hold, None).await?;
    if lift_left_of(&session.etcd, &job).await? {
        session.progress.note(LIFTED);
    }
    if let Some(why) = taken_late(&session.etcd, &session.target, &job.record(), &job.keys).await? {
        session.progress.note(&why.to_string());
    }
    Ok(Some(job))
}

async fn create<'s>(
    session: &'s Session,
    name: &str,
    hold: &Hold,
    new: Option<Record>,
) -> Result<Job<'s>, Failure> {
    let me = session.me.clone();
    let dead = |instance: &Instance| is_dead(instance, &session.me);
    let job = Job::hold(&session.target, name, me, &dead, hold.take_over, new).await?;
    // Another instance may have begun it meanwhile.
    let checked = match check_begun(session, name, &job.record()).await {
        Ok(()) => job.choose(&session.mapping.on).await,
        refused => refused,
    };
    if checked.is_err() {
        job.release().await;
    }
    checked?;
    Ok(job)
}

/// Holds a job that exists, whatever has become of its etcd.
pub async fn open_without_etcd<'s>(
    session: &'s Session,
    name: &str,
    hold: &Hold,
) -> Result<Option<Job<'s>>, Failure> {
    let Some((record, _)) = job::record(&session.target, &Keys::new(name)).await? else {
        return Ok(None);
    };
    check_prefixes(session, name, &record)?;
    let dead = |instance: &Instance| is_dead(instance, &session.me);
    let me = session.me.clone();
    Ok(Some(Job::hold(&session.target, name, me, &dead, hold.take_over, None).await?))
}

/// Refuses a job that began with another cluster of etcd, or other prefixes.
async fn check_begun(session: &Session, name: &str, record: &Record) -> Result<(), Stop> {
    source::check_cluster(&session.etcd, record).await?;
    check_prefixes(session, name, record)
}

fn check_prefixes(session: &Session, name: &str, record: &Record) -> Result<(), Stop> {
    let (asked, begun) = (&session.mapping, &record.mapping);
    if asked.etcd_prefix == begun.etcd_prefix && asked.consul_prefix == begun.consul_prefix {
        return Ok(());
    }
    let prefixes = |mapping: &Mapping| {
        let etcd = String::from_utf8_lossy(&mapping.etcd_prefix).into_owned();
        format!("--etcd-prefix {etcd:?} and --consul-prefix {:?}", mapping.consul_prefix)
    };
    Err(Stop::Refused(format!(
        "the job {name:?} began with {}, and now it is {}: give those of the beginning, or use another --job",
        prefixes(begun),
        prefixes(asked)
    )))
}

pub fn of<'s>(session: &'s Session, job: Job<'s>) -> Run<'s> {
    let report: Arc<dyn Report> = session.progress.clone();
    Run { etcd: &session.etcd, job, pace: session.pace, report }
}

/// Works while this instance holds the job, and lets it go at the end. Then its result is shown, also if a signal comes.
pub async fn held<R>(
    session: &Session,
    run: &Run<'_>,
    work: impl AsyncFnOnce() -> Result<R, Stop>,
) -> Result<R, Failure> {
    let done = match select(pin!(work()), pin!(run.job.beat())).await {
        Either::Left((done, _)) => done,
        Either::Right((stop, _)) => Err(stop),
    };
    session.has_result.store(true, Ordering::Relaxed);
    // Another instance looks whether this one lives if Consul does not answer.
    let _ = timeout(RELEASED_WITHIN, run.job.release()).await;
    Ok(done?)
}

async fn compare(session: &Session, name: &str) -> Result<Done, Failure> {
    let begun = Instant::now();
    let Some((record, _)) = job::record(&session.target, &Keys::new(name)).await? else {
        return Err(without(name));
    };
    source::check(&session.etcd, &record).await?;
    let mapping = &record.mapping;
    let (etcd, target) = (&session.etcd, &session.target);
    let (total, revision) = etcd.count(&Range::prefix(&mapping.etcd_prefix), 0).await?;
    let compared = Cell::new(0);
    let progress = |done| {
        compared.set(done);
        session.progress.progress("compared", done, Some(total));
    };
    let (most, pace) = (MAX_DIFFERENCES, session.pace);
    let found =
        verify::compare_up_to(most, etcd, target, mapping, revision, pace, progress).await?;
    let found = verify::lasting(LOOKED_AT, etcd, target, mapping, found).await?;
    let Found { tally, digests, differences, is_whole } = found;
    if !is_whole && differences.is_empty() {
        return Err(Stop::Refused(format!(
            "more than {MAX_DIFFERENCES} keys differed, and the first no longer do: `status` says how far the job is; \
             compare again when it is less behind"
        ))
        .into());
    }
    let seconds = begun.elapsed().as_secs_f64();
    let [missing, extra, different] = by_kind(&differences);
    let ended = if is_whole { "" } else { ", and ended there, at least" };
    let mut text = format!(
        "compared {} in {seconds:.1} s{ended}: {missing} missing, {extra} extra, {different} different\n",
        counted(if is_whole { tally.moved } else { compared.get() } as usize, "key")
    );
    text += &listed(&differences, differences.len(), "--json names all");
    if is_whole {
        text += &format!("{tally}\n");
    }
    let is_all_placed = tally.refused.is_empty();
    if !is_all_placed {
        text += "some keys of etcd are in Consul neither as they are nor by a choice: `plan` lists them, and --on KIND=skip or \
                 KIND=encode goes on\n";
    }
    if let Some(why) = nothing(etcd, mapping).await? {
        text += &format!("{why}\n");
    }
    let json = json!({
        "verb": "verify", "keys": is_whole.then_some(tally), "revision": revision, "seconds": seconds, "missing": missing,
        "extra": extra, "different": different, "differences": differences, "whole": is_whole, "digests": digests,
    });
    Ok(Done { text, json, is_well: differences.is_empty() && is_all_placed })
}

/// How many keys are missing, extra and different.
pub fn by_kind(differences: &[verify::Difference]) -> [usize; 3] {
    [verify::What::Missing, verify::What::Extra, verify::What::Different]
        .map(|what| differences.iter().filter(|it| it.what == what).count())
}

async fn status(session: &Session, name: &str) -> Result<Done, Failure> {
    let keys = Keys::new(name);
    let Some((mut record, _)) = job::record(&session.target, &keys).await? else {
        return Err(switch::with_lost(session, &keys, without(name)).await);
    };
    let holder = job::holder(&session.target, &keys).await?.map(|(instance, _)| instance);
    source::check_cluster(&session.etcd, &record).await?;
    let etcd = session.etcd.status(&Range::prefix(&record.mapping.etcd_prefix).start).await?;
    let version = session.etcd.version().await;
    let freeze = loop {
        let freeze = switch::freeze_left(session, &keys, &record).await?;
        let Some((now, _)) = job::record(&session.target, &keys).await? else {
            return Err(without(name));
        };
        let was_switched = record.phase == Phase::Switched;
        record = now;
        // An instance may have cut over, or gone back, during the look.
        if was_switched == (record.phase == Phase::Switched) {
            break freeze;
        }
    };
    let late = taken_late(&session.etcd, &session.target, &record, &keys).await?;
    let is_forgotten =
        [Some(&freeze), late.as_ref()].into_iter().any(|it| matches!(it, Some(Left::Forgotten(_))));
    let truth = switch::truth(session, &keys, &record, is_forgotten).await?;
    let restored = match source::check_revision(&session.etcd, &record).await {
        Ok(()) => source::restored(&session.etcd, &record, &keys).await?,
        Err(Stop::Refused(why)) => Some(why),
        Err(stop) => return Err(stop.into()),
    };
    let applied = record.revision - u64::from(record.offset == 0);
    let behind = match record.phase {
        Phase::Tail => etcd.revision.saturating_sub(applied),
        _ => 0,
    };
    let state = match record.phase {
        Phase::Load => {
            let range = Range::prefix(&record.mapping.etcd_prefix);
            let total = session.etcd.count(&range, record.snapshot).await;
            let of = total.map_or(String::new(), |(total, _)| format!(", of {total} keys"));
            format!("the snapshot of revision {}{of} is being copied", record.snapshot)
        }
        Phase::Sweep => format!(
            "the snapshot of revision {} is copied, extra keys are being deleted",
            record.snapshot
        ),
        Phase::Tail => format!("all changes before revision {} are applied", applied + 1),
        Phase::Switched => "cut over: programs use Consul".to_owned(),
    };
    let seen = match (&record.tally, record.phase) {
        (None, _) => String::new(),
        (Some(tally), Phase::Load) => format!("so far {tally}\n"),
        (Some(tally), Phase::Switched) => format!("at the cut-over: {tally}\n"),
        (Some(tally), _) => format!("at revision {}: {tally}\n", record.snapshot),
    };
    let lag = match record.phase {
        Phase::Tail => format!(", {} ahead", counted(behind as usize, "revision")),
        _ => String::new(),
    };
    let held = match &holder {
        Some(instance) if is_dead(instance, &session.me) => {
            format!("{} held it and has ended", instance.shown())
        }
        Some(instance) => format!("{} holds it", instance.shown()),
        None => "no instance holds it".to_owned(),
    };
    let freeze = match late {
        None => freeze.to_string(),
        Some(late) if freeze == Left::Unfrozen => late.to_string(),
        Some(late) => format!("{freeze}\n{late}"),
    };
    let gone_back = restored.as_ref().map_or(String::new(), |why| format!("{why}\n"));
    let text = format!(
        "job {name}: {state}\n{seen}etcd {} is at revision {}{lag}\n{held}\n{freeze}\n{gone_back}{}",
        version.as_deref().unwrap_or("of an unknown version"),
        etcd.revision,
        truth.1
    );
    let json = json!({
        "verb": "status", "keys": record.tally, "revision": applied, "behind": behind, "record": record, "holder": holder,
        "freeze": freeze, "truth": truth.0, "restored": restored,
        "etcd": { "version": version, "revision": etcd.revision, "cluster_id": etcd.cluster_id },
    });
    Ok(Done { text, json, is_well: restored.is_none() })
}
