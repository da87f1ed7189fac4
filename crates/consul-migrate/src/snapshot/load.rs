//! The keys of the snapshot. Transactions of several pages are in flight at once; each can be repeated, and
//! the record names the key before which all are written.

use crate::ahead::ahead;
use crate::etcd::{KeyValue, Page, Pages, Range};
use crate::job::source;
use crate::job::{self, Phase, Record};
use crate::mapping::shown::shown;
use crate::mapping::{Choice, Op, Place, Problem, hex};
use crate::snapshot::nothing::{has_none, nothing};
use crate::snapshot::survey::Kept;
use crate::tally::Tally;
use crate::target::{Room, Stored};
use crate::{Run, Stop, verify};
use bytes::Bytes;
use consul_api::error::Kind;
use consul_api::value::shape::check_key;
use consul_process::clock::Instant;
use consul_process::sync::lock;
use futures_util::stream::{self, TryStreamExt};
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Mutex;
use std::time::Duration;

/// The record does not name longer keys: it would be too large for a transaction.
const LONGEST_NAMED: usize = 4096;

/// How often the record names how far it is.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Writes the snapshot, and deletes what it does not have if Consul may have it. Goes on where an earlier
/// run of the job was ended; with a new snapshot if etcd has compacted the old one. Reads etcd
/// unless `kept` has the snapshot. The record has the number of keys then.
///
/// # Errors
/// See [`Stop`].
pub async fn load(run: &Run<'_>, kept: Kept) -> Result<(), Stop> {
    load_in(run, kept, &mut Rounds::new(true)).await
}

/// The same, in a run that has met compactions before.
pub(crate) async fn load_in(
    run: &Run<'_>,
    mut kept: Kept,
    rounds: &mut Rounds,
) -> Result<(), Stop> {
    source::check(run.etcd, &run.job.record()).await?;
    refuse_switched(run).await?;
    loop {
        let done = match run.job.record().phase {
            Phase::Load => write(run, std::mem::take(&mut kept)).await,
            Phase::Sweep => sweep(run).await,
            Phase::Tail | Phase::Switched => return Ok(()),
        };
        match done {
            Err(Stop::Compacted) => rounds.restart(run).await?,
            done => done?,
        }
    }
}

/// Refuses to follow etcd where programs use Consul since the cut-over of another job.
async fn refuse_switched(run: &Run<'_>) -> Result<(), Stop> {
    let record = run.job.record();
    match record.phase {
        Phase::Switched => Ok(()),
        _ => job::refuse_switched(run.job.target, &run.job.keys, &record.mapping).await,
    }
}

/// The snapshots in a row that may be compacted before all of one, and the changes after it, were read.
pub(crate) const ROUNDS: usize = 5;

/// The cure if etcd compacts faster than a copy is made.
pub(crate) fn too_fast() -> String {
    format!(
        "etcd has compacted {ROUNDS} snapshots in a row before all of one was read: let it keep its revisions for longer than a copy \
         takes (a longer --auto-compaction-retention of etcd, and pause programs that compact it, such as the API server of \
         Kubernetes), or copy less at once with --etcd-prefix, or faster with --in-flight"
    )
}

/// The snapshots in a row that were compacted.
pub(crate) struct Rounds {
    count: usize,
    /// Whether the run ends after too many; a run that goes on names the cure each time.
    ends: bool,
}

impl Rounds {
    pub(crate) fn new(ends: bool) -> Self {
        Rounds { count: 0, ends }
    }

    /// The changes after a snapshot are followed.
    pub(crate) fn forget(&mut self) {
        self.count = 0;
    }

    pub(crate) async fn restart(&mut self, run: &Run<'_>) -> Result<(), Stop> {
        self.count += 1;
        match self.count >= ROUNDS {
            true if self.ends => return Err(Stop::Refused(too_fast())),
            true => run.report.note(&too_fast()),
            false => {}
        }
        restart(run, COMPACTED).await
    }
}

/// Why a run needs a new snapshot.
const COMPACTED: &str = "etcd has compacted what the job was to read next";

/// The same, of changes that etcd tells together in more bytes than are kept in memory.
pub(crate) const TOO_LARGE: &str =
    "etcd tells the next changes in one line of more than 64 MB, which is not read";

/// Begins again with a snapshot of now, and says why.
///
/// # Errors
/// See [`Stop`].
pub async fn restart(run: &Run<'_>, why: &str) -> Result<(), Stop> {
    let record = run.job.record();
    if record.phase == Phase::Switched {
        source::check_switched(run.etcd, &record, &run.job.keys).await?;
        return Err(Stop::Refused(format!(
            "after the cut-over nothing is copied again ({why}): programs may have changed Consul. No further deletion of etcd comes \
             to it; `rollback` or `finish` ends the job"
        )));
    }
    refuse_switched(run).await?;
    refuse_to_lose_all(run, why).await?;
    let all = Range::prefix(&record.mapping.etcd_prefix);
    let revision = run.etcd.revision(&all.start).await?;
    run.report.note(&format!(
        "copying a new snapshot, of revision {revision}, instead of that of revision {}: {why}",
        record.snapshot
    ));
    run.job.next_epoch().await?;
    run.job.save(record.restarted(revision), &[]).await
}

/// Refuses to replace the copy of an etcd that has lost all keys by nothing: it may be the last one.
async fn refuse_to_lose_all(run: &Run<'_>, why: &str) -> Result<(), Stop> {
    let mapping = &run.job.record().mapping;
    let Some(nothing) = nothing(run.etcd, mapping).await? else { return Ok(()) };
    match has_none(run.job.target, mapping).await? {
        true => Ok(()),
        false => Err(Stop::Refused(format!(
            "no new snapshot is copied ({why}), and nothing was changed: {nothing}, and what Consul has may be the last copy. `export` \
             saves it. When etcd has keys again, `copy --again` copies them, and deletes what the job has written beyond that; \
             `finish --without-etcd` ends the job"
        ))),
    }
}

/// Where the pages of the snapshot come from.
enum Snapshot<'a> {
    Kept(VecDeque<Page>),
    Etcd(Pages<'a>),
}

impl Snapshot<'_> {
    /// All keys, in pages of up to `most`.
    fn kept(mut kvs: Vec<KeyValue>, most: u64) -> Self {
        kvs.sort_unstable_by(|one, other| one.key.0.cmp(&other.key.0));
        let (mut kvs, mut pages) = (kvs.into_iter().peekable(), VecDeque::new());
        while kvs.peek().is_some() {
            let page = kvs.by_ref().take(most as usize).collect();
            let next = kvs.peek().map(|kv| kv.key.0.clone());
            pages.push_back(Page { kvs: page, next });
        }
        Snapshot::Kept(pages)
    }

    async fn next(&mut self) -> Result<Option<Page>, Stop> {
        match self {
            Snapshot::Kept(pages) => Ok(pages.pop_front()),
            Snapshot::Etcd(pages) => Ok(pages.next().await?),
        }
    }
}

/// Writes all keys of the snapshot.
async fn write(run: &Run<'_>, kept: Kept) -> Result<(), Stop> {
    let record = run.job.record();
    let (mut pages, total, done);
    let mut before = Tally { etcd: Some(0), ..Tally::default() };
    // Another instance may have begun the job with another snapshot.
    if kept.revision != record.snapshot || kept.kvs.is_empty() {
        let mut range = Range::prefix(&record.mapping.etcd_prefix);
        total = run.etcd.count(&range, record.snapshot).await?.0;
        // A version that did not count the keys has left no number: they are written again.
        if let (Some(key), Some(tally)) =
            (record.loaded.as_deref().and_then(hex::bytes), &record.tally)
        {
            (range.start, before) = (key.into(), tally.clone());
        }
        done = total - run.etcd.count(&range, record.snapshot).await?.0;
        pages = Snapshot::Etcd(Pages::new(run.etcd, range, record.snapshot, run.pace.page));
    } else {
        (total, done) = (kept.kvs.len() as u64, 0);
        pages = Snapshot::kept(kept.kvs, run.pace.page);
    }
    let open = Mutex::default();
    let mut progress =
        Progress { run, total, done, open: &open, before, saved: run.etcd.clock().now() };
    run.report.progress("copied", done, Some(total));
    let mut ready = VecDeque::new();
    let next = async || loop {
        if let Some(batch) = ready.pop_front() {
            return Ok(Some(batch));
        }
        let Some(page) = pages.next().await? else { return Ok(None) };
        run.job.learn(page.kvs.iter().map(|kv| &kv.key.0)).await?;
        let record = run.job.record();
        let tally = Tally::of(&page.kvs, &record.mapping);
        ready.extend(batches(run, &record, page)?);
        if let Some(Batch { done, .. }) = ready.front() {
            let waits = Waits { left: ready.len(), next: done.next.clone(), tally };
            lock(&open).insert(done.first.clone(), waits);
        }
    };
    ahead(next, Batch::size, async |batches| {
        let batches = stream::unfold(batches, |mut batches| async move {
            Some((Ok::<_, Stop>(batches.next().await?), batches))
        });
        let written = batches.map_ok(|batch| async move {
            run.job.apply_all(&batch.ops).await?;
            Ok(batch.done)
        });
        let mut written = pin!(written.try_buffer_unordered(run.pace.in_flight));
        while let Some(done) = written.try_next().await? {
            progress.add(done).await?;
        }
        Ok(())
    })
    .await?;
    let phase = if record.sweeps { Phase::Sweep } else { Phase::Tail };
    let tally = Some(progress.before);
    advance(run, Record { phase, tally, ..run.job.record() }).await
}

/// Goes to the next phase; requests of this phase that are still on their way change nothing any more.
async fn advance(run: &Run<'_>, next: Record) -> Result<(), Stop> {
    run.job.next_epoch().await?;
    run.job.save(Record { loaded: None, ..next }, &[]).await
}

async fn sweep(run: &Run<'_>) -> Result<(), Stop> {
    let record = run.job.record();
    let mut sweep = Sweep { run, record: &record, deleted: 0, kept: 0, first: None };
    let mut waiting = Vec::new();
    let found = async |difference: verify::Difference| {
        let verify::What::Extra = difference.what else { return Ok(()) };
        waiting.push(difference.key);
        match waiting.len() < run.job.target.max_ops {
            true => Ok(()),
            false => sweep.delete(std::mem::take(&mut waiting)).await,
        }
    };
    verify::extras(run.etcd, run.job.target, &record.mapping, record.snapshot, run.pace, found)
        .await?;
    sweep.delete(waiting).await?;
    if let Some(first) = &sweep.first {
        run.report.note(&format!(
            "Consul has {} keys that are neither in etcd nor as the job wrote them, such as {}: they stay, and \
             `verify` names them. Move them, or delete them with `copy --again --replace`",
            sweep.kept,
            shown(first.as_bytes())
        ));
    }
    advance(run, Record { phase: Phase::Tail, ..run.job.record() }).await
}

/// Deletes the keys that the snapshot does not have, but none of others.
struct Sweep<'r, 'a> {
    run: &'r Run<'a>,
    record: &'r Record,
    deleted: u64,
    /// The keys that stay, and the first of them.
    kept: u64,
    first: Option<String>,
}

impl Sweep<'_, '_> {
    async fn delete(&mut self, names: Vec<String>) -> Result<(), Stop> {
        let job = &self.run.job;
        let asked: Vec<&str> = names.iter().map(String::as_str).collect();
        loop {
            let (mut ops, mut kept) = (Vec::new(), Vec::new());
            for (name, stored) in names.iter().zip(job.target.entries(&asked).await?) {
                match stored {
                    Some(stored) if self.is_own(&stored) && check_key(name).is_ok() => {
                        ops.push(Op::DeleteAt { key: name.clone(), index: stored.index });
                    }
                    Some(_) => kept.push(name),
                    None => {}
                }
            }
            match job.apply_all(&ops).await {
                // A program has changed a key meanwhile, which is then its own.
                Err(Stop::Failed(error)) if error.kind() == Kind::TxnFailed => continue,
                applied => applied?,
            }
            self.deleted += ops.len() as u64;
            self.kept += kept.len() as u64;
            self.first = self.first.take().or(kept.first().map(|name| (*name).clone()));
            self.run.report.progress("deleted", self.deleted, None);
            return Ok(());
        }
    }

    /// Whether a key is as the job wrote it, or was there before a job that replaces all.
    fn is_own(&self, stored: &Stored) -> bool {
        let mark = self.record.mapping.mark;
        (mark != 0 && stored.flags == mark) || stored.index <= self.record.replaces
    }
}

/// Operations that are written together, and what is done with them.
struct Batch {
    ops: Vec<Op>,
    done: Done,
}

impl Batch {
    fn size(&self) -> usize {
        self.ops.iter().map(Op::bytes).sum()
    }
}

/// A part of a page.
struct Done {
    /// The first key after the page; `None` after the last one.
    next: Option<Bytes>,
    /// The first key of the page, which orders the pages.
    first: Bytes,
    keys: u64,
}

/// The pages that are not whole yet, or wait for one before.
type Open = Mutex<BTreeMap<Bytes, Waits>>;

struct Waits {
    /// The parts that are left.
    left: usize,
    /// Where the page ends.
    next: Option<Bytes>,
    tally: Tally,
}

/// Refuses what the mapping refuses: a new snapshot may have such keys.
fn batches(run: &Run<'_>, record: &Record, page: Page) -> Result<Vec<Batch>, Stop> {
    let Some(first) = page.kvs.first().map(|kv| kv.key.0.clone()) else { return Ok(Vec::new()) };
    let mut parts: Vec<(Vec<Op>, u64)> = Vec::new();
    let mut room = Room::default();
    for kv in &page.kvs {
        if let Place::Nowhere(problem) = record.mapping.place(kv)
            && record.mapping.choice(problem) == Choice::Refuse
        {
            return Err(refused(problem, kv));
        }
        let ops = match record.sweeps {
            // Consul may have an earlier form of the key.
            true => record.mapping.set(kv),
            false => record.mapping.load(kv),
        };
        let all_fit = |room: &mut Room| ops.iter().all(|op| room.take(op));
        if !all_fit(&mut room) || parts.is_empty() {
            room = run.job.target.room(1);
            all_fit(&mut room);
            parts.push((Vec::new(), 0));
        }
        if let Some((together, keys)) = parts.last_mut() {
            together.extend(ops);
            *keys += 1;
        }
    }
    let batch = |(ops, keys)| {
        let (next, first) = (page.next.clone(), first.clone());
        Batch { ops, done: Done { next, first, keys } }
    };
    Ok(parts.into_iter().map(batch).collect())
}

/// Why a key ends the run that a program has set.
pub(crate) fn refused(problem: Problem, kv: &KeyValue) -> Stop {
    let encode =
        if problem.has_other_form() { format!(" or {problem}=encode") } else { String::new() };
    Stop::Refused(format!(
        "a program has set the key {} in revision {}, and {} (--on {problem}=skip{encode} goes on)",
        shown(&kv.key.0),
        kv.mod_revision.0,
        problem.meaning()
    ))
}

/// How far the load is: the key before which all are written.
struct Progress<'r, 'a> {
    run: &'r Run<'a>,
    total: u64,
    done: u64,
    open: &'r Open,
    /// Of the pages that are written, and all before them.
    before: Tally,
    saved: Instant,
}

impl Progress<'_, '_> {
    /// Counts a part as written; returns the key before which all are, if that is a later one now.
    fn reached(&mut self, done: &Done) -> Option<Bytes> {
        let (mut open, mut reached) = (lock(self.open), None);
        open.entry(done.first.clone()).and_modify(|page| page.left -= 1);
        while let Some(page) = open.first_entry() {
            if page.get().left > 0 {
                break;
            }
            let page = page.remove();
            self.before += page.tally;
            reached = page.next;
        }
        reached
    }

    async fn add(&mut self, done: Done) -> Result<(), Stop> {
        self.done += done.keys;
        self.run.report.progress("copied", self.done, Some(self.total));
        let reached = self.reached(&done);
        let now = self.run.etcd.clock().now();
        if let Some(key) = reached
            && now - self.saved >= SAVE_EVERY
            && key.len() <= LONGEST_NAMED
        {
            self.saved = now;
            let (loaded, tally) = (Some(hex::text(&key)), Some(self.before.clone()));
            self.run.job.save(Record { loaded, tally, ..self.run.job.record() }, &[]).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that goes on begins at the first key of a page, and takes all keys before it for written.
    #[test]
    fn a_snapshot_that_was_kept_has_its_pages_in_the_order_of_etcd() {
        let names = ["/a", "a", "/b", "c", "/d"];
        let kvs = names.map(|name| {
            let mut kv = KeyValue::default();
            kv.key.0 = Bytes::from_static(name.as_bytes());
            kv
        });
        let Snapshot::Kept(pages) = Snapshot::kept(kvs.into(), 2) else { unreachable!() };
        let pages: Vec<_> = pages
            .into_iter()
            .map(|page| (page.kvs.into_iter().map(|kv| kv.key.0).collect::<Vec<_>>(), page.next))
            .collect();
        let page = |keys: &[&'static str], next: Option<&'static str>| {
            let keys = keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
            (keys, next.map(|key| Bytes::from_static(key.as_bytes())))
        };
        let wanted =
            [page(&["/a", "/b"], Some("/d")), page(&["/d", "a"], Some("c")), page(&["c"], None)];
        assert_eq!(pages, wanted);
    }
}
