//! The way back: etcd gets the state that Consul has now.

use super::etcd::{Change, Etcd, KeyValue, Range};
use super::job::{Phase, Record};
use super::mapping::{Choice, Form, Mapping, Place, Problem, part_of};
use super::target::Target;
use super::verify::{self, Difference};
use super::{Run, Stop};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use std::collections::BTreeSet;

/// The changes that are made together.
const AT_ONCE: usize = 64;

/// The requests at once.
const IN_FLIGHT: usize = 8;

/// The keys that are named.
const NAMED: usize = 1000;

/// While etcd changes, further rounds are necessary.
const ROUNDS: usize = 5;

/// What has been changed in etcd, or would be.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RolledBack {
    pub set: u64,
    pub deleted: u64,
    /// The keys of Consul that stay as they are: a session holds them, or etcd's key has a lease.
    pub left: u64,
    /// The first keys that are changed, as text.
    pub keys: Vec<String>,
    /// The keys of Consul that no key of etcd has as its place.
    pub without_source: Vec<String>,
}

/// What becomes of a difference.
enum Way {
    /// etcd is as Consul already.
    Nothing,
    Change(Change),
    Left,
    WithoutSource(String),
}

/// Makes etcd as Consul, or tells with `is_dry` what that would change.
///
/// # Errors
/// See [`Stop`].
pub async fn roll_back(run: &Run<'_>, is_dry: bool) -> Result<RolledBack, Stop> {
    let record = run.job.record();
    if record.phase != Phase::Switched {
        return Err(Stop::Refused(
            "the job is not cut over: etcd has what programs have written, and there is no way back to go"
                .to_owned(),
        ));
    }
    if !is_dry {
        run.etcd.lift_alarms(&record.alarms).await?;
    }
    let mut done = RolledBack::default();
    for _ in 0..ROUNDS {
        let revision = match round(run, &record.mapping, is_dry, &mut done).await {
            Err(Stop::Compacted) => continue,
            round => round?,
        };
        if is_dry {
            return Ok(done);
        }
        if let Some(revision) = revision {
            let (phase, revision) = (Phase::Tail, revision + 1);
            let back = Record { phase, revision, offset: 0, switched_at: None, ..record };
            run.job.save(back, &[]).await?;
            return Ok(done);
        }
    }
    Err(Stop::Refused("etcd changes all the time: stop its writers first".to_owned()))
}

/// Compares both sides and changes what differs; returns the revision if nothing was to be changed.
async fn round(
    run: &Run<'_>,
    mapping: &Mapping,
    is_dry: bool,
    done: &mut RolledBack,
) -> Result<Option<u64>, Stop> {
    let before = done.set + done.deleted;
    (done.left, done.without_source) = (0, Vec::new());
    let (total, revision) = run.etcd.count(&Range::prefix(&mapping.etcd_prefix), 0).await?;
    let mut waiting = Vec::new();
    let found = async |difference, _| {
        waiting.push(difference);
        match waiting.len() < AT_ONCE {
            true => Ok(()),
            false => apply(run, mapping, is_dry, std::mem::take(&mut waiting), done).await,
        }
    };
    let progress = |keys| run.report.progress("compared", keys, Some(total));
    verify::compare(run.etcd, run.job.target, mapping, revision, run.pace, found, progress).await?;
    apply(run, mapping, is_dry, waiting, done).await?;
    Ok((done.set + done.deleted == before).then_some(revision))
}

async fn apply(
    run: &Run<'_>,
    mapping: &Mapping,
    is_dry: bool,
    differences: Vec<Difference>,
    done: &mut RolledBack,
) -> Result<(), Stop> {
    let mut sources = BTreeSet::new();
    for difference in differences {
        match source(run.etcd, mapping, &difference.key).await? {
            Some(source) => _ = sources.insert(source),
            None => done.without_source.push(difference.key),
        }
    }
    let ways = sources.iter().map(|key| way(run.etcd, run.job.target, mapping, key));
    let ways: Vec<Way> = stream::iter(ways).buffered(IN_FLIGHT).try_collect().await?;
    let mut changes = Vec::new();
    for way in ways {
        match way {
            Way::Nothing => {}
            Way::Left => done.left += 1,
            Way::WithoutSource(key) => done.without_source.push(key),
            Way::Change(change) => {
                done.count(&change);
                changes.push(change);
            }
        }
    }
    if !is_dry {
        run.etcd.change(&changes).await?;
    }
    Ok(())
}

impl RolledBack {
    fn count(&mut self, change: &Change) {
        match change.value {
            Some(_) => self.set += 1,
            None => self.deleted += 1,
        }
        if self.keys.len() < NAMED {
            self.keys.push(super::survey::shown(&change.key));
        }
    }
}

/// The key of etcd for a key of Consul: the one that etcd has, or the one of the form that most keys have.
async fn source(etcd: &Etcd, mapping: &Mapping, key: &str) -> Result<Option<Bytes>, Stop> {
    if let Some(part) = key.strip_prefix(&mapping.encoded_prefix()) {
        return Ok(part_of(part).map(|(key, ..)| key.into()));
    }
    let is_place = |source: &Bytes| mapping.place(&empty(source)) == Place::Plain(key.to_owned());
    let mut sources = mapping.sources(key);
    sources.retain(is_place);
    if mapping.form == Some(Form::Bare) {
        sources.reverse();
    }
    for source in &sources {
        if etcd.get(source, 0).await?.is_some() {
            return Ok(Some(source.clone()));
        }
    }
    Ok(sources.into_iter().next())
}

/// An entry of this key, whose place depends on the key alone.
fn empty(key: &Bytes) -> KeyValue {
    let mut kv = KeyValue::default();
    kv.key.0 = key.clone();
    kv
}

/// What is to be changed so that a key of etcd is as Consul has it.
async fn way(etcd: &Etcd, target: &Target, mapping: &Mapping, key: &Bytes) -> Result<Way, Stop> {
    let before = etcd.get(key, 0).await?;
    let is_leased = before.as_ref().is_some_and(|kv| kv.lease.0 != 0);
    if is_leased && mapping.choice(Problem::Leased) != Choice::Encode {
        return Ok(Way::Left);
    }
    let plain = match mapping.place(&empty(key)) {
        Place::Plain(place) => target.get(&place).await?,
        _ => None,
    };
    if plain.as_ref().is_some_and(|stored| stored.is_held) {
        return Ok(Way::Left);
    }
    let value = match plain {
        Some(stored) => Some(stored.value),
        None => match joined(target, &mapping.encoded(key)).await? {
            Ok(value) => value,
            Err(part) => return Ok(Way::WithoutSource(part)),
        },
    };
    let is_same = before.map(|kv| kv.value.0) == value;
    Ok(if is_same { Way::Nothing } else { Way::Change(Change { key: key.clone(), value }) })
}

/// The value whose parts have this prefix; `None` without parts, an error with a part if others are missing.
pub(super) async fn joined(
    target: &Target,
    prefix: &str,
) -> Result<Result<Option<Bytes>, String>, Stop> {
    let names = target.keys(prefix, None).await?;
    let Some(first) = names.first() else { return Ok(Ok(None)) };
    let place = |at: usize| format!("{prefix}{at:04}-{:04}", names.len());
    if names.iter().enumerate().any(|(at, name)| *name != place(at)) {
        return Ok(Err(first.clone()));
    }
    let mut value = BytesMut::new();
    for name in &names {
        match target.get(name).await? {
            Some(stored) => value.extend_from_slice(&stored.value),
            None => return Ok(Err(first.clone())),
        }
    }
    Ok(Ok(Some(value.freeze())))
}
